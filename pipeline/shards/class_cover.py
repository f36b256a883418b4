"""The share of a patch that each class of a raster covers: the filter on it, and the label that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.config import Bounds, PatchLabel, Raster


def class_shares(patches: Mapping[str, np.ndarray], rasters: Mapping[str, Raster]) -> dict[str, np.ndarray]:
    """Returns ``raster/class`` -> share of the pixels of each patch, ``[N]`` float64 0..1, of all rasters with classes.

    Args:
        patches: name of a raster -> its patches, ``[N, H, W, 1]``.
        rasters: name the classes.
    """
    return {
        f"{name}/{kind}": (patches[name] == value).mean(axis=(1, 2, 3))
        for name, raster in rasters.items()
        for kind, value in raster.classes.items()
    }


def with_any(found: Mapping[str, np.ndarray], rasters: Mapping[str, Raster]) -> dict[str, np.ndarray]:
    """Adds ``raster/any``, the share of all classes of the raster together."""
    classes = {name: raster.classes for name, raster in rasters.items() if raster.classes}
    parts = {name: [found[f"{name}/{kind}"] for kind in kinds] for name, kinds in classes.items()}
    return {**found, **{f"{name}/any": np.sum(shares, axis=0) for name, shares in parts.items()}}


def first_failing(values: Mapping[str, np.ndarray], bounds: Mapping[str, Bounds], count: int) -> list[str | None]:
    """Returns, for each of ``count`` patches, the first name whose value lies outside its bounds; None if none does."""
    verdicts: list[str | None] = [None] * count
    for name, bound in reversed(list(bounds.items())):
        low = -np.inf if bound.min is None else bound.min
        high = np.inf if bound.max is None else bound.max
        for index in np.flatnonzero(~((low <= values[name]) & (values[name] <= high))):
            verdicts[index] = name
    return verdicts


def class_labels(
    found: Mapping[str, np.ndarray], wanted: PatchLabel, classes: Sequence[str], otherwise: str
) -> list[str]:
    """Returns, for each patch, the class that covers most of it, the first of equal ones; ``otherwise`` if too little.

    >>> found = {"mask/a": np.array([0.5, 0.1]), "mask/b": np.array([0.5, 0.2])}
    >>> class_labels(found, PatchLabel(raster="mask", min=0.3), ["a", "b"], "")
    ['a', '']
    """
    table = np.stack([found[f"{wanted.raster}/{name}"] for name in classes])
    most, share = table.argmax(axis=0), table.max(axis=0)
    # A class that is nowhere in the patch is not its label, whatever the minimum.
    return [classes[best] if n >= wanted.min and n > 0 else otherwise for best, n in zip(most, share)]
