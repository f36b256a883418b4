"""Manifests: three forms say the same, values keep their kind, and what contradicts itself is shown with its lines."""

import json
import math
import os
import pathlib
import random
import tracemalloc

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

import pipeline
from pipeline.build import build
from pipeline.config import Config, Input
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.verify import _check_record, verify
from pipeline.elements import meta_of
from pipeline.errors import ConfigError
from pipeline.inputs.listing import check_inputs, find_images, list_images, make_listing
from pipeline.inputs.manifest import read_rows, with_columns
from pipeline.runners.options import parse_options
from transforms.example import PatchRecord, to_example

ROWS = [
    {"uri": "b/2.png", "label": "cat", "group": "g1", "split": "train", "age": 61, "mpp": 0.25, "stain": "he"},
    {"uri": "a/1.png", "label": "dog", "group": "g2", "split": "test", "age": 7, "mpp": 1.0, "stain": "007"},
    {"uri": "a/3.png", "label": "", "group": "", "split": "", "age": -3, "mpp": 1e-3, "stain": 'x, "y"\nz'},
]
KINDS = {"age": "integer", "mpp": "number", "stain": "text"}


@pytest.fixture
def folder(tmp_path):
    for row in ROWS:
        path = tmp_path / row["uri"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(row["uri"].encode())  # type: ignore[attr-defined]
        os.utime(path, ns=(0, 5))
    return tmp_path


def write(folder, rows, form="csv", name=None):
    """A manifest by means of its own: quoting by hand, json, pyarrow."""
    path = folder / (name or f"images.{form}")
    if form == "csv":
        quote = lambda value: '"' + ("" if value is None else str(value)).replace('"', '""') + '"'
        lines = [",".join(rows[0]), *(",".join(map(quote, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def listed(manifest, splits=("train", "test"), **keys):
    config = Config.model_validate(
        {
            "input": {"manifest": manifest, **keys},
            "output": {"path": "out"},
            "splits": {name: 1 / len(splits) for name in splits},
        }
    )
    config = with_columns(config)
    return config, list(list_images(config.input, config.splits))


def error_of(folder, rows_or_manifest, **keys):
    manifest = rows_or_manifest if isinstance(rows_or_manifest, str) else write(folder, rows_or_manifest)
    with pytest.raises(ConfigError) as caught:
        listed(manifest, **keys)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_the_three_forms_say_the_same_in_the_order_of_the_ids(folder, form):
    rows = random.Random(0).sample(ROWS, 3)
    config, refs = listed(write(folder, rows, form))
    assert config.input.columns == KINDS
    by_id = sorted(ROWS, key=lambda row: row["uri"])
    assert [ref.image_id for ref in refs] == [row["uri"] for row in by_id]
    for ref, row in zip(refs, by_id):
        assert (ref.uri, ref.fingerprint) == (f"{folder}/{row['uri']}", f"{len(row['uri'])}-5")
        assert (ref.label, ref.group, ref.split) == (row["label"], row["group"], row["split"])
        assert meta_of(ref) == {name: row[name] for name in KINDS}


def content(listing):
    listing.table.seek(0)
    return listing.table.read()


def test_the_order_of_rows_and_columns_does_not_change_the_listing(folder):
    config, listing = find_images(listed(write(folder, ROWS))[0])
    turned = [dict(reversed(row.items())) for row in reversed(ROWS)]
    again, other = find_images(listed(write(folder, turned, name="turned.csv"))[0])
    assert (other.digest, content(other)) == (listing.digest, content(listing))
    assert again.content_digest() == config.content_digest()


@pytest.mark.parametrize("name", ["label", "group", "split", "age", "mpp", "stain"])
def test_the_digest_changes_with_every_value(folder, name):
    before = find_images(listed(write(folder, ROWS))[0])[1].digest
    rows = [dict(row) for row in ROWS]
    rows[0][name] = {"split": "test", "age": 62, "mpp": 0.5}.get(name, "other")
    assert find_images(listed(write(folder, rows))[0])[1].digest != before


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["1", "-2", "0"], "integer", [1, -2, 0]),
        (["1", "", "3"], "number", [1.0, math.nan, 3.0]),
        (["1", "2.5", "-1e3"], "number", [1.0, 2.5, -1000.0]),
        (["007", "8", "9"], "text", ["007", "8", "9"]),
        (["+1", "2", "3"], "text", ["+1", "2", "3"]),
        (["", "", ""], "text", ["", "", ""]),
        (["1", "x", ""], "text", ["1", "x", ""]),
        (["true", "1", ""], "text", ["true", "1", ""]),
        (["12345678901234567890", "1", "2"], "text", ["12345678901234567890", "1", "2"]),
        (["nan", "1", "2"], "text", ["nan", "1", "2"]),
        (["-0", "1", "2"], "text", ["-0", "1", "2"]),
        ([".5", "1.", "2"], "text", [".5", "1.", "2"]),
        ([".5", "-0.0", "0e1"], "number", [0.5, -0.0, 0.0]),
    ],
)
def test_csv_is_numbers_only_where_nothing_gets_lost(folder, texts, kind, values):
    rows = [{"uri": row["uri"], "x": text} for row, text in zip(ROWS, texts)]
    config, refs = listed(write(folder, rows))
    assert config.input.columns == {"x": kind}
    found = {ref.image_id: meta_of(ref)["x"] for ref in refs}
    assert [repr(found[row["uri"]]) for row in rows] == [repr(value) for value in values]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2, 3], "integer", [1, 2, 3]),
        ([True, False, True], "integer", [1, 0, 1]),
        (["1", "2", "3"], "text", ["1", "2", "3"]),
        ([1, None, 3], "number", [1.0, math.nan, 3.0]),
        ([1, "a", True], "text", ["1", "a", "true"]),
        ([2**63, 1, 2], "text", [str(2**63), "1", "2"]),
    ],
)
def test_json_lines_keep_their_types(folder, values, kind, expected):
    rows = [{"uri": row["uri"], "x": value} for row, value in zip(ROWS, values)]
    config, refs = listed(write(folder, rows, "jsonl"))
    assert config.input.columns == {"x": kind}
    found = {ref.image_id: meta_of(ref)["x"] for ref in refs}
    assert [repr(found[row["uri"]]) for row in rows] == [repr(value) for value in expected]


