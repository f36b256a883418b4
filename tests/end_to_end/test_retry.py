"""A retry makes what a build of the repaired files makes, and cuts only the shards that had a rejection."""

import json
import os
import shutil
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
from helpers import REPO, checksums, configure, run

from pipeline import storage
from pipeline.build import build
from pipeline.runners.options import parse_options


@pytest.fixture
def broken(tmp_path):
    """A folder of nine images, one cut off, one with a bad tile; and the good bytes of both."""
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        (root / f"{number}.png").write_bytes(imagecodecs.png_encode(rng.integers(0, 256, (64, 64, 3), np.uint8)))
    pixels = rng.integers(0, 256, (96, 96, 3), np.uint8)
    tifffile.imwrite(root / "tiles.tif", pixels, tile=(32, 32), photometric="rgb", compression="deflate")
    with tifffile.TiffFile(root / "tiles.tif") as file:
        start, count = file.pages[0].dataoffsets[4], file.pages[0].databytecounts[4]
    good = {name: (root / name).read_bytes() for name in ("3.png", "tiles.tif")}
    (root / "3.png").write_bytes(good["3.png"][:20])
    data = good["tiles.tif"]
    (root / "tiles.tif").write_bytes(data[:start] + bytes(count) + data[start + count :])
    return root, good


def test_a_retry_cuts_only_what_was_rejected(broken, tmp_path, no_graphs):
    root, good = broken
    ways = {"output": {"shard_size": "20KB"}, "max_rejected": 1.0}
    config = configure(root, tmp_path / "out", **ways)
    first = run(config)
    assert first.manifest.accounts.reasons == {"corrupt_data": 1, "corrupt_header": 1}
    before = checksums(first.folder, but=())
    for name, data in good.items():
        (root / name).write_bytes(data)
    second = build(config, parse_options(["--direct_num_workers=1"]), retry=True)
    assert second.folder != first.folder
    assert second.manifest.accounts.reasons == {}
    assert second.manifest.accounts.written == first.manifest.accounts.written + 4 + 1
    reused, written = (second.manifest.counters[f"shards_{what}"] for what in ("taken_over", "written"))
    assert reused > written > 0
    assert checksums(first.folder, but=()) == before
    clean = run(configure(root, tmp_path / "clean", **ways))
    assert checksums(second.folder) == checksums(clean.folder)
    assert build(config, parse_options([]), retry=True).unchanged  # there is nothing to try again


def test_a_retry_without_a_repair_tries_again(broken, tmp_path, no_graphs):
    root, _ = broken
    config = configure(root, tmp_path / "out", output={"shard_size": "20KB"}, max_rejected=1.0)
    first = run(config)
    assert run(config).unchanged
    second = build(config, parse_options(["--direct_num_workers=1"]), retry=True)
    assert not second.unchanged
    assert second.manifest.counters["shards_written"] == 1  # the one with the bad tile
    assert checksums(second.folder) == checksums(first.folder)


def test_the_command_takes_the_configuration_of_the_dataset(broken, tmp_path):
    root, good = broken
    (tmp_path / "c.yaml").write_text(json.dumps(configure(root, tmp_path / "out").model_dump(mode="json")))
    call = lambda *arguments: subprocess.run(
        [sys.executable, "-m", "patchbeam", *arguments], cwd=REPO, capture_output=True, text=True
    )
    built = call("build", str(tmp_path / "c.yaml"), "--set", "max_rejected=1.0")
    assert built.returncode == 0, built.stderr
    for name, data in good.items():
        (root / name).write_bytes(data)
    done = call("retry", str(tmp_path / "out"), "--set", "max_rejected=0")
    assert done.returncode == 0, done.stderr
    assert "images    9, 0 of them with rejections" in done.stdout
    assert call("retry", str(tmp_path / "nowhere")).returncode == 64


def test_a_copy_is_whole_with_and_without_links(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"12345")
    storage.copy(str(tmp_path / "a"), str(tmp_path / "x/b"))
    assert os.path.samefile(tmp_path / "a", tmp_path / "x/b")

    def fail(*_):
        raise OSError

    monkeypatch.setattr(os, "link", fail)
    storage.copy(str(tmp_path / "a"), str(tmp_path / "x/c"))
    assert (tmp_path / "x/c").read_bytes() == b"12345"
    assert sorted(os.listdir(tmp_path / "x")) == ["b", "c"]
    shutil.rmtree(tmp_path / "x")
