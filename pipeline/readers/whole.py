"""A reader for formats that can only be decoded whole, once for all windows of the image."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pipeline.errors import Unreadable
from pipeline.parallel import Once
from pipeline.readers import MAX_WHOLE_BYTES, ImageFile, Layout, check_inside, orientation, unreadable
from transforms.grid import Box


class WholeReader:
    """Decodes the image at the first read and keeps the pixels until it is closed.

    Args:
        file: the open image.
        stored: height, width and channels as stored, from the header.
        dtype: dtype of the pixels.
        decode: decodes the bytes of the file to ``[height, width(, channels)]``.
        colour, bits: see :class:`pipeline.readers.Layout`.
        turned: the orientation of the stored pixels.
    """

    def __init__(
        self, file: ImageFile, stored: tuple[int, int, int], dtype: str, decode: Callable[[bytes], np.ndarray],
        *, colour: str = "", bits: int = 0, turned: int = 1,
    ):  # fmt: skip
        height, width, channels = stored
        if min(stored) < 1:
            raise Unreadable("corrupt_header", f"{height} x {width} pixels of {channels} channels")
        check_size(stored, dtype)
        self._stored = stored
        shown = orientation.shown_size(height, width, turned)
        self.layout = Layout(*shown, channels, dtype, *shown, colour, bits)
        self.file, self._turned, self._decode = file, turned, decode
        self._all = Once(self._decode_all)

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        check_inside(box, self.layout)
        return self._all()[box.row : box.row + box.height, box.col : box.col + box.width]

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
        self._all.forget()
        self.file.close()


def check_size(stored: tuple[int, ...], dtype: str) -> None:
    """Refuses an image whose pixels exceed the memory limit of whole images, before anything is allocated.

    Raises:
        Unreadable: ``too_large``.
    """
    needed = math.prod(stored) * np.dtype(dtype).itemsize
    if needed > MAX_WHOLE_BYTES:
        raise Unreadable(
            "too_large",
            f"{' x '.join(map(str, stored))} {dtype} takes {needed >> 20} MiB, and this format can only be "
            f"decoded whole, up to {MAX_WHOLE_BYTES >> 20} MiB; convert it to a tiled TIFF",
        )
