"""The fixtures that several test files share, and a quiet TensorFlow; what is no fixture is in helpers.py."""

import os

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow

# Machines are shared, so a deadline says nothing; and what CI runs is the same every time.
hypothesis.settings.register_profile("patchbeam", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("patchbeam")


@pytest.fixture(scope="session")
def make_config():
    """``make_config(patch={"size": 64}, seed=1)``: a Config of these sections, with the rest that it needs."""
    from pipeline.config import Config

    def make(input=None, output=None, **sections):
        values = {
            "input": {"images": "images/*"} | (input or {}),
            "output": {"path": "out"} | (output or {}),
            **sections,
        }
        return Config.model_validate(values)

    return make


@pytest.fixture
def no_graphs(monkeypatch):
    """Leaves out the analysis with tf-transform, which takes ten seconds, where a test is not about it."""
    from helpers import leave_out_graphs

    leave_out_graphs(monkeypatch)
