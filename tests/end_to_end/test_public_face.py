"""``import patchbeam``: what it offers, what it costs, and what a file of the user's own with a name of ours does."""

import os
import pathlib
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
from helpers import REPO, patches_of

import patchbeam
from pipeline.dataset.verify import verify
from pipeline.errors import ConfigError

MEMBERS = [
    "Box", "Config", "Dataset", "ImageFile", "Layout", "Outcome", "Plan", "Reader", "ReaderTests", "Unreadable",
    "__version__", "build", "check_inside", "check_single", "load", "load_config", "open_dataset", "plan",
]  # fmt: skip


def test_the_members_are_these_and_each_is_there():
    assert sorted(patchbeam.__all__) == sorted(dir(patchbeam)) == MEMBERS
    for name in MEMBERS:
        assert getattr(patchbeam, name).__doc__
    with pytest.raises(AttributeError, match="module 'patchbeam' has no attribute 'nothing'"):
        patchbeam.nothing  # noqa: B018


def test_the_names_of_before_are_there():
    """What examples of older documents import."""
    import pipeline
    from pipeline.elements import Unreadable
    from pipeline.readers import ImageFile, Layout, check_single

    assert (pipeline.load, Unreadable, ImageFile, Layout, check_single) == (
        patchbeam.load, patchbeam.Unreadable, patchbeam.ImageFile, patchbeam.Layout, patchbeam.check_single,
    )  # fmt: skip


def python(*arguments, folder, **environment):
    """A program that finds patchbeam on its path, started in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), **environment}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_import_loads_neither_tensorflow_nor_beam(tmp_path):
    program = (
        "import patchbeam, sys; print(sorted({'tensorflow', 'apache_beam', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = python("-c", program, folder=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.fixture
def images(tmp_path):
    """Two images of 2 x 3 and 1 x 2 patches, and their pixels."""
    root, arrays = tmp_path / "images", {}
    root.mkdir()
    for name, shape in {"a.png": (64, 96, 3), "b.png": (32, 64, 3)}.items():
        arrays[name] = np.random.default_rng([*name.encode()]).integers(0, 256, shape, np.uint8)
        (root / name).write_bytes(imagecodecs.png_encode(arrays[name]))
    return root, arrays


CONFIG = "input: {images: nothing/*.png}\noutput: {path: nowhere}\npatch: {size: 64}\nsplits: {train: 1}\n"


def test_a_dataset_is_planned_built_opened_and_loaded(images, tmp_path, no_graphs):
    root, arrays = images
    (tmp_path / "c.yaml").write_text(CONFIG)
    out = str(tmp_path / "out")
    how = {"images": [f"{root}/*.png"], "output": out, "overrides": {"patch.size": 32}}

    planned = patchbeam.plan(str(tmp_path / "c.yaml"), **how)
    assert isinstance(planned, patchbeam.Plan)
    assert (planned.images, planned.opened, planned.previous, planned.rejected) == (2, 2, None, [])
    assert (planned.splits["train"].totals.images, planned.splits["train"].totals.patches) == (2, 8)
    assert not os.path.exists(out)

    outcome = patchbeam.build(str(tmp_path / "c.yaml"), **how, beam_options=["--direct_num_workers=1"])
    assert isinstance(outcome, patchbeam.Outcome)
    assert (outcome.unchanged, outcome.built) == (False, True)
    assert outcome.manifest.accounts.written == 8
    config = patchbeam.load_config(str(tmp_path / "c.yaml"), ["patch.size=32"], how["images"], out)
    assert patchbeam.build(config, beam_options=["--direct_num_workers=1"]).unchanged
    assert patchbeam.plan(config).previous == outcome.version.name

    dataset = patchbeam.open_dataset(out)
    assert isinstance(dataset, patchbeam.Dataset) and isinstance(dataset.config, patchbeam.Config)
    assert (dataset.folder, dataset.manifest) == (outcome.folder, outcome.manifest)
    assert verify(dataset, 1) == []
    found = list(patchbeam.load(out, "train").as_numpy_iterator())
    assert len(found) == 8 == len(patches_of(outcome.folder))
    for element in found:
        row, col = element["row"], element["col"]
        expected = arrays[element["image_id"].decode()][row : row + 32, col : col + 32]
        np.testing.assert_array_equal(element["image"], expected)


def test_a_wrong_key_is_named(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    with pytest.raises(ConfigError, match=r"patch\.sizes: unknown key; did you mean size\?"):
        patchbeam.build(str(tmp_path / "c.yaml"), overrides={"patch.sizes": 3})


# --- files of the user's own with names of ours -----------------------------------------------------------------------


OWN = {
    "modules": ["pipeline.py", "transforms.py"],
    "packages": ["pipeline/__init__.py", "transforms/__init__.py"],
}


def write_own(folder, *names):
    """Files that end whatever imports them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise SystemExit('a file of the user was imported')\n")


def command():
    """The console script, or what is the same where this patchbeam is not installed: no current folder on the path."""
    script = pathlib.Path(sys.executable).with_name("patchbeam")
    return [script] if script.exists() and "from patchbeam." in script.read_text() else ["-P", "-m", "patchbeam"]


ONE, PROCESSES = ["--direct_num_workers=1"], ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]


@pytest.mark.parametrize(
    ("own", "flags"),
    [(OWN["modules"], ONE), (OWN["modules"], PROCESSES), (OWN["packages"], PROCESSES)],
    ids=["modules-one-process", "modules-processes", "packages-processes"],
)
def test_the_command_builds_in_a_folder_with_files_of_these_names(images, tmp_path, own, flags):
    folder = tmp_path / "mine"
    folder.mkdir()
    write_own(folder, *own)
    (folder / "c.yaml").write_text(CONFIG)
    ways = ["--input", f"{images[0]}/*.png", "--output", "out", "--set", "patch.size=32"]
    done = python(*command(), "build", "c.yaml", *ways, "--", *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    dataset = patchbeam.open_dataset(str(folder / "out"))
    assert dataset.manifest.accounts.written == 8
    assert os.path.exists(f"{dataset.folder}/normalize/saved_model.pb")  # by a program of its own
    assert verify(dataset, 1) == []


@pytest.mark.parametrize("own", [name for names in OWN.values() for name in names])
def test_the_import_says_in_one_sentence_which_file_hides_what(tmp_path, own):
    write_own(tmp_path, own)
    package = own.partition("/")[0].removesuffix(".py")
    for arguments in (["-c", "import patchbeam"], ["-m", "patchbeam", "--version"]):
        done = python(*arguments, folder=tmp_path)
        assert done.returncode == 1
        assert done.stdout == ""
        *_, last = done.stderr.splitlines()
        assert last == (
            f"ImportError: {tmp_path}/{own} hides the package {package!r} of patchbeam in {REPO}/{package}: rename it, "
            "or start Python in another folder"
        )


def test_a_folder_with_a_name_of_ours_and_no_code_hides_nothing(tmp_path):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "transforms").mkdir()
    done = python("-c", "import patchbeam; print(patchbeam.__version__)", folder=tmp_path)
    assert (done.stdout, done.stderr) == (f"{patchbeam.__version__}\n", "")
