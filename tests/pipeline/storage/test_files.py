"""Globs find exactly what they say, in order; files appear whole or not at all."""

import itertools
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage

FILES = [
    "a.png", "b.png", "a.pngx", "axpng", "ab.png", "é ü.png", "日本.png", "a+b(1).png", "a{2}.png", "^a$.png",
    "a|b.png", "a].png", "!.png", "-.png", ".hidden.png", "UPPER.PNG", "no_suffix", "a\\d.png",
    "a/a.png", "a/b.tif", "a/b/c.png", "a/b/c/d.png", "a.b/a.png", "ab/a.png", "a b/c d.png", "[1]/x.png", "1/x.png",
]  # fmt: skip


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder with FILES, which is the current one."""
    make(tmp_path, *FILES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def found(pattern):
    """Paths; a pattern is written without ``./`` in front, which the listing takes away."""
    return [file.uri for file in storage.glob(str(pattern))]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.png", ["a.png"]),
        ("a?png", ["a.png", "axpng"]),
        ("?.png", ["!.png", "-.png", "a.png", "b.png"]),
        ("??.png", ["a].png", "ab.png", "日本.png"]),
        ("é*", ["é ü.png"]),
        ("* *", ["é ü.png"]),
        ("*.PNG", ["UPPER.PNG"]),
        ("*suffix*", ["no_suffix"]),
        ("a+b(1).png", ["a+b(1).png"]),
        ("a+*", ["a+b(1).png"]),
        ("a{2}.png", ["a{2}.png"]),
        ("^a$.png", ["^a$.png"]),
        ("a|b.png", ["a|b.png"]),
        ("a\\d.png", ["a\\d.png"]),
        ("[ab].png", ["a.png", "b.png"]),
        ("[a-c].png", ["a.png", "b.png"]),
        ("[!a-c].png", ["!.png", "-.png"]),
        ("[-].png", ["-.png"]),
        ("[!!].png", ["-.png", "a.png", "b.png"]),
        ("[+.]*", [".hidden.png"]),
        ("a[.]png", ["a.png"]),
        ("a].png", ["a].png"]),
        ("[[]1]/x.png", ["[1]/x.png"]),
        ("[1]/x.png", ["1/x.png"]),
        ("[1", []),
        ("a/*", ["a/a.png", "a/b.tif"]),
        ("*/a.png", ["a/a.png", "a.b/a.png", "ab/a.png"]),
        ("a?b/a.png", ["a.b/a.png"]),
        ("a b/c d.png", ["a b/c d.png"]),
        ("a/**/*.png", ["a/a.png", "a/b/c/d.png", "a/b/c.png"]),
        ("a/**/b/**/*.png", ["a/b/c/d.png", "a/b/c.png"]),
        ("a/**", ["a/a.png", "a/b/c/d.png", "a/b/c.png", "a/b.tif"]),
        ("**/a.png", ["a/a.png", "a.b/a.png", "a.png", "ab/a.png"]),
        ("**/b.*", ["a/b.tif", "b.png"]),
        ("a/*/*", ["a/b/c.png"]),
        ("a", []),
        ("a/b", []),
        ("nothing/*", []),
        ("a.png/*", []),
        ("", []),
    ],
)
def test_a_pattern_finds_exactly_these_files(tree, pattern, expected):
    assert found(pattern) == expected
    assert found(f"{tree}/{pattern}") == [f"{tree}/{name}" for name in expected]


def test_hidden_files_are_files_like_others(tree):
    assert ".hidden.png" in found("*.png")
    assert found(".*") == [".hidden.png"]


def test_a_negated_set_stays_within_a_name(tree):
    assert found("a[!x]b.tif") == []


@pytest.mark.parametrize(("pattern", "expected"), [("[z-a].png", []), ("a[\\]d.png", ["a\\d.png"])])
def test_a_set_that_is_no_expression_does_not_break_the_glob(tree, pattern, expected):
    assert found(pattern) == expected


def matches(pattern, path):
    """Brute force: the parts of a pattern against the parts of a path."""
    if not pattern or not path:
        return pattern == path
    if pattern[0] == "**":
        return len(pattern) > 1 and any(matches(pattern[1:], path[i:]) for i in range(len(path)))
    return part_matches(pattern[0], path[0]) and matches(pattern[1:], path[1:])


def part_matches(pattern, name):
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(part_matches(pattern[1:], name[i:]) for i in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and part_matches(pattern[1:], name[1:])


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Folders three deep in which every name stands beside every other."""
    folder = tmp_path_factory.mktemp("deep")
    folders = ["a", "b", "ab", "a.b"]
    for depth in range(3):
        for parts in itertools.product(folders, repeat=depth):
            make(folder, *("/".join([*parts, f"{name}.f"]) for name in ("a", "b", "ab", "a.b", "")))
    return folder


