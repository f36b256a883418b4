"""Everything planned is accounted for: planned = written + filtered + rejected, for each image and in total.

While the run goes on, the facts of the images are recorded below ``work``, for each slice of the listing; when it has
ended they are merged with the sums of the shards into one table, ``images.parquet``, and the rejections into
``rejected.jsonl``.
"""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import Rejected
from pipeline.planning.image_rows import IMAGES_SCHEMA, read_images
from pipeline.shards.receipts import Sums


class Accounts(NamedTuple):
    """The totals of a build.

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

    def allowed(self, config: Config) -> int:
        """Images that may have rejections: the configured share, but one in any case unless it is 0."""
        return max(1, math.floor(config.max_rejected * self.images)) if config.max_rejected else 0


def reconcile(folder: str, work: str, config: Config, images: int, totals: Mapping[str, Sums]) -> Accounts:
    """Writes ``images.parquet`` and ``rejected.jsonl`` below ``folder``, and adds everything up.

    Args:
        folder: of the version.
        work: where its workers left their parts.
        config: the build.
        images: number of images of the listing.
        totals: split -> what its shards add up to.

    Raises:
        RuntimeError: if the sums do not come out: an error of the program, never of the data.
    """
    shards = pa.concat_tables(split.images for split in totals.values())
    table = _balance(read_images(work, images), shards)
    storage.write_table(storage.join(folder, "images.parquet"), table)
    whole = [
        Rejected("inspect", row["reason"], row["message"], row["image_id"], config.input.level)
        for row in table.filter(table["reason"].is_valid()).select(["image_id", "reason", "message"]).to_pylist()
    ]
    rows = sorted(whole + [row for split in totals.values() for row in split.rejected])
    lines = [json.dumps(row._asdict()) + "\n" for row in rows]
    storage.write_bytes(storage.join(folder, "rejected.jsonl"), "".join(lines).encode())
    filters = sum((collections.Counter(split.filtered) for split in totals.values()), collections.Counter())
    total = lambda name: pc.sum(table[name], min_count=0).as_py()
    return Accounts(
        images=table.num_rows,
        images_rejected=len({row.image_id for row in rows}),
        planned=total("planned"),
        written=total("written"),
        filtered=total("filtered"),
        rejected=total("rejected"),
        filters=dict(sorted(filters.items())),
        reasons=dict(sorted(collections.Counter(row.reason for row in rows).items())),
        split_images=dict(sorted(collections.Counter(table["split"].drop_null().to_pylist()).items())),
    )


def _balance(images: pa.Table, shards: pa.Table) -> pa.Table:
    """The table of images, completed by what became of their patches in the shards."""
    place = pc.index_in(images["image_id"], shards["image_id"].combine_chunks())
    count = lambda name: pc.fill_null(pc.take(shards[name], place), 0)
    planned, accounted = count("planned"), pc.add(pc.add(count("written"), count("filtered")), count("rejected"))
    agree = pc.and_(pc.equal(images["planned"], planned), pc.equal(planned, accounted))
    if place.null_count + shards.num_rows != images.num_rows or not pc.all(agree, min_count=0).as_py():
        wrong = images.filter(pc.invert(agree))["image_id"].slice(0, 3).to_pylist()
        raise RuntimeError(f"patches planned, in shards, and written, filtered or rejected differ: {wrong}")
    for name in ("written", "filtered", "rejected"):
        images = images.set_column(IMAGES_SCHEMA.get_field_index(name), IMAGES_SCHEMA.field(name), count(name))
    return images
