"""Images in the form that the configuration asks for: level and page, bands, colour and type.

Without such wishes, an image stays as it is in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from pipeline.errors import Unreadable
from pipeline.readers import Layout, Reader, open_image
from transforms import pixels as arithmetic
from transforms.grid import Box

if TYPE_CHECKING:  # a decoder needs no configuration
    from pipeline.config import Input

_PIXELS_AT_A_TIME = 1 << 20


class Choice(NamedTuple):
    """The part and form of an image to read; the fields are the keys of ``input`` of the same names."""

    level: int = 0
    page: int | None = None
    bands: tuple[int, ...] = ()
    convert: str = "as-is"
    depth: str = "exact"
    dtype: str = "uint8"

    @classmethod
    def of(cls, config: Input) -> Choice:
        """Takes the choice from a configuration."""
        return cls(*(getattr(config, name) for name in cls._fields))


def open_as(uri: str, choice: Choice, open_file: Callable[[str], BinaryIO] | None = None) -> Reader:
    """Opens an image and converts it as chosen; its type stays as it is where ``depth`` does not lead to ``dtype``.

    Raises:
        Unreadable: as in :func:`pipeline.readers.open_image`; ``no_such_band``; ``unsupported_mode`` for colours that
            cannot be converted.
    """
    reader = open_image(uri, choice.level, choice.page, open_file)
    try:
        layout = _converted(reader.layout, choice)
    except Unreadable:
        reader.close()
        raise
    return reader if layout[:4] == reader.layout[:4] and not choice.bands else _Converted(reader, layout, choice)


class _Converted:
    """A reader that converts the pixels it reads."""

    def __init__(self, reader: Reader, layout: Layout, choice: Choice):
        self._reader, self._choice = reader, choice
        self.file, self.layout = reader.file, layout

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        pixels = self._reader.read(box)
        out = np.empty((box.height, box.width, self.layout.channels), self.layout.dtype)
        rows = max(1, _PIXELS_AT_A_TIME // box.width)  # the arithmetic takes several times the memory of its pixels
        for row in range(0, box.height, rows):
            out[row : row + rows] = self._convert(pixels[row : row + rows])
        return out

    def _convert(self, pixels: np.ndarray) -> np.ndarray:
        stored, bands, convert = self._reader.layout, self._choice.bands, self._choice.convert
        if bands:
            pixels = pixels[..., [band - 1 for band in bands]]
        if convert != "as-is":
            change = arithmetic.to_rgb if convert == "rgb" else arithmetic.to_gray
            pixels = change(pixels, _colour(stored, bands), _limit(stored))
        if pixels.dtype == self.layout.dtype:
            return pixels
        if self._choice.depth == "scale":
            return arithmetic.scaled(pixels, _limit(stored), self.layout.dtype)
        return arithmetic.clipped(pixels, self.layout.dtype)  # also for widen, where nothing is clipped

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self._reader.close()


def _converted(layout: Layout, choice: Choice) -> Layout:
    """Returns the layout after the conversion, or raises the reason why there is none."""
    missing = [band for band in choice.bands if band > layout.channels]
    if missing:
        raise Unreadable("no_such_band", f"has {layout.channels} bands, asked for band {missing[0]}; the first is 1")
    colour = _colour(layout, choice.bands)
    channels = len(choice.bands) or layout.channels
    if choice.convert != "as-is":
        needed = arithmetic.COLOUR_CHANNELS.get(colour)
        if not needed or channels < needed:
            said = f"colour {colour}" if colour else f"{channels} bands of no known colour"
            raise Unreadable("unsupported_mode", f"{said}, which no formula makes {choice.convert}; see input.bands")
        if colour == "cmyk" and layout.dtype not in ("uint8", "uint16"):
            raise Unreadable("unsupported_mode", f"CMYK of {layout.dtype}; uint8 and uint16 are converted")
        colour, channels = choice.convert, 3 if choice.convert == "rgb" else 1
    dtype = choice.dtype if _leads_to(layout, choice) else layout.dtype
    bits = layout.bits if dtype == layout.dtype else 0
    return layout._replace(channels=channels, colour=colour, dtype=dtype, bits=bits)


def _leads_to(layout: Layout, choice: Choice) -> bool:
    """Says whether ``depth`` allows to convert the type of the file to the chosen one."""
    if choice.depth == "widen":
        return arithmetic.holds(choice.dtype, layout.dtype)
    if choice.depth == "scale":
        return np.dtype(layout.dtype).kind == "u" and np.dtype(choice.dtype).kind in "uf"
    return choice.depth == "clip" or choice.dtype == layout.dtype


def _colour(layout: Layout, bands: tuple[int, ...]) -> str:
    """Returns the colour of the file, or the one that the number of chosen bands suggests."""
    return {1: "gray", 3: "rgb"}.get(len(bands), "") if bands else layout.colour


def _limit(layout: Layout) -> int:
    """Returns the largest value of an unsigned type, given the bits in use; 0 for other types."""
    kind = np.dtype(layout.dtype)
    return (1 << (layout.bits or 8 * kind.itemsize)) - 1 if kind.kind == "u" else 0
