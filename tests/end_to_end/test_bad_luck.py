"""What a rebuild survives: the end of all its processes at any moment, a full disk, another hand in between."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import imagecodecs
import numpy as np
import pytest
from helpers import REPO, checksums, configure

from pipeline.cli import main
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.verify import verify

# Starts builds as processes of their own, from one that has imported everything: TensorFlow takes ten seconds.
BUILDER = """
import contextlib, json, os, sys, traceback
import tensorflow
import pipeline.build, pipeline.shards.write_shards
from pipeline.build import build
from pipeline.config import Config
from pipeline.runners.options import parse_options

pipeline.build.graphs_program = lambda **_: contextlib.nullcontext(lambda *_: None)
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os.setsid()  # a group of its own, with the processes that decode
        try:
            build(Config.model_validate(json.loads(line)), parse_options(["--direct_num_workers=1"]))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def start():
    """``start(config)`` begins a build; (process id, function that waits for its exit code)."""
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER], cwd=REPO, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as builder:
        assert builder.stdout.readline() == "ready\n"

        def start(config):
            builder.stdin.write(json.dumps(config.model_dump(mode="json")) + "\n")
            builder.stdin.flush()
            return int(builder.stdout.readline()), lambda: int(builder.stdout.readline())

        yield start
        builder.stdin.close()


def write(root, *names, seed=0):
    for name in names:
        pixels = np.random.default_rng([seed, *name.encode()]).integers(0, 256, (64, 96, 3), np.uint8)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(imagecodecs.png_encode(pixels))


class Night:
    """A published dataset, a set of images that changed since, and how its rebuild has to come out."""

    def __init__(self, folder, start):
        self.start, self.folder = start, folder
        self.config = configure(folder / "images", folder / "out", output={"shard_size": "100KB"})
        write(folder / "images", *(f"{'cats' if n % 2 else 'dogs'}/{n}.png" for n in range(40)))
        assert self.build(self.config) == 0
        self.before = open_dataset(str(folder / "out")).folder
        shutil.copytree(folder / "out", folder / "kept", copy_function=os.link)
        self.kept = checksums(folder / "kept", but=())
        write(folder / "images", *(f"cats/{n}.png" for n in (1, 3, 5, 99)), seed=1)
        (folder / "images/dogs/0.png").unlink()
        began = time.monotonic()
        assert self.build(configure(folder / "images", folder / "fresh", output={"shard_size": "100KB"})) == 0
        self.seconds = time.monotonic() - began
        self.expected = checksums(open_dataset(str(folder / "fresh")).folder)

    def build(self, config):
        return self.start(config)[1]()

    def again(self):
        """Yesterday evening."""
        shutil.rmtree(self.folder / "out")
        shutil.copytree(self.folder / "kept", self.folder / "out", copy_function=os.link)

    def check_published(self):
        assert verify(open_dataset(str(self.folder / "out")), 2) == []

    def check_finished(self):
        """The next build finishes, equals one from nothing, and leaves nothing else behind."""
        assert self.build(self.config) == 0
        out = self.folder / "out"
        found = open_dataset(str(out)).folder
        assert found > self.before
        assert checksums(found) == self.expected
        self.check_published()
        assert sorted(os.listdir(out)) == [".lock", "LATEST", "published.jsonl", "versions"]
        assert sorted(os.listdir(out / "versions")) == [os.path.basename(self.before), os.path.basename(found)]
        assert not [path for path in out.rglob("*") if path.name.startswith(".tmp-") or path.name == "work"]
        assert checksums(self.folder / "kept", but=()) == self.kept


@pytest.fixture(scope="module")
def night(start, tmp_path_factory):
    return Night(tmp_path_factory.mktemp("night"), start)


def kill(night, moment):
    """Ends all processes of a rebuild so many seconds after its beginning; whether it had ended before."""
    night.again()
    process, wait = night.start(night.config)
    time.sleep(moment)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    return wait() == 0


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_a_rebuild_that_is_killed(night, part):
    kill(night, night.seconds * part)
    night.check_published()
    night.check_finished()


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_a_rebuild_that_is_killed_at_fifty_random_moments(night):
    chance, ended, states = random.Random(), 0, set()
    for _ in range(50):
        moment = chance.uniform(0.02, night.seconds)
        print(f"killed after {moment:.3f} s", end=": ")
        ended += kill(night, moment)
        out = night.folder / "out"
        begun = len(os.listdir(out / "versions")) - 1
        receipts = len(list(out.glob("versions/*/work/plan.json")))
        states.add((begun, receipts, (out / "LEASE").exists()))
        print(f"{begun} version begun, {receipts} planned")
        night.check_published()
        night.check_finished()
    assert ended < 25
    assert len(states) > 2  # before the version, before the plan, after it


@pytest.mark.heavy
def test_a_rebuild_that_is_killed_again_and_again_gets_there(night):
    night.again()
    for part in (0.5, 0.7, 0.9):
        process, wait = night.start(night.config)
        time.sleep(night.seconds * part)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        wait()
        night.check_published()
    night.check_finished()


@pytest.fixture
def small_disk(tmp_path):
    """``small_disk(bytes)``: a folder that holds no more."""
    mounted = []

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path]
        if os.geteuid() or subprocess.run(command).returncode:
            pytest.skip("needs the right to mount a small disk")
        mounted.append(tmp_path)
        return tmp_path

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_costs_the_build_and_nothing_else(night, small_disk):
    size = sum(path.stat().st_size for path in (night.folder / "kept").rglob("*"))
    disk = small_disk(3 * size)
    shutil.copytree(night.folder / "kept", disk / "out")
    config = night.config.model_copy(update={"output": night.config.output.model_copy(update={"path": f"{disk}/out"})})
    disk_left = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(disk_left.f_bavail * disk_left.f_bsize - size // 8))
    assert night.build(config) == 1
    found = open_dataset(f"{disk}/out")
    assert os.path.basename(found.folder) == os.path.basename(night.before)
    assert verify(found, 2) == []
    (disk / "filler").unlink()
    assert night.build(config) == 0
    assert checksums(open_dataset(f"{disk}/out").folder) == night.expected
    assert not list(disk.rglob(".tmp-*"))


def test_the_command_says_that_the_disk_is_full(night, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["patchbeam", "versions", str(night.folder / "out")])
    full = RuntimeError("OSError: [Errno 28] No space left on device [while running 'WriteShards/ParDo(_Write)']")
    monkeypatch.setattr("pipeline.cli.version_commands.version_table", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 1
    assert "The disk is full: nothing was published" in capsys.readouterr().err
