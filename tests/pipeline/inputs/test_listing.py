"""Images are listed once, in one order, with ids that do not depend on where they lie."""

import hashlib
import itertools
import os
import random
import shutil

import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.config import Input
from pipeline.elements import ImageRef
from pipeline.errors import ConfigError
from pipeline.inputs import listing
from pipeline.inputs.listing import check_inputs, list_images, make_listing, read_listing
from pipeline.inputs.slices import slices_of


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The current folder, with images in several folders."""
    make(tmp_path, "a/x.png", "a/deep/x.png", "a/deep/y.png", "b/x.png", "b/note.txt", "top.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(*images, root=None):
    """(id, uri) of what is listed."""
    return [(ref.image_id, ref.uri) for ref in list_images(Input(images=images, root=root))]


def ids(*images, root=None):
    return [image_id for image_id, _ in listed(*images, root=root)]


def test_ids_are_relative_to_the_folder_above_the_wildcard(tree):
    assert listed("a/*.png") == [("x.png", "a/x.png")]
    assert listed("a/**/*.png") == [
        ("deep/x.png", "a/deep/x.png"),
        ("deep/y.png", "a/deep/y.png"),
        ("x.png", "a/x.png"),
    ]
    assert listed("a/deep/y.png") == [("y.png", "a/deep/y.png")]
    assert listed(f"{tree}/b/*.png") == [("x.png", f"{tree}/b/x.png")]
    assert listed("*.png") == [("top.png", "top.png")]


def test_a_reference_has_the_fingerprint_of_the_file(tree):
    os.utime(tree / "top.png", ns=(0, 77))
    assert list(list_images(Input(images=("*.png",)))) == [ImageRef("top.png", "top.png", "7-77")]


def test_several_patterns_have_the_common_folder_as_their_root(tree):
    assert listed("a/*.png", "b/*.png") == [("a/x.png", "a/x.png"), ("b/x.png", "b/x.png")]
    assert ids("a/deep/*.png", "a/*.png") == ["deep/x.png", "deep/y.png", "x.png"]
    assert ids("*.png", "a/*.png") == ["a/x.png", "top.png"]
    assert ids(f"{tree}/a/*.png", f"{tree}/b/*.png") == ["a/x.png", "b/x.png"]


def test_folders_with_a_common_beginning_of_their_names_have_no_common_root_there(tmp_path):
    make(tmp_path, "set1/x.png", "set2/x.png")
    assert ids(f"{tmp_path}/set1/*", f"{tmp_path}/set2/*") == ["set1/x.png", "set2/x.png"]


def test_an_explicit_root_is_the_beginning_of_the_ids(tree):
    assert ids("a/deep/*.png", root="a") == ["deep/x.png", "deep/y.png"]
    assert ids("a/deep/*.png", root="./a/") == ["deep/x.png", "deep/y.png"]
    assert ids("a/deep/*.png", root=".") == ["a/deep/x.png", "a/deep/y.png"]
    assert ids(f"{tree}/top.png", root="/") == [f"{tree}/top.png"[1:]]


@pytest.mark.parametrize(("pattern", "root"), [("a/*.png", "b"), ("a/*.png", "a/deep"), ("a/x.png", "a/x.png")])
def test_an_image_outside_of_the_root_is_an_error(tree, pattern, root):
    with pytest.raises(ConfigError) as caught:
        ids(pattern, root=root)
    assert str(caught.value) == f"input.root: {root!r} does not contain a/x.png; choose a folder above all images"


def test_a_folder_that_begins_like_the_root_is_outside_of_it(tmp_path):
    make(tmp_path, "set10/x.png")
    with pytest.raises(ConfigError, match="does not contain"):
        ids(f"{tmp_path}/set10/*", root=f"{tmp_path}/set1")


@pytest.mark.parametrize("outside", ["../elsewhere/*.png", "{above}/elsewhere/*.png"])
def test_an_image_outside_of_the_current_folder_is_outside_of_the_root_dot(tmp_path, monkeypatch, outside):
    make(tmp_path, "here/x.png", "elsewhere/y.png")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match="does not contain"):
        ids(outside.format(above=tmp_path), root=".")


def test_relative_and_absolute_patterns_list_the_same_in_both_orders(tree):
    assert ids("a/*.png", f"{tree}/b/*.png") == ids(f"{tree}/b/*.png", "a/*.png")


def test_folders_beside_and_below_the_current_one_have_a_common_root(tmp_path, monkeypatch):
    make(tmp_path, "here/x.png", "beside/y.png")
    monkeypatch.chdir(tmp_path / "here")
    assert ids("../beside/*.png", "*.png") == ["beside/y.png", "here/x.png"]
    assert ids("../beside/*.png", "*.png", root="..") == ["beside/y.png", "here/x.png"]


def test_an_image_that_several_patterns_find_is_listed_once(tree):
    expected = ["a/deep/x.png", "a/deep/y.png", "a/x.png", "b/x.png", "top.png"]
    assert ids("**/*.png", "a/**/*.png", "a/deep/y.png", "*.png", "**/x.png") == expected
    assert ids("a/*.png", "./a/*.png", "b/../a/*.png", "a//x.png") == ["x.png"]


def test_the_order_of_the_patterns_does_not_matter(tree):
    patterns = ["a/**/*.png", "b/*", "top.png", "a/deep/*.png"]
    expected = listed(*patterns)
    for seed in range(5):
        assert listed(*random.Random(seed).sample(patterns, len(patterns))) == expected


def test_images_come_in_the_order_of_the_parts_of_their_ids(tmp_path):
    names = ["a b/1", "a-b/1", "a.b/1", "a/1", "a/b/1", "a0", "é/1"]
    make(tmp_path, *names)
    expected = ["a/1", "a/b/1", "a b/1", "a-b/1", "a.b/1", "a0", "é/1"]
    assert ids(f"{tmp_path}/**/*") == expected
    assert ids(f"{tmp_path}/*/*", f"{tmp_path}/*", f"{tmp_path}/a/**/*") == expected


def test_files_of_one_name_in_two_folders_are_two_images(tree):
    assert listed("**/x.png") == [
        ("a/deep/x.png", "a/deep/x.png"),
        ("a/x.png", "a/x.png"),
        ("b/x.png", "b/x.png"),
    ]


@pytest.mark.parametrize("pattern", ["nothing/*.png", "a/*.jpg", "a", "", "a/*/*/*.png"])
def test_a_pattern_without_a_match_is_an_error_also_beside_others(tree, pattern):
    message = f"input.images: {pattern!r} matches no file; ** stands for any number of folders, * for a name"
    for patterns in [(pattern,), ("a/*.png", pattern), (pattern, "a/*.png")]:
        with pytest.raises(ConfigError) as caught:
            ids(*patterns)
        assert str(caught.value) == message
        with pytest.raises(ConfigError) as caught:
            check_inputs(Input(images=patterns))
        assert str(caught.value) == message


def test_checking_inputs_stops_at_the_first_match_and_leaves_uris_alone(tree, monkeypatch):
    asked = []
    glob = storage.glob
    monkeypatch.setattr(storage, "glob", lambda pattern: asked.append(pattern) or iter(list(glob(pattern))[:1]))
    check_inputs(Input(images=("a/**/*.png", "gs://bucket/*.png", "b/*.png")))
    assert asked == ["a/**/*.png", "b/*.png"]


def test_a_listing_is_read_as_it_was_made(tmp_path, monkeypatch):
    refs = [ImageRef(f"{i:03d}/é {i}.png", f"/data/{i:03d}/é {i}.png", f"{i}-{i * 7}") for i in range(25)]
    monkeypatch.setattr(listing, "_BATCH", 4)
    made = make_listing(iter(refs))
    made.save(str(tmp_path / "inputs.parquet"))
    assert list(read_listing(str(tmp_path / "inputs.parquet"))) == refs
    assert made.images == 25
    monkeypatch.setattr("pipeline.storage.tables._BATCH", 3)  # groups of four rows, read by three
    for first, end in itertools.combinations_with_replacement(range(26), 2):
        assert list(read_listing(str(tmp_path / "inputs.parquet"), first, end)) == refs[first:end]
    assert pq.read_table(tmp_path / "inputs.parquet").to_pylist() == [ref._asdict() for ref in refs]


def test_the_digest_is_that_of_ids_and_fingerprints_whatever_the_batches(monkeypatch):
    refs = [ImageRef(f"{i}.png", f"/data/{i}.png", f"{i}-1") for i in range(10)]
    expected = hashlib.sha256("".join(f'["{i}.png", "{i}-1"]\n' for i in range(10)).encode()).hexdigest()
    for batch in (1, 3, 10, 100):
        monkeypatch.setattr(listing, "_BATCH", batch)
        assert make_listing(refs).digest == expected


def test_an_empty_listing_is_a_table_without_rows(tmp_path):
    made = make_listing([])
    made.save(str(tmp_path / "inputs.parquet"))
    assert list(read_listing(str(tmp_path / "inputs.parquet"))) == []
    assert made.images == 0


@pytest.mark.parametrize("images", [0, 1, 15, 16, 17, 40, 2000, 2048, 2049, 100_003, 1_000_000, 5_000_000])
def test_every_row_is_in_one_slice(images):
    slices = slices_of(images)
    assert [row for each in slices for row in (each.first, each.end)][1:-1:2] == [each.first for each in slices[1:]]
    assert (slices[0].first, slices[-1].end) == (0, images)
    assert [(each.number, each.count) for each in slices] == [(number, len(slices)) for number in range(len(slices))]
    assert all(each.first < each.end for each in slices) or images == 0
    assert len(slices) <= max(128, images // 16_000)
    assert len({each.file("images") for each in slices}) == len(slices)


def test_two_thousand_slides_are_enough_slices_for_a_hundred_workers():
    assert len(slices_of(2000)) > 100


def digest_of(folder):
    return make_listing(list_images(Input(images=(f"{folder}/**/*.png",)))).digest


@pytest.fixture
def data(tmp_path):
    make(tmp_path / "data", "a.png", "b/c.png", "b/d.png")
    return tmp_path / "data"


def test_the_digest_is_the_same_wherever_the_images_lie(data, tmp_path, monkeypatch):
    expected = digest_of(data)
    copied = shutil.copytree(data, tmp_path / "very/far/away")  # copies the times too
    assert digest_of(copied) == expected
    monkeypatch.chdir(data)
    assert make_listing(list_images(Input(images=("**/*.png",)))).digest == expected


def replace(data):
    (data / "b/c.png").write_bytes(b"other")


def touch(data):
    os.utime(data / "a.png", ns=(0, 1))


def add(data):
    (data / "b/e.png").write_bytes(b"new")


def remove(data):
    (data / "a.png").unlink()


def rename(data):
    (data / "a.png").rename(data / "z.png")


@pytest.mark.parametrize("change", [replace, touch, add, remove, rename])
def test_the_digest_changes_with_every_change_of_the_images(data, change):
    before = digest_of(data)
    change(data)
    assert digest_of(data) != before


def test_the_digest_does_not_change_with_other_files(data):
    before = digest_of(data)
    (data / "b/note.txt").write_bytes(b"new")
    assert digest_of(data) == before


def test_a_name_that_is_not_utf_8_is_an_error_that_names_the_file(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"\xff.png"), "wb"):
        pass
    with pytest.raises(ConfigError, match=r"\\xff\.png|\\udcff\.png"):
        make_listing(list_images(Input(images=(f"{tmp_path}/*.png",))))


def test_a_fingerprint_of_the_content_knows_a_touched_file_from_a_replaced_one(tree):
    make(tree, "masks/x.png", "masks/y.png")
    rasters = {"mask": {"file": {"match": "a/", "replace": "masks/"}}}
    wanted = Input.model_validate({"images": ["a/*.png", "b/*.png"], "rasters": rasters, "fingerprint": "content"})
    prints = lambda: {ref.image_id: ref.fingerprint for ref in list_images(wanted)}
    digest = lambda data: hashlib.blake2b(data, digest_size=16).hexdigest()
    first = prints()
    assert first == {
        "a/x.png": f"{digest(b'a/x.png')}+{digest(b'masks/x.png')}",
        "b/x.png": f"{digest(b'b/x.png')}+missing",
    }
    os.utime(tree / "a/x.png", ns=(0, 77))
    assert prints() == first
    status = os.stat(tree / "a/x.png")
    (tree / "a/x.png").write_bytes(b"A/x.png")  # as long, and as old
    os.utime(tree / "a/x.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prints()["a/x.png"] == first["a/x.png"].replace(digest(b"a/x.png"), digest(b"A/x.png"))
    (tree / "masks/x.png").write_bytes(b"another")
    assert prints()["a/x.png"] == f"{digest(b'A/x.png')}+{digest(b'another')}"
    check_inputs(wanted)
