"""Examples against TensorFlow's own parser and against bytes written by hand from the protobuf wire format."""

import hashlib
import os
import subprocess
import sys

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.example import PatchRecord, from_example, to_example

RECORD = PatchRecord(
    image=b"\x89PNG\x00\xff",
    shape=(256, 300, 3),
    dtype="uint8",
    image_id="slides/Müller 1.svs",
    level=2,
    row=512,
    col=70_000,
    label="tumor",
    group="",
)
GOLDEN_SHA256 = "a195f64ffd60629cc385070c7b7fd1e15351b2a7c2f57c5adeeae739936c0854"

sizes = st.integers(0, 2**63 - 1)
records = st.builds(
    PatchRecord,
    image=st.binary(max_size=40),
    shape=st.tuples(*[st.integers(1, 2**40)] * 3),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    image_id=st.text(),
    level=sizes,
    row=sizes,
    col=sizes,
    label=st.text(),
    group=st.text(),
    meta=st.dictionaries(
        st.text(),
        st.integers(-(2**63), 2**63 - 1) | st.floats(width=32, allow_nan=False) | st.text(),
        max_size=4,
    ).map(lambda columns: tuple(sorted(columns.items()))),
    copy=st.integers(0, 2**31 - 1),
    augmentation=st.text(),
    companions=st.dictionaries(st.text().map("raster/{}".format), st.binary(max_size=40), max_size=3).map(
        lambda found: tuple(sorted(found.items()))
    ),
)


def varint(number):
    groups = []
    while number >= 128:
        groups.append(number % 128 + 128)
        number //= 128
    return bytes([*groups, number])


def field(number, content):
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def example_by_hand(features):
    """The bytes of an Example with its features as they come; see tensorflow/core/example/{example,feature}.proto."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))  # Feature.bytes_list, BytesList.value
        else:
            feature = field(3, field(1, b"".join(varint(v) for v in value)))  # Feature.int64_list, packed value
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def altered(**changes):
    """The bytes of the record with features replaced, or removed where the change is None."""
    example = tf.train.Example.FromString(to_example(RECORD))
    for name, value in changes.items():
        del example.features.feature[name]
        if isinstance(value, bytes):
            example.features.feature[name].bytes_list.value.append(value)
        elif value is not None:
            example.features.feature[name].int64_list.value.extend(value)
    return example.SerializeToString()


@settings(deadline=None)
@given(records)
def test_from_example_is_the_inverse_of_to_example(record):
    assert from_example(to_example(record)) == record


def test_an_example_has_the_bytes_that_the_wire_format_prescribes():
    expected = example_by_hand(
        {
            "image": b"\x89PNG\x00\xff",
            "shape": [256, 300, 3],
            "dtype": b"uint8",
            "image_id": "slides/Müller 1.svs".encode(),
            "level": [2],
            "row": [512],
            "col": [70_000],
            "label": b"tumor",
            "group": b"",
            "key": "slides/Müller 1.svs#2/512/70000".encode(),
        }
    )

    assert to_example(RECORD) == expected
    assert hashlib.sha256(expected).hexdigest() == GOLDEN_SHA256


def test_tensorflow_parses_the_features_under_their_names_and_types():
    scalar = {name: tf.io.FixedLenFeature([], tf.int64) for name in ("level", "row", "col")}
    text = {
        name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "dtype", "key", "image_id", "label", "group")
    }
    parsed = tf.io.parse_single_example(
        to_example(RECORD), {"shape": tf.io.FixedLenFeature([3], tf.int64)} | scalar | text
    )

    assert {
        name: value.numpy() if value.dtype == tf.string else value.numpy().tolist() for name, value in parsed.items()
    } == {
        "image": b"\x89PNG\x00\xff",
        "shape": [256, 300, 3],
        "dtype": b"uint8",
        "key": "slides/Müller 1.svs#2/512/70000".encode(),
        "image_id": "slides/Müller 1.svs".encode(),
        "level": 2,
        "row": 512,
        "col": 70_000,
        "label": b"tumor",
        "group": b"",
    }
    assert set(tf.train.Example.FromString(to_example(RECORD)).features.feature) == set(parsed)


def test_bytes_are_the_same_in_another_process_with_other_hashes():
    script = (
        "import hashlib; from transforms.example import PatchRecord, to_example;"
        f"print(hashlib.sha256(to_example({RECORD!r})).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONUTF8": "1"}
    other = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert other.stdout.split() == [GOLDEN_SHA256]


@pytest.mark.parametrize("data", [b"", b"no example", to_example(RECORD)[:-3], b"\x0a\x02\x0a"])
def test_bytes_that_are_no_example_of_a_patch_are_an_error(data):
    with pytest.raises(ValueError, match="not an Example of a patch: "):
        from_example(data)


@pytest.mark.parametrize(
    "name",
    [
        "image",
        "shape",
        "dtype",
        "key",
        "image_id",
        "level",
        "row",
        "col",
        "label",
        "group",
    ],
)
def test_a_missing_feature_is_an_error(name):
    with pytest.raises(ValueError, match="not an Example of a patch: "):
        from_example(altered(**{name: None}))


def test_a_feature_of_the_wrong_type_is_an_error():
    for changes in ({"level": b"2"}, {"label": [1]}, {"label": b"\xff"}):
        with pytest.raises(ValueError, match="not an Example of a patch: "):
            from_example(altered(**changes))


@pytest.mark.parametrize(
    "changes", [{"key": b"other.svs#2/512/70000"}, {"row": [513]}, {"level": [0]}, {"image_id": b"a"}]
)
def test_a_key_that_does_not_fit_the_other_features_is_an_error(changes):
    with pytest.raises(ValueError, match=r"key '.*' does not fit the other features"):
        from_example(altered(**changes))


@settings(deadline=None)
@given(records, records)
def test_keys_are_equal_only_for_the_same_place_in_the_same_image(one, two):
    place = lambda record: (record.image_id, record.level, record.row, record.col, record.copy)

    assert (one.key == two.key) == (place(one) == place(two))
