"""Fingerprints of the content of files, for images whose sizes and times say too little or too much."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Iterator

from pipeline import storage
from pipeline.config import Input, Replace
from pipeline.elements import ImageRef, is_json
from pipeline.inputs.companions import belonging
from pipeline.storage.files import digest_of

_BATCH = 1_000
_READS = 16  # at a time


def with_content_fingerprints(refs: Iterator[ImageRef], config: Input) -> Iterator[ImageRef]:
    """The images with fingerprints made from all bytes of their local files, and of those that belong to them.

    Files in a store keep theirs, which hold the checksum of the store.
    """
    given = [raster.file for _, raster in sorted(config.rasters.items())] + [config.points and config.points.file]
    rules = [file for file in given if isinstance(file, Replace)]
    with concurrent.futures.ThreadPoolExecutor(_READS) as pool:
        while batch := list(itertools.islice(refs, _BATCH)):
            files = [_files(ref, rules) for ref in batch]
            found = pool.map(digest_of, itertools.chain.from_iterable(files))
            for ref, of_image in zip(batch, files):
                parts = [next(found) for _ in of_image]
                yield ref._replace(fingerprint="+".join(parts)) if storage.is_local(ref.uri) else ref


def _files(ref: ImageRef, rules: list[Replace]) -> list[str]:
    given = [file for file in (ref.mask, ref.points, ref.regions) if file and not is_json(file)]
    return [ref.uri, *given, *(belonging(ref, rule, "") for rule in rules)]
