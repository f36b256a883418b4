"""Masks and other rasters lie exactly on their images, whatever is cut, and are never changed."""

import json
import pathlib

import imagecodecs
import numpy as np
import pyarrow.dataset
import pytest
import tensorflow_datasets as tfds
import tifffile

import pipeline
from pipeline.build import build
from pipeline.config import Config
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.stitch import stitch_image
from pipeline.dataset.verify import verify
from pipeline.runners.options import parse_options

SIZES = {"a": (90, 133), "b": (61, 47)}


def gradient(height, width):
    """``[H, W, 2]`` uint16: every pixel says where it is."""
    return np.stack(np.mgrid[:height, :width], axis=-1).astype(np.uint16)


def classes(positions):
    """A mask that follows from the pixels of a gradient: ``[..., 1]`` uint8."""
    row, col = positions[..., 0].astype(int), positions[..., 1].astype(int)
    return ((row * 7 + col * 3) % 251 + 1).astype(np.uint8)[..., None]


@pytest.fixture
def root(tmp_path):
    """Gradients as tiled TIFF, their masks as PNG, and a second raster of five floats as tiled TIFF."""
    folder = tmp_path / "data"
    for below in ("images", "masks", "later"):
        (folder / below).mkdir(parents=True)
    for name, size in SIZES.items():
        pixels = gradient(*size)
        form = {"tile": (32, 32), "photometric": "minisblack", "planarconfig": "contig", "compression": "deflate"}
        tifffile.imwrite(folder / f"images/{name}.tif", pixels, **form)
        (folder / f"masks/{name}.png").write_bytes(imagecodecs.png_encode(classes(pixels)[..., 0]))
        later = pixels[..., :1].astype(np.float32) + np.arange(5, dtype=np.float32) / 8
        tifffile.imwrite(folder / f"later/{name}.tif", later, **form)
    return folder


RASTERS = {
    "mask": {"file": {"match": r"images/(.*)\.tif", "replace": r"masks/\1.png"}, "pad_value": 255},
    "later": {"file": {"match": "images", "replace": "later"}, "channels": 5, "dtype": "float32"},
}


@pytest.fixture
def make(root, tmp_path, no_graphs):
    def run(rasters=RASTERS, input=None, output=None, max_rejected=0, **patch):
        values = {
            "input": {"images": f"{root}/images/*", "channels": 2, "dtype": "uint16", "rasters": rasters}
            | (input or {}),
            "output": {"path": str(tmp_path / "out")} | (output or {}),
            "patch": {"size": [16, 20]} | patch,
            "max_rejected": max_rejected,
        }
        outcome = build(Config.model_validate(values), parse_options(["--direct_num_workers=1"]))
        return open_dataset(outcome.folder), outcome

    return run


def index_of(dataset):
    return pyarrow.dataset.dataset(f"{dataset.folder}/index").to_table().to_pylist()


def lines_of(dataset):
    return [json.loads(line) for line in pathlib.Path(dataset.folder, "rejected.jsonl").read_text().splitlines()]


def rejections_of(dataset):
    return [(row["reason"], row["message"]) for row in lines_of(dataset)]


@pytest.mark.parametrize(
    "patch",
    [
        {"edge": "pad"},
        {"stride": [7, 9], "edge": "shift"},
        {"stride": 30, "origin": [-5, 3], "pad_mode": ["symmetric", "edge"]},
        {"dilation": [2, 2], "edge": ["pad", "drop"]},
    ],
    ids=["pad", "overlap", "origin", "dilated"],
)
def test_every_raster_of_every_patch_is_that_of_its_pixels(make, patch):
    dataset, _ = make(**patch)
    rows = index_of(dataset)

    assert len(rows) > 8
    for row in rows:
        image = dataset.patch(row)
        np.testing.assert_array_equal(dataset.patch(row, "raster/mask"), classes(image))
        np.testing.assert_array_equal(dataset.patch(row, "raster/later")[..., 3], image[..., 0] + np.float32(0.375))
    assert verify(dataset, threads=1) == []


def test_outside_of_the_image_a_raster_has_its_own_pad_value(make):
    dataset, _ = make(pad_mode="constant", pad_value=7)
    corner = next(row for row in index_of(dataset) if (row["image_id"], row["row"], row["col"]) == ("b.tif", 48, 40))

    assert (dataset.patch(corner)[13:] == 7).all() and (dataset.patch(corner)[:, 7:] == 7).all()
    mask = dataset.patch(corner, "raster/mask")
    assert (mask[13:] == 255).all() and (mask[:, 7:] == 255).all()
    np.testing.assert_array_equal(mask[:13, :7], classes(gradient(61, 47)[48:, 40:]))


