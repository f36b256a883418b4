"""Stitching, the inverse of cutting: makes an image, or any part of it, from the patches of its grid.

Where patches overlap, they are blended: a pixel is the weighted mean of the pixels of the patches that hold it. The
weight of a pixel is the product of its weights along both axes; pixel ``k`` of ``n`` along an axis has the weight

========  ====================================================================================================
blend     weight
========  ====================================================================================================
average   1
hann      ``sin(pi (k + 1/2) / n)**2``: the Hann window, sampled between its zeros; with half-overlapping
          patches the weights add up to 1
gaussian  ``exp(-((k + 1/2) / n - 1/2)**2 / (2 s**2))`` with ``s = 1/8``, the share of the size that nnU-Net uses
          (Isensee et al., Nature Methods 18, 2021)
crop      1 for the patch whose centre is nearest, the first of equal ones, and 0 for all others
========  ====================================================================================================

All blends restore the image bit for bit when the patches are cut from it, because a mean of equal values in float64
rounds to the value. ``crop`` only copies pixels and so suits classes as well.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from transforms.grid import Axis, Box, Cells, Grid
from transforms.taps import Taps, make_taps
from transforms.weigh import weigh

Blend = Literal["average", "hann", "gaussian", "crop"]


class StitchPlan(NamedTuple):
    """The patches that make up a part of an image, and their weights.

    Attributes:
        cells: the patches that reach into the part.
        rows, cols: the taps of its rows and columns, in the mosaic of these patches laid side by side.
    """

    cells: Cells
    rows: Taps
    cols: Taps


def stitch(patches: np.ndarray, grid: Grid, blend: Blend = "average", fill: float | None = None) -> np.ndarray:
    """Stitches all patches of a grid to the image ``[height, width, C]``.

    Args:
        patches: ``[grid.count, *size, C]`` of any numeric dtype, in the order of the grid.
        grid: the grid that cut the patches.
        blend: how overlapping patches are blended.
        fill: value of the pixels that lie in no patch.

    Raises:
        ValueError: if pixels lie in no patch and there is no ``fill``.

    >>> grid = Grid.of((2, 5), size=(2, 3), stride=(2, 2), edge="drop")
    >>> left, right = [[[1], [2], [3]]] * 2, [[[5], [4], [9]]] * 2
    >>> stitch(np.array([left, right], np.float32), grid)[0, :, 0].tolist()
    [1.0, 2.0, 4.0, 4.0, 9.0]
    """
    plan = plan_stitch(grid, Box(0, 0, grid.rows.length, grid.cols.length), blend)
    missing = int(plan.rows.empty.sum()), int(plan.cols.empty.sum())
    if fill is None and any(missing):
        raise ValueError(
            f"{missing[0]} rows and {missing[1]} columns of the image lie in no patch; edge: pad or shift with a "
            "stride up to the size covers all, or give a fill value for them"
        )
    return stitch_window(patches, plan, fill or 0)


def plan_stitch(grid: Grid, area: Box, blend: Blend) -> StitchPlan:
    """Plans which patches make up ``area``, a part of the image, and with which weights."""
    rows, row_taps = _plan_axis(grid.rows, area.row, area.row + area.height, blend)
    cols, col_taps = _plan_axis(grid.cols, area.col, area.col + area.width, blend)
    return StitchPlan(Cells(rows.start, rows.stop, cols.start, cols.stop), row_taps, col_taps)


def _plan_axis(axis: Axis, first: int, end: int, blend: Blend) -> tuple[range, Taps]:
    """Returns the patches of an axis that reach into ``first .. end - 1``, and the taps of these pixels."""
    patches = axis.touching(first, end)
    starts = np.array([axis.start(index) for index in patches], np.int64)
    pixels = (starts[:, None] + np.arange(axis.size) * axis.dilation).ravel() - first
    weight = np.tile(blend_weights(axis.size, blend), len(patches))
    inside = np.flatnonzero((pixels >= 0) & (pixels < end - first))
    if blend == "crop":  # each pixel keeps only the first of its heaviest contributions
        inside = inside[np.lexsort((-weight[inside], pixels[inside]))]
        inside = inside[np.unique(pixels[inside], return_index=True)[1]]
    return patches, make_taps(pixels[inside], inside, weight[inside], end - first)


def blend_weights(size: int, blend: Blend) -> np.ndarray:
    """Returns the weight of each pixel of a patch along an axis, or for ``crop`` its rank: ``[size]`` float64, above 0.

    >>> blend_weights(4, "hann").round(3).tolist()
    [0.146, 0.854, 0.854, 0.146]
    """
    place = (np.arange(size) + 0.5) / size
    if blend == "average":
        return np.ones(size)
    if blend == "hann":
        return np.sin(np.pi * place) ** 2
    if blend == "gaussian":
        return np.exp(-np.square(place - 0.5) / (2 * 0.125**2))
    if blend == "crop":
        middle = np.arange(size) * 2 - (size - 1)  # integers, so that equal distances are equal
        return size - np.abs(middle).astype(np.float64) / 2
    raise ValueError(f"blend {blend!r} is unknown; use average, hann, gaussian or crop")


def stitch_window(
    patches: np.ndarray, plan: StitchPlan, fill: float = 0, present: np.ndarray | None = None
) -> np.ndarray:
    """Stitches the part of the image that ``plan`` is for: ``[height, width, C]`` in the dtype of the patches.

    Args:
        patches: ``[plan.cells.count, *size, C]``, row by row.
        plan: made by :func:`plan_stitch`.
        fill: value of the pixels that lie in no patch.
        present: ``[plan.cells.count]`` bool: patches that exist; the others count as not cut.
    """
    if not plan.cells.count:
        shape = (len(plan.rows.weight), len(plan.cols.weight), patches.shape[-1])
        return np.full(shape, fill, patches.dtype)
    if present is None or present.all():
        out = np.asarray(weigh(_mosaic(patches, plan.cells), plan.rows, plan.cols))
        known = ~plan.rows.empty[:, None] & ~plan.cols.empty
    else:
        there = np.broadcast_to(present[:, None, None, None], (*patches.shape[:3], 1)).astype(np.float64)
        weight = np.asarray(weigh(_mosaic(there, plan.cells), plan.rows, plan.cols))
        values = np.where(present[:, None, None, None], patches, 0).astype(np.float64)
        total = np.asarray(weigh(_mosaic(values, plan.cells), plan.rows, plan.cols))
        mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        out, known = _as(mean, patches.dtype), weight[..., 0] > 0
    return out if known.all() else np.where(known[..., None], out, np.asarray(fill, patches.dtype))


def _mosaic(patches: np.ndarray, cells: Cells) -> np.ndarray:
    """Lays the patches side by side in one picture, ``[rows * height, columns * width, C]``."""
    down, across = cells.row_to - cells.row_from, cells.col_to - cells.col_from
    _, height, width, channels = patches.shape
    parts = patches.reshape(down, across, height, width, channels)
    return parts.transpose(0, 2, 1, 3, 4).reshape(down * height, across * width, channels)


def _as(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if np.issubdtype(dtype, np.integer):
        values = np.clip(np.round(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return values.astype(dtype)
