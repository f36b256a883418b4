"""How far a run is, read from the receipts that its workers leave in the storage: works for remote workers too."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pipeline import storage, versions
from pipeline.planning.plan_shards import read_plan

_INTERVAL_S = 1.0
_READS = 16


class Progress(NamedTuple):
    """What is done; ``shards`` is 0 while the images are being inspected."""

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
        if progress := look(receipts, work, looked - started):
            show(progress)
        if last:
            return
        # A hundred thousand receipts in an object store take a minute to list: not more than a tenth of the time.
        wait = max(_INTERVAL_S, 9 * (time.monotonic() - looked))


class Receipts:
    """The receipts of a version, each read once, several at a time: what takes the time is the way to the storage."""

    def __init__(self, folder: str):
        self._folder = storage.join(folder, "receipts")
        self._seen: dict[str, tuple[int, int]] = {}

    def count(self) -> tuple[int, int, int]:
        """(shards, patches, rejected windows) so far."""
        names = (name for name in storage.files_below(self._folder) if name.endswith(".json") and name[0] != ".")
        new = [name for name in names if name not in self._seen]
        with concurrent.futures.ThreadPoolExecutor(_READS) as pool:
            self._seen.update(zip(new, pool.map(self._read, new)))
        patches, rejected = (sum(column) for column in zip(*self._seen.values(), (0, 0)))
        return len(self._seen), patches, rejected

    def _read(self, name: str) -> tuple[int, int]:
        receipt = json.loads(storage.read_bytes(storage.join(self._folder, name)))
        return receipt["records"], len(receipt["rejected"])


def look(receipts: Receipts, work: str, seconds: float) -> Progress | None:
    """How far the build is that writes to ``work``; None while its images are being inspected."""
    if not (plan := read_plan(work)):
        return None
    shards = sum(split["shards"] for split in plan.values())
    done, patches, rejected = receipts.count()
    return Progress(min(done, shards), shards, patches, rejected, seconds)


def describe_output(out: str) -> str:
    """What is published in an output folder, and how far the build is that writes there, as lines of text."""
    name = versions.unfinished(out)
    published = f"published {versions.latest(out) or 'nothing yet'}\nbuilding  "
    if name is None:
        return f"{published}nothing"
    folder = versions.folder_of(out, name)
    progress = look(Receipts(folder), storage.join(folder, versions.WORK), 0)
    if progress is None:
        return f"{published}{name}: the images are being inspected"
    shards = f"{progress.shards_done:,} of {progress.shards:,} shards"
    return f"{published}{name}: {shards}, {progress.patches:,} patches, {progress.rejected} rejected"


@contextlib.contextmanager
def bar() -> Iterator[Show]:
    """A progress bar on a terminal; elsewhere a line every ten seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_now_and_then()
        return
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("shards, {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task("inspecting", total=None, rate="")

        def show(progress: Progress) -> None:
            bars.update(
                task, description="cutting", completed=progress.shards_done, total=progress.shards, rate=_rate(progress)
            )

        yield show


def _rate(progress: Progress) -> str:
    return f"{progress.patches / max(progress.seconds, 1e-3):,.0f} patches/s, {progress.rejected} rejected"


def _line_now_and_then() -> Show:
    shown, done = 0.0, 0

    def show(progress: Progress) -> None:
        nonlocal shown, done
        just_done = done < progress.shards_done == progress.shards  # on a cluster the run goes on for some seconds
        if progress.seconds - shown >= 10 or just_done:
            shown, done = progress.seconds, progress.shards_done
            print(f"{progress.shards_done}/{progress.shards} shards, {_rate(progress)}", file=sys.stderr, flush=True)

    return show
