"""Files by path or URI: the few operations that a build needs from a file system.

Local paths go through the standard library, which is fast to import and can flush and rename atomically; everything
with a scheme (``gs://``, ``s3://`` ...) goes through ``pipeline.storage.object_store``, and is read in ranges.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fnmatch
import hashlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from pipeline.storage.object_store import Object

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_READS = 16  # concurrent reads
_MAGIC = re.compile(r"[*?\[]")


class Found(NamedTuple):
    """A file: its path or URI, and a string that changes when the file is replaced."""

    uri: str
    fingerprint: str


class Versioned(NamedTuple):
    """The content of a small file, and a string that no other content of this file has had or will have."""

    data: bytes
    version: str


def is_local(uri: str) -> bool:
    """Returns whether ``uri`` is a path of this machine and not a URI."""
    return "://" not in uri


def absolute(uri: str) -> str:
    """Returns a name of the same file for workers that run in another folder."""
    return os.path.abspath(uri) if is_local(uri) else uri


def join(folder: str, *names: str) -> str:
    """Returns ``folder/names...``, for paths and URIs alike."""
    return "/".join([folder.rstrip("/"), *names])


def static_root(pattern: str) -> str:
    """Returns the folder above the first wildcard of a pattern, or above the file where there is none.

    >>> static_root("/data/slides/**/*.svs"), static_root("gs://bucket/a*/x.png")
    ('/data/slides', 'gs://bucket')
    """
    magic = _MAGIC.search(pattern)
    before = pattern[: magic.start()] if magic else pattern
    return before.rpartition("/")[0] or ("/" if before.startswith("/") else ".")


def glob(pattern: str) -> Iterator[Found]:
    """Yields the files that match a pattern, in the order of their paths.

    ``*`` and ``?`` stay within a name, ``[..]`` is a set, ``**`` stands for any number of folders. The dialect is the
    same for local disks and object stores, whose own dialects differ.
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
    """Yields the files below a folder, sorted; of local files only those with at most ``depth`` names in the path."""
    if not is_local(folder):
        from pipeline.storage.object_store import objects_below

        files = [Found(found.uri, found.fingerprint) for found in objects_below(f"{folder}/")]
        yield from sorted(files, key=lambda found: found.uri.split("/"))
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that contains it
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


def fingerprints(uris: Sequence[str]) -> Iterator[str | None]:
    """Yields the fingerprint of each file as :func:`glob` gives it, in the order of ``uris``; None if there is none."""
    if all(map(is_local, uris)):
        return map(_fingerprint, uris)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:  # an object store answers many requests at a time
        return iter(list(pool.map(_fingerprint, uris)))


def _fingerprint(uri: str) -> str | None:
    if is_local(uri):
        try:
            status = os.stat(uri)
        except OSError:
            return None
        return f"{status.st_size}-{status.st_mtime_ns}" if stat.S_ISREG(status.st_mode) else None
    found = _stat(uri)
    return found.fingerprint if found else None


def _stat(uri: str) -> Object | None:
    """Returns the object at ``uri`` in a store; None if there is none."""
    from pipeline.storage.object_store import retry, store_of

    store = store_of(uri)
    try:
        return retry(lambda: store.stat(uri))
    except FileNotFoundError:
        return None


def open_read(uri: str) -> BinaryIO:
    """Opens a seekable binary file; from a store it fetches only what is read, see ``pipeline.storage.range_file``.

    Raises:
        OSError: if it cannot be opened.
    """
    if is_local(uri):
        return open(uri, "rb")
    from pipeline.storage.range_file import RangeFile

    return cast(BinaryIO, RangeFile(uri))


def read_bytes(uri: str) -> bytes:
    """Reads the whole content of a small file."""
    with open_read(uri) as file:
        return file.read()


def read_if_there(uri: str) -> bytes | None:
    """Reads the whole content of a small file, None if there is none, without a request to ask first."""
    try:
        return read_bytes(uri)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def read_many(items: Iterable[_Item], read: Callable[[_Item], _Result]) -> Iterator[_Result]:
    """Yields the result of ``read`` for each item, in order; some run at a time, as latency dominates.

    Args:
        items: such as URIs.
        read: reads what belongs to one item.
    """
    with concurrent.futures.ThreadPoolExecutor(_READS) as pool:
        yield from pool.map(read, items)


