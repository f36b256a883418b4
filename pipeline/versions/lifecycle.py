"""Versions of a dataset: a folder for each build, a manifest that makes it complete, and one pointer to the latest.

A build works in ``OUT/versions/<name>``, which holds a folder ``work`` until the version is published. Its manifest is
written when everything else is in place: then the version is complete. After that ``OUT/LATEST`` is replaced by a file
with its name: the version is published. A build that dies before that leaves the published version as it was, and its
finished shards to the next build of the same configuration. All of this happens while holding the lease of the output.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import time
from typing import NamedTuple

from pipeline import storage
from pipeline.elements import FORMAT
from pipeline.errors import DatasetError, FormatError
from pipeline.versions.lease import Lease, utc
from pipeline.versions.manifest import MANIFEST, Manifest, format_of, read_manifest

WORK = "work"
_STARTED = f"{WORK}/build.json"
_PUBLISHED = "published.jsonl"
_TIME = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


class Version(NamedTuple):
    """A version of an output: complete, being built, or left unfinished.

    Attributes:
        output: the folder of all versions.
        name: the time at which it was begun and a digest; names sort as the versions follow each other.
    """

    output: str
    name: str

    @property
    def folder(self) -> str:
        """The folder of the version."""
        return storage.join(self.output, "versions", self.name)

    @property
    def work(self) -> str:
        """The folder in which the build keeps what it needs until the version is published."""
        return storage.join(self.folder, WORK)

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, read now; None if the version is not complete. Raises what ``read_manifest`` raises."""
        return read_manifest(self.folder)

    @property
    def is_complete(self) -> bool:
        """Says whether the version has a manifest at this moment."""
        return bool(_NAME.fullmatch(self.name)) and storage.size(storage.join(self.folder, MANIFEST)) is not None


def latest(output: str) -> Version | None:
    """Returns the published version; None before the first.

    Raises:
        DatasetError: if the pointer does not hold a name of a version.
    """
    path = storage.join(output, "LATEST")
    data = storage.read_if_there(path)
    if data is None:
        return None
    name = data.decode(errors="replace").strip()
    if not _NAME.fullmatch(name):
        raise DatasetError(f"{path}: {name!r} is no name of a version; write one of {output}/versions into it")
    return Version(output, name)


def check_format(output: str) -> None:
    """Refuses an output whose published version was made by a newer patchbeam.

    Raises:
        FormatError: if it was.
    """
    version = latest(output)
    written = format_of(version.folder) if version else None
    if version and written is not None and written > FORMAT:
        raise FormatError(
            f"{version.folder}/{MANIFEST}: has format {written}, this patchbeam writes format {FORMAT} and would hide "
            "it from its readers; install a newer one, or choose another output.path"
        )


def begin(output: str, content_digest: str, identity: str) -> tuple[Version, bool]:
    """Returns the version to build in: one that a build of the same configuration left unfinished, else a new one.

    Versions that other builds left unfinished are removed. The caller must hold the lease of the output.

    Args:
        output: the folder of all versions.
        content_digest: digest of the configuration.
        identity: digest of the configuration and the images, for the name of a new version.

    Returns:
        (the version, whether it is resumed)
    """
    _sweep(output)
    unfinished, versions = [], _versions(output)
    for version in versions:
        if version.is_complete:
            if storage.size(storage.join(version.folder, _STARTED)) is not None:
                _delete_below(version.folder, f"{WORK}/")
        elif _content_digest(version) == content_digest:
            unfinished.append(version)
        else:
            _delete_below(version.folder, "")
    if unfinished:
        return max(unfinished), True
    version = Version(output, f"{_next_time(versions)}-{identity[:8]}")
    started = json.dumps({"content_digest": content_digest}).encode()
    storage.write_bytes(storage.join(version.folder, _STARTED), started)
    return version, False


