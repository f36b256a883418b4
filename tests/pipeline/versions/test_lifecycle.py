"""A version is published whole or not at all, and nothing that was published is touched again."""

import datetime
import hashlib
import json
import os
import shutil

import pytest
from helpers import make_manifest

from pipeline import storage
from pipeline.elements import FORMAT
from pipeline.errors import DatasetError, FormatError
from pipeline.versions import lease, lifecycle
from pipeline.versions.lifecycle import Version
from pipeline.versions.manifest import read_manifest, write_manifest

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

    monkeypatch.setattr(lifecycle.datetime, "datetime", Clock)


def write(out, name, **files):
    """A version with these files; ``__`` stands for a slash and ``_json`` for the suffix."""
    for path, data in files.items():
        path = path.replace("__", "/").replace("_json", ".json")
        storage.write_bytes(storage.join(Version(out, name).folder, path), data.encode())


def content(out):
    """path -> text of everything but the lock."""
    files = {path: storage.read_bytes(storage.join(out, path)).decode() for path in storage.files_below(out)}
    return {path: text for path, text in files.items() if path not in (".lock", "published.jsonl")}


def publish(version, **manifest):
    """Makes it complete and the latest."""
    write_manifest(version.folder, make_manifest(version=version.name, **manifest))
    with lease.hold(version.output) as held:
        lifecycle.publish(version, held)


def started(digest):
    return json.dumps({"content_digest": digest})


def test_the_first_build_gets_a_version_with_its_time_and_digest(out):
    assert lifecycle.latest(out) is None
    assert lifecycle.begin(out, ONE, ONE) == (Version(out, "20250101T000000Z-abababab"), False)
    assert content(out) == {"versions/20250101T000000Z-abababab/work/build.json": started(ONE)}
    assert lifecycle.latest(out) is None


def test_an_unfinished_version_of_the_same_configuration_is_resumed_with_its_files(out):
    version, _ = lifecycle.begin(out, ONE, ONE)
    write(out, version.name, receipts__train_json="{}", work__plan_json="{}")
    before = content(out)
    assert lifecycle.begin(out, ONE, ONE) == (version, True)
    assert content(out) == before


def test_what_another_configuration_left_unfinished_is_removed(out):
    version, _ = lifecycle.begin(out, ONE, ONE)
    write(out, version.name, receipts__train_json="{}", work__plan_json="{}")
    again, resumed = lifecycle.begin(out, OTHER, OTHER)
    assert (again, resumed) == (Version(out, "20250101T000100Z-cdcdcdcd"), False)
    assert os.listdir(f"{out}/versions") == [again.name]


def test_the_newest_of_several_unfinished_versions_is_resumed(out):
    write(out, OLD, work__build_json=started(ONE))
    write(out, "20240301T000000Z-abababab", work__build_json=started(ONE))
    write(out, NEW, work__build_json=started(OTHER))
    assert lifecycle.begin(out, ONE, ONE) == (Version(out, "20240301T000000Z-abababab"), True)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '"x"', '{"content_digest": 5}'])
def test_a_version_whose_beginning_cannot_be_read_is_removed(out, text):
    write(out, OLD, work__build_json=text, x="1")
    version, resumed = lifecycle.begin(out, ONE, ONE)
    assert not resumed
    assert os.listdir(f"{out}/versions") == [version.name]


def test_publishing_writes_the_manifest_moves_the_pointer_and_removes_the_work(out):
    version, _ = lifecycle.begin(out, ONE, ONE)
    name = version.name
    write(out, name, data="pixels", work__plan_json="{}")
    assert (version.is_complete, version.manifest) == (False, None)
    publish(version, counters={"shards": 1})
    files = content(out)
    manifest = json.loads(files.pop(f"versions/{name}/manifest.json"))
    assert files == {"LATEST": f"{name}\n", f"versions/{name}/data": "pixels"}
    assert manifest.pop("checksum") == hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    assert manifest == make_manifest(version=name, counters={"shards": 1}).model_dump(mode="json")
    assert version.manifest == make_manifest(version=name, counters={"shards": 1})
    assert version.is_complete
    assert lifecycle.latest(out) == version
    assert not os.path.exists(f"{out}/versions/{name}/work")