def test_columns_that_are_named_are_the_only_ones_and_of_the_kind_that_is_said(folder):
    _, refs = listed(write(folder, ROWS), columns={"age": "text", "mpp": "number"})
    assert [meta_of(ref) for ref in refs if ref.label == "cat"] == [{"age": "61", "mpp": 0.25}]
    assert meta_of(listed(write(folder, ROWS), columns={})[1][0]) == {}
    assert error_of(folder, ROWS, columns={"stain": "integer"}) == (
        "images.csv: line 2: stain is 'he', and the column holds values of the kind integer"
    )


def test_paths_resolve_against_the_manifest_from_anywhere(folder, monkeypatch):
    (folder / "tables").mkdir()
    rows = [{"uri": "../a/1.png"}, {"uri": f"{folder}/b/../b/2.png"}, {"uri": "./../a//3.png"}]
    manifest = write(folder, rows, name="tables/m.csv")
    for here, path in [(folder, "tables/m.csv"), (folder / "a", "../tables/m.csv"), ("/", manifest)]:
        monkeypatch.chdir(here)
        _, refs = listed(path, root=str(folder))
        assert [(ref.image_id, ref.uri) for ref in refs] == [
            (name, f"{folder}/{name}") for name in ("a/1.png", "a/3.png", "b/2.png")
        ]


@pytest.mark.parametrize("uri", ["../x.png", "/etc/passwd", "a/../../x.png", "s3://bucket/x.png"])
def test_a_path_that_leaves_the_folder_is_refused_with_its_line(folder, uri):
    message = error_of(folder, [{"uri": "a/1.png"}, {"uri": uri}])
    assert message.startswith("images.csv: line 3: ")
    assert f"does not lie below {folder}; input.root: a folder above all files" in message
    masked = error_of(folder, [{"uri": "a/1.png", "mask": uri}])
    assert masked.startswith("images.csv: line 2: ") and "does not lie below" in masked


def test_a_root_opens_what_lies_below_it_and_nothing_else(folder, tmp_path):
    manifest = write(folder / "a", [{"uri": "../b/2.png"}, {"uri": "1.png"}])
    assert [ref.image_id for ref in listed(manifest, root=str(folder))[1]] == ["a/1.png", "b/2.png"]
    assert "b/2.png does not lie below" in error_of(folder, manifest)


