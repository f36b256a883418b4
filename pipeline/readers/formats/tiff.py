"""The TIFF family by tifffile: TIFF, BigTIFF, OME-TIFF, SVS, GeoTIFF and COG; reads only the blocks a window needs.

Pixels come as a viewer shows them: palettes become their colours, grey of fewer than 8 bits is spread over 0..255, and
values where 0 is white are inverted. All other values stay as stored. Channels in separate pages are put together.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import struct
import threading
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import tifffile

from pipeline.errors import Unreadable
from pipeline.readers import ImageFile, Layout, Reader, check_inside, check_plausible, orientation, unreadable
from pipeline.readers.blocks import BlockReader, Decode
from pipeline.readers.formats.jpeg import decode_tables
from pipeline.readers.formats.tiff_geo import Georeference, georeference_of
from pipeline.readers.whole import WholeReader
from transforms.grid import Box

# The problems that tifffile warns about are reported as reason codes.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_COLOURS = {
    "MINISBLACK": "gray", "MINISWHITE": "gray", "RGB": "rgb", "YCBCR": "rgb", "PALETTE": "rgb", "SEPARATED": "cmyk",
    "CIELAB": "lab", "ICCLAB": "lab",
}  # fmt: skip
_ALPHA = (1, 2)  # extra samples that are alpha, TIFF 6.0 section 18
# Larger blocks allow no random access: such images are decoded whole, once.
_MAX_BLOCK_BYTES = 1 << 26


def open_reader(file: ImageFile, level: int, page: int | None) -> Reader:
    """See :func:`pipeline.readers.open_image`; without a page, the first image of the file."""
    _check_chain(file)
    image = _find(tifffile.TiffFile(cast(BinaryIO, file)), level, page)
    for one in image.pages:
        _check(one)
    first = image.pages[0]
    tag = first.tags.get(orientation.TAG)
    turned = orientation.valid(int(tag.value) if tag else 1)
    layout = _layout(image, turned)
    if _rows_are_plain(first) and len(image.pages) == 1:
        check_plausible(first.nbytes, first.parent.filehandle.size)
        return _RowReader(file, layout, first, turned)
    lock = threading.Lock()
    blocks = [_Blocks(file, one, lock) for one in image.pages]
    planes = [plane for one in blocks for plane in _planes(one)]
    places = lambda down, across: [place for one in blocks for place in one.places(down, across)]
    reader = BlockReader(file, layout, planes, turned, places)
    if layout.block_height * layout.block_width * layout.channels * np.dtype(layout.dtype).itemsize <= _MAX_BLOCK_BYTES:
        return reader
    height, width = orientation.shown_size(layout.height, layout.width, turned)
    whole = Box(0, 0, height, width)
    kept = WholeReader(
        file, (height, width, layout.channels), layout.dtype, lambda _: reader.read_stored(whole), turned=turned
    )
    kept.layout = layout._replace(block_height=layout.height, block_width=layout.width)
    return kept


def _check_chain(file: ImageFile) -> None:
    """Refuses directories that form a circle, which would be followed for ever."""
    order = {b"II": "<", b"MM": ">"}[file.read(2)]
    big = struct.unpack(order + "H", file.read(2))[0] == 43
    if big:
        file.read(4)
    count_form, offset_form, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    seen: set[int] = set()
    with contextlib.suppress(struct.error, ValueError):  # a chain that leaves the file ends there
        while offset := struct.unpack(order + offset_form, file.read(struct.calcsize(offset_form)))[0]:
            if offset in seen:
                raise Unreadable("corrupt_header", "the directories of the file go in a circle")
            seen.add(offset)
            file.seek(offset)
            (entries,) = struct.unpack(order + count_form, file.read(struct.calcsize(count_form)))
            file.seek(entries * entry, 1)
    file.seek(0)


class _Image(NamedTuple):
    """One image of a file: its pages at one level, each with some of its channels; its levels and georeference."""

    pages: list[Any]
    levels: tuple[tuple[int, int], ...]
    place: Georeference


def _find(tiff: tifffile.TiffFile, level: int, page: int | None) -> _Image:
    passed = 0
    for number, series in enumerate(tiff.series):
        groups = _groups(series)
        if page is None and len(groups) > 1:
            raise Unreadable(
                "unsupported_mode",
                f"a stack of {len(series.pages)} pages ({series.axes}); choose one of {len(groups)} with input.page",
            )
        if passed + len(groups) > (page or 0):
            if level >= len(series.levels):
                raise Unreadable("no_such_level", f"has {len(series.levels)} pyramid levels, asked for level {level}")
            index = (page or 0) - passed
            full = _page(series, groups[index][0])
            levels = tuple(_size(_page(one, _groups(one)[index][0])) for one in series.levels)
            place = georeference_of(tiff, full, number).at(levels[0], levels[level])
            at_level = series.levels[level]
            return _Image([_page(at_level, one) for one in _groups(at_level)[index]], levels, place)
        passed += len(groups)
    if not passed:
        raise Unreadable("corrupt_header", "no page that can be understood")
    raise Unreadable("no_such_page", f"has {passed} pages, asked for page {page}; the first is 0")


def _groups(series: Any) -> np.ndarray:
    """Returns for each image of a series the numbers of the pages that hold its channels: ``[images, pages]``."""
    page = _page(series, 0)
    count, sizes = len(series.pages), [int(size) for size in series.shape]
    # The leading axes, whose product is the number of pages, are those above the axes of a page.
    above = next((number for number in range(len(sizes)) if math.prod(sizes[:number]) == count), None)
    if series.size != page.size * count or above is None:
        raise Unreadable("unsupported_mode", f"a stack of {series.axes} {series.shape} in one directory")
    leading, shape = series.axes[:above], sizes[:above]
    numbers = np.arange(count).reshape(shape)
    if "C" in leading:
        return np.moveaxis(numbers, leading.index("C"), -1).reshape(-1, shape[leading.index("C")])
    return numbers.reshape(-1, 1)


def _page(series: Any, number: int) -> Any:
    page = series.pages[int(number)]
    if page is None:
        raise Unreadable("corrupt_header", "a page is missing: it may be in another file")
    return page.aspage()


def _size(page: Any) -> tuple[int, int]:
    return page.imagelength, page.imagewidth


def _check(page: Any) -> None:
    colour = getattr(page.photometric, "name", page.photometric)
    if colour not in _COLOURS:
        raise Unreadable("unsupported_mode", f"colour space {colour}; {', '.join(_COLOURS)} are read")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise Unreadable("unsupported_mode", f"pixels of {page.dtype}; integers and floating point are read")
    if colour == "YCBCR" and page.compression != tifffile.COMPRESSION.JPEG:
        raise Unreadable("unsupported_mode", "colour space YCBCR in another form than JPEG; convert it to RGB")
    if colour == "MINISWHITE" and page.dtype.kind not in "bu":
        raise Unreadable("unsupported_mode", f"{page.dtype} where 0 is white; unsigned integers are inverted")
    if colour == "PALETTE" and (page.samplesperpixel != 1 or page.colormap is None or page.dtype.kind not in "bu"):
        raise Unreadable("corrupt_header", "a palette without colours, or with several samples")
    if page.planarconfig not in (1, 2):
        raise Unreadable("corrupt_header", f"planar configuration {page.planarconfig!r}; 1 and 2 exist")
    if page.imagedepth != 1 or not page.imagelength or not page.imagewidth:
        size = (page.imagedepth, page.imagelength, page.imagewidth)
        raise Unreadable("unsupported_mode", f"depth x height x width {size}; two dimensions are read")
    blocks = int(np.prod(page.chunked, dtype=object))
    if not _rows_are_plain(page) and not len(page.dataoffsets) == len(page.databytecounts) == blocks:
        raise Unreadable("corrupt_header", f"{len(page.dataoffsets)} blocks where its size asks for {blocks}")


def _layout(image: _Image, turned: int) -> Layout:
    page = image.pages[0]
    height, width = _size(page)
    block: tuple[int, int] = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
    if _rows_are_plain(page) and len(image.pages) == 1:
        block = (1, width)
    channels = 3 if page.photometric.name == "PALETTE" else page.samplesperpixel * len(image.pages)
    dtype = np.dtype("u1") if page.dtype.kind == "b" or page.photometric.name == "PALETTE" else page.dtype
    narrow = page.bitspersample < 8 or page.photometric.name == "PALETTE"  # spread over all bits
    mpp, crs, transform, nodata = image.place
    if turned != 1:  # software that uses coordinates does not use the orientation
        crs, transform = "", None
        mpp = (mpp[1], mpp[0]) if mpp and orientation.shown_size(0, 1, turned) == (1, 0) else mpp
    levels = tuple(orientation.shown_size(*size, turned) for size in image.levels)
    return Layout(
        *orientation.shown_size(height, width, turned), channels, dtype.name,
        *orientation.shown_size(min(block[0], height), min(block[1], width), turned),
        _colour(page) if len(image.pages) == 1 else "", 0 if narrow or dtype.kind == "f" else page.bitspersample,
        levels if len(levels) > 1 else (), mpp, crs, transform, nodata,
    )  # fmt: skip


def _colour(page: Any) -> str:
    colour = _COLOURS[page.photometric.name]
    known = {"gray": 1, "cmyk": 4}.get(colour, 3)
    if page.photometric.name == "PALETTE" or page.samplesperpixel == known or colour in ("rgb", "lab"):
        return colour
    extra = [int(sample) for sample in page.extrasamples or ()]
    return colour if page.samplesperpixel == known + 1 and extra and extra[0] in _ALPHA else ""


def _rows_are_plain(page: Any) -> bool:
    """Says whether the pixels are stored in one piece, uncompressed and row after row, so that rows can be read."""
    bits = page.dtype.itemsize * 8
    as_stored = page.photometric.name not in ("PALETTE", "MINISWHITE") and page.bitspersample == bits
    return page.is_contiguous and as_stored and (page.planarconfig == 1 or page.samplesperpixel == 1)


def _shown(page: Any, pixels: np.ndarray) -> np.ndarray:
    """Returns the pixels as a viewer shows them: palette applied, white as the largest value, all 8 bits in use."""
    if page.photometric.name == "PALETTE":
        colours = (np.asarray(page.colormap) >> 8).astype(np.uint8).T  # TIFF 6.0 section 5: 16 bits for each
        return colours[pixels[..., 0].astype(np.uint16)]  # palettes of two colours have bool indices
    limit = (1 << page.bitspersample) - 1
    if page.bitspersample < 8 and pixels.dtype.kind in "bu":
        pixels = pixels.astype(np.uint8) * np.uint8(255 // limit)
        limit = 255
    return limit - pixels if page.photometric.name == "MINISWHITE" else pixels


class _RowReader:
    """A page whose plain values are stored row after row."""

    def __init__(self, file: ImageFile, layout: Layout, page: Any, turned: int):
        self.file, self.layout = file, layout
        self._page, self._turned = page, turned
        self._lock = threading.Lock()

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        check_inside(box, self.layout)
        page = self._page
        stored = orientation.stored_box(box, self.layout.height, self.layout.width, self._turned)
        row = page.imagewidth * page.samplesperpixel * page.dtype.itemsize
        with unreadable("corrupt_data", "does not decode"):
            data = _read(self.file, self._lock, page.dataoffsets[0] + stored.row * row, stored.height * row)
            pixels = np.frombuffer(data, page.parent.byteorder + page.dtype.char)
            pixels = pixels.reshape(stored.height, page.imagewidth, page.samplesperpixel)
            window = np.ascontiguousarray(pixels[:, stored.col : stored.col + stored.width], page.dtype)
        return orientation.shown(window, self._turned)

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self.file.close()


def _read(file: ImageFile, lock: threading.Lock, offset: int, count: int) -> bytes:
    with lock:  # the file has one position
        file.seek(offset)
        data = file.read(count)
    if len(data) < count:
        raise Unreadable("corrupt_data", f"the file ends {count - len(data)} bytes before the end of a block")
    return data


class _Blocks:
    """The blocks of one page."""

    def __init__(self, file: ImageFile, page: Any, lock: threading.Lock):
        self.page = page
        self.planes = page.samplesperpixel if page.planarconfig == 2 else 1
        self._file, self._lock = file, lock
        self._decode = page.decode  # created here, because creating it reads the file
        self._space = _jpeg_space(page)
        height, width = _size(page)
        self._block = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
        self.down, self.across = -(-height // self._block[0]), -(-width // self._block[1])

    def decode(self, plane: int, down: int, across: int) -> np.ndarray | float:
        """Decodes one block to ``[height, width, samples]``, or to one number where the file leaves it out."""
        page, index = self.page, (plane * self.down + down) * self.across + across
        if not page.databytecounts[index]:
            found: np.ndarray | float = page.nodata
            return found
        data = _read(self._file, self._lock, page.dataoffsets[index], page.databytecounts[index])
        rows = self._block[0] if page.is_tiled else min(self._block[0], page.imagelength - down * self._block[0])
        if self._space:
            block = decode_tables(data, page.jpegtables, *self._space)
        else:
            decoded, _, _ = self._decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
            block = decoded[0]
        samples = 1 if page.planarconfig == 2 else page.samplesperpixel
        if block.shape[-1] != samples:  # NumPy would broadcast one sample to all
            raise Unreadable("corrupt_data", f"block {index}: {block.shape[-1]} samples where {samples} are due")
        if self._space and (block.shape[0] < rows or block.shape[1] < self._block[1]):
            raise Unreadable("corrupt_data", f"block {index}: {block.shape[:2]} pixels where {rows} rows are due")
        return _shown(page, block)

    def places(self, down: int, across: int) -> list[tuple[int, int]]:
        """Returns where a block of each plane is in the file: ``(offset, bytes)``."""
        indices = ((plane * self.down + down) * self.across + across for plane in range(self.planes))
        return [(self.page.dataoffsets[index], self.page.databytecounts[index]) for index in indices]


def _planes(blocks: _Blocks) -> list[Decode]:
    return [functools.partial(blocks.decode, plane) for plane in range(blocks.planes)]


def _jpeg_space(page: Any) -> tuple[str, int | None] | None:
    """Returns colour space and Adobe's transform of JPEG blocks for simplejpeg, which reports damage; None for others.

    Most blocks have no marker that says whether they are RGB or YCbCr: the photometric interpretation does.
    """
    if page.compression != tifffile.COMPRESSION.JPEG or page.dtype != np.uint8 or page.jpegheader:
        return None
    samples = 1 if page.planarconfig == 2 else page.samplesperpixel
    name = page.photometric.name
    if samples == 1:
        return "GRAY", None
    if samples == 3 and name in ("RGB", "YCBCR"):
        return "RGB", 0 if name == "RGB" else 1
    return ("CMYK", None) if samples == 4 and name == "SEPARATED" else None
