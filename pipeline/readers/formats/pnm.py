"""Netpbm: PBM, PGM and PPM as text and as bytes, PAM, and PFM; up to 16 bits, or float32. Bytes are read by rows.

Bilevel pixels become 0 and 255; PBM's ink is black. Samples whose maximum is below that of their type stay as they are,
and the layout says how many bits they use.
"""

from __future__ import annotations

import re
import threading

import numpy as np

from pipeline.errors import Unreadable
from pipeline.readers import ImageFile, Layout, Reader, check_inside, check_plausible, check_single, unreadable
from pipeline.readers.whole import WholeReader
from transforms.grid import Box

_HEAD = 1 << 16
_TOKEN = re.compile(rb"(?:\s|#[^\n]*\n)*([^\s#]+)")
_COLOURS = {1: "gray", 2: "gray", 3: "rgb", 4: "rgb"}


def open_reader(file: ImageFile, level: int, page: int | None) -> Reader:
    """See :func:`pipeline.readers.open_image`."""
    head = file.read(_HEAD)
    kind = head[:2]
    check_single("PNM", level, page)
    if kind == b"P7":
        height, width, channels, limit, start = _pam(head)
    else:
        channels = 3 if kind in (b"P3", b"P6", b"PF") else 1
        tokens, at = [], 2
        for _ in range(2 if kind in (b"P1", b"P4") else 3):
            found = _TOKEN.match(head, at)
            if not found:
                raise Unreadable("corrupt_header", "the file ends before the pixels")
            tokens.append(found[1])
            at = found.end()
        start = at + 1
        width, height = int(tokens[0]), int(tokens[1])
        limit = 1.0 if kind in (b"P1", b"P4") else float(tokens[2])
    stored = (height, width, channels)
    if min(stored) < 1:
        raise Unreadable("corrupt_header", f"{height} x {width} pixels of {channels} channels")
    colour = _COLOURS.get(channels, "")
    if kind in (b"Pf", b"PF"):
        return _Rows(file, start, stored, "<f4" if limit < 0 else ">f4", colour, 0, upwards=True)
    if not 1 <= limit <= 65535:
        raise Unreadable("corrupt_header", f"a largest value of {limit:g}; 1 to 65535 exist")
    limit = int(limit)
    dtype = "uint8" if limit <= 255 else "uint16"
    if kind in (b"P5", b"P6", b"P7"):
        return _Rows(file, start, stored, ">u2" if limit > 255 else "u1", colour, limit.bit_length())
    if kind == b"P4":
        return WholeReader(file, stored, "uint8", lambda data: _bits(data[start:], height, width), colour=colour)

    def decode(data: bytes) -> np.ndarray:
        text = re.sub(rb"#[^\n]*", b"", data[start - 1 :])
        if kind == b"P1":  # the digits need no separators
            return np.array([0 if digit == 49 else 255 for digit in b"".join(text.split())], np.uint8).reshape(stored)
        values = np.array(text.split(), np.uint32).reshape(stored)
        if values.max() > limit:
            raise ValueError(f"a value of {values.max()}, more than its largest, {limit}")
        return values.astype(dtype)

    return WholeReader(file, stored, dtype, decode, colour=colour, bits=0 if limit == 1 else limit.bit_length())


def _pam(head: bytes) -> tuple[int, int, int, float, int]:
    text, end, _ = head.partition(b"ENDHDR\n")
    lines = [line.split() for line in text.splitlines()[1:] if line.strip() and not line.startswith(b"#")]
    values = {line[0]: line[1] for line in lines}
    if not end:
        raise Unreadable("corrupt_header", "the file ends before the pixels")
    height, width, depth, limit = (int(values[key]) for key in (b"HEIGHT", b"WIDTH", b"DEPTH", b"MAXVAL"))
    return height, width, depth, limit, len(text) + len(end)


def _bits(data: bytes, height: int, width: int) -> np.ndarray:
    row = -(-width // 8)
    packed = np.frombuffer(data[: height * row], np.uint8).reshape(height, row)
    return np.where(np.unpackbits(packed, axis=1)[:, :width], 0, 255).astype(np.uint8)


class _Rows:
    """Samples stored row after row, from the first row to the last or, in a PFM, from the last to the first."""

    def __init__(
        self, file: ImageFile, start: int, stored: tuple[int, int, int], form: str, colour: str, bits: int,
        upwards: bool = False,
    ):  # fmt: skip
        height, width, channels = stored
        self._start, self._form, self._upwards = start, np.dtype(form), upwards
        self._dtype = self._form.newbyteorder("=")
        self._row = width * channels * self._form.itemsize
        self._lock = threading.Lock()
        self.file = file
        check_plausible(height * self._row, file.seek(0, 2))
        self.layout = Layout(height, width, channels, self._dtype.name, 1, width, colour, bits)

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        check_inside(box, self.layout)
        first = self.layout.height - box.row - box.height if self._upwards else box.row
        with unreadable("corrupt_data", "does not decode"), self._lock:
            self.file.seek(self._start + first * self._row)
            data = self.file.read(box.height * self._row)
        if len(data) < box.height * self._row:
            raise Unreadable("corrupt_data", f"the file ends {box.height * self._row - len(data)} bytes early")
        pixels = np.frombuffer(data, self._form).reshape(box.height, self.layout.width, self.layout.channels)
        rows = pixels[::-1] if self._upwards else pixels
        return np.ascontiguousarray(rows[:, box.col : box.col + box.width], self._dtype)

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self.file.close()
