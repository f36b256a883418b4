"""A patch with its origin as the bytes of a ``tf.train.Example``, and back.

========== ====== =====================================================================
feature    type   content
========== ====== =====================================================================
image      bytes  the encoded patch, see transforms/encoding.py
shape      int64  height, width, channels
dtype      bytes  NumPy name: uint8, uint16 or float32
key        bytes  ``<image_id>#<level>/<row>/<col>``, unique in a dataset
image_id   bytes  path of the image below the root of the input
level      int64  pyramid level, 0 is full resolution
row, col   int64  first pixel of the patch in the image at that level
label      bytes  class of the image, may be empty
group      bytes  what must not be divided among splits
========== ====== =====================================================================
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class PatchRecord(NamedTuple):
    """An encoded patch and where it comes from; the fields are the features of the Example."""

    image: bytes
    shape: tuple[int, int, int]
    dtype: str
    image_id: str
    level: int
    row: int
    col: int
    label: str
    group: str

    @property
    def key(self) -> str:
        """Identity of the patch in its dataset."""
        return f"{self.image_id}#{self.level}/{self.row}/{self.col}"


def to_example(record: PatchRecord) -> bytes:
    """The record as a serialized Example; equal records give equal bytes."""
    values = record._asdict() | {"key": record.key}
    features = tf.train.Features(feature={name: _feature(value) for name, value in values.items()})
    return tf.train.Example(features=features).SerializeToString(deterministic=True)


def from_example(data: bytes) -> PatchRecord:
    """Inverse of :func:`to_example`.

    Raises:
        ValueError: if the bytes are no Example, a feature is missing, or the key does not fit the others.
    """
    try:
        features = tf.train.Example.FromString(data).features.feature
        text = {k: features[k].bytes_list.value[0].decode() for k in ("dtype", "image_id", "label", "group", "key")}
        numbers = {k: features[k].int64_list.value[0] for k in ("level", "row", "col")}
        shape = tuple(features["shape"].int64_list.value)
        key = text.pop("key")
        record = PatchRecord(image=features["image"].bytes_list.value[0], shape=shape, **text, **numbers)
    except Exception as error:  # protobuf's DecodeError, IndexError of a missing feature, UnicodeDecodeError
        raise ValueError(f"not an Example of a patch: {error or type(error).__name__}") from error
    if key != record.key:
        raise ValueError(f"key {key!r} does not fit the other features, which give {record.key!r}")
    return record


def _feature(value: bytes | str | int | tuple[int, ...]) -> tf.train.Feature:
    if isinstance(value, (bytes, str)):
        data = value.encode() if isinstance(value, str) else value
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    numbers = value if isinstance(value, tuple) else (value,)
    return tf.train.Feature(int64_list=tf.train.Int64List(value=numbers))
