"""Patches kept, left out and labelled by polygons and classes of masks, against counting pixels one by one."""

import json
import pathlib

import imagecodecs
import numpy as np
import pyarrow.dataset
import pytest
import rasterio.features
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.build import build
from pipeline.config import Config, Input
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.verify import verify
from pipeline.elements import ImageInfo
from pipeline.errors import TooManyRejectedError, Unreadable
from pipeline.readers.rasters import open_raster
from pipeline.runners.options import parse_options
from pipeline.shards.open_image import OpenImage
from transforms.affine import Affine
from transforms.grid import Box
from transforms.polygons import fill

HEIGHT, WIDTH = 96, 128
RINGS = st.lists(
    arrays.arrays(np.float64, st.tuples(st.integers(0, 7), st.just(2)), elements=st.floats(-9, 30, width=32)),
    max_size=3,
)


def inside(rings, x, y):
    """Whether a ray to the right crosses an odd number of edges."""
    odd = False
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0)):
            odd ^= (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return odd


@given(RINGS, st.integers(-5, 20), st.integers(-5, 20))
def test_a_pixel_is_inside_where_a_ray_crosses_an_odd_number_of_edges(rings, row, col):
    found = fill(rings, Box(row, col, 12, 9))
    expected = [[inside(rings, col + j + 0.5, row + i + 0.5) for j in range(9)] for i in range(12)]
    np.testing.assert_array_equal(found, np.array(expected, bool))


def test_polygons_with_holes_are_those_of_gdal():
    random = np.random.default_rng(1)
    for _ in range(20):
        angle = np.sort(random.uniform(0, 2 * np.pi, 40))
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        rings = [circle * random.uniform(20, 45, (40, 1)) + 50, circle[::-1] * random.uniform(3, 15, (40, 1)) + 50]
        shape = {"type": "Polygon", "coordinates": [[*map(tuple, ring), tuple(ring[0])] for ring in rings]}
        theirs = rasterio.features.rasterize([shape], (100, 100))
        np.testing.assert_array_equal(fill(rings, Box(0, 0, 100, 100)), theirs)


def test_of_two_polygons_with_a_common_edge_each_pixel_is_in_one():
    left, right = ([[x, 0], [9.5, 0], [3.5, 10], [x, 10]] for x in (0, 20))
    both = [fill([np.array(ring, float)], Box(0, 0, 10, 20)) for ring in (left, right)]
    assert (both[0] ^ both[1]).all()


@given(arrays.arrays(np.float64, 6, elements=st.floats(-5, 5)), st.floats(-9, 9), st.floats(-9, 9))
def test_the_inverse_of_an_affine_map_leads_back(numbers, x, y):
    place = Affine(*numbers)
    if abs(place.a * place.e - place.b * place.d) > 1e-3:
        np.testing.assert_allclose(place.inverse()(*place(x, y)), (x, y), atol=1e-5)


# A square with a hole, another one beside, and a pen mark over a corner of it; and things without an area.
GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {"type": "Feature", "properties": {"classification": {"name": "tumor"}}, "geometry": {
            "type": "Polygon", "coordinates": [
                [[8, 8], [56, 8], [56, 56], [8, 56], [8, 8]], [[24, 24], [40, 24], [40, 40], [24, 40], [24, 24]]]}},
        {"type": "Feature", "properties": {"classification": {"name": "stroma"}}, "geometry": {
            "type": "MultiPolygon", "coordinates": [[[[64, 0], [128, 0], [128, 40], [64, 40]]]]}},
        {"type": "Feature", "properties": {"classification": {"name": "pen"}}, "geometry": {
            "type": "Polygon", "coordinates": [[[112, 32], [128, 32], [128, 48], [112, 48]]]}},
        {"type": "Feature", "properties": None, "geometry": {"type": "Point", "coordinates": [3, 4]}},
        {"type": "Feature", "properties": {}, "geometry": None},
    ],
}  # fmt: skip
CLASSES = {"tumor": 1, "stroma": 2, "pen": 3}


def drawn(height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), np.uint8)
    mask[8:56, 8:56], mask[24:40, 24:40], mask[:40, 64:], mask[32:48, 112:] = 1, 0, 2, 3
    return mask


