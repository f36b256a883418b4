"""The sums over the shards of a build.

A large build has some hundred thousand receipts, too many to be read by one process. So the workers sum them up, 256
shards at a time, into a file for each group below ``work``; the process that started the build reads those. The groups
follow from the numbers of the shards and are added in their order, so that sums of floats come out the same each time.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import apache_beam as beam
import pyarrow as pa

from pipeline import storage
from pipeline.elements import Rejected, ShardPlan, ShardResult, receipt_file
from transforms import pixel_statistics

GROUP = 256

SHARDS_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),  # its name, train-00000-of-00004
        ("split", pa.string()),
        ("records", pa.int64()),
        ("images", pa.int64()),  # images whose patches it holds, or was to hold
        ("rejected", pa.int64()),  # windows
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("index_bytes", pa.int64()),
        ("index_sha256", pa.string()),
        ("regions_bytes", pa.int64()),
        ("regions_sha256", pa.string()),
        ("receipt_bytes", pa.int64()),
        ("receipt_sha256", pa.string()),
    ]
)
IMAGES_SCHEMA = pa.schema(
    [("image_id", pa.string())] + [(name, pa.int64()) for name in ("planned", "written", "filtered", "rejected")]
)


class Sums(NamedTuple):
    """The sums over some shards of one split.

    Attributes:
        shards: a row per shard, in the order of their numbers; see ``SHARDS_SCHEMA``.
        images: image id -> patches planned, written, filtered and rejected in these shards, a row per image.
        labels: label -> patches.
        filtered: score -> patches that were left out because of it.
        rejected: what could not be read.
        pixel_statistics: statistics of the pixels written.
        rows: for tf-transform, a row of moments for each group of shards; see :func:`analysis_rows`.
    """

    shards: pa.Table
    images: pa.Table
    labels: dict[str, int]
    filtered: dict[str, int]
    rejected: list[Rejected]
    pixel_statistics: pixel_statistics.PixelStatistics
    rows: list[dict[str, list[Any]]]

    @property
    def records(self) -> int:
        """Patches written."""
        return sum(self.shards["records"].to_pylist())


@dataclasses.dataclass
class SumReceipts(beam.PTransform):  # type: ignore[type-arg]
    """Turns names of complete shards in ``folder`` into a file of sums for each group, below ``work``."""

    folder: str
    work: str

    def expand(self, names):  # type: ignore[no-untyped-def]  # Beam would read annotations
        folder, work = self.folder, self.work
        return (
            names
            | "Group" >> beam.Map(lambda name: (_group_of(name), name)).with_output_types(tuple[str, str])
            | "ByGroup" >> beam.GroupByKey()  # names, some twenty bytes for each shard
            | "Sum" >> beam.MapTuple(lambda group, names: _write_sums(folder, work, group, names))
        )


def _group_of(shard: str) -> str:
    return _group_name(shard.partition("-")[0], _number(shard) // GROUP)


def _number(shard: str) -> int:
    return int(shard.split("-")[1])


def _group_name(split: str, number: int) -> str:
    return f"sums-{split}-{number:05d}.json"


def _write_sums(folder: str, work: str, group: str, names: Iterable[str]) -> None:
    content = json.dumps(sum_receipts(folder, sorted(set(names), key=_number)))
    storage.write_bytes(storage.join(work, group), content.encode())


def sum_receipts(folder: str, names: list[str]) -> dict[str, Any]:
    """Returns the sums over the shards ``names`` of one split, in their order, as JSON values."""
    shards: list[dict[str, Any]] = []
    images: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0, 0])
    labels: collections.Counter[str] = collections.Counter()
    filtered: collections.Counter[str] = collections.Counter()
    rejected: list[dict[str, Any]] = []
    pixels: pixel_statistics.PixelStatistics | None = None
    for receipt, facts in _read_receipts(folder, names):
        shards.append({name: getattr(receipt, name, None) for name in SHARDS_SCHEMA.names} | facts)
        labels.update(receipt.labels)
        filtered.update(receipt.filtered)
        rejected += [row._asdict() for row in receipt.rejected]
        for image_id, counts in receipt.images.items():
            images[image_id] = [a + b for a, b in zip(images[image_id], counts)]
        read = pixel_statistics.from_json(receipt.pixel_statistics)
        pixels = pixel_statistics.merge(pixels, read) if pixels else read
    return {
        "shards": shards,
        "images": [dict(zip(IMAGES_SCHEMA.names, (image_id, *counts))) for image_id, counts in images.items()],
        "labels": labels,
        "filtered": filtered,
        "rejected": rejected,
        "pixel_statistics": pixel_statistics.to_json(
            cast(pixel_statistics.PixelStatistics, pixels)
        ),  # a group has at least one shard
    }


def _read_receipts(folder: str, names: list[str]) -> Iterator[tuple[ShardResult, dict[str, Any]]]:
    """Yields each receipt, with the facts on its content and its file for the table of shards."""
    for data in storage.read_many((storage.join(folder, receipt_file(name)) for name in names), storage.read_bytes):
        receipt = ShardResult.from_json(json.loads(data))
        facts = {
            "receipt_bytes": len(data),
            "receipt_sha256": hashlib.sha256(data).hexdigest(),
            "images": len(receipt.images),
            "rejected": len(receipt.rejected),
        }
        yield receipt, facts


def read_sums(work: str, split: str, shards: int) -> Sums:
    """Reads the sums over all shards of a split.

    Args:
        work: the folder that :class:`SumReceipts` wrote to.
        split: name of the split.
        shards: number of its shards.

    Raises:
        RuntimeError: if shards are missing.
    """
    groups = [storage.join(work, _group_name(split, number)) for number in range(-(-shards // GROUP))]
    parts = (_from_json(json.loads(data)) for data in storage.read_many(groups, storage.read_bytes))
    tables, images, labels, filtered, rejected, pixels, rows = zip(*parts)
    table = pa.concat_tables(tables)
    expected = [ShardPlan(split, number, shards, ()).name for number in range(shards)]
    if table["shard"].to_pylist() != expected:
        raise RuntimeError(f"{split}: {table.num_rows} of {shards} shards have receipts in {work}")
    return Sums(
        table,
        _add_up(pa.concat_tables(images)),
        dict(sum(map(collections.Counter, labels), collections.Counter())),
        dict(sum(map(collections.Counter, filtered), collections.Counter())),
        [row for part in rejected for row in part],
        functools.reduce(pixel_statistics.merge, pixels),
        [row for part in rows for row in part],
    )


def _from_json(values: dict[str, Any]) -> Sums:
    pixels, labels = pixel_statistics.from_json(values["pixel_statistics"]), values["labels"]
    return Sums(
        pa.Table.from_pylist(values["shards"], SHARDS_SCHEMA),
        pa.Table.from_pylist(values["images"], IMAGES_SCHEMA),
        labels,
        values["filtered"],
        [Rejected(**row) for row in values["rejected"]],
        pixels,
        analysis_rows(pixels, labels),
    )


def _add_up(images: pa.Table) -> pa.Table:
    """Returns one row per image, sorted by its id."""
    counts = IMAGES_SCHEMA.names[1:]
    added = images.group_by("image_id").aggregate([(name, "sum") for name in counts]).sort_by("image_id")
    return added.select(["image_id", *(f"{name}_sum" for name in counts)]).rename_columns(IMAGES_SCHEMA.names)


def analysis_rows(pixels: pixel_statistics.PixelStatistics, labels: dict[str, int]) -> list[dict[str, list[Any]]]:
    """Returns rows for tf-transform: the moments of some shards, and a row for every label after the first."""
    pixels = pixel_statistics.finished(pixels)
    count = pixels.count.astype(float)
    sums = {"count": count, "total": count * pixels.mean, "squares": pixels.m2 + count * pixels.mean**2}
    rows = []
    for label, patches in sorted(labels.items()) or [("", 0)]:
        rows.append({k: v.tolist() for k, v in sums.items()} | {"label": [label], "label_count": [float(patches)]})
        sums = {name: 0 * column for name, column in sums.items()}
    return rows
