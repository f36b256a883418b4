"""DICOM by pydicom (extra ``medical``): single images, frames of a series by page, and whole slides by tile.

Values with a rescale (CT, PET) become float32 in its units: stored * slope + intercept. Values where 0 is white are
inverted. A slide has one file for each level; missing tiles are white.
"""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np

from pipeline.errors import Unreadable
from pipeline.readers import ImageFile, Layout, Reader, extra
from pipeline.readers.blocks import BlockReader
from pipeline.readers.whole import WholeReader, check_size

_COLOURS = {"MONOCHROME1": "gray", "MONOCHROME2": "gray", "RGB": "rgb"}  # YBR of all kinds becomes RGB


def open_reader(file: ImageFile, level: int, page: int | None) -> Reader:
    """See :func:`pipeline.readers.open_image`."""
    pydicom = extra("pydicom", "medical")
    if level:
        raise Unreadable("no_such_level", f"a DICOM file has level 0 only, asked for {level}; each level is a file")
    header = pydicom.dcmread(file, stop_before_pixels=True)
    file.seek(0)
    kind = str(header.PhotometricInterpretation)
    colour = "rgb" if kind.startswith("YBR") else _COLOURS.get(kind)
    if colour is None or header.BitsAllocated not in (1, 8, 16, 32):
        raise Unreadable(
            "unsupported_mode", f"{header.BitsAllocated} bits of {kind}; 1 to 32 of grey or colour are read"
        )
    frames, channels = int(header.get("NumberOfFrames") or 1), int(header.SamplesPerPixel)
    stored = np.dtype(f"{'i' if header.PixelRepresentation else 'u'}{max(8, header.BitsAllocated) // 8}")
    rescale = _rescale(header)
    dtype = "float32" if rescale else stored.name
    top = 255 if header.BitsAllocated == 1 else (1 << int(header.BitsStored)) - 1
    limit = top if kind == "MONOCHROME1" and stored.kind == "u" and not rescale else 0

    def shown(pixels: np.ndarray) -> np.ndarray:
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        if header.BitsAllocated == 1:
            pixels = pixels * np.uint8(255)
        if rescale:
            return (pixels * rescale[0] + rescale[1]).astype(np.float32)
        return limit - pixels if limit else pixels

    decode = pydicom.pixels.pixel_array
    size = (int(header.Rows), int(header.Columns), channels)
    bits = 0 if rescale or header.BitsAllocated == 1 else int(header.BitsStored)
    if "TotalPixelMatrixRows" in header:
        return _slide(file, header, size, dtype, colour, bits, lambda frame: shown(decode(file, index=frame)))
    if page is None and frames > 1:
        raise Unreadable("unsupported_mode", f"a stack of {frames} frames; choose one with input.page")
    number = page or 0
    if number >= frames:
        raise Unreadable("no_such_page", f"has {frames} pages, asked for page {number}; the first is 0")
    read = lambda data: shown(decode(io.BytesIO(data), index=number if frames > 1 else None))
    reader = WholeReader(file, size, dtype, read, colour=colour, bits=bits)
    reader.layout = reader.layout._replace(mpp=_mpp(header))
    return reader


def _slide(
    file: ImageFile, header: Any, tile: tuple[int, int, int], dtype: str, colour: str, bits: int, read: Any
) -> Reader:
    height, width = int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns)
    check_size(tile, dtype)
    if min(height, width, *tile) < 1:
        raise Unreadable("corrupt_header", f"{height} x {width} pixels in tiles of {tile}")
    frames = _frames(header, -(-width // tile[1]))
    lock = threading.Lock()

    def decode(down: int, across: int) -> np.ndarray | float:
        frame = frames.get((down, across)) if frames is not None else down * -(-width // tile[1]) + across
        if frame is None:
            return 255
        with lock:  # the file has one position
            file.seek(0)
            found: np.ndarray | float = read(frame)
            return found

    block = (min(tile[0], height), min(tile[1], width))
    return BlockReader(file, Layout(height, width, tile[2], dtype, *block, colour, bits, mpp=_mpp(header)), [decode])


def _frames(header: Any, across: int) -> dict[tuple[int, int], int] | None:
    """Maps (row, column) of a tile to its frame; returns None where the frames are all tiles, row by row."""
    if header.get("DimensionOrganizationType") == "TILED_FULL" or "PerFrameFunctionalGroupsSequence" not in header:
        return None
    places = {}
    for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        place = frame.PlanePositionSlideSequence[0]
        row, col = (place[f"{axis}PositionInTotalImagePixelMatrix"].value - 1 for axis in ("Row", "Column"))
        if row % header.Rows or col % header.Columns:
            raise Unreadable("unsupported_mode", f"a tile at {row}, {col}, which is no place in a grid of tiles")
        places[row // header.Rows, col // header.Columns] = number
    return places


def _shared(header: Any, sequence: str) -> Any:
    """Returns the attributes that all frames share in ``sequence``, else the header of the file."""
    groups = header.get("SharedFunctionalGroupsSequence")
    found = groups[0].get(sequence) if groups else None
    return found[0] if found else header


def _rescale(header: Any) -> tuple[float, float] | None:
    values = _shared(header, "PixelValueTransformationSequence")
    slope, intercept = float(values.get("RescaleSlope") or 1), float(values.get("RescaleIntercept") or 0)
    return None if (slope, intercept) == (1, 0) else (slope, intercept)


def _mpp(header: Any) -> tuple[float, float] | None:
    spacing = _shared(header, "PixelMeasuresSequence").get("PixelSpacing")
    return (float(spacing[0]) * 1000, float(spacing[1]) * 1000) if spacing and min(map(float, spacing)) > 0 else None
