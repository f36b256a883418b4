"""Pixels of another size by area, several scales about one middle, and where a patch lies in the world."""

import json

import numpy as np
import pyarrow.dataset
import pytest
import rasterio
import rasterio.warp
import tensorflow_datasets as tfds
import tifffile
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.build import build
from pipeline.config import Config, Input
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.verify import verify
from pipeline.elements import ImageRef
from pipeline.errors import Unreadable
from pipeline.planning.inspect_images import inspect_image
from pipeline.readers.rescaled import open_to_scale
from pipeline.runners.options import parse_options
from transforms.grid import Box, source_index
from transforms.taps import area_taps, scaled_length

HEIGHT, WIDTH = 301, 403
PIXELS = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
PIXELS = (PIXELS // 4 + np.mgrid[:HEIGHT, :WIDTH].sum(axis=0)[..., None] // 4).astype(np.uint8)
MPP = 0.25


def mean_over(line, start, end, mode="edge"):
    """The integral of a line of pixels over start..end, divided by its length."""
    steps = np.arange(int(np.floor(start)), int(np.ceil(end)))
    share = np.minimum(steps + 1, end) - np.maximum(steps, start)
    index = source_index(steps, len(line), mode)
    return (np.where(index < 0, 7, np.asarray(line, float)[index]) * share).sum() / (end - start)


@given(
    st.integers(1, 40), st.floats(0.5, 20), st.floats(-30, 30), st.integers(1, 9),
    st.sampled_from(["edge", "reflect", "symmetric", "constant"]),
)  # fmt: skip
def test_a_pixel_is_the_mean_of_what_it_covers(length, factor, first, count, mode):
    line = np.random.default_rng(length).uniform(0, 100, length)
    starts = first + factor * np.arange(count)
    low, needed, taps, constant = area_taps(starts, factor, length, mode)
    source = np.append(line[low : low + needed], 7)
    assert low >= 0
    assert low + needed <= length
    assert constant == bool((taps.pixel[taps.weight > 0] == needed).any())
    found = (source[taps.pixel] * taps.weight).sum(axis=1)
    expected = [mean_over(line, start, start + factor, mode) for start in starts]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@given(st.integers(1, 10**6), st.integers(1, 64))
def test_whole_factors_take_whole_pixels(first, factor):
    """However inexactly they are computed."""
    _, count, taps, _ = area_taps(np.array([first * 0.1 * 10 * factor]), factor * (1 + 1e-12), 10**9, "edge")
    assert (count, taps.pixel.shape[1]) == (factor, factor)
    assert scaled_length(first * factor, factor) == first


def write_pyramid(path, mpp=MPP, tags=()):
    """Levels 1, 2 and 4, the coarser ones of other colours, so that it can be seen which was read."""
    form = {"tile": (64, 64), "photometric": "rgb"}
    place = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(PIXELS, subifds=2, extratags=tags, **place, **form)
        writer.write(reduced(2), subfiletype=1, **form)
        writer.write(reduced(4), subfiletype=1, **form)


def reduced(factor):
    rows, cols = (np.minimum(np.arange(-(-n // factor)) * factor, n - 1) for n in (HEIGHT, WIDTH))
    return 255 - PIXELS[rows][:, cols]


def by_area(pixels, factors, size):
    """The slow way."""
    rows = np.array([[mean_over(line, i * factors[0], (i + 1) * factors[0]) for i in range(size[0])]
                     for line in pixels.reshape(len(pixels), -1).T]).T.reshape(size[0], *pixels.shape[1:])  # fmt: skip
    cols = np.array([[mean_over(line, i * factors[1], (i + 1) * factors[1]) for i in range(size[1])]
                     for line in rows.transpose(0, 2, 1).reshape(-1, rows.shape[1])])  # fmt: skip
    return cols.reshape(size[0], 3, size[1]).transpose(0, 2, 1)


def wanted(**values):
    return Input.model_validate({"images": "x"} | values)


@pytest.mark.parametrize(
    ("mpp", "level"), [(0.25, 0), (0.3, 0), (0.5, 1), (0.75, 1), (1.0, 2), (3.1, 2), (0.24, 0)], ids=str
)
def test_an_image_is_read_at_the_micrometres_that_are_asked_for(tmp_path, mpp, level):
    write_pyramid(tmp_path / "a.tif")
    reader = open_to_scale(str(tmp_path / "a.tif"), wanted(mpp=mpp))
    source = PIXELS if level == 0 else reduced(2**level)
    factors = [mpp / MPP * n / full for n, full in zip(source.shape, PIXELS.shape[:2])]
    size = tuple(round(n / factor) for n, factor in zip(source.shape, factors))
    assert reader.layout[:4] == (*size, 3, "uint8")
    assert reader.layout.mpp == pytest.approx((mpp, mpp))
    assert reader.layout.step == pytest.approx((mpp / MPP, mpp / MPP))
    whole = reader.read(Box(0, 0, *size))
    np.testing.assert_allclose(whole, by_area(source, factors, size), atol=0.5001)
    part = Box(size[0] // 3, size[1] // 4, size[0] // 2, size[1] // 2)
    np.testing.assert_array_equal(reader.read(part), whole[part.row :, part.col :][: part.height, : part.width])
    reader.close()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_means_are_those_of_gdal(tmp_path):
    pixels = PIXELS[:300, :400]
    place = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64), **place)
    reader = open_to_scale(str(tmp_path / "a.tif"), wanted(mpp=2.5 * MPP))
    with rasterio.open(tmp_path / "a.tif") as theirs:
        average = theirs.read(out_shape=(3, 120, 160), resampling=rasterio.warp.Resampling.average)
    ours = reader.read(Box(0, 0, 120, 160)).astype(int)
    reader.close()
    assert np.abs(ours - average.transpose(1, 2, 0)).max() <= 1  # they round halves up


@pytest.mark.parametrize(
    ("values", "mpp", "reason", "message"),
    [
        ({"mpp": 0.5}, None, "no_resolution", r"how large a pixel is in micrometres \(input.mpp\)"),
        ({"gsd": 10}, 0.25, "no_resolution", r"units of its coordinate system \(input.gsd\)"),
        ({"mpp": 0.2}, 0.25, "no_such_level", "has pixels of 0.25 micrometres .* asked for 0.2"),
    ],
)
def test_sizes_that_are_not_known_or_not_there_are_rejected(tmp_path, values, mpp, reason, message):
    write_pyramid(tmp_path / "a.tif", mpp)
    with pytest.raises(Unreadable, match=message) as caught:
        open_to_scale(str(tmp_path / "a.tif"), wanted(**values))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"level": 1, "mpp": 0.5}, "level and mpp each say how large a pixel is; keep one"),
        ({"mpp": 0}, "greater than 0"),
        ({"gsd": -1}, "greater than 0"),
    ],
)
def test_one_key_says_how_large_a_pixel_is(values, line):
    with pytest.raises(ValueError, match=line):
        wanted(**values)


