"""The process in which images are decoded; pipeline/readers/isolated.py talks to it.

It opens local files itself and asks its parent for the bytes of those in a store. Crashes, endless loops and excessive
memory stay confined here: the kernel ends the process when its processor time is used up, and refuses memory beyond a
limit.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import importlib
import io
import json
import mmap
import os
import resource
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, BinaryIO, cast

import numpy as np

from pipeline import storage
from pipeline.errors import StorageError, Unreadable
from pipeline.readers import Reader, unreadable
from pipeline.readers.converted import Choice, open_as
from pipeline.readers.isolated import KEPT_MEMORY
from transforms.grid import Box

# The fork server imports once what most images need.
_COMMON = (
    "pipeline.readers.formats.jpeg",
    "pipeline.readers.formats.png",
    "pipeline.readers.formats.tiff",
    "simplejpeg",
)
_OPEN_IMAGES = 8
# In addition to the libraries. Some codecs need several times the pixels of an image that is decoded whole.
_MAX_MEMORY = 4 << 30
# Headers take many small reads; windows are larger than this buffer and bypass it.
_BUFFER = 1 << 14
_PR_SET_PDEATHSIG = 1


def fork_server(fd: int) -> None:
    """Forks decoders and waits for them until the other end of the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that uses the decoders handles interrupts
    for name in _COMMON:
        importlib.import_module(name)
    control = Connection(fd)
    parent = os.getpid()
    with contextlib.suppress(EOFError, OSError):
        while True:
            command = control.recv_bytes()
            if command != b"fork":
                _, status = os.waitpid(int(command.split()[1]), 0)
                control.send_bytes(b"%d" % status)
                continue
            theirs = recv_handle(control)
            pid = os.fork()
            if not pid:
                control.close()
                _end_with(parent)
                _decode_for_ever(Connection(theirs))
            os.close(theirs)
            control.send_bytes(b"%d" % pid)
    os._exit(0)


def _end_with(parent: int) -> None:
    """Makes the kernel end this process with the fork server, even in an endless loop; also silences and limits it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)  # libraries print warnings about broken files
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MAX_MEMORY, taken + _MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _decode_for_ever(connection: Connection) -> None:
    readers: collections.OrderedDict[int, Reader] = collections.OrderedDict()
    memory = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            number, uri, choice, box, seconds, fresh = json.loads(connection.recv_bytes())
            if fresh:
                memory = _map(recv_handle(connection))
            signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process
            try:
                answer = _answer(readers, connection, number, uri, Choice(*choice), box and Box(*box), memory)
            except Unreadable as error:
                answer = ["error", error.reason, error.message]
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            if answer[0] == "error" and number in readers:
                _close(readers.pop(number))  # its library may be in any state after an error
            if memory is not None and len(memory) > KEPT_MEMORY:
                memory = None
            connection.send_bytes(json.dumps(answer).encode())
    os._exit(0)


def _map(shared: int) -> mmap.mmap:
    try:
        return mmap.mmap(shared, 0)
    finally:
        os.close(shared)


def _answer(
    readers: collections.OrderedDict[int, Reader], connection: Connection, number: int, uri: str, choice: Choice,
    box: Box | None, memory: mmap.mmap | None,
) -> list[Any]:  # fmt: skip
    with _bounded():
        if number not in readers:
            served = lambda _: cast(BinaryIO, _Buffered(_Served(connection), _BUFFER))
            readers[number] = open_as(uri, choice, None if storage.is_local(uri) else served)
            if len(readers) > _OPEN_IMAGES:
                _close(readers.popitem(last=False)[1])
        readers.move_to_end(number)
        reader = readers[number]
        if box is None or memory is None:
            return ["layout", *reader.layout]
        pixels = reader.read(box)
        out = np.frombuffer(memory, pixels.dtype, pixels.size)
        out.reshape(box.height, box.width, reader.layout.channels)[:] = pixels
        if reader.layout.is_whole:  # the other process keeps the pixels
            _close(readers.pop(number))
        return ["pixels"]


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Tells running out of memory in the block from an error of the file."""
    try:
        with unreadable("corrupt_data", "cannot be read"):
            yield
    except Unreadable as error:
        if isinstance(error.__cause__, MemoryError):
            raise Unreadable("too_large", f"needs more than {_MAX_MEMORY >> 30} GiB of memory") from error
        raise


def _close(reader: Reader) -> None:
    with contextlib.suppress(Exception):
        reader.close()


class _Buffered(io.BufferedReader):
    """A buffered file that passes on ``prefetch``."""

    def prefetch(self, ranges: list[tuple[int, int]]) -> None:
        cast(_Served, self.raw).prefetch(ranges)


class _Served(io.RawIOBase):
    """A file whose bytes come over a connection."""

    def __init__(self, connection: Connection):
        self._connection, self._at = connection, 0

    def prefetch(self, ranges: list[tuple[int, int]]) -> None:
        """See :meth:`pipeline.readers.ImageFile.prefetch`."""
        self._question(["prefetch", ranges])

    def _ask(self, offset: int, size: int) -> bytes:
        return self._question(["bytes", offset, size])

    def _question(self, question: list[Any]) -> bytes:
        self._connection.send_bytes(json.dumps(question).encode())
        data = self._connection.recv_bytes()
        if data[:1] == b"-":
            raise StorageError(data[1:].decode())
        if data[:1] == b"?":
            raise ValueError(data[1:].decode())
        return data[1:]

    def readall(self) -> bytes:
        data = self._ask(self._at, max(0, int(self._ask(0, -1)) - self._at))
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self._ask(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        start = {0: 0, 1: self._at, 2: 0}[whence] if whence != 2 else int(self._ask(0, -1))
        if not 0 <= start + offset < 1 << 63:
            raise ValueError(f"an offset of {start + offset}")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
