"""NIfTI by nibabel (extra ``medical``): slices of a volume by page; ``.nii`` is read by rows, ``.nii.gz`` whole.

The columns of a slice are the first axis of the volume and its rows the second, as stored, without any turning. Pages
run over the third and higher axes, the third one fastest. Values with a scale are float32: stored * slope + inter.
"""

from __future__ import annotations

import gzip
import io
import math
import threading

import numpy as np

from pipeline.errors import Unreadable
from pipeline.parallel import Once
from pipeline.readers import ImageFile, Layout, Reader, check_inside, check_plausible, extra, unreadable
from pipeline.readers.whole import check_size
from transforms.grid import Box

_MICROMETRES = {1: 1e6, 2: 1e3, 3: 1.0}  # xyzt_units & 7: metre, millimetre, micrometre


def open_reader(file: ImageFile, level: int, page: int | None) -> Reader:
    """See :func:`pipeline.readers.open_image`."""
    nibabel = extra("nibabel", "medical")
    if level:
        raise Unreadable("no_such_level", f"a NIfTI has level 0 only, asked for {level}")
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if packed else file
    head = stream.read(540)
    if head[344:348] == b"ni1\0":
        raise Unreadable("unsupported_mode", "header and pixels in two files; convert it to .nii")
    if head[344:348] != b"n+1\0" and head[4:8] != b"n+2\0":
        raise Unreadable("unknown_format", "a gzip file that holds no NIfTI" if packed else "no NIfTI")
    kind = nibabel.Nifti2Header if head[4:8] == b"n+2\0" else nibabel.Nifti1Header
    header = kind.from_fileobj(io.BytesIO(head), check=False)
    shape = tuple(map(int, header.get_data_shape()))
    if not 2 <= len(shape) <= 7 or min(shape) < 1:
        raise Unreadable("corrupt_header", f"a volume of {shape}")
    pages = math.prod(shape[2:])
    if page is None and pages > 1:
        raise Unreadable("unsupported_mode", f"a volume of {shape}; choose one of {pages} slices with input.page")
    if (page or 0) >= pages:
        raise Unreadable("no_such_page", f"has {pages} pages, asked for page {page}; the first is 0")
    stored = header.get_data_dtype()
    if stored.names and len(stored.names) in (3, 4):  # RGB24 and RGBA32
        form, channels = np.dtype("u1"), len(stored.names)
    elif stored.kind in "iuf" and stored.itemsize <= 8:
        form, channels = stored, 1
    else:
        raise Unreadable("unsupported_mode", f"values of {stored}; integers, floating point and RGB are read")
    slope, inter = header.get_slope_inter()
    scale = None if (slope or 1, inter or 0) == (1, 0) or channels > 1 else (float(slope or 1), float(inter or 0))
    unit = _MICROMETRES.get(int(header["xyzt_units"]) & 7)
    across, down = (abs(float(size)) for size in header["pixdim"][1:3])
    width, height = shape[:2]
    dtype = "float32" if scale else form.newbyteorder("=").name
    size = height * width * channels * form.itemsize
    start = int(header["vox_offset"]) + (page or 0) * size
    layout = Layout(
        height, width, channels, dtype, *((height, width) if packed else (1, width)),
        "gray" if channels == 1 else "rgb", mpp=(down * unit, across * unit) if unit and down and across else None,
    )  # fmt: skip
    if packed:
        check_size((height, width, channels), dtype)
    else:
        check_plausible(pages * size, file.seek(0, 2))
    return _Slice(file, layout, packed, start, form, scale)


class _Slice:
    """A slice that is stored row after row."""

    def __init__(
        self, file: ImageFile, layout: Layout, packed: bool, start: int, form: np.dtype,
        scale: tuple[float, float] | None,
    ):  # fmt: skip
        self.file, self.layout = file, layout
        self._packed, self._start, self._form, self._scale = packed, start, form, scale
        self._lock = threading.Lock()
        self._all = Once(lambda: self._rows(0, layout.height))

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        check_inside(box, self.layout)
        if self._packed:
            return self._all()[box.row : box.row + box.height, box.col : box.col + box.width]
        return np.ascontiguousarray(self._rows(box.row, box.height)[:, box.col : box.col + box.width])

    def _rows(self, row: int, rows: int) -> np.ndarray:
        one = self.layout.width * self.layout.channels * self._form.itemsize
        with unreadable("corrupt_data", "does not decode"), self._lock:
            self.file.seek(0)
            stream = gzip.GzipFile(fileobj=self.file) if self._packed else self.file
            stream.seek(self._start + row * one)
            data = stream.read(rows * one)
        if len(data) < rows * one:
            raise Unreadable("corrupt_data", f"the file ends {rows * one - len(data)} bytes early")
        values = np.frombuffer(data, self._form).reshape(rows, self.layout.width, self.layout.channels)
        return (values * self._scale[0] + self._scale[1] if self._scale else values).astype(self.layout.dtype)

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self._all.forget()
        self.file.close()
