"""A version is published whole or not at all, and nothing that was published is touched again."""

import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from pipeline import storage, versions
from pipeline.config import ConfigError
from pipeline.versions import Busy

ONE, OTHER = "ab" * 32, "cd" * 32
OLD, NEW = "20240101T000000Z-abababab", "20240202T000000Z-cdcdcdcd"


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that goes on by a minute each time it is looked at."""
    times = iter([datetime.datetime(2025, 1, 1, 0, minute, tzinfo=datetime.UTC) for minute in range(60)])

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, zone=None):
            return next(times)

    monkeypatch.setattr(versions.datetime, "datetime", Clock)


def write(out, name, **files):
    """A version with these files; ``__`` stands for a slash and ``_json`` for the suffix."""
    for path, data in files.items():
        path = path.replace("__", "/").replace("_json", ".json")
        storage.write_bytes(storage.join(versions.folder_of(out, name), path), data.encode())


def content(out):
    """path -> text of everything but the lock."""
    files = {path: storage.read_bytes(storage.join(out, path)).decode() for path in storage.files_below(out)}
    return {path: text for path, text in files.items() if path != ".lock"}


def started(digest):
    return json.dumps({"content_digest": digest})


def test_the_first_build_gets_a_version_with_its_time_and_digest(out):
    assert versions.latest(out) is None
    assert versions.begin(out, ONE) == ("20250101T000000Z-abababab", False)
    assert content(out) == {"versions/20250101T000000Z-abababab/work/build.json": started(ONE)}
    assert versions.latest(out) is None


def test_an_unfinished_version_of_the_same_configuration_is_resumed_with_its_files(out):
    name, _ = versions.begin(out, ONE)
    write(out, name, receipts__train_json="{}", work__plan_json="{}")
    before = content(out)
    assert versions.begin(out, ONE) == (name, True)
    assert content(out) == before


def test_what_another_configuration_left_unfinished_is_removed(out):
    name, _ = versions.begin(out, ONE)
    write(out, name, receipts__train_json="{}", work__plan_json="{}")
    again, resumed = versions.begin(out, OTHER)
    assert (again, resumed) == ("20250101T000100Z-cdcdcdcd", False)
    assert os.listdir(f"{out}/versions") == [again]


def test_the_newest_of_several_unfinished_versions_is_resumed(out):
    write(out, OLD, work__build_json=started(ONE))
    write(out, "20240301T000000Z-abababab", work__build_json=started(ONE))
    write(out, NEW, work__build_json=started(OTHER))
    assert versions.begin(out, ONE) == ("20240301T000000Z-abababab", True)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '"x"', '{"content_digest": 5}'])
def test_a_version_whose_beginning_cannot_be_read_is_removed(out, text):
    write(out, OLD, work__build_json=text, x="1")
    name, resumed = versions.begin(out, ONE)
    assert not resumed
    assert os.listdir(f"{out}/versions") == [name]


def test_publishing_writes_the_manifest_moves_the_pointer_and_removes_the_work(out):
    name, _ = versions.begin(out, ONE)
    write(out, name, data="pixels", work__plan_json="{}")
    versions.publish(out, name, {"version": name, "shards": [1]})
    assert content(out) == {
        "LATEST": f"{name}\n",
        f"versions/{name}/data": "pixels",
        f"versions/{name}/manifest.json": f'{{\n "version": "{name}",\n "shards": [\n  1\n ]\n}}\n',
    }
    assert versions.latest(out) == name
    assert versions.read_manifest(versions.folder_of(out, name)) == {"version": name, "shards": [1]}
    assert not os.path.exists(f"{out}/versions/{name}/work")


def test_a_published_version_is_never_touched_again(out):
    first, _ = versions.begin(out, ONE)
    write(out, first, data="first", receipts__x_json="{}")
    versions.publish(out, first, {"n": 1})
    kept = {path: text for path, text in content(out).items() if path != "LATEST"}
    for digest in (ONE, OTHER, ONE):
        name, resumed = versions.begin(out, digest)
        assert (name > first, resumed) == (True, False)
        assert versions.latest(out) == first
        assert kept.items() <= content(out).items()
    versions.publish(out, name, {"n": 2})
    assert versions.latest(out) == name
    assert kept.items() <= content(out).items()


def test_a_manifest_comes_before_the_pointer_and_the_pointer_before_the_work_goes(out, monkeypatch):
    name, _ = versions.begin(out, ONE)
    seen = []
    replace, rmtree = os.replace, versions.storage.shutil.rmtree
    monkeypatch.setattr(os, "replace", lambda a, b: seen.append(os.path.relpath(b, out)) or replace(a, b))
    monkeypatch.setattr(storage.shutil, "rmtree", lambda a: seen.append(os.path.relpath(a, out)) or rmtree(a))
    versions.publish(out, name, {})
    assert seen == [f"versions/{name}/manifest.json", "LATEST", f"versions/{name}/work"]


def test_a_complete_version_whose_pointer_was_not_moved_is_published_by_the_next_build(out):
    write(out, OLD, manifest_json='{"n": 1}')
    storage.write_bytes(f"{out}/LATEST", f"{OLD}\n".encode())
    write(out, NEW, manifest_json='{"n": 2}', data="pixels", work__build_json=started(OTHER), work__x="y")
    name, resumed = versions.begin(out, OTHER)
    assert (name, resumed) == ("20250101T000000Z-cdcdcdcd", False)
    assert content(out) == {
        "LATEST": f"{NEW}\n",
        f"versions/{OLD}/manifest.json": '{"n": 1}',
        f"versions/{NEW}/manifest.json": '{"n": 2}',
        f"versions/{NEW}/data": "pixels",
        f"versions/{name}/work/build.json": started(OTHER),
    }


def test_a_complete_version_that_is_older_than_the_latest_does_not_replace_it(out):
    write(out, NEW, manifest_json="{}")
    storage.write_bytes(f"{out}/LATEST", NEW.encode())
    write(out, OLD, manifest_json="{}", work__build_json=started(ONE))
    versions.begin(out, ONE)
    assert versions.latest(out) == NEW
    assert os.listdir(f"{out}/versions/{OLD}") == ["manifest.json"]


def test_a_build_is_the_latest_one_also_when_the_clock_was_set_back(out):
    later = "20990101T000000Z-cdcdcdcd"
    write(out, later, manifest_json="{}")
    storage.write_bytes(f"{out}/LATEST", later.encode())
    name, _ = versions.begin(out, ONE)
    versions.publish(out, name, {})
    assert versions.latest(out) == name


def test_a_removal_that_was_interrupted_is_finished_by_the_next_build(out):
    write(out, OLD, receipts__x_json="{}")  # neither a manifest nor work: half of it is gone
    name, _ = versions.begin(out, ONE)
    assert os.listdir(f"{out}/versions") == [name]


def test_a_build_is_resumed_below_a_folder_with_brackets(tmp_path):
    out = str(tmp_path / "slides[1]")
    name, _ = versions.begin(out, ONE)
    assert versions.begin(out, ONE) == (name, True)


def test_versions_of_another_output_are_left_alone_below_a_folder_with_a_star(tmp_path):
    versions.begin(str(tmp_path / "out1"), ONE)
    assert versions.begin(str(tmp_path / "out*"), ONE)[1] is False


@pytest.mark.parametrize(
    "text",
    ["../../etc", "", "\n", "x", f"{OLD}/../..", f"versions/{OLD}", f"{OLD}\n{NEW}", f"../{OLD}", OLD.upper(), "\x00"],
)
def test_a_pointer_that_holds_no_name_of_a_version_is_refused(out, text):
    storage.write_bytes(f"{out}/LATEST", text.encode())
    with pytest.raises(ConfigError) as caught:
        versions.latest(out)
    assert str(caught.value) == (
        f"{out}/LATEST: {text.strip()!r} is no name of a version; write one of {out}/versions into it"
    )


def test_a_pointer_that_is_no_text_is_refused(out):
    storage.write_bytes(f"{out}/LATEST", b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no name of a version"):
        versions.latest(out)


def test_a_pointer_is_read_with_or_without_the_end_of_its_line(out):
    for text in (NEW, f"{NEW}\n", f" {NEW}\r\n"):
        storage.write_bytes(f"{out}/LATEST", text.encode())
        assert versions.latest(out) == NEW


def test_keeping_only_what_is_wanted_removes_the_rest_but_not_the_work(out):
    write(out, OLD, a="1", b="2", receipts__a_json="3", receipts__b_json="4", work__plan_json="5", worker="6")
    versions.keep_only(versions.folder_of(out, OLD), {"a", "receipts/b.json", "not/there"})
    assert content(out) == {
        f"versions/{OLD}/a": "1",
        f"versions/{OLD}/receipts/b.json": "4",
        f"versions/{OLD}/work/plan.json": "5",
    }


HOLD = """
import sys, time
from pipeline import versions
with versions.exclusively(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def another_process_builds(out):
    process = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_build_is_kept_out_until_the_first_process_ends_however_it_ends(out):
    with another_process_builds(out) as process:
        with pytest.raises(Busy) as caught, versions.exclusively(out):
            pass
        assert str(caught.value) == f"another build is writing to {out}; wait for it, or choose another output.path"
        with versions.exclusively(f"{out}-2"):
            pass  # another output is free
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with versions.exclusively(out):
            pass


def test_a_build_that_fails_frees_the_output(out):
    with pytest.raises(ValueError, match="failed"), versions.exclusively(out):
        raise ValueError("failed")
    with versions.exclusively(out), pytest.raises(Busy), versions.exclusively(out):
        pass
    with versions.exclusively(out):
        pass


def test_a_lock_on_an_object_store_is_no_lock():
    with versions.exclusively("gs://bucket/out"), versions.exclusively("gs://bucket/out"):
        pass


def test_an_output_that_cannot_be_written_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (f"{tmp_path}/file", f"{tmp_path}/file/below"):
        with pytest.raises(ConfigError, match=f"^output.path: {re.escape(repr(out))} cannot be written: "):
            with versions.exclusively(out):
                pass
