"""Everything planned is accounted for: planned = written + filtered + rejected, for each image and in total.

While the run goes on, the facts of the images are recorded in parts below ``work``; when it has ended they are
merged with the receipts of the shards into one table, ``images.parquet``, and the rejections into ``rejected.jsonl``.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import math
from collections.abc import Iterable
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import ImageInfo, Rejected, ShardResult, digest
from pipeline.plan import grid_of

_IMAGES_PER_PART = 50_000

IMAGES_SCHEMA = pa.schema(
    [("image_id", pa.string()), ("split", pa.string()), ("label", pa.string()), ("group", pa.string())]
    + [(name, pa.int64()) for name in ("height", "width", "planned", "written", "filtered", "rejected")]
    + [("reason", pa.string()), ("message", pa.string())]
    + [
        ("mpp", pa.list_(pa.float64())),
        ("crs", pa.string()),
        ("transform", pa.list_(pa.float64())),
        ("nodata", pa.string()),
    ]
)


class Accounts(NamedTuple):
    """The totals of a build.

    Attributes:
        images, images_rejected: images found, and those of them with a rejection of the whole or of a part.
        planned, written, filtered, rejected: patches.
        reasons: reason code -> rows of ``rejected.jsonl``.
        split_images: split -> images that were planned.
    """

    images: int
    images_rejected: int
    planned: int
    written: int
    filtered: int
    rejected: int
    reasons: dict[str, int]
    split_images: dict[str, int]

    def allowed(self, config: Config) -> int:
        """Images that may have rejections: the configured share, but one in any case unless it is 0."""
        return max(1, math.floor(config.max_rejected * self.images)) if config.max_rejected else 0


@dataclasses.dataclass
class RecordImages(beam.PTransform):
    """(ImageInfo, Rejected of whole images) -> parts of the table of images, below ``folder``."""

    config: Config
    folder: str
    images: int

    def expand(self, infos_and_rejected):
        config, folder, parts = self.config, self.folder, -(-self.images // _IMAGES_PER_PART)
        infos, rejected = infos_and_rejected
        return (
            (infos | "Planned" >> beam.Map(_image_row, config), rejected | "Rejected" >> beam.Map(_rejected_row))
            | beam.Flatten()
            | "ByPart" >> beam.Map(lambda row: (digest("part", row["image_id"]) % parts, row))
            | beam.GroupByKey()
            | "WritePart" >> beam.MapTuple(lambda part, rows: _write_part(folder, part, rows))
        )


def _image_row(info: ImageInfo, config: Config) -> dict:
    grid = grid_of(info, config)
    names = ("image_id", "split", "label", "group", "height", "width")
    facts = {name: info.fact(name) for name in ("mpp", "crs", "transform", "nodata")}
    return {name: getattr(info, name) for name in names} | facts | {"planned": grid.count}


def _rejected_row(rejected: Rejected) -> dict:
    return {"image_id": rejected.image_id, "reason": rejected.reason, "message": rejected.message, "planned": 0}


def _write_part(folder: str, part: int, rows: Iterable[dict]) -> None:
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["image_id"]), IMAGES_SCHEMA)
    _write_table(storage.join(folder, f"images-{part:05d}.parquet"), table)


def settle(folder: str, work: str, config: Config, receipts: Iterable[ShardResult]) -> Accounts:
    """Writes ``images.parquet`` and ``rejected.jsonl`` below ``folder``, and adds everything up.

    Raises:
        RuntimeError: if the sums do not come out: an error of the program, never of the data.
    """
    parts = [name for name in storage.files_below(work) if name.startswith("images-")]
    table = pa.concat_tables(_read_table(storage.join(work, name)) for name in parts).sort_by("image_id")
    shards, rejections = _sum_receipts(receipts)
    ids = table["image_id"].to_pylist()
    written = [shards[i][1] for i in ids]
    rejected = [shards[i][2] for i in ids]
    planned = table["planned"].to_pylist()
    for image_id, *counts in zip(ids, planned, (shards[i][0] for i in ids), map(sum, zip(written, rejected))):
        if len(set(counts)) != 1:
            raise RuntimeError(f"{image_id}: patches planned, in shards, and written or rejected differ: {counts}")
    for name, column in (("written", written), ("filtered", [0] * len(ids)), ("rejected", rejected)):
        table = table.set_column(IMAGES_SCHEMA.get_field_index(name), name, pa.array(column, pa.int64()))
    _write_table(storage.join(folder, "images.parquet"), table)
    whole = [
        Rejected("inspect", row["reason"], row["message"], row["image_id"], config.input.level)
        for row in table.filter(table["reason"].is_valid()).select(["image_id", "reason", "message"]).to_pylist()
    ]
    rows = sorted(whole + rejections)
    lines = [json.dumps(row._asdict()) + "\n" for row in rows]
    storage.write_bytes(storage.join(folder, "rejected.jsonl"), "".join(lines).encode())
    return Accounts(
        images=len(ids),
        images_rejected=len({row.image_id for row in rows}),
        planned=sum(planned),
        written=sum(written),
        filtered=0,
        rejected=sum(rejected),
        reasons=dict(sorted(collections.Counter(row.reason for row in rows).items())),
        split_images=dict(collections.Counter(split for split in table["split"].to_pylist() if split)),
    )


def _sum_receipts(receipts: Iterable[ShardResult]) -> tuple[dict[str, list[int]], list[Rejected]]:
    shards: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    rejections: list[Rejected] = []
    for receipt in receipts:
        rejections += receipt.rejected
        for image_id, counts in receipt.images.items():
            shards[image_id] = [a + b for a, b in zip(shards[image_id], counts)]
    return shards, rejections


def _read_table(uri: str) -> pa.Table:
    with storage.open_read(uri) as file:
        return pq.read_table(file)


def _write_table(uri: str, table: pa.Table) -> None:
    out = io.BytesIO()
    pq.write_table(table, out)
    storage.write_bytes(uri, out.getvalue())
