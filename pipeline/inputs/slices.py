"""The slices in which a listing is processed."""

from __future__ import annotations

from typing import NamedTuple

_SLICES = 128

_IMAGES_PER_SLICE = (16, 1 << 14)


class Slice(NamedTuple):
    """Rows ``first`` to ``end`` of a listing, the slice ``number`` of ``count``."""

    number: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    first: int
    end: int

    def file(self, kind: str) -> str:
        """Returns the name of a table about these images: ``images-00003-of-00016.parquet``."""
        return f"{kind}-{self.number:05d}-of-{self.count:05d}.parquet"


def slices_of(images: int) -> list[Slice]:
    """Returns the slices in which a listing is processed; every row is in exactly one.

    There are at most 128 slices up to two million images, since each leaves files that are all opened to gather the
    plan; all but the last have at least 16 images, so that few images do not make many files.

    >>> [tuple(each) for each in slices_of(40)]
    [(0, 3, 0, 16), (1, 3, 16, 32), (2, 3, 32, 40)]
    """
    at_least, at_most = _IMAGES_PER_SLICE
    rows = min(at_most, max(at_least, -(-images // _SLICES)))
    count = max(1, -(-images // rows))
    return [Slice(number, count, number * rows, min(images, (number + 1) * rows)) for number in range(count)]
