"""Which pixels go into which shard: integers only.

The unit that is dealt out is a *region*, a block-aligned rectangle of an image. Its shard is the low bits of a digest
and the number of shards a power of two: shards come out alike in size, new images do not move the regions of others,
and when the number doubles, shard k and shard k + n hold together what shard k held.
"""

from __future__ import annotations

import array
import collections
import concurrent.futures
import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol, get_type_hints

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.config import Config, Input, Raster
from pipeline.elements import ImageInfo, Region, ShardPlan, digest
from pipeline.inputs.points import centres_of
from pipeline.inputs.slices import slices_of
from transforms.crops import crop_count
from transforms.grid import Box, Cells, Grid

# Some seconds of work: small enough that one huge image spreads over many shards, large enough that a shard opens few
# images and reads neighbouring blocks once.
REGION_PIXELS = 1 << 25
# A window is what is decoded, and what is cut, at a time. Larger ones decode fewer blocks twice where patches cross
# the border between windows; smaller ones keep more cores busy and memory flat.
WINDOW_BYTES = 1 << 24
# Bytes per byte of pixels, roughly, of photographs and slides; decides the number of shards and nothing else.
_ENCODED = {"png": 0.5, "jpeg": 0.12, "raw": 1.0}
_RECORD_OVERHEAD = 300


# Tables of regions: rows that are read together; regions, and characters of their texts, that are gathered in one
# table; tables read at a time.
ROWS = 1 << 12
_GATHERED = 1 << 16
_GATHERED_TEXT = 1 << 28
_READS = 16

_AREA = ("area_row", "area_col", "area_height", "area_width")
# What a manifest gives of an image may be long, and stands once in a table, however many regions the image has.
_TEXTS = ("points", "regions", "meta")
_KINDS = {int: pa.int64(), str: pa.string()}
REGIONS_SCHEMA = pa.schema(
    [
        (name, pa.dictionary(pa.int32(), pa.large_string()) if name in _TEXTS else _KINDS[kind])
        for name, kind in get_type_hints(ImageInfo).items()
    ]
    + [(name, pa.int64()) for name in (*_AREA, "patches", "place")]
)


class Totals(NamedTuple):
    """Of one split: what there is to do.

    Attributes:
        images, regions, windows, patches: their numbers.
        whole_pixels: of the largest image that can only be decoded whole.
        text: characters of points, polygons and further columns, of every region those of its image.
    """

    images: int = 0
    regions: int = 0
    windows: int = 0
    patches: int = 0
    whole_pixels: int = 0
    text: int = 0

    def __add__(self, other: Totals) -> Totals:  # type: ignore[override]
        return Totals(
            self.images + other.images,
            self.regions + other.regions,
            self.windows + other.windows,
            self.patches + other.patches,
            max(self.whole_pixels, other.whole_pixels),
            self.text + other.text,
        )


