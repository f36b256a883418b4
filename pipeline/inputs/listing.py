"""The listing: globs and the input manifest become one sorted table of images, the input and record of a run."""

from __future__ import annotations

import hashlib
import heapq
import io
import itertools
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from typing import IO, NamedTuple

from pipeline import storage
from pipeline.config import Config, Input
from pipeline.elements import ImageRef, is_json
from pipeline.errors import ConfigError
from pipeline.inputs.companions import companion_rules, with_companion_fingerprints
from pipeline.inputs.fingerprints import with_content_fingerprints
from pipeline.inputs.join import id_below, join_manifest
from pipeline.inputs.manifest import check_manifest, folder_of, with_columns

_BATCH = 10_000


class Listing(NamedTuple):
    """The images of a build.

    Attributes:
        table: a temporary file, Parquet with the columns of :class:`ImageRef`, in the order of the ids.
        images: number of rows.
        digest: changes with any id or fingerprint, but not with the place where the images lie.
    """

    table: IO[bytes]
    images: int
    digest: str

    def save(self, uri: str) -> None:
        """Writes the table to where the workers read it."""
        self.table.seek(0)
        with storage.atomic_write(uri) as file:
            shutil.copyfileobj(self.table, file, 1 << 20)


class _Temporary(io.BufferedRandom):
    """A file without a name that is closed when nobody holds it any more."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            super().__init__(io.FileIO(os.dup(file.fileno()), "r+"))

    def __del__(self) -> None:
        self.close()


def find_images(config: Config) -> tuple[Config, Listing]:
    """Returns the configuration of a build with ``input.columns`` filled in, and its listing.

    Raises:
        ConfigError: as :func:`list_images` does.
    """
    config = with_columns(config)
    return config, make_listing(list_images(config.input, config.splits))


def list_images(config: Input, splits: Collection[str] = ()) -> Iterator[ImageRef]:
    """Yields the images of the patterns and of the input manifest, each once, in the order of the parts of their ids.

    Args:
        config: where to look.
        splits: names that the input manifest may use.

    Raises:
        ConfigError: if a pattern finds nothing, an image lies outside of the root, or the input manifest contradicts
            itself.
    """
    paths = [*config.images, *([config.root] if config.root else [])]
    # One path that is absolute, or leaves the current folder, makes all of them absolute, so that they are comparable.
    absolute = config.manifest is not None or any(
        posixpath.normpath(path).startswith(("/", "../")) or path == ".." for path in paths
    )
    patterns = [_normal(pattern, absolute) for pattern in config.images]
    if config.root:
        root = _normal(config.root, absolute)
    else:
        folders = [folder_of(config.manifest)] if config.manifest else []
        root = _common([*folders, *(storage.static_root(p) for p in patterns)])
    streams = [_matches(pattern, given, root) for pattern, given in zip(patterns, config.images)]
    merged = heapq.merge(*streams, key=lambda ref: ref.image_id.split("/"))
    found = (next(same) for _, same in itertools.groupby(merged, key=lambda ref: ref.image_id))
    refs = join_manifest(found, config, root, splits) if config.manifest else found
    rules = companion_rules(config)
    refs = with_companion_fingerprints(refs, rules)
    return with_content_fingerprints(refs, rules) if config.fingerprint == "content" else refs


def _matches(pattern: str, given: str, root: str) -> Iterator[ImageRef]:
    found = None
    for found in storage.glob(pattern):
        image_id = id_below(root, found.uri)
        if image_id is None:
            raise ConfigError(f"input.root: {root!r} does not contain {found.uri}; choose a folder above all images")
        if not _is_text(found.uri):
            raise ConfigError(f"input.images: {found.uri!r} is a name that is not UTF-8; rename the file")
        yield ImageRef(image_id, found.uri, found.fingerprint)
    if not found:
        raise ConfigError(f"input.images: {given!r} matches no file; ** stands for any number of folders, * for a name")


def check_inputs(config: Input) -> None:
    """Fails at once for a local pattern that finds nothing or a local input manifest that cannot be read.

    URIs are checked when the run starts.

    Raises:
        ConfigError: as :func:`list_images` does.
    """
    for pattern in config.images:
        if storage.is_local(pattern):
            next(list_images(config.model_copy(update={"images": (pattern,), "manifest": None, "fingerprint": "stat"})))
    if config.manifest is not None and storage.is_local(config.manifest):
        check_manifest(config)


def _normal(path: str, absolute: bool) -> str:
    if not storage.is_local(path):
        return path.rstrip("/")
    return storage.absolute(path) if absolute else posixpath.normpath(path)


def _is_text(name: str) -> bool:
    """Returns whether a file name is UTF-8; other bytes arrive as lone surrogates."""
    return not any(0xD800 <= ord(character) < 0xE000 for character in name)


def _common(folders: list[str]) -> str:
    parts = [folder.split("/") for folder in folders]
    common = [same[0] for same in itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts))]
    return "/".join(common) or ("/" if folders[0].startswith("/") else ".")


def make_listing(refs: Iterable[ImageRef]) -> Listing:
    """Writes the table to a temporary file in batches, so that its size does not matter for memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(field, pa.string()) for field in ImageRef._fields])
    out, digest, images = _Temporary(), hashlib.sha256(), 0
    refs = iter(refs)
    with pq.ParquetWriter(out, schema) as writer:
        while batch := list(itertools.islice(refs, _BATCH)):
            # The workers that read the table may run in another folder.
            rows = [ref._replace(uri=storage.absolute(ref.uri)) for ref in batch]
            writer.write_table(pa.Table.from_arrays([pa.array(column) for column in zip(*rows)], schema=schema))
            digest.update("".join(map(_said, batch)).encode())
            images += len(batch)
    return Listing(out, images, digest.hexdigest())


def _said(ref: ImageRef) -> str:
    """Returns all that a reference says, except where the files lie, as a line of JSON."""
    written_out = [text if is_json(text) else bool(text) for text in (ref.points, ref.polygons)]
    given = [ref.label, ref.group, ref.split, ref.meta, bool(ref.mask), *written_out]
    return json.dumps([ref.image_id, ref.fingerprint, *(given if any(given) else [])]) + "\n"


def read_listing(uri: str, first: int = 0, end: int | None = None) -> Iterator[ImageRef]:
    """Yields the rows of a table that :func:`make_listing` wrote, all or those from ``first`` to ``end``."""
    return (ImageRef(**row) for row in storage.read_rows(uri, first, end))
