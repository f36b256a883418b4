"""Regions as rows of tables, from which the plan of each shard is read."""

from __future__ import annotations

import array
import collections
from collections.abc import Iterable
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import ImageInfo, Region, ShardPlan
from pipeline.planning.geometry import cells_of, regions_of, windows_of
from pipeline.planning.placement import bits_turned, place_of_region

# Rows of a table of regions that are read together.
ROWS = 1 << 12

_AREA = ("area_row", "area_col", "area_height", "area_width")

# Texts from an input manifest may be long; each is once in a table, however many regions the image has.
TEXTS = ("points", "polygons", "meta")

_KINDS = {int: pa.int64(), str: pa.string()}

REGIONS_SCHEMA = pa.schema(
    [
        (name, pa.dictionary(pa.int32(), pa.large_string()) if name in TEXTS else _KINDS[kind])
        for name, kind in get_type_hints(ImageInfo).items()
    ]
    + [(name, pa.int64()) for name in (*_AREA, "patches", "place")]
)


class Totals(NamedTuple):
    """The work in one split.

    Attributes:
        images, regions, windows, patches: their numbers.
        whole_pixels: pixels of the largest image that can only be decoded whole.
        text: characters of points, polygons and metadata columns, counted for every region of an image.
    """

    images: int = 0
    regions: int = 0
    windows: int = 0
    patches: int = 0
    whole_pixels: int = 0
    text: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.images + other.images,
            self.regions + other.regions,
            self.windows + other.windows,
            self.patches + other.patches,
            max(self.whole_pixels, other.whole_pixels),
            self.text + other.text,
        )


def regions_table(infos: Iterable[ImageInfo], config: Config) -> tuple[pa.Table, dict[str, Totals]]:
    """Returns the regions of images as a table, sorted by their splits and places, and the work in each split."""
    totals: dict[str, Totals] = collections.defaultdict(Totals)
    images: list[ImageInfo] = []
    rows = array.array("q")  # the number of the image, and the columns of the region
    for info in infos:
        for number, region in enumerate(regions_of(info, config)):
            measured = _measure(region, config)._replace(images=int(number == 0))
            totals[info.split] += measured
            rows.extend((len(images), *region.area, measured.patches, place_of_region(region, config.seed)))
        images.append(info)
    numbers = np.frombuffer(rows, np.int64).reshape(-1, 7)
    _, split = np.unique([info.split for info in images], return_inverse=True)
    numbers = numbers[np.lexsort((numbers[:, -1], split[numbers[:, 0]]))]
    image = pa.array(numbers[:, 0].astype(np.int32))
    columns = []
    for place, (name, kind) in enumerate(zip(ImageInfo._fields, REGIONS_SCHEMA.types)):
        values = [info[place] for info in images]
        columns.append(
            pa.DictionaryArray.from_arrays(image, pa.array(values, kind.value_type))
            if name in TEXTS
            else pa.array(values, kind).take(image)
        )
    columns += [pa.array(column) for column in numbers[:, 1:].T]
    return pa.table(columns, schema=REGIONS_SCHEMA), totals


def read_regions(uri: str, split: str, number: int, count: int) -> pa.Table:
    """Reads the rows for shard ``number`` of ``count`` from a table of regions; they are one piece of the file."""
    first = bits_turned(number)
    places = [("place", ">=", first), ("place", "<", first + (1 << 32) // count)]
    return storage.read_table(uri, [("split", "=", split), *places])


def _measure(region: Region, config: Config) -> Totals:
    records = cells_of(region, config).count * config.records_per_patch(region.image.split)
    whole = region.image.height * region.image.width if region.image.is_whole else 0
    text = sum(len(getattr(region.image, name)) for name in TEXTS)
    return Totals(0, 1, sum(1 for _ in windows_of(region, config)), records, whole, text)


def read_shard(name: str, uri: str) -> ShardPlan:
    """Reads the plan of a shard from the table that :class:`PlanShards` put its regions into."""
    split, number, _, count = name.split("-")
    table = read_regions(uri, split, int(number), int(count))
    columns = table.drop_columns(list(TEXTS)).to_pydict() | {name: _texts(table[name]) for name in TEXTS}
    images: dict[tuple[Any, ...], ImageInfo] = {}
    regions = [
        Region(images.setdefault(image, ImageInfo(*image)), *area)
        for image, area in zip(zip(*(columns[name] for name in ImageInfo._fields)), zip(*(columns[n] for n in _AREA)))
    ]
    return ShardPlan(split, int(number), int(count), tuple(sorted(regions)))


def _texts(column: pa.ChunkedArray) -> list[str]:
    """Returns the values of a dictionary-encoded column; equal values share one string."""
    values = []
    for chunk in column.chunks:
        numbers = chunk.indices.to_pylist()
        text = {number: chunk.dictionary[number].as_py() for number in set(numbers)}
        values += [text[number] for number in numbers]
    return values
