"""The manifest of a version, ``manifest.json``: what it was made of and what it holds. Only this module accesses it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import storage
from pipeline.elements import FORMAT, READABLE
from pipeline.errors import DatasetError, FormatError

MANIFEST = "manifest.json"


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True)


class Inputs(_Facts):
    """The images that a version was built of: how many, and a digest of their identities and fingerprints."""

    images: int
    digest: str


class Accounts(_Facts):
    """The totals of a version: planned = written + filtered + rejected.

    Attributes:
        images, images_rejected: images found, and those of them with a rejection of the whole or of a part.
        planned, written, filtered, rejected: patches.
        filters: score -> patches that were left out because of it.
        reasons: reason code -> rows of ``rejected.jsonl``.
        split_images: split -> images that were planned.
    """

    images: int
    images_rejected: int
    planned: int
    written: int
    filtered: int
    rejected: int
    filters: dict[str, int]
    reasons: dict[str, int]
    split_images: dict[str, int]


class SplitFacts(_Facts):
    """The contents of a split; ``largest_to_mean`` is the patches in its largest shard divided by the mean of all."""

    images: int
    patches: int
    shards: int
    bytes: int
    largest_to_mean: float


class FileFacts(_Facts):
    """Size and checksum of a file."""

    bytes: int
    sha256: str


class Verdict(_Facts):
    """The verdict of a gate on a version.

    Attributes:
        gate: its key below ``gates``.
        passed: whether the version may be published.
        sentence: what was measured and what is allowed.
        measured: what was measured -> the number.
    """

    gate: str
    passed: bool
    sentence: str
    measured: dict[str, float]


class Manifest(_Facts):
    """The origin and the contents of a complete version.

    Attributes:
        format: format of the whole version, see docs/format.md.
        version: its name.
        identity: digest of its images and its configuration.
        content_digest: digest of its configuration.
        created: when its build ended (UTC).
        seconds: duration of the build.
        host: where the build was started.
        software: package -> version.
        config: as JSON values; :class:`pipeline.config.Config` reads it.
        inputs: its images.
        previous: the version that it copied from.
        accounts: its totals.
        splits: split -> its contents.
        counters: counts of the work of its build, see docs/output_format.md.
        files: path below the version -> size and checksum, of all files except those of the shards.
        gates: verdicts of the gates; none before they were asked.
    """

    format: int
    version: str
    identity: str
    content_digest: str
    created: str
    seconds: float
    host: str
    software: dict[str, str]
    config: dict[str, Any]
    inputs: Inputs
    previous: str | None
    accounts: Accounts
    splits: dict[str, SplitFacts]
    counters: dict[str, int]
    files: dict[str, FileFacts]
    gates: tuple[Verdict, ...] = ()

    @property
    def failed_gates(self) -> list[Verdict]:
        """The gates that the version did not pass."""
        return [verdict for verdict in self.gates if not verdict.passed]

    @property
    def shards(self) -> int:
        """Number of shards of all splits."""
        return sum(split.shards for split in self.splits.values())


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Writes the manifest of a version, with a checksum of its content; then the version is complete."""
    content = manifest.model_dump(mode="json")
    text = json.dumps(content | {"checksum": _checksum(content)}, indent=1) + "\n"
    storage.write_bytes(storage.join(folder, MANIFEST), text.encode())


def read_manifest(folder: str) -> Manifest | None:
    """Reads the manifest of a version; None if the version is not complete.

    Raises:
        DatasetError: if it is not what was written there.
        FormatError: if the version has a format that is not read.
    """
    data = storage.read_if_there(storage.join(folder, MANIFEST))
    if data is None:
        return None
    content = _parse(data)
    written = content.get("format")
    if content and written not in READABLE:
        newer = isinstance(written, int) and written > FORMAT
        raise FormatError(
            f"{folder}: has format {written}, this patchbeam reads formats {min(READABLE)} to {FORMAT}; "
            + ("install a newer one" if newer else "build it again")
        )
    with contextlib.suppress(ValidationError):
        if content.pop("checksum", None) == _checksum(content):
            return Manifest.model_validate(content)
    raise DatasetError(
        f"{folder}/{MANIFEST}: was changed after it was written, its checksum is another one; restore it, publish "
        "another version (patchbeam versions lists them), or build from nothing with --fresh"
    )


def format_of(folder: str) -> int | None:
    """Returns the format of a complete version, whichever it is; None where there is none."""
    written = _parse(storage.read_if_there(storage.join(folder, MANIFEST)) or b"").get("format")
    return written if isinstance(written, int) else None


def _parse(data: bytes) -> dict[str, Any]:
    """Returns the content of a manifest; empty where it cannot be understood."""
    with contextlib.suppress(ValueError):
        content = json.loads(data)
        if isinstance(content, dict):
            return content
    return {}


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
