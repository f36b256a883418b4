"""Cutting a window of an image into patches with TensorFlow.

A *window* is the part of an image that is in memory: ``[height, width, channels]`` of any dtype and any number of
channels. Two small integer vectors, made by :func:`plan_window`, say which row and column of the window fills each row
and column of the padded area; the cutting itself is one traced function for windows of all sizes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from transforms.grid import Axis, Box, Cells, Grid, PadMode, source_index


class WindowPlan(NamedTuple):
    """The box to read and how to cut it.

    Attributes:
        source: the pixels of the image to read.
        row_fill, col_fill: ``[H']``, ``[W']`` int32: the row and column of the window that fills each row and column
            of the padded area, -1 for the constant.
        rows, cols: ``[R]``, ``[C]`` int32: first rows and first columns of the patches in the padded area.
        starts: ``[R * C, 2]`` int64: row and column of every patch in the image, row by row.
    """

    source: Box
    row_fill: np.ndarray
    col_fill: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    starts: np.ndarray


def plan_window(grid: Grid, cells: Cells, pad: PadMode | tuple[PadMode, PadMode], margin: int = 0) -> WindowPlan:
    """Plans what to read for the patches ``cells`` of ``grid``, and where they lie in it.

    ``pad`` is one mode for both axes, or one for rows and one for columns. Every patch is cut with ``margin`` more
    pixels on every side, from the image or, beyond its border, filled by ``pad``; ``starts`` ignores the margin.

    >>> grid = Grid.of((5, 9), size=(4, 4), stride=(3, 3), edge="pad")
    >>> plan = plan_window(grid, Cells(1, 2, 0, 1), "reflect")
    >>> plan.source, plan.row_fill.tolist()
    (Box(row=2, col=0, height=3, width=4), [1, 2, 1, 0])
    """
    row_pad, col_pad = (pad, pad) if isinstance(pad, str) else pad
    row, height, row_fill, row_starts = _plan_axis(grid.rows, cells.row_from, cells.row_to, row_pad, margin)
    col, width, col_fill, col_starts = _plan_axis(grid.cols, cells.col_from, cells.col_to, col_pad, margin)
    starts = np.stack(np.meshgrid(row_starts, col_starts, indexing="ij"), axis=-1).reshape(-1, 2)
    rows, cols = ((s - s[0]).astype(np.int32) for s in (row_starts, col_starts))
    return WindowPlan(Box(row, col, height, width), row_fill, col_fill, rows, cols, starts)


def _plan_axis(axis: Axis, first: int, end: int, pad: PadMode, margin: int) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Returns the first pixel to read, the number of pixels, the fill and the starts along one axis.

    The fill is ``[L]`` int32, relative to the first pixel; the starts are ``[end - first]`` int64.
    """
    starts = np.array([axis.start(i) for i in range(first, end)], np.int64)
    around = margin * axis.dilation
    index = source_index(np.arange(starts[0] - around, starts[-1] + axis.span + around), axis.length, pad)
    low = int(index[index >= 0].min())
    fill = np.where(index >= 0, index - low, -1).astype(np.int32)
    return low, int(index.max()) + 1 - low, fill, starts


def make_cutter(
    size: tuple[int, int], channels: int, dtype: str, pad_value: float = 0, dilation: tuple[int, int] = (1, 1)
) -> tf.types.experimental.PolymorphicFunction:
    """Returns the traced function behind :func:`cut`: one trace serves windows and patch counts of all sizes.

    Args:
        size: rows and columns of a patch.
        channels: channels of the image.
        dtype: NumPy name of the dtype of the image, e.g. ``"uint16"``.
        pad_value: value of ``constant`` padding.
        dilation: distance between neighbouring pixels of a patch, in pixels of the image, down and across.

    Returns:
        ``f(window [h, w, channels], row_fill [H'], col_fill [W'], rows [R], cols [C]) -> [R * C, *size, channels]``,
        with the int32 vectors of :class:`WindowPlan`.
    """
    kind = tf.dtypes.as_dtype(dtype)
    constant = np.asarray(pad_value, dtype)
    signature = [tf.TensorSpec([None, None, channels], kind)] + 4 * [tf.TensorSpec([None], tf.int32)]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def cut_window(
        window: tf.Tensor, row_fill: tf.Tensor, col_fill: tf.Tensor, rows: tf.Tensor, cols: tf.Tensor
    ) -> tf.Tensor:
        window = tf.cond(_counts(row_fill), lambda: window, lambda: _fill(window, row_fill, 0, constant))
        window = tf.cond(_counts(col_fill), lambda: window, lambda: _fill(window, col_fill, 1, constant))
        regular = _counts(rows, size[0]) & _counts(cols, size[1]) & (dilation == (1, 1))
        return tf.cond(
            regular,
            lambda: _side_by_side(window, rows, cols, size),
            lambda: _anywhere(window, rows, cols, size, dilation),
        )

    return cut_window


