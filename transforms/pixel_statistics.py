"""Sufficient statistics of pixels per channel, and how they merge.

A histogram with one bin per value describes integer pixels completely. The bins of float32 are the 65,536 possible
upper halves of the bit pattern, in numerical order: fixed in advance, so that any two histograms add up, and at most
2**-7 of the value wide (2**-133 below the normal numbers). Mean, second moment, minimum and maximum of floats are kept
in addition to the histogram and are exact; NaN and infinities are left out.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BINS = {"uint8": 256, "uint16": 65536, "float32": 65536}
_REPORT_BINS = 256
_SPIKES = 64  # at most this many values get bins of their own
_PACKED = struct.Struct("<IB")  # number of distinct values, bytes of each count
_FOR_FLOATS = ("mean", "m2", "low", "high")  # kept for floats in addition to the histogram


class PixelStatistics(NamedTuple):
    """Statistics of the pixels seen so far.

    Attributes:
        dtype: ``uint8``, ``uint16`` or ``float32``.
        histogram: ``[C, bins]`` int64; 256 bins for uint8, else 65,536.
        mean, m2: ``[C]`` float64; ``m2`` is the sum of squared differences from the mean.
        low, high: ``[C]`` float64; infinities until a pixel was counted.

    For integers, the last four follow from the histogram and are filled in only by :func:`finished`.
    """

    dtype: str
    histogram: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def count(self) -> np.ndarray:
        """Counted pixels, ``[C]`` int64, without NaN and infinities."""
        found: np.ndarray = self.histogram.sum(axis=1)
        return found


def empty(channels: int, dtype: str) -> PixelStatistics:
    """Returns the statistics of no pixels."""
    bins = _BINS[dtype]
    zero, infinity = np.zeros(channels), np.full(channels, np.inf)
    return PixelStatistics(dtype, np.zeros((channels, bins), np.int64), zero, zero, infinity, -infinity)


def measure(pixels: np.ndarray) -> PixelStatistics:
    """Returns the statistics of ``pixels [N, H, W, C]`` of uint8, uint16 or float32; no length may be 0.

    >>> finished(measure(np.array([[[0, 10]], [[2, 10]]], np.uint8))).mean.tolist()
    [1.0, 10.0]
    """
    result = empty(pixels.shape[-1], pixels.dtype.name)
    # Pillow counts bytes several times faster than numpy.bincount, without the GIL, and RGB without splitting it.
    if pixels.dtype == np.uint8 and pixels.shape[-1] == 3:
        picture = Image.fromarray(np.ascontiguousarray(pixels).reshape(-1, *pixels.shape[-2:]))
        return result._replace(histogram=np.array(picture.histogram(), np.int64).reshape(3, 256))
    mean, m2, low, high = (np.array(a) for a in result[2:])
    for channel in range(pixels.shape[-1]):
        plane = np.ascontiguousarray(pixels[..., channel]).reshape(-1, pixels.shape[-2])
        if pixels.dtype == np.uint8:
            result.histogram[channel] = Image.fromarray(plane).histogram()
        elif pixels.dtype == np.uint16:
            result.histogram[channel] = np.bincount(plane.ravel(), minlength=65536)
        else:
            finite = plane[np.isfinite(plane)]
            result.histogram[channel] = np.bincount(_float_bin(finite), minlength=65536)
            if finite.size:
                mean[channel] = finite.mean(dtype=np.float64)
                m2[channel] = np.square(finite - mean[channel]).sum()
                low[channel], high[channel] = finite.min(), finite.max()
    return result._replace(mean=mean, m2=m2, low=low, high=high)


def merge(a: PixelStatistics, b: PixelStatistics) -> PixelStatistics:
    """Merges the statistics of two sets of pixels: exactly for integers, by Chan et al. (1979), eq. 2.1, for floats."""
    n_a, n_b = a.count, b.count
    total = np.maximum(n_a + n_b, 1)
    delta = b.mean - a.mean
    return PixelStatistics(
        a.dtype,
        a.histogram + b.histogram,
        a.mean + delta * n_b / total,
        a.m2 + b.m2 + np.square(delta) * n_a * n_b / total,
        np.minimum(a.low, b.low),
        np.maximum(a.high, b.high),
    )


def finished(pixel_statistics: PixelStatistics) -> PixelStatistics:
    """Fills in mean, m2, low and high of integers, which are derived from the histogram in float64."""
    if pixel_statistics.dtype == "float32":
        return pixel_statistics
    values = np.arange(pixel_statistics.histogram.shape[1], dtype=np.float64)
    count = np.maximum(pixel_statistics.count, 1)
    mean = pixel_statistics.histogram @ values / count
    m2 = (pixel_statistics.histogram * np.square(values - mean[:, None])).sum(axis=1)
    low, high = pixel_statistics.low.copy(), pixel_statistics.high.copy()
    for channel, row in enumerate(pixel_statistics.histogram):
        seen = np.flatnonzero(row)
        if seen.size:
            low[channel], high[channel] = seen[0], seen[-1]
    return pixel_statistics._replace(mean=mean, m2=m2, low=low, high=high)


def describe(pixel_statistics: PixelStatistics) -> list[dict[str, Any]]:
    """Returns one dictionary per channel, for people and JSON.

    Its keys are ``count``, ``mean``, ``std`` (biased: divided by the count), ``min``, ``max``, ``quantiles`` (the
    smallest value that at least this fraction of pixels does not exceed, NumPy's ``inverted_cdf``; exact for integers,
    for floats the lower edge of its bin, within the minimum and maximum) and ``histogram`` with at most 256 ``counts``
    between ``edges``. Bins of integers have equal width; bins of floats hold about equally many pixels, and up to 128
    more bins are added where many pixels have one value. Without pixels, everything except the count is null.
    """
    pixel_statistics = finished(pixel_statistics)
    edges = _edges(pixel_statistics.dtype)
    return [_describe_channel(pixel_statistics, channel, edges) for channel in range(len(pixel_statistics.mean))]


def _describe_channel(pixel_statistics: PixelStatistics, channel: int, edges: np.ndarray) -> dict[str, Any]:
    counts = pixel_statistics.histogram[channel]
    count = int(counts.sum())
    if not count:
        return dict.fromkeys(("mean", "std", "min", "max", "quantiles", "histogram"), None) | {"count": 0}
    reached = np.searchsorted(np.cumsum(counts), np.ceil(np.array(QUANTILES) * count))
    quantiles = np.clip(edges[reached], pixel_statistics.low[channel], pixel_statistics.high[channel])
    starts = _report_starts(counts, pixel_statistics.dtype)
    last = len(counts) if pixel_statistics.dtype != "float32" else int(np.flatnonzero(counts)[-1]) + 1
    return {
        "count": count,
        "mean": float(pixel_statistics.mean[channel]),
        "std": float(np.sqrt(pixel_statistics.m2[channel] / count)),
        "min": float(pixel_statistics.low[channel]),
        "max": float(pixel_statistics.high[channel]),
        "quantiles": {str(q): float(value) for q, value in zip(QUANTILES, quantiles)},
        "histogram": {
            "edges": np.append(edges[starts], min(edges[last], np.finfo(np.float32).max)).tolist(),
            "counts": np.add.reduceat(counts[:last], starts).tolist(),
        },
    }


def _report_starts(counts: np.ndarray, dtype: str) -> np.ndarray:
    """Returns the first bin of each group of bins that a report shows as one."""
    if dtype != "float32":
        return np.arange(0, len(counts), len(counts) // _REPORT_BINS)
    seen = np.flatnonzero(counts)
    before = np.cumsum(counts[seen]) - counts[seen]
    _, first = np.unique(before * _REPORT_BINS // counts.sum(), return_index=True)
    # A value that many pixels have, such as 0 where nothing was measured, keeps its own narrow bin.
    many = seen[counts[seen] * _SPIKES >= counts.sum()]
    starts = np.unique(np.concatenate([seen[first], many, many + 1]))
    found: np.ndarray = starts[starts <= seen[-1]]
    return found


def _float_bin(values: np.ndarray) -> np.ndarray:
    """Returns the bin of each float32: the upper half of its bits, reordered so that they sort like the numbers."""
    bits = values.view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)) >> 16


def _edges(dtype: str) -> np.ndarray:
    """Returns ``[bins + 1]`` float64: the lower edge of every bin, and the upper edge of the last one."""
    if dtype != "float32":
        return np.arange(_BINS[dtype] + 1, dtype=np.float64)
    key = np.arange(65536, dtype=np.uint32) << 16
    bits = np.where(key >> 31, key & np.uint32(0x7FFFFFFF), ~key)
    with np.errstate(invalid="ignore"):
        lower = bits.astype(np.uint32).view(np.float32).astype(np.float64)
    return np.append(lower, np.inf)


def pack(pixel_statistics: PixelStatistics) -> bytes:
    """Packs statistics exactly, in about a kilobyte for a small photograph; :func:`add_up` unpacks them."""
    places = np.flatnonzero(pixel_statistics.histogram)
    counts = pixel_statistics.histogram.ravel()[places]
    kind = np.min_scalar_type(counts.max(initial=0))
    parts = [np.diff(places, prepend=0).astype("<u4"), counts.astype(kind.newbyteorder("<"))]
    if pixel_statistics.dtype == "float32":
        parts += [getattr(pixel_statistics, name).astype("<f8") for name in _FOR_FLOATS]
    return _PACKED.pack(len(places), kind.itemsize) + zlib.compress(b"".join(part.tobytes() for part in parts), 1)


def add_up(packed: Iterable[bytes], channels: int, dtype: str) -> PixelStatistics:
    """Merges packed statistics in their order; memory and time grow with the values that occur, not with the bins."""
    result = empty(channels, dtype)
    for one in packed:
        distinct, width = _PACKED.unpack_from(one)
        data = zlib.decompress(one[_PACKED.size :])
        places = np.cumsum(np.frombuffer(data, "<u4", distinct), dtype=np.int64)
        counts = np.frombuffer(data, f"<u{width}", distinct, 4 * distinct).astype(np.int64)
        if dtype == "float32":
            for_floats = np.frombuffer(data, "<f8", -1, (4 + width) * distinct).reshape(len(_FOR_FLOATS), channels)
            histogram = np.zeros_like(result.histogram)
            histogram.ravel()[places] = counts
            result = merge(result, PixelStatistics(dtype, histogram, *for_floats))
        else:
            result.histogram.ravel()[places] += counts
    return result


def to_json(pixel_statistics: PixelStatistics) -> dict[str, Any]:
    """Converts statistics exactly to JSON values, with arrays as compressed little-endian bytes in base64."""
    pack = lambda a: base64.b64encode(zlib.compress(a.astype(a.dtype.newbyteorder("<")).tobytes(), 6)).decode()
    return {"dtype": pixel_statistics.dtype} | {
        name: pack(getattr(pixel_statistics, name)) for name in PixelStatistics._fields[1:]
    }


def from_json(values: dict[str, Any]) -> PixelStatistics:
    """Restores the statistics that :func:`to_json` converted."""
    unpack = lambda text, kind: np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)
    bins = _BINS[values["dtype"]]
    histogram = unpack(values["histogram"], "<i8").reshape(-1, bins)
    return PixelStatistics(
        values["dtype"], histogram, *(unpack(values[name], "<f8") for name in PixelStatistics._fields[2:])
    )
