"""JPEG: header by Pillow, pixels by TensorFlow, whose decoder reports a file that ends early."""

from __future__ import annotations

from typing import BinaryIO, cast

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.elements import Unreadable
from pipeline.readers import ImageFile, orientation
from pipeline.readers.whole import WholeReader

_CHANNELS = {"L": 1, "RGB": 3}


def open_reader(file: ImageFile, level: int) -> WholeReader:
    """See :func:`pipeline.readers.open_image`; grey and colour JPEG with 8 bits."""
    if level:
        raise Unreadable("no_such_level", f"a JPEG has level 0 only, asked for {level}")
    header = JpegImageFile(cast(BinaryIO, file))  # not through Image.open, which has a limit of its own
    if header.mode not in _CHANNELS:
        raise Unreadable("unsupported_mode", f"a {header.mode} JPEG; grey and RGB are read")
    turned = orientation.valid(header.getexif().get(orientation.TAG))
    return WholeReader(file, header.height, header.width, _CHANNELS[header.mode], "uint8", turned, _decode)


def _decode(data: bytes) -> np.ndarray:
    import tensorflow as tf

    # The accurate transform is bit-identical to libjpeg's default; TensorFlow's own default is not.
    pixels = tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE")
    return np.asarray(memoryview(pixels))
