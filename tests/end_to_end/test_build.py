"""From images to a published dataset and back, through the whole flow."""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

import imagecodecs
import numpy as np
import pyarrow.dataset
import pytest
import tensorflow as tf
import tifffile
from helpers import ODD, checksums, configure, patches_of, read_index, run

import pipeline
from pipeline import build as building
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.verify import verify
from pipeline.errors import ConfigError, TooManyRejectedError, Unreadable
from pipeline.inputs.slices import slices_of
from pipeline.planning import inspect_images
from pipeline.versions import lifecycle


@pytest.fixture
def images(tmp_path):
    """Six images of two classes, three formats and unlike sizes, full of noise: no two patches are equal."""
    root = tmp_path / "images"
    for folder in ("cats", "dogs"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = lambda height, width: rng.integers(0, 256, (height, width, 3), np.uint8)
    arrays = {
        "cats/a.png": noise(50, 70),
        "cats/b.png": noise(20, 33),  # smaller than a patch in one direction
        "cats/c.tif": noise(130, 97),
        "dogs/a.png": noise(64, 64),
        "dogs/d.tif": noise(61, 200),
        "dogs/e.tif": noise(1, 1),
    }
    for name, array in arrays.items():
        if name.endswith(".png"):
            (root / name).write_bytes(imagecodecs.png_encode(array))
        else:
            tifffile.imwrite(root / name, array, tile=(32, 16), photometric="rgb", compression="deflate")
    return root, arrays


@pytest.mark.parametrize(
    ("patch", "starts"),
    [
        ({"size": 32, "edge": "pad"}, lambda n: range(0, n, 32)),
        (
            {"size": [32, 32], "stride": 12, "edge": "pad", "pad_mode": "symmetric"},
            lambda n: [0, *range(12, n - 20, 12)]),
        ({"size": 16, "edge": "drop"}, lambda n: range(0, n - 15, 16)),
        ({"size": 20, "stride": 15, "edge": "shift"}, lambda n: [*range(0, n - 20, 15), n - 20] if n >= 20 else []),
    ],
    ids=["side-by-side", "overlap", "drop", "shift"],
)  # fmt: skip
def test_records_hold_exactly_the_patches_that_slicing_the_padded_images_gives(
    images, tmp_path, no_graphs, patch, starts
):
    root, arrays = images
    outcome = run(configure(root, tmp_path / "out", patch=patch, max_rejected=1.0))
    size = patch["size"] if isinstance(patch["size"], int) else patch["size"][0]
    expected = {}
    for name, array in arrays.items():
        padded = np.pad(array, ((0, 64), (0, 64), (0, 0)), mode=patch.get("pad_mode", "reflect"))
        for row in starts(array.shape[0]):
            for col in starts(array.shape[1]):
                expected[name, row, col] = padded[row : row + size, col : col + size]
    found = patches_of(outcome.folder)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    account = outcome.manifest.accounts
    assert account.planned == account.written == len(expected)
    too_small = {name for name, a in arrays.items() if min(a.shape[:2]) < size and patch["edge"] != "pad"}
    assert account.reasons == ({"too_small": len(too_small)} if too_small else {})
    assert verify(open_dataset(str(tmp_path / "out")), threads=2) == []


def test_tensorflow_datasets_reads_it_without_our_code(images, tmp_path, no_graphs):
    root, _ = images
    outcome = run(configure(root, tmp_path / "out", output={"shard_size": "10KB"}))
    program = (
        "import sys, tensorflow_datasets as tfds; b = tfds.builder_from_directory(sys.argv[1])\n"
        "import json, hashlib; out = {}\n"
        "for split in b.info.splits:\n"
        "    for e in b.as_dataset(split=split):\n"
        "        out[e['key'].numpy().decode()] = [split, e['label'].numpy().decode(), int(e['row']),"
        " hashlib.sha256(e['image'].numpy().tobytes()).hexdigest()]\n"
        "assert 'pipeline' not in sys.modules; print(json.dumps(out))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program, outcome.folder], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    images_by_place = patches_of(outcome.folder)
    expected = {
        row["key"]: [
            row["split"],
            row["image_id"].split("/")[0],
            row["row"],
            hashlib.sha256(images_by_place[row["image_id"], row["row"], row["col"]].tobytes()).hexdigest(),
        ]
        for row in read_index(outcome.folder)
    }
    assert json.loads(printed.stdout) == expected
    shards = open_dataset(outcome.folder).shard_table()["records"].to_pylist()
    assert len(shards) == 12 and 0 in shards  # empty ones are files, too


@pytest.mark.parametrize(
    ("dtype", "channels", "encoding"),
    [("uint16", 1, "png"), ("uint16", 3, "png"), ("float32", 5, "raw"), ("uint8", 4, "png")],
)
def test_every_dtype_arrives_bit_by_bit_and_load_gives_it_back(tmp_path, no_graphs, dtype, channels, encoding):
    rng = np.random.default_rng(1)
    array = rng.normal(0, 1e4, (70, 90, channels)).astype(np.float32)
    array = array if dtype == "float32" else rng.integers(0, np.iinfo(dtype).max + 1, array.shape).astype(dtype)
    (tmp_path / "in").mkdir()
    planar = {"planarconfig": "contig"} if channels > 1 else {}
    tifffile.imwrite(tmp_path / "in/x.tif", array, tile=(16, 16), photometric="minisblack", **planar)
    config = configure(
        tmp_path / "in", tmp_path / "out", input={"channels": channels, "dtype": dtype}, output={"encoding": encoding},
        splits={"train": 1.0},
    )  # fmt: skip
    outcome = run(config)
    padded = np.pad(array, ((0, 26), (0, 6), (0, 0)), mode="reflect")
    elements = list(pipeline.load(str(tmp_path / "out"), "train").as_numpy_iterator())
    assert len(elements) == 9
    for element in elements:
        row, col = element["row"], element["col"]
        assert element["image"].dtype == dtype
        np.testing.assert_array_equal(element["image"], padded[row : row + 32, col : col + 32])
        assert (element["image_id"], element["dtype"], element["label"]) == (b"x.tif", dtype.encode(), b"")
    assert verify(open_dataset(outcome.folder), threads=1) == []
    if encoding == "raw":  # with pyarrow and NumPy alone
        row = read_index(outcome.folder)[-1]
        data = np.fromfile(f"{outcome.folder}/{row['shard']}", "<f4", 32 * 32 * channels, offset=row["image_offset"])
        expected = padded[row["row"] : row["row"] + 32, row["col"] : row["col"] + 32]
        np.testing.assert_array_equal(data.reshape(32, 32, channels), expected)


def test_statistics_and_normalisation_equal_numpy_over_all_pixels(images, tmp_path):
    import keras

    root, _ = images
    outcome = run(configure(root, tmp_path / "out", output={"shard_size": "20KB"}))
    statistics = open_dataset(outcome.folder).statistics()
    pixels = {split: [] for split in ("train", "test")}
    images_by_place = patches_of(outcome.folder)
    for row in read_index(outcome.folder):
        pixels[row["split"]].append(images_by_place[row["image_id"], row["row"], row["col"]])
    for split, patches in pixels.items():
        flat = np.stack(patches).reshape(-1, 3).astype(np.float64)
        for number, channel in enumerate(statistics["splits"][split]["channels"]):
            values = flat[:, number]
            assert channel["count"] == len(values)
            np.testing.assert_allclose(
                [channel["mean"], channel["std"], channel["min"], channel["max"]],
                [values.mean(), values.std(), values.min(), values.max()],
                rtol=1e-6,
            )
            assert channel["histogram"]["counts"] == np.bincount(values.astype(int), minlength=256).tolist()
            for quantile, value in channel["quantiles"].items():
                assert value == np.quantile(values, float(quantile), method="inverted_cdf")
    train = np.stack(pixels["train"])
    flat = train.reshape(-1, 3).astype(np.float64)
    assert statistics["normalization"]["split"] == "train"
    expected = (train - flat.mean(0)) / flat.std(0)

    model = tf.saved_model.load(f"{outcome.folder}/normalize")
    batches = tf.data.Dataset.from_tensor_slices(train).batch(4).map(model)
    np.testing.assert_allclose(np.concatenate(list(batches.as_numpy_iterator())), expected, atol=2e-6)
    layer = keras.layers.TFSMLayer(f"{outcome.folder}/normalize", call_endpoint="serving_default")
    np.testing.assert_allclose(layer(train[:3])["image"], expected[:3], atol=2e-6)
    program = (
        "import sys, numpy as np, tensorflow as tf, tensorflow_transform as tft\n"
        "layer = tft.TFTransformOutput(sys.argv[1]).transform_features_layer()\n"
        "patches = np.load(sys.argv[2])\n"
        "ds = tf.data.Dataset.from_tensor_slices(patches).batch(4).map(lambda x: layer({'image': x})['image'])\n"
        "np.save(sys.argv[2], np.concatenate(list(ds.as_numpy_iterator())))"
    )
    np.save(tmp_path / "patches.npy", train)
    subprocess.run([sys.executable, "-c", program, outcome.folder, str(tmp_path / "patches.npy")], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "patches.npy"), expected, atol=2e-6)
    labels = pathlib.Path(outcome.folder, "transform_fn/assets/labels").read_text().split()
    assert labels == list(statistics["splits"]["train"]["labels"])


def test_bytes_depend_on_the_images_and_the_configuration_alone(images, tmp_path, no_graphs, monkeypatch):
    """One worker, threads, processes, another order of the images, another place: all files are equal.

    The graphs of the normalisation are compared where a killed build is resumed.
    """
    root, _ = images
    small = {"shard_size": "20KB"}
    first = run(configure(root, tmp_path / "one", output=small))
    expected = checksums(first.folder)
    assert {"statistics.json", "images.parquet", "rejected.jsonl"} < expected.keys()
    threads = run(configure(root, tmp_path / "threads", output=small), ["--direct_num_workers=3"])
    assert checksums(threads.folder) == expected
    processes = run(
        configure(root, tmp_path / "processes", output=small),
        ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
    )
    assert checksums(processes.folder) == expected
    monkeypatch.setattr("pipeline.inputs.slices._IMAGES_PER_SLICE", (2, 2))
    monkeypatch.setattr("pipeline.planning.plan_shards._GATHERED", 3)
    monkeypatch.setattr(building, "slices_of", lambda images: slices_of(images)[::-1])
    turned = run(configure(root, tmp_path / "turned", output=small))
    assert checksums(turned.folder) == expected
    shutil.copytree(root, tmp_path / "elsewhere", copy_function=shutil.copyfile)  # other times, too
    moved = run(configure(tmp_path / "elsewhere", tmp_path / "moved", output=small))
    machine = ("manifest.json", "inputs.parquet", "receipts/", "regions/", "shards.parquet")
    assert checksums(moved.folder, machine) == checksums(first.folder, machine)


def test_adding_images_moves_no_other_patch(images, tmp_path, no_graphs):
    root, _ = images
    place = lambda folder: {row["key"]: (row["split"], row["shard"]) for row in read_index(folder)}
    config = configure(root, tmp_path / "out", output={"shard_size": "100KB"})
    before = place(run(config).folder)
    (root / "dogs/new.png").write_bytes(imagecodecs.png_encode(np.zeros((40, 40, 3), np.uint8)))
    after = place(run(config).folder)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 4


def test_shuffled_shards_are_in_digest_order_and_sequential_ones_in_image_order(images, tmp_path, no_graphs):
    root, _ = images
    keys = {}
    for order in ("shuffled", "sequential"):
        config = configure(root, tmp_path / order, output={"order": order}, splits={"train": 1.0})
        rows = read_index(run(config).folder)
        keys[order] = [(row["image_id"], row["row"], row["col"]) for row in rows]
        assert [row["record"] for row in rows] == list(range(len(rows)))
    assert keys["sequential"] == sorted(keys["sequential"])
    assert keys["shuffled"] != keys["sequential"]
    assert sorted(keys["shuffled"]) == keys["sequential"]


def test_groups_stay_together_and_labels_come_from_an_expression(images, tmp_path, no_graphs):
    root, _ = images
    names = {"label": {"regex": "^(c|d)"}, "group": "folder"}
    outcome = run(configure(root, tmp_path / "out", input=names, splits={"train": 0.5, "test": 0.5}))
    found = {(row["group"], row["label"], row["split"]) for row in read_index(outcome.folder)}
    assert len(found) == 2
    assert {(group, label) for group, label, _ in found} == {("cats", "c"), ("dogs", "d")}


@pytest.fixture
def bad_images(images):
    """What real sets hold: each kind of broken file, beside good ones."""
    root, arrays = images
    shutil.copy(ODD / "truncated_jpeg.jpg", root / "truncated.jpg")
    shutil.copy(ODD / "pil_sample_cmyk.jpg", root / "cmyk.jpg")
    (root / "empty.jpg").write_bytes(b"")
    (root / "page.jpg").write_bytes(b"<!DOCTYPE html><title>404</title>")
    array = np.random.default_rng(2).integers(0, 256, (128, 128, 3), np.uint8)
    tifffile.imwrite(root / "tile.tif", array, tile=(32, 32), photometric="rgb", compression="deflate")
    with tifffile.TiffFile(root / "tile.tif") as tiff:
        offset, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    with open(root / "tile.tif", "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * count)
    return root, arrays, array


def test_bad_images_and_bad_tiles_are_rejected_with_a_reason_and_everything_else_is_written(
    bad_images, tmp_path, no_graphs
):
    root, arrays, array = bad_images
    outcome = run(configure(root, tmp_path / "out", max_rejected=0.9))
    rows = [json.loads(line) for line in pathlib.Path(outcome.folder, "rejected.jsonl").read_text().splitlines()]
    rows = {row["image_id"]: row for row in rows}
    where = lambda row: (
        row["stage"],
        row["reason"],
        row["row"],
        row["col"],
        row["height"],
        row["width"],
        row["patches"],
    )
    assert {image_id: where(row) for image_id, row in rows.items()} == {  # type: ignore[attr-defined]
        "empty.jpg": ("inspect", "empty_file", -1, -1, -1, -1, 0),
        "page.jpg": ("inspect", "unknown_format", -1, -1, -1, -1, 0),
        "cmyk.jpg": ("inspect", "format_mismatch", -1, -1, -1, -1, 0),
        "truncated.jpg": ("read", "corrupt_data", 0, 0, 100, 100, 16),
        "tile.tif": ("read", "corrupt_data", 32, 32, 32, 32, 1),
    }
    assert "web page" in rows["page.jpg"]["message"]
    found = patches_of(outcome.folder)
    assert {name for name, _, _ in found} == {*arrays, "tile.tif"}
    tiles = {(row, col) for row in range(0, 128, 32) for col in range(0, 128, 32)} - {(32, 32)}
    assert {(row, col) for name, row, col in found if name == "tile.tif"} == tiles
    assert all(np.array_equal(found["tile.tif", r, c], array[r : r + 32, c : c + 32]) for r, c in tiles)
    account = outcome.manifest.accounts
    assert account.planned == account.written + account.filtered + account.rejected
    assert (account.rejected, account.images, account.images_rejected) == (17, 11, 5)
    table = pyarrow.dataset.dataset(f"{outcome.folder}/images.parquet").to_table().to_pylist()
    by_image = {row["image_id"]: (row["planned"], row["written"], row["rejected"], row["reason"]) for row in table}
    assert by_image["tile.tif"] == (16, 15, 1, None)
    assert by_image["empty.jpg"] == (0, 0, 0, "empty_file")
    assert len(by_image) == 11


def test_too_many_rejections_publish_nothing_and_a_higher_limit_reuses_the_shards(bad_images, tmp_path, no_graphs):
    root, _, _ = bad_images
    with pytest.raises(TooManyRejectedError, match=r"5 of 11 images have rejections .*max_rejected: 0\.01 allows 1"):
        run(configure(root, tmp_path / "out"))
    assert lifecycle.latest(str(tmp_path / "out")) is None
    outcome = run(configure(root, tmp_path / "out", max_rejected=0.5))
    assert outcome.manifest.counters == {"images_opened": 11, "shards_reused": 2}
    assert verify(open_dataset(str(tmp_path / "out")), threads=1) == []


def test_a_set_without_a_single_good_patch_fails_whatever_the_limit(tmp_path, no_graphs):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.png").write_bytes(b"")
    with pytest.raises(TooManyRejectedError, match=r"no patch was written: 1 images, 1 x empty_file"):
        run(configure(tmp_path / "in", tmp_path / "out", max_rejected=1.0))


def test_a_pattern_that_finds_nothing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="matches no file"):
        run(configure(tmp_path / "nowhere", tmp_path / "out"))


def test_an_unchanged_second_build_does_nothing_and_a_changed_one_is_a_new_version(images, tmp_path, no_graphs):
    root, _ = images
    config = configure(root, tmp_path / "out")
    first = run(config)
    assert not first.unchanged
    again = run(config)
    assert (again.unchanged, again.folder) == (True, first.folder)
    before = checksums(first.folder, but=())
    (root / "cats/a.png").unlink()
    changed = run(config)
    assert not changed.unchanged and changed.folder != first.folder
    assert checksums(first.folder, but=()) == before
    assert {row["image_id"] for row in read_index(changed.folder)} == {
        "cats/b.png", "cats/c.tif", "dogs/a.png", "dogs/d.tif", "dogs/e.tif"
    }  # fmt: skip
    assert open_dataset(str(tmp_path / "out")).folder == changed.folder
    assert open_dataset(str(tmp_path / "out"), pathlib.Path(first.folder).name).folder == first.folder


def test_a_build_that_dies_leaves_the_published_version_and_its_own_shards_to_the_next(
    images, tmp_path, no_graphs, monkeypatch
):
    root, _ = images
    config = configure(root, tmp_path / "out", output={"shard_size": "20KB"})
    first = run(config)
    before = checksums(first.folder, but=())
    (root / "dogs/new.png").write_bytes(imagecodecs.png_encode(np.zeros((40, 40, 3), np.uint8)))
    with monkeypatch.context() as patched:

        def fail(*_):
            raise RuntimeError("the power went out")

        patched.setattr(building, "check_budget", fail)
        with pytest.raises(RuntimeError, match="power"):
            run(config)
    assert open_dataset(str(tmp_path / "out")).folder == first.folder
    assert checksums(first.folder, but=()) == before
    finished = run(config)
    shards = sum(split.shards for split in finished.manifest.splits.values())
    assert finished.manifest.counters == {"images_opened": 1, "shards_reused": shards}
    clean = run(configure(root, tmp_path / "clean", output={"shard_size": "20KB"}))
    assert checksums(finished.folder) == checksums(clean.folder)


def test_what_an_attempt_left_of_more_images_is_not_counted(images, tmp_path, no_graphs, monkeypatch):
    root, _ = images
    config = configure(root, tmp_path / "out", output={"shard_size": "20KB"})
    monkeypatch.setattr("pipeline.inputs.slices._IMAGES_PER_SLICE", (2, 2))
    with monkeypatch.context() as patched:
        patched.setattr(building, "collect", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(config)
    left = {path.name for path in (tmp_path / "out").glob("versions/*/work/images-*")}
    assert left == {f"images-{number:05d}-of-00003.parquet" for number in range(3)}
    for name in ("cats/a.png", "dogs/d.tif"):
        (root / name).unlink()
    finished = run(config)
    assert finished.manifest.accounts.images == 4
    assert len(list((tmp_path / "out/versions").iterdir())) == 1
    clean = run(configure(root, tmp_path / "clean", output={"shard_size": "20KB"}))
    assert checksums(finished.folder) == checksums(clean.folder)
    assert finished.manifest.accounts == clean.manifest.accounts


def test_an_image_that_changes_under_the_build_is_rejected_and_its_shard_is_not_reused(
    images, tmp_path, no_graphs, monkeypatch
):
    root, _ = images
    inspect_image = inspect_images.inspect_image

    def then_replace(ref, config):
        info = inspect_image(ref, config)
        if ref.image_id == "cats/a.png":
            pathlib.Path(ref.uri).write_bytes(imagecodecs.png_encode(np.zeros((9, 9, 3), np.uint8)))
        return info

    with monkeypatch.context() as patched:
        patched.setattr(inspect_images, "inspect_image", then_replace)
        with pytest.raises(TooManyRejectedError, match="1 x changed"):
            run(configure(root, tmp_path / "out", max_rejected=0.0))


def test_a_shard_with_a_transient_error_is_written_again(images, tmp_path, no_graphs, monkeypatch):
    from pipeline.shards import open_image

    root, _ = images
    config = configure(root, tmp_path / "out", splits={"train": 1.0})
    with monkeypatch.context() as patched:

        def offline(uri, wanted):
            raise Unreadable("io_error", "the storage does not answer")

        patched.setattr(open_image, "open_to_scale", offline)
        with pytest.raises(TooManyRejectedError, match="no patch was written"):
            run(config)
    outcome = run(config)
    assert outcome.manifest.counters["shards_written"] == 1
    assert outcome.manifest.accounts.rejected == 0
