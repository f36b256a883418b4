"""A picture of sampled patches of a split, so that a person sees what training will see."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from pipeline import storage
from pipeline.dataset.reading import Dataset
from pipeline.elements import digest, index_file, shard_file

_COLUMNS, _ROWS, _CELL, _GAP = 8, 6, 128, 4


def contact_sheet(dataset: Dataset, split: str) -> bytes | None:
    """Returns a PNG of up to 48 patches, the same ones each time; None for an empty split.

    uint16 and float32 are stretched from their 1 % to their 99 % quantile; with more than three channels the first
    three are shown, with two the first.
    """
    rows = sorted(_sample(dataset, split, _COLUMNS * _ROWS), key=lambda row: row["key"])
    if not rows:
        return None
    columns = min(_COLUMNS, len(rows))
    height, width = _GAP + -(-len(rows) // columns) * (_CELL + _GAP), _GAP + columns * (_CELL + _GAP)
    sheet = Image.new("RGB", (width, height), "white")
    for number, row in enumerate(rows):
        patch = Image.fromarray(_visible(dataset.patch(row), dataset, split))
        patch.thumbnail((_CELL, _CELL))
        down, across = divmod(number, columns)
        sheet.paste(patch, (_GAP + across * (_CELL + _GAP), _GAP + down * (_CELL + _GAP)))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _sample(dataset: Dataset, split: str, count: int) -> list[dict[str, Any]]:
    """Returns the index rows with the smallest digests, from at most 16 shards, each a random sample by itself."""
    shards = dataset.shards(split)
    chosen = shards[:: max(1, math.ceil(len(shards) / 16))]
    rows = [row for shard in chosen for row in _index_rows(dataset, shard, count)]
    return sorted(rows, key=lambda row: row["digest"])[:count]


def _index_rows(dataset: Dataset, shard: str, count: int) -> Iterator[dict[str, Any]]:
    with storage.open_read(storage.join(dataset.folder, index_file(shard))) as file:
        table = pq.read_table(file, columns=["key", "image_offset", "image_length"])
    digests = np.array([digest("sheet", key) for key in table["key"].to_pylist()], np.uint64)
    for place in np.argsort(digests)[:count]:
        yield table.slice(int(place), 1).to_pylist()[0] | {"digest": int(digests[place]), "shard": shard_file(shard)}


def _visible(patch: np.ndarray, dataset: Dataset, split: str) -> np.ndarray:
    patch = patch[..., :3] if patch.shape[-1] >= 3 else patch[..., :1].repeat(3, axis=-1)
    if patch.dtype == np.uint8:
        return np.ascontiguousarray(patch)
    channels = dataset.statistics()["splits"][split]["channels"]
    shown = channels[:3] if len(channels) >= 3 else channels[:1] * 3
    low, high = (np.array([channel["quantiles"][q] for channel in shown]) for q in ("0.01", "0.99"))
    scaled = (np.nan_to_num(patch.astype(np.float64)) - low) / np.maximum(high - low, 1e-12)
    found: np.ndarray = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return found
