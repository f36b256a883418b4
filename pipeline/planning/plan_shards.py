"""The plan of which pixels go into which shard: integers only.

The unit of planning is a *region*, a block-aligned rectangle of an image. Its shard is the low bits of a digest, and
the number n of shards is a power of two: shards are of similar size, new images do not move the regions of others, and
when n doubles, shards k and k + n together hold what shard k held.
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

# Regions, and characters of their texts, that one table gathers at most.
_GATHERED = 1 << 16
_GATHERED_TEXT = 1 << 28


@dataclasses.dataclass
class PlanShards(beam.PTransform):  # type: ignore[type-arg]
    """``(split, Totals)`` of slices -> every shard of every split, also those that stay empty: ``(name, URI)``.

    The table at the URI holds the regions of the shard, among others; see :func:`read_shard`. Writes ``plan.json`` into
    ``folder``, split -> Totals and number of shards, and the regions in gatherings: each would be one shard of a plan
    with fewer shards.

    Args:
        config: the build.
        folder: holds the tables of regions of the slices of the listing.
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
            | "SpreadShards" >> beam.Reshuffle()  # names only
        )


def _write_plan(folder: str, config: Config, totals: dict[str, Totals]) -> Iterator[tuple[str, int, int, int]]:
    """Writes ``plan.json``; yields the gatherings, each as split, number, number of gatherings and number of shards."""
    plan = {split: totals.get(split, Totals()) for split in config.splits}
    count = lambda patches: shard_count(patches, patch_bytes(config), config.output.shard_size)
    facts = {split: sums._asdict() | {"shards": count(sums.patches)} for split, sums in plan.items()}
    storage.write_bytes(storage.join(folder, "plan.json"), json.dumps(facts).encode())
    for split, of_split in facts.items():
        of = _gatherings(of_split)
        yield from ((split, number, of, of_split["shards"]) for number in range(of))


def _gatherings(facts: dict[str, int]) -> int:
    """Returns into how many tables the regions of a split are gathered: so many that each fits into memory."""
    tables = max(-(-facts["regions"] // _GATHERED), -(-facts["text"] // _GATHERED_TEXT))
    return min(facts["shards"], 1 << max(0, tables - 1).bit_length())


def _gather(group: tuple[str, int, int, int], folder: str, images: int) -> Iterator[tuple[str, str]]:
    """Gathers the regions of some shards from the tables of all slices into one table."""
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
    """Reads ``plan.json`` as :class:`PlanShards` wrote it; None while there is none."""
    data = storage.read_if_there(storage.join(folder, "plan.json"))
    return None if data is None else json.loads(data)


class SplitPlan(NamedTuple):
    """The work in a split.

    Attributes:
        totals: images, regions, windows and patches.
        shards: number of shards.
        largest_to_mean: how even the shards are, see :func:`largest_to_mean`.
    """

    totals: Totals
    shards: int
    largest_to_mean: float


def read_split_plans(folder: str) -> dict[str, SplitPlan]:
    """Reads what :class:`PlanShards` planned in ``folder``, by split."""
    plans = {}
    for split, facts in (read_plan(folder) or {}).items():
        totals = Totals(*(facts[name] for name in Totals._fields))
        plans[split] = SplitPlan(totals, facts["shards"], largest_to_mean(shard_patches(folder, split, facts)))
    return plans


def forget_plan(folder: str) -> None:
    """Removes the plan of an earlier attempt, from which progress would be reported."""
    path = storage.join(folder, "plan.json")
    if storage.size(path) is not None:
        storage.delete(path)


def shard_patches(folder: str, split: str, facts: dict[str, int]) -> np.ndarray:
    """Returns the number of patches in each shard of a split planned in ``folder``, in no order: [shards] int64.

    Args:
        folder: holds the plan.
        split: name of the split.
        facts: what :func:`read_plan` says of the split.
    """
    patches, of = np.zeros(facts["shards"], np.int64), _gatherings(facts)
    for number in range(of):
        table = storage.read_table(storage.join(folder, _gathering(split, number, of)), columns=["place", "patches"])
        turned = table["place"].to_numpy() // ((1 << 32) // facts["shards"])  # the shard's number, its bits reversed
        np.add.at(patches, turned, table["patches"].to_numpy())
    return patches


def largest_to_mean(patches: np.ndarray) -> float:
    """Returns how even shards are: the patches of the largest divided by the mean; 1 where all are alike, or empty.

    >>> largest_to_mean(np.array([4, 6, 5, 5]))
    1.2
    """
    return float(patches.max() / patches.mean()) if patches.any() else 1.0
