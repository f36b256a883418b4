"""The input manifest joined with the images that patterns found: each image once, in order, with consistent names.

The rows wait in a database on the disk, which sorts them: a million rows take no more memory than a few.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from typing import Literal

from pipeline import storage
from pipeline.config import Input, Regex
from pipeline.elements import ImageRef, is_json
from pipeline.errors import ConfigError, Unreadable
from pipeline.inputs.labels import name_by_rule
from pipeline.inputs.manifest import ManifestRow, read_rows, where, without_values

GroupRule = Literal["image", "folder"] | Regex

_BATCH = 10_000
_SHOWN = 5
_MISSING = "missing"
# "key" sorts like the parts of the id; "line" is NULL for images that are not in the input manifest; "kept_together" is
# the group from the input manifest or, where it gives none, from the rule of the configuration.
_TABLE = """CREATE TABLE images (key BLOB, line INTEGER, kept_together TEXT, image_id TEXT, uri TEXT, fingerprint TEXT,
    label TEXT, "group" TEXT, split TEXT, mask TEXT, points TEXT, polygons TEXT, meta TEXT)"""


def id_below(root: str, uri: str) -> str | None:
    """Returns the identity of an image, its path below the root; None if it lies elsewhere."""
    prefix = "" if root == "." else "/" if root == "/" else root + "/"
    outside = not uri.startswith(prefix) or (root == "." and uri.startswith("../"))
    return None if outside else uri[len(prefix) :]


def join_manifest(found: Iterator[ImageRef], config: Input, root: str, splits: Collection[str]) -> Iterator[ImageRef]:
    """Yields the images of the input manifest and of the patterns, each once, in the order of the parts of their ids.

    For an image that both have, the input manifest counts. If one row of a group gives a split, all its images get it.

    Args:
        found: images that the patterns found.
        config: with the input manifest, and the rule for groups that it does not name.
        root: folder that all images have to lie below.
        splits: names of the splits.

    Raises:
        ConfigError: showing the rows, for images outside of the root, unknown splits, images that are listed twice,
            groups with more than one split, and if no file is there at all.
    """
    uri = str(config.manifest)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(_database(folder)) as rows:
        entries = read_rows(config)
        while batch := list(itertools.islice(entries, _BATCH)):
            refs = [_checked(entry, uri, root, splits) for entry in batch]
            _insert(rows, config.group, zip((entry.line for entry in batch), _with_fingerprints(refs)))
        rows.execute("CREATE INDEX by_key ON images (key)")
        _check_twice(rows, uri)
        _check_files(rows, uri)
        missing = without_values(config.columns or {})
        while unlisted := [ref._replace(meta=missing) for ref in itertools.islice(found, _BATCH)]:
            known = rows.execute  # what the input manifest says of an image counts
            new = [ref for ref in unlisted if not known("SELECT 1 FROM images WHERE key = ?", [_key(ref)]).fetchone()]
            _insert(rows, config.group, ((None, ref) for ref in new))
        _spread_splits(rows, uri)
        names = ", ".join(f'"{name}"' for name in ImageRef._fields)
        for row in rows.execute(f"SELECT {names} FROM images ORDER BY key"):  # noqa: S608
            yield ImageRef(*row)


def _database(folder: str) -> sqlite3.Connection:
    rows = sqlite3.connect(os.path.join(folder, "images.db"), isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE", "cache_size = -32000"):
        rows.execute(f"PRAGMA {pragma}")
    rows.execute(_TABLE)
    return rows


def _key(ref: ImageRef) -> bytes:
    return ref.image_id.replace("/", "\0").encode()


def _checked(entry: ManifestRow, uri: str, root: str, splits: Collection[str]) -> ImageRef:
    for file in _files(entry):
        if id_below(root, file) is None:
            raise ConfigError(
                f"{where(uri, entry.line)}: {file} does not lie below {root}; input.root: a folder above all files"
            )
    if entry.split and entry.split not in splits:
        raise ConfigError(
            f"{where(uri, entry.line)}: split {entry.split!r} is not among splits: {', '.join(splits)}; add it there, "
            "with the fraction 0 if only the manifest fills it"
        )
    given = {name: value for name, value in entry._asdict().items() if name != "line"}
    return ImageRef(id_below(root, entry.uri) or "", fingerprint="", **given)


def _files(of: ManifestRow | ImageRef) -> list[str]:
    """Returns the image and the files that belong to it."""
    return [of.uri, *(file for file in (of.mask, of.points, of.polygons) if file and not is_json(file))]


def _with_fingerprints(refs: list[ImageRef]) -> Iterator[ImageRef]:
    """Joins the fingerprints of mask and annotations to the image's, because a change there changes what is cut."""
    files = [_files(ref) for ref in refs]
    fingerprints = iter(storage.fingerprints([uri for of_image in files for uri in of_image]))
    for ref, of_image in zip(refs, files):
        yield ref._replace(fingerprint="+".join(next(fingerprints) or _MISSING for _ in of_image))


