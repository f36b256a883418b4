"""Images as rows of tables: the facts that are known of each before anything is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import ImageInfo, Rejected
from pipeline.inputs.slices import slices_of
from pipeline.planning.geometry import patches_of

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
    + [("block_height", pa.int64()), ("block_width", pa.int64()), ("facts", pa.string())]
)


def images_table(found: Sequence[ImageInfo | Rejected], config: Config) -> pa.Table:
    """Returns the facts of images, in their order, as far as they are known before anything is cut."""
    rows = [_image_row(one, config) if isinstance(one, ImageInfo) else _rejected_row(one) for one in found]
    return pa.Table.from_pylist(rows, IMAGES_SCHEMA)


def _image_row(info: ImageInfo, config: Config) -> dict[str, Any]:
    planned = patches_of(info, config) * config.records_per_patch(info.split)
    names = ("image_id", "split", "label", "group", "height", "width", "block_height", "block_width", "facts")
    facts = {name: info.fact(name) for name in ("mpp", "crs", "transform", "nodata")}
    return {name: getattr(info, name) for name in names} | facts | {"planned": planned}


def _rejected_row(rejected: Rejected) -> dict[str, Any]:
    return {"image_id": rejected.image_id, "reason": rejected.reason, "message": rejected.message, "planned": 0}


def read_images(work: str, images: int) -> pa.Table:
    """Reads the facts of all images, in the order of the listing, from the tables that its slices left below ``work``.

    Tables of an earlier attempt at a listing with another number of slices have other names.

    Raises:
        RuntimeError: if some are missing, which is an error of the program.
    """
    files = [storage.join(work, each.file("images")) for each in slices_of(images)]
    table = pa.concat_tables(storage.read_many(files, storage.read_table))
    if table.num_rows != images:
        raise RuntimeError(f"{table.num_rows} of {images} images have a row in {work}")
    return table
