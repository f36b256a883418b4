"""A build that copies from the version before makes the bytes of a build from nothing, and opens what changed."""

import functools
import shutil
import time

import imagecodecs
import numpy as np
import pytest
import tifffile
from helpers import checksums, configure, read_index, rewrite_manifest, run

from pipeline.cli.version_commands import version_table
from pipeline.dataset.compare import compare_images
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.verify import verify
from pipeline.elements import FORMAT
from pipeline.errors import DatasetError, WithdrawnError
from pipeline.versions import history, lease, lifecycle

heavy = functools.partial(pytest.param, marks=pytest.mark.heavy)
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def several_slices(no_graphs, monkeypatch):
    monkeypatch.setattr("pipeline.inputs.slices._IMAGES_PER_SLICE", (3, 3))


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
    monkeypatch.setattr("pipeline.planning.geometry.REGION_PIXELS", 64 * 64)


def rebuilt(root, tmp_path, **sections):
    """Builds again on top of what is there; the counters, once its bytes are those of a build from nothing."""
    config = configure(root, tmp_path / "out", max_rejected=1.0, **sections)
    second = run(config)
    if second.unchanged:
        return {}
    nothing = tmp_path / f"fresh-{time.monotonic_ns()}"
    fresh = run(configure(root, nothing, max_rejected=1.0, **sections))
    assert checksums(second.folder) == checksums(fresh.folder)
    assert second.manifest.accounts == fresh.manifest.accounts
    assert second.manifest.splits == fresh.manifest.splits
    shutil.rmtree(nothing)
    return {"images_opened": 0, "records_copied": 0, "shards_taken_over": 0} | second.manifest.counters


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
    assert {row["group"] for row in read_index(out.folder)} == {"cats", "dogs"}


@pytest.mark.parametrize("size", ["30KB", heavy("120KB"), heavy("1MB")])
def test_shards_that_double_and_halve(images, tmp_path, small_regions, size):
    rebuilt(images, tmp_path, **SMALL)
    other = rebuilt(images, tmp_path, output={"shard_size": size})
    assert other["images_opened"] == 0
    assert "pixels_decoded" not in other
    assert other["shards_taken_over"] == 0
    assert other["records_copied"] == other["patches_written"]


@pytest.mark.parametrize("kind", [heavy("grid"), "crops", heavy("float32")])
def test_scores_masks_columns_and_copies_are_copied_and_renamed(tmp_path, small_regions, kind):
    root, dtype = tmp_path / "images", np.float32 if kind == "float32" else np.uint8
    rows = {}
    for number in range(8):
        write_tiff(root / f"{number}.tif", noise(90, 130).astype(dtype))
        write_png(root / f"masks/{number}.png", noise(90, 130, channels=1)[..., 0])
        rows[number] = [
            f"{number}.tif",
            "cat" if number % 2 else "dog",
            f"p{number}",
            f"masks/{number}.png",
            number / 3,
        ]

    def build_again():
        lines = [",".join(map(str, row)) for row in rows.values()]
        (root / "m.csv").write_text("\n".join(["uri,label,group,mask,age", *lines]) + "\n")
        sections = {
            "input": {"images": [], "manifest": f"{root}/m.csv", "rasters": {"mask": {}}, "dtype": dtype.__name__},
            "output": {"shard_size": "100KB", "encoding": "raw"},
            "quality": {"keep": {"entropy": {"min": 0.1}}, "duplicates": 0},
            "augment": {"flip": True},
        }
        sections["input"] |= {"range": [0, 255]}
        sections |= {"patch": {"size": 32, "crops": {"per_image": 9}}} if kind == "crops" else {}
        return rebuilt(root, tmp_path, **sections)

    build_again()
    rows[3][1], rows[4][4] = "dog", 99.5
    renamed = build_again()
    assert renamed["images_opened"] == 0
    assert renamed["records_rewritten"] > 0
    assert renamed["records_copied"] + renamed["records_rewritten"] == renamed["patches_written"]
    write_tiff(root / "5.tif", noise(90, 130).astype(dtype))
    write_png(root / "masks/6.png", noise(90, 130, channels=1)[..., 0])
    replaced = build_again()
    assert replaced["images_opened"] == 2
    assert replaced["records_copied"] < replaced["patches_written"]
    assert replaced["records_copied"] + replaced["shards_taken_over"] > 0  # large patches: an image may fill a shard
    rows[2][2] = rows[3][2]  # into the group, and perhaps the split, of another
    build_again()
    assert verify(open_dataset(str(tmp_path / "out")), 2) == []


