"""Write shards: the only step that touches pixels.

Without Beam the work on a shard is one chain: windows -> read -> cut -> encode -> records in order -> file. Windows
run in parallel on the threads of the process, a few ahead of the one that is taken next, so that all cores work on
one shard and memory does not depend on the size of an image.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple, TypeVar

import apache_beam as beam
import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import (
    PASSING,
    ImageInfo,
    Rejected,
    ShardPlan,
    ShardResult,
    Unreadable,
    digest,
    index_file,
    receipt_file,
    shard_file,
)  # fmt: skip
from pipeline.plan import grid_of, windows_of
from pipeline.readers import Reader, open_image
from transforms import moments
from transforms.encoding import encode_patch
from transforms.example import PatchRecord, to_example
from transforms.grid import Box, Cells
from transforms.patches import WindowPlan, cut, make_cutter, plan_window

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image_id", pa.string()),
        ("level", pa.int32()),
        ("row", pa.int64()),
        ("col", pa.int64()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("record", pa.int64()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("image_offset", pa.int64()),
        ("image_length", pa.int64()),
    ]
)
_HEADER, _FOOTER = 12, 4  # bytes of a TFRecord before and after its payload
_A, _B = TypeVar("_A"), TypeVar("_B")


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
        return plans | write


class _Write(beam.DoFn):
    def __init__(self, config: Config, folder: str, threads: int | None):
        self._config, self._folder, self._threads = config, folder, threads

    def setup(self):
        self._threads = self._threads or os.cpu_count() or 1
        limit_tensorflow_threads(self._threads)

    def process(self, plan: ShardPlan) -> Iterator[str]:
        if reusable(self._folder, plan, self._config):
            beam.metrics.Metrics.counter("patchbeam", "shards_reused").inc()
        else:
            result, spent = write_shard(plan, self._config, self._folder, self._threads)
            counts = {"shards_written": 1, "patches_written": result.records, "bytes_written": result.bytes}
            for name, count in (counts | spent).items():
                beam.metrics.Metrics.counter("patchbeam", name).inc(count)
        yield plan.name


def reusable(folder: str, plan: ShardPlan, config: Config) -> bool:
    """Whether this very shard was finished before: its receipt carries the digest of the plan, and its files are whole."""
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
    """Writes the shard, its part of the index and, last, its receipt; returns the receipt and milliseconds spent."""
    clock = _Clock()
    cutting = _Cutting(config, clock)
    windows = ((image, cells) for image in _images(plan, config) for cells in image.windows)
    rows: list[_Row] = []
    rejected: list[Rejected] = []
    pixels = moments.empty(config.input.channels, config.input.dtype)
    with tempfile.TemporaryFile() as spool:
        for done in _in_order(cutting.cut_window, windows, _threads(threads), ahead=threads + 1):
            for row, payload in zip(done.rows, done.payloads):
                rows.append(row._replace(spooled=spool.tell()))
                spool.write(payload)
            rejected += done.rejected
            if done.moments:
                pixels = moments.merge(pixels, done.moments)
        rows.sort()
        with clock("write"):
            size, checksum = _write_records(storage.join(folder, shard_file(plan.name)), spool, rows)
            index = _index(plan, config, rows)
            storage.write_bytes(storage.join(folder, index_file(plan.name)), index)
    result = ShardResult(
        plan=plan.digest(config.content_digest()),
        shard=plan.name,
        records=len(rows),
        bytes=size,
        sha256=checksum,
        index_bytes=len(index),
        index_sha256=hashlib.sha256(index).hexdigest(),
        images=_count_images(plan, config, rows, rejected),
        labels=dict(sorted(collections.Counter(row.image.label for row in rows).items())),
        rejected=tuple(sorted(rejected)),
        moments=moments.to_json(pixels),
    )
    storage.write_bytes(
        storage.join(folder, receipt_file(plan.name)), json.dumps(result.to_json(), sort_keys=True).encode()
    )
    return result, clock.milliseconds()


class _Row(NamedTuple):
    """A patch of the shard, in the order that it has there."""

    order: int
    image: ImageInfo
    row: int
    col: int
    length: int
    image_offset: int
    image_length: int
    spooled: int = 0


class _Done(NamedTuple):
    """What became of a window."""

    rows: list[_Row]
    payloads: list[bytes]
    moments: moments.Moments | None
    rejected: list[Rejected]


class _Image:
    """An image of the shard, opened by the first of its windows and closed by the last."""

    def __init__(self, info: ImageInfo, windows: list[Cells], config: Config):
        self.info, self.windows = info, windows
        self._config, self._left = config.input, len(windows)
        self._lock = threading.Lock()
        self._reader: Reader | None = None
        self._error: Unreadable | None = None

    def read(self, box: Box) -> np.ndarray:
        with self._lock:
            if not self._reader and not self._error:
                try:
                    self._reader = self._open()
                except Unreadable as error:
                    self._error = error
        if self._error:
            raise self._error
        return self._reader.read(box)

    def _open(self) -> Reader:
        reader = open_image(self.info.uri, self._config.level)
        planned = (self.info.height, self.info.width, self._config.channels, self._config.dtype)
        if reader.layout[:4] != planned:
            reader.close()
            raise Unreadable("changed", f"is {reader.layout[:4]} now, was {planned} when the build was planned")
        return reader

    def window_done(self) -> None:
        with self._lock:
            self._left -= 1
            if not self._left and self._reader:
                self._reader.close()


def _images(plan: ShardPlan, config: Config) -> Iterator[_Image]:
    for info, regions in itertools.groupby(plan.regions, key=lambda region: region.image):
        yield _Image(info, [cells for region in regions for cells in windows_of(region, config)], config)


class _Cutting:
    """Windows of images -> encoded patches."""

    def __init__(self, config: Config, clock: _Clock):
        self._config, self._clock = config, clock
        patch = config.patch
        self._cutter = _cutter(patch.size, config.input.channels, config.input.dtype, patch.pad_value)

    def cut_window(self, image: _Image, cells: Cells) -> _Done:
        try:
            return self._cut(image, cells)
        finally:
            image.window_done()

    def _cut(self, image: _Image, cells: Cells) -> _Done:
        plan = plan_window(grid_of(image.info, self._config), cells, self._config.patch.pad_mode)
        try:
            with self._clock("read"):
                window = image.read(plan.source)
        except Unreadable as error:
            return self._rejected(image, cells, plan, error)
        with self._clock("cut"):
            patches = cut(self._cutter, window, plan)
        with self._clock("encode"):
            rows, payloads = zip(
                *(self._encode(image.info, start, patch) for start, patch in zip(plan.starts.tolist(), patches))
            )
        with self._clock("measure"):
            measured = moments.measure(patches)
        return _Done(rows, payloads, measured, [])

    def _rejected(self, image: _Image, cells: Cells, plan: WindowPlan, error: Unreadable) -> _Done:
        """Narrows a window with a bad block down to the patches that need the block."""
        if error.reason == "corrupt_data" and not image.info.is_whole and cells.count > 1:
            first, second = (self._cut(image, half) for half in cells.halves())
            if first.rows or second.rows:
                both = [m for m in (first.moments, second.moments) if m]
                return _Done(
                    [*first.rows, *second.rows],
                    [*first.payloads, *second.payloads],
                    functools.reduce(moments.merge, both),
                    first.rejected + second.rejected,
                )
        message = error.message.replace(image.info.uri, image.info.image_id)
        level = self._config.input.level
        row = Rejected("read", error.reason, message, image.info.image_id, level, *plan.source, patches=cells.count)
        return _Done([], [], None, [row])

    def _encode(self, info: ImageInfo, start: list[int], patch: np.ndarray) -> tuple[_Row, bytes]:
        config, level = self._config, self._config.input.level
        data = encode_patch(patch, config.output.encoding, config.output.quality)
        record = PatchRecord(data, patch.shape, patch.dtype.name, info.image_id, level, *start, info.label, info.group)
        payload = to_example(record)
        shuffled = config.output.order == "shuffled"
        order = digest(config.seed, "order", info.image_id, level, *start) if shuffled else 0
        return _Row(order, info, *start, len(payload), payload.index(data), len(data)), payload


def _write_records(path: str, spool: BinaryIO, rows: list[_Row]) -> tuple[int, str]:
    """Writes the TFRecord file; returns its size and sha256."""
    size, checksum = 0, hashlib.sha256()
    with storage.atomic_write(path) as file:
        for row in rows:
            spool.seek(row.spooled)
            payload = spool.read(row.length)
            header = struct.pack("<Q", row.length)
            framed = b"".join((header, masked_crc(header), payload, masked_crc(payload)))
            file.write(framed)
            checksum.update(framed)
            size += len(framed)
    return size, checksum.hexdigest()


def masked_crc(data: bytes) -> bytes:
    """The checksum of the TFRecord format: CRC-32C, rotated and shifted (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _index(plan: ShardPlan, config: Config, rows: list[_Row]) -> bytes:
    """The shard's part of the index, as Parquet."""
    level, name = config.input.level, shard_file(plan.name)
    ends = list(itertools.accumulate(_HEADER + row.length + _FOOTER for row in rows))
    offsets = [end - _FOOTER - row.length for row, end in zip(rows, ends)]
    columns = zip(
        *(
            (f"{i.image_id}#{level}/{r.row}/{r.col}", i.image_id, level, r.row, r.col, i.label, i.group, plan.split, name,
             number, offset, r.length, offset + r.image_offset, r.image_length)
            for number, (r, i, offset) in enumerate((row, row.image, offset) for row, offset in zip(rows, offsets))
        )
    )  # fmt: skip
    arrays = [pa.array(c, t) for c, t in zip(columns, INDEX_SCHEMA.types)] if rows else [[]] * len(INDEX_SCHEMA)
    out = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=INDEX_SCHEMA), out)
    return out.getvalue()


