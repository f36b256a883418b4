"""Opening images by their content, not by their name.

A reader offers ``layout``, which comes from the header alone, and ``read(box)``, the pixels of a window. Each file of
``pipeline.readers.formats`` is one reader; :func:`open_image` picks it by the first bytes of the image. Other packages
add readers by an entry point, see docs/formats.md.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from PIL.Image import DecompressionBombError

from pipeline import storage
from pipeline.errors import Reason, StorageError, Unreadable
from transforms.grid import Box

# An image without random access is decoded whole, up to this many bytes of pixels.
MAX_WHOLE_BYTES = 1 << 29


class Layout(NamedTuple):
    """The facts about the pixels of one level in the header of an image, after its orientation was applied.

    Attributes:
        block_height, block_width: pixels that decode together; height and width where there is no random access.
        dtype: NumPy name, such as ``uint8`` or ``int16``.
        colour: meaning of the first channels: ``gray``, ``rgb``, ``cmyk`` or ``lab``; empty where the file does not
            say. Later channels are alpha or have a meaning of their own.
        bits: number of bits in use of an integer type; 0 for all of them.
        levels: height and width of every pyramid level, the full resolution first; empty where there is only one.
        mpp: micrometres per pixel, down and across; None where the file does not say.
        crs: coordinate system of ``transform``: ``EPSG:<code>``, or the text that the file has for it; may be empty.
        transform: (a, b, c, d, e, f) with x = a * col + b * row + c and y = d * col + e * row + f, for the upper left
            corner of a pixel; None where the file does not say.
        nodata: the value of pixels without data, as text, so that NaN equals itself; may be empty.
        step: distance between pixels in pixels of full resolution, down and across; None where ``levels`` tell it.
    """

    height: int
    width: int
    channels: int
    dtype: str
    block_height: int
    block_width: int
    colour: str = ""
    bits: int = 0
    levels: tuple[tuple[int, int], ...] = ()
    mpp: tuple[float, float] | None = None
    crs: str = ""
    transform: tuple[float, ...] | None = None
    nodata: str = ""
    step: tuple[float, float] | None = None

    @property
    def is_whole(self) -> bool:
        """True if the image can only be decoded whole."""
        return (self.block_height, self.block_width) == (self.height, self.width)


class ImageFile:
    """An open file that counts the bytes read, and tells a failing storage from a broken file.

    Attributes:
        uri: address of the file, also for files next to it.
        bytes_read: bytes read so far.
    """

    def __init__(self, file: BinaryIO, uri: str = ""):
        self.uri, self.bytes_read = uri, 0
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """See ``io.BufferedIOBase``.

        Raises:
            StorageError: for any OSError.
        """
        try:
            data = self._file.read(size)
        except OSError as error:
            raise StorageError(error.strerror or str(error)) from error
        self.bytes_read += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """See ``io.BufferedIOBase``.

        Raises:
            ValueError: for an impossible offset, which comes from a broken file.
            StorageError: for any other OSError.
        """
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise ValueError(f"an offset of {offset}") from error
            raise StorageError(error.strerror or str(error)) from error

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Announces which ``(offset, bytes)`` will be read soon; a file in a store fetches them together.

        Raises:
            StorageError: if the storage does not deliver.
        """
        if prefetch := getattr(self._file, "prefetch", None):
            try:
                prefetch(ranges)
            except OSError as error:
                raise StorageError(error.strerror or str(error)) from error

    def tell(self) -> int:
        """See ``io.BufferedIOBase``."""
        return self._file.tell()

    def close(self) -> None:
        """See ``io.BufferedIOBase``."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """See ``io.BufferedIOBase``."""
        return self._file.closed


@contextlib.contextmanager
def unreadable(reason: Reason, what: str) -> Iterator[None]:
    """Turns every error that a library raises in the block into an :class:`Unreadable`.

    Raises:
        Unreadable: ``io_error`` for a failing storage, else ``reason`` with the message of the library after ``what``.
    """
    try:
        yield
    except Unreadable:
        raise
    except StorageError as error:
        raise Unreadable("io_error", f"cannot be read: {error}") from error
    except DecompressionBombError as error:
        raise Unreadable("too_large", f"{what}: {error}") from error
    except Exception as error:  # each library has its own errors, and a broken file can raise any
        raise Unreadable(reason, f"{what}: {error}") from error


class Reader(Protocol):
    """An open image; several threads may call ``read`` at the same time."""

    layout: Layout
    file: ImageFile

    def read(self, box: Box) -> np.ndarray:
        """Reads the pixels of ``box``, inside the image: ``[height, width, channels]`` of ``layout.dtype``.

        Raises:
            Unreadable: ``corrupt_data`` or ``io_error``; other boxes may still be readable.
            ValueError: for a box that does not lie inside the image, see :func:`check_inside`.
        """

    def close(self) -> None:
        """Closes the file."""


# Pattern of the first bytes -> module of the reader, which has open_reader(file, level, page) -> Reader.
HEAD_BYTES = 512
_FORMATS = {
    re.compile(rb".{128}DICM", re.DOTALL): "dicom",  # before TIFF, because a DICOM may begin like one
    re.compile(rb"\xff\xd8\xff"): "jpeg",
    re.compile(rb"\x89PNG\r\n\x1a\n"): "png",
    re.compile(rb"II[*+]\0|MM\0[*+]"): "tiff",
    re.compile(rb"RIFF....WEBP|BM.{4}\0{4}|GIF8[79]a", re.DOTALL): "pillow",
    re.compile(rb"....ftypavi[fs]", re.DOTALL): "avif",
    re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"): "jpeg2000",
    re.compile(rb"P[1-7]\s|P[fF]\s"): "pnm",
    re.compile(rb".{344}n[i+]1\0|.{4}n\+2\0|\x1f\x8b", re.DOTALL): "nifti",
}
# Formats known by name: files that begin like another format, or a file that stands for its folder.
_NAMES = {
    re.compile(r".*\.(mrxs|ndpi|vms|vmu|scn|bif|svslide|czi)", re.DOTALL | re.IGNORECASE): "openslide",
    re.compile(r".*/(zarr\.json|\.zattrs|\.zarray)", re.DOTALL): "zarr",
}
_KNOWN = "JPEG, PNG, TIFF, WebP, AVIF, JPEG 2000, BMP, GIF, PNM, DICOM, NIfTI, Zarr and slides"


def open_image(
    uri: str, level: int = 0, page: int | None = None, open_file: Callable[[str], BinaryIO] | None = None
) -> Reader:
    """Opens an image.

    Args:
        uri: address of the image.
        level: pyramid level; 0 is full resolution.
        page: number of the image in a file that holds several, from 0; None for the only one, or for the first one
            where a format calls it the still of an animation.
        open_file: replaces ``storage.open_read``.

    Raises:
        Unreadable: with the reason.
    """
    try:
        file = ImageFile((open_file or storage.open_read)(uri), uri)
    except OSError as error:
        raise Unreadable("io_error", f"cannot be opened: {error.strerror or error}") from error
    try:
        with unreadable("corrupt_header", "its header cannot be understood"):
            found: Reader = _reader_module(file).open_reader(file, level, page)
            return found
    except Unreadable:
        file.close()
        raise


def check_single(kind: str, level: int, page: int | None) -> None:
    """Refuses other levels and pages for formats with one image of one level.

    Raises:
        Unreadable: ``no_such_level`` or ``no_such_page``.
    """
    if level:
        raise Unreadable("no_such_level", f"a {kind} has level 0 only, asked for {level}")
    if page:
        raise Unreadable("no_such_page", f"a {kind} has page 0 only, asked for {page}")


def check_inside(box: Box, layout: Layout) -> None:
    """Refuses a box that does not lie inside an image, which is an error of the caller, not of the file.

    Raises:
        ValueError: with the box and the size of the image.
    """
    rows, cols = range(layout.height + 1), range(layout.width + 1)
    if (
        box.height < 1
        or box.width < 1
        or not (box.row in rows and box.row + box.height in rows and box.col in cols and box.col + box.width in cols)
    ):
        raise ValueError(f"{box} does not lie inside an image of {layout.height} x {layout.width} pixels")


def extra(module: str, name: str) -> Any:
    """Imports a library that only some installations have.

    Args:
        module: name of the module.
        name: name of the extra that installs it.

    Raises:
        Unreadable: ``missing_extra``, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unreadable("missing_extra", f'needs {module}: pip install "patchbeam[{name}]"') from error


