"""The slices in which a listing is worked on."""

from __future__ import annotations

from typing import NamedTuple

_SLICES = 128

_IMAGES_PER_SLICE = (16, 1 << 14)


class Slice(NamedTuple):
    """Rows ``first`` to ``end`` of a listing, the slice ``number`` of ``of``."""

    number: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    first: int
    end: int

    def file(self, kind: str) -> str:
        """Name of a table with what became of these images: ``images-00003-of-00016.parquet``."""
        return f"{kind}-{self.number:05d}-of-{self.count:05d}.parquet"


def slices_of(images: int) -> list[Slice]:
    """The slices in which a listing is worked on; every row is in exactly one.

    At most 128 up to two million images, since each slice leaves files that are all opened to gather the plan; at least
    16 images in each, so that few images do not make many files.

    >>> [tuple(each) for each in slices_of(40)]
    [(0, 3, 0, 16), (1, 3, 16, 32), (2, 3, 32, 40)]
    """
    at_least, at_most = _IMAGES_PER_SLICE
    rows = min(at_most, max(at_least, -(-images // _SLICES)))
    count = max(1, -(-images // rows))
    return [Slice(number, count, number * rows, min(images, (number + 1) * rows)) for number in range(count)]
