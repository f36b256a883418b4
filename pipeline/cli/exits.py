"""Which exit code an error of a command means, and what is said of it; the list stands in ``pipeline.errors``."""

from __future__ import annotations

import errno

import click

from pipeline.errors import Exit


def explain(error: BaseException) -> tuple[Exit, str | None]:
    """The exit code of an error, and what to say; None where it is one of the program, whose traceback is needed."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Exit.INTERRUPTED, "interrupted; finished shards are kept, the same command goes on from there"
    if isinstance(error, click.UsageError):
        return Exit.USAGE, error.format_message()
    if _is_full(error):
        said = f"{error}\nThe disk is full: nothing was published; with more room the same command goes on"
        return Exit.FAILED, said
    code = getattr(error, "code", None)
    return (code, str(error)) if isinstance(code, Exit) else (Exit.FAILED, None)


def _is_full(error: BaseException) -> bool:
    """Whether there was no room to write; Beam makes a text of what happened in a worker."""
    return getattr(error, "errno", None) == errno.ENOSPC or f"[Errno {errno.ENOSPC}]" in str(error)
