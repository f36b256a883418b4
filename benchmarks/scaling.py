"""Throughput of one core and of all cores of this machine, without the start-up.

    python benchmarks/scaling.py [--side 10000] [--encoding jpeg|png] [--repeats 2]

Builds two pictures and then eight of the same kind, as a user would, and divides the work of six pictures by the
difference in time: imports, planning, analysis and publishing cost the same in both and cancel out. The modes are

- codecs: every tile is decoded and encoded in memory, on one core and with a process on each core: the machine's limit.
- one: one process with one thread, on one core.
- threads: one process with a thread for each core.
- processes: a process for each core, with one thread each.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

QUICKSTART = pathlib.Path(__file__).parent.parent / "configs" / "quickstart.yaml"
CORES = sorted(os.sched_getaffinity(0))
PICTURES = (2, 8)
MODES = {
    "one": (CORES[:1], ["--direct_num_workers=1"]),
    "threads": (CORES, ["--direct_running_mode=multi_threading"]),
    "processes": (CORES, ["--direct_running_mode=multi_processing"]),
}

CODECS = """
import sys, tifffile
from transforms.encoding import encode_patch
path, encoding, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
for _ in range(times):
    for tile, _, _ in tifffile.TiffFile(path).pages[0].segments(maxworkers=1):
        encode_patch(tile[0], encoding)
"""


def seconds(command: list[list[str]], cores: list[int]) -> float:
    """Returns the wall time of commands that run at the same time on ``cores``."""
    start = time.perf_counter()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    taskset = ["taskset", "--cpu-list", ",".join(map(str, cores))]
    running = [
        subprocess.Popen([*taskset, *each], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for each in command
    ]
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            sys.exit(errors.decode()[-3000:])
    return time.perf_counter() - start


def build(folder: pathlib.Path, pictures: int, encoding: str, mode: str) -> float:
    cores, flags = MODES[mode]
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", "patchbeam", "build", str(QUICKSTART), "--output", out]
        command += [f"--input={folder}/{number}.tif" for number in range(pictures)]
        command += ["--set", f"output.encoding={encoding}", "--set", "splits={train: 0, test: 1}"]  # without graphs
        command += ["--set", "output.shard_size=8MB", "--", *flags]
        return seconds([command], cores)


def codecs(folder: pathlib.Path, pictures: int, encoding: str, cores: list[int]) -> float:
    command = [sys.executable, "-c", CODECS, f"{folder}/0.tif", encoding]
    share = pictures * 4 // len(cores)  # four times the work, because it is short
    return seconds([[*command, str(share)] for _ in cores], cores) / 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--encoding", choices=["jpeg", "png"], default="jpeg")
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    from mosaic import write_mosaic

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_mosaic(f"{folder}/0.tif", given.side)
        for number in range(1, max(PICTURES)):
            os.link(folder / "0.tif", folder / f"{number}.tif")
        runs = {mode: lambda n, mode=mode: build(folder, n, given.encoding, mode) for mode in MODES}
        runs |= {"codecs, one": lambda n: codecs(folder, n, given.encoding, CORES[:1])}
        runs |= {"codecs, all": lambda n: codecs(folder, n, given.encoding, CORES)}
        few, many = PICTURES
        found: dict[str, float] = {}
        for _ in range(given.repeats):  # interleaved, so that a busy moment of the machine hits all of them
            for mode, run in runs.items():
                took = {n: run(n) for n in PICTURES}
                rate = (many - few) * given.side**2 / 1e6 / (took[many] - took[few])
                found[mode] = max(found.get(mode, 0), rate)
                print(f"{mode:<12} {took[few]:6.1f} s and {took[many]:6.1f} s: {rate:7.1f} MP/s", flush=True)
    print(f"{many - few} pictures of {given.side} x {given.side} to {given.encoding}, {len(CORES)} cores")
    for mode, rate in found.items():
        base = "codecs, one" if mode.startswith("codecs") else "one"
        print(f"{mode:<12} {rate:7.1f} MP/s  {rate / found[base]:.2f} x one")


if __name__ == "__main__":
    main()
