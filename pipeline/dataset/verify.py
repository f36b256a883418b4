"""Checks a published dataset to the last byte: every checksum, every record, every offset of the index."""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import Config
from pipeline.dataset.reading import Dataset
from pipeline.elements import SHARDS, index_file, receipt_file, regions_file, shard_file
from pipeline.storage.tfrecord import read_record
from pipeline.versions.lifecycle import WORK
from pipeline.versions.manifest import MANIFEST, Accounts
from transforms.encoding import decode_patch
from transforms.example import META, from_example


def verify(dataset: Dataset, threads: int) -> list[str]:
    """Reads everything again and returns a line for each problem: file, record, and what is wrong.

    Args:
        dataset: a complete version.
        threads: shards that are checked at the same time.
    """
    manifest, problems = dataset.manifest, []
    try:
        table = dataset.shard_table()
    except (OSError, pa.ArrowException) as error:
        return [f"{SHARDS}: cannot be read: {error}"]
    shards = table.to_pylist()
    files = {name: facts.sha256 for name, facts in manifest.files.items()}
    files |= {index_file(shard["shard"]): shard["index_sha256"] for shard in shards}
    files |= {regions_file(shard["shard"]): shard["regions_sha256"] for shard in shards}
    files |= {receipt_file(shard["shard"]): shard["receipt_sha256"] for shard in shards}
    records = {shard_file(shard["shard"]) for shard in shards}
    # A build keeps its folder ``work`` until the version is published, which is after a gate has verified it.
    below = (name for name in storage.files_below(dataset.folder) if not name.startswith(f"{WORK}/"))
    present = set(below) - {MANIFEST}
    problems += [f"{name}: is missing" for name in sorted((files.keys() | records) - present)]
    problems += [f"{name}: is not in the manifest" for name in sorted(present - files.keys() - records)]
    readable = [s for s in shards if {shard_file(s["shard"]), index_file(s["shard"])} <= present]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        checksum = lambda name: hashlib.sha256(storage.read_bytes(storage.join(dataset.folder, name))).hexdigest()
        names = sorted(files.keys() & present)
        for name, found in zip(names, pool.map(checksum, names)):
            if found != files[name]:
                problems.append(f"{name}: sha256 is {found}, the manifest says {files[name]}")
        for found_in_shard in pool.map(lambda shard: list(_verify_shard(dataset, shard)), readable):
            problems += found_in_shard
    return problems + list(_verify_sums(manifest.accounts, table))


def _verify_sums(accounts: Accounts, shards: pa.Table) -> Iterator[str]:
    if accounts.planned != accounts.written + accounts.filtered + accounts.rejected:
        yield f"{MANIFEST}: planned is not written + filtered + rejected: {accounts}"
    if accounts.written != sum(shards["records"].to_pylist()):
        yield f"{MANIFEST}: written is {accounts.written}, the shards hold another number of records"


def _verify_shard(dataset: Dataset, shard: dict[str, Any]) -> Iterator[str]:
    name = shard_file(shard["shard"])
    path = storage.join(dataset.folder, name)
    try:
        with storage.open_read(storage.join(dataset.folder, index_file(shard["shard"]))) as file:
            index = pq.read_table(file).to_pylist()
    except Exception as error:  # pyarrow raises exceptions of its own on broken files
        yield f"{index_file(shard['shard'])}: cannot be read: {error}"
        return
    number, offset = 0, 0
    with storage.open_read(path) as file:
        try:
            while record := read_record(file):
                payload, size = record
                if number >= len(index):
                    raise ValueError("is not in the index")
                _check_record(payload, index[number], offset, dataset.config)
                number, offset = number + 1, offset + size
        except ValueError as error:
            yield f"{name}: record {number} at byte {offset}: {error}"
            return  # the place of what follows a broken record is not known
    if number != shard["records"] or number != len(index):
        yield f"{name}: holds {number} records, the manifest says {shard['records']}, the index {len(index)}"
    with storage.open_read(path) as file:
        checksum = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    if checksum != shard["sha256"]:
        yield f"{name}: sha256 is {checksum}, the manifest says {shard['sha256']}"


def _check_record(payload: bytes, row: dict[str, Any], offset: int, config: Config) -> None:
    """Raises ValueError unless the record decodes, has the shape of the dataset, and is what the index says."""
    record = from_example(payload)
    shape, dtype = (*config.patch.size, config.input.channels), config.input.dtype
    if (record.shape, record.dtype) != (shape, dtype):
        raise ValueError(f"is {record.shape} {record.dtype}, the dataset {shape} {dtype}")
    decode_patch(record.image, config.output.encoding, shape, dtype)
    said = {name: row[name] for name in ("key", "image_id", "level", "row", "col", "label", "group")}
    found = {name: getattr(record, name) for name in said}
    for name in ("copy", "augmentation"):
        if name in row:
            said[name], found[name] = row[name], getattr(record, name)
    for name in config.input.columns or ():
        said[META + name], found[META + name] = _stored(row[META + name]), _stored(dict(record.meta).get(name))
    if said != found:
        raise ValueError(f"is {found}, the index says {said}")
    start = row["image_offset"] - row["offset"]
    if (row["offset"], row["length"]) != (offset + 12, len(payload)):
        raise ValueError(f"the index says offset {row['offset']} and length {row['length']}")
    if payload[start : start + row["image_length"]] != record.image:
        raise ValueError(f"the index says image offset {row['image_offset']} and length {row['image_length']}")
    _check_companions(payload, dict(record.companions), row, config)


def _check_companions(payload: bytes, found: dict[str, bytes], row: dict[str, Any], config: Config) -> None:
    """Raises ValueError unless the patches of companion rasters and scales decode and are what the index says."""
    forms = config.forms
    if found.keys() != forms.keys() - {"image"}:
        raise ValueError(f"has beside its image {sorted(found)}, the dataset {sorted(forms.keys() - {'image'})}")
    for name, form in list(forms.items())[1:]:
        decode_patch(found[name], form.encoding, (*config.patch.size, form.channels), form.dtype)
        offset, length = row[f"{name}_offset"], row[f"{name}_length"]
        start = offset - row["offset"]
        if payload[start : start + length] != found[name]:
            raise ValueError(f"the index says offset {offset} and length {length} of {name}")


def _stored(value: Any) -> Any:
    """Returns a metadata value in a form that compares: records hold 32-bit numbers, and NaN does not equal itself."""
    return str(np.float32(value)) if isinstance(value, float) else value
