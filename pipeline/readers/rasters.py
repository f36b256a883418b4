"""Companion rasters of an image, such as masks: opens them and checks that they fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pipeline.config import Raster
from pipeline.elements import ImageInfo, ImageRef
from pipeline.errors import Unreadable
from pipeline.inputs.companions import raster_uri
from pipeline.readers import Layout, Reader
from pipeline.readers.converted import Choice
from pipeline.readers.isolated import open_isolated
from pipeline.readers.polygons import PolygonReader, is_polygons
from pipeline.readers.rescaled import NearestReader


def open_raster(image: ImageInfo, name: str, wanted: Raster, max_seconds: float) -> Reader:
    """Opens a companion raster of an image, with the height and width of the image.

    A raster with the size of another level of the image is resampled by nearest neighbour.

    Raises:
        Unreadable: if the raster is missing, cannot be read, or does not fit the configuration and the image.
    """
    uri, size = raster_uri(image, wanted), (image.height, image.width)
    with naming_raster(name, image, wanted):
        if wanted.file == "regions" or (uri and is_polygons(uri)):
            return PolygonReader(image, uri, wanted)
        if not uri:
            raise Unreadable("raster_mismatch", "there is none: nothing in the manifest, or the rule finds nothing")
        choice = Choice(level=wanted.level, dtype=wanted.dtype)
        reader = open_isolated(uri, choice, max_seconds)
        if problem := _problem(reader.layout, image, wanted):
            reader.close()
            raise Unreadable("raster_mismatch", problem)
    return reader if reader.layout[:2] == size else NearestReader(reader, size)


@contextlib.contextmanager
def naming_raster(name: str, image: ImageRef | ImageInfo, wanted: Raster) -> Iterator[None]:
    """Adds the name of the raster to errors in the block, and hides the address of its file."""
    try:
        yield
    except Unreadable as error:
        message = error.message.replace(raster_uri(image, wanted) or "\0", "its file")
        raise Unreadable(error.reason, f"raster {name}: {message}") from error


def _problem(found: Layout, image: ImageInfo, wanted: Raster) -> str | None:
    levels = [tuple(size) for size in image.fact("levels") or ()]
    if found[:2] not in [(image.height, image.width), *levels]:
        return (
            f"{found.height} x {found.width} pixels, the image has {image.height} x {image.width}; they have to be the "
            "same, or those of another level of the image"
        )
    if (found.channels, found.dtype) != (wanted.channels, wanted.dtype):
        asked = f"{wanted.channels}-channel {wanted.dtype}"
        return f"{found.channels}-channel {found.dtype}, the configuration asks for {asked}"
    return None
