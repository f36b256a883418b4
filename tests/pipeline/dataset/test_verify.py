"""A damaged dataset: verify names the file and the record."""

import json
import pathlib
import shutil
from unittest.mock import MagicMock

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import rewrite_manifest

from pipeline.build import build
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.verify import verify
from pipeline.elements import FORMAT, READABLE
from pipeline.errors import DatasetError, FormatError
from pipeline.runners.options import parse_options

SHARD, INDEX = "patches-train.tfrecord-00000-of-00001", "index/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, make_config):
    folder = tmp_path_factory.mktemp("verify")
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    (folder / "a.png").write_bytes(imagecodecs.png_encode(noise))
    config = make_config(
        input={"images": str(folder / "*.png")}, output={"path": str(folder / "out")}, patch={"size": 16}
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.build.graphs_program", MagicMock())
        return build(config, parse_options(["--direct_num_workers=1"])).folder


@pytest.fixture
def copy(whole, tmp_path):
    return pathlib.Path(shutil.copytree(whole, tmp_path / "version"))


def problems(folder):
    return verify(open_dataset(str(folder)), threads=2)


def change_index(folder, change):
    rows = pq.read_table(folder / INDEX)
    values = rows.to_pylist()
    change(values)
    pq.write_table(pa.Table.from_pylist(values, rows.schema), folder / INDEX)


def test_a_whole_dataset_has_no_problems(copy):
    assert problems(copy) == []


def test_a_flipped_bit_is_found_in_its_record(copy):
    row = pq.read_table(copy / INDEX).to_pylist()[5]
    data = bytearray((copy / SHARD).read_bytes())
    data[row["image_offset"] + 20] ^= 1
    (copy / SHARD).write_bytes(data)
    assert problems(copy) == [f"{SHARD}: record 5 at byte {row['offset'] - 12}: the checksum of its content is wrong"]


def test_a_shard_that_is_cut_short_or_missing_is_found(copy):
    data = (copy / SHARD).read_bytes()
    (copy / SHARD).write_bytes(data[:-10])
    assert [p for p in problems(copy) if "record 11" in p and "checksum of its content" in p]
    last = pq.read_table(copy / INDEX).to_pylist()[-1]
    (copy / SHARD).write_bytes(data[: last["offset"] - 12])
    assert f"{SHARD}: holds 11 records, the manifest says 12, the index 12" in problems(copy)
    (copy / SHARD).unlink()
    assert problems(copy) == [f"{SHARD}: is missing"]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("offset", "offset"),
        ("image_offset", "image offset"),
        ("row", "the index says {"),
        ("label", "the index says {"),
    ],
)
def test_a_wrong_index_is_found_in_its_record(copy, column, said):
    change_index(copy, lambda rows: rows[3].update({column: "dog" if column == "label" else rows[3][column] + 1}))
    found = problems(copy)
    assert any(p.startswith(f"{SHARD}: record 3 ") and said in p for p in found), found
    assert any(p.startswith(f"{INDEX}: sha256 is") for p in found)


def test_changed_missing_and_added_files_are_found(copy):
    (copy / "statistics.json").write_text("{}")
    (copy / "images.parquet").unlink()
    (copy / "notes.txt").write_text("mine")
    found = problems(copy)
    assert found[0] == "images.parquet: is missing"
    assert found[1] == "notes.txt: is not in the manifest"
    assert found[2].startswith("statistics.json: sha256 is ")
    assert len(found) == 3


def test_accounts_that_do_not_add_up_are_found(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["accounts"]["written"] -= 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="was changed after it was written"):
        problems(copy)
    rewrite_manifest(copy, lambda manifest: None)  # as a build that adds up wrongly would write it
    assert len(problems(copy)) == 2


def test_a_table_of_shards_with_a_path_for_a_name_is_refused(copy):
    rows = pq.read_table(copy / "shards.parquet").to_pylist()
    rows[0]["shard"] = "../../secret"
    pq.write_table(pa.Table.from_pylist(rows), copy / "shards.parquet")
    with pytest.raises(DatasetError, match=r"'../../secret' is no name of a shard"):
        problems(copy)


def test_a_table_of_shards_that_is_broken_or_missing_is_found(copy):
    (copy / "shards.parquet").write_bytes(b"PAR1 and then nothing")
    assert [problem.partition(": ")[0] for problem in problems(copy)] == ["shards.parquet"]
    (copy / "shards.parquet").unlink()
    assert [problem.partition(": ")[0] for problem in problems(copy)] == ["shards.parquet"]


def test_a_receipt_that_changed_is_found(copy):
    receipt = next((copy / "receipts").iterdir())
    receipt.write_bytes(receipt.read_bytes() + b" ")
    (problem,) = problems(copy)
    assert problem.startswith(f"receipts/{receipt.name}: sha256 is ")


@pytest.mark.parametrize(("written", "way_out"), [(1, "build it again"), (99, "install a newer one")])
def test_a_dataset_of_another_format_is_refused_with_the_way_out(copy, written, way_out):
    manifest = json.loads((copy / "manifest.json").read_text()) | {"format": written}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match=f"has format {written}, .* reads formats 3 to {FORMAT}; {way_out}"):
        problems(copy)


@pytest.mark.parametrize("written", [3, FORMAT])
def test_a_dataset_of_every_readable_format_is_verified(copy, written):
    assert written in READABLE
    rewrite_manifest(copy, lambda manifest: manifest.update(format=written))
    assert open_dataset(str(copy)).manifest.format == written
    assert problems(copy) == []
