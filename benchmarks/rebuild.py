"""Cost of a rebuild relative to a build from nothing, by the share of images that changed.

    python benchmarks/rebuild.py small [--images 10000] [--changed 0 1 10 100]
    python benchmarks/rebuild.py slides [--images 100] [--changed 0 1 10 100]

``small`` are JPEG photographs of 512 x 512, cut into patches of 256 x 256; ``slides`` are tiled TIFFs of 4,096 x 4,096
with JPEG tiles. Every build is ``patchbeam build`` as a user runs it: "command" includes the start-up of Beam and
TensorFlow and the analysis with tf-transform; "build" is the seconds in the manifest, without the start-up. A changed
image is another picture under the same name. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import imagecodecs
import numpy as np
import tifffile
from mosaic import pictures

REPO = pathlib.Path(__file__).parent.parent
SIDE, TILE = {"small": 512, "slides": 4096}, 256


class Pictures:
    """Writes images of one kind from a mosaic of the samples; number and turn determine the picture."""

    def __init__(self, kind: str, folder: pathlib.Path):
        self._kind, self._folder, self._source = kind, folder, pictures()
        starts = [(row, col) for row in range(0, 2048, TILE) for col in range(0, 2048, TILE)]
        tiles = (self._source[row : row + TILE, col : col + TILE] for row, col in starts)
        self._tiles = [imagecodecs.jpeg_encode(tile, level=85, subsampling="420") for tile in tiles]
        folder.mkdir()

    def write(self, number: int, turn: int) -> None:
        """Writes or replaces an image."""
        rng = np.random.default_rng([number, turn])
        side = SIDE[self._kind]
        if self._kind == "small":
            row, col = (rng.integers(0, length - side) for length in self._source.shape[:2])
            data = imagecodecs.jpeg_encode(self._source[row : row + side, col : col + side], level=90)
            (self._folder / f"{number:05d}.jpg").write_bytes(data)
            return
        tiles = (self._tiles[i] for i in rng.integers(0, len(self._tiles), (side // TILE) ** 2))
        how = {"tile": (TILE, TILE), "photometric": "ycbcr", "subsampling": (2, 2), "compression": "jpeg"}
        path = self._folder / f"{number:05d}.tif"
        tifffile.imwrite(path, tiles, shape=(side, side, 3), dtype="uint8", **how)


def build(config: pathlib.Path, *arguments: str) -> tuple[float, dict]:
    """Runs a build and returns its wall seconds and the manifest of the version that is published then."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "patchbeam", "build", str(config), *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    wall, out = time.perf_counter() - start, pathlib.Path(json.loads(config.read_text())["output"]["path"])
    version = (out / "LATEST").read_text().strip()
    return wall, json.loads((out / "versions" / version / "manifest.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(SIDE))
    parser.add_argument("--images", type=int)
    parser.add_argument("--changed", type=float, nargs="+", default=[0, 1, 10, 100], help="per cent")
    parser.add_argument("--shard-size", default="64MB")
    arguments = parser.parse_args()
    images = arguments.images or {"small": 10_000, "slides": 100}[arguments.kind]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        images_of = Pictures(arguments.kind, folder / "images")
        for number in range(images):
            images_of.write(number, 0)
        config = folder / "config.json"
        values = {
            "input": {"images": [f"{folder}/images/*"]},
            "output": {"path": f"{folder}/out", "encoding": "jpeg", "shard_size": arguments.shard_size},
            "splits": {"train": 0.9, "test": 0.1},
        }
        config.write_text(json.dumps(values))
        full, first = build(config)
        shards = sum(split["shards"] for split in first["splits"].values())
        print(
            f"{images:,} images, {first['accounts']['written']:,} patches, {shards} shards; "
            f"from nothing {full:.1f} s, of it build {first['seconds']:.1f} s\n"
        )
        print(
            "| changed | command | of from nothing | build | of from nothing | images opened | megapixels decoded | "
            "records copied | records cut | shards taken over |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
        )
        for turn, percent in enumerate(arguments.changed, 1):
            for number in range(round(images * percent / 100)):
                images_of.write((number * 97 + turn) % images if percent < 100 else number, turn)
            wall, manifest = build(config)
            counters = manifest["counters"] if percent else {"shards_taken_over": shards}
            seconds = manifest["seconds"] if percent else 0.0
            copied = counters.get("records_copied", 0)
            cut = counters.get("patches_written", 0) - copied
            cells = [
                f"{percent:g} %",
                f"{wall:.1f} s",
                f"{wall / full:.1%}",
                f"{seconds:.1f} s",
                f"{seconds / first['seconds']:.1%}",
                f"{counters.get('images_opened', 0):,}",
                f"{counters.get('pixels_decoded', 0) / 1e6:,.1f}",
                f"{copied:,}",
                f"{cut:,}",
                f"{counters.get('shards_taken_over', 0)} of {shards}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
