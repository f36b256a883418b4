"""The exit code and the message of an error of a command; the list of codes is in ``pipeline.errors``."""

from __future__ import annotations

import errno

import click

from pipeline.errors import Exit


def explain(error: BaseException) -> tuple[Exit, str | None]:
    """Returns the exit code and message of an error; no message if it is a bug, whose traceback is needed."""
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
    """Says whether there was no room to write; Beam turns an error of a worker into text."""
    return getattr(error, "errno", None) == errno.ENOSPC or f"[Errno {errno.ENOSPC}]" in str(error)
