"""The distribution works: the wheel, installed into an empty environment, builds a dataset there."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from helpers import REPO
from PIL import Image

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1500)]


def run(*command, cwd):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """(sdist, wheel), built from a copy of what git knows."""
    folder = tmp_path_factory.mktemp("source")
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=REPO).splitlines()
    for name in listed:
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name)
    run(uv(), "build", "--python", sys.executable, "--out-dir", folder / "dist", folder, cwd=folder)
    (sdist,), (wheel,) = (list((folder / "dist").glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    return sdist, wheel


def uv():
    return os.path.join(os.path.dirname(sys.executable), "uv")


def test_the_wheel_holds_the_packages_and_nothing_else(dist):
    sdist, wheel = dist
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"patchbeam", "pipeline", "transforms"}
    for package in ("patchbeam", "pipeline", "transforms"):
        assert f"{package}/py.typed" in names
    modules = {
        str(path.relative_to(REPO))
        for top in ("patchbeam", "pipeline", "transforms")
        for path in (REPO / top).rglob("*.py")
    }
    assert modules <= set(names)
    with tarfile.open(sdist) as file:
        assert {"README.md", "setup.py", "pyproject.toml"} <= {name.partition("/")[2] for name in file.getnames()}


def test_a_dataset_is_built_by_what_was_installed(dist, tmp_path):
    python = tmp_path / "env/bin/python"
    run(uv(), "venv", "--python", sys.executable, tmp_path / "env", cwd=tmp_path)
    # The tested set, so that the test tells of this project and not of a library's newest release.
    run(uv(), "pip", "install", "--python", python, "-c", REPO / "requirements.lock", dist[1], cwd=tmp_path)
    (tmp_path / "images").mkdir()
    for name in "abc":
        Image.fromarray(np.full((300, 200, 3), ord(name), np.uint8)).save(tmp_path / f"images/{name}.png")
    (tmp_path / "config.yaml").write_text("input: {images: images/*.png}\npatch: {size: 64}\noutput: {path: out}\n")
    said = run(tmp_path / "env/bin/patchbeam", "build", "config.yaml", cwd=tmp_path)
    assert "train     60 patches of 3 images, 1 shard" in said
    assert "all as written" in run(tmp_path / "env/bin/patchbeam", "verify", "out", cwd=tmp_path)
    program = "import patchbeam; print(patchbeam.__version__, len(list(patchbeam.load('out', 'train'))))"
    assert run(python, "-c", program, cwd=tmp_path).split()[-1] == "60"
