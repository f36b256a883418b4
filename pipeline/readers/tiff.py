"""The TIFF family: tiled and stripped TIFF, BigTIFF, SVS, with pyramid levels; reads only the blocks a window needs."""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
from typing import Any, BinaryIO, cast

import numpy as np
import tifffile

from pipeline.elements import Unreadable
from pipeline.readers import ImageFile, Layout, Reader, orientation, unreadable
from pipeline.readers.whole import WholeReader
from transforms.grid import Box

# What it would warn of comes back as a reason code.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_COLOURS = ("MINISBLACK", "RGB", "YCBCR")
# A block above this size is no random access: such images are decoded whole, once.
_MAX_BLOCK_BYTES = 1 << 26


def open_reader(file: ImageFile, level: int) -> Reader:
    """See :func:`pipeline.readers.open_image`; the first image of the file, at one of its pyramid levels."""
    _check_chain(file)
    series = tifffile.TiffFile(cast(BinaryIO, file)).series[0]
    if level >= len(series.levels):
        raise Unreadable("no_such_level", f"has {len(series.levels)} pyramid levels, asked for level {level}")
    pages: Any = series.levels[level].pages
    page = pages[0].aspage()
    if series.levels[level].size != page.size:
        raise Unreadable(
            "unsupported_mode", f"a stack of {series.size // page.size} pages ({series.axes}); single images are read"
        )
    _check(page)
    tag = page.tags.get(orientation.TAG)
    turned = orientation.valid(int(tag.value) if tag else 1)
    reader = _TiffReader(file, page, turned)
    layout = reader.layout
    if layout.block_height * layout.block_width * layout.channels * page.dtype.itemsize <= _MAX_BLOCK_BYTES:
        return reader
    height, width = orientation.shown_size(layout.height, layout.width, turned)
    whole = Box(0, 0, height, width)
    return WholeReader(file, height, width, layout.channels, layout.dtype, turned, lambda _: reader.read_stored(whole))


def _check_chain(file: ImageFile) -> None:
    """Refuses directories that go in a circle, which would be followed for ever."""
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


def _check(page: Any) -> None:
    colour = getattr(page.photometric, "name", page.photometric)
    if colour not in _COLOURS:
        raise Unreadable("unsupported_mode", f"colour space {colour}; {', '.join(_COLOURS)} are read")
    if page.dtype is None or page.dtype.name not in ("uint8", "uint16", "float32"):
        raise Unreadable("unsupported_mode", f"pixels of {page.dtype}; uint8, uint16 and float32 are read")
    if colour == "YCBCR" and page.compression != tifffile.COMPRESSION.JPEG:
        raise Unreadable("unsupported_mode", "colour space YCBCR in another form than JPEG; convert it to RGB")
    if page.planarconfig not in (1, 2):
        raise Unreadable("corrupt_header", f"planar configuration {page.planarconfig!r}; 1 and 2 exist")
    if page.imagedepth != 1 or not page.imagelength or not page.imagewidth:
        size = (page.imagedepth, page.imagelength, page.imagewidth)
        raise Unreadable("unsupported_mode", f"depth x height x width {size}; two dimensions are read")
    blocks = int(np.prod(page.chunked, dtype=object))
    if not _rows_are_plain(page) and not len(page.dataoffsets) == len(page.databytecounts) == blocks:
        raise Unreadable("corrupt_header", f"{len(page.dataoffsets)} blocks where its size asks for {blocks}")
    if page.nbytes > 1000 * page.parent.filehandle.size and _rows_are_plain(page):
        raise Unreadable("corrupt_header", f"{page.nbytes} bytes of pixels in a file of {page.parent.filehandle.size}")


def _rows_are_plain(page: Any) -> bool:
    """Whether the pixels lie in one piece, uncompressed, row after row, so that any rows can be read directly."""
    bits = page.dtype.itemsize * 8
    return page.is_contiguous and page.bitspersample == bits and (page.planarconfig == 1 or page.samplesperpixel == 1)


