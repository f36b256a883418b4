"""``python -m pipeline`` is the command ``patchbeam``."""

from pipeline.cli import run

run()
