"""Versions of a dataset: a folder for each build, a manifest that makes it complete, and one pointer to the latest.

A build works in ``OUT/versions/<name>``, which holds a folder ``work`` until the version is published. Its manifest is
written when everything else is in place, then ``OUT/LATEST`` is replaced by one with its name. Whatever dies before
that leaves the published version as it was, and its finished shards to the next build of the same configuration.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from pipeline import storage
from pipeline.config import ConfigError

MANIFEST = "manifest.json"
WORK = "work"
_STARTED = f"{WORK}/build.json"
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


class Busy(RuntimeError):
    """Another build is writing to the same output."""


@contextlib.contextmanager
def exclusively(out: str) -> Iterator[None]:
    """Keeps a second build on this machine out of ``out``; the lock ends with the process, however it ends.

    Object stores have no such lock: there the schedule has to keep two builds of one output apart.

    Raises:
        Busy: if another build has it.
        ConfigError: if the folder cannot be written.
    """
    if not storage.is_local(out):
        yield
        return
    import fcntl

    try:
        os.makedirs(out, exist_ok=True)
        lock = open(os.path.join(out, ".lock"), "a")
    except OSError as error:
        raise ConfigError(f"output.path: {out!r} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Busy(f"another build is writing to {out}; wait for it, or choose another output.path") from error
        yield


def folder_of(out: str, name: str) -> str:
    """Where a version lies."""
    return storage.join(out, "versions", name)


def latest(out: str) -> str | None:
    """Name of the published version; None before the first.

    Raises:
        ConfigError: if the pointer does not hold a name of a version.
    """
    path = storage.join(out, "LATEST")
    if storage.size(path) is None:
        return None
    name = storage.read_bytes(path).decode(errors="replace").strip()
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: {name!r} is no name of a version; write one of {out}/versions into it")
    return name


def read_manifest(folder: str) -> dict[str, Any] | None:
    """The manifest of a version; None if the version is not complete."""
    path = storage.join(folder, MANIFEST)
    return json.loads(storage.read_bytes(path)) if storage.size(path) is not None else None


def begin(out: str, content_digest: str) -> tuple[str, bool]:
    """The version to build in: the one that a build of the same configuration left unfinished, else a new one.

    What other builds left unfinished is removed, and a version that was complete, but whose build died before it moved
    the pointer, is published. To be called while holding :func:`exclusively`.

    Returns:
        (name, whether it is resumed)
    """
    unfinished = []
    for name, files in _versions(out).items():
        folder = folder_of(out, name)
        if MANIFEST not in files:
            if _STARTED in files and _content_digest(folder) == content_digest:
                unfinished.append(name)
            else:
                _delete_below(folder, "")
        elif any(file.startswith(f"{WORK}/") for file in files):
            if name > (latest(out) or ""):
                _point_to(out, name)
            _delete_below(folder, f"{WORK}/")
    if unfinished:
        return max(unfinished), True
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{now}-{content_digest[:8]}"
    started = json.dumps({"content_digest": content_digest}).encode()
    storage.write_bytes(storage.join(folder_of(out, name), _STARTED), started)
    return name, False


def unfinished(out: str) -> str | None:
    """Name of the newest version that is being built, or was and is not complete; None if there is none."""
    return max((name for name, files in _versions(out).items() if MANIFEST not in files), default=None)


def publish(out: str, name: str, manifest: dict[str, Any]) -> None:
    """Makes a version complete and the latest one."""
    folder = folder_of(out, name)
    storage.write_bytes(storage.join(folder, MANIFEST), (json.dumps(manifest, indent=1) + "\n").encode())
    _point_to(out, name)
    _delete_below(folder, f"{WORK}/")


def keep_only(folder: str, wanted: set[str]) -> None:
    """Removes every file of an unpublished version that is neither ``wanted`` nor below ``work``."""
    for below in storage.files_below(folder):
        if below not in wanted and not below.startswith(f"{WORK}/"):
            storage.delete(storage.join(folder, below))


def _point_to(out: str, name: str) -> None:
    storage.write_bytes(storage.join(out, "LATEST"), f"{name}\n".encode())


def _versions(out: str) -> dict[str, set[str]]:
    """Name of each version, complete or not -> its files."""
    found: dict[str, set[str]] = {}
    for path in storage.files_below(storage.join(out, "versions")):
        name, _, below = path.partition("/")
        if _NAME.fullmatch(name):
            found.setdefault(name, set()).add(below)
    return found


def _content_digest(folder: str) -> str | None:
    try:
        return json.loads(storage.read_bytes(storage.join(folder, _STARTED)))["content_digest"]
    except (ValueError, KeyError, TypeError):
        return None


def _delete_below(folder: str, prefix: str) -> None:
    if storage.is_local(folder):
        storage.delete(storage.join(folder, prefix) if prefix else folder)
        return
    for below in storage.files_below(folder):
        if below.startswith(prefix):
            storage.delete(storage.join(folder, below))