def test_a_manifest_that_was_edited_is_refused(out):
    version, _ = lifecycle.begin(out, ONE, ONE)
    publish(version, counters={"images": 7})
    path = f"{version.folder}/manifest.json"
    text = storage.read_bytes(path)
    assert read_manifest(version.folder).counters == {"images": 7}
    edits = {"7": "8", '"checksum"': '"x"', '"counters"': '"counter"'}
    edited = [text.replace(old.encode(), new.encode()) for old, new in edits.items()]
    for changed in (*edited, text[:-5], b"[]", b""):
        assert changed != text
        storage.write_bytes(path, changed)
        with pytest.raises(
            DatasetError, match="was changed after it was written, its checksum is another one; restore"
        ):
            read_manifest(version.folder)
    storage.write_bytes(path, json.dumps(json.loads(text)).encode())  # other spaces are no other content
    assert read_manifest(version.folder).counters == {"images": 7}


def test_an_output_of_a_newer_format_is_refused(out):
    lifecycle.check_format(out)
    write(out, OLD, manifest_json=json.dumps({"format": FORMAT + 1}))
    storage.write_bytes(f"{out}/LATEST", OLD.encode())
    with pytest.raises(FormatError, match=f"has format {FORMAT + 1}, this patchbeam writes format {FORMAT} .* newer"):
        lifecycle.check_format(out)


def test_a_published_version_is_never_touched_again(out):
    first, _ = lifecycle.begin(out, ONE, ONE)
    write(out, first.name, data="first", receipts__x_json="{}")
    publish(first)
    kept = {path: text for path, text in content(out).items() if path != "LATEST"}
    for digest in (ONE, OTHER, ONE):
        version, resumed = lifecycle.begin(out, digest, digest)
        assert (version.name > first.name, resumed) == (True, False)
        assert lifecycle.latest(out) == first
        assert kept.items() <= content(out).items()
    publish(version)
    assert lifecycle.latest(out) == version
    assert kept.items() <= content(out).items()


def test_a_manifest_comes_before_the_pointer_and_the_pointer_before_the_work_goes(out, monkeypatch):
    version, _ = lifecycle.begin(out, ONE, ONE)
    name, seen = version.name, []
    replace, rmtree = os.replace, shutil.rmtree
    monkeypatch.setattr(os, "replace", lambda a, b: seen.append(os.path.relpath(b, out)) or replace(a, b))
    monkeypatch.setattr("shutil.rmtree", lambda a: seen.append(os.path.relpath(a, out)) or rmtree(a))
    publish(version)
    order = [f"versions/{name}/manifest.json", "LEASE", "LEASE", "LATEST", "published.jsonl", f"versions/{name}/work"]
    assert seen == order  # the lease is taken, and looked at once more right before the pointer moves


def test_a_complete_version_that_is_not_published_stays_as_it_is_without_its_work(out):
    write(out, OLD, manifest_json='{"n": 1}')
    storage.write_bytes(f"{out}/LATEST", f"{OLD}\n".encode())
    write(out, NEW, manifest_json='{"n": 2}', data="pixels", work__build_json=started(OTHER), work__x="y")
    version, resumed = lifecycle.begin(out, OTHER, OTHER)
    assert (version, resumed) == (Version(out, "20250101T000000Z-cdcdcdcd"), False)
    assert content(out) == {
        "LATEST": f"{OLD}\n",
        f"versions/{OLD}/manifest.json": '{"n": 1}',
        f"versions/{NEW}/manifest.json": '{"n": 2}',
        f"versions/{NEW}/data": "pixels",
        f"versions/{version.name}/work/build.json": started(OTHER),
    }
    assert lifecycle.complete_versions(out) == [Version(out, OLD), Version(out, NEW)]
    assert lifecycle.unfinished(out) == version


def test_versions_sort_as_they_follow_each_other_also_when_the_clock_was_set_back_or_stands_still(out):
    later = "20990101T000000Z-cdcdcdcd"
    write(out, later, manifest_json="{}")
    version, _ = lifecycle.begin(out, ONE, ONE)
    assert version.name == "20990101T000001Z-abababab"
    publish(version)
    assert lifecycle.begin(out, ONE, ONE)[0].name == "20990101T000002Z-abababab"


