"""PNG: grey, colour and palette, with and without alpha, 1 to 16 bits.

Values of fewer than 8 bits become uint8 (grey levels spread over 0..255), palettes become their colours, and a
transparent colour becomes an alpha channel; 16 bits stay 16 bits.
"""

from __future__ import annotations

import struct
import zlib

import imagecodecs
from PIL import Image

from pipeline.errors import Unreadable
from pipeline.readers import ImageFile, check_single, orientation
from pipeline.readers.whole import WholeReader

_MAX_CHUNK = 1 << 24  # EXIF may hold a preview
_TAIL = 1 << 15
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # PNG specification, table 11.1: grey, RGB, palette, grey + alpha, RGBA


def open_reader(file: ImageFile, level: int, page: int | None) -> WholeReader:
    """See :func:`pipeline.readers.open_image`."""
    check_single("PNG", level, page)
    width, height, depth, kind, transparent, turned = _header(file)
    if kind not in _CHANNELS or not width or not height:
        raise Unreadable("corrupt_header", f"{width} x {height} pixels of colour type {kind}")
    channels = _CHANNELS[kind] + transparent
    dtype, colour = "uint16" if depth == 16 else "uint8", "gray" if kind in (0, 4) else "rgb"
    return WholeReader(file, (height, width, channels), dtype, imagecodecs.png_decode, colour=colour, turned=turned)


def _header(file: ImageFile) -> tuple[int, int, int, int, bool, int]:
    """Reads width, height, bits, colour type, whether tRNS adds alpha, and orientation, from the first chunks."""
    file.seek(8)
    header, transparent, turned, pixels = None, False, None, False
    while not pixels and len(start := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        pixels = name == b"IDAT"
        if name in (b"IHDR", b"tRNS", b"eXIf") and length <= _MAX_CHUNK:
            data = file.read(length)
            if name == b"IHDR" and len(data) == 13:
                header = struct.unpack(">IIBB", data[:10])
            elif name == b"tRNS":
                transparent = header is not None and header[3] in (0, 2, 3)  # next to an alpha channel it means nothing
            elif name == b"eXIf":
                turned = _orientation(data)
        else:
            file.seek(length, 1)
        file.seek(4, 1)  # checksum
    if header is None or not pixels:
        raise Unreadable("corrupt_header", "the file ends before the pixels")
    return (*header, transparent, turned or _orientation_behind(file))


def _orientation_behind(file: ImageFile) -> int:
    """Finds an EXIF chunk after the pixels, near the end of the file, recognised by its checksum."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    start = tail.rfind(b"eXIf")
    (length,) = struct.unpack(">I", tail[start - 4 : start]) if start >= 4 else (0,)
    end = start + 4 + length
    whole = start >= 4 and tail[end : end + 4] == struct.pack(">I", zlib.crc32(tail[start:end]))
    return _orientation(tail[start + 4 : end]) if whole else 1


def _orientation(data: bytes) -> int:
    try:
        exif = Image.Exif()
        exif.load(data)
        return orientation.valid(exif.get(orientation.TAG))
    except Exception:  # broken EXIF says nothing about the pixels
        return 1
