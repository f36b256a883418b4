"""A file in a store, read in ranges: as few bytes as the reader needs, in as few requests as they allow.

Small reads, such as of headers, go through a cache of blocks that all files of the process share: opening an image
again costs one request for its version and no bytes. Sequential reads read ahead, further each time. A reader can
announce what it will read (:meth:`RangeFile.prefetch`); this is fetched in large pieces, several at a time.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import io
import threading
from collections.abc import Iterable
from typing import Any

from pipeline.errors import TransientError
from pipeline.storage.object_store import Object, Store, retry, store_of

BLOCK_BYTES = 1 << 16
# A larger read is no header: exactly its bytes are fetched.
_SMALL_BYTES = 4 * BLOCK_BYTES
_REQUEST_BYTES = 8 << 20
# Two pieces with a smaller gap between them cost less in one request: 10 ms at 100 MB/s are 1 MB.
_GAP_BYTES = 1 << 15
_CACHE_BYTES = 128 << 20
_KEPT_BYTES = 16 << 20
_HELD_BYTES = 64 << 20


class _Blocks:
    """The most recently used blocks of all files of the process."""

    def __init__(self) -> None:
        self._blocks: collections.OrderedDict[Any, bytes] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[Object, int]) -> bytes | None:
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
            return self._blocks.get(key)

    def put(self, key: tuple[Object, int], block: bytes) -> None:
        with self._lock:
            self._bytes += len(block) - len(self._blocks.pop(key, b""))
            self._blocks[key] = block
            while self._bytes > _CACHE_BYTES:
                self._bytes -= len(self._blocks.popitem(last=False)[1])


_cache = _Blocks()


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    """Returns the threads for concurrent requests of this process."""
    return concurrent.futures.ThreadPoolExecutor(16, thread_name_prefix="patchbeam-fetch")


class RangeFile(io.RawIOBase):
    """A seekable file in a store, pinned to the content that it had when it was opened.

    Raises:
        OSError: if the file is not there; from every read, if the store does not deliver.
    """

    def __init__(self, uri: str):
        self._store: Store = store_of(uri)
        self._object = retry(lambda: self._store.stat(uri))
        self._position = 0
        self._next, self._ahead = -1, 0  # the block after the last small read, and how many to read ahead
        self._held: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a position, see ``io.RawIOBase``; raises ValueError for one before the beginning."""
        position = offset + (0, self._position, self._object.size)[whence]
        if position < 0:
            raise ValueError(f"an offset of {position}")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """Returns all requested bytes, up to the end of the file."""
        everything = size is None or size < 0
        stop = self._object.size if everything else min(self._position + (size or 0), self._object.size)
        start, self._position = self._position, max(self._position, stop)
        if stop <= start:
            return b""
        held = self._take(start, stop)
        return self._read(start, stop, keep=not everything) if held is None else held

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetches ranges that will be read soon, each as ``(offset, bytes)``; does nothing if they do not fit."""
        pieces: list[list[int]] = []
        for start, size in sorted(ranges):
            stop = min(start + size, self._object.size)
            if stop <= start:
                continue
            end = max(stop, pieces[-1][1]) if pieces else stop
            if pieces and start - pieces[-1][1] <= _GAP_BYTES and end - pieces[-1][0] <= _REQUEST_BYTES:
                pieces[-1][1] = end
            else:
                pieces.append([start, stop])
        if sum(stop - start for start, stop in pieces) > _HELD_BYTES:
            return
        fetched = list(_pool().map(lambda piece: (piece[0], self._fetch(*piece)), pieces))
        with self._lock:
            self._held += fetched
            while sum(len(data) for _, data in self._held) > _HELD_BYTES:
                self._held.pop(0)

    def _take(self, start: int, stop: int) -> bytes | None:
        """Returns bytes that were prefetched, else None; a piece is dropped when its end was read."""
        with self._lock:
            for number, (first, data) in enumerate(self._held):
                if first <= start and stop <= first + len(data):
                    if stop == first + len(data):
                        del self._held[number]
                    return data[start - first : stop - first]
        return None

    def _read(self, start: int, stop: int, keep: bool) -> bytes:
        first, last = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        blocks = {index: _cache.get((self._object, index)) for index in range(first, last + 1)}
        small = stop - start <= _SMALL_BYTES
        parts: list[tuple[int, bytes]] = []
        missing: list[int] = []
        for index in [*blocks, None]:
            if index is not None and blocks[index] is None:
                missing.append(index)
                continue
            if missing:
                begin, end = missing[0] * BLOCK_BYTES, (missing[-1] + 1) * BLOCK_BYTES
                if small:
                    end += self._get_ahead(missing) * BLOCK_BYTES
                else:
                    begin, end = max(begin, start), min(end, stop)
                parts.append((begin, self._fetch_kept(begin, min(end, self._object.size), keep)))
                missing = []
            if index is not None:
                parts.append((index * BLOCK_BYTES, blocks[index] or b""))
        self._next = last + 1
        if len(parts) == 1 and parts[0][0] == start and len(parts[0][1]) == stop - start:
            return parts[0][1]
        return b"".join(data[max(0, start - at) : max(0, stop - at)] for at, data in parts)

    def _get_ahead(self, missing: list[int]) -> int:
        """Returns how many blocks to read ahead: none at first, more and more where a file is read from end to end."""
        follows = missing[0] == self._next
        self._ahead = min(max(1, 2 * self._ahead), _REQUEST_BYTES // BLOCK_BYTES) if follows else 0
        return self._ahead if self._ahead > 2 else 0

    def _fetch_kept(self, start: int, stop: int, keep: bool) -> bytes:
        steps = range(start, stop, _REQUEST_BYTES)
        if len(steps) == 1:
            data = self._fetch(start, stop)
        else:
            data = b"".join(_pool().map(lambda at: self._fetch(at, min(at + _REQUEST_BYTES, stop)), steps))
        if keep and len(data) <= _KEPT_BYTES:
            for index in range(-(-start // BLOCK_BYTES), -(-stop // BLOCK_BYTES)):
                at = index * BLOCK_BYTES - start
                block = data[at : at + BLOCK_BYTES]
                if len(block) == BLOCK_BYTES or stop == self._object.size:
                    _cache.put((self._object, index), block)
        return data

    def _fetch(self, start: int, stop: int) -> bytes:
        def request() -> bytes:
            data = self._store.fetch(self._object, start, stop)
            if len(data) != stop - start:
                raise TransientError(f"{self._object.uri}: {len(data)} bytes came of {stop - start}")
            return data

        return retry(request)
