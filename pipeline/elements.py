"""The elements that flow between the stages, rejections and receipts among them, and the digests of what decides them.

All elements are small immutable values without pixels.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from pipeline.errors import Unreadable as Unreadable  # where plug-ins found it before there was pipeline.errors
from transforms.grid import Box

# The version of the format that a build writes. It enters every plan digest: code that would write other bytes for the
# same plan has to change it, so that finished shards of older code are not reused.
FORMAT = 4
# Formats whose datasets are read, verified and published; docs/format.md says what became of each.
READABLE = frozenset({3, FORMAT})


class ImageRef(NamedTuple):
    """An image that was found.

    Attributes:
        image_id: path below the root of the input, with ``/``; the identity of the image on every machine.
        uri: where it is.
        fingerprint: changes when the file, its mask or its annotations are replaced (size and time of modification).
        label, group, split: as the input manifest gives them; empty where the rules of the configuration decide.
        mask, points, polygons: URIs of these companions of the image; points and polygons also as JSON; may be empty.
        meta: the metadata columns of the input manifest as a JSON object; empty where there are none.
    """

    image_id: str
    uri: str
    fingerprint: str
    label: str = ""
    group: str = ""
    split: str = ""
    mask: str = ""
    points: str = ""
    polygons: str = ""
    meta: str = ""


class ImageInfo(NamedTuple):
    """An image whose header was read; sizes are those of the level that is cut.

    Attributes:
        block_height, block_width: pixels that decode together, the whole image where it has no random access.
        split, label, group: names; ``label`` may be empty.
        mask, points, polygons, meta: as in :class:`ImageRef`.
        facts: what else the header says, as JSON: ``levels``, ``mpp``, ``crs``, ``transform``, ``nodata`` and ``step``
            of :class:`pipeline.readers.Layout`, those that are known. Text, because Beam's coders make lists of tuples.
        previous_split: the split of the same image in the previous version; empty where it was not there.
    """

    image_id: str
    uri: str
    fingerprint: str
    height: int
    width: int
    block_height: int
    block_width: int
    split: str
    label: str
    group: str
    mask: str = ""
    points: str = ""
    polygons: str = ""
    meta: str = ""
    facts: str = ""
    previous_split: str = ""

    def fact(self, name: str) -> Any:
        """Returns one of the facts; None where the file does not say."""
        return json.loads(self.facts).get(name) if self.facts else None

    @property
    def step(self) -> tuple[float, float]:
        """Pixels of full resolution from one pixel to the next, down and across."""
        if step := self.fact("step"):
            return step[0], step[1]
        height, width = (self.fact("levels") or [(self.height, self.width)])[0]
        return height / self.height, width / self.width

    @property
    def pixel_identity(self) -> dict[str, Any]:
        """The values that decide the pixels of the patches, apart from the configuration; not where the files lie.

        Fingerprints stand for the files. Annotations that an input manifest writes out have none, and stand for
        themselves.
        """
        return {
            "image_id": self.image_id,
            "fingerprint": self.fingerprint,
            "size": [self.height, self.width],
            "block": [self.block_height, self.block_width],
            "facts": self.facts,
            "points": self.points if is_json(self.points) else "",
            "polygons": self.polygons if is_json(self.polygons) else "",
        }

    @property
    def names(self) -> dict[str, Any]:
        """The values that every record holds of the image in addition to its pixels."""
        return {"label": self.label, "group": self.group, "meta": self.meta}

    @property
    def names_digest(self) -> bytes:
        """16 bytes that change with :attr:`names`."""
        return digest_of_values("names", self.names)[:16]

    @property
    def is_whole(self) -> bool:
        """Says whether the image can only be decoded whole: where one part is bad, all of it is."""
        return (self.block_height, self.block_width) == (self.height, self.width)


class Region(NamedTuple):
    """A block-aligned rectangle of an image that goes into one shard as a whole.

    ``row, col, height, width`` is the rectangle; its patches are those whose first pixel lies in it.
    """

    image: ImageInfo
    row: int
    col: int
    height: int
    width: int

    @property
    def area(self) -> Box:
        """The rectangle."""
        return Box(*self[1:])

    def pixels_digest(self, pixel_digest: str, records_per_patch: int) -> bytes:
        """Returns 16 bytes; where they are equal, so are the pixels, scores and rejections of the patches.

        Args:
            pixel_digest: of the configuration.
            records_per_patch: more than one where patches are augmented.
        """
        decides = {
            "config": pixel_digest,
            "records_per_patch": records_per_patch,
            "image": self.image.pixel_identity,
            "area": list(self.area),
        }
        return digest_of_values("region", decides)[:16]


class ShardPlan(NamedTuple):
    """Everything that decides the bytes of a shard, apart from the configuration."""

    split: str
    number: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    regions: tuple[Region, ...]

    @property
    def name(self) -> str:
        """The shard's name, ``train-00003-of-00016``."""
        return f"{self.split}-{self.number:05d}-of-{self.count:05d}"

    def digest(self, shard_digest: str) -> str:
        """Returns 64 hexadecimal digits; equal digests mean equal shards. They do not depend on where the images lie.

        Args:
            shard_digest: of the configuration.
        """
        regions = [[r.image.pixel_identity, r.image.names, list(r.area)] for r in self.regions]
        shard = {"split": self.split, "number": self.number, "count": self.count}
        return digest_of_values("shard", {"config": shard_digest, "shard": shard, "regions": regions}).hex()


