"""Puts an image together again: from the patches of a dataset, or from the predictions of a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import Config
from pipeline.dataset.reading import Dataset
from pipeline.dataset.tiff_pyramid import write_pyramid
from pipeline.elements import index_file
from pipeline.errors import UsageError
from pipeline.planning.geometry import grid_of
from transforms.example import patch_key
from transforms.grid import Box, Cells
from transforms.stitch import Blend, plan_stitch, stitch_window


class Source(NamedTuple):
    """Patches by their keys.

    Attributes:
        read: key -> ``[height, width, channels]``.
        keys: keys of the patches that exist.
        channels, dtype: channels and dtype of all patches.
    """

    read: Callable[[str], np.ndarray]
    keys: set[str]
    channels: int
    dtype: np.dtype


class Stitched(NamedTuple):
    """The result: the shape of the picture, the number of its patches, and the number of missing ones."""

    shape: tuple[int, int, int]
    patches: int
    missing: int


def stitch_image(
    dataset: Dataset,
    image_id: str,
    path: str,
    *,
    predictions: str | None = None,
    raster: str | None = None,
    blend: Blend = "average",
    labels: bool = False,
    fill: float = 0,
) -> Stitched:
    """Writes one image of a dataset as a tiled TIFF with reduced levels, window by window.

    Args:
        dataset: a complete version.
        image_id: identity of the image.
        path: the local file to write.
        predictions: a local folder, see :func:`open_predictions`; without it the patches themselves.
        raster: name of a companion raster, whose patches are taken in place of those of the image.
        blend: what happens where patches overlap, see ``transforms.stitch``.
        labels: whether the values are classes, never averaged: overlaps are cropped, reduced levels are picked.
        fill: value of the pixels that lie in no patch.

    Raises:
        UsageError: if the image or the predictions are missing or do not fit.
    """
    config = dataset.config
    if config.patch.crops or config.input.points:
        how = "random crops" if config.patch.crops else "patches around points"
        raise UsageError(f"{dataset.folder}: {how} do not cover an image; stitch a dataset that is cut in a grid")
    grid = grid_of(_size_of(dataset, image_id), config.patch)
    level = config.input.level
    if predictions and raster:
        raise UsageError("--predictions and --raster: use one of them")
    source = open_predictions(predictions, image_id, config) if predictions else open_patches(dataset, image_id, raster)
    keys = lambda cells: [
        patch_key(image_id, level, grid.rows.start(row), grid.cols.start(col))
        for row in range(cells.row_from, cells.row_to)
        for col in range(cells.col_from, cells.col_to)
    ]
    shape = (grid.rows.length, grid.cols.length, source.channels)

    def read(box: Box) -> np.ndarray:
        plan = plan_stitch(grid, box, "crop" if labels else blend)
        wanted = keys(plan.cells)
        present = np.array([key in source.keys for key in wanted], bool)
        patches = np.zeros((len(wanted), *config.patch.size, source.channels), source.dtype)
        for number in np.flatnonzero(present):
            patches[number] = source.read(wanted[number])
        return stitch_window(patches, plan, fill, present)

    write_pyramid(path, shape, source.dtype, read, average=not labels)
    there = sum(key in source.keys for key in keys(Cells(0, grid.rows.count, 0, grid.cols.count)))
    return Stitched(shape, there, grid.count - there)


class _Size(NamedTuple):
    height: int
    width: int


def _size_of(dataset: Dataset, image_id: str) -> _Size:
    with storage.open_read(storage.join(dataset.folder, "images.parquet")) as file:
        table = pq.read_table(file, columns=["height", "width"], filters=[("image_id", "=", image_id)])
    rows = table.to_pylist()
    if not rows or rows[0]["height"] is None:
        what = "was rejected as a whole, see rejected.jsonl" if rows else "is not there; images.parquet lists all"
        raise UsageError(f"--image {image_id}: {what} in {dataset.folder}")
    return _Size(rows[0]["height"], rows[0]["width"])


def open_patches(dataset: Dataset, image_id: str, raster: str | None = None) -> Source:
    """Opens the patches of an image, or of one of its companion rasters, as they are in the dataset.

    Raises:
        UsageError: if there is no such raster.
    """
    rasters, name = [*dataset.config.input.rasters], f"raster/{raster}" if raster else "image"
    if raster and raster not in rasters:
        raise UsageError(f"--raster {raster}: is not in {dataset.folder}; there are {', '.join(rasters) or 'none'}")
    rows: dict[str, dict[str, Any]] = {}
    for shard in dataset.shard_table()["shard"].to_pylist():
        with storage.open_read(storage.join(dataset.folder, index_file(shard))) as file:
            columns = ["key", "shard", f"{name}_offset", f"{name}_length"]
            table = pq.read_table(file, columns=columns, filters=[("image_id", "=", image_id)])
        rows |= {row["key"]: row for row in table.to_pylist()}
    form = dataset.config.forms[name]
    return Source(lambda key: dataset.patch(rows[key], name), set(rows), form.channels, np.dtype(form.dtype))


def open_predictions(folder: str, image_id: str, config: Config) -> Source:
    """Opens the predictions of a model for patches, saved by any framework.

    The folder holds pairs of files: ``NAME.npy``, an array ``[N, height, width]`` or ``[N, height, width, C]`` of the
    size of a patch, or ``[N, C]`` with a prediction for each patch as a whole, and ``NAME.keys``, a text with the
    ``key`` of a patch in each of its N lines. Arrays may be larger than memory; objects are not unpickled.

    Raises:
        UsageError: if a file is missing, or does not fit the others or the dataset.
    """
    places: dict[str, tuple[str, int]] = {}
    arrays: dict[str, np.memmap] = {}
    names = sorted(n for n in os.listdir(folder) if n.endswith(".npy")) if os.path.isdir(folder) else []
    if not names:
        raise UsageError(f"--predictions {folder}: holds no NAME.npy with a NAME.keys beside it")
    for name in names:
        path = os.path.join(folder, name)
        arrays[path] = _open_array(path, config.patch.size)
        for number, key in enumerate(_keys(path.removesuffix(".npy") + ".keys", len(arrays[path]))):
            if key.startswith(f"{image_id}#"):
                places[key] = (path, number)
    kinds = {(_channels(array), array.dtype) for array in arrays.values()}
    if len(kinds) > 1:
        raise UsageError(f"--predictions {folder}: the arrays differ in channels or dtype: {sorted(map(str, kinds))}")
    if not places:
        raise UsageError(f"--predictions {folder}: no key of {image_id!r} is there")
    ((channels, dtype),) = kinds

    def read(key: str) -> np.ndarray:
        path, number = places[key]
        array, size = arrays[path], arrays[path][:1].nbytes
        # Read from the file, since pages of the memory map would stay in the memory of the process.
        values = np.fromfile(path, array.dtype, size // array.itemsize, offset=array.offset + number * size)
        whole = array.ndim == 2
        return values.reshape((1, 1, channels) if whole else (*config.patch.size, channels))

    return Source(read, set(places), channels, dtype)


def _channels(array: np.ndarray) -> int:
    return array.shape[1] if array.ndim == 2 else array.shape[3] if array.ndim == 4 else 1


def _open_array(path: str, size: tuple[int, int]) -> np.memmap:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if array.ndim not in (2, 3, 4) or (array.ndim > 2 and array.shape[1:3] != size):
        raise UsageError(
            f"{path}: has the shape {array.shape}; expected [N, {size[0]}, {size[1]}(, C)], or [N, C] for one "
            "prediction for each patch"
        )
    if array.dtype.kind not in "uif" or not array.flags.c_contiguous:
        raise UsageError(f"{path}: {array.dtype} in this order is not read; save np.ascontiguousarray of numbers")
    found: np.memmap = array
    return found


def _keys(path: str, count: int) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            keys = file.read().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(keys) != count:
        raise UsageError(f"{path}: has {len(keys)} lines for {count} predictions")
    return keys
