"""Scores of patches: tissue, sharpness, entropy, clipping, missing data, and a fingerprint for near-duplicates.

All scores are measured on 8 evenly spaced rows of a patch, with all columns and channels (some rows of a patch with
fewer rows count twice); entropy and clipping use 64 of the columns. That is some 2,000 pixels of a patch of 256 x 256,
enough to tell a blurred patch from a sharp one, and keeps the scores far cheaper than the encoding of the same patch.
All sums are sums of integers, and so the same in any order, in any batch and on any device.

============  ========================================================================================================
score         meaning
============  ========================================================================================================
tissue        fraction of pixels whose saturation in HSV exceeds a threshold and that are not black; RGB only, else NaN
sharpness     variance of the Laplacian (4 neighbours, border repeated) of the grey value, in units of 0..255; low means
              blurred (Pech-Pacheco et al., 2000, "Diatom autofocusing in brightfield microscopy")
entropy       of the distribution of the values of all channels in 256 bins, in bits: 0 for one value, at most 8
clipped_low   fraction of values at or below the lowest one of the range
clipped_high  fraction of values at or above the highest one
nodata        fraction of pixels that have the nodata value, or for floats NaN, in every channel
fingerprint   64 bits that look alike for patches that look alike (difference hash, Krawetz, 2013)
============  ========================================================================================================

The *range* of the values is 0..255 for uint8. For uint16 and float32 it is an argument, and values are scaled to it in
65,536 steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from transforms.compiled import Compiled
from transforms.pixels import luma_weights

ROWS = 8
_COLUMNS = 64  # columns for entropy and clipping
NAMES = ("tissue", "sharpness", "entropy", "clipped_low", "clipped_high", "nodata")
_BATCHES = (8, 64)  # numbers of patches that are measured together; smaller batches are filled up
# Of 256: darker pixels are the black of a scanner, whose saturation is noise.
_BLACK = 16
_PARTS = 9  # parts of a row, for 8 differences


class Scores(NamedTuple):
    """The scores of N patches, ``[N]`` float32 each, and ``fingerprint [N]`` uint64."""

    tissue: np.ndarray
    sharpness: np.ndarray
    entropy: np.ndarray
    clipped_low: np.ndarray
    clipped_high: np.ndarray
    nodata: np.ndarray
    fingerprint: np.ndarray

    def take(self, which: np.ndarray) -> Scores:
        """Returns the scores of some of the patches; ``which`` is an index or a mask."""
        return Scores(*(column[which] for column in self))


def score(
    patches: np.ndarray,
    value_range: tuple[float, float] = (0, 255),
    nodata: float | None = None,
    tissue_threshold: int = 0,
) -> Scores:
    """Measures the scores of ``patches [N, H, W, C]`` of uint8, uint16 or float32.

    Args:
        patches: at least one row, column and channel.
        value_range: lowest and highest value; not used for uint8.
        nodata: the value of pixels without data; with None, only NaN counts.
        tissue_threshold: saturation, 0..255, above which a pixel is tissue, see :func:`otsu`.

    >>> flat = np.full((1, 20, 20, 1), 7, np.uint8)
    >>> found = score(flat, nodata=7)
    >>> found.sharpness.tolist(), found.entropy.tolist(), found.nodata.tolist()
    ([0.0], [0.0], [1.0])
    """
    height = patches.shape[1]
    middle = (2 * np.arange(ROWS) + 1) * height // (2 * ROWS)
    around = [np.maximum(middle - 1, 0), middle, np.minimum(middle + 1, height - 1)]
    sampled = np.s_[:, :, :: max(1, patches.shape[2] // _COLUMNS)]
    if patches.dtype == np.uint8:
        rows = patches[:, np.stack(around)]
        share = _shares(rows[:, 1][sampled])
        clipped_low, clipped_high = share[:, 0], share[:, 255]
    else:
        rows = _scale(patches[:, np.stack(around)], value_range)
        share = _shares((rows[:, 1][sampled] >> 8).astype(np.uint8))
        clipped_low, clipped_high = (_mean(rows[:, 1][sampled] == limit) for limit in (0, 65535))
    tissue, total, squares, fingerprint = _measure(rows, tissue_threshold)
    pixels = ROWS * patches.shape[2]
    unit = 1.0 if patches.dtype == np.uint8 else (255 / 65535) ** 2
    variance = (squares / pixels - np.square(total / pixels)) * unit
    return Scores(
        tissue=(tissue / pixels if patches.shape[-1] == 3 else np.full(len(patches), np.nan)).astype(np.float32),
        sharpness=variance.astype(np.float32),
        entropy=-np.sum(share * np.log2(np.where(share > 0, share, 1)), axis=1).astype(np.float32) + np.float32(0),
        clipped_low=clipped_low.astype(np.float32),
        clipped_high=clipped_high.astype(np.float32),
        nodata=_mean(_is_nodata(patches, middle, nodata)).astype(np.float32),
        fingerprint=fingerprint,
    )


def _scale(values: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Scales values to uint16, with 0 and 65,535 for the ends of the range; NaN becomes 0."""
    low, high = value_range
    if values.dtype == np.uint16 and (low, high) == (0, 65535):
        return values
    scaled = (np.nan_to_num(values.astype(np.float64), nan=low) - low) * (65535 / (high - low))
    return np.clip(np.rint(scaled), 0, 65535).astype(np.uint16)