@pytest.fixture
def make(tmp_path, no_graphs):
    (tmp_path / "data").mkdir()

    def run(input=None, output=None, tags=(), mpp=MPP, augment=None, quality=None, **patch):
        write_pyramid(tmp_path / "data/a.tif", mpp, tags)
        values = {
            "input": {"images": f"{tmp_path}/data/*.tif"} | (input or {}),
            "output": {"path": str(tmp_path / "out"), "order": "sequential"} | (output or {}),
            "patch": {"size": [30, 24]} | patch,
            "augment": augment,
            "quality": quality,
        }
        outcome = build(Config.model_validate(values), parse_options(["--direct_num_workers=1"]))
        return open_dataset(outcome.folder)

    run.folder = tmp_path  # type: ignore[attr-defined]
    return run


def index_of(dataset):
    return pyarrow.dataset.dataset(f"{dataset.folder}/index").to_table().to_pylist()


# From the world: x = 1000 + 2 col, y = 5000 - 2 row.
TAGS = [(33550, "d", 3, (2.0, 2.0, 0.0)), (33922, "d", 6, (0.0, 0.0, 0.0, 1000.0, 5000.0, 0.0))]


@pytest.mark.parametrize(
    ("input", "step", "patch"),
    [
        ({}, 1, {}), ({"level": 1}, (301 / 151, 403 / 202), {}), ({"mpp": 0.6}, 2.4, {}), ({"gsd": 7}, 3.5, {}),
        ({}, 1, {"dilation": [2, 3]}), ({}, 1, {"origin": [-4, 5]}),
    ],
    ids=["full", "level", "mpp", "gsd", "dilated", "origin"],
)  # fmt: skip
def test_the_index_leads_from_a_patch_to_full_resolution_and_to_the_world(make, input, step, patch):
    dataset = make(input, tags=TAGS, **patch)
    step_down, step_across = step if isinstance(step, tuple) else (step, step)
    down, across = patch.get("dilation", (1, 1))
    rows = index_of(dataset)
    assert len(rows) > 5
    for row in rows:
        x, y = row["col"] * step_across, row["row"] * step_down
        np.testing.assert_allclose(row["to_level0"], (step_across * across, 0, x, 0, step_down * down, y), rtol=1e-12)
        expected = (2 * step_across * across, 0, 1000 + 2 * x, 0, -2 * step_down * down, 5000 - 2 * y)
        np.testing.assert_allclose(row["to_world"], expected, rtol=1e-12)


def test_an_image_without_a_place_has_none(make):
    assert {row["to_world"] for row in index_of(make())} == {None}


