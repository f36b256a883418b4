"""Every exception of patchbeam, and what each means: for a command, for an image, for a request.

::

    CommandError                   a command ends here, with one sentence and an exit code
    ├── UsageError                 64   what was asked for cannot be done; trying again does not help
    │   ├── ConfigError                 a key of the configuration, or an option, or the input that it names
    │   ├── DatasetError                a dataset or version: not there, or edited by hand
    │   │   └── FormatError             a version in a format that is not read
    │   └── ClusterError                no Flink cluster answers
    ├── TooManyRejectedError        2   more images were rejected than ``max_rejected`` allows
    ├── HeldBackError               3   a gate holds a complete version back
    ├── WithdrawnError              3   the version was taken back before
    ├── BusyError                  75   another build has the output
    ├── LeaseLostError             75   another build took the output
    └── JobFailedError              1   a job on a cluster failed
    Unreadable                     an image, or a part of it, cannot be used: becomes a ``Rejected`` with its reason
    StorageError                   the storage did not deliver the bytes of an image
    TransientError                 a request to a store failed, and another try may succeed
    OSError
    └── PreconditionError          the condition of a request to a store does not hold
    ValueError
    └── DamagedRecordError         a record of an earlier shard is not what was written there

The exit codes are a closed list:

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
from typing import Any, Literal

Reason = Literal[
    "empty_file",  # no bytes
    "unknown_format",  # no reader knows the first bytes
    "corrupt_header",  # size, layout or type of the pixels cannot be read
    "corrupt_data",  # the header is fine, but these pixels do not decode
    "unsupported_mode",  # a pixel type, colour space or layout that no reader takes
    "format_mismatch",  # not the channels or the dtype that the configuration asks for
    "too_large",  # cannot be decoded in parts, and not whole within the memory limit
    "too_small",  # smaller than one patch, and edge is not pad
    "raster_mismatch",  # a raster that belongs to it has another size, or other channels or dtype than configured
    "bad_points",  # the points that belong to it cannot be understood
    "bad_regions",  # the polygons that belong to it cannot be understood
    "no_stain",  # too little stained tissue to normalise its colours
    "no_resolution",  # it does not say how large its pixels are
    "no_such_level",  # fewer pyramid levels than asked for
    "no_such_page",  # fewer images in the file than asked for
    "no_such_band",  # fewer channels than asked for
    "missing_extra",  # a reader needs a library that is not installed
    "timeout",  # decoding took longer than a window may take
    "crashed",  # the decoder died
    "no_name",  # the regular expression for label or group does not match
    "io_error",  # the storage did not deliver, or no process to decode can be started
    "changed",  # no longer the image that was planned
]

# Another try may end differently, so a shard that met one of these is never reused.
TRANSIENT: frozenset[str] = frozenset({"io_error", "changed", "missing_extra", "timeout"})


class Exit(enum.IntEnum):
    """The exit codes of every command; there are no others."""

    DONE = 0
    FAILED = 1
    REJECTED = 2
    HELD = 3
    USAGE = 64
    BUSY = 75
    INTERRUPTED = 130


class CommandError(RuntimeError):
    """A command cannot succeed, and its message says all there is to know: no traceback helps.

    Attributes:
        code: how the command ends.
    """

    code = Exit.FAILED


class UsageError(CommandError, ValueError):
    """The request cannot be fulfilled; the message names the thing, the value and the way out."""

    code = Exit.USAGE


class ConfigError(UsageError):
    """A key of the configuration or an option is wrong, or the input that it names."""


class DatasetError(UsageError):
    """A dataset or one of its versions is not there, or is not what was written."""


class FormatError(DatasetError):
    """A version has a format that this patchbeam does not read."""


class ClusterError(UsageError):
    """No Flink cluster answers where one should."""


class TooManyRejectedError(CommandError):
    """More images had rejections than ``max_rejected`` allows, or no patch was written; nothing was published.

    Attributes:
        accounts: the totals of the build, see ``pipeline.versions.manifest.Accounts``.
        counters: of the build.
    """

    code = Exit.REJECTED

    def __init__(self, message: str, accounts: Any = None, counters: dict[str, int] | None = None):
        super().__init__(message)
        self.accounts, self.counters = accounts, counters or {}


class HeldBackError(CommandError):
    """A version is complete, and a gate holds it back.

    Attributes:
        manifest: of the version.
        built: whether this run built it.
    """

    code = Exit.HELD

    def __init__(self, message: str, manifest: Any = None, built: bool = True):
        super().__init__(message)
        self.manifest, self.built = manifest, built


class WithdrawnError(CommandError):
    """The version that a build would publish was taken back before."""

    code = Exit.HELD


class BusyError(CommandError):
    """Another build is writing to the same output."""

    code = Exit.BUSY


class LeaseLostError(CommandError):
    """Another build holds the lease by now, or somebody else changed which version is published."""

    code = Exit.BUSY


class JobFailedError(CommandError):
    """A job on a cluster ended without success; the message says why, and what is kept."""


class Unreadable(Exception):
    """An image or a part of it cannot be used; becomes a :class:`pipeline.elements.Rejected`."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(reason, message)
        self.reason: Reason = reason
        self.message = message


class StorageError(Exception):
    """The storage did not deliver; unlike an OSError, no library takes it for a fault of the file."""


class TransientError(Exception):
    """A request failed, and another try may succeed."""


class PreconditionError(OSError):
    """The condition of a request does not hold."""


class DamagedRecordError(ValueError):
    """A record of an earlier shard is not what was written there."""
