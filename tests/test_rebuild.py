"""A build that copies from the version before makes the bytes of a build from nothing, and opens what changed."""

import shutil
import time

import imagecodecs
import numpy as np
import pytest
import tifffile
from test_build import checksums, configure, run

from pipeline.dataset import open_dataset
from pipeline.verify import verify

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def no_graphs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.summary._write_normalization", lambda *_: None)
        yield


def noise(height, width, dtype=np.uint8, channels=3):
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(pixels))


def write_tiff(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="rgb" if pixels.shape[-1] == 3 else "minisblack")


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    for number in range(20):
        write_png(root / f"{'cats' if number % 2 else 'dogs'}/{number}.png", noise(40, 70))
    write_tiff(root / "cats/tiled.tif", noise(200, 170))
    (root / "cats/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


@pytest.fixture
def small_regions(monkeypatch):
    """Regions of a few patches, so that an image has several and they go over many shards."""
    monkeypatch.setattr("pipeline.plan.REGION_PIXELS", 64 * 64)


def rebuilt(root, tmp_path, **sections):
    """Builds again on top of what is there; the counters, once its bytes are those of a build from nothing."""
    config = configure(root, tmp_path / "out", max_rejected=1.0, **sections)
    second = run(config)
    if second.unchanged:
        return {}
    nothing = tmp_path / f"fresh-{time.monotonic_ns()}"
    fresh = run(configure(root, nothing, max_rejected=1.0, **sections))
    assert checksums(second.folder) == checksums(fresh.folder)
    assert second.manifest["accounts"] == fresh.manifest["accounts"]
    assert second.manifest["splits"] == fresh.manifest["splits"]
    shutil.rmtree(nothing)
    return {"images_opened": 0, "records_copied": 0, "shards_taken_over": 0} | second.manifest["counters"]


SMALL = {"output": {"shard_size": "60KB"}}


def test_additions_removals_replacements_and_relabelling(images, tmp_path, small_regions):
    first = rebuilt(images, tmp_path, **SMALL)
    assert (first["images_opened"], first["records_copied"]) == (22, 0)
    assert rebuilt(images, tmp_path, **SMALL) == {}

    write_png(images / "cats/new.png", noise(40, 70))
    added = rebuilt(images, tmp_path, **SMALL)
    assert added["images_opened"] == 1
    assert added["pixels_decoded"] == 40 * 70
    assert added["shards_taken_over"] > added["shards_written"] > 0
    assert added["records_copied"] > 0
    assert added["patches_written"] == added["records_copied"] + 6

    (images / "dogs/4.png").unlink()
    removed = rebuilt(images, tmp_path, **SMALL)
    assert removed["images_opened"] == 0
    assert "pixels_decoded" not in removed
    assert removed["shards_written"] == 1

    write_tiff(images / "cats/tiled.tif", noise(200, 170))
    replaced = rebuilt(images, tmp_path, **SMALL)
    assert replaced["images_opened"] == 1
    assert 1 <= replaced["pixels_decoded"] / (200 * 170) < 1.2  # windows of neighbouring regions overlap

    relabelled = rebuilt(images, tmp_path, **SMALL, input={"label": {"regex": r"([a-z]+)/"}, "group": "folder"})
    assert relabelled["images_opened"] == 0
    assert relabelled["records_rewritten"] > 0
    assert relabelled["records_copied"] == relabelled.get("bytes_read", 0) == 0
    out = open_dataset(str(tmp_path / "out"))
    assert verify(out, 2) == []
    assert {row["group"] for row in index_of(out)} == {"cats", "dogs"}


def index_of(dataset):
    import pyarrow.dataset

    return pyarrow.dataset.dataset(f"{dataset.folder}/index").to_table().to_pylist()


@pytest.mark.parametrize("size", ["30KB", "120KB", "1MB"])
def test_shards_that_double_and_halve(images, tmp_path, small_regions, size):
    rebuilt(images, tmp_path, **SMALL)
    other = rebuilt(images, tmp_path, output={"shard_size": size})
    assert other["images_opened"] == 0
    assert "pixels_decoded" not in other
    assert other["shards_taken_over"] == 0
    assert other["records_copied"] == other["patches_written"]
