"""TFRecord bytes against TensorFlow's reader and writer, and what is wrong with damaged ones."""

import io

import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipeline.config import Config
from pipeline.elements import ImageInfo
from pipeline.shards.index import INDEX_SCHEMA, Row, make_index, write_records
from pipeline.storage.tfrecord import read_record

IMAGE = ImageInfo("a/b.tif", "", "", 9, 9, 3, 3, "train", "cat", "g")
CONFIG = Config.model_validate({"input": {"images": "a", "level": 1}, "output": {"path": "b"}})
PAYLOADS = [b"first", b"", b"third" * 1000]
SPOOL = b"".join(PAYLOADS)
ROWS = [
    Row(0, IMAGE, 10 * n, 7, 0, "cat", len(payload), 2, 3, SPOOL.index(payload) if payload else 5)
    for n, payload in enumerate(PAYLOADS)
]


def written(rows):
    out = io.BytesIO()
    size, _ = write_records(out, io.BytesIO(SPOOL), rows)
    assert size == len(out.getvalue())
    return out.getvalue()


def test_records_are_the_bytes_that_tensorflow_writes_and_are_read_back(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    data = written(ROWS)
    assert data == (tmp_path / "theirs").read_bytes()
    file, found = io.BytesIO(data), []
    while record := read_record(file):
        found.append(record)
    assert found == [(payload, len(payload) + 16) for payload in PAYLOADS]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: bytes([d[0] ^ 1]) + d[1:], "checksum of its length"),
        (lambda d: d[:13] + bytes([d[13] ^ 1]) + d[14:], "checksum of its content"),
        (lambda d: d[:7], "checksum of its length"),
        (lambda d: d[:18], "checksum of its content"),
    ],
    ids=["length", "content", "short-header", "short-content"],
)
def test_a_damaged_record_is_an_error(damage, message):
    with pytest.raises(ValueError, match=message):
        read_record(io.BytesIO(damage(written(ROWS))))


def test_the_index_says_where_everything_lies():
    index = pq.read_table(io.BytesIO(make_index("train", "shard", ROWS, CONFIG)))
    assert index.schema == INDEX_SCHEMA
    data = written(ROWS)
    for number, (row, payload) in enumerate(zip(index.to_pylist(), PAYLOADS)):
        assert data[row["offset"] : row["offset"] + row["length"]] == payload
        assert row["image_offset"] == row["offset"] + 2
        assert (row["key"], row["record"], row["row"]) == (f"a/b.tif#1/{10 * number}/7", number, 10 * number)


def test_the_index_of_an_empty_shard_has_the_same_columns():
    assert pq.read_table(io.BytesIO(make_index("train", "shard", [], CONFIG))).schema == INDEX_SCHEMA
