"""Reproducible augmentation of patches: rotation, symmetry, blur, stain, colour and noise.

The augmentation of a patch is a :class:`Change`: a few numbers that are drawn once, written into the record of the
patch, and applied in a fixed order:

===========  ========================================================================================================
rotation     by an angle about the centre, bilinear; with enough pixels around the patch no border is seen
symmetry     flips of rows and columns, then quarter turns (counter-clockwise, as ``numpy.rot90``)
blur         Gaussian, separable, out to three deviations
stain        a matrix on optical densities, see :mod:`transforms.stain`; RGB in uint8 only
brightness   adds a fraction of the range of the values
contrast     multiplies the distance from the mean of each channel
saturation   multiplies the distance from the grey value (ITU-R BT.601); RGB only
hue          turns the colour about the grey axis in YIQ, in degrees; RGB only
noise        adds independent normal noise to each value; its deviation is a fraction of the range
===========  ========================================================================================================

At the end, values are clipped to their range and rounded. Rotation, symmetry and blur are defined for any dtype and
number of channels; brightness, contrast and noise need a known range.

Integer images are changed exactly: coefficients are multiples of 2**-14, logarithms, exponentials and normal quantiles
come from tables, and each step rounds to multiples of 2**-8, so that sums stay within the 53 bits of float64. The bytes
do not depend on the batch, the threads or the instruction set of the processor, and a GPU gives the same bytes.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from transforms import stain
from transforms.compiled import Compiled
from transforms.pixels import LUMA

_BATCH = 8
_ONE = 1 << 14  # coefficients are multiples of its inverse
_DENSITY_STEPS = 1 << 10  # steps per unit of density in the table from densities to values
_TO_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])  # NTSC, 1953


class Ranges(NamedTuple):
    """The ranges that changes are drawn from; 0 and False turn a change off.

    Attributes:
        flip: flips rows, columns, both or none.
        quarter_turns: turns by 0, 90, 180 or 270 degrees; for square patches only.
        rotation: degrees, to either side.
        blur: highest deviation in pixels.
        stain: changes the amounts of HED by factors of ``1 +- stain`` and shifts of ``+- stain`` in density, at most.
        brightness: fraction of the range, to either side.
        contrast, saturation: factors up to ``1 +- this``.
        hue: degrees, to either side.
        noise: highest deviation as a fraction of the range.
    """

    flip: bool = False
    quarter_turns: bool = False
    rotation: float = 0
    blur: float = 0
    stain: float = 0
    brightness: float = 0
    contrast: float = 0
    saturation: float = 0
    hue: float = 0
    noise: float = 0


class Change(NamedTuple):
    """The augmentation of one patch; the default changes nothing. See the module for the order and the units."""

    flip_rows: bool = False
    flip_cols: bool = False
    quarter_turns: int = 0
    rotation: float = 0
    blur: float = 0
    stain_factors: tuple[float, float, float] = (1, 1, 1)
    stain_shifts: tuple[float, float, float] = (0, 0, 0)
    brightness: float = 0
    contrast: float = 1
    saturation: float = 1
    hue: float = 0
    noise: float = 0
    noise_seed: int = 0

    def done(self) -> dict[str, Any]:
        """Returns the fields that differ from the default, for people and JSON."""
        nothing = Change()._asdict()
        return {name: value for name, value in self._asdict().items() if value != nothing[name]}


def draw(ranges: Ranges, uniform: Callable[[str], float]) -> Change:
    """Draws a change within ``ranges``; ``uniform(name)`` gives the random number in 0..1 for one field.

    Numbers are rounded to six decimals before they are applied, so that the record holds exactly the applied ones.

    >>> draw(Ranges(flip=True, rotation=10), lambda name: 0.75).done()
    {'flip_rows': True, 'flip_cols': True, 'rotation': 5.0}
    """
    about = lambda name, middle, width: round(middle + (2 * uniform(name) - 1) * width, 6) if width else middle
    return Change(
        flip_rows=ranges.flip and uniform("flip_rows") >= 0.5,
        flip_cols=ranges.flip and uniform("flip_cols") >= 0.5,
        quarter_turns=int(4 * uniform("quarter_turns")) if ranges.quarter_turns else 0,
        rotation=about("rotation", 0, ranges.rotation),
        blur=round(uniform("blur") * ranges.blur, 6),
        stain_factors=tuple(about(f"stain_factor_{name}", 1, ranges.stain) for name in "hed"),
        stain_shifts=tuple(about(f"stain_shift_{name}", 0, ranges.stain) for name in "hed"),
        brightness=about("brightness", 0, ranges.brightness),
        contrast=about("contrast", 1, ranges.contrast),
        saturation=about("saturation", 1, ranges.saturation),
        hue=about("hue", 0, ranges.hue),
        noise=round(uniform("noise") * ranges.noise, 6),
        noise_seed=int(uniform("noise_seed") * 2**31) if ranges.noise else 0,
    )


def margin(ranges: Ranges, size: tuple[int, int]) -> int:
    """Returns the pixels that changes need on every side of a patch of ``size`` so that no border is visible.

    >>> margin(Ranges(flip=True), (256, 256)), margin(Ranges(rotation=10, blur=1), (256, 256))
    (0, 25)
    """
    radius, around = _radius(ranges.blur), 0
    if ranges.rotation:
        # The extent of a turned rectangle is largest at the angle of its diagonal or, if that is out of range, at the
        # largest angle in range.
        for length, other in (size, size[::-1]):
            angle = min(math.radians(ranges.rotation), math.atan2(other + 2 * radius, length + 2 * radius))
            turned = (length + 2 * radius) * math.cos(angle) + (other + 2 * radius) * math.sin(angle)
            around = max(around, math.ceil((turned - length) / 2) + 1)
    return max(around, radius)


def _radius(deviation: float) -> int:
    return math.ceil(3 * deviation)


class Augmenter:
    """Applies changes to patches of one size, dtype and number of channels; each compiled stage has one trace.

    Args:
        ranges: the ranges that the changes were drawn from; stages that are off there are not compiled.
        size: rows and columns of the resulting patches.
        channels, dtype: channels and dtype of the patches.
        value_range: lowest and highest value.
        normalize: whether :meth:`__call__` also gets a stain matrix.
    """

    def __init__(
        self,
        ranges: Ranges,
        size: tuple[int, int],
        channels: int,
        dtype: str,
        value_range: tuple[float, float],
        normalize: bool = False,
    ):
        self.ranges, self.margin = ranges, margin(ranges, size)
        self._size, self._range, self._dtype = size, value_range, tf.dtypes.as_dtype(dtype)
        self._stains = bool(ranges.stain) or normalize
        self._radius = _radius(ranges.blur)
        # A fused stage takes a tenth of the time, and exact arithmetic keeps the result the same. One function of all
        # stages is slower than separate stages, because XLA recomputes values that another stage uses twice.
        settled = _settled if self._dtype.is_integer else lambda values: values
        exact = lambda values: tf.cast(values, tf.float64)
        compiled = lambda stage: Compiled(lambda values, *given: settled(stage(exact(values), *given)))
        toned = functools.partial(_toned, settled=settled)
        self.stages = {
            "geometry": Compiled(lambda *given: settled(self._turned(*given))) if ranges.rotation else None,
            "blur": compiled(functools.partial(_blurred, size=size)) if self._radius else None,
            "stain": compiled(_stained) if self._stains else None,
            "tone": compiled(toned) if ranges.brightness or ranges.contrast else None,
            "colour": compiled(_mixed) if ranges.saturation or ranges.hue else None,
            "noise": compiled(_noisy) if ranges.noise else None,
        }
        if any(self.stages.values()):
            self.stages["result"] = Compiled(self._result)

    def __call__(self, patches: np.ndarray, changes: Sequence[Change], matrix: np.ndarray | None = None) -> np.ndarray:
        """Applies to each of ``patches [N, H + 2 margin, W + 2 margin, C]`` its change and returns ``[N, H, W, C]``.

        Args:
            patches: the patches with ``margin`` pixels on every side.
            changes: N changes.
            matrix: ``[3, 4]`` on densities, applied before the stain of the changes; see
                :func:`transforms.stain.macenko`.
        """
        parts = []
        for first in range(0, len(changes), _BATCH):
            some = list(changes[first : first + _BATCH])
            count, missing = len(some), _BATCH - len(some)
            part: Any = patches[first : first + _BATCH]
            if missing:
                part = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
                some += [Change()] * missing
            if not self.ranges.rotation:
                part = np.stack([_symmetric(patch, change) for patch, change in zip(part, some)])
            for name, coefficients in self._coefficients(some, matrix).items():
                if stage := self.stages.get(name):
                    part = stage(part, *coefficients)
            parts.append(np.asarray(part)[:count])
        return np.concatenate(parts)

    def turn(self, masks: np.ndarray, changes: Sequence[Change]) -> np.ndarray:
        """Applies only the rotation and symmetry of the changes, by nearest neighbour, to masks and other labels.

        ``masks [N, H + 2 margin, W + 2 margin, C]`` of any dtype become ``[N, H, W, C]``; no new values arise.
        """
        turned = []
        for mask, change in zip(masks, changes):
            row, col = _positions(_geometry(change)[None], self._size, mask.shape[:2], np)
            half = 1 << 14
            turned.append(mask[(row[0] + half) >> 15, (col[0] + half) >> 15])
        return np.stack(turned)

    def _coefficients(self, changes: Sequence[Change], matrix: np.ndarray | None) -> dict[str, tuple[np.ndarray, ...]]:
        """Returns the coefficients of each stage for a batch, in the order of the stages."""
        low, high = self._range
        stains = [stain.hed_jitter(c.stain_factors, c.stain_shifts) for c in changes]
        if matrix is not None:
            stains = [stain.compose(matrix, one) for one in stains]
        noise = _exact(np.array([c.noise * (high - low) for c in changes]))
        return {
            "geometry": (np.stack([_geometry(c) for c in changes]),),
            "blur": (np.stack([_kernel(c.blur, self._radius) for c in changes]),),
            "stain": (_exact(np.stack(stains)),),
            "tone": (_exact(np.array([[c.contrast, c.brightness * (high - low)] for c in changes])),),
            "colour": (np.stack([_colour(c.saturation, c.hue) for c in changes]),),
            "noise": (noise, np.array([c.noise_seed for c in changes], np.int64)),
            "result": (),
        }

    def _result(self, values: tf.Tensor) -> tf.Tensor:
        low, high = self._range
        if self._dtype.is_integer:
            values = tf.round(tf.clip_by_value(values, low, high))
        elif any(self.stages[name] for name in ("tone", "colour", "noise")):
            values = tf.where(tf.math.is_nan(values), values, tf.clip_by_value(values, low, high))
        return tf.cast(values, self._dtype)

    def _turned(self, patches: tf.Tensor, geometry: tf.Tensor) -> tf.Tensor:
        """Rotates and flips the patches; returns ``[B, H + 2 radius, W + 2 radius, C]`` float64."""
        size = (self._size[0] + 2 * self._radius, self._size[1] + 2 * self._radius)
        shape = patches.shape[1:3]
        row, col = _positions(geometry, size, shape, tf)
        flat = tf.reshape(patches, [_BATCH, shape[0] * shape[1], patches.shape[-1]])

        def at(down: int, across: int) -> tf.Tensor:
            rows = tf.clip_by_value(tf.bitwise.right_shift(row, 15) + down, 0, shape[0] - 1)
            cols = tf.clip_by_value(tf.bitwise.right_shift(col, 15) + across, 0, shape[1] - 1)
            return tf.cast(tf.gather(flat, rows * shape[1] + cols, batch_dims=1), tf.float64)

        # The fraction between two pixels along each axis, in eight bits.
        down, across = (
            tf.cast(tf.bitwise.bitwise_and(tf.bitwise.right_shift(p, 7), 255), tf.float64)[..., None] / 256
            for p in (row, col)
        )
        above = at(0, 0) * (1 - across) + at(0, 1) * across
        below = at(1, 0) * (1 - across) + at(1, 1) * across
        return above * (1 - down) + below * down


def _symmetric(patch: np.ndarray, change: Change) -> np.ndarray:
    """Applies only the symmetry of a change; moving whole pixels is twice as fast as moving single channels."""
    patch = np.ascontiguousarray(patch)
    pixels = patch.view(np.dtype((np.void, patch[0, 0].nbytes)))
    pixels = pixels[:: -1 if change.flip_rows else 1, :: -1 if change.flip_cols else 1]
    pixels = np.ascontiguousarray(np.rot90(pixels, change.quarter_turns))
    return pixels.view(patch.dtype)


def _exact(values: np.ndarray) -> np.ndarray:
    """Rounds values to multiples of 2**-14."""
    return np.rint(np.asarray(values, np.float64) * _ONE) / _ONE


def _settled(values: tf.Tensor) -> tf.Tensor:
    return tf.round(values * 256) / 256


def _geometry(change: Change) -> np.ndarray:
    """Returns the matrix ``[2, 2]`` int32, in units of 2**-14, from the position of a result pixel to its source."""
    angle = math.radians(change.rotation)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    flip = np.diag([-1 if change.flip_rows else 1, -1 if change.flip_cols else 1])
    quarter = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), change.quarter_turns % 4)
    found: np.ndarray = np.rint(rotation @ flip @ quarter * _ONE).astype(np.int32)
    return found


def _positions(geometry: Any, size: tuple[int, int], shape: Any, library: Any) -> tuple[Any, ...]:
    """Returns the source row and column of each pixel, ``[B, *size]`` int32 in 2**-15 pixels; NumPy or TensorFlow.

    Positions are measured in half pixels from the centres of source and result, so that they are whole numbers.
    """
    rows = library.range(size[0], dtype="int32") if library is tf else np.arange(size[0], dtype=np.int32)
    cols = library.range(size[1], dtype="int32") if library is tf else np.arange(size[1], dtype=np.int32)
    down, across = 2 * rows - (size[0] - 1), 2 * cols - (size[1] - 1)
    entry = lambda i, j: geometry[:, i, j, None, None]
    return tuple(
        entry(axis, 0) * down[None, :, None] + entry(axis, 1) * across[None, None, :] + (shape[axis] - 1) * _ONE
        for axis in (0, 1)
    )


def _kernel(deviation: float, radius: int) -> np.ndarray:
    """Returns a Gaussian ``[2 radius + 1]`` in multiples of 2**-14 that adds up to 1."""
    places = np.arange(-radius, radius + 1)
    weights = np.exp(-np.square(places / max(deviation, 1e-3)) / 2)
    kernel = np.rint(weights / weights.sum() * _ONE)
    kernel[radius] += _ONE - kernel.sum()
    found: np.ndarray = kernel / _ONE
    return found


def _blurred(values: tf.Tensor, kernels: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    taps = range(kernels.shape[1])
    weight = lambda tap: kernels[:, tap, None, None, None]
    values = tf.add_n([weight(tap) * values[:, tap : tap + size[0]] for tap in taps])
    return tf.add_n([weight(tap) * values[:, :, tap : tap + size[1]] for tap in taps])


@functools.cache
def _density_tables() -> tuple[np.ndarray, np.ndarray]:
    """Returns the density of each value, in multiples of 2**-14, and the value at each multiple of 2**-10 density."""
    densities = np.arange(6 * _DENSITY_STEPS) / _DENSITY_STEPS
    return _exact(stain.density(np.arange(256, dtype=np.uint8))), np.rint(256 * np.exp(-densities) - 1).clip(0)


def _stained(values: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    to_density, to_value = (tf.constant(table) for table in _density_tables())
    densities = tf.gather(to_density, tf.cast(tf.round(tf.clip_by_value(values, 0, 255)), tf.int32))
    changed = _mixed(densities, matrices[:, :, :3]) + matrices[:, None, None, :, 3]
    step = tf.cast(tf.round(changed * _DENSITY_STEPS), tf.int32)
    return tf.gather(to_value, tf.clip_by_value(step, 0, len(_density_tables()[1]) - 1))


def _toned(values: tf.Tensor, tones: tf.Tensor, settled: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    factor, shift = (tones[:, i, None, None, None] for i in range(2))
    mean = settled(_mean(values))
    return (values - mean) * factor + mean + shift


def _mixed(values: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Multiplies each pixel of ``values [B, H, W, 3]`` by its matrix of ``matrices [B, 3, 3]``."""
    row = lambda i: tf.add_n([values[..., j] * matrices[:, i, j, None, None] for j in range(3)])
    return tf.stack([row(i) for i in range(3)], axis=-1)


