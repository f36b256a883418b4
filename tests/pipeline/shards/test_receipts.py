"""Receipts summed in groups come to what they come to at once, in any order, and nothing may be missing."""

import json
import random

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as _TestPipeline

from pipeline import storage
from pipeline.elements import Rejected, ShardPlan, ShardResult, receipt_file
from pipeline.shards import receipts
from transforms import pixel_statistics


def make_receipt(name, number, pixels):
    """A receipt whose numbers follow from its own number, of images that other shards hold, too."""
    rejected = (Rejected("read", "corrupt_data", "x", f"i{number % 3}", 0, 0, 0, 8, 8, 2),) if number % 4 == 1 else ()
    images = {f"i{number % 3}": (number + 3, number, 1, 2 if rejected else 0), f"j{number}": (1, 1, 0, 0)}
    return ShardResult(
        plan=f"plan {number}", shard=name, records=number + 1, bytes=100 + number, sha256="a" * 64, index_bytes=7,
        index_sha256="b" * 64, regions_bytes=8, regions_sha256="c" * 64, images=images, labels={"cat": number, "": 1},
        filtered={"tissue": 1}, rejected=rejected,
        pixel_statistics=pixel_statistics.to_json(pixel_statistics.measure(pixels)),
    )  # fmt: skip


@pytest.fixture
def written(tmp_path, monkeypatch):
    """(folder, made, pixels) of eleven shards of floats, to be summed in groups of four."""
    monkeypatch.setattr(receipts, "GROUP", 4)
    pixels = np.random.default_rng(0).normal(50, 30, (11, 2, 8, 8, 3)).astype(np.float32)
    names = [ShardPlan("train", number, 11, ()).name for number in range(11)]
    made = [make_receipt(name, number, pixels[number]) for number, name in enumerate(names)]
    for receipt in made:
        data = json.dumps(receipt.to_json()).encode()
        storage.write_bytes(storage.join(str(tmp_path), receipt_file(receipt.shard)), data)
    return str(tmp_path), made, pixels


def sum_up(folder, names, work):
    with _TestPipeline(runner="FnApiRunner", argv=[]) as p:
        p | beam.Create(names) | receipts.SumReceipts(folder, work)


def test_the_sums_are_those_of_all_receipts_at_once(written, tmp_path):
    folder, made, pixels = written
    sum_up(folder, [receipt.shard for receipt in made], str(tmp_path / "work"))
    found = receipts.read_sums(str(tmp_path / "work"), "train", 11)

    assert found.records == sum(range(1, 12))
    for name in ("shard", "records", "bytes", "index_bytes"):
        assert found.shards[name].to_pylist() == [getattr(receipt, name) for receipt in made]
    assert found.shards["rejected"].to_pylist() == [int(number % 4 == 1) for number in range(11)]
    assert found.labels == {"cat": sum(range(11)), "": 11}
    assert sorted(found.rejected) == sorted(row for receipt in made for row in receipt.rejected)
    assert found.filtered == {"tissue": 11}
    counted = {image_id: tuple(counts) for image_id, *counts in map(dict.values, found.images.to_pylist())}
    of = lambda i, n: sum(receipt.images.get(i, (0, 0, 0, 0))[n] for receipt in made)
    ids = {image_id for receipt in made for image_id in receipt.images}
    assert counted == {image_id: tuple(of(image_id, n) for n in range(4)) for image_id in ids}
    flat = pixels.reshape(-1, 3).astype(np.float64)
    assert found.pixel_statistics.count.tolist() == [len(flat)] * 3
    np.testing.assert_allclose(found.pixel_statistics.mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.pixel_statistics.m2 / len(flat), flat.var(axis=0), rtol=1e-12)


def test_tf_transform_gets_a_row_for_each_group_and_label_that_add_up(written, tmp_path):
    folder, made, pixels = written
    sum_up(folder, [receipt.shard for receipt in made], str(tmp_path / "work"))
    rows = receipts.read_sums(str(tmp_path / "work"), "train", 11).rows
    assert len(rows) == 3 * 2
    total = lambda name: np.sum([row[name] for row in rows], axis=0)
    flat = pixels.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(total("count"), len(flat))
    np.testing.assert_allclose(total("total"), flat.sum(axis=0))
    np.testing.assert_allclose(total("squares"), np.square(flat).sum(axis=0))
    assert sum(row["label_count"][0] for row in rows if row["label"] == ["cat"]) == sum(range(11))


def test_neither_order_nor_repetition_of_the_names_changes_a_byte(written, tmp_path):
    folder, made, _ = written
    names = [receipt.shard for receipt in made]
    sum_up(folder, names, str(tmp_path / "one"))
    mixed = [*names, *names[3:5]]
    random.Random(1).shuffle(mixed)
    sum_up(folder, mixed, str(tmp_path / "two"))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert len(one) == 3 and one == two


@pytest.mark.parametrize("lost", [0, 5, 10])
def test_a_missing_shard_is_an_error_of_the_program(written, tmp_path, lost):
    folder, made, _ = written
    names = [receipt.shard for receipt in made if receipt.shard != made[lost].shard]
    sum_up(folder, names, str(tmp_path / "work"))
    with pytest.raises(RuntimeError, match="10 of 11 shards have receipts"):
        receipts.read_sums(str(tmp_path / "work"), "train", 11)


def test_groups_stay_in_order_where_the_numbers_of_the_shards_grow_by_a_digit(tmp_path):
    numbers = [99_999, 100_000, 100_001]
    names = [ShardPlan("train", number, 1 << 17, ()).name for number in numbers]
    pixels = np.zeros((1, 2, 2, 1), np.uint8)
    for number, name in zip(numbers, names):
        data = json.dumps(make_receipt(name, number, pixels).to_json()).encode()
        storage.write_bytes(storage.join(str(tmp_path), receipt_file(name)), data)
    sum_up(str(tmp_path), names[::-1], str(tmp_path / "work"))
    (group,) = (tmp_path / "work").iterdir()
    assert [shard["shard"] for shard in json.loads(group.read_text())["shards"]] == names
