"""The points of an image that patches are cut around: from CSV, GeoJSON or lists of pairs."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.config import Config, Points
from pipeline.elements import ImageInfo, ImageRef, Unreadable, is_json
from pipeline.rasters import belonging
from transforms.centred import centred_start
from transforms.grid import Edge

_MAX_BYTES = 1 << 28


class Centre(NamedTuple):
    """A patch around a point: its first row and column, and the label of the point, which may be empty."""

    row: int
    col: int
    label: str


def centres_of(image: ImageRef | ImageInfo, config: Config, size: tuple[int, int]) -> tuple[Centre, ...]:
    """The patches around the points of an image, in the order of their rows and columns.

    Points that would give the same patch count once, with the label of the first; for borders see
    ``transforms.centred``.

    Raises:
        Unreadable: ``bad_points`` or ``io_error``.
    """
    points, patch = config.input.points or Points(), config.patch
    source = belonging(image, points.file, image.points)
    return _centres(source, image.fingerprint, points.label or "", size, patch.span, patch.edge)


@functools.lru_cache(maxsize=16)
def _centres(
    source: str, _: str, label: str, size: tuple[int, int], span: tuple[int, int], edge: tuple[Edge, Edge]
) -> tuple[Centre, ...]:
    found: dict[tuple[int, int], str] = {}
    for x, y, name in _read(source, label) if source else ():
        row, col = (centred_start(*axis) for axis in zip((y, x), span, size, edge))
        if row is not None and col is not None:
            found.setdefault((row, col), name)
    return tuple(Centre(*start, name) for start, name in sorted(found.items()))


def _read(source: str, label: str) -> Iterator[tuple[float, float, str]]:
    try:
        text = source if is_json(source) else _text(source)
        yield from _of_json(json.loads(text), label) if text.lstrip()[:1] in ("{", "[") else _of_csv(text, label)
    except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise Unreadable("bad_points", f"points: {type(error).__name__}: {error}") from error


def _text(uri: str) -> str:
    try:
        with storage.open_read(uri) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise Unreadable("io_error", f"points: cannot be opened: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES >> 20} MiB")
    return data.decode("utf-8-sig")


def _of_csv(text: str, label: str) -> Iterator[tuple[float, float, str]]:
    """Columns ``x`` and ``y``, or ``col`` and ``row``."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    names = rows.fieldnames or []
    x, y = ("x", "y") if "x" in names else ("col", "row")
    for wanted in (x, y, *([label] if label else [])):
        if wanted not in names:
            raise ValueError(f"no column {wanted!r}; there are {', '.join(names) or 'none'}")
    for row in rows:
        yield _number(row[x]), _number(row[y]), row[label] or "" if label else ""


def _of_json(value: Any, label: str) -> Iterator[tuple[float, float, str]]:
    """A list of pairs ``[x, y]``, or GeoJSON (RFC 7946) of points; other geometries are an error."""
    if isinstance(value, list):
        for one in value:
            if isinstance(one, dict):
                yield from _of_json(one, label)
            else:
                yield _number(one[0]), _number(one[1]), ""
    elif value["type"] == "FeatureCollection":
        for feature in value["features"]:
            yield from _of_json(feature, label)
    elif value["type"] == "Feature":
        name = (value.get("properties") or {}).get(label, "") if label else ""
        for x, y, _ in _of_json(value["geometry"], ""):
            yield x, y, "" if name is None else str(name)
    elif value["type"] in ("Point", "MultiPoint"):
        places = [value["coordinates"]] if value["type"] == "Point" else value["coordinates"]
        yield from ((_number(place[0]), _number(place[1]), "") for place in places)
    else:
        raise ValueError(f"a {value['type']} is no point")


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no coordinate")
    return number
