"""What the processes that we start are given: the modules of this one, but never those of the current folder."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def child_environment() -> dict[str, str]:
    """The environment of a child process that runs Python.

    A ``pipeline.py`` or ``transforms.py`` of the user's own in the current folder hides ours from every interpreter that
    puts this folder first on its path, as those do that run a module (``-m``) or a command (``-c``).
    """
    return {**os.environ, **_python_path()}


@contextlib.contextmanager
def children_without_current_folder() -> Iterator[None]:
    """Gives the processes that libraries start in the block the same; what they are started with is not ours to say."""
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
    # The path of this process, unless it is the current folder; which may be ours, in a checkout that is not installed.
    kept = [path for path in sys.path if path and (os.path.abspath(path) != here or here == _ROOT)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(kept)}
