"""The environment of child processes: they see the modules of this process, but never those of the current folder."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def child_environment() -> dict[str, str]:
    """Returns the environment of a child process that runs Python.

    A user's ``pipeline.py`` or ``transforms.py`` in the current folder would hide ours from every interpreter that puts
    this folder first on its path, as Python does to run a module (``-m``) or a command (``-c``).
    """
    return {**os.environ, **_python_path()}


@contextlib.contextmanager
def children_without_current_folder() -> Iterator[None]:
    """Gives the same environment to processes that libraries start in the block, whose arguments are not ours."""
    before = {name: os.environ.get(name) for name in _python_path()}
    os.environ.update(_python_path())
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _python_path() -> Mapping[str, str]:
    here = os.getcwd()
    # The path of this process without the current folder, unless that is ours: a checkout that is not installed.
    kept = [path for path in sys.path if path and (os.path.abspath(path) != here or here == _ROOT)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(kept)}
