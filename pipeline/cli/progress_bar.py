"""How far a build is, on a terminal and as lines of text."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from pipeline import storage
from pipeline.versions import lifecycle
from pipeline.versions.progress import Progress, Receipts, Show, read_progress


def describe_output(out: str) -> str:
    """What is published in an output folder, and how far the build is that writes there, as lines of text."""
    name = lifecycle.unfinished(out)
    published = f"published {lifecycle.latest(out) or 'nothing yet'}\nbuilding  "
    if name is None:
        return f"{published}nothing"
    folder = lifecycle.folder_of(out, name)
    progress = read_progress(Receipts(folder), storage.join(folder, lifecycle.WORK), 0)
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