@pytest.mark.parametrize("pad", ["reflect", "constant"])
@pytest.mark.parametrize("input", [{}, {"mpp": 0.375}], ids=["full", "mpp"])
def test_patches_of_several_scales_have_one_middle(make, pad, input):
    dataset = make(input, scales=[2, 3, 16], pad_mode=pad, pad_value=200, edge="shift")
    base = input.get("mpp", MPP) / MPP
    rows = index_of(dataset)
    assert not list(verify(dataset, 1))
    for row in rows[::7]:
        for scale in (2, 3, 16):
            level = {1: {2: 2, 3: 2, 16: 4}, 1.5: {2: 2, 3: 4, 16: 4}}[base][scale]
            source = reduced(level).astype(float)
            steps = [base * scale * n / full for n, full in zip(source.shape, PIXELS.shape[:2])]
            found = dataset.patch(row, f"scale/{scale}")
            assert found.shape == (30, 24, 3)
            for i, j in ((0, 0), (29, 23), (15, 12), (3, 20)):
                value = source
                for axis, (start, size, place) in enumerate(((row["row"], 30, i), (row["col"], 24, j))):
                    begin = ((start + size / 2) / scale - size / 2 + place) * steps[axis]
                    value = over(value, begin, begin + steps[axis], pad)
                np.testing.assert_allclose(found[i, j], value, atol=0.51)


def over(values, start, end, mode):
    """Mean over the first axis; beyond it 200 or its mirror."""
    steps = np.arange(int(np.floor(start + 1e-9)), int(np.ceil(end - 1e-9)))
    share = np.minimum(steps + 1, end) - np.maximum(steps, start)
    index = source_index(steps, len(values), mode)
    picked = np.where((index < 0).reshape(-1, *[1] * (values.ndim - 1)), 200, values[index])
    return np.tensordot(share, picked, 1) / (end - start)


def test_scales_are_read_back_by_tensorflow_and_turned_as_their_patch(make):
    augment = {"copies": 1, "original": False, "flip": True, "quarter_turns": True}
    dataset = make(scales=[4], augment=augment, size=24, crops={"per_image": 6})
    rows = {row["key"]: row for row in index_of(dataset)}
    found = list(pipeline.load(dataset.folder, "train").as_numpy_iterator())
    assert len(found) == 6
    theirs = tfds.builder_from_directory(dataset.folder).as_dataset(split="train")
    for one in theirs.as_numpy_iterator():
        np.testing.assert_array_equal(one["scale"]["4"], dataset.patch(rows[one["key"].decode()], "scale/4"))
    plain = make(scales=[4], size=24, crops={"per_image": 6})
    originals = {(row["row"], row["col"]): plain.patch(row, "scale/4") for row in index_of(plain)}
    for one in found:
        row = rows[one["key"].decode()]
        np.testing.assert_array_equal(one["scale"]["4"], dataset.patch(row, "scale/4"))
        done = json.loads(row["augmentation"])
        expected = originals[row["row"], row["col"]]
        expected = expected[::-1] if done.get("flip_rows") else expected
        expected = expected[:, ::-1] if done.get("flip_cols") else expected
        np.testing.assert_array_equal(one["scale"]["4"], np.rot90(expected, done.get("quarter_turns", 0)))


def test_a_mask_of_another_level_gives_its_nearest_pixels(make):
    mask = np.random.default_rng(3).integers(0, 9, (HEIGHT, WIDTH)).astype(np.uint8)
    tifffile.imwrite(make.folder / "full.tiff", mask, tile=(64, 64))
    tifffile.imwrite(make.folder / "half.tiff", mask[::2, ::2], tile=(64, 64))
    rule = lambda name: {"file": {"match": r"data/a\.tif", "replace": f"{name}.tiff"}}
    dataset = make({"mpp": 0.7, "rasters": {"full": rule("full"), "half": rule("half")}}, edge="drop")
    for row in index_of(dataset):
        for name, source in (("full", mask), ("half", mask[::2, ::2])):
            size = (round(HEIGHT / 2.8), round(WIDTH / 2.8))
            rows, cols = (
                ((np.arange(n) + start + 0.5) * length / full).astype(int)
                for n, start, length, full in zip((30, 24), (row["row"], row["col"]), source.shape, size)
            )
            np.testing.assert_array_equal(dataset.patch(row, f"raster/{name}")[..., 0], source[rows][:, cols])


def test_points_are_in_pixels_of_full_resolution(make):
    (make.folder / "data/a.csv").write_text("x,y\n200,100\n")
    dataset = make({"mpp": 0.5, "points": {"file": {"match": "tif$", "replace": "csv"}}}, size=11)
    (row,) = index_of(dataset)
    a, _, c, _, e, f = row["to_level0"]
    assert (c + a * 5.5, f + e * 5.5) == (pytest.approx(200, abs=a / 2), pytest.approx(100, abs=e / 2))


def test_the_facts_of_an_image_are_those_of_its_scale(tmp_path, make_config):
    write_pyramid(tmp_path / "a.tif")
    info = inspect_image(ImageRef("a.tif", str(tmp_path / "a.tif"), "1"), make_config(input={"mpp": 1}))
    assert info.fact("mpp") == pytest.approx([1, 1])
    assert info.step == pytest.approx((4, 4))
    assert info.fact("levels")[0] == [HEIGHT, WIDTH]
