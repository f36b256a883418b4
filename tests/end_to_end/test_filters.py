"""Scores and filters through the whole flow: what is in the index, what is left out, and that it adds up."""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from helpers import ONE_WORKER, checksums, patches_of, read_index
from PIL import Image

from pipeline.build import build
from pipeline.config import Config
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.verify import verify
from pipeline.errors import TooManyRejectedError
from pipeline.planning import geometry as planning
from pipeline.runners.options import parse_options
from pipeline.shards import write_shards
from transforms import quality

SIZE = 32
pytestmark = pytest.mark.usefixtures("no_graphs")


@pytest.fixture
def images(tmp_path):
    """A tiled image and a photograph of 32 x 32 fields: of colour, grey, flat, missing, and copies of others."""
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(3)
    for name, (down, across) in {"a.tif": (8, 12), "b.png": (5, 4)}.items():
        picture = np.zeros((down * SIZE, across * SIZE, 3), np.uint8)
        fields = []
        for number in range(down * across):
            kind = number % 6
            texture = rng.integers(60, 200, (SIZE, SIZE, 1), np.uint8)
            field = np.broadcast_to(texture, (SIZE, SIZE, 3)).copy()
            if kind == 1:
                field[..., 1:] //= 3  # saturated
            elif kind == 2:
                field[:] = 130  # flat
            elif kind == 3:
                field[: SIZE // 2] = 0  # half missing
            elif kind == 4:
                field = fields[int(rng.integers(len(fields)))].copy()  # a copy of an earlier one
            fields.append(field)
            row, col = divmod(number, across)
            picture[row * SIZE : (row + 1) * SIZE, col * SIZE : (col + 1) * SIZE] = field
        if name.endswith("tif"):
            tifffile.imwrite(root / name, picture, tile=(SIZE, SIZE), photometric="rgb", compression="deflate")
        else:
            Image.fromarray(picture).save(root / name)
    return root


def run(root, out, flags=ONE_WORKER, **sections):
    values = {"input": {"images": [f"{root}/*"]}, "output": {"path": str(out)}, "patch": {"size": SIZE}} | sections
    return build(Config.model_validate(values), parse_options(flags))


def test_every_score_is_in_the_index_and_is_that_of_the_patch(images, tmp_path):
    outcome = run(images, tmp_path / "out", quality={"nodata": 0, "tissue_threshold": 50})
    patches, rows = patches_of(outcome.folder), read_index(outcome.folder)
    assert len(rows) == 8 * 12 + 5 * 4 == outcome.manifest.accounts.written
    expected = quality.score(np.stack([patches[r["image_id"], r["row"], r["col"]] for r in rows]), nodata=0,
                             tissue_threshold=50)  # fmt: skip
    for name, values in expected._asdict().items():
        np.testing.assert_array_equal([row[name] for row in rows], values, err_msg=name)
    assert verify(open_dataset(str(tmp_path / "out")), 2) == []


def test_a_dataset_without_quality_has_no_scores(images, tmp_path):
    rows = read_index(run(images, tmp_path / "out").folder)
    assert not set(rows[0]) & set(quality.Scores._fields)


def test_what_is_kept_is_what_numpy_finds_in_the_unfiltered_dataset(images, tmp_path):
    everything = run(images, tmp_path / "all", quality={"nodata": 0})
    bounds = {"sharpness": {"min": 100}, "nodata": {"max": 0.25}, "tissue": {"min": 0.5, "max": 1}}
    outcome = run(images, tmp_path / "out", quality={"nodata": 0, "keep": bounds})
    named = {
        row["key"]: next(
            (
                name
                for name in ("tissue", "sharpness", "nodata")
                if not bounds[name].get("min", -np.inf) <= row[name] <= bounds[name].get("max", np.inf)  # type: ignore[attr-defined]
            ),
            None,
        )
        for row in read_index(everything.folder)
    }
    accounts = outcome.manifest.accounts

    assert {row["key"] for row in read_index(outcome.folder)} == {key for key, name in named.items() if not name}
    counts = {name: list(named.values()).count(name) for name in set(named.values()) - {None}}
    assert accounts.filters == counts
    assert 0 < accounts.written < accounts.planned == accounts.written + accounts.filtered
    table = pq.read_table(f"{outcome.folder}/images.parquet").to_pylist()
    assert [row["planned"] for row in table] == [row["written"] + row["filtered"] for row in table]
    assert sum(row["filtered"] for row in table) == accounts.filtered == sum(counts.values())
    pixels = json.loads(pathlib.Path(f"{outcome.folder}/statistics.json").read_text())
    assert pixels["splits"]["train"]["channels"][0]["count"] == accounts.written * SIZE * SIZE
    assert verify(open_dataset(str(tmp_path / "out")), 2) == []


def test_the_threshold_of_otsu_is_found_for_each_image(images, tmp_path):
    rows = read_index(run(images, tmp_path / "out", quality={}).folder)
    saturated = {(row["row"] // SIZE * 12 + row["col"] // SIZE) for row in rows
                 if row["image_id"] == "a.tif" and row["tissue"] > 0.5}  # fmt: skip
    assert {number for number in range(96) if number % 6 == 1} <= saturated
    assert all(number % 6 in (1, 4) for number in saturated)


def test_copies_are_left_out_whatever_the_windows_and_threads(images, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "WINDOW_BYTES", 6000)  # two patches
    monkeypatch.setattr(planning, "REGION_PIXELS", 4 * SIZE * SIZE)  # which images whose patches are compared ignore
    outcome = run(images, tmp_path / "one", quality={"duplicates": 2})
    monkeypatch.setattr(write_shards, "cores", lambda: 8)
    other = run(images, tmp_path / "other", ["--direct_num_workers=2"], quality={"duplicates": 2})
    but = ("manifest.json", "inputs.parquet", "receipts", "regions", "shards.parquet")
    assert checksums(outcome.folder, but) == checksums(other.folder, but)

    accounts = outcome.manifest.accounts
    assert accounts.filters == {"duplicates": accounts.filtered}
    assert accounts.planned == accounts.written + accounts.filtered
    kept = {}
    for row in read_index(outcome.folder):
        kept.setdefault(row["image_id"], []).append(row["fingerprint"])
    for prints in (np.array(values, np.uint64) for values in kept.values()):
        distances = np.bitwise_count(prints[:, None] ^ prints[None])
        assert distances[~np.eye(len(prints), dtype=bool)].min() > 2
    unfiltered = run(images, tmp_path / "all", quality={})
    for row in read_index(unfiltered.folder):  # and nothing was left out that has no like
        like = np.bitwise_count(np.array(kept[row["image_id"]], np.uint64) ^ np.uint64(row["fingerprint"]))
        assert like.min() <= 2


def test_a_dataset_of_which_everything_is_filtered_is_not_published(images, tmp_path):
    with pytest.raises(
        TooManyRejectedError, match="no patch was written: 2 images, no rejections, 116 patches filtered"
    ):
        run(images, tmp_path / "out", quality={"keep": {"entropy": {"min": 9}}})


def test_an_image_that_does_not_decode_is_rejected_once_though_its_overview_fails_first(images, tmp_path):
    data = bytearray((images / "b.png").read_bytes())
    data[200] ^= 0xFF
    (images / "b.png").write_bytes(data)
    outcome = run(images, tmp_path / "out", quality={})
    account = outcome.manifest.accounts
    assert (account.rejected, account.reasons) == (20, {"corrupt_data": 1})
    assert account.planned == account.written + account.rejected
