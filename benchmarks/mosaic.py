"""Makes a large tiled TIFF from the sample images, tile by tile: python benchmarks/mosaic.py OUT.tif 20000"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

import imagecodecs
import numpy as np
import tifffile

SAMPLES = pathlib.Path(__file__).parent.parent / "samples"


def pictures() -> np.ndarray:
    """Returns the large photographs and the slide, cropped to one height, side by side: ``[2048, W, 3]`` uint8."""
    photographs = [imagecodecs.jpeg8_decode(path.read_bytes()) for path in sorted(SAMPLES.glob("photos/*.jpg"))]
    slides = [tifffile.imread(path) for path in sorted(SAMPLES.glob("slides/*.svs"))]
    return np.concatenate([p[:2048] for p in photographs + slides if p.shape[0] >= 2048], axis=1)


def tiles(side: int, tile: int) -> Iterator[np.ndarray]:
    """Yields the tiles of a ``side`` x ``side`` picture, row by row: the sample images, shifted between rows."""
    source = pictures()
    height, width = source.shape[:2]
    for row in range(0, side, tile):
        for col in range(0, side, tile):
            down = row % (height - tile)
            across = (col + 997 * (row // height)) % (width - tile)
            yield source[down : down + tile, across : across + tile]


def write_mosaic(path: str, side: int, tile: int = 256, quality: int = 90) -> None:
    """Writes a BigTIFF of ``side`` x ``side`` RGB pixels in JPEG tiles."""
    tifffile.imwrite(
        path,
        tiles(side, tile),
        shape=(side, side, 3),
        dtype=np.uint8,
        tile=(tile, tile),
        photometric="ycbcr",
        compression="jpeg",
        compressionargs={"level": quality},
        bigtiff=True,
        maxworkers=2,
    )


if __name__ == "__main__":
    write_mosaic(sys.argv[1], int(sys.argv[2]))
