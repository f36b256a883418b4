"""The files that belong to an image, its companions: masks and other rasters, points, polygons."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from pipeline import storage
from pipeline.config import Input, Raster, Replace
from pipeline.elements import ImageInfo, ImageRef

_BATCH = 10_000


def raster_uri(image: ImageRef | ImageInfo, raster: Raster) -> str:
    """Where a raster of an image is, or its polygons as JSON; empty where nothing says so."""
    return companion_uri(image, raster.file, image.polygons if raster.file == "regions" else image.mask)


def companion_uri(image: ImageRef | ImageInfo, rule: Replace | str, given: str) -> str:
    """A file that belongs to an image: by a rule, or as the input manifest gives it; may be empty."""
    if not isinstance(rule, Replace):
        return given
    uri = re.sub(rule.match, rule.replace, image.uri)
    return "" if uri == image.uri else uri


def companion_rules(config: Input) -> list[Replace]:
    """The rules by which companions are found, in the order in which their fingerprints are joined to the image's."""
    files = [raster.file for _, raster in sorted(config.rasters.items())] + [config.points and config.points.file]
    return [file for file in files if isinstance(file, Replace)]


def with_companion_fingerprints(refs: Iterator[ImageRef], rules: Sequence[Replace]) -> Iterator[ImageRef]:
    """The images with the fingerprints of the companions that rules find: a changed one changes what is cut.

    Those of an input manifest are in already.
    """
    while batch := list(itertools.islice(refs, _BATCH)):
        uris = [companion_uri(ref, rule, "") or "missing" for ref in batch for rule in rules]
        found = storage.fingerprints(uris)
        for ref in batch:
            parts = [ref.fingerprint, *(next(found) or "missing" for _ in rules)]
            yield ref._replace(fingerprint="+".join(parts))