class _TiffReader:
    """One page of a TIFF, block by block."""

    def __init__(self, file: ImageFile, page: Any, turned: int):
        self.file, self._page, self._turned = file, page, turned
        self._lock = threading.Lock()
        self._decode_block = page.decode  # made now: the making reads the file
        self._plain = _rows_are_plain(page)
        height, width = page.imagelength, page.imagewidth
        blocks = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
        self._block: tuple[int, int] = (1, width) if self._plain else (min(blocks[0], height), min(blocks[1], width))
        self.layout = Layout(
            *orientation.shown_size(height, width, turned),
            page.samplesperpixel,
            page.dtype.name,
            *orientation.shown_size(*self._block, turned),
        )

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        stored = orientation.stored_box(box, self.layout.height, self.layout.width, self._turned)
        return orientation.shown(self.read_stored(stored), self._turned)

    def read_stored(self, box: Box) -> np.ndarray:
        """The pixels of a box in the orientation of the file."""
        with unreadable("corrupt_data", "does not decode"):
            return self._read_rows(box) if self._plain else self._read_blocks(box)

    def _read_rows(self, box: Box) -> np.ndarray:
        page = self._page
        row = page.imagewidth * page.samplesperpixel * page.dtype.itemsize
        data = self._bytes(page.dataoffsets[0] + box.row * row, box.height * row)
        pixels = np.frombuffer(data, page.parent.byteorder + page.dtype.char)
        pixels = pixels.reshape(box.height, page.imagewidth, page.samplesperpixel)
        return np.ascontiguousarray(pixels[:, box.col : box.col + box.width], page.dtype)

    def _read_blocks(self, box: Box) -> np.ndarray:
        page, (block_height, block_width) = self._page, self._block
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        down, across = -(-page.imagelength // block_height), -(-page.imagewidth // block_width)
        rows = range(box.row // block_height, -(-(box.row + box.height) // block_height))
        cols = range(box.col // block_width, -(-(box.col + box.width) // block_width))
        blocks = ((plane * down + row) * across + col for plane in range(planes) for row in rows for col in cols)
        self.file.expect((page.dataoffsets[index], page.databytecounts[index]) for index in blocks)
        out = np.empty((box.height, box.width, page.samplesperpixel), page.dtype)
        for plane in range(planes):
            samples = slice(plane, plane + 1) if planes > 1 else slice(None)
            for down_index in rows:
                for across_index in cols:
                    block = self._decode((plane * down + down_index) * across + across_index)
                    into_rows, of_rows = _overlap(down_index * block_height - box.row, block_height, box.height)
                    into_cols, of_cols = _overlap(across_index * block_width - box.col, block_width, box.width)
                    out[into_rows, into_cols, samples] = block if np.ndim(block) == 0 else block[of_rows, of_cols]
        return out

    def _decode(self, index: int) -> np.ndarray:
        """Block ``index``: ``[height, width, samples]``, or one number for a block that the file leaves out."""
        page = self._page
        count = page.databytecounts[index]
        if not count:
            return page.nodata
        data = self._bytes(page.dataoffsets[index], count)
        # libjpeg would fill the missing end of a picture with grey.
        if page.compression == tifffile.COMPRESSION.JPEG and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise Unreadable("corrupt_data", f"block {index}: the JPEG data end early")
        block, _, _ = self._decode_block(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        samples = 1 if page.planarconfig == 2 else page.samplesperpixel
        if block.shape[-1] != samples:  # NumPy would spread one sample over all
            raise Unreadable("corrupt_data", f"block {index}: {block.shape[-1]} samples where {samples} are due")
        return block[0]

    def _bytes(self, offset: int, count: int) -> bytes:
        with self._lock:  # the file has one position
            self.file.seek(offset)
            data = self.file.read(count)
        if len(data) < count:
            raise Unreadable("corrupt_data", f"the file ends {count - len(data)} bytes before the end of a block")
        return data

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self.file.close()


def _overlap(start: int, length: int, limit: int) -> tuple[slice, slice]:
    """Where ``start .. start + length`` overlaps ``0 .. limit``: counted from 0, and counted from ``start``."""
    first, end = max(0, start), min(start + length, limit)
    return slice(first, end), slice(first - start, end - start)
