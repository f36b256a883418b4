"""Writes shards: the only step that touches pixels.

The work on one shard is a chain that does not need Beam: regions that the previous version has are copied; the others
go windows -> WindowCutter -> spool; then records in order -> file, index, regions and, last, the receipt. Windows run
in parallel on the threads of the process, so that all cores work on one shard, and memory does not depend on the size
of an image.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import apache_beam as beam

from pipeline import storage
from pipeline.config import Config, Quality
from pipeline.elements import (
    Previous,
    Region,
    ShardPlan,
    ShardResult,
    index_file,
    receipt_file,
    regions_file,
    shard_file,
)
from pipeline.errors import DamagedRecordError
from pipeline.parallel import Counters, Turns, cores, in_order, limit_tensorflow_threads
from pipeline.planning.geometry import cells_of, windows_of
from pipeline.planning.region_rows import read_shard
from pipeline.shards.cut_window import Patches, Turn, WindowCutter
from pipeline.shards.device import device
from pipeline.shards.index import make_index, write_records
from pipeline.shards.open_image import OpenImage
from pipeline.shards.region_table import Part, make_regions
from pipeline.shards.reuse import Copier, reusable, take_over
from transforms import pixel_statistics
from transforms.grid import Cells
from transforms.quality import Duplicates


@dataclasses.dataclass
class WriteShards(beam.PTransform):  # type: ignore[type-arg]
    """Writes the shards that :class:`pipeline.planning.plan_shards.PlanShards` names; yields names of complete ones.

    A complete shard has its index, its regions and its receipt.

    Args:
        config: the build.
        folder: folder of the version.
        threads: threads that cut and encode in one process; None for as many as it has cores.
        previous: the version to copy from; None where everything is cut.
    """

    config: Config
    folder: str
    threads: int | None = None
    previous: Previous | None = None

    def expand(self, planned):  # type: ignore[no-untyped-def]  # Beam would read annotations
        do = _Write(self.config, self.folder, self.threads, self.previous)
        workers = self.config.workers
        hints = {"accelerator": workers.accelerator, "min_ram": workers.min_ram and f"{workers.min_ram}B"}
        write = beam.ParDo(do).with_output_types(str)
        return planned | write.with_resource_hints(**{name: hint for name, hint in hints.items() if hint})


class _Write(beam.DoFn):
    def __init__(self, config: Config, folder: str, threads: int | None, previous: Previous | None):
        self._config, self._folder, self._given, self._previous = config, folder, threads, previous

    def setup(self) -> None:
        self._threads = self._given or cores()
        limit_tensorflow_threads(self._threads)
        device(self._config.workers)  # a missing GPU fails here, before anything is read

    def process(self, planned: tuple[str, str]) -> Iterator[str]:
        plan = read_shard(*planned)
        for name, count in self._written(plan).items():
            beam.metrics.Metrics.counter("patchbeam", name).inc(count)
        yield plan.name

    def _written(self, plan: ShardPlan) -> dict[str, int]:
        """Makes sure that the shard is there; returns counters of the work."""
        if reusable(self._folder, plan, self._config.shard_digest()):
            return {"shards_reused": 1}
        if self._previous and take_over(self._previous, plan, self._config.shard_digest(), self._folder):
            return {"shards_taken_over": 1}
        result, counters = write_shard(plan, self._config, self._folder, self._threads, self._previous)
        return {
            "shards_written": 1,
            "patches_written": result.records,
            "patches_filtered": sum(result.filtered.values()),
            "patches_rejected": sum(rejected.patches for rejected in result.rejected),
            "bytes_written": result.bytes,
            **counters,
            **device(self._config.workers).take_times(),
        }


def write_shard(
    plan: ShardPlan, config: Config, folder: str, threads: int, previous: Previous | None = None
) -> tuple[ShardResult, dict[str, int]]:
    """Writes the shard, its part of the index, the table of its regions and, last, its receipt.

    Args:
        plan: plan of the shard.
        config: the build.
        folder: folder of the version.
        threads: threads that cut and encode.
        previous: the version to copy records from; where one of them turns out to be damaged, all are cut.

    Returns:
        The receipt, and counters: milliseconds over all threads of each kind of work, bytes read, records copied.
    """
    counters = Counters()
    with tempfile.TemporaryFile() as spool, contextlib.ExitStack() as stack:
        try:
            copier = stack.enter_context(contextlib.closing(Copier(previous, config, counters))) if previous else None
            return _write_shard(plan, config, folder, threads, counters, spool, copier), counters.totals()
        except DamagedRecordError:
            return write_shard(plan, config, folder, threads)


def _write_shard(
    plan: ShardPlan,
    config: Config,
    folder: str,
    threads: int,
    counters: Counters,
    spool: BinaryIO,
    copier: Copier | None,
) -> ShardResult:
    with counters.timer("copy"):
        copied = _copy(plan, spool, copier)
    parts = _cut(plan, config, threads, counters, spool, copied)
    rows = sorted(row for part in parts for row in part.rows)
    with counters.timer("write"):
        with storage.atomic_write(storage.join(folder, shard_file(plan.name))) as file:
            size, checksum = write_records(file, spool, rows, copier.files if copier else ())
        index = make_index(plan.split, shard_file(plan.name), rows, config)
        storage.write_bytes(storage.join(folder, index_file(plan.name)), index)
        regions = make_regions(parts, rows, config)
        storage.write_bytes(storage.join(folder, regions_file(plan.name)), regions)
    result = ShardResult(
        plan=plan.digest(config.shard_digest()),
        shard=plan.name,
        records=len(rows),
        bytes=size,
        sha256=checksum,
        index_bytes=len(index),
        index_sha256=hashlib.sha256(index).hexdigest(),
        regions_bytes=len(regions),
        regions_sha256=hashlib.sha256(regions).hexdigest(),
        images=_count_images(parts, config),
        labels=dict(sorted(collections.Counter(row.label for row in rows).items())),
        filtered=dict(sorted(sum((collections.Counter(p.filtered) for p in parts), collections.Counter()).items())),
        rejected=tuple(sorted(rejected for part in parts for rejected in part.rejected)),
        pixel_statistics=pixel_statistics.to_json(
            pixel_statistics.add_up(
                (part.pixel_statistics for part in parts), config.input.channels, config.input.dtype
            )
        ),
    )
    receipt = json.dumps(result.to_json(), sort_keys=True).encode()
    storage.write_bytes(storage.join(folder, receipt_file(plan.name)), receipt)
    return result


def _copy(plan: ShardPlan, spool: BinaryIO, copier: Copier | None) -> dict[Region, Part]:
    """Returns the regions that need not be cut."""
    if not copier:
        return {}
    found = {region: copier.part_of(region, spool) for region in plan.regions}
    return {region: part for region, part in found.items() if part}


def _cut(
    plan: ShardPlan, config: Config, threads: int, counters: Counters, spool: BinaryIO, copied: dict[Region, Part]
) -> list[Part]:
    """Cuts all windows of the other regions, records to the spool as they come; returns all regions, in their order."""

    cutter = WindowCutter(config, counters)

    def work(region: Region, image: OpenImage, cells: Cells, turn: Turn | None) -> tuple[Region, Patches]:
        try:
            return region, cutter.cut(image, cells, turn)
        finally:
            image.window_done()
            if turn:
                turn.done()

    parts = dict(copied)
    windows = _windows([region for region in plan.regions if region not in copied], config, counters)
    for region, results in itertools.groupby(in_order(work, windows, threads), key=lambda result: result[0]):
        part = Part(region, [], collections.Counter(), [], b"")
        pixels = pixel_statistics.empty(config.input.channels, config.input.dtype)
        for _, patches in results:
            for row, payload in zip(patches.rows, patches.payloads):
                part.rows.append(row._replace(spooled=spool.tell()))
                spool.write(payload)
            part.rejected.extend(patches.rejected)
            part.filtered.update(patches.filtered)
            if patches.pixel_statistics:
                pixels = pixel_statistics.merge(pixels, patches.pixel_statistics)
        parts[region] = part._replace(pixel_statistics=pixel_statistics.pack(pixels))
    return [parts[region] for region in plan.regions]


def _windows(
    regions: list[Region], config: Config, counters: Counters
) -> Iterator[tuple[Region, OpenImage, Cells, Turn | None]]:
    for info, of_image in itertools.groupby(regions, key=lambda region: region.image):
        windows = [
            (region, cells, turn)
            for region in of_image
            for cells, turn in zip(windows_of(region, config), _turns(config.quality))
        ]
        image = OpenImage(info, config, len(windows), counters)
        yield from ((region, image, cells, turn) for region, cells, turn in windows)


def _turns(quality: Quality | None) -> Iterator[Turn | None]:
    """Returns the turns of the windows of an image, which is one region where its patches are compared."""
    if not quality or quality.duplicates is None:
        return itertools.repeat(None)
    turns, seen = Turns(), Duplicates(quality.duplicates)
    return (Turn(turns, number, seen) for number in itertools.count())


def _count_images(parts: list[Part], config: Config) -> dict[str, tuple[int, int, int, int]]:
    """Returns image id -> patches planned, written, filtered, rejected in this shard."""
    counts: dict[str, tuple[int, int, int, int]] = {}
    for part in parts:
        image = part.region.image
        planned = cells_of(part.region, config).count * config.records_per_patch(image.split)
        rejected = sum(row.patches for row in part.rejected)
        more = (planned, len(part.rows), sum(part.filtered.values()), rejected)
        before = counts.get(image.image_id, (0, 0, 0, 0))
        counts[image.image_id] = tuple(a + b for a, b in zip(before, more))  # type: ignore[assignment]
    return dict(sorted(counts.items()))