def test_only_folders_are_listed(out, monkeypatch):
    write(out, OLD, manifest_json="{}")
    write(out, NEW, work__build_json=started(ONE), **{f"receipts__{n}_json": "" for n in range(9)})
    monkeypatch.setattr(storage, "files_below", lambda folder: pytest.fail(f"lists all of {folder}"))
    assert lifecycle.begin(out, ONE, ONE) == (Version(out, NEW), True)
    assert lifecycle.unfinished(out) == Version(out, NEW)


def test_what_was_killed_while_it_wrote_is_swept_up(out):
    storage.write_bytes(f"{out}/.tmp-LATEST-0123", b"half")
    lifecycle.begin(out, ONE, ONE)
    assert not os.path.exists(f"{out}/.tmp-LATEST-0123")


def test_what_was_published_is_noted_and_what_was_moved_by_hand_counts(out):
    first, _ = lifecycle.begin(out, ONE, ONE)
    publish(first)
    second, _ = lifecycle.begin(out, OTHER, OTHER)
    publish(second)
    assert [(note["version"], note["by"]) for note in lifecycle.publications(out)] == [
        (first.name, "build"),
        (second.name, "build"),
    ]
    storage.write_bytes(f"{out}/LATEST", first.name.encode())
    assert [note["version"] for note in lifecycle.publications(out)] == [first.name, second.name, first.name]


def test_a_build_is_the_latest_one_also_when_the_clock_was_set_back(out):
    later = "20990101T000000Z-cdcdcdcd"
    write(out, later, manifest_json="{}")
    storage.write_bytes(f"{out}/LATEST", later.encode())
    version, _ = lifecycle.begin(out, ONE, ONE)
    publish(version)
    assert lifecycle.latest(out) == version


def test_a_removal_that_was_interrupted_is_finished_by_the_next_build(out):
    write(out, OLD, receipts__x_json="{}")  # neither a manifest nor work: half of it is gone
    version, _ = lifecycle.begin(out, ONE, ONE)
    assert os.listdir(f"{out}/versions") == [version.name]


def test_a_build_is_resumed_below_a_folder_with_brackets(tmp_path):
    out = str(tmp_path / "slides[1]")
    version, _ = lifecycle.begin(out, ONE, ONE)
    assert lifecycle.begin(out, ONE, ONE) == (version, True)


def test_versions_of_another_output_are_left_alone_below_a_folder_with_a_star(tmp_path):
    lifecycle.begin(str(tmp_path / "out1"), ONE, ONE)
    assert lifecycle.begin(str(tmp_path / "out*"), ONE, ONE)[1] is False


@pytest.mark.parametrize(
    "text",
    ["../../etc", "", "\n", "x", f"{OLD}/../..", f"versions/{OLD}", f"{OLD}\n{NEW}", f"../{OLD}", OLD.upper(), "\x00"],
)
def test_a_pointer_that_holds_no_name_of_a_version_is_refused(out, text):
    storage.write_bytes(f"{out}/LATEST", text.encode())
    with pytest.raises(DatasetError) as caught:
        lifecycle.latest(out)
    assert str(caught.value) == (
        f"{out}/LATEST: {text.strip()!r} is no name of a version; write one of {out}/versions into it"
    )


def test_a_pointer_that_is_no_text_is_refused(out):
    storage.write_bytes(f"{out}/LATEST", b"\xff\xfe")
    with pytest.raises(DatasetError, match="is no name of a version"):
        lifecycle.latest(out)


def test_a_pointer_is_read_with_or_without_the_end_of_its_line(out):
    for text in (NEW, f"{NEW}\n", f" {NEW}\r\n"):
        storage.write_bytes(f"{out}/LATEST", text.encode())
        assert lifecycle.latest(out) == Version(out, NEW)


def test_keeping_only_what_is_wanted_removes_the_rest_but_not_the_work(out):
    write(out, OLD, a="1", b="2", receipts__a_json="3", receipts__b_json="4", work__plan_json="5", worker="6")
    lifecycle.keep_only(Version(out, OLD), {"a", "receipts/b.json", "not/there"})
    assert content(out) == {
        f"versions/{OLD}/a": "1",
        f"versions/{OLD}/receipts/b.json": "4",
        f"versions/{OLD}/work/plan.json": "5",
    }
