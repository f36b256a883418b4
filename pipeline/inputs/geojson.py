"""Annotations of an image as GeoJSON (RFC 7946), from a file or written out in the input manifest, and their position.

Unlike in the RFC, coordinates are pixels of full resolution, as programs that annotate slides write them, or
coordinates in the coordinate system of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.config import Coordinates
from pipeline.elements import ImageInfo, is_json
from pipeline.errors import Reason, Unreadable
from transforms.affine import Affine

_MAX_BYTES = 1 << 28


def to_pixels(image: ImageInfo, coordinates: Coordinates, reason: Reason) -> Affine:
    """Returns the map from coordinates of annotations to x and y in pixels of the image as it is cut.

    Raises:
        Unreadable: ``reason`` if the image has no coordinate system.
    """
    if coordinates == "pixels":
        down, across = image.step
        return Affine(1 / across, 0, 0, 0, 1 / down, 0)
    try:
        return Affine(*image.fact("transform")).inverse()
    except (TypeError, ZeroDivisionError):
        raise Unreadable(reason, "coordinates: world, but the image does not say where it lies; use pixels") from None


def read_text(source: str) -> str:
    """Returns ``source`` if it is JSON, else the text of the file of this name, up to 256 MiB.

    Raises:
        Unreadable: ``io_error``.
        ValueError: if the file is larger, or no text.
    """
    if is_json(source):
        return source
    try:
        with storage.open_read(source) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise Unreadable("io_error", f"cannot be opened: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES >> 20} MiB")
    return data.decode("utf-8-sig")


def geometries(value: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields (geometry, properties) of GeoJSON or a list of its objects; raises KeyError or TypeError for other values.

    >>> list(geometries([{"type": "Feature", "geometry": {"type": "Point"}, "properties": {"a": 1}}]))
    [({'type': 'Point'}, {'a': 1})]
    """
    if isinstance(value, list):
        for one in value:
            yield from geometries(one)
    elif value["type"] == "FeatureCollection":
        yield from geometries(value["features"])
    elif value["type"] == "Feature":
        for geometry, _ in geometries(value["geometry"]) if value["geometry"] else ():
            yield geometry, value.get("properties") or {}
    elif value["type"] == "GeometryCollection":
        yield from geometries(value["geometries"])
    else:
        yield value, {}


def property_of(properties: dict[str, Any], name: str) -> str:
    """Returns a property as text, empty if there is none; ``classification.name`` is a property within another.

    >>> property_of({"classification": {"name": "Tumor"}}, "classification.name")
    'Tumor'
    """
    found: Any = properties.get(name)
    if found is None:
        found = properties
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    return "" if found is None else str(found)


def number(value: Any) -> float:
    """Returns a value as a coordinate; raises ValueError if it is not a finite number."""
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{value!r} is no coordinate")
    return found


def rings_of(geometry: dict[str, Any]) -> list[list[np.ndarray]]:
    """Returns the polygons of a geometry, each as its rings ``[K, 2]``; points and lines have none.

    Raises:
        ValueError: for coordinates that are not finite numbers.
    """
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        return []
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    found = [[np.array([place[:2] for place in ring], np.float64).reshape(-1, 2) for ring in one] for one in polygons]
    if not all(np.isfinite(ring).all() for rings in found for ring in rings):
        raise ValueError("a coordinate is not finite")
    return found