@pytest.fixture
def make(tmp_path, no_graphs):
    folder = tmp_path / "data"
    folder.mkdir()
    pixels = np.stack(np.mgrid[:HEIGHT, :WIDTH], axis=-1).astype(np.uint16)
    form = {"tile": (32, 32), "photometric": "minisblack", "planarconfig": "contig"}
    with tifffile.TiffWriter(folder / "a.tif") as writer:
        # From the world: x = 1000 + 2 col, y = 5000 - 2 row.
        tags = [(33550, "d", 3, (2.0, 2.0, 0.0)), (33922, "d", 6, (0.0, 0.0, 0.0, 1000.0, 5000.0, 0.0))]
        writer.write(pixels, subifds=1, extratags=tags, **form)
        writer.write(pixels[::2, ::2], subfiletype=1, **form)
    (folder / "a.png").write_bytes(imagecodecs.png_encode(drawn()))

    def run(text=None, raster=None, input=None, quality=None, max_rejected=0, **patch):
        (folder / "a.geojson").write_text(json.dumps(GEOJSON) if text is None else text)
        rule = {"match": r"\.tif$", "replace": ".geojson"}
        raster = {"file": rule, "classes": CLASSES, "class_from": "classification.name"} | (raster or {})
        values = {
            "input": {"images": f"{folder}/*.tif", "channels": 2, "dtype": "uint16", "rasters": {"area": raster}}
            | (input or {}),
            "output": {"path": str(tmp_path / "out"), "encoding": "raw", "order": "sequential"},
            "patch": {"size": 16} | patch,
            "quality": quality,
            "max_rejected": max_rejected,
        }
        outcome = build(Config.model_validate(values), parse_options(["--direct_num_workers=1"]))
        return open_dataset(outcome.folder), outcome.manifest

    run.folder = folder  # type: ignore[attr-defined]
    return run


def index_of(dataset):
    return pyarrow.dataset.dataset(f"{dataset.folder}/index").to_table().to_pylist()


def place_of(row, size=16):
    return slice(row["row"], row["row"] + size), slice(row["col"], row["col"] + size)


def test_patches_carry_their_polygons_as_a_mask_their_shares_and_the_label_of_most(make):
    dataset, _ = make(label={"raster": "area", "min": 0.3})
    rows = index_of(dataset)
    assert [(row["row"], row["col"]) for row in rows] == sorted((row["row"], row["col"]) for row in rows)
    for row in rows:
        mask = drawn()[place_of(row)]
        np.testing.assert_array_equal(dataset.patch(row, "raster/area")[..., 0], mask)
        share = {name: (mask == value).mean() for name, value in CLASSES.items()}
        assert {name: row[f"cover/area/{name}"] for name in CLASSES} == share
        most = max(CLASSES, key=lambda name: share[name])
        assert row["label"] == (most if share[most] >= 0.3 else "")
    assert {row["label"] for row in rows} == {"tumor", "stroma", "pen", ""}
    assert not list(verify(dataset, 1))


@pytest.mark.parametrize("kind", ["polygons", "mask"])
def test_what_covers_too_little_or_too_much_is_left_out_and_counted(make, kind):
    raster = {} if kind == "polygons" else {"file": {"match": "tif$", "replace": "png"}, "class_from": None}
    cover = {"area": {"stroma": {"min": 0.5}, "pen": {"max": 0}, "any": {"min": 0.75}}}
    dataset, manifest = make(raster=raster, cover=cover, stride=8, edge="drop")
    found = {(row["row"], row["col"]) for row in index_of(dataset)}

    expected, counts = set(), {"area/stroma": 0, "area/pen": 0, "area/any": 0}
    for row in range(0, HEIGHT - 15, 8):
        for col in range(0, WIDTH - 15, 8):
            mask = drawn()[row : row + 16, col : col + 16]
            if (mask == 2).mean() < 0.5:
                counts["area/stroma"] += 1
            elif (mask == 3).any():
                counts["area/pen"] += 1
            elif (mask > 0).mean() < 0.75:
                counts["area/any"] += 1
            else:
                expected.add((row, col))
    assert found == expected
    assert len(expected) > 5
    assert manifest.accounts.filters == counts
    assert manifest.accounts.written == len(expected)


def test_pixels_that_no_polygon_wants_are_not_read(make, monkeypatch):
    read, plain = [], OpenImage.read
    monkeypatch.setattr(OpenImage, "read", lambda image, box: read.append(box) or plain(image, box))
    with pytest.raises(
        TooManyRejectedError, match="no patch was written: 1 images, no rejections, 48 patches filtered"
    ):
        make(text='{"type": "FeatureCollection", "features": []}', cover={"area": {"tumor": {"min": 0.1}}})
    assert not read
    make(cover={"area": {"tumor": {"min": 0.1}}})
    assert read