def check_plausible(pixels: int, file: int) -> None:
    """Refuses an uncompressed file whose header announces over a thousand times the bytes of the file.

    An interrupted download still holds a part of the image, but a wrong header would give millions of bad windows.

    Args:
        pixels: bytes of the pixels according to the header.
        file: bytes of the file.

    Raises:
        Unreadable: ``corrupt_header``.
    """
    if pixels > 1000 * file:
        raise Unreadable("corrupt_header", f"{pixels} bytes of pixels in a file of {file}")


def _reader_module(file: ImageFile) -> ModuleType:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        raise Unreadable("empty_file", "the file has no bytes")
    for module in _plug_ins():
        if module.matches(head, file.uri):
            return module
    names = [name for pattern, name in _NAMES.items() if pattern.fullmatch(file.uri)]
    names += [name for start, name in _FORMATS.items() if start.match(head)]
    if names:
        return importlib.import_module(f"pipeline.readers.formats.{names[0]}")
    page = " (a web page?)" if head.lstrip()[:1] == b"<" else ""
    raise Unreadable("unknown_format", f"starts with {head[:16]!r}{page}; known are {_KNOWN}")


@functools.cache
def _plug_ins() -> tuple[ModuleType, ...]:
    """Loads the readers of other packages, by name; they come before our own, so that they can replace one."""
    found = importlib.metadata.entry_points(group="patchbeam.readers")
    return tuple(point.load() for point in sorted(found, key=lambda point: point.name))
