"""The grid of patches of an image, in integers: from an index to a box and back, with named edge policies.

Along an axis, a patch takes ``size`` pixels that lie ``dilation`` apart, and so spans ``(size - 1) * dilation + 1``
pixels. The first patch starts at ``origin``, the next ones follow ``stride`` pixels apart. The *edge policy* says what
happens where the last patch does not end at the border:

========  ==========================================================  =========================================
policy    what it does                                                coverage (for ``stride <= size``)
========  ==========================================================  =========================================
drop      keeps only patches that lie inside                          up to ``stride - 1`` last pixels in none
pad       lets the last patch reach past the border, filled by a      every pixel in at least one patch
          *pad mode*
shift     moves the last patch back so that it ends at the border     every pixel in at least one patch
========  ==========================================================  =========================================

The coverage column holds for ``dilation = 1`` and ``origin <= 0``. In general, :meth:`Axis.coverage` counts the patches
``i`` that hold a pixel: those for which ``pixel - start(i)`` is one of ``0, dilation, ..., (size - 1) * dilation``. So:

- under ``drop`` and ``pad``, a pixel between ``size - stride`` pixels after the first start and as many before the last
  end lies in ``size / stride`` patches, rounded down or up, and in exactly as many where that is whole; under ``shift``
  the same holds without the last patch, which adds one to its pixels (``dilation = 1``);
- pixels before a positive ``origin`` lie in no patch, except those that a shifted patch takes in;
- with ``stride > size``, the gaps between patches stay uncovered, again except by a shifted last patch;
- with ``dilation > 1``, skipped pixels are covered only where another patch hits them.

An axis shorter than the span of a patch has no patch under ``drop`` and ``shift`` and one padded patch under ``pad``;
an axis that ends before ``origin`` has no patch at all. A negative ``origin`` lets the first patches reach past the
first border, which needs ``pad``.
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
    >>> dilated = Axis(length=10, size=3, stride=4, edge="pad", dilation=2, origin=-1)
    >>> [list(dilated.pixels(i)) for i in range(dilated.count)]
    [[-1, 1, 3], [3, 5, 7], [7, 9, 11]]
    """

    length: int
    size: int
    stride: int
    edge: Edge
    dilation: int = 1
    origin: int = 0

    @property
    def span(self) -> int:
        """Pixels from the first to the last pixel of a patch, both included."""
        return (self.size - 1) * self.dilation + 1

    @property
    def count(self) -> int:
        """Number of patches.

        Another patch is needed while pixels remain after the previous one. With overlap, these are the pixels after its
        *end*, which is why the padding follows from the stride and not from a multiple of the size.
        """
        if self.origin >= self.length or (self.length < self.span and self.edge != "pad"):
            return 0
        if self.edge == "drop":
            return max(0, (self.length - self.span - self.origin) // self.stride + 1)
        left = self.length - self.origin - max(self.span, self.stride)
        return 1 + max(0, -(-left // self.stride))

    def start(self, index: int) -> int:
        """Returns the first pixel of patch ``index``, which is inside the image unless the origin is negative."""
        start = self.origin + index * self.stride
        return min(start, self.length - self.span) if self.edge == "shift" else start

    def pixels(self, index: int) -> range:
        """Returns the pixels of patch ``index``; under ``pad``, some may lie outside the image."""
        return range(self.start(index), self.start(index) + self.span, self.dilation)

    def first_from(self, pixel: int) -> int:
        """Returns the first patch whose first pixel inside the image is at ``pixel`` or later, else ``count``."""
        if pixel <= 0:
            return 0
        index = min(max(0, -(-(pixel - self.origin) // self.stride)), self.count)
        # Under "shift" the last start lies before its multiple of the stride.
        if index == self.count - 1 and self.start(index) < pixel:
            return self.count
        return index

    def touching(self, pixel: int, end: int) -> range:
        """Returns the patches whose span reaches into the pixels ``pixel .. end - 1`` of the image.

        >>> Axis(length=10, size=4, stride=3, edge="pad").touching(3, 6)
        range(0, 2)
        """
        first = min(max(0, (pixel - self.span - self.origin) // self.stride + 1), self.count)
        return range(first, max(first, self.first_from(end)))

    def coverage(self, pixel: int) -> int:
        """Returns the number of patches that hold a pixel of the image.

        >>> [Axis(length=9, size=4, stride=2, edge="shift").coverage(pixel) for pixel in range(9)]
        [1, 1, 2, 2, 2, 3, 2, 2, 1]
        """
        return sum(pixel in self.pixels(index) for index in self.touching(pixel, pixel + 1))


class Grid(NamedTuple):
    """The patches of an image: every pair of a row patch and a column patch, numbered row by row."""

    rows: Axis
    cols: Axis

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        size: tuple[int, int],
        stride: tuple[int, int],
        edge: Edge | tuple[Edge, Edge],
        dilation: tuple[int, int] = (1, 1),
        origin: tuple[int, int] = (0, 0),
    ) -> Grid:
        """Makes the grid of an image of ``shape = (height, width)``; the other pairs are ``(row, col)`` as well.

        One ``edge`` stands for both axes.

        >>> grid = Grid.of((5, 9), size=(2, 4), stride=(2, 3), edge="drop")
        >>> grid.count, grid.box(3)
        (4, Box(row=2, col=3, height=2, width=4))
        """
        edges = (edge, edge) if isinstance(edge, str) else edge
        rows, cols = (Axis(*axis) for axis in zip(shape, size, stride, edges, dilation, origin))
        return cls(rows, cols)

    @property
    def count(self) -> int:
        """Number of patches."""
        return self.rows.count * self.cols.count

    def box(self, index: int) -> Box:
        """Returns the box that patch ``index`` spans; under ``pad`` it may reach past the borders."""
        row, col = divmod(index, self.cols.count)
        return Box(self.rows.start(row), self.cols.start(col), self.rows.span, self.cols.span)

    def cells(self, area: Box) -> Cells:
        """Returns the patches whose first pixel inside the image lies in ``area``.

        Areas that tile the image share no patch and miss none.
        """
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
        """Splits the rectangle along its longer side into two parts of at least one patch each."""
        r0, r1, c0, c1 = self
        if r1 - r0 >= c1 - c0:
            middle = (r0 + r1) // 2
            return Cells(r0, middle, c0, c1), Cells(middle, r1, c0, c1)
        middle = (c0 + c1) // 2
        return Cells(r0, r1, c0, middle), Cells(r0, r1, middle, c1)


def source_index(positions: np.ndarray, length: int, mode: PadMode) -> np.ndarray:
    """Returns the image pixel that fills each position of a padded axis, as ``numpy.pad`` defines the modes.

    ``reflect`` and ``symmetric`` go back and forth as often as the padding needs.

    Args:
        positions: ``[N]`` integers that may lie outside ``0 .. length - 1``.
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
        return np.asarray(np.clip(positions, 0, length - 1))
    if mode == "constant":
        return np.where((positions >= 0) & (positions < length), positions, -1)
    if mode == "symmetric":
        folded = positions % (2 * length)
        return np.asarray(np.minimum(folded, 2 * length - 1 - folded))
    if mode == "reflect":
        period = max(1, 2 * (length - 1))
        folded = positions % period
        return np.asarray(np.minimum(folded, period - folded))
    raise ValueError(f"pad mode {mode!r} is unknown; use reflect, symmetric, edge or constant")