part = st.one_of(
    st.just("**"),
    st.text(st.sampled_from("ab.*?"), min_size=1, max_size=4).filter(lambda t: "**" not in t and t not in (".", "..")),
)


@given(pattern=st.lists(part, min_size=1, max_size=4).filter(lambda parts: parts[-1] != "**"))
def test_a_glob_agrees_with_matching_part_by_part(deep, pattern):
    files = [os.path.relpath(os.path.join(root, name), deep) for root, _, names in os.walk(deep) for name in names]
    pattern[-1] += ".f"
    expected = sorted((f for f in files if matches(pattern, f.split("/"))), key=lambda f: f.split("/"))
    assert found(f"{deep}/{'/'.join(pattern)}") == [f"{deep}/{name}" for name in expected]


def test_files_come_in_the_order_of_the_parts_of_their_paths(tmp_path):
    names = ["a/z", "a-b/y", "a.b/x", "a/b/c", "a0", "B", "a b/q", "é/1", "z"]
    make(tmp_path, *random.Random(0).sample(names, len(names)))
    expected = ["B", "a/b/c", "a/z", "a b/q", "a-b/y", "a.b/x", "a0", "z", "é/1"]
    assert found(tmp_path / "**/*") == [f"{tmp_path}/{name}" for name in expected]
    # Not the order of the strings, in which "a b/q" comes before "a/b/c".
    assert expected != sorted(expected)


def test_links_to_files_and_folders_are_followed_and_dangling_ones_left_out(tmp_path):
    make(tmp_path / "real", "x.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/folder").symlink_to(tmp_path / "real")
    (tmp_path / "in/file.png").symlink_to(tmp_path / "real/x.png")
    (tmp_path / "in/nowhere.png").symlink_to(tmp_path / "gone")
    assert found(tmp_path / "in/**/*.png") == [f"{tmp_path}/in/file.png", f"{tmp_path}/in/folder/x.png"]


def test_a_link_to_its_own_folder_does_not_break_the_walk(tmp_path):
    make(tmp_path, "x.png", "a/y.png")
    (tmp_path / "a/again").symlink_to(tmp_path / "a")
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert found(tmp_path / "*.png") == [f"{tmp_path}/x.png"]
    assert found(tmp_path / "**/*.png") == [f"{tmp_path}/a/y.png", f"{tmp_path}/x.png"]


def test_only_folders_that_can_match_are_looked_into(tmp_path, monkeypatch):
    make(tmp_path, "x.png", "other/y.png", "other/deep/z.png")
    looked, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looked.append(folder) or scandir(folder))
    assert found(tmp_path / "x.png") == [f"{tmp_path}/x.png"]
    assert f"{tmp_path}/other/deep" not in looked


def test_the_fingerprint_changes_with_size_and_time_and_with_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12")
    os.utime(path, ns=(5, 1_234_567_890))
    first = list(storage.glob(str(path)))
    assert first == [storage.Found(str(path), "2-1234567890")]
    path.chmod(0o600)
    os.utime(path, ns=(9, 1_234_567_890))
    assert list(storage.glob(str(path))) == first
    os.utime(path, ns=(9, 1_234_567_891))
    assert list(storage.glob(str(path))) == [storage.Found(str(path), "2-1234567891")]
    path.write_bytes(b"123")
    os.utime(path, ns=(9, 1_234_567_890))
    assert list(storage.glob(str(path))) == [storage.Found(str(path), "3-1234567890")]


@pytest.mark.parametrize(
    ("pattern", "root"),
    [
        ("/data/slides/**/*.svs", "/data/slides"), ("gs://bucket/a*/x.png", "gs://bucket"), ("*.png", "."),
        ("a.png", "."), ("/a.png", "/"), ("/*.png", "/"), ("a/b.png", "a"), ("a/b[1]/c", "a"), ("a/b?/c", "a"),
        ("s3://bucket/deep/x.png", "s3://bucket/deep"), ("**", "."), ("a/b*", "a"), ("./a/*", "./a"), ("../x*", ".."),
    ],
)  # fmt: skip
def test_the_static_root_is_the_folder_above_the_first_wildcard(pattern, root):
    assert storage.static_root(pattern) == root


