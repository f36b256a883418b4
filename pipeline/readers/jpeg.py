"""JPEG: header by Pillow, pixels by TensorFlow, whose decoder reports a file that ends early."""

from __future__ import annotations

import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image

from pipeline.elements import Unreadable
from pipeline.readers import orientation
from pipeline.readers.whole import WholeReader

_CHANNELS = {"L": 1, "RGB": 3}


def open_reader(file: BinaryIO, level: int) -> WholeReader:
    """See :func:`pipeline.readers.open_image`; grey and colour JPEG with 8 bits."""
    if level:
        raise Unreadable("no_such_level", f"a JPEG has level 0 only, asked for {level}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit of whole images is our own
            header = Image.open(file, formats=["JPEG", "MPO"])
    except Image.DecompressionBombError as error:
        raise Unreadable("too_large", f"{error}; convert it to a tiled TIFF") from error
    except Exception as error:  # Pillow raises SyntaxError, ValueError, struct.error ... on broken headers
        raise Unreadable("corrupt_header", f"not a JPEG header: {error}") from error
    if header.mode not in _CHANNELS:
        raise Unreadable("unsupported_mode", f"a {header.mode} JPEG; grey and RGB are read")
    turned = orientation.valid(header.getexif().get(orientation.TAG))
    return WholeReader(file, header.height, header.width, _CHANNELS[header.mode], "uint8", turned, _decode)


def _decode(data: bytes) -> np.ndarray:
    import tensorflow as tf

    # The accurate transform is bit-identical to libjpeg's default; TensorFlow's own default is not.
    pixels = tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE")
    return np.asarray(memoryview(pixels))
