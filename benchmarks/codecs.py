"""Speed and size of patch encoders on the sample images: python benchmarks/codecs.py

Prints megapixels per second in one thread and bytes per pixel; patchbeam's own settings come first for each format.
"""

from __future__ import annotations

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import imagecodecs
import numpy as np
import tensorflow as tf
import tifffile

from transforms.encoding import encode_patch

SAMPLES = pathlib.Path(__file__).parent.parent / "samples"


def patches(picture: np.ndarray, count: int = 24) -> list[np.ndarray]:
    """Cuts patches of 256 x 256, spread over the picture."""
    places = [(r, c) for r in range(0, picture.shape[0] - 255, 256) for c in range(0, picture.shape[1] - 255, 256)]
    chosen = places[:: max(1, len(places) // count)][:count]
    return [np.ascontiguousarray(picture[r : r + 256, c : c + 256]) for r, c in chosen]


ENCODERS = {
    "png, as patchbeam does": lambda p: encode_patch(p, "png"),
    "png level 1": lambda p: imagecodecs.png_encode(p, level=1),
    "png level 1, run-length, sub filter": lambda p: imagecodecs.png_encode(p, level=1, strategy=3, filter=16),
    "png level 6": lambda p: imagecodecs.png_encode(p, level=6),
    "png, TensorFlow's default": lambda p: tf.io.encode_png(p).numpy(),
    "jpeg 95, as patchbeam does": lambda p: encode_patch(p, "jpeg", 95),
    "jpeg 95, TensorFlow": lambda p: tf.io.encode_jpeg(p, quality=95).numpy(),
}


def main() -> None:
    pictures = {
        "photograph": imagecodecs.jpeg8_decode((SAMPLES / "photos/friends_by_Aitzol_Berasategi.jpg").read_bytes()),
        "slide": tifffile.imread(SAMPLES / "slides/CMU-1-Small-Region.svs"),
    }
    for title, picture in pictures.items():
        cut = patches(picture)
        pixels = len(cut) * 256 * 256
        for name, encode in ENCODERS.items():
            best = float("inf")
            for _ in range(3):
                start = time.perf_counter()
                size = sum(len(encode(patch)) for patch in cut)
                best = min(best, time.perf_counter() - start)
            print(f"{title:<11} {name:<36} {pixels / 1e6 / best:6.1f} MP/s  {size / pixels:.2f} bytes per pixel")


if __name__ == "__main__":
    main()
