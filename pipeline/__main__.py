"""``python -m pipeline`` is the command ``patchbeam``."""

from pipeline.cli.main import run

run()
