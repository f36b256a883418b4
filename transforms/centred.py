"""The first pixel of a patch that is centred on a point."""

from __future__ import annotations

import math

from transforms.grid import Edge


def centred_start(point: float, span: int, length: int, edge: Edge) -> int | None:
    """Returns the first pixel, along one axis, of the patch whose centre is nearest to a point; None for no patch.

    Pixel ``k`` reaches from ``k`` to ``k + 1``. When two starts are equally near, the later one is taken, so that a
    patch of odd span around the whole number ``k`` has pixel ``k`` in its middle.

    Args:
        point: a coordinate; outside ``0 .. length`` there is no patch.
        span: pixels of the patch.
        length: pixels of the image.
        edge: what happens to a patch that reaches past the border: ``pad`` keeps it in place, ``drop`` leaves it out,
            ``shift`` moves it back to end at the border, which an image shorter than the patch does not allow.

    >>> [centred_start(point, 5, 20, "pad") for point in (10, 10.9, 0, 19.9, 20.1)]
    [8, 8, -2, 17, None]
    >>> [centred_start(1, 5, 20, edge) for edge in ("drop", "shift")]
    [None, 0]
    """
    start = math.floor(point - span / 2 + 0.5)
    if not 0 <= point <= length or (span > length and edge != "pad"):
        return None
    if edge == "shift":
        return min(max(start, 0), length - span)
    return start if edge == "pad" or 0 <= start <= length - span else None
