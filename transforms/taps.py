"""Where pixels come from, along one axis: *taps*, with the weights that they count with.

What stitching, blending and resampling have in common: every pixel of the result is a weighted sum of a few pixels of
the source, and the weights are products of one number for the row and one for the column. ``transforms.weigh`` makes
the sums.

Other sizes of pixels are made by area: each pixel of the result is the mean of the source over the square that it
covers. The source is taken as constant within each of its pixels, so a pixel that is covered by half counts half (the
box kernel; GDAL calls it ``average`` and OpenCV ``INTER_AREA``). It is defined for any factor, keeps sums, and never
makes up a value outside the range of its source.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from transforms.grid import PadMode, source_index

# Nearer to the border of a pixel than this an edge lies on it: factors such as 0.5 / 0.1 are no whole numbers.
_EPSILON = 1e-6


class Taps(NamedTuple):
    """Where the pixels of one axis come from.

    Attributes:
        pixel: ``[N, K]`` int32: pixels of the source. Where a pixel has fewer than K taps, the first stands again.
        weight: ``[N, K]`` float64: their weights, 0 for those that stand again.
    """

    pixel: np.ndarray
    weight: np.ndarray

    @property
    def empty(self) -> np.ndarray:
        """``[N]`` bool: pixels that come from nowhere."""
        return np.asarray(self.weight.sum(axis=1) == 0)


def make_taps(target: np.ndarray, source: np.ndarray, weight: np.ndarray, count: int) -> Taps:
    """Taps from single contributions, with the weights of each pixel scaled to the sum 1.

    Args:
        target: ``[M]`` integers in ``0 .. count - 1``: the pixel of the result.
        source: ``[M]`` integers: the pixel of the source.
        weight: ``[M]``, above 0.
        count: pixels of the result.

    >>> taps = make_taps(np.array([0, 2, 2]), np.array([5, 6, 7]), np.array([1, 1, 3]), count=3)
    >>> taps.pixel.tolist(), taps.weight.tolist()
    ([[5, 5], [0, 0], [6, 7]], [[1.0, 0.0], [0.0, 0.0], [0.25, 0.75]])
    """
    order = np.argsort(target, kind="stable")
    target, source, weight = target[order], source[order], np.asarray(weight, np.float64)[order]
    each = np.bincount(target, minlength=count)
    first = np.cumsum(each) - each
    slot = np.arange(len(target)) - first[target]
    width = max(1, int(each.max(initial=0)))
    index = np.zeros((count, width), np.int32)
    index[each > 0] = source[first[each > 0], None]
    weights = np.zeros((count, width))
    index[target, slot], weights[target, slot] = source, weight
    total = weights.sum(axis=1, keepdims=True)
    return Taps(index, np.divide(weights, total, out=weights, where=total > 0))


def scaled_length(length: int, factor: float) -> int:
    """Pixels of an axis of ``length`` when each takes ``factor`` of them: the nearest whole number, and at least 1.

    >>> scaled_length(1000, 4), scaled_length(1001, 2.5), scaled_length(1, 16)
    (250, 400, 1)
    """
    return max(1, round(length / factor))


def area_taps(starts: np.ndarray, factor: float, length: int, pad: PadMode) -> tuple[int, int, Taps, bool]:
    """Where the pixels of one axis of the result come from.

    Args:
        starts: ``[N]``: where each pixel of the result begins, in pixels of the source; may lie outside of it.
        factor: pixels of the source that each takes.
        length: pixels of the source.
        pad: what lies outside of it, see :func:`transforms.grid.source_index`.

    Returns:
        The first pixel of the source that is needed, their number, the taps relative to the first one, and whether
        the pixel behind the last one is needed, too: the one with the constant of ``pad``.

    >>> first, count, taps, _ = area_taps(np.array([3.0, 5.5]), 2.5, 20, "reflect")
    >>> first, count, taps.pixel.tolist(), taps.weight.tolist()
    (3, 5, [[0, 1, 2], [2, 3, 4]], [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
    """
    low, high = (np.where(abs(e - np.rint(e)) < _EPSILON, np.rint(e), e) for e in (starts, starts + factor))
    first, last = np.floor(low).astype(np.int64), np.ceil(high).astype(np.int64)
    position = first[:, None] + np.arange(int((last - first).max()))
    share = np.minimum(position + 1, high[:, None]) - np.maximum(position, low[:, None])
    target, slot = np.nonzero(share > 0)
    pixel = source_index(position[target, slot], length, pad)
    inside = pixel >= 0
    start = int(pixel[inside].min()) if inside.any() else 0
    count = int(pixel.max()) + 1 - start if inside.any() else 1
    taps = make_taps(target, np.where(inside, pixel - start, count), share[target, slot], len(starts))
    return start, count, taps, not inside.all()
