"""The division of an image into patches, regions that are planned and windows that are read. Integers only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from pipeline.config import Config, Input, Patch, Raster
from pipeline.elements import ImageInfo, Region
from pipeline.inputs.points import centres_of
from transforms.crops import crop_count
from transforms.grid import Box, Cells, Grid

# A region is some seconds of work: small enough that one huge image spreads over many shards, large enough that a shard
# opens few images and reads neighbouring blocks once.
REGION_PIXELS = 1 << 25

# A window is decoded and cut as a whole. Larger windows decode fewer blocks twice where patches cross the border
# between windows; smaller windows keep more cores busy and memory flat.
WINDOW_BYTES = 1 << 24


class Sized(Protocol):
    """Anything with a size in pixels."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


def grid_of(image: Sized, patch: Patch) -> Grid:
    """Returns the grid of the patches of an image."""
    return Grid.of((image.height, image.width), patch.size, patch.steps, patch.edge, patch.dilation, patch.origin)


def patches_of(image: ImageInfo, config: Config) -> int:
    """Returns the number of patches of an image."""
    if config.input.points:
        return len(centres_of(image, config.input.points, config.patch))
    if crops := config.patch.crops:
        return crop_count((image.height, image.width), crops.per_image, crops.per_megapixel)
    return grid_of(image, config.patch).count


def cells_of(region: Region, config: Config) -> Cells:
    """Returns the patches of a region: cells of the grid, or for crops and points numbers, as one column of cells."""
    if config.patch.crops or config.input.points:
        return Cells(region.row, region.row + region.height, 0, 1)
    return grid_of(region.image, config.patch).cells(region.area)


def regions_of(image: ImageInfo, config: Config) -> Iterator[Region]:
    """Yields the regions of an image that have patches; every patch is in exactly one.

    Random crops and patches around points lie anywhere, so that their regions are not rectangles of pixels but of
    numbers: patches ``row`` to ``row + height``, in one column. Where near-duplicates are left out, all patches of an
    image have to be compared with each other, so that the image is one region.
    """
    undivided = config.quality is not None and config.quality.duplicates is not None
    if config.patch.crops or config.input.points:
        count, (height, width) = patches_of(image, config), config.patch.size
        step = max(1, count) if image.is_whole or undivided else max(1, REGION_PIXELS // (height * width))
        yield from (Region(image, first, 0, min(step, count - first), 1) for first in range(0, count, step))
        return
    grid = grid_of(image, config.patch)
    blocks = (image.height, image.width) if undivided else region_size(image)
    for area in _areas(image.height, image.width, blocks):
        if grid.cells(area).count:
            yield Region(image, *area)


def windows_of(region: Region, config: Config) -> Iterator[Cells]:
    """Yields the patches of a region in groups that are read and cut together."""
    image, grid = region.image, grid_of(region.image, config.patch)
    height, width = _tile(image, WINDOW_BYTES // pixel_bytes(config.input))
    patch = config.patch.size[0] * config.patch.size[1] * pixel_bytes(config.input)
    if config.patch.crops or config.input.points:
        yield from _at_most(max(1, WINDOW_BYTES // patch), cells_of(region, config))
        return
    for area in _areas(region.height, region.width, (height, width)):
        cells = grid.cells(area._replace(row=area.row + region.row, col=area.col + region.col))
        if cells.count:
            yield from _at_most(max(1, 2 * WINDOW_BYTES // patch), cells)


def _at_most(patches: int, cells: Cells) -> Iterator[Cells]:
    """Yields parts of at most ``patches``: patches that overlap take more memory than the window they are cut from."""
    if cells.count <= patches:
        yield cells
    else:
        for half in cells.halves():
            yield from _at_most(patches, half)


def region_size(image: ImageInfo) -> tuple[int, int]:
    """Returns the rows and columns of the regions of an image, except those at its border."""
    return _tile(image, REGION_PIXELS)


def _tile(image: ImageInfo, pixels: int) -> tuple[int, int]:
    """Returns rows and columns of about ``pixels``, square where the blocks allow, in whole blocks."""
    side = pixels // max(int(pixels**0.5), min(image.block_height, image.height))
    width = min(image.width, max(1, side // image.block_width) * image.block_width)
    height = max(1, pixels // width // image.block_height) * image.block_height
    return min(image.height, height), width


def _areas(height: int, width: int, tile: tuple[int, int]) -> Iterator[Box]:
    for row in range(0, height, tile[0]):
        for col in range(0, width, tile[1]):
            yield Box(row, col, min(tile[0], height - row), min(tile[1], width - col))


def pixel_bytes(wanted: Input) -> int:
    """Returns the bytes of one pixel with all its channels, including those of the companion rasters."""
    forms: list[Input | Raster] = [wanted, *wanted.rasters.values()]
    return sum(form.channels * np.dtype(form.dtype).itemsize for form in forms)
