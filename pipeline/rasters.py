"""The rasters that belong to an image, such as masks: where they are, and whether they fit."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator

from pipeline import storage
from pipeline.config import Input, Replace
from pipeline.elements import ImageInfo, ImageRef, Unreadable
from pipeline.readers import Layout, Reader, open_image

_BATCH = 10_000


def raster_uri(image: ImageRef | ImageInfo, name: str, config: Input) -> str:
    """Where the raster ``name`` of an image is; empty where nothing says so."""
    return belonging(image, config.rasters[name].file, image.mask)


def belonging(image: ImageRef | ImageInfo, rule: Replace | str, given: str) -> str:
    """A file that belongs to an image: by a rule, or as the manifest gives it; may be empty."""
    if not isinstance(rule, Replace):
        return given
    uri = re.sub(rule.match, rule.replace, image.uri)
    return "" if uri == image.uri else uri


def with_raster_fingerprints(refs: Iterator[ImageRef], config: Input) -> Iterator[ImageRef]:
    """The images with the fingerprints of the rasters and points that rules find: a changed one changes what is cut.

    Those of a manifest are in already.
    """
    files = [raster.file for _, raster in sorted(config.rasters.items())] + [config.points and config.points.file]
    rules = [file for file in files if isinstance(file, Replace)]
    while batch := list(itertools.islice(refs, _BATCH)):
        uris = [belonging(ref, rule, "") or "missing" for ref in batch for rule in rules]
        found = storage.fingerprints(uris)
        for ref in batch:
            parts = [ref.fingerprint, *(next(found) or "missing" for _ in rules)]
            yield ref._replace(fingerprint="+".join(parts))


def open_raster(image: ImageRef | ImageInfo, name: str, config: Input, size: tuple[int, int]) -> Reader:
    """Opens a raster of an image whose height and width at the level that is cut are ``size``.

    Raises:
        Unreadable: if it is not there, cannot be read, or is not what the configuration and the image ask for.
    """
    wanted, uri = config.rasters[name], raster_uri(image, name, config)
    with naming(name, image, config):
        if not uri:
            raise Unreadable("raster_mismatch", "there is none: nothing in the manifest, or the rule finds nothing")
        reader = open_image(uri, wanted.level)
        if problem := _problem(reader.layout, size, wanted.channels, wanted.dtype):
            reader.close()
            raise Unreadable("raster_mismatch", problem)
    return reader


@contextlib.contextmanager
def naming(name: str, image: ImageRef | ImageInfo, config: Input) -> Iterator[None]:
    """Says of errors in the block which raster they are of, without the place where it lies on this machine."""
    try:
        yield
    except Unreadable as error:
        message = error.message.replace(raster_uri(image, name, config) or "\0", "its file")
        raise Unreadable(error.reason, f"raster {name}: {message}") from error


def _problem(found: Layout, size: tuple[int, int], channels: int, dtype: str) -> str | None:
    if (found.height, found.width) != size:
        return (
            f"{found.height} x {found.width} pixels, the image has {size[0]} x {size[1]}; they have to be the same, "
            "see input.level and the level of the raster"
        )
    if (found.channels, found.dtype) != (channels, dtype):
        return f"{found.channels}-channel {found.dtype}, the configuration asks for {channels}-channel {dtype}"
    return None
