"""Fixtures of the tests of readers."""

import pytest
from helpers import Watched, close_kept, open_image

from pipeline import storage
from pipeline.readers import isolated


@pytest.fixture(autouse=True)
def close_what_is_open():
    yield
    close_kept()


@pytest.fixture
def own_decoders(monkeypatch):
    """Decoders of a fork server of the test's own, which sees what the test changes before it opens an image."""
    monkeypatch.setattr(isolated, "_fork_server", None)
    monkeypatch.setattr(isolated, "_idle", [])
    yield
    if isolated._fork_server:
        isolated._fork_server.process.kill()
        isolated._fork_server.process.wait()


@pytest.fixture
def watched(monkeypatch):
    """``watched(path, level=0, limit=None)``: (reader, its file)."""

    def open_watched(path, level=0, limit=None):
        files = []
        monkeypatch.setattr(storage, "open_read", lambda uri: files.append(Watched(uri, limit)) or files[-1])
        return open_image(str(path), level), files[0]

    return open_watched
