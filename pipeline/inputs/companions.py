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
    """Returns the URI of a raster of an image, or its polygons as JSON; empty where neither is given."""
    return companion_uri(image, raster.file, image.polygons if raster.file == "regions" else image.mask)


def companion_uri(image: ImageRef | ImageInfo, rule: Replace | str, given: str) -> str:
    """Returns a companion of an image, found by a rule or as the input manifest gives it; may be empty."""
    if not isinstance(rule, Replace):
        return given
    uri = re.sub(rule.match, rule.replace, image.uri)
    return "" if uri == image.uri else uri


def companion_rules(config: Input) -> list[Replace]:
    """Returns the rules that find companions, in the order in which their fingerprints are joined to the image's."""
    files = [raster.file for _, raster in sorted(config.rasters.items())] + [config.points and config.points.file]
    return [file for file in files if isinstance(file, Replace)]


def with_companion_fingerprints(refs: Iterator[ImageRef], rules: Sequence[Replace]) -> Iterator[ImageRef]:
    """Yields the images with the fingerprints of companions that rules find: a changed companion changes what is cut.

    Fingerprints of companions that an input manifest names are included already.
    """
    while batch := list(itertools.islice(refs, _BATCH)):
        uris = [companion_uri(ref, rule, "") or "missing" for ref in batch for rule in rules]
        found = storage.fingerprints(uris)
        for ref in batch:
            parts = [ref.fingerprint, *(next(found) or "missing" for _ in rules)]
            yield ref._replace(fingerprint="+".join(parts))
