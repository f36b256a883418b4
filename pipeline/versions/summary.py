"""The summary of a dataset: statistics, normalisation, and the metadata of TensorFlow Datasets.

All of it comes from the sums of the shards, a few numbers each; no pixel is read again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline import storage
from pipeline.config import Config
from pipeline.shards.receipts import Sums
from pipeline.versions.normalization import Write
from transforms import pixel_statistics


def summarize(folder: str, config: Config, totals: Mapping[str, Sums], write_graphs: Write) -> None:
    """Writes the summary files of a version; ``write_graphs`` writes the graphs of the normalisation."""
    _write_json(folder, "statistics.json", make_statistics(config.training_split, totals))
    _write_tfds(folder, config, totals)
    if totals[config.training_split].records:
        write_graphs(folder, config.patch.size, config.forms["image"], totals[config.training_split].rows)


def make_statistics(training_split: str, totals: Mapping[str, Sums]) -> dict[str, Any]:
    """Returns the number of patches, the labels (most frequent first) and the channels of each split.

    The channels are those of ``transforms.pixel_statistics.describe``. ``normalization`` holds the mean and standard
    deviation of the training split, by channel.
    """
    splits = {split: _describe(part) for split, part in totals.items()}
    training = splits[training_split]["channels"]
    return {
        "normalization": {
            "split": training_split,
            "mean": [channel["mean"] for channel in training],
            "std": [channel["std"] for channel in training],
        },
        "splits": splits,
    }


def _describe(part: Sums) -> dict[str, Any]:
    return {
        "patches": part.records,
        "labels": dict(sorted(part.labels.items(), key=lambda item: (-item[1], item[0]))),
        "channels": pixel_statistics.describe(part.pixel_statistics),
    }


def _write_tfds(folder: str, config: Config, totals: Mapping[str, Sums]) -> None:
    """Writes ``features.json`` and ``dataset_info.json`` for TensorFlow Datasets 4.9; 64-bit numbers are strings."""
    image = _image(config.patch.size, *config.forms["image"][:3])
    text = {"pythonClassName": _feature_class("text_feature.Text"), "text": {}}
    features = {"image": image, "shape": _tensor("int64", {"dimensions": ["3"]})}
    features |= {name: text for name in ("dtype", "key", "image_id", "label", "group")}
    features |= {name: _tensor("int64", {}) for name in ("level", "row", "col")}
    if config.has_copies:
        features |= {"copy": _tensor("int64", {}), "augmentation": text}
    kinds = {"integer": _tensor("int64", {}), "number": _tensor("float32", {}), "text": text}
    if config.input.columns:
        features["meta"] = _features_dict({name: kinds[kind] for name, kind in config.input.columns.items()})
    for kind in ("raster", "scale"):
        forms = {name.partition("/")[2]: form for name, form in config.forms.items() if name.startswith(f"{kind}/")}
        if forms:
            encoded = {name: _image(config.patch.size, *form[:3]) for name, form in forms.items()}
            features[kind] = _features_dict(encoded)
    _write_json(folder, "features.json", _features_dict(features))
    splits = [
        {
            "name": split,
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "numBytes": str(sum(part.shards["bytes"].to_pylist())),
            "shardLengths": [str(records) for records in part.shards["records"].to_pylist()],
        }
        for split, part in totals.items()
    ]
    info = {"name": "patches", "version": "1.0.0", "fileFormat": "tfrecord", "splits": splits}
    _write_json(folder, "dataset_info.json", info)


def _feature_class(name: str) -> str:
    return f"tensorflow_datasets.core.features.{name}"


def _image(size: tuple[int, int], channels: int, dtype: str, encoding: str) -> dict[str, Any]:
    dimensions = {"dimensions": [str(n) for n in (*size, channels)]}
    if encoding == "raw":
        return _tensor(dtype, dimensions, "bytes")
    content = {"dtype": dtype, "encodingFormat": encoding, "shape": dimensions}
    return {"pythonClassName": _feature_class("image_feature.Image"), "image": content}


def _features_dict(features: dict[str, Any]) -> dict[str, Any]:
    return {"featuresDict": {"features": features}, "pythonClassName": _feature_class("features_dict.FeaturesDict")}


def _tensor(dtype: str, shape: dict[str, Any], encoding: str = "none") -> dict[str, Any]:
    content = {"dtype": dtype, "shape": shape, "encoding": encoding}
    return {"pythonClassName": _feature_class("tensor_feature.Tensor"), "tensor": content}


def _write_json(folder: str, name: str, values: dict[str, Any]) -> None:
    storage.write_bytes(storage.join(folder, name), (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())
