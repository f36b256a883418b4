"""Random crops whose position follows from a number, so that every worker finds the same one.

A crop lies inside the image, and all positions are equally likely. Along an axis that is shorter than the crop, the
crop starts at the first pixel, and the missing pixels are padded.
"""

from __future__ import annotations


def crop_start(random: int, shape: tuple[int, int], span: tuple[int, int]) -> tuple[int, int]:
    """Returns the first row and column of a crop.

    Args:
        random: 0 .. 2**64 - 1, a digest of what identifies this crop.
        shape: pixels of the image, down and across.
        span: pixels of the crop, down and across.

    >>> crop_start(0, (100, 80), (10, 20)), crop_start(2**64 - 1, (100, 80), (10, 20)), crop_start(5, (8, 8), (10, 20))
    ((0, 0), (90, 60), (0, 0))
    """
    halves = random >> 32, random & 0xFFFFFFFF
    row, col = (half * max(1, n - s + 1) >> 32 for half, n, s in zip(halves, shape, span))
    return row, col


def crop_count(shape: tuple[int, int], per_image: int | None, per_megapixel: float | None) -> int:
    """Returns the number of crops of an image: ``per_image``, or ``per_megapixel`` per million pixels, rounded up.

    >>> crop_count((3000, 2000), per_image=None, per_megapixel=1.5), crop_count((9, 9), per_image=7, per_megapixel=None)
    (9, 7)
    """
    if per_image is not None:
        return per_image
    return max(1, -int(-(shape[0] * shape[1] * (per_megapixel or 0)) // 10**6))
