"""Writes a picture larger than memory as a tiled TIFF with reduced levels, from windows that are made one at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tifffile

from pipeline import storage
from transforms.grid import Box

TILE = 512
_TILES = 4  # tiles of a window, side by side
_CLASSIC = 2**32 - 2**25  # bytes that a TIFF with offsets of 32 bits holds for sure

Read = Callable[[Box], np.ndarray]


def write_pyramid(path: str, shape: tuple[int, int, int], dtype: np.dtype, read: Read, *, average: bool = True) -> None:
    """Writes a TIFF whose first image is the picture and whose next ones are half as large each, down to one tile.

    Values are compressed without loss; the file appears when it is complete. Memory holds one window of 512 x 2048
    pixels; levels wait in a temporary folder, which takes a third of the picture's bytes.

    Args:
        path: a local file.
        shape: height, width, channels of the picture.
        dtype: dtype of its values.
        read: makes the pixels ``[height, width, channels]`` of a box, called once for every window.
        average: whether reduced pixels are means of 2 x 2, rounded as in NumPy; else the upper left one, for classes.
    """
    big = shape[0] * shape[1] * shape[2] * dtype.itemsize * 4 // 3 > _CLASSIC
    with (
        storage.atomic_write(path) as file,
        tifffile.TiffWriter(file, bigtiff=big) as tiff,
        tempfile.TemporaryDirectory() as work,
    ):
        level = 0
        while True:
            last = max(shape[:2]) <= TILE
            reduced = (-(-shape[0] // 2), -(-shape[1] // 2), shape[2])
            below = None if last else _Store(os.path.join(work, f"{level + 1}.raw"), reduced, dtype)
            tiles = _tiles(shape, read, below, average)
            stored = shape if shape[2] > 1 else shape[:2]
            tiff.write(tiles, shape=stored, dtype=dtype, tile=(TILE, TILE), **_form(shape, dtype, level))
            if below is None:
                return
            shape, read, level = reduced, below.read, level + 1


def _form(shape: tuple[int, int, int], dtype: np.dtype, level: int) -> dict[str, Any]:
    colour = shape[2] in (3, 4) and dtype in (np.uint8, np.uint16)
    return {
        "photometric": "rgb" if colour else "minisblack",
        "planarconfig": "contig" if shape[2] > 1 else None,
        "compression": "deflate",
        "predictor": True,
        "subfiletype": 1 if level else 0,  # bit 0: a reduced-resolution version of another image (TIFF 6.0, page 36)
        "metadata": None,
        "software": "patchbeam",
    }


def _tiles(shape: tuple[int, int, int], read: Read, below: _Store | None, average: bool) -> Iterator[np.ndarray]:
    """Yields the tiles of a level from left to right and from top to bottom, and fills the level below on the way."""
    for row in range(0, shape[0], TILE):
        for col in range(0, shape[1], _TILES * TILE):
            box = Box(row, col, min(TILE, shape[0] - row), min(_TILES * TILE, shape[1] - col))
            pixels = read(box)
            if below:
                below.write(row // 2, col // 2, halved(pixels, average))
            for start in range(0, box.width, TILE):
                tile = np.zeros((TILE, TILE, shape[2]), pixels.dtype)
                part = pixels[:, start : start + TILE]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile if shape[2] > 1 else tile[..., 0]


def halved(pixels: np.ndarray, average: bool) -> np.ndarray:
    """Halves height and width, rounded up; a last odd row or column counts twice.

    >>> halved(np.array([[[1], [2], [7]]], np.uint8), average=True)[..., 0].tolist()
    [[2, 7]]
    """
    if not average:
        return pixels[::2, ::2]
    height, width = pixels.shape[:2]
    pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    mean = pixels.reshape(-(-height // 2), 2, -(-width // 2), 2, -1).mean(axis=(1, 3), dtype=np.float64)
    found: np.ndarray = (np.round(mean) if np.issubdtype(pixels.dtype, np.integer) else mean).astype(pixels.dtype)
    return found


class _Store:
    """Pixels of a level on disk."""

    def __init__(self, path: str, shape: tuple[int, int, int], dtype: np.dtype):
        self._path, self._shape, self._dtype = path, shape, dtype
        with open(path, "wb") as file:
            file.truncate(int(np.prod(shape, dtype=object)) * dtype.itemsize)

    def _map(self, mode: Any) -> np.ndarray:
        """Maps the file for one access only: pages that stay mapped would count as memory of this process."""
        return np.memmap(self._path, self._dtype, mode, shape=self._shape)

    def write(self, row: int, col: int, pixels: np.ndarray) -> None:
        self._map("r+")[row : row + pixels.shape[0], col : col + pixels.shape[1]] = pixels

    def read(self, box: Box) -> np.ndarray:
        return np.array(self._map("r")[box.row : box.row + box.height, box.col : box.col + box.width])
