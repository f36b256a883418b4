"""Taps: the source pixels of each result pixel along one axis, with their weights.

Stitching, blending and resampling have in common that every pixel of the result is a weighted sum of a few pixels of
the source, and that each weight is the product of one number for the row and one for the column. ``transforms.weigh``
makes the sums.

Resampling is by area: each pixel of the result is the mean of the source over the square that it covers. The source is
taken as constant within each of its pixels, so a pixel that is half covered counts half (the box kernel, which GDAL
calls ``average`` and OpenCV ``INTER_AREA``). It is defined for any factor, keeps sums, and never gives a value outside
the range of its source.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from transforms.grid import PadMode, source_index

# An edge nearer than this to the border of a pixel counts as on it: factors such as 0.5 / 0.1 are not whole numbers.
_EPSILON = 1e-6


class Taps(NamedTuple):
    """The source pixels of N result pixels along one axis.

    Attributes:
        pixel: ``[N, K]`` int32: pixels of the source. Where a pixel has fewer than K taps, its first tap is repeated.
        weight: ``[N, K]`` float64: the weights of the taps, 0 for repeated ones.
    """

    pixel: np.ndarray
    weight: np.ndarray

    @property
    def empty(self) -> np.ndarray:
        """Pixels without a source, ``[N]`` bool."""
        return np.asarray(self.weight.sum(axis=1) == 0)


def make_taps(target: np.ndarray, source: np.ndarray, weight: np.ndarray, count: int) -> Taps:
    """Makes taps from single contributions and scales the weights of each pixel to the sum 1.

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
    """Returns the pixels of an axis of ``length`` when each new one covers ``factor`` old ones: rounded, at least 1.

    >>> scaled_length(1000, 4), scaled_length(1001, 2.5), scaled_length(1, 16)
    (250, 400, 1)
    """
    return max(1, round(length / factor))


def area_taps(starts: np.ndarray, factor: float, length: int, pad: PadMode) -> tuple[int, int, Taps, bool]:
    """Makes the taps that resample one axis by area.

    Args:
        starts: ``[N]``: where each pixel of the result begins, in pixels of the source; may lie outside the source.
        factor: pixels of the source that each pixel of the result covers.
        length: pixels of the source.
        pad: what lies outside the source, see :func:`transforms.grid.source_index`.

    Returns:
        The first pixel of the source that is needed, the number of needed pixels, the taps relative to the first one,
        and whether a pixel with the constant of ``pad`` is needed after the last one.

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
