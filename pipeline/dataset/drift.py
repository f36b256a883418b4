"""How far the pixels and labels of a split moved from one version to the next.

The statistics of a split become a ``DatasetFeatureStatistics`` of tensorflow_metadata, and two of them are compared as
TensorFlow Data Validation compares them (tensorflow_data_validation/anomalies/metrics.cc), under its names:

- ``infinity_norm``: the largest difference between the shares of any label;
- ``jensen_shannon_divergence``: between histograms, each brought to the bounds of both with counts spread evenly within
  a bin, or between the shares of labels; logarithms to the base 2, so that 1 is the most.

In one thing they differ: missing values (NaN) are a bin of both. There they are a bin of each, so that a dataset in
which half is missing is at a distance of 0.5 from itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from tensorflow_metadata.proto.v0 import statistics_pb2

Feature: TypeAlias = statistics_pb2.FeatureNameStatistics
CHANNEL, LABEL = "channel_", "label"


def to_proto(statistics: Mapping[str, Any], pixels: int) -> statistics_pb2.DatasetFeatureStatistics:
    """The statistics of a split as a proto, with the features ``channel_0`` ... and ``label``, those that it has.

    Args:
        statistics: as in ``statistics.json``.
        pixels: of a patch; those that no channel counts are missing: NaN, or infinite.
    """
    dataset = statistics_pb2.DatasetFeatureStatistics(num_examples=statistics["patches"])
    for number, channel in enumerate(statistics["channels"]):
        if not channel["count"]:
            continue
        feature = dataset.features.add(type=statistics_pb2.FeatureNameStatistics.FLOAT)
        feature.path.step.append(f"{CHANNEL}{number}")
        numbers = feature.num_stats
        numbers.common_stats.num_non_missing = statistics["patches"]
        numbers.mean, numbers.std_dev = channel["mean"], channel["std"]
        numbers.min, numbers.max = channel["min"], channel["max"]
        numbers.median = channel["quantiles"]["0.5"]
        missing = statistics["patches"] * pixels - channel["count"]
        histogram = numbers.histograms.add(type=statistics_pb2.Histogram.STANDARD, num_nan=missing)
        edges = channel["histogram"]["edges"]
        for low, high, count in zip(edges, edges[1:], channel["histogram"]["counts"]):
            histogram.buckets.add(low_value=low, high_value=high, sample_count=count)
    if statistics["labels"]:
        feature = dataset.features.add(type=statistics_pb2.FeatureNameStatistics.STRING)
        feature.path.step.append(LABEL)
        feature.string_stats.common_stats.num_non_missing = statistics["patches"]
        feature.string_stats.unique = len(statistics["labels"])
        for rank, (label, count) in enumerate(statistics["labels"].items()):
            feature.string_stats.rank_histogram.buckets.add(
                low_rank=rank, high_rank=rank, label=label, sample_count=count
            )
    return dataset


def infinity_norm(a: Feature, b: Feature) -> tuple[float, str]:
    """The largest difference between the shares of a value of two string features, and that value."""
    names, p, q = _shares(a, b)
    difference = np.abs(p - q)
    worst = int(difference.argmax())
    return float(difference[worst]), names[worst]


def jensen_shannon_divergence(a: Feature, b: Feature) -> float:
    """Between the histograms of two numeric features, or between the shares of the values of two string features."""
    if a.HasField("string_stats"):
        _, p, q = _shares(a, b)
    else:
        p, q = _aligned(a.num_stats.histograms[0], b.num_stats.histograms[0])
    middle = (p + q) / 2
    return min(1.0, max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2))


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Of Kullback and Leibler, in bits; ``q`` is nowhere 0 where ``p`` is not."""
    seen = p > 0
    return float(np.sum(p[seen] * np.log2(p[seen] / q[seen])))


def _shares(a: Feature, b: Feature) -> tuple[list[str], np.ndarray, np.ndarray]:
    counts = [{bucket.label: bucket.sample_count for bucket in f.string_stats.rank_histogram.buckets} for f in (a, b)]
    names = sorted(counts[0].keys() | counts[1].keys())
    p, q = (np.array([of.get(name, 0.0) for name in names]) for of in counts)
    return names, p / p.sum(), q / q.sum()


def _aligned(a: statistics_pb2.Histogram, b: statistics_pb2.Histogram) -> tuple[np.ndarray, np.ndarray]:
    """The shares of both in bins between all the edges of both, and, last, of missing values."""
    edges = [np.array([h.buckets[0].low_value, *(bucket.high_value for bucket in h.buckets)]) for h in (a, b)]
    every = np.union1d(*edges)
    shares = []
    for histogram, own in zip((a, b), edges):
        reached = np.cumsum([0.0, *(bucket.sample_count for bucket in histogram.buckets)])
        # Spread evenly within a bin, the count up to an edge is the straight line between those at the bin's own.
        counts = np.append(np.diff(np.interp(every, own, reached)), histogram.num_nan)
        shares.append(counts / counts.sum())
    return shares[0], shares[1]
