"""The commands as a user runs them: what they print, the codes they end with, and what a kill leaves behind."""

import collections
import json
import os
import re
import signal
import subprocess
import sys
import time

import imagecodecs
import numpy as np
import pytest
import tifffile
from helpers import REPO, checksums, configure, read_index

from pipeline import storage
from pipeline.cli.text import counted
from pipeline.dataset.reading import open_dataset


def patchbeam(*arguments, **options):
    command = [sys.executable, "-m", "patchbeam", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPO, **options)


@pytest.fixture
def images(tmp_path):
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for number in range(6):
        path = root / f"{'cats' if number % 2 else 'dogs'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(imagecodecs.png_encode(rng.integers(0, 256, (70, 90, 3), np.uint8)))
    return root


@pytest.fixture
def command_line(images, tmp_path):
    path = tmp_path / "config.yaml"
    values = configure(images, tmp_path / "out", output={"shard_size": "20KB"}).model_dump(mode="json")
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


def test_the_commands_build_plan_inspect_and_verify(command_line, tmp_path):
    elsewhere = ("--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://bucket/t")
    planned = patchbeam("plan", command_line, "--", *elsewhere)  # a plan is made here, whatever runs the build
    assert planned.returncode == 0, planned.stderr
    assert "images    6 found" in planned.stdout and "patches" in planned.stdout
    built = patchbeam("build", command_line, "--", "--direct_num_workers=2")
    assert built.returncode == 0, built.stderr
    dataset = open_dataset(str(tmp_path / "out"))
    for split, facts in dataset.manifest.splits.items():
        patches = collections.Counter(row["shard"] for row in read_index(dataset.folder) if row["split"] == split)
        uneven = max(patches.values()) * facts.shards / sum(patches.values())
        assert facts.largest_to_mean == pytest.approx(uneven, abs=5e-4)
        shards = counted(facts.shards, "shard")
        assert re.search(rf"{split} .* {shards}, .*, the largest {uneven:.2f} x the mean", planned.stdout)
    assert "images    6, 0 of them with rejections" in built.stdout
    assert "dataset" in built.stdout
    again = patchbeam("build", command_line)
    assert again.returncode == 0
    assert again.stdout.startswith("Nothing changed since")
    gate = ("--set", "seed=1", "--set", "gates={patches: {min: 5}}", "--metrics-file", tmp_path / "held.prom")
    known = patchbeam("plan", command_line)
    assert re.search(r"images    6 found, 6 of them as in \S+: their headers were not read", known.stdout)
    held = patchbeam("build", command_line, *gate)
    assert held.returncode == 3, held.stderr
    assert re.search(r"^gate      patches: .* times; at least 5 times is allowed$", held.stdout, re.MULTILINE)
    assert "held back" in held.stderr and "publishes it anyway" in held.stderr and "Traceback" not in held.stderr
    assert "patchbeam_last_run_exit_code" in (tmp_path / "held.prom").read_text()
    told = [json.loads(line) for line in (tmp_path / "out/runs.jsonl").read_text().splitlines()]
    assert [(run["outcome"], run["exit_code"]) for run in told] == [("published", 0), ("unchanged", 0), ("held", 3)]
    published = patchbeam("publish", tmp_path / "out", told[-1]["version"])
    assert published.stdout == f"published {told[-1]['version']}, which did not pass patches\n"
    shown = patchbeam("inspect", tmp_path / "out", "--sheets", tmp_path / "sheets")
    assert shown.returncode == 0, shown.stderr
    assert "train:" in shown.stdout and "mean" in shown.stdout
    sheets = sorted(path.name.rpartition("-")[2] for path in (tmp_path / "sheets").iterdir())
    assert sheets == ["test.png", "train.png"]
    checked = patchbeam("verify", tmp_path / "out")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "all as written" in checked.stdout


def test_wrong_command_lines_exit_with_64_and_say_what_is_wrong(command_line, tmp_path):
    for arguments, message in [
        (("build", command_line, "--", "--no_such_flag=1"), "--no_such_flag=1: not known to Beam"),
        (("build", command_line, "--sett", "a=1"), "No such option"),
        (("inspect", tmp_path / "nothing"), "no published dataset here"),
    ]:
        done = patchbeam(*arguments)
        assert done.returncode == 64
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_too_many_rejections_exit_with_2(images, command_line, tmp_path):
    for number in range(2):
        (images / f"empty{number}.png").write_bytes(b"")
    done = patchbeam("build", command_line)
    assert done.returncode == 2
    assert "Nothing was published" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out/LATEST").exists()
    (line,) = (tmp_path / "out/runs.jsonl").read_text().splitlines()
    assert (json.loads(line)["outcome"], json.loads(line)["exit_code"]) == ("rejected", 2)


def test_a_killed_build_and_its_rerun_give_the_bytes_of_an_uninterrupted_one(images, command_line, tmp_path):
    rng = np.random.default_rng(3)
    for number in range(6):
        big = rng.integers(0, 256, (1500, 1500, 3), np.uint8)
        tifffile.imwrite(images / f"big{number}.tif", big, tile=(256, 256), photometric="rgb")
    command = [sys.executable, "-m", "patchbeam", "build", str(command_line), "--set", "output.shard_size=500KB"]
    process = subprocess.Popen([*command, "--", "--direct_num_workers=1"], cwd=REPO, stderr=subprocess.DEVNULL)
    receipts = lambda: list((tmp_path / "out").glob("versions/*/receipts/*.json"))
    deadline = time.monotonic() + 120
    while len(receipts()) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(receipts())
    assert done >= 5
    assert not (tmp_path / "out/LATEST").exists()
    resumed = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.manifest.counters["shards_reused"] >= done
    assert dataset.manifest.counters["shards_written"] >= 1
    assert f"reused    {dataset.manifest.counters['shards_reused']} of" in resumed.stdout
    clean = subprocess.run([*command, "--output", str(tmp_path / "clean")], cwd=REPO, capture_output=True, text=True)
    assert clean.returncode == 0, clean.stderr
    found = checksums(dataset.folder)
    assert found == checksums(open_dataset(str(tmp_path / "clean")).folder)
    assert {"normalize/saved_model.pb", "transform_fn/saved_model.pb"} < found.keys()
    assert [name for name in storage.files_below(dataset.folder) if ".tmp-" in name or name.startswith("work/")] == []
