"""Conversion of pixels between colours and types: arithmetic on NumPy arrays whose last axis holds the channels."""

from __future__ import annotations

import numpy as np

# Weights of red, green and blue in the luma of ITU-R BT.601, which Pillow and libjpeg use for grey.
LUMA = (0.299, 0.587, 0.114)
# Number of channels that carry the colour; later channels are alpha or have a meaning of their own.
COLOUR_CHANNELS = {"gray": 1, "rgb": 3, "cmyk": 4}


def luma_weights(bits: int) -> tuple[int, int, int]:
    """Returns the weights of the luma as integers that add up to ``2 ** bits``.

    >>> luma_weights(16), luma_weights(8)
    ((19595, 38470, 7471), (77, 150, 29))
    """
    red, green, blue = (round(weight * (1 << bits)) for weight in LUMA)
    return red, green, blue


def to_rgb(pixels: np.ndarray, colour: str, limit: int = 0) -> np.ndarray:
    """Converts ``[..., C]`` of a colour to RGB ``[..., 3]`` of the same type; alpha is left out, not blended.

    Grey is repeated. Each channel of CMYK becomes ``(limit - ink) * (limit - black) / limit``, rounded: the plain
    formula, without a colour profile.

    Args:
        pixels: any type; an unsigned one for CMYK.
        colour: ``gray``, ``rgb`` or ``cmyk``.
        limit: the largest value, for CMYK.

    >>> to_rgb(np.array([[200, 7]], np.uint8), "gray").tolist()
    [[200, 200, 200]]
    >>> to_rgb(np.array([[0, 255, 51, 0]], np.uint8), "cmyk", 255).tolist()
    [[255, 0, 204]]
    """
    if colour == "gray":
        return np.repeat(pixels[..., :1], 3, axis=-1)
    if colour == "rgb":
        return pixels[..., :3]
    light = limit - np.minimum(pixels[..., :4], limit).astype(np.uint32)
    found: np.ndarray = ((light[..., :3] * light[..., 3:] + limit // 2) // limit).astype(pixels.dtype)
    return found


def to_gray(pixels: np.ndarray, colour: str, limit: int = 0) -> np.ndarray:
    """Converts ``[..., C]`` of a colour to grey ``[..., 1]`` of the same type: luma of ITU-R BT.601, integers rounded.

    >>> to_gray(np.array([[255, 0, 0], [255, 255, 255]], np.uint8), "rgb").tolist()
    [[76], [255]]
    """
    if colour == "gray":
        return pixels[..., :1]
    rgb = to_rgb(pixels, colour, limit)
    if rgb.dtype.kind == "u" and rgb.dtype.itemsize <= 2:
        luma = (
            rgb.astype(np.uint32) @ np.array(luma_weights(16), np.uint32)[:, None]
        )  # 65535 * 65536 + 0x8000 still fits
        return ((luma + 0x8000) >> 16).astype(rgb.dtype)
    exact = rgb.astype(np.float64) @ np.array(luma_weights(16))[:, None] / 65536
    found: np.ndarray = (np.rint(exact) if rgb.dtype.kind in "iu" else exact).astype(rgb.dtype)
    return found


def holds(dtype: str, other: str) -> bool:
    """Says whether ``dtype`` can hold every value of ``other``.

    >>> holds("float32", "int16"), holds("uint16", "int16"), holds("float32", "int32")
    (True, False, False)
    """
    return np.can_cast(other, dtype, "safe")


def scaled(pixels: np.ndarray, limit: int, dtype: str) -> np.ndarray:
    """Scales unsigned integers ``0 .. limit`` to the full range of an unsigned type, rounded, or to 0 .. 1 of float32.

    >>> scaled(np.array([0, 7, 255], np.uint8), 255, "uint16").tolist()
    [0, 1799, 65535]
    >>> scaled(np.array([0, 2048, 4095], np.uint16), 4095, "uint8").tolist()
    [0, 128, 255]
    """
    pixels = np.minimum(pixels, limit)
    if np.dtype(dtype).kind == "f":
        return (pixels / np.float64(limit)).astype(dtype)
    target = int(np.iinfo(dtype).max)
    return ((pixels.astype(np.uint64) * (2 * target) + limit) // (2 * limit)).astype(dtype)


def clipped(pixels: np.ndarray, dtype: str) -> np.ndarray:
    """Converts pixels to the nearest values of a type; for integers they are rounded and clipped, and NaN becomes 0.

    >>> clipped(np.array([-3.2, 1.5, 2.5, 300, np.nan]), "uint8").tolist()
    [0, 2, 2, 255, 0]
    """
    if np.dtype(dtype).kind == "f":
        return pixels.astype(dtype)
    if pixels.dtype.kind == "f":
        pixels = np.rint(np.nan_to_num(pixels, nan=0, posinf=None, neginf=None))
    info = np.iinfo(dtype)
    found: np.ndarray = np.clip(pixels, info.min, info.max).astype(dtype)
    return found