@contextlib.contextmanager
def atomic_write(uri: str) -> Iterator[BinaryIO]:
    """Opens a file that appears under ``uri`` complete or not at all, whatever happens before the end of the block.

    A local file is written under a temporary name, so that two workers that write the same file do not disturb each
    other. For a store the content waits in a temporary file: an object appears there when all of it has arrived.
    """
    if not is_local(uri):
        from pipeline.storage.object_store import retry, store_of

        store = store_of(uri)
        with tempfile.TemporaryFile() as spool:
            yield cast(BinaryIO, spool)
            size = spool.seek(0, 2)
            retry(lambda: store.put(uri, cast(BinaryIO, spool), size))
        return
    folder, _, name = uri.rpartition("/")
    temporary = f"{folder or '.'}/.tmp-{name}-{uuid.uuid4().hex}"
    os.makedirs(folder or ".", exist_ok=True)
    file = open(temporary, "wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a file that survives a power cut is whole
        os.replace(temporary, uri)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a small file, complete or not at all."""
    with atomic_write(uri) as file:
        file.write(data)


def read_version(uri: str) -> Versioned | None:
    """Reads the content of a small file with its version, for :func:`write_if`; None if there is none."""
    if is_local(uri):
        try:
            with open(uri, "rb") as file:
                return Versioned(file.read(), _version(os.fstat(file.fileno())))
        except FileNotFoundError:
            return None
    from pipeline.storage.object_store import retry, store_of

    found = _stat(uri)
    if not found:
        return None
    try:
        return Versioned(retry(lambda: store_of(uri).fetch(found, 0, found.size)), found.version)
    except OSError:  # the file was replaced in between, or removed
        return read_version(uri)


def write_if(uri: str, data: bytes, version: str | None) -> str | None:
    """Writes a small file if it still has this version or, for None, if there is no such file.

    Stores without conditional writes (all but S3 and Google Cloud Storage) write in any case.

    Returns:
        The new version; None if nothing was written.
    """
    if not is_local(uri):
        from pipeline.storage.object_store import retry, store_of

        return retry(lambda: store_of(uri).put_if(uri, data, version))
    folder, _, name = uri.rpartition("/")
    temporary = f"{folder or '.'}/.tmp-{name}"  # one name is enough: the file is written under the lock
    with _locked(folder or "."):
        status = os.stat(uri) if os.path.exists(uri) else None
        if (_version(status) if status else None) != version:
            return None
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            written = _version(os.fstat(file.fileno()))
        os.replace(temporary, uri)
    return written


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Keeps other processes out during the block; they lock the same file."""
    import fcntl

    with open(f"{folder}/.lock", "a") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def copy(source: str, target: str) -> None:
    """Copies a file to another place, complete or not at all.

    On a local disk with links both names share the same bytes; within a store that can copy, the bytes do not leave it.
    """
    if is_local(source) and is_local(target):
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        temporary = f"{os.path.dirname(target) or '.'}/.tmp-{uuid.uuid4().hex}"
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
        with contextlib.suppress(FileNotFoundError):  # rename(2) keeps both names if they are of one file
            os.remove(temporary)
        return
    if source.partition("://")[0] == target.partition("://")[0]:
        from pipeline.storage.object_store import retry, store_of

        with contextlib.suppress(NotImplementedError):
            retry(lambda: store_of(source).copy(source, target))
            return
    with open_read(source) as file, atomic_write(target) as out:
        shutil.copyfileobj(file, out, 1 << 20)


def size(uri: str) -> int | None:
    """Returns the size of a file in bytes; None if there is none."""
    if is_local(uri):
        return os.path.getsize(uri) if os.path.isfile(uri) else None
    found = _stat(uri)
    return found.size if found else None


def files_below(folder: str) -> list[str]:
    """Returns the paths of all files below a folder, relative to it, sorted; empty if there is no such folder."""
    folder = folder.rstrip("/")
    above = 0 if folder == "." else len(folder) + 1
    return sorted(found.uri[above:] for found in _walk(folder))


def folders_in(folder: str) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without listing their content; empty if it is missing."""
    if is_local(folder):
        try:
            return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
    from pipeline.storage.object_store import folders_below

    return sorted(folders_below(f"{folder}/"))


def delete(uri: str) -> None:
    """Removes a local file or folder with everything below it, or an object of a store."""
    if is_local(uri):
        shutil.rmtree(uri) if os.path.isdir(uri) else os.remove(uri)
        return
    from pipeline.storage.object_store import retry, store_of

    store = store_of(uri)
    retry(lambda: store.delete(uri))


def digest_of(uri: str) -> str:
    """Returns 32 hexadecimal digits of the bytes of a local file, or text that begins with ``missing`` if it cannot."""
    if not uri or not is_local(uri):
        return "missing"
    try:
        with open(uri, "rb") as file:
            return hashlib.file_digest(cast(Any, file), lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        return f"missing-{error.errno}"
