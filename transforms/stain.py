"""Colours of H&E sections as amounts of stain: jitter in HED space and Macenko's normalisation.

Light that passes a stain is weakened exponentially, so that amounts of stain add up in *optical density*, here
``-ln((value + 1) / 256)`` of a uint8 value, 0..5.55 (Beer and Lambert). On densities, both methods are a 3 x 4 matrix,
``density' = matrix[:, :3] @ density + matrix[:, 3]``, and so is their composition. :mod:`transforms.augment` applies
the matrix through tables, with the same result on every machine.
"""

from __future__ import annotations

import numpy as np

# Red, green and blue densities of haematoxylin, eosin and DAB: Ruifrok and Johnston (2001), table 1.
_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# Haematoxylin and eosin of the reference picture, and their 99 % concentrations: the values of the code that Macenko et
# al. published with "A method for normalizing histology slides for quantitative analysis", 2009.
_REFERENCE = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
_REFERENCE_CONCENTRATIONS = np.array([1.9705, 1.0308])
# Densities below this one in any channel are background, and angles beyond this percentile are noise (ibid.).
_MIN_DENSITY = 0.15
_PERCENTILE = 1
_MIN_PIXELS = 100


def density(values: np.ndarray) -> np.ndarray:
    """Returns the optical density, float64, of uint8 values of any shape.

    >>> density(np.array([255, 0], np.uint8)).round(3).tolist()
    [0.0, 5.545]
    """
    return -np.log((values.astype(np.float64) + 1) / 256) + 0.0


def hed_jitter(factors: tuple[float, float, float], shifts: tuple[float, float, float]) -> np.ndarray:
    """Returns the matrix ``[3, 4]`` that multiplies the amounts of haematoxylin, eosin and DAB, then adds to them.

    See Tellez et al. (2018), "Whole-slide mitosis detection in H&E breast histology", equation 1.
    """
    return np.column_stack([_HED.T @ np.diag(factors) @ np.linalg.inv(_HED.T), _HED.T @ np.asarray(shifts)])


def macenko(pixels: np.ndarray) -> np.ndarray:
    """Returns the matrix ``[3, 4]`` that gives a picture the stains of the reference.

    Args:
        pixels: ``[N, 3]`` uint8 RGB, a sample of the picture.

    Raises:
        ValueError: if the pixels hold too little stained tissue to see two stains.
    """
    stained = density(pixels)
    stained = stained[(stained >= _MIN_DENSITY).all(axis=1)]
    if len(stained) < _MIN_PIXELS:
        raise ValueError(f"{len(stained)} of {len(pixels)} pixels are stained, {_MIN_PIXELS} are needed")
    stains = _stain_vectors(stained)
    concentrations = np.linalg.pinv(stains) @ stained.T
    highest = np.percentile(concentrations, 99, axis=1)
    if (highest <= 0).any():
        raise ValueError("the colours are not those of two stains")
    scaled = _REFERENCE @ np.diag(_REFERENCE_CONCENTRATIONS / highest) @ np.linalg.pinv(stains)
    return np.column_stack([scaled, np.zeros(3)])


def _stain_vectors(stained: np.ndarray) -> np.ndarray:
    """Returns the directions of haematoxylin and eosin, ``[3, 2]``: the extremes in the main plane of the densities."""
    _, vectors = np.linalg.eigh(np.cov(stained.T))
    plane = vectors[:, 1:]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)  # the sign of an eigenvector is arbitrary
    angles = np.arctan2(*(stained @ plane).T[::-1])
    ends = np.percentile(angles, (_PERCENTILE, 100 - _PERCENTILE))
    found = plane @ np.array([np.cos(ends), np.sin(ends)])
    result: np.ndarray = (
        found if found[0, 0] > found[0, 1] else found[:, ::-1]
    )  # haematoxylin is the one with more red density
    return result


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the matrix ``[3, 4]`` that applies ``first`` and then ``second``."""
    return np.column_stack([second[:, :3] @ first[:, :3], second[:, :3] @ first[:, 3] + second[:, 3]])