def _insert(rows: sqlite3.Connection, group: GroupRule, refs: Iterator[tuple[int | None, ImageRef]]) -> None:
    values = ((_key(ref), line, _kept_together(ref, group), *ref) for line, ref in refs)
    rows.execute("BEGIN")
    rows.executemany(f"INSERT INTO images VALUES ({', '.join('?' * (3 + len(ImageRef._fields)))})", values)  # noqa: S608
    rows.execute("COMMIT")


def _kept_together(ref: ImageRef, group: GroupRule) -> str:
    try:
        return ref.group or name_by_rule(ref.image_id, group)
    except Unreadable:  # the image will be rejected for this
        return ""


def _check_twice(rows: sqlite3.Connection, uri: str) -> None:
    twice = rows.execute(
        "SELECT min(line), max(line), image_id FROM images GROUP BY key HAVING count(*) > 1 ORDER BY min(line)"
    )
    found = [f"  {where(uri, first)} and {last}: {image_id}" for first, last, image_id in twice.fetchmany(_SHOWN)]
    if found:
        raise ConfigError("\n".join(["input.manifest: an image stands twice; keep one row for it", *found]))


def _check_files(rows: sqlite3.Connection, uri: str) -> None:
    first = rows.execute("SELECT line, uri FROM images ORDER BY line LIMIT 1").fetchone()
    if first is None:
        raise ConfigError(f"input.manifest: {uri!r} has no rows")
    there = "SELECT 1 FROM images WHERE fingerprint <> ? AND fingerprint NOT LIKE ? LIMIT 1"
    if not rows.execute(there, [_MISSING, f"{_MISSING}+%"]).fetchone():
        raise ConfigError(f"{where(uri, first[0])}: {first[1]} is not there, nor is any other file of the manifest")


def _spread_splits(rows: sqlite3.Connection, uri: str) -> None:
    if not rows.execute("SELECT 1 FROM images WHERE split <> '' LIMIT 1").fetchone():
        return
    rows.execute("CREATE INDEX by_group ON images (kept_together, split)")
    torn = rows.execute(
        "SELECT kept_together FROM images WHERE split <> '' AND kept_together <> '' GROUP BY kept_together "
        "HAVING count(DISTINCT split) > 1 ORDER BY min(line)"
    ).fetchmany(_SHOWN)
    found = []
    for (name,) in torn:
        splits = rows.execute(
            "SELECT split, min(line) FROM images WHERE kept_together = ? AND split <> '' GROUP BY split ORDER BY 2",
            [name],
        )
        found.append(f"  {name!r}: " + ", ".join(f"{split} in {where(uri, line)}" for split, line in splits))
    if found:
        raise ConfigError("\n".join(["input.manifest: a group has more than one split; it has to stay in one", *found]))
    rows.execute(
        "UPDATE images SET split = coalesce((SELECT o.split FROM images o WHERE o.kept_together = images.kept_together "
        "AND o.split <> '' LIMIT 1), '') WHERE split = '' AND kept_together <> ''"
    )
