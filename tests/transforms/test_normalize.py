"""The formula of the normalisation, without Beam; tests of the pipeline run the analysis itself."""

import numpy as np
import pytest
import tensorflow as tf

from transforms import normalize

PATCHES = np.random.default_rng(0).integers(0, 65535, (5, 4, 3, 2)).astype(np.uint16)


@pytest.fixture
def analyzers(monkeypatch):
    """Replaces tf-transform's analyzers by what they mean over a dataset of one batch."""
    vocabularies = {}

    def vocabulary(labels, weights, vocab_filename):
        vocabularies[vocab_filename] = (labels, weights)

    monkeypatch.setattr(normalize.tft, "sum", lambda x, reduce_instance_dims: tf.reduce_sum(x, axis=0))
    monkeypatch.setattr(normalize.tft, "vocabulary", vocabulary)
    return vocabularies


def columns(patches, shards):
    """The rows of the analysis: counts, sums and sums of squares of each shard."""
    parts = [part.reshape(-1, part.shape[-1]).astype(np.float64) for part in np.array_split(patches, shards)]
    return {
        "count": tf.constant([[len(part)] * part.shape[-1] for part in parts], tf.float64),
        "total": tf.constant([part.sum(axis=0) for part in parts], tf.float64),
        "squares": tf.constant([np.square(part).sum(axis=0) for part in parts], tf.float64),
        "label": tf.constant(["a", "b"]),
        "label_count": tf.constant([2.0, 3.0]),
        "image": tf.constant(patches),
    }


def test_specs_name_the_columns_of_the_analysis_and_the_raw_patches():
    column = tf.TensorSpec([None, 3], tf.float64)

    assert normalize.input_specs((256, 128), 3, "uint16") == {
        "count": column,
        "total": column,
        "squares": column,
        "label": tf.TensorSpec([None], tf.string),
        "label_count": tf.TensorSpec([None], tf.float32),
        "image": tf.TensorSpec([None, 256, 128, 3], tf.uint16),
    }


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_normalised_patches_are_those_of_numpy(analyzers, dtype):
    patches = (PATCHES % 251).astype(dtype)
    mean, std = (f(patches.astype(np.float64), axis=(0, 1, 2)) for f in (np.mean, np.std))
    image = normalize.preprocess(columns(patches, shards=3))["image"].numpy()

    assert image.dtype == np.float32
    np.testing.assert_allclose(image, (patches - mean) / std, atol=1e-5)


def test_a_constant_channel_becomes_zero(analyzers):
    patches = PATCHES.copy()
    patches[..., 1] = 65535
    image = normalize.preprocess(columns(patches, shards=2))["image"].numpy()

    assert (image[..., 1] == 0).all()
    assert image[..., 0].std() == pytest.approx(1, abs=1e-5)


def test_labels_go_into_the_vocabulary_with_their_counts(analyzers):
    normalize.preprocess(columns(PATCHES, shards=1))
    (labels, weights) = analyzers.pop("labels")

    assert (labels.numpy().tolist(), weights.numpy().tolist(), analyzers) == ([b"a", b"b"], [2, 3], {})


class _MinusSeven(tf.Module):
    """Stands in for tf-transform's layer: holds state, takes and gives a dictionary."""

    def __init__(self):
        super().__init__()
        self.mean = tf.Variable(7.0)

    def __call__(self, inputs):
        return {"image": tf.cast(inputs["image"], tf.float32) - self.mean}


def test_the_exported_model_takes_patches_and_nothing_else(tmp_path):
    spec = normalize.input_specs((4, 3), 2, "uint16")["image"]
    normalize.export_image_model(_MinusSeven(), spec, str(tmp_path))
    model = tf.saved_model.load(str(tmp_path))
    expected = PATCHES.astype(np.float32) - 7

    np.testing.assert_array_equal(model(PATCHES), expected)
    served = model.signatures["serving_default"](image=tf.constant(PATCHES))
    assert list(served) == ["image"]
    np.testing.assert_array_equal(served["image"], expected)
