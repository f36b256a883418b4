"""The graphs of the normalisation, made by a separate program.

In a separate interpreter the names that TensorFlow counts up and the order of Python's sets are the same each time,
and so are the bytes of the graphs.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from pipeline import storage
from pipeline.child_processes import child_environment
from pipeline.config import Form

Rows = list[dict[str, list[Any]]]
Write = Callable[[str, tuple[int, int], Form, Rows], None]


@contextlib.contextmanager
def graphs_program(ahead: bool) -> Iterator[Write]:
    """Runs ``pipeline.versions.normalization_program``, and ends it with the block.

    Args:
        ahead: whether it starts now. Its imports take ten seconds, which pass while images are cut, and half a
            gigabyte of memory, which a large build does not have to spare.

    Yields:
        A function ``(folder, size, form, rows)`` that is called at most once, with the size and the form of the patches
        and with rows of moments: it writes ``transform_fn``, ``transformed_metadata`` and ``normalize`` below the
        folder of a version. It raises RuntimeError if the analysis fails.
    """
    environment = child_environment() | {
        "PYTHONHASHSEED": "0",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    with tempfile.TemporaryDirectory() as local, tempfile.TemporaryFile("w+") as log:
        program = [sys.executable, "-m", "pipeline.versions.normalization_program", local]
        start = functools.partial(
            subprocess.Popen, program, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, text=True
        )
        process = start() if ahead else None

        def write(folder: str, size: tuple[int, int], form: Form, rows: Rows) -> None:
            nonlocal process
            process = process or start()
            wanted = {"size": size, "channels": form.channels, "dtype": form.dtype}
            process.communicate(json.dumps(wanted | {"rows": rows}))
            if process.returncode:
                log.seek(0)
                raise RuntimeError(f"the analysis with tf-transform failed:\n{log.read()[-4000:]}")
            for below in storage.files_below(local):
                with open(os.path.join(local, below), "rb") as file:
                    storage.write_bytes(storage.join(folder, below), file.read())

        try:
            yield write
        finally:
            if process:
                process.kill()
                process.wait()