@pytest.mark.parametrize(("level", "coordinates"), [(1, "pixels"), (0, "world"), (1, "world")])
def test_coordinates_are_those_of_full_resolution_or_of_the_world(make, level, coordinates):
    moved = json.loads(json.dumps(GEOJSON))

    def move(place):
        if isinstance(place[0], list):
            return [move(one) for one in place]
        return [1000 + 2 * place[0], 5000 - 2 * place[1]]

    if coordinates == "world":
        for feature in moved["features"][:-1]:
            feature["geometry"]["coordinates"] = move(feature["geometry"]["coordinates"])
    raster = {"coordinates": coordinates}
    dataset, _ = make(text=json.dumps(moved), raster=raster, input={"level": level})
    mask = drawn()[:: 1 + level, :: 1 + level]
    for row in index_of(dataset):
        np.testing.assert_array_equal(
            dataset.patch(row, "raster/area")[..., 0], np.pad(mask, ((0, 8), (0, 8)), mode="reflect")[place_of(row)]
        )


def test_crops_are_drawn_again_until_a_class_covers_enough(make):
    cover = {"area": {"tumor": {"min": 0.6}}}
    dataset, manifest = make(cover=cover, crops={"per_image": 20, "tries": 200})
    rows = index_of(dataset)
    assert len(rows) == 20
    assert all((drawn()[place_of(row)] == 1).mean() >= 0.6 for row in rows)
    assert manifest.counters["crops_redrawn"] > 20


def test_polygons_of_a_manifest_may_be_missing_or_written_out(make, tmp_path):
    for name in "bcd":
        (make.folder / f"{name}.tif").write_bytes((make.folder / "a.tif").read_bytes())
    ring = [[0, 0], [16, 0], [16, 16], [0, 16]]
    written = json.dumps({"type": "Polygon", "coordinates": [ring]})
    rows = [
        {"uri": "data/a.tif", "regions": written}, {"uri": "data/b.tif", "regions": "data/a.geojson"},
        {"uri": "data/c.tif", "regions": ""}, {"uri": "data/d.tif", "regions": '{"type": "Polygon"}'},
    ]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset, _ = make(
        raster={"file": "regions", "classes": {"region": 1}, "class_from": None},
        input={"manifest": str(tmp_path / "m.jsonl"), "images": []},
        cover={"area": {"region": {"min": 0.5}}},
        max_rejected=1,
    )
    found = {(row["image_id"][-5:], row["row"], row["col"]) for row in index_of(dataset)}
    assert ("a.tif", 0, 0) in found
    assert [row for row in found if row[0] == "a.tif"] == [("a.tif", 0, 0)]
    assert {row[0] for row in found} == {"a.tif", "b.tif"}
    rejected = [json.loads(line) for line in pathlib.Path(dataset.folder, "rejected.jsonl").read_text().splitlines()]
    assert [(row["image_id"][-5:], row["reason"]) for row in rejected] == [("d.tif", "bad_regions")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "JSONDecodeError"),
        ('{"type": "Polygon", "coordinates": [[[1, "x"], [2, 3], [4, 5]]]}', "could not convert"),
        ('{"type": "Polygon", "coordinates": [[[1, NaN], [2, 3], [4, 5]]]}', "not finite"),
        ('{"type": "Polygon", "coordinates": [[[1], [2], [4]]]}', "cannot reshape"),
        ('{"features": 3}', "KeyError"),
        ("[3]", "not subscriptable"),
    ],
)
def test_polygons_that_cannot_be_understood_reject_the_image(make, text, message):
    (make.folder / "a.geojson").write_text(text)
    image = ImageInfo("a.tif", f"{make.folder}/a.tif", "1", HEIGHT, WIDTH, 32, 32, "train", "", "")
    wanted = Input.model_validate(
        {"images": "x", "rasters": {"area": {"file": {"match": "tif$", "replace": "geojson"}, "classes": {"a": 1}}}}
    )
    with pytest.raises(Unreadable, match=message) as caught:
        open_raster(image, "area", wanted.rasters["area"], wanted.max_seconds)
    assert caught.value.reason == "bad_regions"
    assert str(make.folder) not in caught.value.message


def test_a_file_that_is_not_there_is_an_error_of_the_storage(make):
    image = ImageInfo(
        "a.tif", "a.tif", "1", HEIGHT, WIDTH, 32, 32, "train", "", "", polygons=f"{make.folder}/b.geojson"
    )
    wanted = Input.model_validate({"images": "x", "rasters": {"area": {"file": "regions"}}})
    with pytest.raises(Unreadable, match="raster area: cannot be opened") as caught:
        open_raster(image, "area", wanted.rasters["area"], wanted.max_seconds)
    assert caught.value.reason == "io_error"


def test_coordinates_of_the_world_need_an_image_that_has_them():
    image = ImageInfo("a.tif", "a.tif", "1", HEIGHT, WIDTH, 32, 32, "train", "", "", polygons="[]")
    wanted = Input.model_validate({"images": "x", "rasters": {"area": {"file": "regions", "coordinates": "world"}}})
    with pytest.raises(Unreadable, match="does not say where it lies"):
        open_raster(image, "area", wanted.rasters["area"], wanted.max_seconds)
