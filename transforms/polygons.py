"""Filling polygons: the pixels of a box that lie in a polygon."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transforms.grid import Box


def fill(rings: Sequence[np.ndarray], box: Box) -> np.ndarray:
    """Returns the pixels whose middle lies in a polygon, ``[height, width]`` bool.

    A point is inside if a line from it crosses the rings an odd number of times, so that a ring within another one is a
    hole, whatever their directions. When polygons share an edge, each pixel along it lies in exactly one of them.

    Args:
        rings: ``[K, 2]`` each: x and y of the corners; the last is joined to the first. Pixel ``k`` reaches from ``k``
            to ``k + 1``.
        box: the pixels to fill.

    >>> fill([np.array([[0, 0], [3, 0], [3, 2], [0, 2]])], Box(0, 0, 3, 4)).astype(int).tolist()
    [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    """
    crossings = np.zeros((box.height, box.width + 1), bool)
    for ring in rings:
        (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
        # An edge crosses the middles of the rows y with min(y0, y1) <= y < max(y0, y1): each corner counts once.
        top, bottom = (np.ceil(y - 0.5).astype(np.int64) - box.row for y in (np.minimum(y0, y1), np.maximum(y0, y1)))
        top, bottom = np.clip(top, 0, box.height), np.clip(bottom, 0, box.height)
        count = bottom - top
        edge = np.repeat(np.arange(len(ring)), count)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + top[edge]
        slope = (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
        x = x0[edge] + (row + box.row + 0.5 - y0[edge]) * slope
        col = np.clip(np.ceil(x - 0.5).astype(np.int64) - box.col, 0, box.width)
        np.logical_xor.at(crossings, (row, col), True)
    return np.logical_xor.accumulate(crossings, axis=1)[:, :-1]
