"""Open an image by what it is, not by what it is called.

A reader answers two questions: ``layout``, from the header alone, and ``read(box)``, the pixels of a window. Each file
of this package is one reader; :func:`open_image` picks it by the first bytes of the file.
"""

from __future__ import annotations

import importlib
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from pipeline import storage
from pipeline.elements import Unreadable
from transforms.grid import Box

# An image without random access is decoded whole: up to this many bytes of pixels.
MAX_WHOLE_BYTES = 1 << 29


class Layout(NamedTuple):
    """What the header of an image says about its pixels at one level, after its orientation was applied.

    Attributes:
        block_height, block_width: pixels that decode together; height and width where there is no random access.
        dtype: ``uint8``, ``uint16`` or ``float32``.
    """

    height: int
    width: int
    channels: int
    dtype: str
    block_height: int
    block_width: int


class Reader(Protocol):
    """An open image. ``read`` may be called by several threads at a time.

    Attributes:
        layout: from the header.
        bytes_read: bytes of the file that ``read`` has fetched so far.
    """

    layout: Layout
    bytes_read: int

    def read(self, box: Box) -> np.ndarray:
        """The pixels of ``box``, which lies inside the image: ``[height, width, channels]`` of ``layout.dtype``.

        Raises:
            Unreadable: ``corrupt_data`` or ``io_error``; other boxes may still be readable.
        """

    def close(self) -> None:
        """Gives the file back."""


# First bytes -> module of the reader, which has open(file, level) -> Reader.
_SIGNATURES = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}


def open_image(uri: str, level: int = 0) -> Reader:
    """Opens an image at a pyramid level; 0 is full resolution.

    Raises:
        Unreadable: with the reason.
    """
    try:
        file = storage.open_read(uri)
    except OSError as error:
        raise Unreadable("io_error", f"cannot be opened: {error.strerror or error}") from error
    try:
        return _reader_module(file).open_reader(file, level)
    except Unreadable:
        file.close()
        raise
    except OSError as error:
        file.close()
        raise Unreadable("io_error", f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a file that lies can make a library raise anything
        file.close()
        raise Unreadable("corrupt_header", f"{type(error).__name__}: {error}") from error


def _reader_module(file: BinaryIO):
    head = file.read(16)
    file.seek(0)
    if not head:
        raise Unreadable("empty_file", "the file has no bytes")
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return importlib.import_module(f"pipeline.readers.{name}")
    page = " (a web page?)" if head.lstrip()[:1] == b"<" else ""
    raise Unreadable("unknown_format", f"starts with {head!r}{page}; known are JPEG, PNG and TIFF")
