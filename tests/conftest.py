"""What several test files share: a quiet TensorFlow and configurations made by hand."""

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