def test_beside_a_jpeg_the_mask_stays_exact(make, root):
    for name, size in SIZES.items():
        tifffile.imwrite(root / f"images/{name}.tif", gradient(*size)[..., :1].astype(np.uint8), tile=(32, 32))
    dataset, _ = make({"mask": RASTERS["mask"]}, input={"channels": 1, "dtype": "uint8"}, output={"encoding": "jpeg"})

    for row in index_of(dataset):
        if row["image_id"] == "a.tif" and row["row"] + 16 <= 90 and row["col"] + 20 <= 133:
            place = slice(row["row"], row["row"] + 16), slice(row["col"], row["col"] + 20)
            np.testing.assert_array_equal(dataset.patch(row, "raster/mask"), classes(gradient(90, 133)[place]))


def test_tensorflow_and_its_datasets_read_them(make):
    dataset, _ = make(output={"encoding": "raw"})
    ours = {e["key"].numpy(): e for e in pipeline.load(dataset.folder, "train")}
    theirs = tfds.builder_from_directory(dataset.folder).as_dataset(split="train")
    compared = 0
    for example in theirs:
        mine = ours[example["key"].numpy()]
        np.testing.assert_array_equal(example["raster"]["mask"], mine["raster"]["mask"])
        np.testing.assert_array_equal(example["raster"]["later"], mine["raster"]["later"])
        np.testing.assert_array_equal(mine["raster"]["mask"], classes(mine["image"].numpy()))
        compared += 1
    assert compared == len(ours) > 8


def test_a_mask_is_stitched_together_again(make, tmp_path):
    dataset, _ = make(stride=9, edge="shift")
    stitch_image(dataset, "a.tif", str(tmp_path / "mask.tif"), raster="mask", labels=True)

    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif", key=0), classes(gradient(90, 133))[..., 0])


def test_a_mask_of_another_size_is_rejected_with_both_sizes(make, root):
    (root / "masks/b.png").write_bytes(imagecodecs.png_encode(np.zeros((60, 47), np.uint8)))
    dataset, outcome = make(max_rejected=1)

    assert rejections_of(dataset) == [
        (
            "raster_mismatch",
            "raster mask: 60 x 47 pixels, the image has 61 x 47; they have to be the same, or those of another level "
            "of the image",
        )
    ]
    assert {row["image_id"] for row in index_of(dataset)} == {"a.tif"}
    assert outcome.manifest.accounts.images_rejected == 1


def test_a_mask_of_another_form_or_without_a_file_is_rejected(make, root):
    (root / "masks/a.png").write_bytes(imagecodecs.png_encode(np.zeros((90, 133, 3), np.uint8)))
    (root / "masks/b.png").unlink()
    (root / "images/c.tif").write_bytes((root / "images/a.tif").read_bytes())
    (root / "masks/c.png").write_bytes(imagecodecs.png_encode(np.ones((90, 133), np.uint8)))
    dataset, _ = make({"mask": RASTERS["mask"]}, max_rejected=1)

    assert rejections_of(dataset) == [
        ("io_error", "raster mask: cannot be opened: No such file or directory"),
        ("raster_mismatch", "raster mask: 3-channel uint8, the configuration asks for 1-channel uint8"),
    ]


def test_a_bad_block_of_a_raster_costs_only_the_patches_over_it(make, root):
    with tifffile.TiffFile(root / "later/a.tif") as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    data = bytearray((root / "later/a.tif").read_bytes())
    data[offset : offset + count] = bytes(count)
    (root / "later/a.tif").write_bytes(data)
    dataset, outcome = make(max_rejected=1)
    rejected = {(r["row"], r["col"]) for r in lines_of(dataset)}

    assert rejected == {(0, 0), (0, 20), (16, 0), (16, 20)}
    assert outcome.manifest.accounts.rejected == 4
    assert {message.partition(":")[0] for _, message in rejections_of(dataset)} == {"raster later"}


def test_a_mask_that_does_not_decode_costs_its_image_once(make, root):
    data = (root / "masks/a.png").read_bytes()
    (root / "masks/a.png").write_bytes(data[:200] + bytes(len(data) - 200))
    dataset, outcome = make({"mask": RASTERS["mask"]}, max_rejected=1)

    assert len(rejections_of(dataset)) == 1 and rejections_of(dataset)[0][0] == "corrupt_data"
    assert outcome.manifest.accounts.rejected == 6 * 7


def test_a_changed_mask_makes_another_dataset_and_the_same_one_does_not(make, root):
    _, first = make()
    _, again = make()
    (root / "masks/a.png").write_bytes(imagecodecs.png_encode(np.full((90, 133), 3, np.uint8)))
    dataset, changed = make()

    assert (first.unchanged, again.unchanged, changed.unchanged) == (False, True, False)
    assert all(
        (dataset.patch(row, "raster/mask") == 3).all() for row in index_of(dataset) if row["image_id"] == "a.tif"
    )


def test_the_mask_of_a_manifest_is_taken(make, root):
    (root / "table.csv").write_text("uri,mask\nimages/a.tif,masks/a.png\n")
    dataset, _ = make({"truth": {"file": "mask"}}, input={"images": [], "manifest": f"{root}/table.csv"})

    rows = index_of(dataset)
    assert len(rows) == 42
    for row in rows:
        np.testing.assert_array_equal(dataset.patch(row, "raster/truth"), classes(dataset.patch(row)))
