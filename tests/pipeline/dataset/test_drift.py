"""Distances between statistics against SciPy, sums by hand, and what a distance has to be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from pipeline.dataset.drift import features_of, infinity_norm, jensen_shannon_divergence
from transforms import pixel_statistics


def statistics(pixels=None, labels=None):
    """Of a split, as in statistics.json; ``pixels [N, H, W, C]``."""
    channels = pixel_statistics.describe(pixel_statistics.measure(pixels)) if pixels is not None else []
    return {"patches": 7, "labels": labels or {}, "channels": channels}


def features(*args):
    pixels = args[0]
    return features_of(statistics(*args) | {"patches": 1}, 0 if pixels is None else pixels[..., 0].size)


def of_histogram(edges, counts):
    described = {"edges": edges, "counts": counts}
    channel = {"count": sum(counts), "mean": 0, "std": 1, "histogram": described}
    return features_of({"patches": 1, "labels": {}, "channels": [channel]}, sum(counts))["channel_0"]


def test_features_are_what_the_statistics_say():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 2)).astype(np.uint8)
    found = features(pixels, {"b": 4, "a": 3})
    assert list(found) == ["channel_0", "channel_1", "label"]
    channel = found["channel_1"]
    assert (channel.mean, channel.std) == pytest.approx((pixels[..., 1].mean(), pixels[..., 1].std()))
    assert channel.counts.tolist() == np.bincount(pixels[..., 1].ravel(), minlength=256).tolist()
    assert (channel.edges[0], channel.edges[-1], channel.missing) == (0, 256, 0)
    assert found["label"].counts == {"b": 4, "a": 3}


def test_the_divergence_of_pixels_is_that_of_scipy():
    rng = np.random.default_rng(1)
    one, other = (rng.normal(mean, 30, (2, 50, 50, 1)).clip(0, 255).astype(np.uint8) for mean in (100, 120))
    p, q = (np.bincount(pixels.ravel(), minlength=256) for pixels in (one, other))
    found = jensen_shannon_divergence(features(one)["channel_0"], features(other)["channel_0"])
    assert found == pytest.approx(jensenshannon(p, q, base=2) ** 2, rel=1e-9)  # SciPy's distance is the root
    assert found > 0.05


@given(st.data())
def test_unlike_bins_are_spread_evenly(data):
    """Edges that are whole numbers: spread over bins of width one, whatever the edges are, it is the same."""
    histograms = []
    for _ in range(2):
        edges = sorted(data.draw(st.sets(st.integers(-9, 9), min_size=2, max_size=6)))
        counts = data.draw(st.lists(st.integers(0, 30), min_size=len(edges) - 1, max_size=len(edges) - 1))
        histograms.append((edges, [counts[0] + 1, *counts[1:]]))
    fine = []
    for edges, counts in histograms:
        each = np.zeros(18)
        for low, high, count in zip(edges, edges[1:], counts):
            each[low + 9 : high + 9] += count / (high - low)
        fine.append(each)
    found = jensen_shannon_divergence(*(of_histogram(*histogram) for histogram in histograms))
    with np.errstate(invalid="ignore"):  # the root of a rounding error below 0
        assert found == pytest.approx(np.nan_to_num(jensenshannon(*fine, base=2)) ** 2, abs=1e-7)


def test_equal_ones_are_0_apart_and_disjoint_ones_1():
    low, high = of_histogram([0, 1, 2], [3, 1]), of_histogram([5, 6], [9])
    assert jensen_shannon_divergence(low, low) == 0
    assert jensen_shannon_divergence(low, high) == 1


def test_floats_of_other_ranges_are_comparable():
    rng = np.random.default_rng(2)
    one, other = (rng.normal(0, scale, (1, 90, 90, 1)).astype(np.float32) for scale in (1, 1.01))
    near = jensen_shannon_divergence(features(one)["channel_0"], features(other)["channel_0"])
    far = jensen_shannon_divergence(features(one)["channel_0"], features(other * 5 + 20)["channel_0"])
    assert 0 < near < 0.05 < 0.9 < far <= 1


def test_labels_by_hand():
    one, other = features(None, {"cat": 3, "dog": 1})["label"], features(None, {"cat": 5, "cow": 5})["label"]
    assert infinity_norm(one, other) == (0.5, "cow")
    expected = jensenshannon([0.75, 0, 0.25], [0.5, 0.5, 0], base=2) ** 2
    assert jensen_shannon_divergence(one, other) == pytest.approx(expected)


def test_missing_values_are_a_bin_of_both():
    pixels = np.random.default_rng(3).normal(0, 1, (1, 50, 50, 1)).astype(np.float32)
    half = pixels.copy()
    half[:, :25] = np.nan
    one, other = (features(values)["channel_0"] for values in (pixels, half))
    assert other.missing == 25 * 50
    assert jensen_shannon_divergence(other, other) == 0
    expected = jensenshannon([1, 0], [0.5, 0.5], base=2) ** 2  # if the values themselves were alike
    assert jensen_shannon_divergence(one, other) == pytest.approx(expected, abs=0.05)


def test_one_pixel_beside_a_value_that_many_have_moves_nothing():
    pixels = np.random.default_rng(4).normal(1000, 50, (1, 200, 200, 1)).astype(np.float32)
    pixels[:, :100] = 0
    other = pixels.copy()
    other[0, 150, 150] = 400
    assert jensen_shannon_divergence(*(features(values)["channel_0"] for values in (pixels, other))) < 0.01


def test_a_channel_without_pixels_has_no_feature():
    nothing = np.full((1, 2, 2, 1), np.nan, np.float32)
    assert features(nothing) == {}