def _next_time(versions: list[Version]) -> str:
    """Returns the time, but after the newest version: names sort by age of the versions, whatever the clock says."""
    now = datetime.datetime.now(datetime.UTC)
    if versions:
        newest = datetime.datetime.strptime(max(versions).name[:16], _TIME).replace(tzinfo=datetime.UTC)
        now = max(now, newest + datetime.timedelta(seconds=1))
    return now.strftime(_TIME)


def _sweep(output: str) -> None:
    """Removes temporary files that killed writers left next to the versions."""
    if storage.is_local(output):
        for entry in list(os.scandir(output)) if os.path.isdir(output) else ():
            if entry.name.startswith(".tmp-") and entry.is_file():
                with contextlib.suppress(FileNotFoundError):
                    os.remove(entry.path)


def unfinished(output: str) -> Version | None:
    """Returns the newest version that is being built, or that a build left unfinished; None if there is none."""
    return next((version for version in reversed(_versions(output)) if not version.is_complete), None)


def complete_versions(output: str) -> list[Version]:
    """Returns the versions that are complete, published or not, from the oldest to the newest."""
    return [version for version in _versions(output) if version.is_complete]


def publish(version: Version, held: Lease, by: str = "build", withdrawn: Version | None = None) -> None:
    """Makes a complete version the latest one, and notes in ``published.jsonl`` that it is.

    Args:
        version: the version to publish.
        held: the lease of the output.
        by: name of the command.
        withdrawn: the version that it replaces because something is wrong with that one.

    Raises:
        LeaseLostError: if the lease is lost, or the pointer was moved by somebody else.
    """
    held.publish(version.name)
    entry = {"version": version.name, "time": utc(time.time()), "by": by}
    note = json.dumps(entry | ({"withdrawn": withdrawn.name} if withdrawn else {})) + "\n"
    path = storage.join(version.output, _PUBLISHED)
    storage.write_bytes(path, (storage.read_if_there(path) or b"") + note.encode())
    _delete_below(version.folder, f"{WORK}/")


def publications(output: str) -> list[dict[str, str]]:
    """Returns all publications, from the first to the last: ``version``, ``time``, ``by`` and perhaps ``withdrawn``."""
    lines = (storage.read_if_there(storage.join(output, _PUBLISHED)) or b"").splitlines()
    notes: list[dict[str, str]] = [json.loads(line) for line in lines]
    now = latest(output)
    if now and (not notes or notes[-1]["version"] != now.name):  # moved by hand, or by a build killed right then
        notes.append({"version": now.name, "time": "", "by": ""})
    return notes


def withdrawn(output: str) -> dict[str, str]:
    """Returns name -> time of the versions that were taken back and not published again since."""
    found: dict[str, str] = {}
    for note in publications(output):
        found.pop(note["version"], None)
        if "withdrawn" in note:
            found[note["withdrawn"]] = note["time"]
    return found


def keep_only(version: Version, wanted: set[str]) -> None:
    """Removes every file of an unpublished version that is neither ``wanted`` nor below ``work``."""
    for below in storage.files_below(version.folder):
        if below not in wanted and not below.startswith(f"{WORK}/"):
            storage.delete(storage.join(version.folder, below))


def _versions(output: str) -> list[Version]:
    """Returns all versions, complete or not, from the oldest to the newest."""
    names = storage.folders_in(storage.join(output, "versions"))
    return [Version(output, name) for name in names if _NAME.fullmatch(name)]


def _content_digest(version: Version) -> str | None:
    try:
        digest: str = json.loads(storage.read_bytes(storage.join(version.folder, _STARTED)))["content_digest"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return digest


def remove(version: Version) -> None:
    """Removes a version; if it dies in the middle, the version is incomplete, and the next build removes the rest."""
    storage.delete(storage.join(version.folder, MANIFEST))
    _delete_below(version.folder, "")


def _delete_below(folder: str, prefix: str) -> None:
    if storage.is_local(folder):
        path = storage.join(folder, prefix) if prefix else folder
        if os.path.exists(path):
            storage.delete(path)
        return
    for below in storage.files_below(folder):
        if below.startswith(prefix):
            storage.delete(storage.join(folder, below))
