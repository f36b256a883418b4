"""AVIF: header by Pillow, pixels by imagecodecs, which keeps 10 and 12 bits; a sequence gives its first frame."""

from __future__ import annotations

import io

import imagecodecs
from PIL.AvifImagePlugin import AvifImageFile

from pipeline.readers import ImageFile, check_single, orientation
from pipeline.readers.whole import WholeReader


def open_reader(file: ImageFile, level: int, page: int | None) -> WholeReader:
    """See :func:`pipeline.readers.open_image`; reading the header takes the whole file."""
    check_single("AVIF", level, page)
    data = file.read()
    header = AvifImageFile(io.BytesIO(data))
    # AV1 codec configuration: marker, profile and level, then the bits tier, high, twelve, monochrome ...
    flags = data[data.index(b"av1C") + 6]
    depth = 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    gray = bool(flags & 0x10)
    channels = (1 if gray else 3) + header.mode.endswith("A")
    turned = orientation.valid(header.getexif().get(orientation.TAG))  # Pillow puts irot and imir there
    return WholeReader(
        file, (header.height, header.width, channels), "uint8" if depth == 8 else "uint16", imagecodecs.avif_decode,
        colour="gray" if gray else "rgb", bits=depth, turned=turned,
    )  # fmt: skip
