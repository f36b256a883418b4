"""Reads a published dataset."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import SHARDS, shard_file
from pipeline.errors import DatasetError
from pipeline.versions.lifecycle import Version, latest
from pipeline.versions.manifest import Manifest, read_manifest
from transforms.encoding import decode_patch

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import tensorflow as tf


class Dataset(NamedTuple):
    """A complete version: its folder, its manifest, and the configuration that it was built with."""

    folder: str
    manifest: Manifest
    config: Config

    def statistics(self) -> dict[str, Any]:
        """Returns the content of ``statistics.json``, see ``pipeline.versions.summary.make_statistics``."""
        found: dict[str, Any] = json.loads(storage.read_bytes(storage.join(self.folder, "statistics.json")))
        return found

    def shard_table(self) -> pa.Table:
        """Returns a row per shard: name, split, counts, checksums; see ``pipeline.shards.receipts.SHARDS_SCHEMA``.

        Raises:
            DatasetError: if a name is not that of a shard, since names become paths.
        """
        table = storage.read_table(storage.join(self.folder, SHARDS))
        for name in table["shard"].to_pylist():
            if not re.fullmatch(r"[a-z][a-z0-9_]*-\d{5,}-of-\d{5,}", name):
                raise DatasetError(f"{self.folder}/{SHARDS}: {name!r} is no name of a shard")
        return table

    def shards(self, split: str) -> list[str]:
        """Returns the names of the shards of a split.

        Raises:
            DatasetError: if there is no such split.
        """
        if split not in self.manifest.splits:
            raise DatasetError(f"split {split!r} is not in {self.folder}; there are {', '.join(self.manifest.splits)}")
        table = self.shard_table()
        return [name for name, of in zip(table["shard"].to_pylist(), table["split"].to_pylist()) if of == split]

    def patch(self, row: dict[str, Any], name: str = "image") -> np.ndarray:
        """Returns the patch ``[H, W, C]`` of a row of the index, or one of its companions.

        Args:
            row: has ``shard``, ``image_offset`` and ``image_length``, or offset and length of ``name``.
            name: ``image``, or ``raster/NAME`` or ``scale/4`` for a companion.
        """
        form = self.config.forms[name]
        with storage.open_read(storage.join(self.folder, row["shard"])) as file:
            file.seek(row[f"{name}_offset"])
            data = file.read(row[f"{name}_length"])
        return decode_patch(data, form.encoding, (*self.config.patch.size, form.channels), form.dtype)


def open_dataset(path: str, version: str | None = None) -> Dataset:
    """Opens the latest version, a named one, or, where ``path`` is the folder of a version, that one.

    Raises:
        DatasetError: if there is no complete version.
    """
    path = path.rstrip("/")
    if version is None and (manifest := read_manifest(path)):
        return _opened(path, manifest)
    named = Version(path, version) if version else latest(path)
    if named is None:
        raise DatasetError(
            f"{path}: no published dataset here (neither LATEST nor manifest.json); run patchbeam build first"
        )
    manifest = named.manifest
    if manifest is None:
        raise DatasetError(f"{named.folder}: no complete version (manifest.json is missing)")
    return _opened(named.folder, manifest)


def _opened(folder: str, manifest: Manifest) -> Dataset:
    try:
        return Dataset(folder, manifest, Config.model_validate(manifest.config))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise DatasetError(
            f"{folder}: was built with a configuration that is not understood any more ({key}: {problem['msg']}); "
            "build it again"
        ) from error


def load(dataset: str, split: str, version: str | None = None) -> tf.data.Dataset:
    """Returns the patches of a split as a ``tf.data.Dataset`` of dictionaries.

    Args:
        dataset: the output folder of a build; its latest version is read, or the one named ``version``.
        split: for example ``train``.
        version: name of a version, to pin it.

    Returns:
        Elements with ``image`` ``[H, W, C]`` in the dtype of the dataset, ``shape`` ``[3]``, ``level``, ``row`` and
        ``col`` (int64), ``key``, ``image_id``, ``label``, ``group``, ``dtype`` (strings), in the order of the shards.
        With augmented copies or random crops also ``copy`` (int64) and ``augmentation`` (a string of JSON).
        With metadata columns of an input manifest also ``meta``, a dictionary of them (int64, float32 or string); with
        companion rasters ``raster``, with scales ``scale``, dictionaries of patches.

    Raises:
        DatasetError: if there is no such dataset or split.
    """
    import tensorflow as tf

    from transforms.example import META

    found = open_dataset(dataset, version)
    config, size = found.config, found.config.patch.size
    decoders = {
        name: _decoder(form.encoding, tf.dtypes.as_dtype(form.dtype), [*size, form.channels])
        for name, form in config.forms.items()
    }
    text = {
        name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "dtype", "key", "image_id", "label", "group")
    }
    numbers = {name: tf.io.FixedLenFeature([], tf.int64) for name in ("level", "row", "col")}

    kinds = {"integer": tf.int64, "number": tf.float32, "text": tf.string}
    columns = config.input.columns or {}
    if config.has_copies:
        text["augmentation"] = tf.io.FixedLenFeature([], tf.string)
        numbers["copy"] = tf.io.FixedLenFeature([], tf.int64)
    features = text | numbers | {"shape": tf.io.FixedLenFeature([3], tf.int64)}
    features |= {META + name: tf.io.FixedLenFeature([], kinds[kind]) for name, kind in columns.items()}
    features |= {name: tf.io.FixedLenFeature([], tf.string) for name in config.companions}

    def parse(data: tf.Tensor) -> dict[str, Any]:
        example = tf.io.parse_single_example(data, features)
        for name in config.companions:
            kind, _, own = name.partition("/")
            example.setdefault(kind, {})[own] = decoders[name](example.pop(name))
        if columns:
            example["meta"] = {name: example.pop(META + name) for name in columns}
        found: dict[str, Any] = example | {"image": decoders["image"](example["image"])}
        return found

    files = [storage.join(found.folder, shard_file(name)) for name in found.shards(split)]
    return _payloads(files).map(parse, num_parallel_calls=tf.data.AUTOTUNE)


def _payloads(files: list[str]) -> tf.data.Dataset:
    """Returns the serialized Examples; TensorFlow reads only Google's store, and that without our retries."""
    import tensorflow as tf

    from pipeline.storage.tfrecord import read_record

    if all(map(storage.is_local, files)):
        return tf.data.TFRecordDataset(files)

    def read() -> Iterator[bytes]:
        for path in files:
            with storage.open_read(path) as file:
                while record := read_record(file):
                    yield record[0]

    return tf.data.Dataset.from_generator(read, output_signature=tf.TensorSpec([], tf.string))


def _decoder(encoding: str, dtype: tf.DType, shape: list[int]) -> Callable[[tf.Tensor], tf.Tensor]:
    import tensorflow as tf

    if encoding == "raw":
        return lambda data: tf.reshape(tf.io.decode_raw(data, dtype, little_endian=True), shape)
    if encoding == "png":
        return lambda data: tf.ensure_shape(tf.io.decode_png(data, dtype=dtype), shape)
    return lambda data: tf.ensure_shape(tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE"), shape)