def test_a_damaged_shard_is_not_copied_from(images, tmp_path, small_regions):
    rebuilt(images, tmp_path, **SMALL)
    folder = open_dataset(str(tmp_path / "out")).folder
    for row in read_index(folder)[::7]:
        with open(f"{folder}/{row['shard']}", "r+b") as file:
            file.seek(row["image_offset"] + 9)
            file.write(b"damage")
    assert rebuilt(images, tmp_path, output={"shard_size": "120KB"})["pixels_decoded"] > 0


def test_a_version_that_was_withdrawn_is_not_published_again_by_itself(images, tmp_path):
    config = configure(images, tmp_path / "out", max_rejected=1.0)
    first = run(config)
    (images / "dogs/4.png").unlink()
    second = run(config)
    out = str(tmp_path / "out")
    with lease.hold(out) as held:
        now, was = history.roll_back(out, held)
    assert (now, was) == (first.version, second.version)
    with pytest.raises(WithdrawnError, match=rf"taken back at .*patchbeam publish {out} {was.name} publishes it again"):
        run(config)
    assert lifecycle.latest(out) == now
    with lease.hold(out) as held, pytest.raises(DatasetError, match="nothing that is still there was published before"):
        history.roll_back(out, held)
    difference = compare_images(open_dataset(out, now.name), open_dataset(out, was.name))
    assert {kind: change.images for kind, change in difference.items()} == {
        "added": [], "removed": ["dogs/4.png"], "changed": [], "relabelled": [],
    }  # fmt: skip
    assert difference["removed"].patches == 6
    with lease.hold(out) as held:
        lifecycle.publish(was, held, by="publish")
    assert run(config).unchanged
    assert [summary.status for summary in history.list_versions(out)] == ["earlier", "published"]
    assert history.prunable(out, keep=0, keep_days=-1) == [now]
    assert history.prunable(out, keep=5, keep_days=-1) == history.prunable(out, keep=0, keep_days=1) == []
    lifecycle.remove(now)
    assert verify(open_dataset(out), 2) == []
    assert "held back" not in version_table(out)


def test_a_dataset_of_the_format_before_is_published_and_replaced_by_one_that_is_cut_from_nothing(images, tmp_path):
    config = configure(images, tmp_path / "out", max_rejected=1.0, **SMALL)
    out, first = config.output.path, run(config)
    rewrite_manifest(first.folder, lambda manifest: manifest.update(format=3, identity="ab" * 32))
    assert open_dataset(out).manifest.format == 3
    assert verify(open_dataset(out), 2) == []

    second = run(config)
    assert not second.unchanged
    assert (second.manifest.format, second.manifest.previous) == (FORMAT, None)
    assert second.manifest.counters["images_opened"] == 22
    assert "records_copied" not in second.manifest.counters and "shards_taken_over" not in second.manifest.counters
    assert second.manifest.counters["patches_written"] == second.manifest.accounts.written
    write_png(images / "cats/new.png", noise(40, 70))
    third = run(config)
    assert third.manifest.previous == second.version.name
    assert third.manifest.counters["images_opened"] == 1  # the next one copies again

    with lease.hold(out) as held:
        assert history.require_publishable(first.version).format == 3
        lifecycle.publish(first.version, held, by="publish")
    assert open_dataset(out).folder == first.folder
    assert [summary.status for summary in history.list_versions(out)] == ["published", "earlier", "earlier"]
