"""Speed of cutting and stitching on one core, and on a GPU where there is one: python benchmarks/cutting.py

Prints gigabytes of patch pixels (for stitching: of image pixels) per second, the best of seven, next to a plain copy of
the image, which shows the bandwidth of the memory. With a GPU, every result is also compared bit by bit with that of
the CPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from transforms.grid import Box, Cells, Grid
from transforms.patches import make_cutter, plan_window
from transforms.stitch import _mosaic, plan_stitch
from transforms.weigh import weigh

SIZE = (256, 256)
# A window of 16 MiB, which a build cuts at a time.
SHAPE = (2304, 2304, 3)


def best(work: Callable[[], object]) -> float:
    """Returns the seconds of the fastest of seven runs, after a first one that traces."""
    work()
    times = []
    for _ in range(7):
        start = time.perf_counter()
        np.asarray(work())  # waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times)


def cases(image: np.ndarray) -> dict[str, tuple[Callable[[], tf.Tensor], int]]:
    """Maps the name of each case to the measured function and the number of bytes that count."""
    found: dict[str, tuple[Callable[[], tf.Tensor], int]] = {}
    channels, dtype = image.shape[2], image.dtype.name
    for name, stride, edge, dilation in [
        ("side by side", SIZE, "drop", (1, 1)),
        ("side by side, padded", SIZE, "pad", (1, 1)),
        ("overlapping by half", (128, 128), "shift", (1, 1)),
        ("dilated by 2", (512, 512), "drop", (2, 2)),
    ]:
        shape = image.shape[:2] if edge != "pad" else (image.shape[0] - 9, image.shape[1] - 9)
        grid = Grid.of(shape, SIZE, stride, edge, dilation)
        plan = plan_window(grid, Cells(0, grid.rows.count, 0, grid.cols.count), "reflect")
        window = tf.constant(image[: plan.source.height, : plan.source.width])
        vectors = [tf.constant(part) for part in plan[1:5]]
        size = grid.count * SIZE[0] * SIZE[1] * channels * image.dtype.itemsize
        cutter = make_cutter(SIZE, channels, dtype, dilation=dilation)
        found[f"cut {dtype}, {name}"] = (lambda c=cutter, w=window, v=vectors: c(w, *v), size)
    for blend in ("crop", "average", "hann"):
        grid = Grid.of(image.shape[:2], SIZE, (128, 128), "shift")
        patches = np.zeros((grid.count, *SIZE, channels), image.dtype)
        stitching = plan_stitch(grid, Box(0, 0, *image.shape[:2]), blend)
        mosaic = tf.constant(_mosaic(patches, stitching.cells))
        found[f"stitch {dtype}, overlapping by half, {blend}"] = (
            lambda m=mosaic, s=stitching: weigh(m, s.rows, s.cols),
            image.nbytes,
        )
    return found


def main() -> None:
    """Prints a line for each case and device."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    devices = ["/CPU:0", *(["/GPU:0"] if tf.config.list_physical_devices("GPU") else [])]
    for dtype in ("uint8", "uint16", "float32"):
        image = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8).astype(dtype)
        copied = best(lambda pixels=image: pixels.copy())
        print(f"{'a plain copy, ' + dtype:<52} {image.nbytes / copied / 1e9:7.2f} GB/s")
        results: dict[str, np.ndarray] = {}
        for device in devices:
            with tf.device(device):
                for name, (work, size) in cases(image).items():
                    seconds = best(work)
                    known = results.setdefault(name, np.asarray(work()))
                    same = "" if device == devices[0] else f", same: {np.array_equal(known, np.asarray(work()))}"
                    share = size / seconds / (image.nbytes / copied)
                    print(f"{name:<52} {size / seconds / 1e9:7.2f} GB/s  {share:5.0%} of a copy  {device}{same}")


if __name__ == "__main__":
    main()
