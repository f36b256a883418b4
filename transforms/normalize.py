"""The tf-transform preprocessing function: normalises patches with the statistics of the training split.

The analysis never sees pixels. Its rows are the moments of groups of shards, and the labels with their counts; the
exported graph takes raw patches.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tensorflow_transform as tft

VOCABULARY = "labels"


def input_specs(size: tuple[int, int], channels: int, dtype: str) -> dict[str, tf.TensorSpec]:
    """Returns the inputs of :func:`preprocess`: columns of the analysis, and ``image``, for the exported graph only."""
    column = lambda: tf.TensorSpec([None, channels], tf.float64)
    return {
        "count": column(),
        "total": column(),
        "squares": column(),
        "label": tf.TensorSpec([None], tf.string),
        "label_count": tf.TensorSpec([None], tf.float32),
        "image": tf.TensorSpec([None, *size, channels], tf.dtypes.as_dtype(dtype)),
    }


def preprocess(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Scales ``image [N, H, W, C]`` of any dtype to float32 of mean 0 and standard deviation 1 over the training split.

    ``count``, ``total`` and ``squares`` are the number of values, their sum and the sum of their squares, by channel.
    The standard deviation is the biased one; a constant channel becomes 0. The function also writes the vocabulary of
    labels, the most frequent first.
    """
    total = lambda name: tft.sum(inputs[name], reduce_instance_dims=False)
    count = tf.maximum(total("count"), 1)
    mean = total("total") / count
    deviation = tf.sqrt(tf.maximum(total("squares") / count - tf.square(mean), 0))
    tft.vocabulary(inputs["label"], weights=inputs["label_count"], vocab_filename=VOCABULARY)
    scale = tf.cast(tf.math.reciprocal_no_nan(deviation), tf.float32)
    return {"image": (tf.cast(inputs["image"], tf.float32) - tf.cast(mean, tf.float32)) * scale}


def export_image_model(
    transform: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]], spec: tf.TensorSpec, path: str
) -> None:
    """Saves a model of the normalisation that takes only patches, for TensorFlow without tf-transform.

    Args:
        transform: ``{"image": [N, H, W, C]} -> {"image": ...}``, a tracked ``transform_features_layer()``.
        spec: shape and dtype of the raw patches.
        path: folder of the SavedModel; its ``serving_default`` and its ``__call__`` are the same function.
    """
    module = tf.Module()
    module.transform = transform
    module.__call__ = tf.function(lambda image: transform({"image": image})["image"], input_signature=[spec])
    serve = tf.function(lambda image: {"image": transform({"image": image})["image"]}, input_signature=[spec])
    tf.saved_model.save(module, path, signatures=serve)
