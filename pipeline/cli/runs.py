"""The record of each run: a line in ``OUT/runs.jsonl``, a file of metrics, a command that is notified.

Lines are added to ``runs.jsonl`` under the same condition as a lease, so that runs that end at the same time do not
lose each other's lines. A failure here is a warning: the outcome of a build does not depend on its notifications.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.cli.exits import explain
from pipeline.cli.prometheus import write_metrics
from pipeline.errors import Exit, HeldBackError, TooManyRejectedError
from pipeline.versions.lease import utc
from pipeline.versions.manifest import Manifest

FILE = "runs.jsonl"
_NOTIFY_S = 60.0
_TRIES = 20

_OUTCOMES = {
    Exit.REJECTED: "rejected",
    Exit.HELD: "held",
    Exit.FAILED: "failed",
    Exit.USAGE: "usage",
    Exit.BUSY: "busy",
    Exit.INTERRUPTED: "interrupted",
}


class Run:
    """A run in progress; its attributes are filled in when they become known.

    Attributes:
        output: the folder that it writes to, once the configuration is read.
        manifest: manifest of the version that it made, or found unchanged.
        unchanged: whether that version was published already.
        built: whether this run built it.
    """

    def __init__(self, command: str):
        self.command, self.started = command, time.time()
        self.output = ""
        self.manifest: Manifest | None = None
        self.unchanged, self.built = False, True


class Notify(NamedTuple):
    """The recipients of the outcome of a run, in addition to ``runs.jsonl``.

    Attributes:
        metrics_file: a file for node_exporter's textfile collector.
        notify: a command with its arguments, which gets the line of the run on its standard input.
    """

    metrics_file: str | None = None
    notify: Sequence[str] = ()


@contextlib.contextmanager
def recorded(command: str, notify: Notify) -> Iterator[Run]:
    """Records the block as a run: however the block ends, the run is noted and notified; exceptions pass through.

    Args:
        command: ``build`` or ``retry``.
        notify: the recipients.
    """
    run, error = Run(command), None
    try:
        yield run
    except BaseException as raised:
        error = raised
        raise
    finally:
        _record(describe(run, error), notify)


def describe(run: Run, error: BaseException | None) -> dict[str, Any]:
    """Returns the line of a run.

    Keys: ``command``, ``output``, ``outcome`` (``published``, ``unchanged``, ``held``, ``rejected``, ``failed``,
    ``usage``, ``busy`` or ``interrupted``), ``exit_code``, ``version``, ``reason``, ``started`` and ``ended`` (UTC),
    ``seconds``, ``images``, ``images_rejected``, ``patches`` (by split), ``rejected`` (patches), ``counters`` and
    ``gates``, as in the manifest. Values that are not known are null or empty.
    """
    code, reason = (Exit.DONE, None) if error is None else explain(error)
    manifest, built, ended = run.manifest, run.built, time.time()
    if isinstance(error, HeldBackError):
        manifest, built = error.manifest, error.built
    accounts, counters = (manifest.accounts, manifest.counters) if manifest else (None, {})
    if isinstance(error, TooManyRejectedError):
        accounts, counters = error.accounts, error.counters
    return {
        "command": run.command,
        "output": run.output,
        "outcome": _OUTCOMES.get(code) or ("unchanged" if run.unchanged else "published"),
        "exit_code": int(code),
        "version": manifest.version if manifest else None,
        "reason": reason or (repr(error) if error else None),
        "started": utc(run.started),
        "ended": utc(ended),
        "seconds": round(ended - run.started, 1),
        "images": accounts.images if accounts else None,
        "images_rejected": accounts.images_rejected if accounts else None,
        "patches": {name: split.patches for name, split in manifest.splits.items()} if manifest else {},
        "rejected": accounts.rejected if accounts else None,
        "counters": counters if built else {},
        "gates": [verdict.model_dump() for verdict in manifest.gates] if manifest else [],
    }


def _record(entry: dict[str, Any], notify: Notify) -> None:
    with _warning(f"{FILE} of {entry['output']}"):
        add(entry)
    if notify.metrics_file:
        with _warning(notify.metrics_file):
            write_metrics(notify.metrics_file, entry, last_success(entry["output"]))
    if notify.notify:
        with _warning(f"--notify-command {notify.notify[0]}"):
            _notify(notify.notify, json.dumps(entry))


def _notify(command: Sequence[str], said: str) -> None:
    """Runs a command of the user without a shell; its output goes where warnings go.

    Raises:
        OSError: if it fails. The message does not name the arguments, which may be secret.
    """
    try:
        done = subprocess.run(command, input=said, text=True, timeout=_NOTIFY_S, stdout=2)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise OSError(f"took longer than {_NOTIFY_S:g} s") from None
    if done.returncode:
        raise OSError(f"ended with {done.returncode}")


@contextlib.contextmanager
def _warning(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        print(f"patchbeam: warning: {what}: {error}", file=sys.stderr)


def add(entry: dict[str, Any]) -> None:
    """Adds a line to ``runs.jsonl``; does nothing where no build has written, as in a folder named by mistake.

    Raises:
        OSError: if it cannot be written.
    """
    out = entry["output"]
    path = storage.join(out, FILE)
    if not out or (storage.size(path) is None and not storage.folders_in(storage.join(out, "versions"))):
        return
    for number in range(_TRIES):
        time.sleep(random.random() * number / 50)  # noqa: S311 not all at once again
        found = storage.read_version(path)
        before = found.data if found else b""
        cut = before[-1:] not in (b"", b"\n")  # another program did that: only whole files are written here
        content = before + b"\n" * cut + json.dumps(entry).encode() + b"\n"
        if storage.write_if(path, content, found and found.version):
            return
    raise OSError(f"{path}: others write to it all the time")


def read_runs(out: str) -> list[dict[str, Any]]:
    """Reads the runs that are noted in an output, from the first to the last; damaged lines are left out."""
    found = []
    for line in ((storage.read_if_there(storage.join(out, FILE)) if out else None) or b"").splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def last_success(out: str) -> dict[str, Any] | None:
    """Returns the last run that ended well; None if there was none."""
    return next((run for run in reversed(read_runs(out)) if run["exit_code"] == Exit.DONE), None)
