"""Files by path or URI: the few things that a build asks of a file system.

Local paths go through the standard library, which is fast to import and can flush and rename atomically; everything
with a scheme (``gs://``, ``s3://`` ...) goes through Beam's file systems.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_MAGIC = re.compile(r"[*?\[]")


class Found(NamedTuple):
    """A file: its path or URI and a string that changes when it is replaced."""

    uri: str
    fingerprint: str


def is_local(uri: str) -> bool:
    """Whether this is a path of this machine and not a URI."""
    return "://" not in uri


def absolute(uri: str) -> str:
    """The same file for a worker that runs in another folder."""
    return os.path.abspath(uri) if is_local(uri) else uri


def join(folder: str, *names: str) -> str:
    """``folder/names...`` for paths and URIs alike."""
    return "/".join([folder.rstrip("/"), *names])


def static_root(pattern: str) -> str:
    """The folder above the first wildcard of a pattern, or above the file where there is none.

    >>> static_root("/data/slides/**/*.svs"), static_root("gs://bucket/a*/x.png")
    ('/data/slides', 'gs://bucket')
    """
    magic = _MAGIC.search(pattern)
    before = pattern[: magic.start()] if magic else pattern
    return before.rpartition("/")[0] or ("/" if before.startswith("/") else ".")


def glob(pattern: str) -> Iterator[Found]:
    """The files that match, in the order of their paths.

    ``*`` and ``?`` stay within a name, ``[..]`` is a set, ``**`` stands for any number of folders. One dialect for
    local disks and object stores, whose own ones differ.
    """
    expression = re.compile(_translate(pattern), re.DOTALL)
    names = pattern.split("/")
    depth = None if "**" in pattern else len(names)  # how deep a match can lie
    return (found for found in _walk(static_root(pattern), depth) if expression.fullmatch(found.uri))


def _translate(pattern: str) -> str:
    special = {"**/": r"(?:[^/]+/)*", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    out = ""
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[!?[^]]+\]|.", pattern, re.DOTALL):
        if token in special:
            out += special[token]
        elif len(token) > 1:
            out += "(?!/)" + fnmatch.translate(token).removeprefix("(?s:").removesuffix(")\\Z").removesuffix(r")\z")
        else:
            out += re.escape(token)
    return out


def _walk(folder: str, depth: int | None = None, above: tuple[str, ...] = ()) -> Iterator[Found]:
    """The files below a folder, sorted; of local ones those with at most ``depth`` names in their path."""
    if not is_local(folder):
        from apache_beam.io.filesystems import FileSystems

        matched = FileSystems.match([join(folder, "**")])[0].metadata_list
        files = [Found(m.path, f"{m.size_in_bytes}-{m.last_updated_in_seconds}") for m in matched]
        yield from sorted(files, key=lambda found: found.uri.split("/"))
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it lies in
        return
    for entry in entries:
        # "./a" and "a" are the same file; patterns are written without the dot.
        path = entry.name if folder == "." else join(folder, entry.name) if folder != "/" else f"/{entry.name}"
        if entry.is_dir():
            if depth is None or len(path.split("/")) < depth:
                yield from _walk(path, depth, (*above, real))
        elif entry.is_file():
            status = entry.stat()
            yield Found(path, f"{status.st_size}-{status.st_mtime_ns}")


def open_read(uri: str) -> BinaryIO:
    """A seekable binary file.

    Raises:
        OSError: if it cannot be opened.
    """
    if is_local(uri):
        return open(uri, "rb")
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)


def read_bytes(uri: str) -> bytes:
    """The whole content of a small file."""
    with open_read(uri) as file:
        return file.read()


@contextlib.contextmanager
def atomic_write(uri: str) -> Iterator[BinaryIO]:
    """A file that appears under ``uri`` complete or not at all, whatever happens before the end of the block.

    It is written under a name of its own, so that two workers that write the same file do not disturb each other.
    """
    folder, _, name = uri.rpartition("/")
    temporary = f"{folder or '.'}/.tmp-{name}-{uuid.uuid4().hex}"
    file = _create(temporary)
    try:
        with file:
            yield file
            if is_local(uri):  # a file that survives a power cut is whole
                file.flush()
                os.fsync(file.fileno())
        rename(temporary, uri)
    except BaseException:
        with contextlib.suppress(OSError):
            delete(temporary)
        raise


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a small file, complete or not at all."""
    with atomic_write(uri) as file:
        file.write(data)


def _create(uri: str) -> BinaryIO:
    if is_local(uri):
        os.makedirs(os.path.dirname(uri) or ".", exist_ok=True)
        return open(uri, "wb")
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED)


def rename(source: str, target: str) -> None:
    """Moves a file over another; atomic on local disks, a copy and a delete on object stores."""
    if is_local(target):
        os.replace(source, target)
        return
    from apache_beam.io.filesystems import FileSystems

    FileSystems.rename([source], [target])


def copy(source: str, target: str) -> None:
    """The same file at another place, complete or not at all; on local disks without another copy of its bytes."""
    if is_local(source) and is_local(target):
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        temporary = f"{os.path.dirname(target) or '.'}/.tmp-{uuid.uuid4().hex}"
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
        return
    with open_read(source) as file, atomic_write(target) as out:
        shutil.copyfileobj(file, out, 1 << 20)


def size(uri: str) -> int | None:
    """Bytes of a file; None if there is none."""
    if is_local(uri):
        return os.path.getsize(uri) if os.path.isfile(uri) else None
    from apache_beam.io.filesystems import FileSystems

    found = FileSystems.match([uri])[0].metadata_list
    return found[0].size_in_bytes if found else None


def files_below(folder: str) -> list[str]:
    """Paths of all files below a folder, relative to it, sorted; empty if there is no such folder."""
    folder = folder.rstrip("/")
    above = 0 if folder == "." else len(folder) + 1
    return sorted(found.uri[above:] for found in _walk(folder))


def delete(uri: str) -> None:
    """Removes a file or a folder with everything below it."""
    if is_local(uri):
        shutil.rmtree(uri) if os.path.isdir(uri) else os.remove(uri)
        return
    from apache_beam.io.filesystems import FileSystems

    FileSystems.delete([uri])
