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

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.elements import Rejected
from pipeline.errors import TooManyRejectedError
from pipeline.planning.image_rows import IMAGES_SCHEMA, read_images
from pipeline.shards.receipts import Sums
from pipeline.versions.manifest import Accounts


def images_allowed(accounts: Accounts, max_rejected: float) -> int:
    """Returns how many images may have rejections: the configured share, but at least one unless the share is 0."""
    return max(1, math.floor(max_rejected * accounts.images)) if max_rejected else 0


def check_budget(accounts: Accounts, max_rejected: float, counters: dict[str, int], folder: str) -> None:
    """Refuses a build in which too much was rejected.

    Args:
        accounts: the totals of the build.
        max_rejected: the configured share of the images.
        counters: what the build did.
        folder: folder of the version, for the message.

    Raises:
        TooManyRejectedError: if more images had rejections than are allowed, or no patch was written.
    """
    where = f"see {storage.join(folder, 'rejected.jsonl')}"
    reasons = ", ".join(f"{count} x {reason}" for reason, count in accounts.reasons.items())
    if not accounts.written:
        left_out = f", {accounts.filtered} patches filtered" if accounts.filtered else ""
        raise TooManyRejectedError(
            f"no patch was written: {accounts.images} images, {reasons or 'no rejections'}{left_out}; {where}",
            accounts,
            counters,
        )
    allowed = images_allowed(accounts, max_rejected)
    if accounts.images_rejected > allowed:
        raise TooManyRejectedError(
            f"{accounts.images_rejected} of {accounts.images} images have rejections ({reasons}), and max_rejected: "
            f"{max_rejected:g} allows {allowed}; {where}. Nothing was published; after the repair, or with a higher "
            "max_rejected, the same command takes over the shards that are finished",
            accounts,
            counters,
        )


def reconcile(folder: str, work: str, level: int, images: int, totals: Mapping[str, Sums]) -> Accounts:
    """Writes ``images.parquet`` and ``rejected.jsonl`` below ``folder``, and adds everything up.

    Args:
        folder: folder of the version.
        work: folder in which its workers left their parts.
        level: pyramid level, as it was asked for.
        images: number of images of the listing.
        totals: split -> sums over its shards.

    Raises:
        RuntimeError: if the sums do not agree: an error of the program, never of the data.
    """
    shards = pa.concat_tables(split.images for split in totals.values())
    table = _balance(read_images(work, images), shards)
    storage.write_table(storage.join(folder, "images.parquet"), table)
    whole = [
        Rejected("inspect", row["reason"], row["message"], row["image_id"], level)
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
    """Returns the table of images, completed by the counts of their patches in the shards."""
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
