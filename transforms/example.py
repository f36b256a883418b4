"""Patches with their origin, serialized as ``tf.train.Example`` and parsed again.

========== ====== =====================================================================
feature    type   content
========== ====== =====================================================================
image      bytes  the encoded patch, see transforms/encoding.py
shape      int64  height, width, channels
dtype      bytes  NumPy name: uint8, uint16 or float32
key        bytes  ``<image_id>#<level>/<row>/<col>``, with ``/<copy>``; unique in a dataset
image_id   bytes  path of the image below the root of the input
level      int64  pyramid level, 0 is full resolution
row, col   int64  first pixel of the patch in the image at that level
label      bytes  class of the image, may be empty
group      bytes  what must not be divided among splits
meta/...   any    metadata columns of the image: int64, float (32 bits) or bytes
copy       int64  number of the copy of the patch, see :class:`PatchRecord`; 0 where missing
augment... bytes  ``augmentation``: the changes of the patch, JSON; missing in datasets without augmentation
raster/... bytes  companion rasters of the same pixels, encoded without loss
scale/...  bytes  the surroundings at a coarser scale, encoded as the image
========== ====== =====================================================================
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class PatchRecord(NamedTuple):
    """An encoded patch and where it comes from; the fields are the features of the Example.

    ``meta`` holds the metadata columns of the image, each a feature of its own, named ``meta/<column>``. ``companions``
    holds the encoded patches of companion rasters and scales, by the names of their features. ``copy`` is 0 for the
    patch as it was cut and numbers its augmented copies; the random crops of an image are numbered in one sequence.
    """

    image: bytes
    shape: tuple[int, int, int]
    dtype: str
    image_id: str
    level: int
    row: int
    col: int
    label: str
    group: str
    meta: tuple[tuple[str, int | float | str], ...] = ()
    copy: int = 0
    augmentation: str | None = None
    companions: tuple[tuple[str, bytes], ...] = ()

    @property
    def key(self) -> str:
        """Identity of the patch in its dataset."""
        return patch_key(self.image_id, self.level, self.row, self.col, self.copy)


def patch_key(image_id: str, level: int, row: int, col: int, copy: int = 0) -> str:
    """Returns ``<image_id>#<level>/<row>/<col>``, followed by ``/<copy>`` where ``copy`` is not 0."""
    return f"{image_id}#{level}/{row}/{col}" + (f"/{copy}" if copy else "")


# TensorFlow Datasets reads these as dictionaries called meta, raster and scale.
META, COMPANIONS = "meta/", ("raster/", "scale/")
_NUMBERS = {"shape": 3, "level": 1, "row": 1, "col": 1}
_TEXTS = ("dtype", "image_id", "label", "group", "key")


def to_example(record: PatchRecord) -> bytes:
    """Serializes the record as an Example; equal records give equal bytes.

    The features are serialized one by one and joined in a fixed order, because each protobuf library orders a map as it
    likes. (Messages merge by concatenation: protobuf.dev/programming-guides/encoding, "Last One Wins".)
    """
    values = record._asdict() | {"key": record.key}
    values |= {META + name: value for name, value in values.pop("meta")}
    if record.augmentation is None and not record.copy:
        del values["copy"], values["augmentation"]
    values |= dict(values.pop("companions"))
    entries = ({name: _feature(value)} for name, value in values.items())
    features = b"".join(tf.train.Features(feature=entry).SerializeToString() for entry in entries)
    return b"\x0a" + _varint(len(features)) + features  # field 1 of Example, a message


def _varint(number: int) -> bytes:
    """Encodes the number in groups of seven bits, the lowest first, with the high bit set on all but the last."""
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def from_example(data: bytes) -> PatchRecord:
    """Parses a record that :func:`to_example` serialized.

    Raises:
        ValueError: if the bytes are not an Example, a feature is missing, or the key does not fit the other features.
    """
    try:
        features = tf.train.Example.FromString(data).features.feature
        lengths = {name: len(features[name].int64_list.value) for name in _NUMBERS}
        lengths |= {name: len(features[name].bytes_list.value) for name in ("image", *_TEXTS)}
        if wrong := [name for name, length in lengths.items() if length != _NUMBERS.get(name, 1)]:
            raise ValueError(f"missing or of another length: {', '.join(wrong)}")
        text = {name: features[name].bytes_list.value[0].decode() for name in _TEXTS}
        numbers = {name: features[name].int64_list.value[0] for name in ("level", "row", "col")}
        copy = features["copy"].int64_list.value[0] if "copy" in features else 0
        augmentation = features["augmentation"].bytes_list.value[0].decode() if "augmentation" in features else None
        height, width, channels = features["shape"].int64_list.value
        meta = tuple(sorted((name[len(META) :], _value(features[name])) for name in features if name.startswith(META)))
        companions = tuple(sorted((n, features[n].bytes_list.value[0]) for n in features if n.startswith(COMPANIONS)))
    except Exception as error:  # protobuf's DecodeError, UnicodeDecodeError
        raise ValueError(f"not an Example of a patch: {error}") from error
    key = text.pop("key")
    image, shape = features["image"].bytes_list.value[0], (height, width, channels)
    record = PatchRecord(image, shape, **text, **numbers, meta=meta)
    record = record._replace(copy=copy, augmentation=augmentation, companions=companions)
    if key != record.key:
        raise ValueError(f"key {key!r} does not fit the other features, which give {record.key!r}")
    return record


def _value(feature: tf.train.Feature) -> int | float | str:
    """Returns the only value of a feature of any kind."""
    (value,) = getattr(feature, feature.WhichOneof("kind")).value
    return value.decode() if isinstance(value, bytes) else value


def _feature(value: bytes | str | int | float | tuple[int, ...]) -> tf.train.Feature:
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    if isinstance(value, (bytes, str)):
        data = value.encode() if isinstance(value, str) else value
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    numbers = value if isinstance(value, tuple) else (value,)
    return tf.train.Feature(int64_list=tf.train.Int64List(value=numbers))
