"""The outcome of each region of a shard: a table next to the shard, from which the next version copies.

The regions of a shard are added up in their order, whether cut or copied, so that sums of floats come out the same.
"""

from __future__ import annotations

import collections
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.elements import Region, Rejected
from pipeline.shards.index import Row

REGIONS_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        *((name, pa.int64()) for name in ("row", "col", "height", "width")),
        ("pixels", pa.binary()),  # Region.pixels_digest
        ("names", pa.binary()),  # ImageInfo.names_digest
        ("filtered", pa.string()),  # JSON: score -> patches
        ("rejected", pa.string()),  # JSON: a list of Rejected
        ("pixel_statistics", pa.binary()),  # transforms.pixel_statistics.pack
        ("records", pa.list_(pa.int32())),  # numbers of its records in the shard
    ]
)


class Part(NamedTuple):
    """The outcome of a region.

    Attributes:
        region: the region.
        rows: its patches.
        filtered: score -> patches that were left out because of it.
        rejected: the parts that could not be read.
        pixel_statistics: statistics of the pixels of its patches, see ``transforms.pixel_statistics.pack``.
    """

    region: Region
    rows: list[Row]
    filtered: collections.Counter[str]
    rejected: list[Rejected]
    pixel_statistics: bytes


def pixels_digests(config: Config) -> Callable[[Region], bytes]:
    """Returns a digest function, equal for regions whose patches have equal pixels, scores and rejections anywhere."""
    of_config = config.pixel_digest()
    return lambda region: region.pixels_digest(of_config, config.records_per_patch(region.image.split))


def make_regions(parts: Sequence[Part], rows: Sequence[Row], config: Config) -> bytes:
    """Returns the table of the regions of a shard as Parquet.

    Args:
        parts: its regions, in their order.
        rows: its patches, in the order of the file.
        config: the build.
    """
    numbers, pixels_digest = {row.identity: number for number, row in enumerate(rows)}, pixels_digests(config)
    entries = [
        (
            part.region.image.image_id,
            *part.region.area,
            pixels_digest(part.region),
            part.region.image.names_digest,
            json.dumps(dict(sorted(part.filtered.items()))),
            json.dumps([rejected._asdict() for rejected in sorted(part.rejected)]),
            part.pixel_statistics,
            sorted(numbers[row.identity] for row in part.rows),
        )
        for part in parts
    ]
    values = zip(*entries) if entries else [[]] * len(REGIONS_SCHEMA)
    arrays = [pa.array(column, kind) for column, kind in zip(values, REGIONS_SCHEMA.types)]
    out = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=REGIONS_SCHEMA), out)
    return out.getvalue()


def filtered_and_rejected(row: Mapping[str, str]) -> tuple[collections.Counter[str], list[Rejected]]:
    """Returns the counts of filtered patches and the rejections in a row of the table."""
    return collections.Counter(json.loads(row["filtered"])), [Rejected(**one) for one in json.loads(row["rejected"])]
