"""Opening images in separate processes, where a codec that crashes, hangs or takes all memory harms nothing else.

Every image is decoded in a *decoder*, a process that imports the readers but neither Beam nor TensorFlow. Decoders are
forked in milliseconds from one *fork server*, which has imported the libraries once, and are kept for the next window.
Each reading thread uses one decoder at a time. A decoder that dies or takes too long costs its window only: the next
window gets another decoder. Pixels come through shared memory. Decoders ask this process for the bytes of the file,
because it alone talks to the storage.

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

# The decoder limits its own processor time; this limit is for one that waits without using any.
_WALL_PER_CPU = 5
_DIES_S = 5.0  # how long a fork server may take to end after its sockets closed
# More shared memory than this, such as for a large photograph, is not kept.
KEPT_MEMORY = 1 << 26
_START = "from pipeline.readers.decoder import fork_server; fork_server({fd})"


def open_isolated(uri: str, choice: Choice, max_seconds: float) -> Reader:
    """Opens an image like :func:`pipeline.readers.converted.open_as`, but in a decoder.

    Args:
        uri: address of the image.
        choice: the part and form of the image to read.
        max_seconds: limit of processor time for the header and for each window.

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
    """An image that decoders read; the pixels of an image that can only be decoded whole are kept here."""

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
        """Asks a decoder for the layout, or for the pixels of a box, which ``take`` copies from its memory."""
        decoder = _take(self._image[0])
        try:
            kind, *values = decoder.ask([*self._image, box, self._max_seconds], size, self._serve)
            taken = take(decoder.memory) if kind == "pixels" and take else values
        except (EOFError, OSError):
            raise decoder.dead() from None
        except BaseException:  # such as an interrupt: what the decoder sends next is unknown
            decoder.kill()
            raise
        _give_back(decoder)
        if kind == "error":
            raise Unreadable(*values)
        return taken

    def _serve(self, what: str, *values: Any) -> bytes:
        """Serves ``bytes`` at an offset, or the length of the file for a negative size; nothing for ``prefetch``."""
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
    """The connection to one decoder."""

    def __init__(self, fork_server: _ForkServer):
        self._fork_server = fork_server
        self._socket, self.pid = fork_server.fork()
        self.images: list[int] = []  # images that it has open, the latest last
        self._late = False
        # Kept for the next window, because fresh pages cost a process more than copying their content.
        self.memory = mmap.mmap(-1, 1)

    def ask(self, question: list[Any], size: int, serve: Callable[..., bytes]) -> list[Any]:
        """Returns the answer of the decoder, with pixels in ``memory``; meanwhile serves it the bytes of the file."""
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
        """Kills the decoder and returns its status, as ``os.waitpid`` does."""
        os.kill(self.pid, signal.SIGKILL)  # not yet waited for, so no other process has the number
        self._socket.close()
        return self._fork_server.wait(self.pid)

    def dead(self) -> Unreadable:
        """Returns the error that says why the decoder does not answer."""
        status = self.kill()  # a decoder that had already ended keeps its status
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
        """Forks a decoder and returns the connection to it and its process id.

        Raises:
            Unreadable: ``missing_extra`` if the fork server does not start, with its own message on the terminal;
                ``io_error``, which is retried, if it was killed or this process can open no more files.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._lock:
                self._socket.send_bytes(b"fork")
                send_handle(self._socket, theirs.fileno(), self.process.pid)
                return Connection(ours.detach()), int(self._socket.recv_bytes())
        except (EOFError, OSError) as error:
            ours.close()
            try:
                status = self.process.wait(_DIES_S)
            except subprocess.TimeoutExpired:  # the fork server is alive
                raise Unreadable("io_error", f"no process to decode images can be started: {error}") from error
            if status < 0:
                died = f"the process that decoders come from died of {signal.Signals(-status).name}"
                raise Unreadable("io_error", died) from error
            raise Unreadable(
                "missing_extra", "the process that decodes images does not start; patchbeam doctor says what is missing"
            ) from error

    def wait(self, pid: int) -> int:
        """Waits for a dying decoder and returns its status, as ``os.waitpid`` does."""
        with self._lock:
            self._socket.send_bytes(b"wait %d" % pid)
            return int(self._socket.recv_bytes())


def _tuple(value: Any) -> Any:
    """Turns the lists of JSON into the tuples of a layout."""
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


_lock = threading.Lock()
_fork_server: _ForkServer | None = None
_idle: list[_Decoder] = []


def _take(image: int) -> _Decoder:
    """Takes an idle decoder, if possible one that has the image open, or else starts a new one."""
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
