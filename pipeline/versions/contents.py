"""The contents of a version whose shards are written: their sums, their table, and every other file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pyarrow as pa

from pipeline import storage
from pipeline.elements import SHARDS, files_of
from pipeline.planning.plan_shards import largest_to_mean, read_plan
from pipeline.shards.receipts import Sums, read_sums
from pipeline.versions.lifecycle import WORK, Version, keep_only
from pipeline.versions.manifest import Accounts, FileFacts, SplitFacts


def collect(version: Version) -> dict[str, Sums]:
    """Returns the sums over the shards of each split; writes their table, and removes leftovers of earlier attempts."""
    plan = read_plan(version.work) or {}
    totals = {split: read_sums(version.work, split, facts["shards"]) for split, facts in plan.items()}
    keep_only(version, _shard_files(totals) | {"inputs.parquet"})
    storage.write_table(storage.join(version.folder, SHARDS), pa.concat_tables(part.shards for part in totals.values()))
    return totals


def split_facts(totals: Mapping[str, Sums], accounts: Accounts) -> dict[str, SplitFacts]:
    """Returns the contents of each split, in numbers."""
    return {
        split: SplitFacts(
            images=accounts.split_images.get(split, 0),
            patches=part.records,
            shards=part.shards.num_rows,
            bytes=sum(part.shards["bytes"].to_pylist()),
            largest_to_mean=round(largest_to_mean(part.shards["records"].to_numpy()), 3),
        )
        for split, part in totals.items()
    }


def file_facts(version: Version, totals: Mapping[str, Sums]) -> dict[str, FileFacts]:
    """Returns size and checksum of every file except those of the shards, which are in the table of shards."""
    elsewhere = _shard_files(totals)
    files = {}
    for below in storage.files_below(version.folder):
        if below not in elsewhere and not below.startswith(f"{WORK}/"):
            data = storage.read_bytes(storage.join(version.folder, below))
            files[below] = FileFacts(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return files


def _shard_files(totals: Mapping[str, Sums]) -> set[str]:
    """Returns the paths of all files of all shards, below the version."""
    names = (name for part in totals.values() for name in part.shards["shard"].to_pylist())
    return {path for name in names for path in files_of(name)}
