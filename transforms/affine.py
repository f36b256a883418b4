"""Affine maps of the plane, from pixels to other pixels and to world coordinates."""

from __future__ import annotations

from typing import Any, NamedTuple


class Affine(NamedTuple):
    """The map ``x' = a x + b y + c``, ``y' = d x + e y + f``; for pixels, x is the column and y the row."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def __call__(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Maps numbers or arrays of numbers.

        >>> Affine(2, 0, 10, 0, -2, 20)(3, 4)
        (16, 12)
        """
        return self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f

    def inverse(self) -> Affine:
        """Returns the inverse map.

        Raises:
            ZeroDivisionError: if the map has no inverse.

        >>> Affine(2, 0, 10, 0, -2, 20).inverse()(16, 12)
        (3.0, 4.0)
        """
        a, b, c, d, e, f = self
        area = a * e - b * d
        return Affine(e / area, -b / area, (b * f - e * c) / area, -d / area, a / area, (d * c - a * f) / area)

    def of_pixels(self, down: float, across: float) -> Affine:
        """Returns the map for pixels ``down`` times as high and ``across`` times as wide, from the same corner.

        >>> Affine(2, 0, 10, 0, -2, 20).of_pixels(down=3, across=4)
        Affine(a=8, b=0, c=10, d=0, e=-6, f=20)
        """
        return Affine(self.a * across, self.b * down, self.c, self.d * across, self.e * down, self.f)

    def from_pixel(self, row: float, col: float) -> Affine:
        """Returns the map for pixels that are counted from the pixel ``(row, col)``.

        >>> Affine(2, 0, 10, 0, -2, 20).from_pixel(row=1, col=3)
        Affine(a=2, b=0, c=16, d=0, e=-2, f=18)
        """
        c, f = self.a * col + self.b * row + self.c, self.d * col + self.e * row + self.f
        return self._replace(c=c, f=f)
