"""How a command ends: the closed list of exit codes, and which of them an error means.

====  ===========  ====================================================================================================
code  name         meaning
====  ===========  ====================================================================================================
0     DONE         published, or nothing changed since
1     FAILED       something broke, the disk is full, or ``verify`` found something; the same command goes on from there
2     REJECTED     too many images were rejected; nothing was published
3     HELD         a version is complete and not published: a gate holds it back, or it was taken back before
64    USAGE        the configuration or the command line is wrong (EX_USAGE of sysexits.h); trying again does not help
75    BUSY         another build has the output, or took it (EX_TEMPFAIL); trying again later helps
130   INTERRUPTED  by Ctrl-C or SIGTERM; the same command goes on from there
====  ===========  ====================================================================================================
"""

from __future__ import annotations

import enum
import errno
from typing import Any

import click


class Exit(enum.IntEnum):
    """The exit codes of every command; there are no others."""

    DONE = 0
    FAILED = 1
    REJECTED = 2
    HELD = 3
    USAGE = 64
    BUSY = 75
    INTERRUPTED = 130


class Ended(RuntimeError):
    """A command cannot end well, and its message says all there is to know: no traceback helps.

    Attributes:
        code: how the command ends.
        manifest: what is known of the version, as in its manifest.
        built: whether this run built it.
    """

    code = Exit.FAILED

    def __init__(self, message: str, manifest: dict[str, Any] | None = None, built: bool = True):
        super().__init__(message)
        self.manifest, self.built = manifest or {}, built


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
