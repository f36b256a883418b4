"""What a dataset looks like as a whole: statistics, normalisation, and the metadata of TensorFlow Datasets.

All of it comes from the receipts of the shards, a few numbers each; no pixel is read again.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import tempfile
from typing import Any

from pipeline import storage
from pipeline.config import Config
from pipeline.elements import ShardResult
from transforms import moments


def summarize(folder: str, config: Config, receipts: list[ShardResult]) -> dict[str, Any]:
    """Writes the summary files of a version and returns the content of ``statistics.json``."""
    statistics = make_statistics(config, receipts)
    _write_json(folder, "statistics.json", statistics)
    _write_tfds(folder, config, receipts)
    if statistics["splits"][config.training_split]["patches"]:
        _write_normalization(folder, config, [r for r in receipts if r.split == config.training_split], statistics)
    return statistics


def make_statistics(config: Config, receipts: list[ShardResult]) -> dict[str, Any]:
    """Per split the number of patches, the labels (most frequent first) and the channels; see ``moments.describe``.

    ``normalization`` holds the mean and standard deviation of the training split, by channel.
    """
    splits = {split: _describe([r for r in receipts if r.split == split], config) for split in config.splits}
    training = splits[config.training_split]["channels"]
    return {
        "normalization": {
            "split": config.training_split,
            "mean": [channel["mean"] for channel in training],
            "std": [channel["std"] for channel in training],
        },
        "splits": splits,
    }


def _describe(receipts: list[ShardResult], config: Config) -> dict[str, Any]:
    nothing = moments.empty(config.input.channels, config.input.dtype)
    merged = functools.reduce(moments.merge, (moments.from_json(r.moments) for r in receipts), nothing)
    labels: collections.Counter[str] = collections.Counter()
    for receipt in receipts:
        labels.update(receipt.labels)
    return {
        "patches": sum(receipt.records for receipt in receipts),
        "labels": dict(sorted(labels.items(), key=lambda item: (-item[1], item[0]))),
        "channels": moments.describe(merged),
    }


def _write_tfds(folder: str, config: Config, receipts: list[ShardResult]) -> None:
    """``features.json`` and ``dataset_info.json`` as TensorFlow Datasets 4.9 reads them; 64-bit numbers are strings."""
    shape = [*config.patch.size, config.input.channels]
    dimensions = {"dimensions": [str(n) for n in shape]}
    if config.output.encoding == "raw":
        image = _tensor(config.input.dtype, dimensions, "bytes")
    else:
        content = {"dtype": config.input.dtype, "encodingFormat": config.output.encoding, "shape": dimensions}
        image = {"pythonClassName": _feature_class("image_feature.Image"), "image": content}
    text = {"pythonClassName": _feature_class("text_feature.Text"), "text": {}}
    features = {"image": image, "shape": _tensor("int64", {"dimensions": ["3"]})}
    features |= {name: text for name in ("dtype", "key", "image_id", "label", "group")}
    features |= {name: _tensor("int64", {}) for name in ("level", "row", "col")}
    top = {"featuresDict": {"features": features}, "pythonClassName": _feature_class("features_dict.FeaturesDict")}
    _write_json(folder, "features.json", top)
    splits = [
        {
            "name": split,
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "numBytes": str(sum(r.bytes for r in receipts if r.split == split)),
            "shardLengths": [str(r.records) for r in receipts if r.split == split],
        }
        for split in config.splits
    ]
    info = {"name": "patches", "version": "1.0.0", "fileFormat": "tfrecord", "splits": splits}
    _write_json(folder, "dataset_info.json", info)


def _feature_class(name: str) -> str:
    return f"tensorflow_datasets.core.features.{name}"


def _tensor(dtype: str, shape: dict, encoding: str = "none") -> dict:
    content = {"dtype": dtype, "shape": shape, "encoding": encoding}
    return {"pythonClassName": _feature_class("tensor_feature.Tensor"), "tensor": content}


def _write_normalization(folder: str, config: Config, receipts: list[ShardResult], statistics: dict) -> None:
    """Runs the tf-transform analysis over the moments and writes ``transform_fn``, its metadata and ``normalize``."""
    import numpy as np
    import tensorflow as tf
    import tensorflow_transform as tft

    from transforms.normalize import export_image_model, input_specs

    specs = input_specs(config.patch.size, config.input.channels, config.input.dtype)
    with tempfile.TemporaryDirectory() as local:
        _analyze(specs, receipts, config, local)
        layer = tft.TFTransformOutput(local).transform_features_layer()
        export_image_model(layer, specs["image"], os.path.join(local, "normalize"))
        # The constants went two ways, through tf-transform and through NumPy: they have to agree.
        probe = np.zeros((1, *specs["image"].shape[1:]), config.input.dtype)
        got = layer({"image": tf.constant(probe)})["image"].numpy()[0, 0, 0]
        mean, std = (np.array(statistics["normalization"][name]) for name in ("mean", "std"))
        expected = np.divide(-mean, std, out=np.zeros_like(mean), where=std > 0)
        if not np.allclose(got, expected, rtol=1e-4, atol=1e-6):
            raise RuntimeError(f"tf-transform normalises 0 to {got}, the statistics to {expected}")
        for below in storage.files_below(local):
            if not below.startswith("work/"):
                with open(os.path.join(local, below), "rb") as file:
                    storage.write_bytes(storage.join(folder, below), file.read())


def _analyze(specs: dict, receipts: list[ShardResult], config: Config, out: str) -> None:
    import apache_beam as beam
    import pyarrow as pa
    import tensorflow_transform.beam as tft_beam
    from tfx_bsl.tfxio import tensor_adapter

    from pipeline.runners import local_runner
    from transforms.normalize import preprocess

    columns = {name: spec for name, spec in specs.items() if name != "image"}
    types = {"float64": pa.float64(), "float32": pa.float32(), "string": pa.large_binary()}
    schema = pa.schema([(name, pa.large_list(types[spec.dtype.name])) for name, spec in columns.items()])
    # The analysis reads the moments alone, while the graph is traced with the image among its inputs.
    adapter = tensor_adapter.TensorAdapterConfig(
        schema, {name: _dense(name, spec) for name, spec in columns.items()}, original_type_specs=specs
    )
    rows = [row for receipt in receipts for row in _analysis_rows(receipt)]
    batch = pa.RecordBatch.from_arrays(
        [pa.array([r[n] for r in rows], schema.field(n).type) for n in columns], schema=schema
    )
    options = beam.options.pipeline_options.PipelineOptions([])
    with beam.Pipeline(runner=local_runner(options), options=options) as p:
        with tft_beam.Context(temp_dir=os.path.join(out, "work")):
            analyzed = (p | beam.Create([batch]), adapter) | tft_beam.AnalyzeDataset(preprocess)
            analyzed | tft_beam.WriteTransformFn(out)


def _dense(name: str, spec: Any) -> Any:
    from tensorflow_metadata.proto.v0 import schema_pb2

    representation = schema_pb2.TensorRepresentation()
    representation.dense_tensor.column_name = name
    for length in spec.shape[1:]:
        representation.dense_tensor.shape.dim.add(size=length)
    return representation


def _analysis_rows(receipt: ShardResult) -> list[dict[str, list]]:
    """One row for the moments of a shard, and one more for every further label."""
    pixels = moments.finished(moments.from_json(receipt.moments))
    count = pixels.count.astype(float)
    sums = {"count": count, "total": count * pixels.mean, "squares": pixels.m2 + count * pixels.mean**2}
    rows = []
    for label, patches in receipt.labels.items() or [("", 0)]:
        rows.append(
            {k: v.tolist() for k, v in sums.items()} | {"label": [label.encode()], "label_count": [float(patches)]}
        )
        sums = {name: 0 * column for name, column in sums.items()}
    return rows


def _write_json(folder: str, name: str, values: dict) -> None:
    storage.write_bytes(storage.join(folder, name), (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())
