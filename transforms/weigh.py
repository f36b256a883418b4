"""Weighted sums of pixels along the two axes of an image, one axis after the other; see ``transforms.taps``."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from transforms.taps import Taps


def weigh(pixels: np.ndarray | tf.Tensor, rows: Taps, cols: Taps) -> tf.Tensor:
    """Computes the weighted sums ``[N, M, C]`` of ``pixels [H, W, C]``, in the dtype of the pixels.

    Sums are made in float32 for integers of 8 and 16 bits and in float64 for all other types, so that the mean of equal
    values is that value. Rows are summed before columns, and taps in their order, so that a pixel of the result does
    not depend on its neighbours in the call. Integers are rounded, halves to the even neighbour. Where every pixel has
    one tap, values are only copied; a pixel without taps is 0.
    """
    return _traced(tf.as_dtype(pixels.dtype))(pixels, *rows, *cols)


@functools.cache
def _traced(dtype: tf.DType) -> tf.types.experimental.PolymorphicFunction:
    """Returns the function with one trace for all sizes and numbers of taps."""
    index, weight = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.float64)
    exact = tf.float32 if dtype.is_integer and dtype.size <= 2 else tf.float64
    # Weight 0 gives 0 even for a NaN, which must not spread to pixels that do not use it.
    times = tf.multiply if dtype.is_integer else tf.math.multiply_no_nan

    def along(pixels: tf.Tensor, index: tf.Tensor, weight: tf.Tensor, axis: int) -> tf.Tensor:
        shape, weight = [-1, 1, 1] if axis == 0 else [1, -1, 1], tf.cast(weight, exact)
        tap = lambda k: tf.cast(tf.gather(pixels, index[:, k], axis=axis), exact)
        term = lambda k: times(tap(k), tf.reshape(weight[:, k], shape))
        more = lambda k, total: (k + 1, total + term(k))
        shapes = (tf.TensorShape([]), tf.TensorShape([None, None, None]))
        return tf.while_loop(lambda k, _: k < tf.shape(index)[1], more, (1, term(0)), shapes)[1]

    def finished(total: tf.Tensor) -> tf.Tensor:
        if dtype.is_integer:
            total = tf.clip_by_value(tf.round(total), dtype.min, dtype.max)
        return tf.cast(total, dtype)

    def copied(
        pixels: tf.Tensor, rows: tf.Tensor, cols: tf.Tensor, row_weight: tf.Tensor, col_weight: tf.Tensor
    ) -> tf.Tensor:
        picked = tf.gather(tf.gather(pixels, rows[:, 0]), cols[:, 0], axis=1)
        known = (row_weight[:, 0] > 0)[:, None, None] & (col_weight[:, 0] > 0)[None, :, None]
        return tf.cond(tf.reduce_all(known), lambda: picked, lambda: tf.where(known, picked, tf.zeros([], dtype)))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None], dtype), index, weight, index, weight])  # type: ignore[untyped-decorator]
    def weighted(
        pixels: tf.Tensor, rows: tf.Tensor, row_weight: tf.Tensor, cols: tf.Tensor, col_weight: tf.Tensor
    ) -> tf.Tensor:
        single = (tf.shape(rows)[1] == 1) & (tf.shape(cols)[1] == 1)
        return tf.cond(
            single,
            lambda: copied(pixels, rows, cols, row_weight, col_weight),
            lambda: finished(along(along(pixels, rows, row_weight, 0), cols, col_weight, 1)),
        )

    return weighted
