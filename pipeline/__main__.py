"""``python -m pipeline`` is the command ``patchbeam``, as ``python -m patchbeam`` is."""

from pipeline.cli.main import run

run()