@pytest.mark.parametrize(("uri", "local"), [("a/b", True), ("/a:b", True), ("gs://a", False), ("s3://b/c", False)])
def test_what_has_a_scheme_is_not_local(uri, local):
    assert storage.is_local(uri) == local


def test_joining_leaves_one_slash():
    assert storage.join("a/", "b", "c.d") == "a/b/c.d"
    assert storage.join("/", "b") == "/b"
    assert storage.join("gs://bucket/", "x") == "gs://bucket/x"


def content(folder):
    return {name: (folder / name).read_bytes() for name in storage.files_below(str(folder))}


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep/er/x.bin"
    with storage.atomic_write(str(target)) as file:
        file.write(b"one")
        assert not target.exists()
        file.write(b"two")
    assert content(tmp_path) == {"deep/er/x.bin": b"onetwo"}


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    storage.write_bytes(str(tmp_path / "x"), b"old, and longer")
    with storage.atomic_write(str(tmp_path / "x")) as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "x").read_bytes() == b"old, and longer"
    assert content(tmp_path) == {"x": b"new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path, error, old):
    if old:
        storage.write_bytes(str(tmp_path / "x"), old)
    with pytest.raises(error):
        with storage.atomic_write(str(tmp_path / "x")) as file:
            file.write(b"half")
            raise error
    assert content(tmp_path) == ({"x": old} if old else {})


def test_a_rename_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError):
        storage.write_bytes(str(tmp_path / "x"), b"new")
    assert content(tmp_path) == {}


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    target = str(tmp_path / "x")
    with storage.atomic_write(target) as one, storage.atomic_write(target) as other:
        one.write(b"one")
        other.write(b"other")
    assert content(tmp_path) == {"x": b"one"}  # the outer block ends last


def test_a_file_in_the_current_folder_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write_bytes("x", b"here")
    assert content(tmp_path) == {"x": b"here"}


def test_bytes_are_read_as_they_were_written(tmp_path):
    data = bytes(range(256)) * 3
    storage.write_bytes(str(tmp_path / "x"), data)
    assert storage.read_bytes(str(tmp_path / "x")) == data
    with storage.open_read(str(tmp_path / "x")) as file:
        file.seek(700)
        assert file.read(5) == data[700:705]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(str(tmp_path / "y"))


def test_sizes_are_those_of_files(tmp_path):
    make(tmp_path, "folder/x.png")
    assert storage.size(str(tmp_path / "folder/x.png")) == len("folder/x.png")
    assert storage.size(str(tmp_path / "folder")) is None
    assert storage.size(str(tmp_path / "gone")) is None


def test_files_below_a_folder_are_relative_and_sorted(tmp_path, monkeypatch):
    make(tmp_path, "b", "a/c", "a.b", ".x", "a/b/d")
    (tmp_path / "empty").mkdir()
    expected = [".x", "a.b", "a/b/d", "a/c", "b"]
    assert storage.files_below(str(tmp_path)) == expected
    assert storage.files_below(f"{tmp_path}/") == expected
    assert storage.files_below(str(tmp_path / "empty")) == []
    assert storage.files_below(str(tmp_path / "gone")) == []
    monkeypatch.chdir(tmp_path)
    assert storage.files_below("a") == ["b/d", "c"]


def test_files_below_the_current_folder_are_whole(tmp_path, monkeypatch):
    make(tmp_path, "name", "a/c")
    monkeypatch.chdir(tmp_path)
    assert storage.files_below(".") == ["a/c", "name"]


def test_deleting_removes_a_file_or_a_whole_folder(tmp_path):
    make(tmp_path, "a/b/c", "a/d", "e", "f")
    storage.delete(str(tmp_path / "e"))
    assert storage.files_below(str(tmp_path)) == ["a/b/c", "a/d", "f"]
    storage.delete(str(tmp_path / "a"))
    assert sorted(os.listdir(tmp_path)) == ["f"]
    with pytest.raises(FileNotFoundError):
        storage.delete(str(tmp_path / "gone"))
