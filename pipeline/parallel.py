"""Work on the threads of a process, in order and a little ahead, and its counters."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from pipeline.errors import Unreadable

_Result = TypeVar("_Result")


@functools.cache
def cores() -> int:
    """Returns the number of cores that its affinity and the quota of its container allow this process to use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # docs.kernel.org/admin-guide/cgroup-v2.html: "max 100000"
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = map(int, file.read().split())
        allowed = min(allowed, quota // period)
    return max(1, allowed)


@functools.cache
def threads(count: int) -> concurrent.futures.ThreadPoolExecutor:
    """Returns the threads of this process, shared by all shards that it writes at the same time."""
    return concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix="patchbeam")


def in_order(function: Callable[..., _Result], items: Iterable[tuple[Any, ...]], count: int) -> Iterator[_Result]:
    """Yields ``function(*item)`` for each item, in order, computed on ``count`` threads.

    One item more than there are threads is in progress, so that no thread waits for the consumer; the same number
    bounds the results that are finished and not yet taken.
    """
    items = iter(items)
    running: collections.deque[concurrent.futures.Future[_Result]] = collections.deque()
    try:
        while True:
            for item in itertools.islice(items, count + 1 - len(running)):
                running.append(threads(count).submit(function, *item))
            if not running:
                return
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


class Once(Generic[_Result]):
    """A value that is made at the first call, or the error that prevented it, for all threads.

    >>> once = Once(lambda: [3])
    >>> once() is once()
    True
    """

    def __init__(self, make: Callable[[], _Result]):
        self._make: Callable[[], _Result] = make
        self._lock = threading.RLock()
        self._made: list[_Result] = []
        self._error: Unreadable | None = None

    def __call__(self) -> _Result:
        """Returns the value.

        Raises:
            Unreadable: the same error each time.
        """
        with self._lock:
            if not self._made and self._error is None:
                try:
                    self._made.append(self._make())
                except Unreadable as error:
                    self._error = error
            if self._error is not None:
                raise self._error
            return self._made[0]

    @property
    def was_made(self) -> bool:
        """Says whether there is a value."""
        return bool(self._made)

    def forget(self) -> None:
        """Drops the value, to free its memory."""
        self._made.clear()


class Turns:
    """Lets the tasks of a sequence pass one after the other, whichever thread gets there first.

    A task waits only for earlier turns: if tasks start in the order of their turns, as :func:`in_order` starts them,
    every turn comes.
    """

    def __init__(self) -> None:
        self._next, self._changed = 0, threading.Condition()
        self._passed: set[int] = set()

    def wait(self, turn: int) -> None:
        """Returns when all turns before this one have passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._next >= turn)

    def passed(self, turn: int) -> None:
        """Lets the next task pass; may be called before the turn has come, and more than once."""
        with self._changed:
            self._passed.add(turn)
            while self._next in self._passed:
                self._next += 1
            self._changed.notify_all()


class Counters:
    """Times and other counts, by name, over all threads.

    >>> counters = Counters()
    >>> with counters.timer("read"):
    ...     counters.count("bytes_read", 12)
    >>> counters.totals()
    {'bytes_read': 12, 'read_ms': 0}
    """

    def __init__(self) -> None:
        self._spent: collections.Counter[str] = collections.Counter()
        self._counted: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a timer."""
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            spent = time.perf_counter_ns() - start
            with self._lock:
                self._spent[name] += spent

    def count(self, name: str, number: int) -> None:
        """Adds to a counter."""
        with self._lock:
            self._counted[name] += number

    def totals(self) -> dict[str, int]:
        """Returns the counters, and the times as ``{name_ms: milliseconds}``."""
        return dict(self._counted) | {f"{name}_ms": spent // 10**6 for name, spent in self._spent.items()}


def limit_tensorflow_threads(count: int) -> None:
    """Limits TensorFlow to ``count`` threads: one for each window in progress, and no others within an operation."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # TensorFlow is running already, with the limits of the first shard
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(count)
