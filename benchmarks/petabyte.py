"""Measures what a build of a petabyte costs, by running the parts of the flow that hold more than a shard.

    python benchmarks/petabyte.py [--images 100000] [--side 36204]

No pixel is read. The images are planned (a sample of them, for the time per image), all regions are dealt to their
shards, and the sums of all shards are read and reconciled from files of full size, as by the process that starts a
build.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import resource
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import ImageInfo, Region, ShardPlan, ShardResult, digest, receipt_file, shard_file
from pipeline.inputs.slices import slices_of
from pipeline.planning import image_rows
from pipeline.planning.geometry import grid_of, regions_of, windows_of
from pipeline.planning.placement import patch_bytes, shard_count, shard_of
from pipeline.planning.region_rows import ROWS, regions_table
from pipeline.shards import receipts
from pipeline.shards.index import Row, make_index
from pipeline.versions import accounts
from transforms import pixel_statistics

CONFIG = Config.model_validate(
    {
        "input": {"images": "gs://bucket/slides/**/*.svs", "label": "folder"},
        "output": {"path": "out", "encoding": "jpeg"},
        "patch": {"size": 256},
    }
)
SAMPLE = 50


def image(number: int, side: int) -> ImageInfo:
    image_id = f"hospital-{number % 40:02}/patient-{number // 4:06}/slide-{number:06}.svs"
    uri = f"gs://a-bucket-of-slides/archive/{image_id}"
    fingerprint = f"{digest(number)}-{digest(-number)}"[:36]
    return ImageInfo(image_id, uri, fingerprint, side, side, 256, 256, "train", image_id[:11], image_id[:26])


def timed(what: str, per: int, unit: str, work):
    start = time.perf_counter()
    result = work()
    took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{what:<46}{took:9.1f} s {took / per * 1e6:10.1f} us per {unit:<8} peak {peak:5.2f} GB", flush=True)
    return result


def receipt(plan: ShardPlan, patches: int) -> ShardResult:
    rng = np.random.default_rng(plan.number)
    pixels = rng.normal(180, 40, (4, 64, 64, 3)).clip(0, 255).astype(np.uint8)
    counts = {region.image.image_id: (patches, patches, 0, 0) for region in plan.regions}
    measured = pixel_statistics.to_json(pixel_statistics.measure(pixels))
    facts = ("0" * 64, plan.name, patches * len(counts), 10**8, "0" * 64, 10**6, "0" * 64, 10**5, "0" * 64)
    return ShardResult(*facts, counts, {"hospital-00": patches}, {}, (), measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=36_204)
    given = parser.parse_args()
    images, side = given.images, given.side

    one = image(0, side)
    patches = grid_of(one, CONFIG.patch).count * images
    regions = list(regions_of(one, CONFIG))
    shards = shard_count(patches, patch_bytes(CONFIG), CONFIG.output.shard_size)
    windows = sum(1 for region in regions for _ in windows_of(region, CONFIG))
    print(f"{images:,} images of {side:,} x {side:,}: {patches:,} patches, {len(regions) * images:,} regions,")
    print(f"{windows * images:,} windows, {shards:,} shards, {len(regions) * images / shards:.1f} regions a shard\n")

    plan = lambda info: sum(1 for region in regions_of(info, CONFIG) for _ in windows_of(region, CONFIG))
    sample = [image(number, side) for number in range(SAMPLE)]
    timed("plan: regions and windows", SAMPLE, "image", lambda: [plan(info) for info in sample])
    first = [image(number, side) for number in range(slices_of(images)[0].end)]
    table, _ = timed("plan: a table of regions", len(first), "image", lambda: regions_table(first, CONFIG))
    with tempfile.TemporaryDirectory() as folder:
        storage.write_table(f"{folder}/regions", table, ROWS)
        size = os.path.getsize(f"{folder}/regions") / table.num_rows
    print(f"tables of regions: {size:.0f} bytes a region, {size * len(regions) * images / 1e9:.1f} GB in all")
    print(f"shuffle of names:  {len(ShardPlan('train', shards - 1, shards, ()).name)} bytes each, {shards:,} of them\n")

    weights = np.array([grid_of(one, CONFIG.patch).cells(region.area).count for region in regions])
    numbers = np.array(
        [shard_of(region, shards, CONFIG.seed) - shard_of(regions[0], shards, CONFIG.seed) for region in regions]
    )

    def deal() -> np.ndarray:
        load = np.zeros(shards, np.int64)
        for number in range(images):
            first = shard_of(regions[0]._replace(image=image(number, side)), shards, CONFIG.seed)
            np.add.at(load, (first + numbers) & (shards - 1), weights)
        return load

    load = timed("deal all regions to their shards", images * len(regions), "region", deal)
    largest, mean = load.max(), load.mean()
    print(f"patches a shard: mean {mean:,.0f}, largest {largest:,} = {largest / mean:.2f} x mean\n")

    rows = [Row(i, one, 256 * i, 0, 0, "", 20_000, 100, 19_500) for i in range(int(mean))]
    index = len(make_index("train", shard_file("train-00000-of-00001"), rows, CONFIG))
    print(f"index: {index / len(rows):.0f} bytes a patch, {index / 1e6:.2f} MB a shard")
    with tempfile.TemporaryDirectory() as folder:
        reconcile_all(folder, images, side, shards, math.ceil(len(regions) * images / shards), int(mean))


def reconcile_all(folder: str, images: int, side: int, shards: int, regions: int, patches: int) -> None:
    """Sums up a group of receipts as a worker does, and reconciles the sums of all shards as the launcher does."""
    names = []
    for number in range(receipts.GROUP):
        mine = [Region(image((number * regions + i) % images, side), 0, 0, 1, 1) for i in range(regions)]
        plan = ShardPlan("train", number, shards, tuple(mine))
        data = json.dumps(receipt(plan, patches // regions).to_json()).encode()
        storage.write_bytes(f"{folder}/{receipt_file(plan.name)}", data)
        names.append(plan.name)
    print(f"receipt: {len(data):,} bytes, {len(data) * shards / 1e9:.1f} GB in all")
    group = timed(
        "a worker sums up a group of receipts", receipts.GROUP, "receipt", lambda: receipts.sum_receipts(folder, names)
    )

    work = f"{folder}/work"
    planned: dict[str, int] = dict.fromkeys((image(number, side).image_id for number in range(images)), 0)
    for first in range(0, shards, receipts.GROUP):
        counts = [row["planned"] for row in group["images"]]
        for i, row in enumerate(group["images"]):
            row["image_id"] = image((first * regions + i) % images, side).image_id
            planned[row["image_id"]] += counts[i]
        for i, shard in enumerate(group["shards"]):
            shard["shard"] = ShardPlan("train", first + i, shards, ()).name
        content = json.dumps(group).encode()
        storage.write_bytes(f"{work}/{receipts._group_name('train', first // receipts.GROUP)}", content)
    files = len(os.listdir(work))
    print(f"sums: {len(content) / 1e3:,.0f} kB a group, {files:,} groups, {len(content) * files / 1e6:,.0f} MB in all")
    rows = [{"image_id": i, "split": "train", "planned": n} for i, n in sorted(planned.items())]
    for each in slices_of(images):
        table = pa.Table.from_pylist(rows[each.first : each.end], image_rows.IMAGES_SCHEMA)
        storage.write_table(f"{work}/{each.file('images')}", table)

    total = timed(
        "the launcher reads the sums of all shards", shards, "shard", lambda: receipts.read_sums(work, "train", shards)
    )
    timed("the launcher reconciles the accounts", images, "image",
          lambda: accounts.reconcile(folder, work, CONFIG.input.level, images, {"train": total}))  # fmt: skip
    storage.write_table(f"{folder}/shards.parquet", total.shards)
    for name in ("shards.parquet", "images.parquet"):
        print(f"{name}: {pathlib.Path(folder, name).stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
