"""Georeference from the tags of a TIFF: size of a pixel, coordinates, pixels without data."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any, NamedTuple

from transforms.affine import Affine

_PIXEL_SCALE, _TIE_POINT, _TRANSFORMATION, _NODATA = 33550, 33922, 34264, 42113
_USER_DEFINED = 32767
_MICROMETRES = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


class Georeference(NamedTuple):
    """The georeference at full resolution; see :class:`pipeline.readers.Layout` for the fields."""

    mpp: tuple[float, float] | None = None
    crs: str = ""
    transform: tuple[float, ...] | None = None
    nodata: str = ""

    def at(self, full: tuple[int, int], level: tuple[int, int]) -> Georeference:
        """Returns the georeference of a pyramid level; ``full`` and ``level`` are height and width of both."""
        down, across = full[0] / level[0], full[1] / level[1]
        mpp = self.mpp and (self.mpp[0] * down, self.mpp[1] * across)
        transform = self.transform and tuple(Affine(*self.transform).of_pixels(down, across))
        return self._replace(mpp=mpp, transform=transform)


def georeference_of(tiff: Any, page: Any, image: int) -> Georeference:
    """Reads the georeference of a page of full resolution.

    Args:
        tiff: the ``tifffile.TiffFile``.
        page: the page.
        image: number of the series that the page belongs to, for OME-XML.
    """
    values: dict[str, Any] = {}
    for name, read in (("mpp", lambda: _mpp(tiff, page, image)), ("crs", lambda: _crs(page)),
                       ("transform", lambda: _transform(page)), ("nodata", lambda: _nodata(page))):  # fmt: skip
        with contextlib.suppress(Exception):  # wrong georeference tags say nothing about the pixels
            values[name] = read()
    return Georeference(**{name: value for name, value in values.items() if value})


def _mpp(tiff: Any, page: Any, image: int) -> tuple[float, float] | None:
    if tiff.is_ome:
        return _ome_mpp(tiff.ome_metadata, image)
    found = re.search(r"\bMPP ?= ?([0-9.]+)", page.description) if tiff.is_svs else None
    if found:
        return _pair(float(found[1]), float(found[1]))
    resolutions = [page.tags[tag].value for tag in ("YResolution", "XResolution")]
    down, across = (denominator / numerator for numerator, denominator in resolutions)
    if tiff.is_imagej:
        unit = _MICROMETRES.get((tiff.imagej_metadata or {}).get("unit", "").replace("\\u00B5", "µ"))
        return _pair(down * unit, across * unit) if unit else None
    # Cameras and painting programs write inches without any meaning.
    return _pair(down * 1e4, across * 1e4) if page.tags["ResolutionUnit"].value == 3 else None


def _ome_mpp(xml: str, image: int) -> tuple[float, float] | None:
    pixels = re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", xml)[image]
    sizes = []
    for axis in "YX":
        size = re.search(rf'\bPhysicalSize{axis}="([^"]+)"', pixels)
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', pixels)
        if not size:
            return None
        sizes.append(float(size[1]) * _MICROMETRES[unit[1] if unit else "µm"])
    return _pair(*sizes)


def _pair(down: float, across: float) -> tuple[float, float] | None:
    return (down, across) if all(math.isfinite(size) and size > 0 for size in (down, across)) else None


def _crs(page: Any) -> str:
    """Returns the code of the projected or geographic system, else its text (GeoTIFF 1.1, 7.4.2 and 7.4.3)."""
    keys = page.geotiff_tags or {}
    for key in ("ProjectedCSTypeGeoKey", "GeographicTypeGeoKey"):
        code = int(keys.get(key, 0))
        if code and code != _USER_DEFINED:
            return f"EPSG:{code}"
        if code:
            break  # defined by parameters: the geographic key below is only its base
    texts = [str(keys.get(key, "")) for key in ("PCSCitationGeoKey", "GTCitationGeoKey", "GeogCitationGeoKey")]
    text = next((text for text in texts if text), "")
    return text.removeprefix("ESRI PE String = ").strip()


def _transform(page: Any) -> tuple[float, ...] | None:
    """Reads the transform from a matrix, or from a scale and a tie point (GeoTIFF 1.1, 7.1 and annex B.6).

    Tags that refer to the middles of pixels are converted to upper left corners.
    """
    tags = page.tags
    if _TRANSFORMATION in tags:
        matrix = tags[_TRANSFORMATION].value
        a, b, c, d, e, f = (float(matrix[index]) for index in (0, 1, 3, 4, 5, 7))
    elif _PIXEL_SCALE in tags and _TIE_POINT in tags:
        across, down = (float(value) for value in tags[_PIXEL_SCALE].value[:2])
        col, row, _, x, y, _ = (float(value) for value in tags[_TIE_POINT].value[:6])
        a, b, c, d, e, f = across, 0.0, x - col * across, 0.0, -down, y + row * down
    else:
        return None
    if int((page.geotiff_tags or {}).get("GTRasterTypeGeoKey", 1)) == 2:  # the tags mean the middle of a pixel
        c, f = c - (a + b) / 2, f - (d + e) / 2
    return (a, b, c, d, e, f) if all(math.isfinite(value) for value in (a, b, c, d, e, f)) else None


def _nodata(page: Any) -> str:
    text = str(page.tags[_NODATA].value).strip(" \0")
    float(text)
    return text