def _colour(saturation: float, hue: float) -> np.ndarray:
    """Returns the matrix ``[3, 3]`` that turns and stretches colours about their grey value, which it keeps."""
    angle = math.radians(hue)
    turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    stretch = np.diag([1, saturation, saturation])
    return _exact(np.linalg.inv(_TO_YIQ) @ turn @ stretch @ _TO_YIQ)


def _mean(values: tf.Tensor) -> tf.Tensor:
    """Returns the mean of each channel, ``[B, 1, 1, C]``, without NaN and infinities."""
    finite = tf.math.is_finite(values)
    total = tf.reduce_sum(tf.where(finite, values, 0), axis=[1, 2], keepdims=True)
    return total / tf.maximum(tf.reduce_sum(tf.cast(finite, tf.float64), axis=[1, 2], keepdims=True), 1)


@functools.cache
def _quantiles() -> np.ndarray:
    """Returns normal quantiles ``[65536]``, multiples of 2**-14, at the middles of 65,536 equal probabilities."""
    normal = statistics.NormalDist()
    return _exact(np.array([normal.inv_cdf((2 * i + 1) / 131072) for i in range(65536)]))


def _noisy(values: tf.Tensor, deviations: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    return values + deviations[:, None, None, None] * _normal(seeds, values.shape)


def _normal(seeds: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Returns normal numbers ``[B, H, W, C]``, each from a hash of its seed and position (finaliser of MurmurHash3)."""
    count = shape[1] * shape[2] * shape[3]
    mixed = tf.cast(tf.range(count, dtype=tf.int64)[None] * 0x9E3779B9 + seeds[:, None] * 0x85EBCA77, tf.uint32)
    shift = tf.bitwise.right_shift
    for bits, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed = tf.bitwise.bitwise_xor(mixed, shift(mixed, tf.constant(bits, tf.uint32))) * tf.constant(
            factor, tf.uint32
        )
    return tf.reshape(
        tf.gather(tf.constant(_quantiles()), tf.cast(shift(mixed, tf.constant(16, tf.uint32)), tf.int32)), shape
    )
