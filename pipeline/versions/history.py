"""The versions of an output: listing them, rolling back, and pruning."""

from __future__ import annotations

import contextlib
import datetime
import os
from typing import NamedTuple

from pipeline import storage
from pipeline.errors import DatasetError
from pipeline.versions import lifecycle
from pipeline.versions.lease import Lease
from pipeline.versions.lifecycle import Version
from pipeline.versions.manifest import Manifest


class VersionSummary(NamedTuple):
    """A complete version.

    Attributes:
        version: the version.
        manifest: its manifest; None if it was changed after it was written, or has a format that is not read.
        status: ``published``, ``earlier`` (it was published before), ``withdrawn`` (by a rollback) or ``held back``.
    """

    version: Version
    manifest: Manifest | None
    status: str


def list_versions(output: str) -> list[VersionSummary]:
    """Returns the complete versions, from the oldest to the newest."""
    latest, taken_back = lifecycle.latest(output), lifecycle.withdrawn(output)
    published = {note["version"] for note in lifecycle.publications(output)}
    found = []
    for version in lifecycle.complete_versions(output):
        status = "earlier" if version.name in published else "held back"
        status = "withdrawn" if version.name in taken_back else status
        manifest = None
        with contextlib.suppress(DatasetError):
            manifest = version.manifest
        found.append(VersionSummary(version, manifest, "published" if version == latest else status))
    return found


def require_publishable(version: Version) -> Manifest:
    """Returns the manifest of a version that can be published.

    Raises:
        DatasetError: if there is no such version, it is not complete, was changed, or has a format that is not read.
    """
    if not version.is_complete or not (manifest := version.manifest):
        complete = ", ".join(each.name for each in lifecycle.complete_versions(version.output)) or "none"
        raise DatasetError(f"{version.output}: {version.name} is no complete version; there are {complete}")
    return manifest


def roll_back(output: str, held: Lease) -> tuple[Version, Version]:
    """Publishes the version that was published before, and notes the present one as withdrawn.

    Returns:
        (the version that is published now, the version that was withdrawn)

    Raises:
        DatasetError: if there is no version to go back to.
    """
    latest = lifecycle.latest(output)
    notes = [note["version"] for note in lifecycle.publications(output)]
    taken_back = lifecycle.withdrawn(output)
    before = notes[: len(notes) - 1 - notes[::-1].index(latest.name)] if latest and latest.name in notes else []
    versions = [Version(output, name) for name in before if name not in taken_back]
    good = [version for version in versions if version != latest and version.is_complete]
    if latest is None or not good:
        since = latest.name if latest else "the first build"
        raise DatasetError(f"{output}: nothing that is still there was published before {since}")
    require_publishable(good[-1])
    lifecycle.publish(good[-1], held, by="rollback", withdrawn=latest)
    return good[-1], latest


def prunable(output: str, keep: int, keep_days: float) -> list[Version]:
    """Returns the versions that are neither published, nor among the newest ``keep``, nor younger than ``keep_days``.

    A version that is being built is not among them.
    """
    latest, versions = lifecycle.latest(output), lifecycle.complete_versions(output)
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=keep_days)
    old = [each for each in versions[: max(0, len(versions) - keep)] if each.name[:16] < f"{since:%Y%m%dT%H%M%SZ}"]
    return [version for version in old if version != latest]


def exclusive_bytes(version: Version) -> int:
    """Returns the bytes of files of a version that have no other hard link; in a store, which has no links, of all."""
    paths = [storage.join(version.folder, below) for below in storage.files_below(version.folder)]
    if storage.is_local(version.folder):
        return sum(status.st_size for status in map(os.stat, paths) if status.st_nlink == 1)
    return sum(storage.size(path) or 0 for path in paths)
