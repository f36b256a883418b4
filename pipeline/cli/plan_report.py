"""What a build would do, and what a dataset holds, as text for people."""

from __future__ import annotations

import collections
import os
from typing import Any

import apache_beam as beam

from pipeline.build import find_previous, plan_flow
from pipeline.config import Config
from pipeline.inputs.listing import find_images
from pipeline.parallel import cores
from pipeline.planning.geometry import WINDOW_BYTES, pixel_bytes
from pipeline.planning.image_rows import read_images
from pipeline.planning.placement import patch_bytes
from pipeline.planning.plan_shards import largest_to_mean, read_plan, shard_patches
from pipeline.runners.options import parse_options, threads_per_process
from pipeline.runners.run import counters_of, make_runner, run_to_end

# Resident memory of a worker process with TensorFlow, Beam and the codecs loaded and nothing to do, measured.
_IDLE_BYTES = 800 * 10**6


def preview(config: Config, options: Any, work: str) -> str:
    """Runs the half of the flow that reads headers, in the local folder ``work``, and tells what it found.

    What the published version knows of images that are the same is not read again, as in a build. It runs on this
    machine; ``options`` are those of the build.
    """
    config, listing = find_images(config)
    path = os.path.join(work, "inputs.parquet")
    listing.save(path)
    here = parse_options([])  # whatever runs the build: its workers would not see the folder
    p = beam.Pipeline(runner=make_runner(here), options=here)
    previous = find_previous(config)
    plan_flow(p, config, path, listing.images, work, previous)
    opened = counters_of(run_to_end(p, here)).get("images_opened", 0)
    plan = read_plan(work) or {}
    lines = [f"images    {listing.images:,} found"]
    if previous:
        version = previous.folder.rpartition("/")[2]
        lines[0] += f", {listing.images - opened:,} of them as in {version}: their headers were not read"
    for split, facts in plan.items():
        estimate = facts["patches"] * patch_bytes(config)
        lines.append(
            f"{split:<9} {facts['images']:,} images, {facts['windows']:,} windows, {facts['patches']:,} patches, "
            f"{facts['shards']} shards, about {estimate / 1e6:,.1f} MB"
            f", the largest {largest_to_mean(shard_patches(work, split, facts)):.2f} x the mean"
        )
    lines += _rejections(work, listing.images)
    whole = max(facts["whole_pixels"] for facts in plan.values()) * pixel_bytes(config)
    memory = peak_memory(config, threads_per_process(options) or cores(), whole)
    lines.append(f"memory    about {memory / 1e9:.1f} GB at most for each worker process")
    return "\n".join(lines)


def peak_memory(config: Config, threads: int, whole: int) -> int:
    """Estimated peak of a worker process in bytes.

    Args:
        config: the build.
        threads: windows that are worked on at a time; as many and one more wait to be written.
        whole: bytes of the largest image that can only be decoded whole, 0 if there is none.
    """
    patch, span = (height * width * pixel_bytes(config) for height, width in (config.patch.size, config.patch.span))
    window = max(WINDOW_BYTES, span) + max(2 * WINDOW_BYTES, patch)  # the pixels, and the patches cut from them
    decoders = threads * (2 * WINDOW_BYTES + 2 * whole)  # what they decode, and the memory in which it is handed over
    return _IDLE_BYTES + 2 * (threads + 1) * window + (threads + 1) * whole + decoders


def _rejections(work: str, images: int) -> list[str]:
    table = read_images(work, images)
    rows = table.filter(table["reason"].is_valid()).select(["image_id", "reason", "message"]).to_pylist()
    counts = collections.Counter(row["reason"] for row in rows)
    examples = {row["reason"]: f"{row['image_id']}: {row['message']}" for row in reversed(rows)}
    return [f"rejected  {count:,} x {reason}, e.g. {examples[reason]}" for reason, count in counts.most_common()]