def test_an_image_that_stands_twice_shows_the_lines(folder):
    rows = [{"uri": "a/1.png"}, {"uri": "b/2.png"}, {"uri": "b/../a/1.png"}, {"uri": "./b/2.png"}]
    assert error_of(folder, rows) == (
        "input.manifest: an image stands twice; keep one row for it\n"
        "  images.csv: line 2 and 4: a/1.png\n"
        "  images.csv: line 3 and 5: b/2.png"
    )
    assert "images.parquet: row 1 and 3: a/1.png" in error_of(folder, write(folder, rows, "parquet"))


def test_lines_are_those_of_the_file_where_a_value_holds_a_line_break(folder):
    rows = [{"uri": "a/1.png", "x": "one\ntwo"}, {"uri": "b/2.png", "x": ""}, {"uri": "a/1.png", "x": ""}]
    assert "line 3 and 5: a/1.png" in error_of(folder, rows)


def test_a_group_with_two_splits_shows_the_lines(folder):
    rows = [dict(row, group="g", split=split) for row, split in zip(ROWS, ["train", "test", ""])]
    assert error_of(folder, rows) == (
        "input.manifest: a group has more than one split; it has to stay in one\n"
        "  'g': train in images.csv: line 2, test in images.csv: line 3"
    )


def test_a_group_by_rule_is_held_together_too(folder):
    rows = [{"uri": "a/1.png", "split": "train"}, {"uri": "b/2.png", "split": ""}, {"uri": "a/3.png", "split": ""}]
    _, refs = listed(write(folder, rows), group="folder")
    assert {ref.image_id: ref.split for ref in refs} == {"a/1.png": "train", "a/3.png": "train", "b/2.png": ""}
    rows[2]["split"] = "test"
    assert "'a': train in images.csv: line 2, test in images.csv: line 4" in error_of(folder, rows, group="folder")
    assert len(listed(write(folder, rows))[1]) == 3  # with a group for each image


def test_an_unknown_split_is_shown_with_its_line(folder):
    assert error_of(folder, [{"uri": "a/1.png", "split": "valid"}]) == (
        "images.csv: line 2: split 'valid' is not among splits: train, test; add it there, with the fraction 0 if only "
        "the manifest fills it"
    )


def test_patterns_and_a_manifest_make_one_listing_in_which_the_manifest_counts(folder):
    rows = [dict(ROWS[0], group="", split="")]
    config, refs = listed(write(folder, rows), images=f"{folder}/**/*.png")
    assert [ref.image_id for ref in refs] == ["a/1.png", "a/3.png", "b/2.png"]
    assert [ref.label for ref in refs] == ["", "", "cat"]
    assert config.input.columns == KINDS | {"age": "number"}  # the others have no age
    assert [repr(meta_of(ref)) for ref in refs[1:]] == [
        repr({"age": math.nan, "mpp": math.nan, "stain": ""}),
        repr({"age": 61.0, "mpp": 0.25, "stain": "he"}),
    ]
    assert refs[0].fingerprint == "7-5"


def test_masks_and_annotations_come_with_their_fingerprints(folder):
    for name in ("m.png", "p.csv"):
        (folder / name).write_bytes(b"123")
        os.utime(folder / name, ns=(0, 9))
    points = [[3, 4], [5, 6]]
    rows = [
        {"uri": "a/1.png", "mask": "m.png", "points": "p.csv", "regions": None},
        {"uri": "b/2.png", "mask": None, "points": points, "regions": {"type": "Polygon"}},
        {"uri": "a/3.png", "mask": "gone.png"},
    ]
    _, (one, three, two) = listed(write(folder, rows, "jsonl"))
    assert (one.mask, one.points, one.polygons) == (f"{folder}/m.png", f"{folder}/p.csv", "")
    assert one.fingerprint == "7-5+3-9+3-9"
    assert json.loads(two.points) == points and json.loads(two.polygons) == {"type": "Polygon"}
    assert two.fingerprint == "7-5"
    assert three.fingerprint == "7-5+missing"


