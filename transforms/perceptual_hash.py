"""Difference hash of images: 64 bits, made from patches, that are alike for images that look alike.

The patches are averaged to a small picture of 8 x 9 cells, whatever the size of the image. Each bit says whether a cell
is clearly darker than the one to its right (difference hash, Krawetz, 2013; the margin is ours: without it, the bits of
evenly coloured areas would be compression noise). An image that was saved again in another format, quality or size, or
a little lighter, has nearly the same bits.
"""

from __future__ import annotations

import itertools

import numpy as np

from transforms.pixels import LUMA

CELLS = (8, 9)
_MARGIN = 0.01  # fraction of the contrast of the picture
_FLAT = 1e-6  # contrast that comes from rounding only
_LITTLE = 12


def cell_shares(first: int, length: int, step: int, extent: int, cells: int) -> np.ndarray:
    """Returns how much of each pixel of a patch lies in each cell, along one axis.

    Args:
        first: pixel of the image where the patch begins; may lie outside, where pixels count nothing.
        length: pixels of the patch.
        step: pixels of the image from one pixel of the patch to the next.
        extent: pixels of the image.
        cells: number of equal parts that the image is divided into.

    Returns:
        ``[cells, length]`` float64, in pixels of the image.

    >>> cell_shares(first=-1, length=4, step=1, extent=3, cells=2).tolist()
    [[0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.5, 1.0]]
    """
    edges = np.arange(cells + 1)[:, None] * (extent / cells)
    starts = first + step * np.arange(length)
    low, high = np.clip(starts, 0, extent), np.clip(starts + step, 0, extent)
    found: np.ndarray = np.maximum(0.0, np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]))
    return found


def luma_or_mean(patch: np.ndarray) -> np.ndarray:
    """Returns ``[H, W]`` float64 of ``[H, W, C]``: the luma of ITU-R BT.601 of three channels, else their mean."""
    weights = LUMA if patch.shape[-1] == 3 else np.full(patch.shape[-1], 1 / patch.shape[-1])
    found: np.ndarray = np.nan_to_num(patch.astype(np.float64)) @ np.asarray(weights)
    return found


def difference_hash(sums: np.ndarray, weights: np.ndarray, size: tuple[int, int]) -> np.uint64 | None:
    """Returns the 64 bits of an image, or None where they would not distinguish it from other images.

    This is the case where the patches show less than half of a cell, and where the picture holds little, such as one
    thing on an even ground, or a gradient. Such pictures have few different bits; photographs have 20 to 44 set bits.

    Args:
        sums: ``[8, 9]``: sums of the grey values of the patches, weighted with ``weights``.
        weights: ``[8, 9]``: pixels of each cell that the patches show, counted again where patches overlap.
        size: rows and columns of the image.
    """
    if (weights < size[0] * size[1] / (2 * CELLS[0] * CELLS[1])).any():
        return None
    means = sums / weights
    contrast = np.ptp(means)
    if contrast <= _FLAT * np.abs(means).max():
        return None
    darker = means[:, :-1] + _MARGIN * contrast < means[:, 1:]
    if not _LITTLE <= darker.sum() <= darker.size - _LITTLE:
        return None
    return np.uint64(np.packbits(darker).view(">u8")[0])


def pairs_within(a: np.ndarray, b: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions in ``a`` and ``b`` ``[N] uint64`` of all pairs that differ in at most ``distance`` bits.

    When the 64 bits are cut into ``distance + 1`` parts, such a pair has at least one part in common: only pairs with a
    common part are compared.

    >>> [found.tolist() for found in pairs_within(np.uint64([0, 7]), np.uint64([1, 15, 255]), distance=1)]
    [[0, 1], [0, 1]]
    """
    found = []
    cuts = 64 * np.arange(distance + 2) // (distance + 1)
    for low, high in itertools.pairwise(cuts.tolist()):
        mine, theirs = (values >> np.uint64(low) & np.uint64((1 << high - low) - 1) for values in (a, b))
        order = np.argsort(theirs, kind="stable")
        first, last = (np.searchsorted(theirs[order], mine, side) for side in ("left", "right"))
        count = last - first
        here = np.repeat(np.arange(len(a)), count)
        there = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)]
        close = np.bitwise_count(a[here] ^ b[there]) <= distance
        found.append(np.stack([here[close], there[close]]))
    here, there = np.unique(np.concatenate(found, axis=1), axis=1)
    return here, there
