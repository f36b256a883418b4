"""Open images in other processes, where a decoder that crashes, loops for ever or wants all memory harms no one.

Every image is decoded in a *decoder*, a process that imports readers and nothing of Beam or TensorFlow. Decoders are
forked, in milliseconds, from one *fork server* that has imported the libraries once, and kept for the next window. Each
thread that reads has one of its own at the time. A decoder that dies or takes too long costs its window: the next one
gets another decoder. Pixels come through shared memory; the bytes of the file are asked of this process, which alone
talks to the storage.

The other end is pipeline/readers/decoder.py.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.child_processes import child_environment
from pipeline.errors import StorageError, Unreadable
from pipeline.parallel import Once
from pipeline.readers import ImageFile, Layout, Reader, check_inside
from pipeline.readers.converted import Choice
from transforms.grid import Box

# Processor time is limited by the decoder itself; this is for one that waits for ever without taking any.
_WALL_PER_CPU = 5
_DIES_S = 5.0  # from closing its sockets to its end
# Shared memory for more than some windows, such as for a large photograph, is not kept.
KEPT_MEMORY = 1 << 26
_START = "from pipeline.readers.decoder import fork_server; fork_server({fd})"


def open_isolated(uri: str, choice: Choice, max_seconds: float) -> Reader:
    """:func:`pipeline.readers.converted.open_as`, in a decoder.

    Args:
        uri: where it is.
        choice: what is taken of it.
        max_seconds: processor time for the header and for each window.

    Raises:
        Unreadable: with the reason; ``crashed`` and ``timeout`` come from here.
    """
    try:
        file = ImageFile(storage.open_read(uri), uri)
    except OSError as error:
        raise Unreadable("io_error", f"cannot be opened: {error.strerror or error}") from error
    try:
        return _IsolatedReader(file, choice, max_seconds)
    except Unreadable:
        file.close()
        raise


_numbers = itertools.count()


class _IsolatedReader:
    """An image that decoders read; one that can only be decoded whole is kept here, for all windows."""

    def __init__(self, file: ImageFile, choice: Choice, max_seconds: float):
        self.file = file
        self._image = (next(_numbers), storage.absolute(file.uri), choice)
        self._max_seconds = max_seconds
        self._lock = threading.Lock()
        self.layout = Layout(*map(_tuple, self._ask(None)))
        self._all = Once(lambda: self._pixels(Box(0, 0, self.layout.height, self.layout.width)))

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        check_inside(box, self.layout)
        if self.layout.is_whole:
            return self._all()[box.row : box.row + box.height, box.col : box.col + box.width]
        return self._pixels(box)

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self._all.forget()
        self.file.close()

    def _pixels(self, box: Box) -> np.ndarray:
        shape, dtype = (box.height, box.width, self.layout.channels), np.dtype(self.layout.dtype)
        size = math.prod(shape) * dtype.itemsize
        found: np.ndarray = self._ask(
            box, lambda memory: np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape).copy(), size
        )
        return found

    def _ask(self, box: Box | None, take: Callable[[mmap.mmap], np.ndarray] | None = None, size: int = 0) -> Any:
        """The layout, or what ``take`` makes of the memory with the pixels of a box."""
        decoder = _take(self._image[0])
        try:
            kind, *values = decoder.ask([*self._image, box, self._max_seconds], size, self._serve)
            taken = take(decoder.memory) if kind == "pixels" and take else values
        except (EOFError, OSError):
            raise decoder.dead() from None
        except BaseException:  # such as an interrupt: nobody knows what the decoder sends next
            decoder.kill()
            raise
        _give_back(decoder)
        if kind == "error":
            raise Unreadable(*values)
        return taken

    def _serve(self, what: str, *values: Any) -> bytes:
        """``bytes`` of the file at an offset, or its length where their number is negative; nothing for ``prefetch``."""
        with self._lock:  # the file has one position
            if what == "prefetch":
                self.file.prefetch(map(tuple, values[0]))
                return b""
            offset, size = values
            if size < 0:
                return str(self.file.seek(0, 2)).encode()
            self.file.seek(offset)
            return self.file.read(size)


class _Decoder:
    """This end of one decoder."""

    def __init__(self, fork_server: _ForkServer):
        self._fork_server = fork_server
        self._socket, self.pid = fork_server.fork()
        self.images: list[int] = []  # that it has opened, the latest last
        self._late = False
        # Kept for the next window: pages that are new to a process cost more than copying what they hold.
        self.memory = mmap.mmap(-1, 1)

    def ask(self, question: list[Any], size: int, serve: Callable[..., bytes]) -> list[Any]:
        """Its answer, with pixels in ``memory``; what it wants of the file is served meanwhile."""
        self.images = [*[number for number in self.images if number != question[0]][-7:], question[0]]
        if fresh := size > len(self.memory):
            self.memory.close()
            shared = os.memfd_create("patchbeam")
            os.ftruncate(shared, size)
            self.memory = mmap.mmap(shared, size)
        self._socket.send_bytes(json.dumps([*question, fresh]).encode())
        if fresh:
            send_handle(self._socket, shared, self.pid)
            os.close(shared)
        while True:
            if not self._socket.poll(question[-1] * _WALL_PER_CPU):
                self._late = True
                raise EOFError
            answer = json.loads(self._socket.recv_bytes())
            if answer[0] not in ("bytes", "prefetch"):
                found: list[Any] = answer
                return found
            try:
                data = b"+" + serve(*answer)
            except StorageError as error:
                data = b"-" + str(error).encode()
            except ValueError as error:  # an offset that no file has
                data = b"?" + str(error).encode()
            self._socket.send_bytes(data)

    def kill(self) -> int:
        """Ends it; its status, as of ``os.waitpid``."""
        os.kill(self.pid, signal.SIGKILL)  # not yet waited for, so nobody else has the number
        self._socket.close()
        return self._fork_server.wait(self.pid)

    def dead(self) -> Unreadable:
        """Why it does not answer."""
        status = self.kill()  # what ended it before stays its status
        if not self._late and not os.WIFSIGNALED(status):
            return Unreadable("crashed", f"the decoder ended with exit code {os.waitstatus_to_exitcode(status)}")
        if not self._late and os.WTERMSIG(status) != signal.SIGPROF:
            return Unreadable("crashed", f"the decoder died of {signal.Signals(os.WTERMSIG(status)).name}")
        return Unreadable("timeout", "decoding took longer than input.max_seconds")


class _ForkServer:
    """The process that decoders are forked from."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            quiet = child_environment() | {"OPENBLAS_NUM_THREADS": "1"}  # threads do not survive a fork
            command = [sys.executable, "-c", _START.format(fd=theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=quiet)  # noqa: S603 ours
        self._socket = Connection(ours.detach())
        self._lock = threading.Lock()

    def fork(self) -> tuple[Connection, int]:
        """A new decoder: the connection to it, and its process number.

        Raises:
            Unreadable: ``missing_extra`` if the fork server does not start, what it printed about that stands on the
                terminal; ``io_error``, which is tried again, if it was killed or this process can open no more files.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._lock:
                self._socket.send_bytes(b"fork")
                send_handle(self._socket, theirs.fileno(), self.process.pid)
                return Connection(ours.detach()), int(self._socket.recv_bytes())
        except (EOFError, OSError) as error:
            try:
                status = self.process.wait(_DIES_S)
            except subprocess.TimeoutExpired:  # it lives
                raise Unreadable("io_error", f"no process to decode images can be started: {error}") from error
            if status < 0:
                died = f"the process that decoders come from died of {signal.Signals(-status).name}"
                raise Unreadable("io_error", died) from error
            raise Unreadable(
                "missing_extra", "the process that decodes images does not start; patchbeam doctor says what is missing"
            ) from error

    def wait(self, pid: int) -> int:
        """How a decoder ended that is dying, as of ``os.waitpid``."""
        with self._lock:
            self._socket.send_bytes(b"wait %d" % pid)
            return int(self._socket.recv_bytes())


def _tuple(value: Any) -> Any:
    """JSON has lists only; a layout has tuples."""
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


_lock = threading.Lock()
_fork_server: _ForkServer | None = None
_idle: list[_Decoder] = []


def _take(image: int) -> _Decoder:
    """An idle decoder, one that has the image open if there is one, or a new one."""
    global _fork_server
    with _lock:
        for decoder in reversed(_idle):
            if image in decoder.images:
                _idle.remove(decoder)
                return decoder
        if _idle:
            return _idle.pop(0)
        if _fork_server is None or _fork_server.process.poll() is not None:
            _fork_server = _ForkServer()
        return _Decoder(_fork_server)


def _give_back(decoder: _Decoder) -> None:
    if len(decoder.memory) > KEPT_MEMORY:
        decoder.memory = mmap.mmap(-1, 1)
    with _lock:
        _idle.append(decoder)
