"""Copies what has not changed since the previous version: whole shards, and records of single regions.

Records are copied through the index, without decoding their pixels. Where only the names of an image changed, its
label for example, they are written again around the same encoded patch.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import (
    Previous,
    Region,
    ShardPlan,
    ShardResult,
    files_of,
    index_file,
    meta_of,
    receipt_file,
    regions_file,
    shard_file,
)
from pipeline.errors import TRANSIENT
from pipeline.parallel import Counters
from pipeline.planning.placement import shard_of
from pipeline.shards.index import Row, attribute_schema, order_of, places_of, read_payload
from pipeline.shards.region_table import Part, filtered_and_rejected, pixels_digests
from transforms.example import from_example, to_example


def read_receipt(folder: str, shard: str) -> ShardResult | None:
    """Reads the receipt of a shard; None if there is none, or it cannot be understood."""
    data = storage.read_if_there(storage.join(folder, receipt_file(shard)))
    if data is None:
        return None
    try:
        return ShardResult.from_json(json.loads(data))
    except (ValueError, KeyError, TypeError):
        return None


def reusable(folder: str, plan: ShardPlan, shard_digest: str, retry_rejected: bool = False) -> bool:
    """Says whether a version holds this shard: a receipt carries the digest of its plan, and its files are whole.

    Args:
        folder: folder of the version.
        plan: plan of the shard.
        shard_digest: digest of the configuration.
        retry_rejected: False is returned for any rejection; otherwise only for one with a transient reason.
    """
    receipt = read_receipt(folder, plan.name)
    if not receipt or receipt.plan != plan.digest(shard_digest):
        return False
    if any(retry_rejected or rejected.reason in TRANSIENT for rejected in receipt.rejected):
        return False
    sizes = (receipt.bytes, receipt.index_bytes, receipt.regions_bytes)
    return all(storage.size(storage.join(folder, file)) == size for file, size in zip(files_of(plan.name), sizes))


def take_over(previous: Previous, plan: ShardPlan, shard_digest: str, folder: str) -> bool:
    """Copies a shard that is the same in the previous version whole into ``folder``; returns False if it differs."""
    if not reusable(previous.folder, plan, shard_digest, previous.retry_rejected):
        return False
    for file in files_of(plan.name):
        storage.copy(storage.join(previous.folder, file), storage.join(folder, file))
    return True


class Copier:
    """Finds the regions of a shard in the shards of the previous version.

    Attributes:
        files: the earlier shards, numbered from 1 in ``Row.source``; :meth:`close` closes them.
    """

    def __init__(self, previous: Previous, config: Config, counters: Counters):
        self._previous, self._config, self._counters = previous, config, counters
        self._pixels_digest = pixels_digests(config)
        self._shards: dict[str, _Shard | None] = {}
        self.files: list[BinaryIO] = []

    def part_of(self, region: Region, spool: BinaryIO) -> Part | None:
        """Returns the region from the previous version; None if it has to be cut.

        Records that were written again are in the spool, the others stay where they are.

        Raises:
            DamagedRecordError: if a record is not what was written there.
        """
        image, config = region.image, self._config
        if not image.previous_split or image.previous_split not in self._previous.shards:
            return None
        shards = self._previous.shards[image.previous_split]
        shard = self._shard(ShardPlan(image.previous_split, shard_of(region, shards, config.seed), shards, ()).name)
        entry = shard and shard.regions.get(self._pixels_digest(region))
        if not shard or not entry:
            return None
        renamed = entry["names"] != image.names_digest
        filtered, rejected = filtered_and_rejected(entry)
        if any(self._previous.retry_rejected or one.reason in TRANSIENT for one in rejected):
            return None
        if renamed and config.labels_patches:
            return None  # it is not recorded whether a label belongs to the patch or the image
        rows = [shard.row(number, region, config) for number in entry["records"]]
        if renamed:
            rows = [self._renamed(row, spool) for row in rows]
        self._counters.count("records_rewritten" if renamed else "records_copied", len(rows))
        return Part(region, rows, filtered, rejected, entry["pixel_statistics"])

    def _shard(self, name: str) -> _Shard | None:
        if name not in self._shards:
            self._shards[name] = _open(self._previous.folder, name, len(self.files) + 1, self._config)
            if shard := self._shards[name]:
                self.files.append(shard.file)
        return self._shards[name]

    def _renamed(self, row: Row, spool: BinaryIO) -> Row:
        """Writes the record to the spool with the present names of its image; the encoded patch stays as it is."""
        payload = read_payload(self.files[row.source - 1], row)
        image = row.image
        record = from_example(payload)._replace(
            label=image.label, group=image.group, meta=tuple(meta_of(image).items())
        )
        payload, place = to_example(record), spool.tell()
        spool.write(payload)
        (start, length), companions = places_of(record, payload)
        row = row._replace(source=0, spooled=place, label=image.label, companions=companions)
        return row._replace(length=len(payload), image_offset=start, image_length=length)

    def close(self) -> None:
        """Closes the earlier shards."""
        for file in self.files:
            file.close()


class _Shard(NamedTuple):
    """An earlier shard: its file and its number in ``Copier.files``, its regions by their digests, its index.

    The last two fields are the columns of ``Row.attributes`` and ``Row.companions``.
    """

    file: BinaryIO
    number: int
    regions: dict[bytes, dict[str, Any]]
    columns: dict[str, list[Any]]
    attributes: list[list[Any]]
    companions: list[tuple[list[Any], list[Any]]]

    def row(self, record: int, region: Region, config: Config) -> Row:
        """Returns a record of this shard as a row of a new shard."""
        columns, image = self.columns, region.image
        offset, row, col = columns["offset"][record], columns["row"][record], columns["col"][record]
        copy = columns["copy"][record] if "copy" in columns else 0
        return Row(
            order=order_of(config, image.image_id, row, col, copy),
            image=image,
            row=row,
            col=col,
            copy=copy,
            label=columns["label"][record] if config.labels_patches else image.label,
            length=columns["length"][record],
            image_offset=columns["image_offset"][record] - offset,
            image_length=columns["image_length"][record],
            spooled=offset,
            attributes=tuple(column[record] for column in self.attributes),
            companions=tuple((starts[record] - offset, lengths[record]) for starts, lengths in self.companions),
            source=self.number,
        )


def _open(folder: str, name: str, number: int, config: Config) -> _Shard | None:
    """Opens a shard of the previous version; None if its files are not what was written."""
    receipt = read_receipt(folder, name)
    if not receipt:
        return None
    tables = []
    for file, checksum in (
        (regions_file(name), receipt.regions_sha256),
        (index_file(name), receipt.index_sha256),
    ):
        data = storage.read_if_there(storage.join(folder, file)) or b""
        if hashlib.sha256(data).hexdigest() != checksum:
            return None
        tables.append(pq.read_table(pa.BufferReader(data)))
    path = storage.join(folder, shard_file(name))
    if storage.size(path) != receipt.bytes:
        return None
    regions = {row["pixels"]: row for row in tables[0].to_pylist()}
    columns = tables[1].to_pydict()
    attributes = [columns[name] for name in attribute_schema(config).names]
    companions = [(columns[f"{name}_offset"], columns[f"{name}_length"]) for name in config.companions]
    return _Shard(storage.open_read(path), number, regions, columns, attributes, companions)
