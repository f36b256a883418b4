"""Measures how far the pixels and labels of a split moved from one version to the next.

The distances and their names come from TensorFlow Data Validation (tensorflow_data_validation/anomalies/metrics.cc):

- ``infinity_norm``: the largest difference between the shares of any label;
- ``jensen_shannon_divergence``: between histograms, each brought to the bounds of both with counts spread evenly within
  a bin, or between the shares of labels; logarithms to the base 2, so that 1 is the most.

One thing differs: missing values (NaN) are one bin of both histograms here. There they are a bin of each, so that a
dataset in which half is missing is at a distance of 0.5 from itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Channel(NamedTuple):
    """The pixels of a channel.

    Attributes:
        mean, std: mean and standard deviation of its values.
        edges: ``[bins + 1]``.
        counts: ``[bins]``: values in each bin.
        missing: values that are NaN or infinite.
    """

    mean: float
    std: float
    edges: np.ndarray
    counts: np.ndarray
    missing: int


class Labels(NamedTuple):
    """The labels of a split: label -> patches."""

    counts: Mapping[str, int]


def features_of(statistics: Mapping[str, Any], pixels: int) -> dict[str, Channel | Labels]:
    """Returns the statistics of a split as ``channel_0`` ... and ``label``, as far as it has them.

    Args:
        statistics: as in ``statistics.json``.
        pixels: pixels of a patch; those that a channel does not count are missing.
    """
    found: dict[str, Channel | Labels] = {}
    for number, channel in enumerate(statistics["channels"]):
        if channel["count"]:
            edges, counts = (np.asarray(channel["histogram"][name], np.float64) for name in ("edges", "counts"))
            missing = statistics["patches"] * pixels - channel["count"]
            found[f"channel_{number}"] = Channel(channel["mean"], channel["std"], edges, counts, missing)
    if statistics["labels"]:
        found["label"] = Labels(statistics["labels"])
    return found


def infinity_norm(a: Labels, b: Labels) -> tuple[float, str]:
    """Returns the largest difference between the shares of a label, and that label."""
    names, p, q = _shares(a, b)
    difference = np.abs(p - q)
    worst = int(difference.argmax())
    return float(difference[worst]), names[worst]


def jensen_shannon_divergence(a: Channel | Labels, b: Channel | Labels) -> float:
    """Returns the Jensen-Shannon divergence in bits, between two histograms or between the shares of labels."""
    if isinstance(a, Labels) and isinstance(b, Labels):
        _, p, q = _shares(a, b)
    elif isinstance(a, Channel) and isinstance(b, Channel):
        p, q = _aligned(a, b)
    else:
        raise TypeError("pixels and labels have no distance")
    middle = (p + q) / 2
    return min(1.0, max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2))


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Returns the Kullback-Leibler divergence in bits; ``q`` is nowhere 0 where ``p`` is not."""
    seen = p > 0
    return float(np.sum(p[seen] * np.log2(p[seen] / q[seen])))


def _shares(a: Labels, b: Labels) -> tuple[list[str], np.ndarray, np.ndarray]:
    names = sorted(a.counts.keys() | b.counts.keys())
    p, q = (np.array([of.counts.get(name, 0) for name in names], np.float64) for of in (a, b))
    return names, p / p.sum(), q / q.sum()


def _aligned(a: Channel, b: Channel) -> tuple[np.ndarray, np.ndarray]:
    """Returns the shares of both in the bins between all edges of both and, last, their shares of missing values."""
    every = np.union1d(a.edges, b.edges)
    shares = []
    for channel in (a, b):
        reached = np.cumsum([0.0, *channel.counts])
        # Counts are spread evenly within a bin, so the count up to an edge is linear between the bin's own edges.
        counts = np.append(np.diff(np.interp(every, channel.edges, reached)), channel.missing)
        shares.append(counts / counts.sum())
    return shares[0], shares[1]
