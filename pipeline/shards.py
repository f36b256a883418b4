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
from pipeline.cutting import Turn, cut_window
from pipeline.device import device
from pipeline.elements import PASSING, Rejected, ShardPlan, ShardResult, index_file, receipt_file, shard_file
from pipeline.opened import OpenImage
from pipeline.parallel import Clock, Turns, cores, in_order, limit_tensorflow_threads
from pipeline.plan import cells_of, windows_of
from pipeline.records import Row, make_index, write_records
from transforms import moments
from transforms.grid import Cells
from transforms.quality import Duplicates


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
                "patches_filtered": sum(result.filtered.values()),
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
            index = make_index(plan.split, shard_file(plan.name), content.rows, config)
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
        labels=dict(sorted(collections.Counter(row.label for row in content.rows).items())),
        filtered=dict(sorted(sum(content.filtered.values(), collections.Counter()).items())),
        rejected=tuple(sorted(content.rejected)),
        moments=moments.to_json(content.moments),
    )
    receipt = json.dumps(result.to_json(), sort_keys=True).encode()
    storage.write_bytes(storage.join(folder, receipt_file(plan.name)), receipt)
    return result, clock.counters()


class _Content(NamedTuple):
    rows: list[Row]
    rejected: list[Rejected]
    filtered: dict[str, collections.Counter[str]]  # image id -> score -> patches
    moments: moments.Moments


def _cut(plan: ShardPlan, config: Config, threads: int, clock: Clock, spool) -> _Content:
    """Cuts all windows; the records go to the spool as they come, and are put in order by their rows."""
    rows: list[Row] = []
    rejected: list[Rejected] = []
    filtered: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    pixels = moments.empty(config.input.channels, config.input.dtype)

    def work(image: OpenImage, cells: Cells, turn: Turn | None):
        try:
            return image.info.image_id, cut_window(image, cells, config, clock, turn)
        finally:
            image.window_done()
            if turn:
                turn.done()

    for image_id, patches in in_order(work, _windows(plan, config, clock), threads):
        for row, payload in zip(patches.rows, patches.payloads):
            rows.append(row._replace(spooled=spool.tell()))
            spool.write(payload)
        rejected += patches.rejected
        filtered[image_id] += patches.filtered
        if patches.moments:
            pixels = moments.merge(pixels, patches.moments)
    return _Content(sorted(rows), rejected, filtered, pixels)


def _windows(plan: ShardPlan, config: Config, clock: Clock) -> Iterator[tuple[OpenImage, Cells, Turn | None]]:
    for info, regions in itertools.groupby(plan.regions, key=lambda region: region.image):
        windows = [list(zip(windows_of(region, config), _turns(config))) for region in regions]
        image = OpenImage(info, config, sum(len(one) for one in windows), clock)
        yield from ((image, cells, turn) for one in windows for cells, turn in one)


def _turns(config: Config) -> Iterator[Turn | None]:
    """The turns of the windows of a region, whose patches are compared with each other and with no others.

    Which other regions of the image are in this shard depends on the number of shards.
    """
    if not config.quality or config.quality.duplicates is None:
        return itertools.repeat(None)
    turns, seen = Turns(), Duplicates(config.quality.duplicates)
    return (Turn(turns, number, seen) for number in itertools.count())


def _count_images(plan: ShardPlan, config: Config, content: _Content) -> dict[str, tuple[int, int, int, int]]:
    """image id -> patches planned, written, filtered, rejected in this shard."""
    planned: collections.Counter[str] = collections.Counter()
    for region in plan.regions:
        records = cells_of(region, config).count * config.records_per_patch(region.image.split)
        planned[region.image.image_id] += records
    written = collections.Counter(row.image.image_id for row in content.rows)
    lost: collections.Counter[str] = collections.Counter()
    for row in content.rejected:
        lost[row.image_id] += row.patches
    filtered = {image_id: sum(counts.values()) for image_id, counts in content.filtered.items()}
    return {i: (count, written[i], filtered.get(i, 0), lost[i]) for i, count in sorted(planned.items())}
