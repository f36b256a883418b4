"""A reader for formats that can only be decoded whole: once, for all windows of the image."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from pipeline.elements import Unreadable
from pipeline.readers import MAX_WHOLE_BYTES, ImageFile, Layout, orientation, unreadable
from transforms.grid import Box


class WholeReader:
    """Decodes at the first read and keeps the pixels until it is closed.

    Args:
        file: the open image.
        height, width, channels, dtype: as stored, from the header.
        turned: the orientation of the stored pixels.
        decode: makes ``[height, width(, channels)]`` of the file's bytes.
    """

    def __init__(
        self, file: ImageFile, height: int, width: int, channels: int, dtype: str, turned: int,
        decode: Callable[[bytes], np.ndarray],
    ):  # fmt: skip
        needed = height * width * channels * np.dtype(dtype).itemsize
        if needed > MAX_WHOLE_BYTES:
            raise Unreadable(
                "too_large",
                f"{height} x {width} x {channels} {dtype} takes {needed >> 20} MiB, and this format can only be "
                f"decoded whole, up to {MAX_WHOLE_BYTES >> 20} MiB; convert it to a tiled TIFF",
            )
        self._stored = (height, width, channels)
        shown = orientation.shown_size(height, width, turned)
        self.layout = Layout(*shown, channels, dtype, *shown)
        self.file, self._turned, self._decode = file, turned, decode
        self._lock = threading.Lock()
        self._pixels: np.ndarray | None = None
        self._error: Unreadable | None = None

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        with self._lock:
            if self._error:
                raise self._error
            if self._pixels is None:
                try:
                    self._pixels = self._decode_all()
                except Unreadable as error:
                    self._error = error
                    raise
        return self._pixels[box.row : box.row + box.height, box.col : box.col + box.width]

    def _decode_all(self) -> np.ndarray:
        with unreadable("corrupt_data", "does not decode"):
            self.file.seek(0)
            pixels = np.asarray(self._decode(self.file.read()))
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.shape != self._stored or pixels.dtype != self.layout.dtype:
            raise Unreadable(
                "corrupt_data",
                f"decodes to {pixels.shape} {pixels.dtype}, the header says {self._stored} {self.layout.dtype}",
            )
        return orientation.shown(pixels, self._turned)

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self._pixels = None
        self.file.close()
