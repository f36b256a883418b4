"""How far a run is, read from the receipts that its workers leave in the storage: works for remote workers too."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pipeline import storage
from pipeline.plan import read_plan

_INTERVAL_S = 1.0


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
    started, seen = time.monotonic(), {}
    while True:
        last = stop.wait(_INTERVAL_S)
        plan = read_plan(work)
        if plan:
            receipts = storage.join(folder, "receipts")
            for name in storage.files_below(receipts):
                if name not in seen and name.endswith(".json") and not name.startswith("."):
                    receipt = json.loads(storage.read_bytes(storage.join(receipts, name)))
                    seen[name] = receipt["records"], len(receipt["rejected"])
            shards = sum(split["shards"] for split in plan.values())
            patches, rejected = (sum(column) for column in zip(*seen.values(), (0, 0)))
            show(Progress(min(len(seen), shards), shards, patches, rejected, time.monotonic() - started))
        if last:
            return


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
