"""Write shards: the only step that touches pixels.

The work on one shard is a chain that does not need Beam: windows -> cut_window -> spool -> records in order -> file,
index and, last, the receipt. Windows run in parallel on the threads of the process, so that all cores work on one
shard, and memory does not depend on the size of an image.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import apache_beam as beam

from pipeline import storage
from pipeline.config import Config
from pipeline.cutting import OpenImage, cut_window
from pipeline.device import device
from pipeline.elements import PASSING, Rejected, ShardPlan, ShardResult, index_file, receipt_file, shard_file
from pipeline.parallel import Clock, cores, in_order, limit_tensorflow_threads
from pipeline.plan import grid_of, windows_of
from pipeline.records import Row, make_index, write_records
from transforms import moments
from transforms.grid import Cells


@dataclasses.dataclass
class WriteShards(beam.PTransform):
    """ShardPlan -> the names of the shards that are complete, each with its index and receipt.

    Args:
        config: the build.
        folder: of the version.
        threads: that cut and encode in one process; None for its cores.
    """

    config: Config
    folder: str
    threads: int | None = None

    def expand(self, plans):
        write = beam.ParDo(_Write(self.config, self.folder, self.threads)).with_output_types(str)
        workers = self.config.workers
        hints = {"accelerator": workers.accelerator, "min_ram": workers.min_ram and f"{workers.min_ram}B"}
        return plans | write.with_resource_hints(**{name: hint for name, hint in hints.items() if hint})


class _Write(beam.DoFn):
    def __init__(self, config: Config, folder: str, threads: int | None):
        self._config, self._folder, self._given = config, folder, threads

    def setup(self):
        self._threads = self._given or cores()
        limit_tensorflow_threads(self._threads)
        device(self._config.workers)  # a missing GPU fails here, before anything is read

    def process(self, plan: ShardPlan) -> Iterator[str]:
        if reusable(self._folder, plan, self._config):
            counts = {"shards_reused": 1}
        else:
            result, counters = write_shard(plan, self._config, self._folder, self._threads)
            counts = {
                "shards_written": 1,
                "patches_written": result.records,
                "patches_filtered": 0,
                "patches_rejected": sum(rejected.patches for rejected in result.rejected),
                "bytes_written": result.bytes,
                **counters,
                **device(self._config.workers).take_times(),
            }
        for name, count in counts.items():
            beam.metrics.Metrics.counter("patchbeam", name).inc(count)
        yield plan.name


def reusable(folder: str, plan: ShardPlan, config: Config) -> bool:
    """Whether this shard was finished before: a receipt carries the digest of its plan, and its files are whole."""
    path = storage.join(folder, receipt_file(plan.name))
    if storage.size(path) is None:
        return False
    try:
        receipt = ShardResult.from_json(json.loads(storage.read_bytes(path)))
    except (ValueError, KeyError, TypeError):
        return False
    return (
        receipt.plan == plan.digest(config.content_digest())
        and not any(rejected.reason in PASSING for rejected in receipt.rejected)
        and storage.size(storage.join(folder, shard_file(plan.name))) == receipt.bytes
        and storage.size(storage.join(folder, index_file(plan.name))) == receipt.index_bytes
    )


def write_shard(plan: ShardPlan, config: Config, folder: str, threads: int) -> tuple[ShardResult, dict[str, int]]:
    """Writes the shard, its part of the index and, last, its receipt.

    Returns:
        The receipt, and counters: milliseconds over all threads of each kind of work, bytes read.
    """
    clock = Clock()
    with tempfile.TemporaryFile() as spool:
        content = _cut(plan, config, threads, clock, spool)
        with clock("write"):
            with storage.atomic_write(storage.join(folder, shard_file(plan.name))) as file:
                size, checksum = write_records(file, spool, content.rows)
            columns = config.input.columns
            index = make_index(plan.split, shard_file(plan.name), config.input.level, content.rows, columns)
            storage.write_bytes(storage.join(folder, index_file(plan.name)), index)
    result = ShardResult(
        plan=plan.digest(config.content_digest()),
        shard=plan.name,
        records=len(content.rows),
        bytes=size,
        sha256=checksum,
        index_bytes=len(index),
        index_sha256=hashlib.sha256(index).hexdigest(),
        images=_count_images(plan, config, content),
        labels=dict(sorted(collections.Counter(row.image.label for row in content.rows).items())),
        rejected=tuple(sorted(content.rejected)),
        moments=moments.to_json(content.moments),
    )
    receipt = json.dumps(result.to_json(), sort_keys=True).encode()
    storage.write_bytes(storage.join(folder, receipt_file(plan.name)), receipt)
    return result, clock.counters()


class _Content(NamedTuple):
    rows: list[Row]
    rejected: list[Rejected]
    moments: moments.Moments


def _cut(plan: ShardPlan, config: Config, threads: int, clock: Clock, spool) -> _Content:
    """Cuts all windows; the records go to the spool as they come, and are put in order by their rows."""
    rows: list[Row] = []
    rejected: list[Rejected] = []
    pixels = moments.empty(config.input.channels, config.input.dtype)

    def work(image: OpenImage, cells: Cells):
        try:
            return cut_window(image, cells, config, clock)
        finally:
            image.window_done()

    for patches in in_order(work, _windows(plan, config, clock), threads):
        for row, payload in zip(patches.rows, patches.payloads):
            rows.append(row._replace(spooled=spool.tell()))
            spool.write(payload)
        rejected += patches.rejected
        if patches.moments:
            pixels = moments.merge(pixels, patches.moments)
    return _Content(sorted(rows), rejected, pixels)


def _windows(plan: ShardPlan, config: Config, clock: Clock) -> Iterator[tuple[OpenImage, Cells]]:
    for info, regions in itertools.groupby(plan.regions, key=lambda region: region.image):
        windows = [cells for region in regions for cells in windows_of(region, config)]
        image = OpenImage(info, config, len(windows), clock)
        yield from ((image, cells) for cells in windows)


def _count_images(plan: ShardPlan, config: Config, content: _Content) -> dict[str, tuple[int, int, int]]:
    """image id -> patches planned, written, rejected in this shard."""
    planned: collections.Counter[str] = collections.Counter()
    for region in plan.regions:
        planned[region.image.image_id] += grid_of(region.image, config).cells(region.area).count
    written = collections.Counter(row.image.image_id for row in content.rows)
    lost: collections.Counter[str] = collections.Counter()
    for row in content.rejected:
        lost[row.image_id] += row.patches
    return {image_id: (count, written[image_id], lost[image_id]) for image_id, count in sorted(planned.items())}
