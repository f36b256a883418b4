"""JPEG: header by Pillow, pixels by simplejpeg, which makes libjpeg's warnings errors, such as truncated data.

Grey and colour files give the shown pixels; CMYK and YCCK files give four channels, 0 where there is no ink.
"""

from __future__ import annotations

from typing import BinaryIO, cast

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.errors import Unreadable
from pipeline.readers import ImageFile, check_single, orientation
from pipeline.readers.whole import WholeReader

_MODES = {"L": (1, "gray", "GRAY"), "RGB": (3, "rgb", "RGB"), "CMYK": (4, "cmyk", "CMYK")}


def open_reader(file: ImageFile, level: int, page: int | None) -> WholeReader:
    """See :func:`pipeline.readers.open_image`; for JPEG with 8 bits."""
    check_single("JPEG", level, page)
    header = JpegImageFile(cast(BinaryIO, file))  # not Image.open, which has its own limit of size
    if header.mode not in _MODES:
        raise Unreadable("unsupported_mode", f"a {header.mode} JPEG; grey, RGB and CMYK are read")
    channels, colour, space = _MODES[header.mode]
    turned = orientation.valid(header.getexif().get(orientation.TAG))
    stored = (header.height, header.width, channels)
    return WholeReader(file, stored, "uint8", lambda data: decode(data, space), colour=colour, turned=turned)


def decode(data: bytes, space: str) -> np.ndarray:
    """Decodes a JPEG to ``[height, width, channels]`` in the colour space ``GRAY``, ``RGB`` or ``CMYK``.

    Raises:
        ValueError: with libjpeg's message, also for its warnings.
    """
    import simplejpeg

    pixels = simplejpeg.decode_jpeg(data, space, strict=True)  # the accurate transform, libjpeg's default
    found: np.ndarray = (
        np.invert(pixels, out=pixels) if space == "CMYK" else pixels
    )  # Adobe stores inverted inks, and all programs follow
    return found


def decode_tables(data: bytes, tables: bytes | None, space: str, transform: int | None) -> np.ndarray:
    """Decodes a block of a TIFF from its JPEG data and the tables that all blocks share.

    ``transform`` says whether the block is YCbCr (1) or not (0), through an Adobe marker that is put in front; a JFIF
    marker of the block takes precedence, as in all decoders.
    """
    import simplejpeg

    start = b"\xff\xd8"
    if transform is not None:
        start += b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    shared = tables[2:-2] if tables else b""
    found: np.ndarray = simplejpeg.decode_jpeg(start + shared + data[2:], space, strict=True)
    return found
