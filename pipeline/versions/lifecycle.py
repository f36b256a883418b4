"""Versions of a dataset: a folder for each build, a manifest that makes it complete, and one pointer to the latest.

A build works in ``OUT/versions/<name>``, which holds a folder ``work`` until the version is published. Its manifest is
written when everything else is in place: the version is complete. Then ``OUT/LATEST`` is replaced by one with its name:
it is published. Whatever dies before that leaves the published version as it was, and its finished shards to the next
build of the same configuration. All of it happens while holding the lease of the output.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import time
from typing import Any

from pipeline import storage
from pipeline.elements import FORMAT, READABLE
from pipeline.errors import DatasetError
from pipeline.versions.lease import Lease, utc

MANIFEST = "manifest.json"
WORK = "work"
_STARTED = f"{WORK}/build.json"
_PUBLISHED = "published.jsonl"
_TIME = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


def folder_of(out: str, name: str) -> str:
    """Where a version lies."""
    return storage.join(out, "versions", name)


def latest(out: str) -> str | None:
    """Name of the published version; None before the first.

    Raises:
        DatasetError: if the pointer does not hold a name of a version.
    """
    path = storage.join(out, "LATEST")
    if storage.size(path) is None:
        return None
    name = storage.read_bytes(path).decode(errors="replace").strip()
    if not _NAME.fullmatch(name):
        raise DatasetError(f"{path}: {name!r} is no name of a version; write one of {out}/versions into it")
    return name


def read_manifest(folder: str) -> dict[str, Any] | None:
    """The manifest of a version; None if the version is not complete.

    Raises:
        DatasetError: if it is not what was written there.
    """
    path = storage.join(folder, MANIFEST)
    if storage.size(path) is None:
        return None
    try:
        manifest = json.loads(storage.read_bytes(path))
        whole = manifest.get("format") not in READABLE or manifest.get("checksum") == _checksum(manifest)
    except (ValueError, AttributeError):
        whole = False
    if not whole:
        raise DatasetError(
            f"{path}: was changed after it was written, its checksum is another one; restore it, publish another "
            "version (patchbeam versions lists them), or build from nothing with --fresh"
        )
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_format(out: str) -> None:
    """Refuses an output whose published version was made by a newer patchbeam.

    Raises:
        DatasetError: for one that was.
    """
    name = latest(out)
    path = storage.join(folder_of(out, name), MANIFEST) if name else ""
    if not name or storage.size(path) is None:
        return
    written = None
    with contextlib.suppress(ValueError, AttributeError):  # read_manifest complains of that
        written = json.loads(storage.read_bytes(path)).get("format")
    if isinstance(written, int) and written > FORMAT:
        raise DatasetError(
            f"{path}: has format {written}, this patchbeam writes format {FORMAT} and would hide it from its readers; "
            "install a newer one, or choose another output.path"
        )


def begin(out: str, content_digest: str, identity: str) -> tuple[str, bool]:
    """The version to build in: the one that a build of the same configuration left unfinished, else a new one.

    What other builds left unfinished is removed. To be called while holding the lease of the output.

    Args:
        out: the output.
        content_digest: of the configuration.
        identity: digest of the configuration and the images, for the name of a new version.

    Returns:
        (name, whether it is resumed)
    """
    _sweep(out)
    unfinished, names = [], _names(out)
    for name in names:
        folder = folder_of(out, name)
        if is_complete(out, name):
            if storage.size(storage.join(folder, _STARTED)) is not None:
                _delete_below(folder, f"{WORK}/")
        elif _content_digest(folder) == content_digest:
            unfinished.append(name)
        else:
            _delete_below(folder, "")
    if unfinished:
        return max(unfinished), True
    name = f"{_next_time(names)}-{identity[:8]}"
    started = json.dumps({"content_digest": content_digest}).encode()
    storage.write_bytes(storage.join(folder_of(out, name), _STARTED), started)
    return name, False


def _next_time(names: list[str]) -> str:
    """Now, but after the newest version: names sort as the versions follow each other, whatever the clock says."""
    now = datetime.datetime.now(datetime.UTC)
    if names:
        newest = datetime.datetime.strptime(max(names)[:16], _TIME).replace(tzinfo=datetime.UTC)
        now = max(now, newest + datetime.timedelta(seconds=1))
    return now.strftime(_TIME)


def _sweep(out: str) -> None:
    """Removes what writers that were killed left beside the versions."""
    if storage.is_local(out):
        for entry in list(os.scandir(out)) if os.path.isdir(out) else ():
            if entry.name.startswith(".tmp-") and entry.is_file():
                with contextlib.suppress(FileNotFoundError):
                    os.remove(entry.path)


def unfinished(out: str) -> str | None:
    """Name of the newest version that is being built, or was and is not complete; None if there is none."""
    return next((name for name in reversed(_names(out)) if not is_complete(out, name)), None)


def complete_versions(out: str) -> list[str]:
    """Names of the versions that are complete, published or not, from the oldest to the newest."""
    return [name for name in _names(out) if is_complete(out, name)]


def is_complete(out: str, name: str) -> bool:
    """Whether this is a version with a manifest."""
    return bool(_NAME.fullmatch(name)) and storage.size(storage.join(folder_of(out, name), MANIFEST)) is not None


def complete(out: str, name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Makes a version complete: writes its manifest, with its checksum; returns it."""
    manifest = manifest | {"checksum": _checksum(manifest)}
    path = storage.join(folder_of(out, name), MANIFEST)
    storage.write_bytes(path, (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def publish(out: str, name: str, held: Lease, by: str = "build", withdrawn: str | None = None) -> None:
    """Makes a complete version the latest one, and notes in ``published.jsonl`` that it is.

    Args:
        out: the output.
        name: of the version.
        held: the lease of the output.
        by: the command.
        withdrawn: the version that it replaces because something is wrong with that one.

    Raises:
        LeaseLostError: if the lease is lost, or the pointer was moved by somebody else.
    """
    held.publish(name)
    entry = {"version": name, "time": utc(time.time()), "by": by}
    note = json.dumps(entry | ({"withdrawn": withdrawn} if withdrawn else {})) + "\n"
    path = storage.join(out, _PUBLISHED)
    before = storage.read_bytes(path) if storage.size(path) is not None else b""
    storage.write_bytes(path, before + note.encode())
    _delete_below(folder_of(out, name), f"{WORK}/")


def publications(out: str) -> list[dict[str, str]]:
    """What was published, from the first to the last: ``version``, ``time``, ``by`` and perhaps ``withdrawn``."""
    path = storage.join(out, _PUBLISHED)
    lines = storage.read_bytes(path).splitlines() if storage.size(path) is not None else []
    notes = [json.loads(line) for line in lines]
    name = latest(out)
    if name and (not notes or notes[-1]["version"] != name):  # moved by hand, or by a build that was killed right then
        notes.append({"version": name, "time": "", "by": ""})
    return notes


def withdrawn(out: str) -> dict[str, str]:
    """Versions that were taken back and not published again since -> when."""
    found: dict[str, str] = {}
    for note in publications(out):
        found.pop(note["version"], None)
        if "withdrawn" in note:
            found[note["withdrawn"]] = note["time"]
    return found


def keep_only(folder: str, wanted: set[str]) -> None:
    """Removes every file of an unpublished version that is neither ``wanted`` nor below ``work``."""
    for below in storage.files_below(folder):
        if below not in wanted and not below.startswith(f"{WORK}/"):
            storage.delete(storage.join(folder, below))


def _names(out: str) -> list[str]:
    """Names of all versions, complete or not, from the oldest to the newest."""
    return [name for name in storage.folders_in(storage.join(out, "versions")) if _NAME.fullmatch(name)]


def _content_digest(folder: str) -> str | None:
    try:
        return json.loads(storage.read_bytes(storage.join(folder, _STARTED)))["content_digest"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def remove(out: str, name: str) -> None:
    """Removes a version; what dies in the middle leaves it incomplete, and the next build removes the rest."""
    folder = folder_of(out, name)
    storage.delete(storage.join(folder, MANIFEST))
    _delete_below(folder, "")


def _delete_below(folder: str, prefix: str) -> None:
    if storage.is_local(folder):
        path = storage.join(folder, prefix) if prefix else folder
        if os.path.exists(path):
            storage.delete(path)
        return
    for below in storage.files_below(folder):
        if below.startswith(prefix):
            storage.delete(storage.join(folder, below))
