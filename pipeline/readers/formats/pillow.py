"""WebP, BMP and GIF by Pillow: formats of at most 8 bits; an animation gives its first frame.

Palettes become their colours, and transparency becomes an alpha channel.
"""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Image
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.errors import Unreadable
from pipeline.readers import ImageFile, check_single, orientation
from pipeline.readers.whole import WholeReader

_KINDS = {b"RIFF": ("WebP", WebPImageFile), b"BM": ("BMP", BmpImageFile), b"GIF8": ("GIF", GifImageFile)}
_MODES = {"L": (1, "gray"), "LA": (2, "gray"), "RGB": (3, "rgb"), "RGBA": (4, "rgb")}


def open_reader(file: ImageFile, level: int, page: int | None) -> WholeReader:
    """See :func:`pipeline.readers.open_image`."""
    head = file.read(4)
    file.seek(0)
    kind, plug_in = next(found for start, found in _KINDS.items() if head.startswith(start))
    check_single(kind, level, page)
    header = plug_in(cast(BinaryIO, file))  # not Image.open, which has its own limit of size
    mode = _shown_mode(header)
    channels, colour = _MODES[mode]
    turned = orientation.valid(header.getexif().get(orientation.TAG)) if kind == "WebP" else 1

    def decode(data: bytes) -> np.ndarray:
        return np.asarray(plug_in(io.BytesIO(data)).convert(mode))

    return WholeReader(file, (header.height, header.width, channels), "uint8", decode, colour=colour, turned=turned)


def _shown_mode(header: Image) -> str:
    """Returns the mode of the shown pixels, without palettes and single bits."""
    mode = {"1": "L", "P": "RGB", "PA": "RGBA"}.get(header.mode, header.mode)
    if mode not in _MODES:
        raise Unreadable("unsupported_mode", f"a picture of mode {header.mode}; {', '.join(_MODES)} are read")
    return {"L": "LA", "RGB": "RGBA"}.get(mode, mode) if "transparency" in header.info else mode