def _counts(index: tf.Tensor, step: int = 1) -> tf.Tensor:
    """Says whether a vector counts up from 0 in steps."""
    return tf.reduce_all(tf.equal(index, step * tf.range(tf.size(index))))


def _pick(window: tf.Tensor, index: tf.Tensor, axis: int, constant: np.ndarray) -> tf.Tensor:
    """Gathers rows or columns of a window by index, with the constant where the index is -1."""
    filled = tf.gather(window, tf.maximum(index, 0), axis=axis)
    inside = tf.reshape(index >= 0, [-1, 1, 1] if axis == 0 else [1, -1, 1])
    return tf.where(inside, filled, tf.constant(constant))


def _fill(window: tf.Tensor, index: tf.Tensor, axis: int, constant: np.ndarray) -> tf.Tensor:
    """Gathers like :func:`_pick`, but copies the first run of neighbours at once: all of the window of most images."""
    follows = (index[1:] == index[:-1] + 1) & (index[:-1] >= 0)
    first = tf.argmax(follows, output_type=tf.int32)
    length = tf.reduce_sum(tf.math.cumprod(tf.cast(follows[first:], tf.int32))) + 1
    length = tf.where(tf.reduce_any(follows), length, 0)
    start, shape = tf.where(length > 0, index[first], 0), tf.shape(window)
    if axis == 0:
        core = tf.slice(window, [start, 0, 0], [length, shape[1], window.shape[-1]])
    else:
        core = tf.slice(window, [0, start, 0], [shape[0], length, window.shape[-1]])
    before, after = index[:first], index[first + length :]
    return tf.concat([_pick(window, before, axis, constant), core, _pick(window, after, axis, constant)], axis)


def _side_by_side(window: tf.Tensor, rows: tf.Tensor, cols: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Cuts patches without gaps or overlap in one copy, where :func:`_anywhere` needs two."""
    channels = window.shape[-1]
    window = window[: tf.size(rows) * size[0], : tf.size(cols) * size[1]]
    parts = tf.reshape(window, [tf.size(rows), size[0], tf.size(cols), size[1], channels])
    return tf.reshape(tf.transpose(parts, [0, 2, 1, 3, 4]), [-1, *size, channels])


def _anywhere(
    window: tf.Tensor, rows: tf.Tensor, cols: tf.Tensor, size: tuple[int, int], dilation: tuple[int, int]
) -> tf.Tensor:
    """Cuts the patches at every pair of a row and a column."""
    patch = tf.TensorSpec([*size, window.shape[-1]], window.dtype)
    corners = tf.reshape(tf.stack(tf.meshgrid(rows, cols, indexing="ij"), axis=-1), [-1, 2])
    if dilation == (1, 1):
        slice_at = lambda corner: tf.slice(window, [corner[0], corner[1], 0], patch.shape)
    else:
        down, across = (tf.range(size[axis]) * dilation[axis] for axis in (0, 1))
        slice_at = lambda corner: tf.gather(tf.gather(window, corner[0] + down), corner[1] + across, axis=1)
    return tf.map_fn(slice_at, corners, fn_output_signature=patch)


def cut(cutter: tf.types.experimental.PolymorphicFunction, window: np.ndarray, plan: WindowPlan) -> np.ndarray:
    """Cuts the patches of a window: a read-only array ``[N, *size, C]`` of the window's dtype.

    Args:
        cutter: made by :func:`make_cutter` for this patch size, number of channels and dtype.
        window: the pixels of ``plan.source``, ``[h, w, C]``.
        plan: made by :func:`plan_window`.
    """
    patches = cutter(window, plan.row_fill, plan.col_fill, plan.rows, plan.cols)
    return np.asarray(memoryview(patches))  # shares the tensor's memory; .numpy() would copy
