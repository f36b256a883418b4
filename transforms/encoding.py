"""Patches encoded as PNG, JPEG or raw bytes, and decoded again.

======== ============================= ============== ====================================================
encoding channels and dtypes           exact          bytes
======== ============================= ============== ====================================================
png      1-4, uint8 or uint16          yes            a PNG file
jpeg     1 or 3, uint8                 no             a JPEG file of the given quality, 4:2:0
raw      any                           yes            the values only, in C order, little-endian
======== ============================= ============== ====================================================
"""

from __future__ import annotations

from typing import Literal

import imagecodecs
import numpy as np

Encoding = Literal["png", "jpeg", "raw"]

# On photographs and slides, the "up" filter with run-length matching is about twice as fast as zlib's level 1 with
# its defaults, at the same size (benchmarks/codecs.py).
_PNG = {"level": 1, "strategy": 3, "filter": 32}


def encode_patch(patch: np.ndarray, encoding: Encoding, quality: int = 95) -> bytes:
    """Encodes ``patch [H, W, C]``; ``quality`` (1..100) is for JPEG only.

    Raises:
        ValueError: for a number of channels or a dtype that the encoding cannot hold.
    """
    if encoding == "raw":
        return np.ascontiguousarray(patch, patch.dtype.newbyteorder("<")).tobytes()
    if encoding == "jpeg" and (patch.dtype != np.uint8 or patch.shape[-1] not in (1, 3)):
        raise ValueError(f"jpeg holds 1 or 3 channels of uint8, not {patch.shape[-1]} of {patch.dtype}")
    patch = np.ascontiguousarray(patch[..., 0] if patch.shape[-1] == 1 else patch, patch.dtype.newbyteorder("="))
    if encoding == "png":
        return bytes(imagecodecs.png_encode(patch, **_PNG))
    return bytes(imagecodecs.jpeg8_encode(patch, level=quality))


def decode_patch(data: bytes, encoding: Encoding, shape: tuple[int, int, int], dtype: str) -> np.ndarray:
    """Decodes ``data`` to a patch ``[H, W, C]`` of ``dtype``, which may be read-only.

    Raises:
        ValueError: if the bytes do not hold a patch of this shape and dtype.
    """
    # libjpeg would fill the missing end of a truncated picture with grey.
    if encoding == "jpeg" and not data.endswith(b"\xff\xd9"):
        raise ValueError("the jpeg bytes of the patch do not decode: they end early")
    try:
        if encoding == "raw":
            return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)
        patch = imagecodecs.png_decode(data) if encoding == "png" else imagecodecs.jpeg8_decode(data)
    except Exception as error:  # each codec has its own exceptions
        raise ValueError(f"the {encoding} bytes of the patch do not decode: {error}") from error
    patch = patch[..., None] if patch.ndim == 2 else patch
    if patch.shape != tuple(shape) or patch.dtype != dtype:
        raise ValueError(f"the {encoding} patch is {patch.shape} {patch.dtype}, expected {tuple(shape)} {dtype}")
    return patch
