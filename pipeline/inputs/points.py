"""The points of an image that patches are cut around: from CSV, GeoJSON or lists of pairs."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline.config import Patch, Points
from pipeline.elements import ImageInfo
from pipeline.errors import Unreadable
from pipeline.inputs.companions import companion_uri
from pipeline.inputs.geojson import geometries, number, property_of, read_text, to_pixels
from transforms.affine import Affine
from transforms.centred import centred_start
from transforms.grid import Edge


class Centre(NamedTuple):
    """A patch around a point: its first row and column, and the label of the point, which may be empty."""

    row: int
    col: int
    label: str


def centres_of(image: ImageInfo, points: Points, patch: Patch) -> tuple[Centre, ...]:
    """Returns the patches around the points of an image, in the order of their rows and columns.

    Points that would give the same patch count once, with the label of the first; for borders see
    ``transforms.centred``.

    Raises:
        Unreadable: ``bad_points`` or ``io_error``.
    """
    size = (image.height, image.width)
    source = companion_uri(image, points.file, image.points)
    place = to_pixels(image, points.coordinates, "bad_points")
    return _centres(source, image.fingerprint, points.label or "", place, size, patch.span, patch.edge)


@functools.lru_cache(maxsize=16)
def _centres(
    source: str,
    _: str,
    label: str,
    place: Affine,
    size: tuple[int, int],
    span: tuple[int, int],
    edge: tuple[Edge, Edge],
) -> tuple[Centre, ...]:
    found: dict[tuple[int, int], str] = {}
    for *point, name in _read(source, label) if source else ():
        x, y = place(*point)
        row, col = (centred_start(*axis) for axis in zip((y, x), span, size, edge))
        if row is not None and col is not None:
            found.setdefault((row, col), name)
    return tuple(Centre(*start, name) for start, name in sorted(found.items()))


def _read(source: str, label: str) -> Iterator[tuple[float, float, str]]:
    try:
        text = read_text(source)
        yield from _of_json(json.loads(text), label) if text.lstrip()[:1] in ("{", "[") else _of_csv(text, label)
    except Unreadable as error:
        raise Unreadable(error.reason, f"points: {error.message}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error) as error:
        raise Unreadable("bad_points", f"points: {type(error).__name__}: {error}") from error


def _of_csv(text: str, label: str) -> Iterator[tuple[float, float, str]]:
    """Reads the columns ``x`` and ``y``, or ``col`` and ``row``."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    names = rows.fieldnames or []
    x, y = ("x", "y") if "x" in names else ("col", "row")
    for wanted in (x, y, *([label] if label else [])):
        if wanted not in names:
            raise ValueError(f"no column {wanted!r}; there are {', '.join(names) or 'none'}")
    for row in rows:
        yield number(row[x]), number(row[y]), row[label] or "" if label else ""


def _of_json(value: Any, label: str) -> Iterator[tuple[float, float, str]]:
    """Reads pairs ``[x, y]``, or GeoJSON of points; other geometries are an error."""
    if isinstance(value, list) and value and not isinstance(value[0], dict):
        yield from ((number(x), number(y), "") for x, y, *_ in value)
        return
    for geometry, properties in geometries(value):
        if geometry["type"] not in ("Point", "MultiPoint"):
            raise ValueError(f"a {geometry['type']} is no point")
        places = [geometry["coordinates"]] if geometry["type"] == "Point" else geometry["coordinates"]
        name = property_of(properties, label) if label else ""
        yield from ((number(place[0]), number(place[1]), name) for place in places)
