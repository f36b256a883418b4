"""The plan of a build, as lines of text."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from pipeline.build import Plan
from pipeline.cli.text import counted
from pipeline.config import Config
from pipeline.planning.geometry import WINDOW_BYTES, pixel_bytes
from pipeline.planning.placement import patch_bytes

# Measured resident memory of an idle worker process with TensorFlow, Beam and the codecs loaded.
_IDLE_BYTES = 800 * 10**6


def describe_plan(plan: Plan, config: Config, threads: int) -> str:
    """Describes the plan as text, with estimates of its size and of the memory that it takes.

    Args:
        plan: from :func:`pipeline.build.plan`.
        config: the build.
        threads: windows that a worker process cuts at a time.
    """
    return "\n".join(_lines(plan, config, threads))


def _lines(plan: Plan, config: Config, threads: int) -> Iterator[str]:
    known = f", {plan.images - plan.opened:,} of them as in {plan.previous}: their headers were not read"
    yield f"images    {plan.images:,} found{known if plan.previous else ''}"
    for name, split in plan.splits.items():
        totals = split.totals
        work = f"{counted(totals.windows, 'window')}, {counted(totals.patches, 'patch')}"
        size = f"about {totals.patches * patch_bytes(config) / 1e6:,.1f} MB"
        even = f"the largest {split.largest_to_mean:.2f} x the mean"
        yield f"{name:<9} {counted(totals.images, 'image')}, {work}, {counted(split.shards, 'shard')}, {size}, {even}"
    counts = collections.Counter(row["reason"] for row in plan.rejected)
    examples = {row["reason"]: f"{row['image_id']}: {row['message']}" for row in reversed(plan.rejected)}
    for reason, count in counts.most_common():
        yield f"rejected  {count:,} x {reason}, e.g. {examples[reason]}"
    whole = max(split.totals.whole_pixels for split in plan.splits.values()) * pixel_bytes(config.input)
    memory = peak_memory(config, threads, whole)
    yield f"memory    about {memory / 1e9:.1f} GB at most for each worker process"


def peak_memory(config: Config, threads: int, whole: int) -> int:
    """Estimates the peak memory of a worker process in bytes.

    Args:
        config: the build.
        threads: windows that are worked on at a time; as many and one more wait to be written.
        whole: bytes of the largest image that can only be decoded whole, 0 if there is none.
    """
    patch, span = (
        height * width * pixel_bytes(config.input) for height, width in (config.patch.size, config.patch.span)
    )
    window = max(WINDOW_BYTES, span) + max(2 * WINDOW_BYTES, patch)  # the pixels, and the patches cut from them
    decoders = threads * (2 * WINDOW_BYTES + 2 * whole)  # decoded pixels, and memory to hand them over
    return _IDLE_BYTES + 2 * (threads + 1) * window + (threads + 1) * whole + decoders
