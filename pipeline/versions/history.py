"""The versions of an output: what there is, going back, and making room."""

from __future__ import annotations

import datetime
import os
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.elements import FORMAT, READABLE
from pipeline.errors import DatasetError
from pipeline.versions import lifecycle
from pipeline.versions.lease import Lease


class VersionSummary(NamedTuple):
    """A complete version.

    Attributes:
        name: of the version.
        manifest: of it; None if it was changed after it was written, or has another format.
        status: ``published``, ``earlier`` (it was published before), ``withdrawn`` (by a rollback) or ``held back``.
    """

    name: str
    manifest: dict[str, Any] | None
    status: str


def list_versions(out: str) -> list[VersionSummary]:
    """The complete versions, from the oldest to the newest."""
    latest, taken_back = lifecycle.latest(out), lifecycle.withdrawn(out)
    published = {note["version"] for note in lifecycle.publications(out)}
    found = []
    for name in lifecycle.complete_versions(out):
        status = "earlier" if name in published else "held back"
        status = "withdrawn" if name in taken_back else status
        found.append(VersionSummary(name, _manifest(out, name), "published" if name == latest else status))
    return found


def failed_gates(manifest: dict[str, Any] | None) -> str:
    """The gates that a version did not pass, in words; empty where there are none."""
    return ", ".join(gate["gate"] for gate in (manifest or {}).get("gates", ()) if not gate["passed"])


def _manifest(out: str, name: str) -> dict[str, Any] | None:
    try:
        manifest = lifecycle.read_manifest(lifecycle.folder_of(out, name))
    except DatasetError:
        return None
    return manifest if manifest and manifest.get("format") in READABLE else None


def describe_versions(out: str) -> str:
    """A table of the versions: when, images, patches, size, the change to the one before, and what became of it."""
    rows = [("version", "built (UTC)", "images", "patches", "size", "change", "")]
    before = None
    for entry in list_versions(out):
        if not entry.manifest:
            rows.append((entry.name, "", "", "", "", "its manifest cannot be read", entry.status))
            continue
        images, patches, size = _counts(entry.manifest)
        change = f"{images - before[0]:+,} images, {patches - before[1]:+,} patches" if before else ""
        built = entry.manifest["created"].rstrip("Z").replace("T", " ")
        status = f"{entry.status}: {failed}" if (failed := failed_gates(entry.manifest)) else entry.status
        rows.append((entry.name, built, f"{images:,}", f"{patches:,}", _size(size), change, status))
        before = (images, patches)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = {2, 3, 4}
    lines = (
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def _counts(manifest: dict[str, Any]) -> tuple[int, int, int]:
    """Images, patches, bytes of the shards."""
    splits = manifest["splits"].values()
    sums = (sum(split[what] for split in splits) for what in ("patches", "bytes"))
    return manifest["accounts"]["images"], *sums  # type: ignore[return-value]


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"


def require_publishable(out: str, name: str) -> dict[str, Any]:
    """The manifest of a version that can be published.

    Raises:
        DatasetError: if there is no such version, it is not complete, was changed, or is of another format.
    """
    if not lifecycle.is_complete(out, name):
        complete = ", ".join(lifecycle.complete_versions(out)) or "none"
        raise DatasetError(f"{out}: {name} is no complete version; there are {complete}")
    manifest = lifecycle.read_manifest(lifecycle.folder_of(out, name)) or {}
    if (written := manifest.get("format")) not in READABLE:
        raise DatasetError(
            f"{out}: {name} has format {written}, this patchbeam publishes formats {min(READABLE)} to {FORMAT}"
        )
    return manifest


def roll_back(out: str, held: Lease) -> tuple[str, str]:
    """Publishes the version that was published before; the one that is now is noted as withdrawn.

    Returns:
        (the version that is published now, the one that was)

    Raises:
        DatasetError: if there is none.
    """
    latest = lifecycle.latest(out)
    notes = [note["version"] for note in lifecycle.publications(out)]
    taken_back = lifecycle.withdrawn(out)
    before = notes[: len(notes) - 1 - notes[::-1].index(latest)] if latest in notes else []
    good = [name for name in before if name != latest and name not in taken_back and lifecycle.is_complete(out, name)]
    if latest is None or not good:
        raise DatasetError(f"{out}: nothing that is still there was published before {latest or 'the first build'}")
    require_publishable(out, good[-1])
    lifecycle.publish(out, good[-1], held, by="rollback", withdrawn=latest)
    return good[-1], latest


def prunable(out: str, keep: int, keep_days: float) -> list[str]:
    """Versions that are neither published, nor among the newest ``keep``, nor younger than ``keep_days``.

    What is being built is not among them.
    """
    latest, names = lifecycle.latest(out), lifecycle.complete_versions(out)
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=keep_days)
    old = [name for name in names[: max(0, len(names) - keep)] if name[:16] < since.strftime("%Y%m%dT%H%M%SZ")]
    return [name for name in old if name != latest]


def exclusive_bytes(out: str, name: str) -> int:
    """Bytes of a version that no other name of the same files keeps; in a store, where there are none, all of them."""
    folder = lifecycle.folder_of(out, name)
    paths = [storage.join(folder, below) for below in storage.files_below(folder)]
    if storage.is_local(folder):
        return sum(status.st_size for status in map(os.stat, paths) if status.st_nlink == 1)
    return sum(storage.size(path) or 0 for path in paths)
