"""Which pixels go into which shard: integers only.

The unit that is dealt out is a *region*, a block-aligned rectangle of an image. Its shard is the low bits of a digest
and the number of shards a power of two: shards come out alike in size, new images do not move the regions of others,
and when the number doubles, shard k and shard k + n hold together what shard k held.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import ShardPlan
from pipeline.inputs.slices import slices_of
from pipeline.planning.placement import patch_bytes, shard_count
from pipeline.planning.region_rows import ROWS, Totals, read_regions

_GATHERED = 1 << 16
_GATHERED_TEXT = 1 << 28
_READS = 16


@dataclasses.dataclass
class PlanShards(beam.PTransform):  # type: ignore[type-arg]
    """``(split, Totals)`` of slices -> every shard of every split, also those that stay empty: ``(name, URI)``.

    At the URI are the regions of the shard, among those of others; see :func:`read_shard`. Writes ``plan.json`` into
    ``folder``, split -> Totals and number of shards, and the regions in gatherings: what in a plan of fewer shards
    would be one shard.

    Args:
        config: the build.
        folder: with the tables of regions of the slices of the listing.
        images: number of images of the listing.
    """

    config: Config
    folder: str
    images: int

    def expand(self, totals):  # type: ignore[no-untyped-def]  # Beam would read annotations
        totals = beam.pvalue.AsDict(totals | "Total" >> beam.CombinePerKey(lambda totals: sum(totals, Totals())))
        return (
            totals.pvalue.pipeline
            | "Plan" >> beam.Create([self.folder])
            | "WritePlan" >> beam.FlatMap(_write_plan, self.config, totals).with_output_types(tuple[str, int, int, int])
            | "SpreadGatherings" >> beam.Reshuffle()
            | "Gather" >> beam.FlatMap(_gather, self.folder, self.images).with_output_types(tuple[str, str])
            | "SpreadShards" >> beam.Reshuffle()  # names
        )


def _write_plan(folder: str, config: Config, totals: dict[str, Totals]) -> Iterator[tuple[str, int, int, int]]:
    """Writes ``plan.json``; which shards are gathered together: split, number, of, and the shards in all."""
    plan = {split: totals.get(split, Totals()) for split in config.splits}
    count = lambda patches: shard_count(patches, patch_bytes(config), config.output.shard_size)
    facts = {split: sums._asdict() | {"shards": count(sums.patches)} for split, sums in plan.items()}
    storage.write_bytes(storage.join(folder, "plan.json"), json.dumps(facts).encode())
    for split, of_split in facts.items():
        of = _gatherings(of_split)
        yield from ((split, number, of, of_split["shards"]) for number in range(of))


def _gatherings(facts: dict[str, int]) -> int:
    """Into how many tables the regions of a split are gathered: so many that each fits into memory, and no more."""
    tables = max(-(-facts["regions"] // _GATHERED), -(-facts["text"] // _GATHERED_TEXT))
    return min(facts["shards"], 1 << max(0, tables - 1).bit_length())


def _gather(group: tuple[str, int, int, int], folder: str, images: int) -> Iterator[tuple[str, str]]:
    """Puts the regions of some shards, which lie in the tables of all slices, into one table."""
    split, number, of, shards = group
    read = lambda uri: read_regions(uri, split, number, of)
    table = pa.concat_tables(
        storage.read_many((storage.join(folder, s.file("regions")) for s in slices_of(images)), read)
    )
    uri = storage.join(folder, _gathering(split, number, of))
    storage.write_table(uri, table.sort_by("place"), ROWS)
    yield from ((ShardPlan(split, shard, shards, ()).name, uri) for shard in range(number, shards, of))


def _gathering(split: str, number: int, of: int) -> str:
    return f"plan-{ShardPlan(split, number, of, ()).name}.parquet"


def read_plan(folder: str) -> dict[str, dict[str, int]] | None:
    """What :class:`PlanShards` wrote; None while it has not."""
    data = storage.read_if_there(storage.join(folder, "plan.json"))
    return None if data is None else json.loads(data)


class SplitPlan(NamedTuple):
    """What there is to do in a split.

    Attributes:
        totals: images, regions, windows and patches.
        shards: their number.
        largest_to_mean: how even they are, see :func:`largest_to_mean`.
    """

    totals: Totals
    shards: int
    largest_to_mean: float


def read_split_plans(folder: str) -> dict[str, SplitPlan]:
    """What :class:`PlanShards` planned in ``folder``, split by split."""
    plans = {}
    for split, facts in (read_plan(folder) or {}).items():
        totals = Totals(*(facts[name] for name in Totals._fields))
        plans[split] = SplitPlan(totals, facts["shards"], largest_to_mean(shard_patches(folder, split, facts)))
    return plans


def forget_plan(folder: str) -> None:
    """Removes the plan of an earlier attempt, by which progress would be told."""
    path = storage.join(folder, "plan.json")
    if storage.size(path) is not None:
        storage.delete(path)


def shard_patches(folder: str, split: str, facts: dict[str, int]) -> np.ndarray:
    """How many patches each shard of a split has that was planned in ``folder``, in no order: [shards] int64.

    Args:
        folder: with the plan.
        split: its name.
        facts: what :func:`read_plan` says of it.
    """
    patches, of = np.zeros(facts["shards"], np.int64), _gatherings(facts)
    for number in range(of):
        table = storage.read_table(storage.join(folder, _gathering(split, number, of)), columns=["place", "patches"])
        turned = table["place"].to_numpy() // ((1 << 32) // facts["shards"])  # the number of the shard, its bits turned
        np.add.at(patches, turned, table["patches"].to_numpy())
    return patches


def largest_to_mean(patches: np.ndarray) -> float:
    """How even shards are: the patches of the largest, in those of the mean; 1 where all are alike, or empty.

    >>> largest_to_mean(np.array([4, 6, 5, 5]))
    1.2
    """
    return float(patches.max() / patches.mean()) if patches.any() else 1.0