class Rejected(NamedTuple):
    """A part of the input that did not make it into the dataset.

    Attributes:
        stage: ``inspect`` (whole images) or ``read`` (windows).
        patches: patches that are missing because of it; 0 where the grid is not known.
        row, col, height, width: the pixels of the window that could not be used; -1 for whole images.
    """

    stage: str
    reason: str
    message: str
    image_id: str
    level: int
    row: int = -1
    col: int = -1
    height: int = -1
    width: int = -1
    patches: int = 0


class Previous(NamedTuple):
    """The published version that a build copies from.

    Attributes:
        folder: where it lies.
        shards: split -> number of its shards.
        retry_rejected: whether what it rejected is tried again.
    """

    folder: str
    shards: dict[str, int]
    retry_rejected: bool = False


class ShardResult(NamedTuple):
    """The receipt of a finished shard.

    Attributes:
        plan: digest of the plan that it was written for.
        shard: its name, ``train-00000-of-00004``.
        records, bytes, sha256: of the TFRecord file.
        index_bytes, index_sha256: of its part of the index.
        regions_bytes, regions_sha256: of the table of its regions.
        images: image id -> patches planned, written, filtered, rejected here.
        labels: label -> patches.
        filtered: score -> patches that were left out because of it.
        rejected: what could not be read.
        pixel_statistics: of the pixels written, see ``transforms.pixel_statistics.to_json``.
    """

    plan: str
    shard: str
    records: int
    bytes: int
    sha256: str
    index_bytes: int
    index_sha256: str
    regions_bytes: int
    regions_sha256: str
    images: dict[str, tuple[int, int, int, int]]
    labels: dict[str, int]
    filtered: dict[str, int]
    rejected: tuple[Rejected, ...]
    pixel_statistics: dict[str, str]

    @property
    def split(self) -> str:
        """The split that the shard belongs to."""
        return self.shard.partition("-")[0]

    def to_json(self) -> dict[str, Any]:
        """Returns the receipt as JSON values."""
        return self._asdict() | {"rejected": [row._asdict() for row in self.rejected]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ShardResult:
        """Returns the receipt from JSON values; the inverse of :meth:`to_json`."""
        return cls(**values | {"rejected": tuple(Rejected(**row) for row in values["rejected"])})


def digest_of_values(kind: str, values: Any) -> bytes:
    """Returns 32 bytes that are equal only for equal JSON values of the same kind and format.

    Callers list what decides a dataset under names that do not change: no name of a class or field enters, so that code
    can be renamed, and get fields, without a dataset being cut again. Golden tests pin one digest of each kind.
    """
    tagged = json.dumps([FORMAT, kind, values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(tagged.encode()).digest()


def digest(*parts: Any) -> int:
    """Returns a 64-bit number that depends only on ``parts`` (strings and integers), on every machine and process.

    >>> digest(0, "slides/a.svs", 4096) == digest(0, "slides/a.svs", 4096)
    True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def is_json(annotation: str) -> bool:
    """Returns whether points or polygons are written out as JSON, and not the path of a file.

    >>> is_json("[[3, 4]]"), is_json("points/a.csv")
    (True, False)
    """
    return annotation.startswith(("[", "{"))


def meta_of(image: ImageRef | ImageInfo) -> dict[str, int | float | str]:
    """Returns the metadata columns of an image, in the order of the columns."""
    return json.loads(image.meta) if image.meta else {}


# Path of the table of shards, below the version.
SHARDS = "shards.parquet"


def shard_file(shard: str) -> str:
    """Returns the file name of a shard named like ``train-00000-of-00002``, as TensorFlow Datasets expects it."""
    split, _, numbers = shard.partition("-")
    return f"patches-{split}.tfrecord-{numbers}"


def index_file(shard: str) -> str:
    """Returns the path of the shard's part of the index, below the version."""
    return f"index/{shard}.parquet"


def regions_file(shard: str) -> str:
    """Returns the path of the table of the shard's regions, below the version."""
    return f"regions/{shard}.parquet"


def files_of(shard: str) -> tuple[str, ...]:
    """Returns the paths of all files of a shard, below the version; the receipt, which makes it complete, is last."""
    return shard_file(shard), index_file(shard), regions_file(shard), receipt_file(shard)


def receipt_file(shard: str) -> str:
    """Returns the path of the shard's receipt, below the version."""
    return f"receipts/{shard}.json"