def _is_nodata(patches: np.ndarray, rows: np.ndarray, nodata: float | None) -> np.ndarray:
    """Returns the mask ``[N, R, W]`` of pixels of these rows without data."""
    every = lambda test: np.logical_and.reduce([test(patches[:, rows][..., c]) for c in range(patches.shape[-1])])
    missing = np.zeros((len(patches), 1, 1), bool)
    if nodata is not None:
        missing = every(lambda values: values == nodata)
    return missing | every(np.isnan) if patches.dtype == np.float32 else missing


def _mean(flags: np.ndarray) -> np.ndarray:
    """Returns the fraction of true values, ``[N]`` of ``[N, ...]`` bool."""
    found: np.ndarray = flags.reshape(len(flags), -1).mean(axis=1, dtype=np.float64)
    return found


def _shares(values: np.ndarray) -> np.ndarray:
    """Returns the share of each value, ``[N, 256]`` of ``[N, ...]`` uint8."""
    flat = values.reshape(len(values), -1)
    numbered = (flat + 256 * np.arange(len(flat))[:, None]).ravel()
    return np.bincount(numbered, minlength=256 * len(flat)).reshape(-1, 256) / flat.shape[1]


def _measure(rows: np.ndarray, tissue_threshold: int) -> tuple[np.ndarray, ...]:
    """Runs :func:`_measure_batch` in few batch sizes, so that few compiled functions serve any number of patches."""
    parts = []
    for first in range(0, len(rows), _BATCHES[-1]):
        part = rows[first : first + _BATCHES[-1]]
        batch = next(size for size in _BATCHES if size >= len(part))
        if missing := batch - len(part):
            part = np.concatenate([part, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
        measured = _measure_batch(part, np.int32(tissue_threshold))
        parts.append([values.numpy()[: len(rows) - first] for values in measured])
    tissue, total, squares, bits = (np.concatenate(part) for part in zip(*parts))
    return tissue, total, squares, np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


@Compiled  # fused, it takes a tenth of the time
def _measure_batch(rows: tf.Tensor, tissue_threshold: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Computes integer sums of a batch, with one trace for each width, number of channels and dtype.

    Args:
        rows: ``[B, 3, R, W, C]`` uint8 or uint16: the rows above, at and below those that are measured.
        tissue_threshold: saturation, 0..255.

    Returns:
        Pixels of tissue, sum and sum of squares of the Laplacian, ``[B]`` each; bits of the fingerprint ``[B, 64]``
        bool.
    """
    grey = _grey(rows)
    above, at, below = tf.unstack(grey, axis=1)
    left = tf.concat([at[..., :1], at[..., :-1]], axis=-1)
    right = tf.concat([at[..., 1:], at[..., -1:]], axis=-1)
    laplacian = above + below + left + right - 4 * at
    # The sum of 2048 squares of at most 1020 still fits 32 bits, which are twice as fast.
    kind = tf.int32 if rows.dtype == tf.uint8 and rows.shape[3] <= 2048 else tf.int64
    sums = [tf.reduce_sum(values, axis=2) for values in (laplacian, tf.square(tf.cast(laplacian, kind)))]
    total, squares = (tf.reduce_sum(tf.cast(rows, tf.int64), axis=1) for rows in sums)
    return _tissue(rows[:, 1], tissue_threshold), total, squares, _fingerprint(at)


def _grey(values: tf.Tensor) -> tf.Tensor:
    """Returns int32 grey: the luma of ITU-R BT.601 of three channels, else the mean of the channels, rounded down."""
    channels = [tf.cast(channel, tf.int32) for channel in tf.unstack(values, axis=-1)]
    if len(channels) == 3:
        weighted = [weight * channel for weight, channel in zip(luma_weights(8), channels)]
        return tf.bitwise.right_shift(tf.add_n(weighted) + 128, 8)
    return tf.add_n(channels) // len(channels)


def _tissue(values: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Counts the pixels of ``[B, R, W, C]`` whose saturation ``255 * (max - min) // max`` exceeds the threshold.

    Returns ``[B]`` int32.
    """
    if values.shape[-1] != 3:
        return tf.zeros(tf.shape(values)[:1], tf.int32)
    full = 255 if values.dtype == tf.uint8 else 65535
    channels = [tf.cast(channel, tf.int32) for channel in tf.unstack(values, axis=-1)]
    high, low = tf.maximum(tf.maximum(*channels[:2]), channels[2]), tf.minimum(tf.minimum(*channels[:2]), channels[2])
    saturated = (high - low) * 255 >= (threshold + 1) * high
    return tf.reduce_sum(tf.cast(saturated & (high * 256 >= _BLACK * full), tf.int32), axis=[1, 2])


def _fingerprint(grey: tf.Tensor) -> tf.Tensor:
    """Returns 64 bits, which say whether each of 8 parts of each of 8 rows is darker than the part to its right."""
    width = grey.shape[-1]
    starts = [width * part // _PARTS for part in range(_PARTS)]
    ends = [max(width * (part + 1) // _PARTS, start + 1) for part, start in enumerate(starts)]
    sums = [tf.cast(tf.reduce_sum(grey[..., a:b], axis=-1), tf.int64) for a, b in zip(starts, ends)]
    sizes = [b - a for a, b in zip(starts, ends)]
    # Parts may differ in width, so their means are compared, without dividing.
    darker = [sums[p] * sizes[p + 1] < sums[p + 1] * sizes[p] for p in range(_PARTS - 1)]
    return tf.reshape(tf.stack(darker, axis=-1), [-1, ROWS * (_PARTS - 1)])


def saturation(pixels: np.ndarray, value_range: tuple[float, float] = (0, 255)) -> np.ndarray:
    """Returns the HSV saturation ``255 * (max - min) // max`` of RGB ``[..., 3]`` as ``[...]`` uint8; 0 for black."""
    if pixels.dtype != np.uint8:
        pixels = _scale(pixels, value_range) >> 8
    high, low = pixels.max(axis=-1).astype(np.int32), pixels.min(axis=-1).astype(np.int32)
    return np.where(high >= _BLACK, (high - low) * 255 // np.maximum(high, 1), 0).astype(np.uint8)


def otsu(values: np.ndarray) -> int:
    """Returns the threshold, 0..255, that best separates uint8 values up to it from those above (Otsu, 1979).

    Among equally good thresholds, the lowest is taken; if there is only one value, it is the threshold.

    >>> otsu(np.array([3, 4, 5, 90, 91], np.uint8))
    5
    """
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    levels = np.arange(256)
    below, above = np.cumsum(counts), counts.sum() - np.cumsum(counts)
    total = np.cumsum(counts * levels)
    if not (both := (below > 0) & (above > 0)).any():
        return int(values.ravel()[0])
    low, high = total / np.maximum(below, 1), (total[-1] - total) / np.maximum(above, 1)
    return int(np.argmax(np.where(both, below * above * np.square(low - high), -1)))


class Duplicates:
    """The fingerprints of the patches that were kept, in a fixed order.

    >>> seen = Duplicates(max_distance=1)
    >>> [seen.add(np.uint64(f)) for f in (0b1000, 0b1001, 0b1011)]
    [True, False, True]
    """

    def __init__(self, max_distance: int):
        """Takes fingerprints that differ in at most ``max_distance`` of 64 bits for near-duplicates."""
        self._max_distance, self._count = max_distance, 0
        self._kept = np.zeros(64, np.uint64)

    def add(self, fingerprint: np.uint64) -> bool:
        """Keeps the patch and returns True, unless a near-duplicate was kept before."""
        kept = self._kept[: self._count]
        if kept.size and np.bitwise_count(kept ^ fingerprint).min() <= self._max_distance:
            return False
        if self._count == len(self._kept):
            self._kept = np.concatenate([self._kept, np.zeros_like(self._kept)])
        self._kept[self._count] = fingerprint
        self._count += 1
        return True
