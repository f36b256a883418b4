"""The files that belong to an image, its companions: masks and other rasters, points, polygons."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from pipeline import storage
from pipeline.config import Input, Replace
from pipeline.elements import ImageInfo, ImageRef

_BATCH = 10_000


def raster_uri(image: ImageRef | ImageInfo, name: str, config: Input) -> str:
    """Where the raster ``name`` of an image is, or its polygons as JSON; empty where nothing says so."""
    file = config.rasters[name].file
    return belonging(image, file, image.regions if file == "regions" else image.mask)


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