def _count_images(
    plan: ShardPlan, config: Config, rows: list[_Row], rejected: list[Rejected]
) -> dict[str, tuple[int, int, int]]:
    """image id -> patches planned, written, rejected in this shard."""
    planned: collections.Counter[str] = collections.Counter()
    for region in plan.regions:
        planned[region.image.image_id] += grid_of(region.image, config).cells(region.area).count
    written = collections.Counter(row.image.image_id for row in rows)
    lost: collections.Counter[str] = collections.Counter()
    for row in rejected:
        lost[row.image_id] += row.patches
    return {image_id: (count, written[image_id], lost[image_id]) for image_id, count in sorted(planned.items())}


def _in_order(
    function: Callable[..., _B], items: Iterable[tuple[Any, ...]], pool: concurrent.futures.Executor, ahead: int
) -> Iterator[_B]:
    """``function(*item)`` for each item, in their order, computed on the pool up to ``ahead`` items in advance."""
    items, running = iter(items), collections.deque()
    try:
        while True:
            running.extend(pool.submit(function, *item) for item in itertools.islice(items, ahead - len(running)))
            if not running:
                return
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


class _Clock:
    """Milliseconds spent by name, over all threads."""

    def __init__(self) -> None:
        self._spent: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def __call__(self, name: str):
        return _Lap(self, name)

    def add(self, name: str, seconds: float) -> None:
        with self._lock:
            self._spent[name] += seconds

    def milliseconds(self) -> dict[str, int]:
        return {f"{name}_ms": round(seconds * 1000) for name, seconds in self._spent.items()}


class _Lap:
    def __init__(self, clock: _Clock, name: str):
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clock.add(self._name, time.perf_counter() - self._start)


@functools.cache
def _threads(count: int) -> concurrent.futures.ThreadPoolExecutor:
    """The threads of this process, shared by the shards that are written at the same time."""
    return concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix="patchbeam")


@functools.cache
def _cutter(*arguments):
    """One traced function per process, not per shard."""
    return make_cutter(*arguments)


def limit_tensorflow_threads(count: int) -> None:
    """Keeps TensorFlow from starting one thread per core in each of several processes on one machine."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    except RuntimeError:  # TensorFlow is running already, with the limits of the first shard
        pass
