"""Fixtures of the tests of readers."""

import pytest
from helpers import Watched

from pipeline import storage
from pipeline.readers import open_image


@pytest.fixture
def watched(monkeypatch):
    """``watched(path, level=0, limit=None)``: (reader, its file)."""

    def open_watched(path, level=0, limit=None):
        files = []
        monkeypatch.setattr(storage, "open_read", lambda uri: files.append(Watched(uri, limit)) or files[-1])
        return open_image(str(path), level), files[0]

    return open_watched
