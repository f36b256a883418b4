"""Patches around points: their middles, borders, labels and accounts."""

import json
import math
import pathlib

import numpy as np
import pyarrow.dataset
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.build import build
from pipeline.config import Config
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.stitch import stitch_image
from pipeline.dataset.verify import verify
from pipeline.errors import UsageError
from pipeline.runners.options import parse_options
from transforms.centred import centred_start

SHAPE = (60, 90)
IMAGE = np.stack(np.mgrid[: SHAPE[0], : SHAPE[1]], axis=-1).astype(np.uint16)
CSV = "x,y,kind\n30,20,mitosis\n30.2,20.4,twin\n1,1,corner\n89.5,59.5,\n-1,5,outside\n"


@given(st.floats(0, 50), st.integers(1, 20), st.integers(1, 50))
def test_the_centre_of_a_padded_patch_is_at_most_half_a_pixel_from_its_point(point, span, length):
    start = centred_start(point, span, length, "pad")

    assert (start is None) == (point > length)
    if start is not None:
        assert abs(start + span / 2 - point) <= 0.5 + 1e-9
        inside = 0 <= start and start + span <= length
        assert centred_start(point, span, length, "drop") == (start if inside else None)
        shifted = centred_start(point, span, length, "shift")
        assert (shifted is None) == (span > length)
        assert shifted is None or shifted == min(max(start, 0), length - span)


@pytest.fixture
def make(tmp_path, no_graphs):
    (tmp_path / "data").mkdir()
    tifffile.imwrite(tmp_path / "data/a.tif", IMAGE, tile=(16, 16), photometric="minisblack", planarconfig="contig")

    def run(points, suffix="csv", label="kind", max_rejected=0, **patch):
        (tmp_path / f"data/a.{suffix}").write_text(points)
        rule = {"match": r"\.tif$", "replace": f".{suffix}"}
        values = {
            "input": {
                "images": f"{tmp_path}/data/*.tif", "channels": 2, "dtype": "uint16",
                "points": {"file": rule, "label": label},
            },
            "output": {"path": str(tmp_path / "out"), "encoding": "raw"},
            "patch": {"size": [6, 9]} | patch,
            "max_rejected": max_rejected,
        }  # fmt: skip
        outcome = build(Config.model_validate(values), parse_options(["--direct_num_workers=1"]))
        return open_dataset(outcome.folder), outcome

    return run


def index_of(dataset):
    rows = pyarrow.dataset.dataset(f"{dataset.folder}/index").to_table().to_pylist()
    return {(row["row"], row["col"]): row for row in rows}


@pytest.mark.parametrize(
    ("edge", "expected"),
    [
        ("pad", {(17, 26): "mitosis", (-2, -3): "corner", (57, 85): ""}),
        ("drop", {(17, 26): "mitosis"}),
        ("shift", {(17, 26): "mitosis", (0, 0): "corner", (54, 81): ""}),
    ],
)
def test_patches_lie_around_their_points_and_have_their_labels(make, edge, expected):
    dataset, outcome = make(CSV, edge=edge)
    found = index_of(dataset)

    assert {place: row["label"] for place, row in found.items()} == expected
    padded = np.pad(IMAGE, ((9, 9), (9, 9), (0, 0)), mode="reflect")
    for (row, col), entry in found.items():
        np.testing.assert_array_equal(dataset.patch(entry), padded[row + 9 : row + 15, col + 9 : col + 18])
    assert outcome.manifest.accounts.planned == outcome.manifest.accounts.written == len(expected)
    assert verify(dataset, threads=1) == []


def test_geojson_is_read_as_csv_is(make):
    point = lambda x, y, kind: {
        "type": "Feature", "properties": {"kind": kind}, "geometry": {"type": "Point", "coordinates": [x, y]},
    }  # fmt: skip
    many = {
        "type": "Feature",
        "properties": None,
        "geometry": {"type": "MultiPoint", "coordinates": [[1, 1], [50, 40]]},
    }
    text = json.dumps({"type": "FeatureCollection", "features": [point(30, 20, "mitosis"), many]})
    dataset, _ = make(text, "geojson", edge="pad")

    assert {place: row["label"] for place, row in index_of(dataset).items()} == {
        (17, 26): "mitosis", (-2, -3): "", (37, 46): "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "points: ValueError: no column 'col'; there are a, b"),
        ("x,y,kind\n1,nan,\n", "points: ValueError: 'nan' is no coordinate"),
        ('{"type": "Polygon", "coordinates": []}', "points: ValueError: a Polygon is no point"),
    ],
)
def test_points_that_cannot_be_understood_reject_their_image(make, tmp_path, text, said):
    tifffile.imwrite(tmp_path / "data/b.tif", IMAGE, tile=(16, 16), photometric="minisblack", planarconfig="contig")
    (tmp_path / "data/b.csv").write_text(CSV)
    dataset, _ = make(text, max_rejected=1)
    (line,) = pathlib.Path(dataset.folder, "rejected.jsonl").read_text().splitlines()

    assert (json.loads(line)["reason"], json.loads(line)["message"]) == ("bad_points", said)


def test_patches_around_points_are_not_stitched(make, tmp_path):
    dataset, _ = make(CSV, edge="pad")

    with pytest.raises(UsageError, match="patches around points do not cover an image"):
        stitch_image(dataset, "a.tif", str(tmp_path / "x.tif"))


def test_a_centre_in_the_middle_of_an_odd_patch():
    assert [centred_start(k, 5, 99, "pad") + 2 for k in range(3, 9)] == list(range(3, 9))
    assert math.isclose(centred_start(4.0, 4, 99, "pad"), 2)
