"""Reading windows of images stored in tiles or strips: only the blocks that a window needs are decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.readers import ImageFile, Layout, check_inside, orientation, unreadable
from transforms.grid import Box

# (row, column) of a block in the grid of blocks -> its pixels ``[height, width, channels of the plane]``, or one number
# for a block that the file leaves out.
Decode = Callable[[int, int], "np.ndarray | float"]
Places = Callable[[int, int], list[tuple[int, int]]]


class BlockReader:
    """Assembles windows from blocks.

    Args:
        file: the open image.
        layout: the layout with the orientation applied.
        planes: one function per plane that decodes a block; each plane holds the next channels, equally many in all.
        turned: the orientation of the stored pixels.
        places: (row, column) of a block -> its ``(offset, bytes)`` in the file, for each plane; a file in a store
            fetches them together.
    """

    def __init__(
        self, file: ImageFile, layout: Layout, planes: Sequence[Decode], turned: int = 1, places: Places | None = None
    ):
        self.file, self.layout = file, layout
        self._planes, self._turned, self._places = planes, turned, places
        self._block = orientation.shown_size(layout.block_height, layout.block_width, turned)

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        check_inside(box, self.layout)
        stored = orientation.stored_box(box, self.layout.height, self.layout.width, self._turned)
        return orientation.shown(self.read_stored(stored), self._turned)

    def read_stored(self, box: Box) -> np.ndarray:
        """Reads the pixels of a box in the orientation of the file."""
        with unreadable("corrupt_data", "does not decode"):
            return self._read_blocks(box)

    def _read_blocks(self, box: Box) -> np.ndarray:
        block_height, block_width = self._block
        channels = self.layout.channels // len(self._planes)
        rows = range(box.row // block_height, -(-(box.row + box.height) // block_height))
        cols = range(box.col // block_width, -(-(box.col + box.width) // block_width))
        if self._places:
            self.file.prefetch([place for down in rows for across in cols for place in self._places(down, across)])
        out = np.empty((box.height, box.width, self.layout.channels), self.layout.dtype)
        for plane, decode in enumerate(self._planes):
            samples = slice(plane * channels, (plane + 1) * channels)
            for down in rows:
                for across in cols:
                    block = decode(down, across)
                    into_rows, of_rows = _overlap(down * block_height - box.row, block_height, box.height)
                    into_cols, of_cols = _overlap(across * block_width - box.col, block_width, box.width)
                    out[into_rows, into_cols, samples] = (
                        block[of_rows, of_cols] if isinstance(block, np.ndarray) and block.ndim else block
                    )
        return out

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self.file.close()


def _overlap(start: int, length: int, limit: int) -> tuple[slice, slice]:
    """Returns the overlap of ``start .. start + length`` and ``0 .. limit``, counted from 0 and from ``start``."""
    first, end = max(0, start), min(start + length, limit)
    return slice(first, end), slice(first - start, end - start)