def test_a_file_that_is_not_there_is_listed_but_a_manifest_of_none_that_are_is_an_error(folder):
    _, refs = listed(write(folder, [{"uri": "a/1.png"}, {"uri": "a/gone.png"}]))
    assert [ref.fingerprint for ref in refs] == ["7-5", "missing"]
    message = error_of(folder, [{"uri": "gone.png"}, {"uri": "a"}])
    assert message == "images.csv: line 2: gone.png is not there, nor is any other file of the manifest"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.txt", b"uri\na\n", "input.manifest: 'm.txt' ends in none of .csv, .jsonl, .ndjson, .parquet"),
        ("m.csv", b"", "m.csv: has no column uri; there are none"),
        ("m.csv", b"url,label\na,b\n", "m.csv: has no column uri; there are url, label"),
        ("m.csv", b"uri,x,x\na,b,c\n", "m.csv: has the column 'x' twice"),
        ("m.csv", b"uri,a/b\na/1.png,c\n", "m.csv: the column 'a/b' is no name of a column; it needs printable "
         "characters without /"),
        ("m.csv", b"uri,x\na/1.png\n", "m.csv: line 2: has 1 values, the header 2"),
        ("m.csv", b"uri\n", "input.manifest: 'm.csv' has no rows"),
        ("m.csv", b"uri,x\n,1\n", "m.csv: line 2: uri is empty"),
        ("m.csv", b"uri\na\n\xff\n", "m.csv: line 1: is no CSV in UTF-8: "),
        ("m.csv", b'uri\n"a\n', "m.csv: line 3: is no CSV in UTF-8: unexpected end of data"),
        ("m.csv", b"uri\ns3://me:word@b/x.png\n", "m.csv: line 2: uri holds a name or password before the @; "),
        ("m.csv", b"uri\nhttps://h/x.png?X-Amz-Signature=1\n", "m.csv: line 2: uri holds a query after the ?; "),
        ("m.csv", b"uri\ns3://b/../c/x.png\n", "m.csv: line 2: uri has .. in it: 's3://b/../c/x.png'"),
        ("m.jsonl", b'{"uri": "a/1.png"}\n{"uri"\n', "m.jsonl: line 2: is no JSON: "),
        ("m.jsonl", b'{"uri": "a/1.png"}\n[1]\n', "m.jsonl: line 2: is no JSON object with the key uri"),
        ("m.jsonl", b'{"uri": "a/1.png", "x": {"y": 1}}\n', "m.jsonl: line 1: x is a dict; numbers and text are "),
        ("m.jsonl", b'{"uri": ["a"]}\n', "m.jsonl: line 1: uri is a list or an object; text is expected"),
        ("m.parquet", b"PAR1 and no more", "m.parquet: is no Parquet: "),
        ("gone.csv", None, "input.manifest: 'gone.csv' cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_said_with_its_line(folder, name, content, message):
    if content is not None:
        (folder / name).write_bytes(content)
    said = error_of(folder, f"{folder}/{name}")
    assert said.startswith(message)
    assert "word" not in said.replace("password", "") and "X-Amz" not in said


def test_a_local_manifest_is_looked_at_before_the_run_and_a_remote_one_is_not(folder):
    with pytest.raises(ConfigError, match="has no column uri"):
        check_inputs(Input(manifest=write(folder, [{"url": "a"}])))
    check_inputs(Input(manifest="s3://bucket/m.csv"))
    check_inputs(Input(manifest=write(folder, ROWS)))


def test_a_byte_order_mark_and_empty_lines_are_no_matter(folder):
    (folder / "m.csv").write_bytes(b"\xef\xbb\xbfuri,x\r\na/1.png,5\r\n\r\n")
    assert [meta_of(ref) for ref in listed(f"{folder}/m.csv")[1]] == [{"x": 5}]


def test_memory_does_not_follow_the_number_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.storage.fingerprints", lambda uris: ["1-1"] * len(uris))

    def peak(rows):
        path = tmp_path / f"{rows}.csv"
        with open(path, "w") as file:
            file.write("uri,label,group,split,age\n")
            file.writelines(f"{i % 97}/{i}.png,l,g{i // 3},train,{i}\n" for i in range(rows))
        tracemalloc.start()
        config = Input(manifest=str(path), columns={"age": "integer"})
        count = sum(1 for _ in list_images(config, ["train"]))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == rows
        return highest

    assert peak(60_000) < 1.5 * peak(20_000)


def test_rows_are_read_one_after_the_other(folder):
    (folder / "m.csv").write_text("uri\na/1.png\n,\n")
    rows = read_rows(Input(manifest=f"{folder}/m.csv"))
    assert next(rows).uri == f"{folder}/a/1.png"
    with pytest.raises(ConfigError):
        next(rows)


def test_the_listing_holds_what_the_manifest_gave(folder):
    config, refs = listed(write(folder, ROWS))
    table = pq.read_table(make_listing(refs).table).to_pylist()
    assert table == [ref._asdict() for ref in refs]
    assert config.input.columns == KINDS


@pytest.fixture
def pictures(tmp_path):
    """Three images of noise and a manifest in another folder; one age is not known, and one shard stays empty."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (split, age) in enumerate([("train", 61), ("test", None), ("train", 7)]):
        path = tmp_path / f"images/{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(imagecodecs.png_encode(rng.integers(0, 256, (40, 70, 3), np.uint8)))
        row = {"uri": f"images/{number}.png", "label": f"l{number}", "split": split, "dose": number, "age": age}
        rows.append(row | {"lon": 13.123456789 + number, "stain": "hé"})
    return write(tmp_path, rows, "jsonl"), rows


def test_what_a_manifest_says_arrives_in_records_index_and_metadata(pictures, tmp_path, no_graphs):
    manifest, rows = pictures
    config = Config.model_validate(
        {
            "input": {"manifest": manifest},
            "output": {"path": str(tmp_path / "out"), "shard_size": "10KB"},
            "patch": {"size": 32},
            "splits": {"train": 1, "test": 0, "validation": 0},
        }
    )
    outcome = build(config, parse_options(["--direct_num_workers=1"]))
    found = open_dataset(str(tmp_path / "out"))
    assert verify(found, 1) == []
    by_id = {row["uri"]: row for row in rows}
    seen = 0
    for split in ("train", "test", "validation"):
        for example in pipeline.load(str(tmp_path / "out"), split).as_numpy_iterator():
            row, meta = by_id[example["image_id"].decode()], example["meta"]
            assert (split, example["label"].decode()) == (row["split"], row["label"])
            assert (meta["dose"], meta["stain"].decode()) == (row["dose"], "hé")
            assert (meta["dose"].dtype, meta["age"].dtype) == (np.int64, np.float32)
            assert repr(float(meta["age"])) == repr(float(row["age"] or "nan"))
            assert meta["lon"] == np.float32(row["lon"])
            seen += 1
    assert seen == 18
    builder = tfds.builder_from_directory(outcome.folder)
    for example in builder.as_dataset(split="train").as_numpy_iterator():
        row = by_id[example["image_id"].decode()]
        assert (example["meta"]["dose"], example["meta"]["age"]) == (row["dose"], row["age"])
    index = pyarrow.dataset.dataset(f"{outcome.folder}/index").to_table()
    assert index.schema.names[-4:] == ["meta/age", "meta/dose", "meta/lon", "meta/stain"]
    for row in index.to_pylist():
        given = by_id[row["image_id"]]
        assert (row["meta/dose"], row["meta/lon"], row["split"]) == (given["dose"], given["lon"], given["split"])
    assert build(config, parse_options([])).unchanged
    lines = [json.dumps(row | {"dose": row["dose"] + 1}) for row in rows]
    pathlib.Path(manifest).write_text("\n".join(lines))
    assert not build(config, parse_options([])).unchanged


def test_verify_sees_a_further_column_that_differs():
    said = {"key": "k", "image_id": "i", "level": 0, "row": 0, "col": 0, "label": "", "group": ""}
    record = PatchRecord(b"\0" * 3, (1, 1, 3), "uint8", "i", 0, 0, 0, "", "", (("age", 1.5), ("n", 2)))
    config = Config.model_validate(
        {
            "input": {"images": "i", "columns": {"age": "number", "n": "integer"}},
            "patch": {"size": [1, 1]},
            "output": {"path": "o", "encoding": "raw"},
        }
    )
    payload = to_example(record)
    start = payload.index(b"\0\0\0")
    place = {"offset": 12, "length": len(payload), "image_offset": 12 + start, "image_length": 3}
    row = said | {"key": record.key, "meta/age": 1.5, "meta/n": 2} | place
    _check_record(payload, row, 0, config)
    for change in ({"meta/age": 1.25}, {"meta/n": 3}, {"meta/age": math.nan}):
        with pytest.raises(ValueError, match="the index says"):
            _check_record(payload, row | change, 0, config)
