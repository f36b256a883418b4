"""Augmented copies and random crops through the whole flow."""

import collections
import json
import pathlib

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
import tifffile
from helpers import ONE_WORKER, SAMPLES, checksums, read_index
from PIL import Image

import pipeline
from pipeline.build import build
from pipeline.config import Config
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.verify import verify
from pipeline.elements import digest
from pipeline.planning import geometry as planning
from pipeline.runners.options import parse_options
from transforms.augment import Augmenter, Change, Ranges
from transforms.crops import crop_start
from transforms.stain import density, macenko

SIZE = 24
pytestmark = pytest.mark.usefixtures("no_graphs")


@pytest.fixture
def images(tmp_path):
    """Noise, tiled and whole, larger and smaller than a patch."""
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(3)
    arrays = {}
    for name, shape in {"a.tif": (150, 130), "b.png": (60, 75), "c.png": (10, 90), "d.png": (40, 40)}.items():
        arrays[name] = rng.integers(0, 256, (*shape, 3), np.uint8)
        if name.endswith("tif"):
            tifffile.imwrite(root / name, arrays[name], tile=(32, 32), photometric="rgb", compression="deflate")
        else:
            Image.fromarray(arrays[name]).save(root / name)
    return root, arrays


def run(root, out, flags=ONE_WORKER, **sections):
    values = {
        "input": {"images": [f"{root}/*"]},
        "output": {"path": str(out)},
        "patch": {"size": SIZE},
        "splits": {"train": 0.5, "test": 0.5},
        "seed": 2,
    } | sections
    return build(Config.model_validate(values), parse_options(flags))


def records_of(out):
    """Every record of a dataset, as pipeline.load gives it, by its key."""
    found = {}
    for split in ("train", "test"):
        for record in pipeline.load(str(out), split).as_numpy_iterator():
            assert record["key"] not in found
            found[record["key"].decode()] = record | {"split": split}
    return found


AUGMENT = {"copies": 2, "flip": True, "quarter_turns": True, "rotation": 8, "contrast": 0.2, "noise": 0.01}


def padded(array, start, margin):
    """The patch with its surroundings, mirrored at the border of the image, by NumPy."""
    far = SIZE + margin
    around = np.pad(array, ((far, far), (far, far), (0, 0)), mode="reflect")
    row, col = start[0] + far - margin, start[1] + far - margin
    return around[row : row + SIZE + 2 * margin, col : col + SIZE + 2 * margin]


def test_training_patches_have_their_copies_and_the_record_says_how_to_make_them_again(images, tmp_path):
    root, arrays = images
    outcome = run(root, tmp_path / "out", augment=AUGMENT)
    records, plain = records_of(tmp_path / "out"), run(root, tmp_path / "plain")
    names = {row["image_id"]: row["split"] for row in read_index(plain.folder)}
    assert set(names.values()) == {"train", "test"}
    wanted = {row["key"] for row in read_index(plain.folder)}
    wanted |= {f"{row['key']}/{n}" for row in read_index(plain.folder) if row["split"] == "train" for n in (1, 2)}
    assert set(records) == wanted

    ranges = Ranges(**{name: value for name, value in AUGMENT.items() if name != "copies"})
    augment = Augmenter(ranges, (SIZE, SIZE), 3, "uint8", (0, 255))
    changes = set()
    for key, record in records.items():
        image_id, start = record["image_id"].decode(), (int(record["row"]), int(record["col"]))
        done = json.loads(record["augmentation"])
        assert (record["copy"] > 0) == ("/" in key.split("#")[1].removeprefix(f"0/{start[0]}/{start[1]}"))
        assert bool(done) == (record["copy"] > 0)
        changes.add(record["augmentation"])
        expected = augment(padded(arrays[image_id], start, augment.margin)[None], [Change(**done)])[0]
        np.testing.assert_array_equal(record["image"], expected, err_msg=key)
    assert len(changes) == 1 + sum(record["copy"] > 0 for record in records.values())  # no two copies are changed alike

    accounts = outcome.manifest.accounts
    assert accounts.planned == accounts.written == len(records)
    statistics = open_dataset(str(tmp_path / "out")).statistics()["splits"]
    assert sum(s["channels"][0]["count"] for s in statistics.values()) == len(records) * SIZE * SIZE
    assert verify(open_dataset(str(tmp_path / "out")), 2) == []


def test_the_originals_can_be_left_out(images, tmp_path):
    run(images[0], tmp_path / "out", augment=AUGMENT | {"original": False})
    copies = collections.Counter((r["split"], int(r["copy"])) for r in records_of(tmp_path / "out").values())
    assert copies["train", 0] == copies["train", 1] > 0
    assert set(copies) == {("train", 0), ("train", 1), ("test", 0)}
    assert all(
        json.loads(r["augmentation"]) == {} for r in records_of(tmp_path / "out").values() if r["split"] == "test"
    )


