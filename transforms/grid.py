"""Which patches an image has: pure integers, from an index to a box and back, with named edge policies.

An axis is cut into patches of ``size`` pixels whose starts are ``stride`` pixels apart. What happens where the
last patch does not end at the border is the *edge policy*:

========  ==========================================================  =========================================
policy    what it does                                                coverage (for ``stride <= size``)
========  ==========================================================  =========================================
drop      keeps only patches that lie inside                          up to ``stride - 1`` last pixels in none
pad       lets the last patch reach past the border, filled by a      every pixel in at least one patch
          *pad mode*
shift     moves the last patch back so that it ends at the border     every pixel in at least one patch
========  ==========================================================  =========================================

With ``stride > size`` the gaps between patches stay uncovered, but for pixels that a shifted last patch takes in. An
axis shorter than one patch has no patch under ``drop`` and ``shift`` and one padded patch under ``pad``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Edge = Literal["drop", "pad", "shift"]
PadMode = Literal["reflect", "symmetric", "edge", "constant"]


class Box(NamedTuple):
    """A half-open rectangle of pixels: rows ``row .. row + height``, columns ``col .. col + width``."""

    row: int
    col: int
    height: int
    width: int


class Axis(NamedTuple):
    """The patches along one axis of an image.

    >>> axis = Axis(length=10, size=4, stride=3, edge="pad")
    >>> [axis.start(i) for i in range(axis.count)]
    [0, 3, 6]
    >>> shifted = Axis(length=9, size=4, stride=3, edge="shift")
    >>> [shifted.start(i) for i in range(shifted.count)]
    [0, 3, 5]
    """

    length: int
    size: int
    stride: int
    edge: Edge

    @property
    def count(self) -> int:
        """Number of patches.

        A patch beyond the first is needed while pixels remain behind the previous one. With overlap those are the
        pixels after its *end*, which is why the padding follows from the stride and not from a multiple of the size.
        """
        if self.length < self.size and self.edge != "pad":
            return 0
        if self.edge == "drop":
            return (self.length - self.size) // self.stride + 1
        left = self.length - max(self.size, self.stride)
        return 1 + max(0, -(-left // self.stride))

    def start(self, index: int) -> int:
        """First pixel of patch ``index``, always inside the image."""
        start = index * self.stride
        return min(start, self.length - self.size) if self.edge == "shift" else start

    def first_from(self, pixel: int) -> int:
        """Smallest index whose patch starts at ``pixel`` or later; ``count`` if there is none."""
        index = min(max(0, -(-pixel // self.stride)), self.count)
        # Under "shift" the last start lies before its multiple of the stride.
        if index == self.count - 1 and self.start(index) < pixel:
            return self.count
        return index


class Grid(NamedTuple):
    """The patches of an image: every pair of a row patch and a column patch, numbered row by row."""

    rows: Axis
    cols: Axis

    @classmethod
    def of(cls, shape: tuple[int, int], size: tuple[int, int], stride: tuple[int, int], edge: Edge) -> Grid:
        """The grid of an image of ``shape = (height, width)``; ``size`` and ``stride`` are ``(row, col)`` too.

        >>> grid = Grid.of((5, 9), size=(2, 4), stride=(2, 3), edge="drop")
        >>> grid.count, grid.box(3)
        (4, Box(row=2, col=3, height=2, width=4))
        """
        return cls(Axis(shape[0], size[0], stride[0], edge), Axis(shape[1], size[1], stride[1], edge))

    @property
    def count(self) -> int:
        """Number of patches."""
        return self.rows.count * self.cols.count

    def box(self, index: int) -> Box:
        """The pixels of patch ``index``; under ``pad`` the box may reach past the bottom and right border."""
        row, col = divmod(index, self.cols.count)
        return Box(self.rows.start(row), self.cols.start(col), self.rows.size, self.cols.size)

    def cells(self, area: Box) -> Cells:
        """The patches whose first pixel lies in ``area``; areas that tile the image share no patch and miss none."""
        return Cells(
            self.rows.first_from(area.row),
            self.rows.first_from(area.row + area.height),
            self.cols.first_from(area.col),
            self.cols.first_from(area.col + area.width),
        )


class Cells(NamedTuple):
    """A rectangle of patches by their indices along the two axes, half-open."""

    row_from: int
    row_to: int
    col_from: int
    col_to: int

    @property
    def count(self) -> int:
        """Number of patches."""
        return (self.row_to - self.row_from) * (self.col_to - self.col_from)

    def halves(self) -> tuple[Cells, Cells]:
        """Two parts of at least one patch each, split along the longer side."""
        r0, r1, c0, c1 = self
        if r1 - r0 >= c1 - c0:
            middle = (r0 + r1) // 2
            return Cells(r0, middle, c0, c1), Cells(middle, r1, c0, c1)
        middle = (c0 + c1) // 2
        return Cells(r0, r1, c0, middle), Cells(r0, r1, middle, c1)


def source_index(positions: np.ndarray, length: int, mode: PadMode) -> np.ndarray:
    """The image pixel that fills each position of a padded axis, as ``numpy.pad`` defines the modes.

    ``reflect`` and ``symmetric`` go back and forth as often as the padding asks for.

    Args:
        positions: ``[N]`` integers, may lie outside ``0 .. length - 1``.
        length: pixels of the axis, at least 1.
        mode: ``reflect`` (mirror without the border pixel), ``symmetric`` (with it), ``edge`` (repeat it) or
            ``constant``.

    Returns:
        ``[N]`` integers in ``0 .. length - 1``, or -1 where ``constant`` fills.

    >>> source_index(np.arange(-2, 6), 3, "reflect").tolist()
    [2, 1, 0, 1, 2, 1, 0, 1]
    """
    positions = np.asarray(positions)
    if mode == "edge":
        return np.clip(positions, 0, length - 1)
    if mode == "constant":
        return np.where((positions >= 0) & (positions < length), positions, -1)
    if mode == "symmetric":
        folded = positions % (2 * length)
        return np.minimum(folded, 2 * length - 1 - folded)
    if mode == "reflect":
        period = max(1, 2 * (length - 1))
        folded = positions % period
        return np.minimum(folded, period - folded)
    raise ValueError(f"pad mode {mode!r} is unknown; use reflect, symmetric, edge or constant")
