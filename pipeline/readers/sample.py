"""A cheap sample of the pixels of an image, for decisions that need the image as a whole before it is cut.

The sample of a pyramid is a coarse level, that of an image that is decoded whole is every n-th pixel, and that of any
other image consists of small squares on a regular lattice. The same image gives the same pixels on every worker.
"""

from __future__ import annotations

import contextlib
import itertools

import numpy as np

from pipeline.config import Input
from pipeline.errors import Unreadable
from pipeline.readers import Reader
from pipeline.readers.converted import Choice
from pipeline.readers.isolated import open_isolated
from transforms.grid import Box

_MAX_PIXELS = 1 << 20
# A coarse level is read whole up to this size, and then thinned out.
_MAX_LEVEL_PIXELS = 1 << 23
_LATTICE, _SQUARE = 8, 64


def sample_pixels(reader: Reader, uri: str, wanted: Input) -> np.ndarray:
    """Samples about a million pixels at most of an open image: ``[N, C]``.

    Args:
        reader: the image as ``wanted``.
        uri: address of the image, to open coarser levels.
        wanted: the configuration of the input.

    Raises:
        Unreadable: if none of the sampled pixels can be decoded.
    """
    size = reader.layout[:2]
    if reader.layout.is_whole or size[0] * size[1] <= _MAX_LEVEL_PIXELS:
        with contextlib.suppress(Unreadable):
            return _thinned(reader)
    with contextlib.suppress(Unreadable):  # there is no such level, or it is broken
        for level in itertools.count(wanted.level + 1):
            coarse = open_isolated(uri, Choice.of(wanted)._replace(level=level), wanted.max_seconds)
            try:
                if coarse.layout.height * coarse.layout.width <= _MAX_LEVEL_PIXELS:
                    return _thinned(coarse)
            finally:
                coarse.close()
    return _on_a_lattice(reader)


def _thinned(reader: Reader) -> np.ndarray:
    height, width, channels = reader.layout[:3]
    step = int(np.ceil(np.sqrt(height * width / _MAX_PIXELS)))
    return reader.read(Box(0, 0, height, width))[::step, ::step].reshape(-1, channels)


def _on_a_lattice(reader: Reader) -> np.ndarray:
    height, width, channels = reader.layout[:3]
    size = (min(_SQUARE, height), min(_SQUARE, width))
    rows, cols = ((2 * np.arange(_LATTICE) + 1) * (n - s) // (2 * _LATTICE) for n, s in zip((height, width), size))
    found, last = [], Unreadable("corrupt_data", "has no pixels")
    for row in rows:
        for col in cols:
            try:
                found.append(reader.read(Box(int(row), int(col), *size)).reshape(-1, channels))
            except Unreadable as error:
                last = error
    if not found:
        raise last
    return np.concatenate(found)
