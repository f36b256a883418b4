"""The progress of a build, on a terminal and as lines of text."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from pipeline.cli.text import counted
from pipeline.versions import lifecycle
from pipeline.versions.progress import Progress, Receipts, Show, read_progress


def describe_output(output: str) -> str:
    """Describes what is published in an output folder, and the progress of the build there, as lines of text."""
    published, building = lifecycle.latest(output), lifecycle.unfinished(output)
    said = f"published {published.name if published else 'nothing yet'}\nbuilding  "
    if building is None:
        return f"{said}nothing"
    progress = read_progress(Receipts(building.folder), building.work, 0)
    if progress is None:
        return f"{said}{building.name}: the images are being inspected"
    done = f"{progress.shards_done:,} of {counted(progress.shards, 'shard')}, {counted(progress.patches, 'patch')}"
    return f"{said}{building.name}: {done}, {progress.rejected} rejected"


@contextlib.contextmanager
def bar() -> Iterator[Show]:
    """Shows a progress bar on a terminal; elsewhere prints a line every ten seconds."""
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