class Sized(Protocol):
    """Anything with a size in pixels."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


def grid_of(image: Sized, config: Config) -> Grid:
    """The patches of an image."""
    patch = config.patch
    return Grid.of((image.height, image.width), patch.size, patch.steps, patch.edge, patch.dilation, patch.origin)


def patches_of(image: ImageInfo, config: Config) -> int:
    """Number of patches of an image."""
    if config.input.points:
        return len(centres_of(image, config))
    if crops := config.patch.crops:
        return crop_count((image.height, image.width), crops.per_image, crops.per_megapixel)
    return grid_of(image, config).count


def cells_of(region: Region, config: Config) -> Cells:
    """The patches of a region: cells of the grid; of crops and around points their numbers, as one column of cells."""
    if config.patch.crops or config.input.points:
        return Cells(region.row, region.row + region.height, 0, 1)
    return grid_of(region.image, config).cells(region.area)


def regions_of(image: ImageInfo, config: Config) -> Iterator[Region]:
    """The regions of an image that have patches; every patch is in exactly one.

    Random crops and patches around points lie anywhere, so that their regions are no rectangles of pixels but of
    numbers: patches ``row`` to ``row + height``, in one column. Where near-duplicates are left out, all patches of an
    image have to be compared with each other: it is one region.
    """
    undivided = config.quality is not None and config.quality.duplicates is not None
    if config.patch.crops or config.input.points:
        count, (height, width) = patches_of(image, config), config.patch.size
        step = max(1, count) if image.is_whole or undivided else max(1, REGION_PIXELS // (height * width))
        yield from (Region(image, first, 0, min(step, count - first), 1) for first in range(0, count, step))
        return
    grid = grid_of(image, config)
    blocks = (image.height, image.width) if undivided else _tile(image, REGION_PIXELS)
    for area in _areas(image.height, image.width, blocks):
        if grid.cells(area).count:
            yield Region(image, *area)


def windows_of(region: Region, config: Config) -> Iterator[Cells]:
    """The patches of a region in groups that are read and cut together."""
    image, grid = region.image, grid_of(region.image, config)
    height, width = _tile(image, WINDOW_BYTES // pixel_bytes(config))
    patch = config.patch.size[0] * config.patch.size[1] * pixel_bytes(config)
    if config.patch.crops or config.input.points:
        yield from _at_most(max(1, WINDOW_BYTES // patch), cells_of(region, config))
        return
    for area in _areas(region.height, region.width, (height, width)):
        cells = grid.cells(area._replace(row=area.row + region.row, col=area.col + region.col))
        if cells.count:
            yield from _at_most(max(1, 2 * WINDOW_BYTES // patch), cells)


def _at_most(patches: int, cells: Cells) -> Iterator[Cells]:
    """Parts of no more than ``patches``: where they overlap they take more memory than the window behind them."""
    if cells.count <= patches:
        yield cells
    else:
        for half in cells.halves():
            yield from _at_most(patches, half)


def _tile(image: ImageInfo, pixels: int) -> tuple[int, int]:
    """About ``pixels``, square where the blocks allow, in whole blocks."""
    side = pixels // max(int(pixels**0.5), min(image.block_height, image.height))
    width = min(image.width, max(1, side // image.block_width) * image.block_width)
    height = max(1, pixels // width // image.block_height) * image.block_height
    return min(image.height, height), width


def _areas(height: int, width: int, tile: tuple[int, int]) -> Iterator[Box]:
    for row in range(0, height, tile[0]):
        for col in range(0, width, tile[1]):
            yield Box(row, col, min(tile[0], height - row), min(tile[1], width - col))


def pixel_bytes(config: Config) -> int:
    """Bytes of one pixel with all its channels, and of those of the further rasters."""
    forms: list[Input | Raster] = [config.input, *config.input.rasters.values()]
    return sum(form.channels * np.dtype(form.dtype).itemsize for form in forms)


def patch_bytes(config: Config) -> int:
    """Estimated bytes of a record."""
    height, width = config.patch.size
    pixels = height * width * (1 + len(config.patch.scales))
    return int(pixels * pixel_bytes(config) * _ENCODED[config.output.encoding]) + _RECORD_OVERHEAD


def shard_count(patches: int, config: Config) -> int:
    """The smallest power of two of shards whose estimated size stays within ``output.shard_size``.

    >>> from pipeline.config import Config
    >>> config = Config.model_validate({"input": {"images": "a"}, "output": {"path": "b", "shard_size": "10MB"}})
    >>> [shard_count(n, config) for n in (0, 100, 102, 205)]
    [1, 1, 2, 4]
    """
    shards = -(-patches * patch_bytes(config) // config.output.shard_size)
    return 1 << max(0, shards - 1).bit_length()


def shard_of(region: Region, shards: int, config: Config) -> int:
    """The shard of a region: the low bits of the digest of its image, counted on by one from region to region.

    So one large image goes over the shards like cards; with a digest for each region the largest of 256 shards would
    have nearly three times what is its due of 1,200 regions.
    """
    image, (height, width) = region.image, _tile(region.image, REGION_PIXELS)
    number = region.row // height * -(-image.width // width) + region.col // width
    return (digest(config.seed, "shard", image.image_id) + number) & (shards - 1)


def regions_table(infos: Iterable[ImageInfo], config: Config) -> tuple[pa.Table, dict[str, Totals]]:
    """The regions of images as a table, sorted by their splits and places, and what there is to do in each split."""
    totals: dict[str, Totals] = collections.defaultdict(Totals)
    images: list[ImageInfo] = []
    rows = array.array("q")  # the number of the image, and the columns that are of the region
    for info in infos:
        for region in regions_of(info, config):
            measured = _measure(region, config)
            totals[info.split] += measured
            rows.extend((len(images), *region.area, measured.patches, _place(region, config)))
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
            if name in _TEXTS
            else pa.array(values, kind).take(image)
        )
    columns += [pa.array(column) for column in numbers[:, 1:].T]
    return pa.table(columns, schema=REGIONS_SCHEMA), totals


def _place(region: Region, config: Config) -> int:
    """A number of 32 bits by which the regions of a shard follow each other, whatever the number of shards.

    It is the number of the region's shard among 2 ** 32, with its bits turned around: the low bits, which decide the
    shard, come first.
    """
    return _turned(shard_of(region, 1 << 32, config))


def _turned(number: int) -> int:
    """
    >>> hex(_turned(0x3)), hex(_turned(0x80000000))
    ('0xc0000000', '0x1')
    """
    return int(f"{number:032b}"[::-1], 2)


def _read_regions(uri: str, split: str, number: int, of: int) -> pa.Table:
    """What a table of regions has for shard ``number`` of ``of``, in one piece of the file."""
    first = _turned(number)
    places = [("place", ">=", first), ("place", "<", first + (1 << 32) // of)]
    return storage.read_table(uri, [("split", "=", split), *places])


@dataclasses.dataclass
class PlanShards(beam.PTransform):
    """``(split, Totals)`` of slices -> every shard of every split, also those that stay empty: ``(name, URI)``.

    At the URI are the regions of the shard, among those of others; see :func:`read_shard`. Writes ``plan.json`` into
    ``folder``, split -> Totals and number of shards, and the regions in gatherings: what in a plan of fewer shards
    would be one shard.

    Args:
        config: the build.
        folder: with the tables of regions of the slices of the listing.
        images: number of images of the listing.
    """

    config: Config
    folder: str
    images: int

    def expand(self, totals):
        totals = beam.pvalue.AsDict(totals | "Total" >> beam.CombinePerKey(lambda totals: sum(totals, Totals())))
        return (
            totals.pvalue.pipeline
            | "Plan" >> beam.Create([self.folder])
            | "WritePlan" >> beam.FlatMap(_write_plan, self.config, totals).with_output_types(tuple[str, int, int, int])
            | "SpreadGatherings" >> beam.Reshuffle()
            | "Gather" >> beam.FlatMap(_gather, self.folder, self.images).with_output_types(tuple[str, str])
            | "SpreadShards" >> beam.Reshuffle()  # names
        )


def _measure(region: Region, config: Config) -> Totals:
    records = cells_of(region, config).count * config.records_per_patch(region.image.split)
    first = region.row == region.col == 0  # every image has a region there
    whole = region.image.height * region.image.width if region.image.is_whole else 0
    text = sum(len(getattr(region.image, name)) for name in _TEXTS)
    return Totals(int(first), 1, sum(1 for _ in windows_of(region, config)), records, whole, text)


def _write_plan(folder: str, config: Config, totals: dict[str, Totals]) -> Iterator[tuple[str, int, int, int]]:
    """Writes ``plan.json``; which shards are gathered together: split, number, of, and the shards in all."""
    plan = {split: totals.get(split, Totals()) for split in config.splits}
    facts = {split: sums._asdict() | {"shards": shard_count(sums.patches, config)} for split, sums in plan.items()}
    storage.write_bytes(storage.join(folder, "plan.json"), json.dumps(facts).encode())
    for split, of_split in facts.items():
        of = _gatherings(of_split)
        yield from ((split, number, of, of_split["shards"]) for number in range(of))


def _gatherings(facts: dict[str, int]) -> int:
    """Into how many tables the regions of a split are gathered: so many that each fits into memory, and no more."""
    tables = max(-(-facts["regions"] // _GATHERED), -(-facts["text"] // _GATHERED_TEXT))
    return min(facts["shards"], 1 << max(0, tables - 1).bit_length())


def _gather(group: tuple[str, int, int, int], folder: str, images: int) -> Iterator[tuple[str, str]]:
    """Puts the regions of some shards, which lie in the tables of all slices, into one table."""
    split, number, of, shards = group
    read = lambda each: _read_regions(storage.join(folder, each.file("regions")), split, number, of)
    with concurrent.futures.ThreadPoolExecutor(_READS) as pool:
        table = pa.concat_tables(pool.map(read, slices_of(images)))
    uri = storage.join(folder, _gathering(split, number, of))
    storage.write_table(uri, table.sort_by("place"), ROWS)
    yield from ((ShardPlan(split, shard, shards, ()).name, uri) for shard in range(number, shards, of))


def _gathering(split: str, number: int, of: int) -> str:
    return f"plan-{ShardPlan(split, number, of, ()).name}.parquet"


def read_shard(name: str, uri: str) -> ShardPlan:
    """The plan of a shard, from the table that :class:`PlanShards` put its regions into."""
    split, number, _, of = name.split("-")
    table = _read_regions(uri, split, int(number), int(of))
    columns = table.drop_columns(list(_TEXTS)).to_pydict() | {name: _texts(table[name]) for name in _TEXTS}
    images: dict[tuple[Any, ...], ImageInfo] = {}
    regions = [
        Region(images.setdefault(image, ImageInfo(*image)), *area)
        for image, area in zip(zip(*(columns[name] for name in ImageInfo._fields)), zip(*(columns[n] for n in _AREA)))
    ]
    return ShardPlan(split, int(number), int(of), tuple(sorted(regions)))


def _texts(column: pa.ChunkedArray) -> list[str]:
    """The values of a column with dictionaries; equal ones are one string."""
    values = []
    for chunk in column.chunks:
        numbers = chunk.indices.to_pylist()
        text = {number: chunk.dictionary[number].as_py() for number in set(numbers)}
        values += [text[number] for number in numbers]
    return values


def read_plan(folder: str) -> dict[str, dict[str, int]] | None:
    """What :class:`PlanShards` wrote; None while it has not."""
    path = storage.join(folder, "plan.json")
    return json.loads(storage.read_bytes(path)) if storage.size(path) is not None else None


def shard_patches(folder: str, split: str, facts: dict[str, int]) -> np.ndarray:
    """How many patches each shard of a split has that was planned in ``folder``, in no order: [shards] int64.

    Args:
        folder: with the plan.
        split: its name.
        facts: what :func:`read_plan` says of it.
    """
    patches, of = np.zeros(facts["shards"], np.int64), _gatherings(facts)
    for number in range(of):
        table = storage.read_table(storage.join(folder, _gathering(split, number, of)), columns=["place", "patches"])
        turned = table["place"].to_numpy() // ((1 << 32) // facts["shards"])  # the number of the shard, its bits turned
        np.add.at(patches, turned, table["patches"].to_numpy())
    return patches


def largest_to_mean(patches: np.ndarray) -> float:
    """How even shards are: the patches of the largest, in those of the mean; 1 where all are alike, or empty.

    >>> largest_to_mean(np.array([4, 6, 5, 5]))
    1.2
    """
    return float(patches.max() / patches.mean()) if patches.any() else 1.0
