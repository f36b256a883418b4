"""Every patch is in exactly one region, window and shard; nothing moves that need not."""

import collections
import itertools
import json
import math
import time
from unittest import mock

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as _TestPipeline
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.elements import ImageInfo, Region, ShardPlan
from pipeline.inputs.slices import slices_of
from pipeline.planning import geometry, placement
from pipeline.planning.geometry import grid_of, regions_of, windows_of
from pipeline.planning.placement import shard_count, shard_of
from pipeline.planning.plan_shards import PlanShards, read_plan, shard_patches
from pipeline.planning.region_rows import Totals, read_shard, regions_table


def make_image(height, width, block_height=256, block_width=256, image_id="a.svs", split="train"):
    block = (min(block_height, height), min(block_width, width))
    return ImageInfo(image_id, f"/data/{image_id}", "1-2", height, width, *block, split, "", image_id)


def whole(height, width, **names):
    return make_image(height, width, height, width, **names)


def patches_in(cells):
    return [(row, col) for row in range(cells.row_from, cells.row_to) for col in range(cells.col_from, cells.col_to)]


@st.composite
def cases(draw):
    """An image, a patch section, and limits so small that there are many regions and windows."""
    height, width = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    kind = draw(st.sampled_from(["tiles", "rows", "whole"]))
    tile = (draw(st.integers(1, 64)), draw(st.integers(1, 64)))
    block = {"tiles": tile, "rows": (tile[0], width), "whole": (height, width)}[kind]
    size = (draw(st.integers(1, 60)), draw(st.integers(1, 60)))
    stride = (draw(st.integers(max(1, size[0] // 8), 70)), draw(st.integers(max(1, size[1] // 8), 70)))
    edge = draw(st.sampled_from(["drop", "pad", "shift"]))
    limits = {"REGION_PIXELS": draw(st.integers(1, 1 << 13)), "WINDOW_BYTES": draw(st.integers(3, 1 << 12))}
    return make_image(height, width, *block), {"size": size, "stride": stride, "edge": edge}, limits


@given(case=cases())
def test_every_patch_is_in_exactly_one_region_and_one_window(make_config, case):
    image, patch, limits = case
    config = make_config(patch=patch)
    grid = grid_of(image, config.patch)
    with mock.patch.multiple(geometry, **limits):
        regions = list(regions_of(image, config))
        windows = [list(windows_of(region, config)) for region in regions]
    found = [patch for cells in itertools.chain(*windows) for patch in patches_in(cells)]
    expected = [(row, col) for row in range(grid.rows.count) for col in range(grid.cols.count)]
    assert sorted(found) == expected
    for region, below in zip(regions, windows):
        assert below, "a region without a patch"
        for row, col in [patch for cells in below for patch in patches_in(cells)]:
            assert region.row <= grid.rows.start(row) < region.row + region.height
            assert region.col <= grid.cols.start(col) < region.col + region.width


def tile_limit(image, pixels):
    """Blocks are never cut; of those higher than the square of ``pixels``, as many as fit lie side by side."""
    block = image.block_height * image.block_width
    side = math.isqrt(pixels)
    tall = image.block_height * side if image.block_height > side else 0
    return max(pixels, block, tall)


@given(case=cases())
def test_regions_lie_inside_the_image_and_end_at_borders_of_blocks(make_config, case):
    image, patch, limits = case
    with mock.patch.multiple(geometry, **limits):
        regions = list(regions_of(image, make_config(patch=patch)))
    assert len({(r.row, r.col) for r in regions}) == len(regions)
    for image_of_region, *area in regions:
        row, col, height, width = area
        assert image_of_region == image
        assert (row % image.block_height, col % image.block_width) == (0, 0)
        assert row + height == image.height or (row + height) % image.block_height == 0
        assert col + width == image.width or (col + width) % image.block_width == 0
        assert 0 <= row < row + height <= image.height
        assert 0 <= col < col + width <= image.width
        assert height * width <= tile_limit(image, limits["REGION_PIXELS"])


def check_limits(image, config, limits):
    grid, pixel = grid_of(image, config.patch), geometry.pixel_bytes(config.input)
    with mock.patch.multiple(geometry, **limits):
        for region in regions_of(image, config):
            for cells in windows_of(region, config):
                height = grid.rows.start(cells.row_to - 1) - grid.rows.start(cells.row_from) + 1
                width = grid.cols.start(cells.col_to - 1) - grid.cols.start(cells.col_from) + 1
                assert height * width <= tile_limit(image, geometry.WINDOW_BYTES // pixel)
                patch = config.patch.size[0] * config.patch.size[1] * pixel
                assert cells.count == 1 or cells.count * patch <= 2 * geometry.WINDOW_BYTES


@given(case=cases().filter(lambda case: case[1]["edge"] != "shift"))
def test_a_window_and_its_patches_stay_within_the_limits_unless_it_is_one_patch(make_config, case):
    image, patch, limits = case
    check_limits(image, make_config(patch=patch), limits)


def test_a_window_of_shifted_patches_stays_within_the_limits(make_config):
    # Starts 0, 3500 and 3501 along both axes: 147 MB of patches in the last window instead of 37 MB.
    config = make_config(patch={"size": 3500, "edge": "shift"})
    check_limits(make_image(7001, 7001), config, {"WINDOW_BYTES": geometry.WINDOW_BYTES})


def test_a_region_of_tall_blocks_stays_within_the_limit(make_config):
    # A stripped TIFF that is shown turned by 90 degrees has blocks of one column: 5792 of them are 116 million pixels.
    image = make_image(20_000, 30_000, 20_000, 1)
    areas = [region.height * region.width for region in regions_of(image, make_config())]
    assert max(areas) <= geometry.REGION_PIXELS


def test_a_whole_image_is_one_region_that_is_cut_in_windows(make_config):
    config = make_config(patch={"size": 256, "stride": 256})
    image = whole(20_000, 10_000)
    (region,) = regions_of(image, config)
    assert region == Region(image, 0, 0, 20_000, 10_000)
    windows = list(windows_of(region, config))
    assert sum(cells.count for cells in windows) == 79 * 40
    assert len(windows) > 10  # 600 MB of pixels


def test_regions_of_a_slide_are_these(make_config):
    config = make_config(patch={"size": 256})
    image = make_image(10_000, 20_000)
    # 2**25 pixels are 5792 squared: 22 blocks of 256, and 23 rows of blocks fit below that width.
    assert [tuple(region.area) for region in regions_of(image, config)] == [
        (0, 0, 5888, 5632), (0, 5632, 5888, 5632), (0, 11264, 5888, 5632), (0, 16896, 5888, 3104),
        (5888, 0, 4112, 5632), (5888, 5632, 4112, 5632), (5888, 11264, 4112, 5632), (5888, 16896, 4112, 3104),
    ]  # fmt: skip


def test_windows_of_a_region_are_these(make_config):
    config = make_config(patch={"size": 256})
    region = next(regions_of(make_image(10_000, 20_000), config))
    # 16 MiB are 5,592,405 pixels of 3 bytes or 2364 squared: 9 blocks of 256 along both sides.
    assert [tuple(cells) for cells in windows_of(region, config)] == [
        (0, 9, 0, 9), (0, 9, 9, 18), (0, 9, 18, 22),
        (9, 18, 0, 9), (9, 18, 9, 18), (9, 18, 18, 22),
        (18, 23, 0, 9), (18, 23, 9, 18), (18, 23, 18, 22),
    ]  # fmt: skip


def test_regions_without_a_patch_are_left_out(make_config):
    config = make_config(patch={"size": 64, "stride": 20_000})
    assert [(r.row, r.col) for r in regions_of(make_image(10_000, 30_000), config)] == [(0, 0), (0, 16896)]
    assert list(regions_of(make_image(63, 500), make_config(patch={"size": 64, "edge": "drop"}))) == []


def test_a_huge_image_is_planned_in_seconds(make_config):
    config = make_config(patch={"size": 256})
    image = make_image(200_000, 200_000)
    started = time.perf_counter()
    regions = list(regions_of(image, config))
    patches = sum(grid_of(image, config.patch).cells(region.area).count for region in regions)
    assert time.perf_counter() - started < 3
    assert patches == 782 * 782
    assert len(regions) == 34 * 36


@given(patches=st.integers(0, 10**12), shard_size=st.integers(1, 10**10))
@example(patches=0, shard_size=1)
def test_the_number_of_shards_is_the_smallest_power_of_two_that_keeps_their_size(make_config, patches, shard_size):
    config = make_config(output={"shard_size": shard_size})
    shards = shard_count(patches, placement.patch_bytes(config), config.output.shard_size)
    assert shards.bit_count() == 1
    size = patches * placement.patch_bytes(config)
    assert size <= shards * shard_size
    assert shards == 1 or size > shards // 2 * shard_size


@pytest.mark.parametrize(
    ("encoding", "dtype", "size", "expected"),
    [
        ("raw", "uint8", 100, 30_300),
        ("raw", "float32", 100, 120_300),
        ("png", "uint16", [10, 20], 900),
        ("jpeg", "uint8", 100, 3_900),
    ],
)
def test_the_estimated_size_of_a_record(make_config, encoding, dtype, size, expected):
    config = make_config(input={"dtype": dtype}, output={"encoding": encoding}, patch={"size": size})
    assert placement.patch_bytes(config) == expected


def some_regions(config, images=125, name="slide"):
    """16 regions of each image, nearly alike in patches."""
    return [r for i in range(images) for r in regions_of(make_image(23_000, 22_000, image_id=f"{name}{i}.svs"), config)]


def shards_of(regions, shards, config):
    found = collections.defaultdict(set)
    for region in regions:
        found[shard_of(region, shards, config.seed)].add(region)
    return found


def test_when_the_shards_double_two_new_ones_hold_what_an_old_one_held(make_config):
    config = make_config()
    regions = some_regions(config, images=20)
    for shards in (1, 2, 8, 32):
        old, new = shards_of(regions, shards, config), shards_of(regions, 2 * shards, config)
        for index in range(shards):
            assert old[index] == new[index] | new[index + shards]
            assert not new[index] & new[index + shards]


def test_the_shard_of_a_region_follows_its_place_and_the_seed_but_not_where_the_image_lies(make_config):
    regions = some_regions(make_config(), images=10)
    elsewhere = [r._replace(image=r.image._replace(uri="gs://x", fingerprint="9-9")) for r in regions]
    deal = lambda regions, seed: [shard_of(region, 64, seed) for region in regions]
    assert deal(regions, 0) == deal(elsewhere, 0)
    assert deal(regions, 0) != deal(regions, 1)
    assert len(set(deal(regions[:16], 0))) > 8  # one image spreads over many shards


def test_shards_are_alike_in_size(make_config):
    config = make_config()
    regions = some_regions(config)
    assert len(regions) == 2000
    shards = shards_of(regions, 16, config)
    patches = [sum(grid_of(r.image, config.patch).cells(r.area).count for r in shards[index]) for index in range(16)]
    assert max(patches) / (sum(patches) / 16) < 1.25


def run_plan(images, config, folder):
    """The plans by name, through Beam."""
    measured = []
    for each in slices_of(len(images)):
        table, totals = regions_table(images[each.first : each.end], config)
        storage.write_table(str(folder / each.file("regions")), table)
        measured += totals.items()
    with _TestPipeline(runner="FnApiRunner", argv=[]) as p:
        found = p | beam.Create(measured) | PlanShards(config, str(folder), len(images))
        found | beam.Map(json.dumps) | beam.io.WriteToText(str(folder / "plans"), shard_name_template="")
    found = [json.loads(line) for line in (folder / "plans").read_text().splitlines()]
    assert len({name for name, _ in found}) == len(found)
    return {name: read_shard(name, uri) for name, uri in found}


@pytest.fixture(params=[(16, 1 << 16), (3, 2)], ids=["few tables", "many tables"])
def tables(request, monkeypatch):
    """Images in each slice of a listing, and regions that are gathered in one table."""
    images, regions = request.param
    monkeypatch.setattr("pipeline.inputs.slices._IMAGES_PER_SLICE", (images, images))
    monkeypatch.setattr("pipeline.planning.plan_shards._GATHERED", regions)


@pytest.fixture
def splits(make_config, tables):
    output = {"encoding": "raw", "shard_size": "2MB"}
    return make_config(patch={"size": 100}, output=output, splits={"train": 0.7, "val": 0.2, "test": 0.1})


def test_every_shard_of_every_split_has_a_plan_also_the_empty_ones(splits, tmp_path):
    images = [whole(1000, 900, image_id="b"), whole(700, 800, image_id="a"), whole(50, 60, image_id="c", split="val")]
    plans = run_plan(images, splits, tmp_path)
    # 90 + 56 patches of 30,300 bytes in shards of 2 MB are 4 shards.
    expected = {f"train-{i:05d}-of-00004": [] for i in range(4)} | {
        "val-00000-of-00001": [Region(images[2], 0, 0, 50, 60)],
        "test-00000-of-00001": [],
    }
    for image in (images[1], images[0]):
        region = Region(image, 0, 0, image.height, image.width)
        expected[f"train-{shard_of(region, 4, splits.seed):05d}-of-00004"].append(region)
    assert {name: list(plan.regions) for name, plan in plans.items()} == expected
    assert read_plan(str(tmp_path)) == {
        "train": {
            "images": 2, "regions": 2, "windows": 2, "patches": 146, "whole_pixels": 900_000, "text": 0, "shards": 4,
        },
        "val": {"images": 1, "regions": 1, "windows": 1, "patches": 1, "whole_pixels": 3000, "text": 0, "shards": 1},
        "test": {"images": 0, "regions": 0, "windows": 0, "patches": 0, "whole_pixels": 0, "text": 0, "shards": 1},
    }  # fmt: skip


def test_the_regions_of_every_shard_are_those_that_are_dealt_to_it(make_config, tmp_path, tables):
    config = make_config(patch={"size": 256}, output={"shard_size": "20MB"}, splits={"a": 0.5, "b": 0.5})
    images = [
        make_image(9_000 + 1000 * n, 8_000 + 1500 * n, image_id=f"{n}/slide.svs", split="ab"[n % 3 == 0])
        for n in range(10)
    ]
    plans = run_plan(images, config, tmp_path)
    for split, facts in read_plan(str(tmp_path)).items():
        regions = [region for image in images if image.split == split for region in regions_of(image, config)]
        assert facts["shards"] > 8
        dealt = shards_of(regions, facts["shards"], config)
        loads = []
        for number in range(facts["shards"]):
            found = plans[f"{split}-{number:05d}-of-{facts['shards']:05d}"]
            assert found == ShardPlan(split, number, facts["shards"], tuple(sorted(dealt[number])))
            loads.append(sum(grid_of(r.image, config.patch).cells(r.area).count for r in found.regions))
        assert sorted(shard_patches(str(tmp_path), split, facts)) == sorted(loads)
    assert len(plans) == sum(facts["shards"] for facts in read_plan(str(tmp_path)).values())


def test_long_texts_of_images_stand_once_in_a_table_and_are_bounded_in_a_gathering(make_config, tmp_path, monkeypatch):
    """A slide with regions drawn in the manifest: two gigabytes, were they repeated for each of its 1,224 regions."""
    config = make_config(output={"shard_size": "64MB"})
    slide = make_image(200_000, 200_000)._replace(polygons="drawn " * 300_000, meta="é")
    table, totals = regions_table([slide], config)
    assert totals["train"].text == 1224 * 1_800_001 > 2**31
    assert table.num_rows == 1224
    storage.write_table(str(tmp_path / "one.parquet"), table)
    assert storage.size(str(tmp_path / "one.parquet")) < 4_000_000
    shard = read_shard("train-00003-of-00256", str(tmp_path / "one.parquet"))
    assert [region for region in regions_of(slide, config) if shard_of(region, 256, config.seed) == 3] == list(
        shard.regions
    )
    assert len({id(region.image) for region in shard.regions}) == 1

    photos = [whole(1000, 1000, image_id=f"{n}")._replace(points=f"{n}" * 500) for n in range(64)]
    monkeypatch.setattr("pipeline.planning.plan_shards._GATHERED_TEXT", 5_000)
    plans = run_plan(photos, make_config(output={"shard_size": "1MB"}), tmp_path)
    assert {region.image for plan in plans.values() for region in plan.regions} == set(photos)
    assert len(list(tmp_path.glob("plan-train-*"))) == 16


def test_more_images_move_no_region_of_the_others(splits, tmp_path):
    images = [whole(1000, 900, image_id=f"{i}") for i in range(10)]
    before = run_plan(images[:8], splits, tmp_path)
    after = run_plan(list(reversed(images)), splits, tmp_path)
    assert before.keys() == after.keys()
    for name, plan_before in before.items():
        kept = tuple(region for region in after[name].regions if region.image in images[:8])
        assert kept == plan_before.regions


def test_without_images_every_split_has_one_empty_shard(splits, tmp_path):
    plans = run_plan([], splits, tmp_path)
    assert sorted(plans) == ["test-00000-of-00001", "train-00000-of-00001", "val-00000-of-00001"]
    assert all(plan.regions == () for plan in plans.values())
    assert read_plan(str(tmp_path))["train"] == {**Totals()._asdict(), "shards": 1}


def test_there_is_no_plan_before_one_was_written(tmp_path):
    assert read_plan(str(tmp_path)) is None


def test_the_digest_of_a_plan_changes_with_everything_but_the_place_of_the_images():
    image = make_image(1000, 900)
    region = Region(image, 0, 0, 10, 10)
    plan = ShardPlan("train", 0, 1, (region,))
    digest = lambda one: one.digest("content")
    with_image = lambda **values: plan._replace(regions=(region._replace(image=image._replace(**values)),))
    assert digest(with_image(uri="gs://elsewhere", mask="gs://m", points="gs://p", polygons="gs://r")) == digest(plan)
    assert digest(with_image(split="val")) == digest(plan)  # the images of a plan are of its split, which counts
    others = [
        *[with_image(**{name: value}) for name, value in {
            "image_id": "b", "fingerprint": "2-2", "height": 1001, "width": 901, "block_height": 1, "block_width": 1,
            "label": "x", "group": "x", "meta": '{"age": 7}', "facts": '{"mpp": [1, 1]}',
            "points": "[[1, 2]]", "polygons": "[3]",
        }.items()],
        *[plan._replace(regions=(region._replace(**{name: 11}),)) for name in ("row", "col", "height", "width")],
        plan._replace(split="val"), plan._replace(number=1), plan._replace(count=2), plan._replace(regions=()),
        plan._replace(regions=(region, region)),
    ]  # fmt: skip
    digests = {digest(plan), plan.digest("other content"), *map(digest, others)}
    assert len(digests) == 2 + len(others)


def test_one_huge_image_is_spread_evenly_over_the_shards(make_config):
    config = make_config(patch={"size": 256})
    image = make_image(200_000, 200_000)
    counts = collections.Counter()
    for region in regions_of(image, config):
        counts[shard_of(region, 256, config.seed)] += grid_of(image, config.patch).cells(region.area).count
    assert sum(counts.values()) == grid_of(image, config.patch).count == 782**2
    assert len(counts) == 256
    assert max(counts.values()) < 1.2 * sum(counts.values()) / 256