CROPS = {"size": SIZE, "crops": {"per_image": 15}}


def test_crops_lie_where_seed_image_and_number_say(images, tmp_path):
    root, arrays = images
    outcome = run(root, tmp_path / "out", patch=CROPS)
    records = records_of(tmp_path / "out")
    assert len(records) == 4 * 15 == outcome.manifest.accounts.planned
    for name, array in arrays.items():
        for number in range(15):
            start = crop_start(digest(2, "crop", name, 0, number, 0), array.shape[:2], (SIZE, SIZE))
            key = f"{name}#0/{start[0]}/{start[1]}" + (f"/{number}" if number else "")
            np.testing.assert_array_equal(records[key]["image"], padded(array, start, 0), err_msg=key)
            assert records[key]["copy"] == number
    assert verify(open_dataset(str(tmp_path / "out")), 2) == []


def test_crops_are_spread_evenly():
    starts = np.array([crop_start(digest(0, n), (103, 54), (4, 5)) for n in range(20000)])
    assert starts.min(axis=0).tolist() == [0, 0]
    assert starts.max(axis=0).tolist() == [99, 49]
    for axis, count in [(0, 100), (1, 50)]:
        expected = len(starts) / count
        chi_square = np.square(np.bincount(starts[:, axis], minlength=count) - expected).sum() / expected
        assert chi_square < count + 4 * np.sqrt(2 * count)
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.03


def test_crops_are_drawn_again_until_they_are_good_and_counted_when_they_never_are(images, tmp_path):
    root, arrays = images
    half = np.concatenate([np.full((150, 260, 3), 7, np.uint8), np.tile(arrays["a.tif"], (1, 2, 1))])
    tifffile.imwrite(root / "a.tif", half, tile=(32, 32), photometric="rgb")
    keep = {"keep": {"entropy": {"min": 6.5}}}
    once = run(root, tmp_path / "once", patch=CROPS, quality=keep)
    thrice = run(root, tmp_path / "thrice", patch=CROPS | {"crops": {"per_image": 15, "tries": 6}}, quality=keep)
    for outcome in (once, thrice):
        accounts = outcome.manifest.accounts
        assert accounts.planned == 60 == accounts.written + accounts.filtered
        assert all(row["entropy"] >= 6.5 for row in read_index(outcome.folder))
    assert once.manifest.accounts.filtered > thrice.manifest.accounts.filtered
    assert thrice.manifest.counters["crops_redrawn"] > 0 == once.manifest.counters["crops_redrawn"]
    kept = {row["key"] for row in read_index(once.folder)}
    assert kept <= {row["key"] for row in read_index(thrice.folder)}  # what was good stays


def test_the_bytes_of_crops_filters_and_copies_do_not_depend_on_the_workers(images, tmp_path, monkeypatch):
    sections = {
        "patch": {"size": SIZE, "crops": {"per_megapixel": 3000, "tries": 2}},
        "augment": AUGMENT | {"stain": 0.05},
        "quality": {"duplicates": 2, "keep": {"sharpness": {"min": 1000}, "tissue": {"min": 0.1}}},
        "output": {"shard_size": "50KB"},
    }
    with_path = lambda name: sections | {"output": sections["output"] | {"path": str(tmp_path / name)}}
    monkeypatch.setattr(planning, "REGION_PIXELS", 7 * SIZE * SIZE)
    one = run(images[0], tmp_path / "one", **with_path("one"))
    monkeypatch.setattr(planning, "WINDOW_BYTES", 4 * 3 * SIZE * SIZE)
    other = run(images[0], tmp_path / "other", ["--direct_num_workers=3"], **with_path("other"))
    but = ("manifest.json", "inputs.parquet", "receipts", "regions", "shards.parquet")

    assert checksums(one.folder, but) == checksums(other.folder, but)
    assert sum(split.shards for split in one.manifest.splits.values()) > 2
    accounts = one.manifest.accounts
    assert accounts.planned == accounts.written + accounts.filtered
    assert accounts.filtered == sum(accounts.filters.values())
    assert accounts.written > 0


def test_a_bad_block_costs_the_copies_of_its_patches(images, tmp_path):
    root, _ = images
    with tifffile.TiffFile(root / "a.tif") as tiff:
        place = tiff.pages[0].dataoffsets[6]
    data = bytearray((root / "a.tif").read_bytes())
    data[place : place + 40] = b"\0" * 40
    (root / "a.tif").write_bytes(data)
    for patch in ({"size": SIZE}, CROPS):
        outcome = run(root, tmp_path / f"out{len(patch)}", patch=patch, augment=AUGMENT, splits={"train": 1.0})
        accounts = outcome.manifest.accounts
        assert accounts.rejected > 0
        assert accounts.rejected % 3 == 0
        assert accounts.planned == accounts.written + accounts.rejected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorFlow Datasets
