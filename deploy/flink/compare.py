"""Builds one dataset in every way that this machine offers, with and without accidents, and compares the bytes.

    python deploy/flink/compare.py [--quick]

It builds with one and with two workers on this machine; on a small Flink inside one process; and on a cluster of three
TaskManagers, one of them a spare, without accidents, while a Python worker is killed, and while a TaskManager is
killed. All datasets must have the same bytes, and shards that were finished before an accident must not be cut again;
otherwise the exit code is 1. ``--quick`` runs only the first and the last of these builds.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import imagecodecs
import local_cluster
import psutil
import yaml

SAMPLES = pathlib.Path(__file__).parent.parent.parent / "samples"
IMAGES, SIDE = 96, 720
SHARDS = 64 + 1  # and an empty one of the split train
LIMIT_S = 600


def write_images(folder: pathlib.Path) -> None:
    """Writes crops of the sample photographs as PNG, enough of them for many shards."""
    folder.mkdir()
    photographs = [imagecodecs.jpeg8_decode(path.read_bytes()) for path in sorted(SAMPLES.glob("photos/*.jpg"))]
    crops = [
        photograph[row : row + SIDE, col : col + SIDE]
        for photograph in photographs
        for row in range(0, photograph.shape[0] - SIDE, SIDE)
        for col in range(0, photograph.shape[1] - SIDE, SIDE)
    ]
    for number in range(IMAGES):
        (folder / f"{number:03}.png").write_bytes(imagecodecs.png_encode(crops[number % len(crops)], level=1))


def write_configuration(path: pathlib.Path, images: pathlib.Path) -> None:
    config = {
        "input": {"images": f"{images}/*.png"},
        "patch": {"size": 256, "stride": 96},
        "output": {"path": "given on the command line", "shard_size": "6MB"},
        "splits": {"train": 0, "test": 1},  # without normalisation graphs, which take half a minute per build
    }
    path.write_text(yaml.safe_dump(config))


class Run:
    """One build: its process, its folder, and in the end its results."""

    def __init__(self, name: str, config: pathlib.Path, out: pathlib.Path, arguments: list[str]):
        self.name, self._out, self._started = name, out, time.monotonic()
        self._log = open(f"{out}.log", "wb")
        command = [sys.executable, "-m", "patchbeam", "build", str(config), "--output", str(out), *arguments]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self.finished_before: dict[str, int] = {}

    def receipts(self) -> dict[str, int]:
        """Maps the name of each receipt so far to the time when it was written."""
        return {path.name: path.stat().st_mtime_ns for path in self._out.glob("versions/*/receipts/*.json")}

    def strike(self, accident: Callable[[], int]) -> None:
        """Waits until a quarter of the shards is finished, notes them, and kills the process given by ``accident``."""
        while len(self.receipts()) < SHARDS // 4:
            if self.process.poll() is not None or time.monotonic() - self._started > LIMIT_S:
                fail(f"{self.name}: came to an end before the accident; see {self._log.name}")
            time.sleep(0.02)
        self.finished_before = self.receipts()
        os.kill(accident(), signal.SIGKILL)

    def end(self) -> dict[str, Any]:
        """Waits for the build, checks its files, prints its row, and returns its digest, checksums and folder."""
        if self.process.wait(LIMIT_S):
            said = pathlib.Path(self._log.name).read_text()[-3000:]
            fail(f"{self.name}: ended with {self.process.returncode}:\n{said}")
        seconds = time.monotonic() - self._started
        version = self._out / "versions" / (self._out / "LATEST").read_text().strip()
        manifest = json.loads((version / "manifest.json").read_text())
        counters, shards = manifest["counters"], sum(split["shards"] for split in manifest["splits"].values())
        written, reused = (counters.get(f"shards_{what}", 0) for what in ("written", "reused"))
        if shards != SHARDS or written + reused != shards:
            fail(f"{self.name}: {written} shards written and {reused} reused, of {shards}; there should be {SHARDS}")
        again = [name for name, when in self.finished_before.items() if self.receipts()[name] != when]
        if again or reused < len(self.finished_before):
            fail(f"{self.name}: shards that were finished before the accident were cut again: {again}")
        files = {str(path.relative_to(version)): path for path in version.rglob("*") if path.is_file()}
        if left := [name for name in files if ".tmp-" in name or name.startswith("work")]:
            fail(f"{self.name}: leftovers in the published version: {left}")
        checksums = {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items() if n != "manifest.json"}
        digest = hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()
        counts = f"{len(self.finished_before):9}{reused:8}{written:9}{len(files):7}"
        print(f"{self.name:<36}{seconds:7.1f}{counts}  {digest[:16]}", flush=True)
        return {"digest": digest, "checksums": checksums, "version": version}


def fail(message: str) -> None:
    sys.exit(f"compare: {message}")


def python_worker(task_managers: list[int]) -> int:
    """Returns the process id of a Python worker: TaskManagers have no other children."""
    return next(child.pid for pid in task_managers for child in psutil.Process(pid).children())


def busy_task_manager(task_managers: list[int]) -> int:
    """Returns the process id of a TaskManager that has a Python worker, and so is not the spare."""
    return next(pid for pid in task_managers if psutil.Process(pid).children())


def main(quick: bool) -> None:
    """Runs all builds, or the quick ones only, and prints a row for each."""
    try:
        _, jar = local_cluster.set_up()
    except local_cluster.ClusterError as error:
        fail(str(error))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config = folder / "config.yaml"
        write_images(folder / "images")
        write_configuration(config, folder / "images")
        run = lambda name, arguments: Run(name, config, folder / name.replace(" ", "-").replace(",", ""), arguments)
        two = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
        print(f"{'':<36}seconds  at kill  reused  written  files  checksum")
        results = [run("this machine, 1 worker", ["--", "--direct_num_workers=1"]).end()]
        if not quick:
            results.append(run("this machine, 2 workers", ["--", *two]).end())
            embedded = [f"--flink_version={local_cluster.FLINK.rpartition('.')[0]}", "--parallelism=2"]
            embedded += [f"--flink_job_server_jar={jar}"]
            results.append(run("Flink, embedded", ["--runner=flink", "--", *embedded]).end())
        accidents = {"Python worker": python_worker, "TaskManager": busy_task_manager}
        with local_cluster.cluster(folder / "cluster", task_managers=3) as cluster:
            if not quick:
                results.append(run("Flink, cluster", cluster.arguments()).end())
            for accident, of in list(accidents.items())[quick:]:
                struck = run(f"Flink, a {accident} killed", cluster.arguments())
                struck.strike(lambda of=of: of(cluster.task_managers))
                results.append(struck.end())
        for other in results[1:]:
            if other["digest"] != results[0]["digest"]:
                names = other["checksums"].keys() | results[0]["checksums"].keys()
                unlike = sorted(n for n in names if other["checksums"].get(n) != results[0]["checksums"].get(n))
                fail(f"the datasets differ in {unlike[:5]}")
        verify = [sys.executable, "-m", "patchbeam", "verify", str(results[-1]["version"])]
        if subprocess.run(verify, stdout=subprocess.DEVNULL).returncode:
            fail("patchbeam verify found something in the last dataset")
        print("all datasets have the same bytes, and the last one verifies")


if __name__ == "__main__":
    main(quick="--quick" in sys.argv[1:])
