"""Memory stays flat, measured over all processes: on pictures of 0.9 and 1.8 gigapixels, and on very many images."""

import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from helpers import REPO

from pipeline.dataset.reading import open_dataset
from pipeline.readers import open_image
from transforms.grid import Box

sys.path.insert(0, str(REPO / "benchmarks"))


def peak_of_build(picture, out) -> int:
    """Peak memory of a build with two processes."""
    arguments = ["--input", picture, "--output", out, "--set", "output.encoding=jpeg", "--set", "splits={train: 1}"]
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    return peak_of("-m", "patchbeam", "build", "configs/quickstart.yaml", *arguments, "--", *flags)


def peak_of(*arguments) -> int:
    """Highest sum of the resident memory of a program and its children, sampled 20 times a second."""
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for one in [root, *root.children(recursive=True)]:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, total)
        time.sleep(0.05)
    assert process.returncode == 0
    return peak


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_a_picture_of_30000_pixels_a_side_builds_within_3_gb_and_twice_the_area_takes_no_more(tmp_path):
    from mosaic import write_mosaic

    peaks = {}
    for side in (30_000, 42_426):
        write_mosaic(str(tmp_path / f"{side}.tif"), side)
        peaks[side] = peak_of_build(tmp_path / f"{side}.tif", tmp_path / str(side))
        assert open_dataset(str(tmp_path / str(side))).manifest.accounts.written == (-(-side // 256)) ** 2
    print({side: f"{peak / 1e9:.2f} GB" for side, peak in peaks.items()})
    assert peaks[30_000] < 3e9
    assert peaks[42_426] < peaks[30_000] * 1.1


@pytest.mark.heavy
@pytest.mark.timeout(2400)
def test_a_picture_of_30000_pixels_a_side_is_stitched_within_2_gb(tmp_path):
    from mosaic import write_mosaic

    side = 30_000
    write_mosaic(str(tmp_path / "big.tif"), side)
    peak_of_build(tmp_path / "big.tif", tmp_path / "out")
    folder = tmp_path / "predictions"
    folder.mkdir()
    starts = range(0, side, 256)
    shape = (len(starts) ** 2, 256, 256)
    scores = np.lib.format.open_memmap(folder / "scores.npy", "w+", np.float32, shape)
    for number in range(len(scores)):
        scores[number] = number
    scores.flush()
    keys = (f"big.tif#0/{row}/{col}\n" for row in starts for col in starts)
    (folder / "scores.keys").write_text("".join(keys))

    target = tmp_path / "scores.tif"
    began = time.perf_counter()
    command = ("-m", "patchbeam", "stitch", tmp_path / "out", "--image", "big.tif")
    peak = peak_of(*command, "--predictions", folder, "--output", target)
    print(f"{peak / 1e9:.2f} GB, {time.perf_counter() - began:.0f} s, a file of {target.stat().st_size / 1e9:.2f} GB")
    assert peak < 2e9
    for level in (0, 1):
        reader = open_image(str(target), level)
        assert (reader.layout.height, reader.layout.width) == (side >> level, side >> level)
        for row, col in [(0, 0), (9_000, 11_111), ((side >> level) - 300, (side >> level) - 300)]:
            found = reader.read(Box(row, col, 300, 300))[..., 0]
            rows, cols = (np.arange(start, start + 300) << level >> 8 for start in (row, col))
            np.testing.assert_array_equal(found, rows[:, None] * len(starts) + cols)
        reader.close()


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_two_hundred_thousand_images_are_planned_within_0_6_gb_and_little_more_than_fifty_thousand():
    peaks = {images: peak_of("benchmarks/planning.py", images) for images in (50_000, 200_000)}
    print({images: f"{peak / 1e9:.2f} GB" for images, peak in peaks.items()})
    assert peaks[200_000] < 0.6e9
    assert peaks[200_000] < peaks[50_000] + 0.15e9  # a kilobyte for each further one