def test_tfds_reads_copies(images, tmp_path):
    import tensorflow_datasets as tfds

    outcome = run(images[0], tmp_path / "out", augment=AUGMENT)
    dataset = tfds.builder_from_directory(outcome.folder).as_dataset(split="train")
    assert {"copy", "augmentation"} <= set(dataset.element_spec)
    assert dataset.element_spec["copy"].dtype == tf.int64


def test_a_mask_is_cut_and_turned_like_its_image(tmp_path):
    """Image and mask are the same labels: in every copy they still are, and no label is made up."""
    root = tmp_path / "images"
    root.mkdir()
    labels = np.kron(np.arange(1, 101).reshape(10, 10), np.ones((12, 12))).astype(np.uint8)
    tifffile.imwrite(root / "a_image.tif", labels, tile=(32, 32))
    Image.fromarray(labels).save(root / "a_mask.png")
    raster = {"mask": {"file": {"match": "_image.tif", "replace": "_mask.png"}}}
    for number, ranges in enumerate([{"flip": True, "quarter_turns": True}, {"rotation": 10, "flip": True}]):
        for patch in ({"size": SIZE}, CROPS):
            out = tmp_path / f"out{number}{len(patch)}"
            run(root, out, patch=patch, augment={"copies": 3} | ranges, splits={"train": 1},
                input={"images": f"{root}/*_image.tif", "channels": 1, "rasters": raster})  # fmt: skip
            for record in pipeline.load(str(out), "train").as_numpy_iterator():
                image, mask = record["image"][..., 0], record["raster"]["mask"][..., 0]
                assert set(np.unique(mask)) <= set(range(1, 101))
                same = image == mask
                if number == 0 or record["copy"] % 4 == 0:
                    assert same.all()
                # Between two labels, and only there, the image of a rotation holds mixtures of them.
                inside = scipy.ndimage.maximum_filter(mask, 3) == scipy.ndimage.minimum_filter(mask, 3)
                inside[[0, -1]] = inside[:, [0, -1]] = False
                assert same[inside].all()
                assert inside.any()
            assert verify(open_dataset(str(out)), 2) == []


def test_every_slide_is_normalised_to_the_stains_of_the_reference(tmp_path):
    """Against Beer and Lambert in floating point; all records of all images, original or copy, of any scale."""
    slide = tifffile.imread(SAMPLES / "slides/CMU-1-Small-Region.svs")[1000:1400, 1000:1500]
    root = tmp_path / "images"
    root.mkdir()
    tifffile.imwrite(root / "a.tif", slide, tile=(64, 64), photometric="rgb")
    faded = np.rint(256 * np.exp(-density(slide) / 2) - 1).astype(np.uint8)
    tifffile.imwrite(root / "b.tif", faded, tile=(64, 64), photometric="rgb")
    tifffile.imwrite(root / "white.tif", np.full((90, 90, 3), 250, np.uint8), photometric="rgb")
    augment = {"copies": 1, "flip": True}
    stained = {"size": 64, "stain": "macenko", "scales": [2]}
    outcome = run(root, tmp_path / "out", patch=stained, augment=augment, splits={"train": 1}, max_rejected=1)
    run(root, tmp_path / "plain", patch=stained | {"stain": None}, augment=augment, splits={"train": 1})
    plain = {r["key"]: r for r in pipeline.load(str(tmp_path / "plain"), "train").as_numpy_iterator()}
    rejected = [json.loads(line) for line in pathlib.Path(outcome.folder, "rejected.jsonl").read_text().splitlines()]
    assert {(row["image_id"], row["reason"]) for row in rejected} == {("white.tif", "no_stain")}

    means = collections.defaultdict(list)
    for record in pipeline.load(str(tmp_path / "out"), "train").as_numpy_iterator():
        before = plain[record["key"]]
        image = slide if record["image_id"] == b"a.tif" else faded
        matrix = macenko(image.reshape(-1, 3))
        for found, given in ((record["image"], before["image"]), (record["scale"]["2"], before["scale"]["2"])):
            densities = density(given) @ matrix[:, :3].T + matrix[:, 3]
            expected = np.clip(256 * np.exp(-densities) - 1, 0, 255)
            assert np.abs(found - expected).max() <= 1.5
        means[record["image_id"]].append((record["image"].mean(), before["image"].mean()))
    (a, plain_a), (b, plain_b) = (np.mean(means[name], axis=0) for name in (b"a.tif", b"b.tif"))
    assert abs(a - b) < abs(plain_a - plain_b) / 5
