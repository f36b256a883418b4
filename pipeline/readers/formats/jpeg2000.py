"""JPEG 2000 as JP2 or bare codestream: header parsed here, pixels by OpenJPEG, which keeps up to 16 bits."""

from __future__ import annotations

import struct
from typing import NamedTuple

import imagecodecs

from pipeline.errors import Unreadable
from pipeline.readers import ImageFile, check_single
from pipeline.readers.whole import WholeReader

_CODESTREAM = b"\xff\x4f\xff\x51"  # SOC and SIZ
_MAX_BOX = 1 << 16
_COLOURS = {16: "rgb", 17: "gray"}  # ISO 15444-1, I.5.3.3: enumerated colour spaces
_GUESS = {1: "gray", 2: "gray", 3: "rgb", 4: "rgb"}


class _Header(NamedTuple):
    height: int
    width: int
    depths: tuple[int, ...]
    signed: bool


def open_reader(file: ImageFile, level: int, page: int | None) -> WholeReader:
    """See :func:`pipeline.readers.open_image`."""
    check_single("JPEG 2000", level, page)
    colour, palette = 0, tuple[int, ...]()
    if file.read(4) != _CODESTREAM:
        file.seek(0)
        colour, palette = _boxes(file)
    header = _read_size(file)
    depths = palette or header.depths
    if len(set(depths)) != 1 or not 1 <= depths[0] <= 16:
        raise Unreadable("unsupported_mode", f"components of {depths} bits; the same 1 to 16 for all are read")
    if colour and colour not in _COLOURS:
        raise Unreadable("unsupported_mode", f"colour space {colour} of JPEG 2000; sRGB and grey are read")
    dtype = ("int" if header.signed else "uint") + ("8" if depths[0] <= 8 else "16")
    return WholeReader(
        file, (header.height, header.width, len(depths)), dtype, imagecodecs.jpeg2k_decode,
        colour=_COLOURS.get(colour) or _GUESS.get(len(depths), ""), bits=depths[0],
    )  # fmt: skip


def _boxes(file: ImageFile) -> tuple[int, tuple[int, ...]]:
    """Reads the boxes before the codestream, and leaves the file after its markers SOC and SIZ.

    Returns the enumerated colour space, or 0, and the bits of the columns of the palette.
    """
    colour, palette = 0, tuple[int, ...]()
    while len(start := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        header = 8
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
            header = 16
        if name == b"jp2c":
            if file.read(4) != _CODESTREAM:
                break
            return colour, palette
        if length < header:
            break
        if name == b"jp2h":
            continue  # its content consists of boxes as well
        if length - header > _MAX_BOX or name not in (b"colr", b"pclr"):
            file.seek(length - header, 1)
            continue
        data = file.read(length - header)
        if name == b"colr" and data[0] == 1:
            (colour,) = struct.unpack(">I", data[3:7])
        elif name == b"pclr":
            palette = tuple((bits & 0x7F) + 1 for bits in data[3 : 3 + data[2]])
    raise Unreadable("corrupt_header", "the file ends before the pixels")


def _read_size(file: ImageFile) -> _Header:
    """Reads the SIZ segment (ISO 15444-1, A.5.1), after its marker."""
    _, _, right, bottom, left, top = struct.unpack(">HH4I", file.read(20))
    file.seek(16, 1)  # size and origin of the tiles
    (count,) = struct.unpack(">H", file.read(2))
    parts = [tuple(file.read(3)) for _ in range(count)]
    if any(part[1:] != (1, 1) for part in parts):
        raise Unreadable("unsupported_mode", "components of several resolutions; convert it to RGB")
    return _Header(bottom - top, right - left, tuple((p[0] & 0x7F) + 1 for p in parts), any(p[0] & 0x80 for p in parts))
