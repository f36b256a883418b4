"""The surroundings of patches at coarser scales: as many pixels, around the same centre."""

from __future__ import annotations

import numpy as np

from pipeline.config import Patch
from pipeline.shards.open_image import OpenImage

# Pixels of the source that are read at once for one scale and window; a single patch may take more.
_MAX_PIXELS = 1 << 24


def cut_context(
    image: OpenImage, scale: int, rows: np.ndarray, cols: np.ndarray, margin: int, patch: Patch
) -> np.ndarray:
    """Returns patches of every row with every column, row by row, ``[R * C, H + 2 margin, W + 2 margin, channels]``.

    Each pixel is the mean of ``scale`` times ``scale`` pixels of the image as it is cut, taken from the nearest finer
    level; the patch has the centre of the patch at scale 1, to the fraction of a pixel.

    Args:
        image: the image that is read.
        scale: pixels of the image per pixel of a patch, down and across.
        rows, cols: ``[R]`` and ``[C]``: where the patches at scale 1 begin.
        margin: extra pixels on every side.
        patch: how patches are cut.

    Raises:
        Unreadable: see :class:`pipeline.readers.Reader`.
    """
    parts = _cut(image, scale, np.asarray(rows, np.float64), np.asarray(cols, np.float64), margin, patch)
    return parts.reshape(-1, *parts.shape[2:])


def _cut(
    image: OpenImage, scale: int, rows: np.ndarray, cols: np.ndarray, margin: int, patch: Patch
) -> np.ndarray:  # fmt: skip
    """Returns the patches as ``[R, C, H + 2 margin, W + 2 margin, channels]``."""
    height, width = (size + 2 * margin for size in patch.size)
    factors = image.scale_factors(scale)
    extent = [(starts[-1] - starts[0]) / scale + n for starts, n in ((rows, height), (cols, width))]
    if extent[0] * factors[0] * extent[1] * factors[1] > _MAX_PIXELS and len(rows) * len(cols) > 1:
        if len(rows) >= len(cols):
            middle = len(rows) // 2
            halves = [_cut(image, scale, part, cols, margin, patch) for part in (rows[:middle], rows[middle:])]
            return np.concatenate(halves, axis=0)
        middle = len(cols) // 2
        halves = [_cut(image, scale, rows, part, margin, patch) for part in (cols[:middle], cols[middle:])]
        return np.concatenate(halves, axis=1)
    positions = [
        # In pixels of the scale: half a patch back from the centre of the patch, and on from there.
        ((starts + size / 2) / scale - size / 2)[:, None] + np.arange(-margin, size + margin)
        for starts, size in zip((rows, cols), patch.size)
    ]
    pixels = image.read_scale(scale, [axis.ravel() for axis in positions])
    pixels = pixels.reshape(len(rows), height, len(cols), width, -1)
    return np.ascontiguousarray(pixels.transpose(0, 2, 1, 3, 4))
