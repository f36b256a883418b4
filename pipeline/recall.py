"""What the version before knows of the images: headers that need not be read again.

The listings and the table of images have one order, so that they are merged as they are read, however long they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import PASSING, ImageInfo, ImageRef, Previous, Rejected, Unreadable, is_json
from pipeline.headers import names_of
from pipeline.listing import read_listing

_BATCH = 10_000
_HEADER = ("height", "width", "block_height", "block_width", "facts")


@dataclasses.dataclass
class RecallImages(beam.PTransform):
    """URI of a listing -> ImageRef of headers to read, ``.infos`` of ImageInfo, ``.rejected`` of Rejected."""

    config: Config
    previous: Previous

    def expand(self, uris):
        return uris | beam.ParDo(_Recall(self.config, self.previous)).with_outputs("infos", "rejected", main="refs")


class _Recall(beam.DoFn):
    def __init__(self, config: Config, previous: Previous):
        self._config, self._previous = config, previous

    def process(self, uri: str) -> Iterator[Any]:
        for one in recall(uri, self._config, self._previous):
            kind = {ImageInfo: "infos", Rejected: "rejected"}.get(type(one))
            yield beam.pvalue.TaggedOutput(kind, one) if kind else one


def recall(uri: str, config: Config, previous: Previous) -> Iterator[ImageRef | ImageInfo | Rejected]:
    """The images of a listing: what their header says, or why they were rejected, where the version before knows it."""
    before = _known(previous.folder)
    old = next(before, None)
    for ref in read_listing(uri):
        while old and old[0].image_id.split("/") < ref.image_id.split("/"):
            old = next(before, None)
        if old and old[0].image_id == ref.image_id and _said(old[0]) == _said(ref):
            yield _recalled(ref, old[1], config, previous)
        else:
            yield ref


def _known(folder: str) -> Iterator[tuple[ImageRef, dict[str, Any]]]:
    """Each image of the version before with its row of the table of images."""
    import pyarrow.parquet as pq

    columns = ["image_id", "split", "reason", "message", *_HEADER]
    with storage.open_read(storage.join(folder, "images.parquet")) as file:
        batches = pq.ParquetFile(file).iter_batches(_BATCH, columns=columns)
        rows = (row for batch in batches for row in batch.to_pylist())
        for ref, row in zip(read_listing(storage.join(folder, "inputs.parquet")), rows, strict=True):
            if ref.image_id != row["image_id"]:
                raise RuntimeError(f"{folder}: inputs.parquet and images.parquet differ: {ref.image_id}")
            yield ref, row


def _said(ref: ImageRef) -> tuple[str, ...]:
    """What decides what the header says, and whether the image is taken."""
    return (ref.fingerprint, *(text for text in (ref.points, ref.regions) if is_json(text)))


def _recalled(
    ref: ImageRef, row: dict[str, Any], config: Config, previous: Previous
) -> ImageRef | ImageInfo | Rejected:
    level = config.input.level
    try:
        names = names_of(ref, config)
    except Unreadable as error:
        return Rejected("inspect", error.reason, error.message, ref.image_id, level)
    if row["reason"] is None:
        header = {name: row[name] for name in _HEADER}
        return ImageInfo(**ref._asdict() | names | header, was=row["split"])
    if previous.again or row["reason"] in PASSING | {"no_name"}:
        return ref
    return Rejected("inspect", row["reason"], row["message"], ref.image_id, level)
