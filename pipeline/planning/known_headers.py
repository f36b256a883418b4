"""Headers that the previous version knows, so that they need not be read again.

The listing and the table of images of the previous version have the order of all listings, so that a slice of a listing
is found there in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import ImageInfo, ImageRef, Previous, Rejected, is_json
from pipeline.errors import TRANSIENT, Unreadable
from pipeline.inputs.labels import label_group_split
from pipeline.inputs.listing import read_listing

_BATCH = 10_000
_HEADER = ("height", "width", "block_height", "block_width", "facts")


def known_headers(
    refs: Sequence[ImageRef], config: Config, previous: Previous
) -> Iterator[ImageRef | ImageInfo | Rejected]:
    """Yields what the previous version knows of the images of a slice of a listing, in its order.

    This is what the header says, or why the image was rejected; images that are not known are yielded unchanged.
    """
    known = _known(previous.folder, [ref.image_id for ref in refs]) if refs else {}
    for ref in refs:
        old, row = known.get(ref.image_id, (None, {}))
        yield _from_previous(ref, row, config, previous) if old and _said(old) == _said(ref) else ref


def _known(folder: str, ids: Sequence[str]) -> dict[str, tuple[ImageRef, dict[str, Any]]]:
    """Returns the images that the previous version has, each with its row of the table of images."""
    inputs, images = (storage.join(folder, name) for name in ("inputs.parquet", "images.parquet"))
    rows, wanted = _between(inputs, ids[0], ids[-1]), set(ids)
    columns = ["image_id", "split", "reason", "message", *_HEADER]
    known = {}
    for ref, row in zip(read_listing(inputs, *rows), storage.read_rows(images, *rows, columns), strict=True):
        if ref.image_id != row["image_id"]:
            raise RuntimeError(f"{folder}: inputs.parquet and images.parquet differ: {ref.image_id}")
        if ref.image_id in wanted:
            known[ref.image_id] = ref, row
    return known


def _between(listing: str, first: str, last: str) -> tuple[int, int]:
    """Returns the first row and the end of the rows whose ids are neither before ``first`` nor after ``last``."""
    before, end = 0, 0
    sortable = lambda image_id: image_id.replace("/", "\0")  # sorts like the parts of the ids
    with storage.open_read(listing) as file:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=["image_id"]):
            ids = pc.replace_substring(batch["image_id"], "/", "\0")
            before += pc.sum(pc.less(ids, sortable(first))).as_py()
            end += pc.sum(pc.less_equal(ids, sortable(last))).as_py()
            if sortable(last) < ids[-1].as_py():
                break
    return before, end


def _said(ref: ImageRef) -> tuple[str, ...]:
    """Returns the values that decide what the header says and whether the image is accepted."""
    return (ref.fingerprint, *(text for text in (ref.points, ref.polygons) if is_json(text)))


def _from_previous(
    ref: ImageRef, row: dict[str, Any], config: Config, previous: Previous
) -> ImageRef | ImageInfo | Rejected:
    level = config.input.level
    try:
        names = label_group_split(ref, config)
    except Unreadable as error:
        return Rejected("inspect", error.reason, error.message, ref.image_id, level)
    if row["reason"] is None:
        header = {name: row[name] for name in _HEADER}
        return ImageInfo(**ref._asdict() | names | header, previous_split=row["split"])
    if previous.retry_rejected or row["reason"] in TRANSIENT | {"no_name"}:
        return ref
    return Rejected("inspect", row["reason"], row["message"], ref.image_id, level)
