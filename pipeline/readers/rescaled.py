"""Images with pixels of the configured size, resampled by area from the nearest finer level.

A level whose pixels have exactly this size is read as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.config import Input
from pipeline.errors import Unreadable
from pipeline.readers import Layout, Reader
from pipeline.readers.converted import Choice
from pipeline.readers.isolated import open_isolated
from transforms.affine import Affine
from transforms.grid import Box, PadMode
from transforms.taps import area_taps, scaled_length

# Scanners of one kind differ by some per cent, so a full resolution that is coarser by no more than this factor is
# accepted as the nearest level.
_COARSER = 1.1
_EQUAL = 1e-6


def open_to_scale(uri: str, wanted: Input) -> Reader:
    """Opens an image as ``wanted``, rescaled if ``mpp`` or ``gsd`` is given.

    Raises:
        Unreadable: as in :func:`pipeline.readers.isolated.open_isolated`; ``no_resolution`` where the image does not
            say how large its pixels are; ``no_such_level`` where they are larger than ``wanted``.
    """
    choice = Choice.of(wanted)
    reader = open_isolated(uri, choice, wanted.max_seconds)
    if not (wanted.mpp or wanted.gsd):
        return reader
    try:
        steps = _steps(reader.layout, wanted)
        level = nearest_finer(reader.layout.levels or [reader.layout[:2]], steps)
    except Unreadable:
        reader.close()
        raise
    full = reader.layout
    if level:
        reader.close()
        reader = open_isolated(uri, choice._replace(level=level), wanted.max_seconds)
    return ScaledReader(reader, level, full, steps)


def _steps(layout: Layout, wanted: Input) -> tuple[float, float]:
    """Returns the pixels of full resolution that a wanted pixel covers, down and across."""
    if wanted.mpp:
        size, found, unit = wanted.mpp, layout.mpp, "micrometres (input.mpp)"
    else:
        size, unit = wanted.gsd or 0, "units of its coordinate system (input.gsd)"
        a, b, _, d, e, _ = layout.transform or [0] * 6
        found = (math.hypot(b, e), math.hypot(a, d)) if layout.transform else None
    if not found:
        raise Unreadable("no_resolution", f"does not say how large a pixel is in {unit}")
    if max(found) > size * _COARSER:
        raise Unreadable("no_such_level", f"has pixels of {max(found):g} {unit}, asked for {size:g}; none is made up")
    return size / found[0], size / found[1]


def nearest_finer(sizes: Sequence[Sequence[int]], steps: tuple[float, float]) -> int:
    """Returns the coarsest level whose pixels are no larger than ``steps``, or 0 if there is none.

    Args:
        sizes: height and width of the levels, full resolution first.
        steps: pixels of full resolution, down and across.

    >>> [nearest_finer([(4096, 4096), (1024, 1024), (256, 256)], (step, step)) for step in (1, 3.9, 4, 15, 100)]
    [0, 0, 1, 1, 2]
    """
    fine = lambda size: all(full / n <= step * (1 + _EQUAL) for full, n, step in zip(sizes[0], size, steps))
    return max(level for level, size in enumerate(sizes) if level == 0 or fine(size))


class ScaledReader:
    """An image resampled to pixels of another size, see ``transforms.taps``.

    Attributes:
        source, level: the reader of the source, and its level.
    """

    def __init__(self, source: Reader, level: int, full: Layout, steps: tuple[float, float]):
        self.source, self.level, self.file = source, level, source.file
        read = source.layout
        self._factors = tuple(step * n / f for step, n, f in zip(steps, read[:2], full[:2]))
        sizes = [scaled_length(n, factor) for n, factor in zip(read[:2], self._factors)]
        blocks = [max(1, round(n / factor)) for n, factor in zip((read.block_height, read.block_width), self._factors)]
        transform = full.transform and tuple(Affine(*full.transform).of_pixels(*steps))
        self.layout = read._replace(
            height=sizes[0], width=sizes[1],
            block_height=sizes[0] if read.is_whole else min(blocks[0], sizes[0]),
            block_width=sizes[1] if read.is_whole else min(blocks[1], sizes[1]),
            levels=full.levels or (full[:2],), step=steps, transform=transform,
            mpp=full.mpp and (full.mpp[0] * steps[0], full.mpp[1] * steps[1]),
        )  # fmt: skip

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        return read_by_area(self.source, [np.arange(n) + first for n, first in zip(box[2:], box[:2])], self._factors)

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self.source.close()


class NearestReader:
    """An image resampled to ``size`` by nearest neighbour: each pixel has the source value at its middle."""

    def __init__(self, reader: Reader, size: tuple[int, int]):
        self._reader, self.file = reader, reader.file
        layout = reader.layout
        self._factors = [n / asked for n, asked in zip(layout[:2], size)]
        blocks = size if layout.is_whole else (layout.block_height, layout.block_width)
        self.layout = layout._replace(height=size[0], width=size[1], block_height=blocks[0], block_width=blocks[1])

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        lengths = self._reader.layout[:2]
        rows, cols = (
            np.minimum(((np.arange(n) + first + 0.5) * factor).astype(np.int64), length - 1)
            for first, n, factor, length in zip(box[:2], box[2:], self._factors, lengths)
        )
        row, col = int(rows[0]), int(cols[0])
        pixels = self._reader.read(Box(row, col, int(rows[-1]) + 1 - row, int(cols[-1]) + 1 - col))
        found: np.ndarray = pixels[rows - row][:, cols - col]
        return found

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self._reader.close()


def read_by_area(
    reader: Reader,
    positions: Sequence[np.ndarray],
    factors: Sequence[float],
    pad: tuple[PadMode, PadMode] = ("edge", "edge"),
    pad_value: float = 0,
) -> np.ndarray:
    """Reads pixels of ``factors`` times the size, ``[N, M, C]``, resampled by area.

    Args:
        reader: the image.
        positions: ``[N]`` and ``[M]``: rows and columns, counted in these pixels; need not be whole, nor inside.
        factors: pixels of the image that one of these pixels covers, down and across.
        pad, pad_value: how pixels outside the image are filled.
    """
    import tensorflow as tf  # imported late, because planning does without

    from transforms.weigh import weigh

    axes = [area_taps(p * f, f, n, mode) for p, f, n, mode in zip(positions, factors, reader.layout[:2], pad)]
    (row, height, rows, below), (col, width, cols, behind) = axes
    pixels = reader.read(Box(row, col, height, width))
    if below or behind:
        pixels = np.pad(pixels, ((0, below), (0, behind), (0, 0)), constant_values=pad_value)
    with tf.device("/CPU:0"):  # the CPU rounds products and sums one by one, which gives every worker the same bytes
        return np.asarray(memoryview(weigh(pixels, rows, cols)))
