"""``python -m pipeline`` is the command ``patchbeam``."""

from pipeline.cli.main.main import run

run()
