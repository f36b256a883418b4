"""Fingerprints of the content of files, for images whose sizes and times say too little or too much."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from pipeline import storage
from pipeline.config import Replace
from pipeline.elements import ImageRef, is_json
from pipeline.inputs.companions import companion_uri

_BATCH = 1_000


def with_content_fingerprints(refs: Iterator[ImageRef], rules: Sequence[Replace]) -> Iterator[ImageRef]:
    """Yields the images with fingerprints made from all bytes of their local files and of their companions.

    Images in a store keep their fingerprints, which hold the checksum of the store.
    """
    while batch := list(itertools.islice(refs, _BATCH)):
        files = [_files(ref, rules) for ref in batch]
        found = storage.read_many(itertools.chain.from_iterable(files), storage.digest_of)
        for ref, of_image in zip(batch, files):
            parts = [next(found) for _ in of_image]
            yield ref._replace(fingerprint="+".join(parts)) if storage.is_local(ref.uri) else ref


def _files(ref: ImageRef, rules: Sequence[Replace]) -> list[str]:
    given = [file for file in (ref.mask, ref.points, ref.polygons) if file and not is_json(file)]
    return [ref.uri, *given, *(companion_uri(ref, rule, "") for rule in rules)]
