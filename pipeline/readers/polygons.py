"""Polygons of an image read as a raster of classes, drawn window by window."""

from __future__ import annotations

import functools
import io
import json

import numpy as np

from pipeline.config import Raster
from pipeline.elements import ImageInfo, is_json
from pipeline.errors import Unreadable
from pipeline.inputs.geojson import geometries, property_of, read_text, rings_of, to_pixels
from pipeline.readers import ImageFile, Layout
from transforms.affine import Affine
from transforms.grid import Box
from transforms.polygons import fill


class PolygonReader:
    """A raster whose pixels have the value of the polygon that their middle lies in, else 0.

    Where polygons overlap, the later one counts; holes stay empty. With ``class_from``, the value is that of the
    class in that property, and polygons of other classes are not drawn; without it, the value is 1.

    Raises:
        Unreadable: ``bad_regions`` or ``io_error``.
    """

    def __init__(self, image: ImageInfo, source: str, wanted: Raster):
        place = to_pixels(image, wanted.coordinates, "bad_regions")
        classes = tuple(wanted.classes.items())
        self._rings, self._values, self._bounds = _drawable(
            source, image.fingerprint, wanted.class_from or "", classes, place
        )
        size = (image.height, image.width)
        self.layout = Layout(*size, 1, wanted.dtype, min(256, size[0]), min(256, size[1]))
        self.file = ImageFile(io.BytesIO())

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        out = np.zeros((box.height, box.width, 1), self.layout.dtype)
        low, high = self._bounds[:, :2], self._bounds[:, 2:]
        near = (low < [box.col + box.width, box.row + box.height]) & (high > [box.col, box.row])
        for index in np.flatnonzero(near.all(axis=1)):
            out[fill(self._rings[index], box), 0] = self._values[index]
        return out

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""


def is_polygons(source: str) -> bool:
    """Says whether a file, or a cell of the input manifest, holds polygons and not pixels."""
    return not source or is_json(source) or source.lower().endswith((".geojson", ".json"))


@functools.lru_cache(maxsize=4)
def _drawable(
    source: str, _: str, name: str, classes: tuple[tuple[str, float], ...], place: Affine
) -> tuple[list[list[np.ndarray]], list[float], np.ndarray]:
    """Returns rings in pixels, values, and bounds ``[N, 4]``: the lowest x and y, the highest x and y."""
    values, rings = dict(classes), []
    found: list[float] = []
    try:
        for geometry, properties in geometries(json.loads(read_text(source))) if source else ():
            value = values.get(property_of(properties, name)) if name else 1
            if value is None:
                continue
            for polygon in rings_of(geometry):
                rings.append([np.stack(place(*ring.T), axis=1) for ring in polygon])
                found.append(value)
    except Unreadable:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise Unreadable("bad_regions", f"polygons: {type(error).__name__}: {error}") from error
    corners = [np.concatenate([*polygon, np.zeros((0, 2))]) for polygon in rings]
    none = [np.inf, np.inf, -np.inf, -np.inf]
    bounds = [[*c.min(axis=0), *c.max(axis=0)] if len(c) else none for c in corners]
    return rings, found, np.array(bounds, np.float64).reshape(-1, 4)
