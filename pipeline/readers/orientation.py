"""The eight orientations of EXIF and TIFF (tag 274): how a viewer shows stored rows and columns.

=========== =====================================
orientation shown image, made from the stored one
=========== =====================================
1           as stored
2           columns reversed
3           rows and columns reversed
4           rows reversed
5           transposed
6           transposed, then columns reversed
7           transposed, then both reversed
8           transposed, then rows reversed
=========== =====================================
"""

from __future__ import annotations

import numpy as np

from transforms.grid import Box

TAG = 274
_TRANSPOSED = (5, 6, 7, 8)
_ROWS_REVERSED = (3, 4, 7, 8)
_COLS_REVERSED = (2, 3, 6, 7)


def valid(value: object) -> int:
    """Returns the orientation that the value of a tag means; everything unknown means 1."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Returns the shown pixels ``[H, W, ...]`` as a view of the stored ones."""
    if orientation in _TRANSPOSED:
        stored = stored.swapaxes(0, 1)
    rows = -1 if orientation in _ROWS_REVERSED else 1
    cols = -1 if orientation in _COLS_REVERSED else 1
    return stored[::rows, ::cols]


def shown_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Returns the shown height and width for the stored ones; the function is its own inverse."""
    return (width, height) if orientation in _TRANSPOSED else (height, width)


def stored_box(box: Box, height: int, width: int, orientation: int) -> Box:
    """Returns the box in the stored image for a shown ``box``; ``height`` and ``width`` are the *shown* size.

    >>> stored_box(Box(0, 1, 2, 3), height=10, width=20, orientation=6)
    Box(row=16, col=0, height=3, width=2)
    """
    row = height - box.row - box.height if orientation in _ROWS_REVERSED else box.row
    col = width - box.col - box.width if orientation in _COLS_REVERSED else box.col
    flipped = Box(row, col, box.height, box.width)
    if orientation in _TRANSPOSED:
        return Box(flipped.col, flipped.row, flipped.width, flipped.height)
    return flipped
