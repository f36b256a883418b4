"""The progress of a run, read from the receipts that its workers leave in the storage: works for remote workers too."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pipeline import storage
from pipeline.planning.plan_shards import read_plan

_INTERVAL_S = 1.0


class Progress(NamedTuple):
    """The work done so far; ``shards`` is 0 while the images are being inspected."""

    shards_done: int
    shards: int
    patches: int
    rejected: int
    seconds: float


Show = Callable[[Progress], None]


@contextlib.contextmanager
def watch(folder: str, work: str, show: Show | None) -> Iterator[None]:
    """Calls ``show`` once a second, and once at the end, while the block runs a pipeline that writes to ``folder``."""
    if show is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(folder, work, show, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(folder: str, work: str, show: Show, stop: threading.Event) -> None:
    started, wait = time.monotonic(), _INTERVAL_S
    receipts = Receipts(folder)
    while True:
        last = stop.wait(wait)
        looked = time.monotonic()
        if progress := read_progress(receipts, work, looked - started):
            show(progress)
        if last:
            return
        # A hundred thousand receipts in an object store take a minute to list: listing may take a tenth of the time.
        wait = max(_INTERVAL_S, 9 * (time.monotonic() - looked))


class Receipts:
    """The receipts of a version, each read once, several at a time, since most of the time is storage latency."""

    def __init__(self, folder: str):
        self._folder = storage.join(folder, "receipts")
        self._seen: dict[str, tuple[int, int]] = {}

    def count(self) -> tuple[int, int, int]:
        """Returns (shards, patches, rejected windows) so far."""
        names = (name for name in storage.files_below(self._folder) if name.endswith(".json") and name[0] != ".")
        new = [name for name in names if name not in self._seen]
        self._seen.update(zip(new, storage.read_many(new, self._read)))
        patches, rejected = (sum(column) for column in zip(*self._seen.values(), (0, 0)))
        return len(self._seen), patches, rejected

    def _read(self, name: str) -> tuple[int, int]:
        receipt = json.loads(storage.read_bytes(storage.join(self._folder, name)))
        return receipt["records"], len(receipt["rejected"])


def read_progress(receipts: Receipts, work: str, seconds: float) -> Progress | None:
    """Returns the progress of the build that writes to ``work``; None while its images are being inspected."""
    if not (plan := read_plan(work)):
        return None
    shards = sum(split["shards"] for split in plan.values())
    done, patches, rejected = receipts.count()
    return Progress(min(done, shards), shards, patches, rejected, seconds)
