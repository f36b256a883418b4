"""The tf-transform analysis of a build, as a program: moments of shards on its input, graphs in a folder.

``python -m pipeline.versions.normalization_program FOLDER`` reads ``{"size", "channels", "dtype", "rows"}`` as JSON
and writes

- ``transform_fn`` and ``transformed_metadata``, for ``tft.TFTransformOutput(FOLDER)``;
- ``normalize``, a SavedModel that takes only raw patches, for TensorFlow without tf-transform.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.tfxio import tensor_adapter

from pipeline.runners.run import local_runner
from transforms.normalize import export_image_model, input_specs, preprocess

_ARROW = {"float64": pa.float64(), "float32": pa.float32(), "string": pa.large_binary()}


def write_normalization(
    folder: str, size: tuple[int, int], channels: int, dtype: str, rows: list[dict[str, Any]]
) -> None:
    """Analyses the rows and exports the graphs.

    Args:
        folder: a local folder.
        size: rows and columns of a patch.
        channels: channels of the patches.
        dtype: dtype of the patches.
        rows: the columns of :func:`transforms.normalize.input_specs` except ``image``, as lists.
    """
    specs = input_specs(size, channels, dtype)
    _analyze(folder, {name: spec for name, spec in specs.items() if name != "image"}, specs, rows)
    layer = tft.TFTransformOutput(folder).transform_features_layer()
    export_image_model(layer, specs["image"], os.path.join(folder, "normalize"))
    for model in ("transform_fn", "normalize"):  # holds a random number; TensorFlow loads models without it
        os.remove(os.path.join(folder, model, "fingerprint.pb"))


def _analyze(
    folder: str, columns: dict[str, tf.TensorSpec], specs: dict[str, tf.TensorSpec], rows: list[dict[str, Any]]
) -> None:
    schema = pa.schema([(name, pa.large_list(_ARROW[spec.dtype.name])) for name, spec in columns.items()])
    # The analysis reads only the moments, while the graph is traced with the image among its inputs.
    adapter = tensor_adapter.TensorAdapterConfig(
        schema, {name: _dense(name, spec) for name, spec in columns.items()}, original_type_specs=specs
    )
    arrays = [pa.array([row[field.name] for row in rows], field.type) for field in schema]
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    options = PipelineOptions([])
    with tempfile.TemporaryDirectory() as work:
        with beam.Pipeline(runner=local_runner(options), options=options) as p, tft_beam.Context(temp_dir=work):
            analyzed = (p | beam.Create([batch]), adapter) | tft_beam.AnalyzeDataset(preprocess)
            analyzed | tft_beam.WriteTransformFn(folder)


def _dense(name: str, spec: tf.TensorSpec) -> Any:
    representation = schema_pb2.TensorRepresentation()
    representation.dense_tensor.column_name = name
    for length in spec.shape[1:]:
        representation.dense_tensor.shape.dim.add(size=length)
    return representation


if __name__ == "__main__":
    write_normalization(sys.argv[1], **json.load(sys.stdin))
