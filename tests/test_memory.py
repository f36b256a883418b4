"""Memory stays flat: measured over all processes of a build, on pictures of 0.9 and 1.8 gigapixels."""

import pathlib
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.dataset import open_dataset

REPO = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(REPO / "benchmarks"))


def peak_of_build(picture, out) -> int:
    """Highest sum of the resident memory of the build and its children, sampled 20 times a second."""
    arguments = ["--input", picture, "--output", out, "--set", "output.encoding=jpeg", "--set", "splits={train: 1}"]
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    command = [sys.executable, "-m", "pipeline", "build", "configs/quickstart.yaml", *map(str, arguments), "--", *flags]
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
        assert open_dataset(str(tmp_path / str(side))).manifest["accounts"]["written"] == (-(-side // 256)) ** 2
    print({side: f"{peak / 1e9:.2f} GB" for side, peak in peaks.items()})
    assert peaks[30_000] < 3e9
    assert peaks[42_426] < peaks[30_000] * 1.1
