"""Open an image by what it is, not by what it is called.

A reader answers two questions: ``layout``, from the header alone, and ``read(box)``, the pixels of a window. Each file
of this package is one reader; :func:`open_image` picks it by the first bytes of the file.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from pipeline import storage
from pipeline.elements import Reason, Unreadable
from pipeline.ranges import RangeFile
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


class StorageFailed(Exception):
    """The storage did not deliver; no library takes it for a fault of the file, as it would take an OSError."""


class ImageFile:
    """An open file that counts what is read of it, and tells a failing storage from a broken file.

    Attributes:
        bytes_read: so far.
    """

    def __init__(self, file: BinaryIO):
        self.bytes_read = 0
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """See ``io.BufferedIOBase``.

        Raises:
            StorageFailed: for any OSError.
        """
        try:
            data = self._file.read(size)
        except OSError as error:
            raise StorageFailed(error.strerror or str(error)) from error
        self.bytes_read += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """See ``io.BufferedIOBase``.

        Raises:
            ValueError: for a place that no file has: such an offset comes from a broken file.
            StorageFailed: for any other OSError.
        """
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise ValueError(f"an offset of {offset}") from error
            raise StorageFailed(error.strerror or str(error)) from error

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Says which ``(offset, bytes)`` will be read soon; a file in a store fetches them together.

        Raises:
            StorageFailed: if the storage does not deliver.
        """
        if isinstance(self._file, RangeFile):
            try:
                self._file.expect(ranges)
            except OSError as error:
                raise StorageFailed(error.strerror or str(error)) from error

    def tell(self) -> int:
        """See ``io.BufferedIOBase``."""
        return self._file.tell()

    def close(self) -> None:
        """See ``io.BufferedIOBase``."""
        self._file.close()


@contextlib.contextmanager
def unreadable(reason: Reason, what: str) -> Iterator[None]:
    """Turns whatever a library raises of a file in the block into an :class:`Unreadable`.

    Raises:
        Unreadable: ``io_error`` for a failing storage, else ``reason`` with the message of the library after ``what``.
    """
    try:
        yield
    except Unreadable:
        raise
    except StorageFailed as error:
        raise Unreadable("io_error", f"cannot be read: {error}") from error
    except Exception as error:  # each library raises kinds of its own, and a file that lies can raise any
        raise Unreadable(reason, f"{what}: {error}") from error


class Reader(Protocol):
    """An open image. ``read`` may be called by several threads at a time."""

    layout: Layout
    file: ImageFile

    def read(self, box: Box) -> np.ndarray:
        """The pixels of ``box``, which lies inside the image: ``[height, width, channels]`` of ``layout.dtype``.

        Raises:
            Unreadable: ``corrupt_data`` or ``io_error``; other boxes may still be readable.
        """

    def close(self) -> None:
        """Gives the file back."""


# First bytes -> module of the reader, which has open_reader(file, level) -> Reader.
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
        file = ImageFile(storage.open_read(uri))
    except OSError as error:
        raise Unreadable("io_error", f"cannot be opened: {error.strerror or error}") from error
    try:
        with unreadable("corrupt_header", "its header cannot be understood"):
            return _reader_module(file).open_reader(file, level)
    except Unreadable:
        file.close()
        raise


def _reader_module(file: ImageFile):
    head = file.read(16)
    file.seek(0)
    if not head:
        raise Unreadable("empty_file", "the file has no bytes")
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return importlib.import_module(f"pipeline.readers.{name}")
    page = " (a web page?)" if head.lstrip()[:1] == b"<" else ""
    raise Unreadable("unknown_format", f"starts with {head!r}{page}; known are JPEG, PNG and TIFF")
