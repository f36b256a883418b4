"""Cost of scores, augmentation and encoding of the same patches: python benchmarks/augmentation.py [--gpu]

Prints CPU milliseconds per megapixel of 256 x 256 patches of the sample slide, the best of several runs in one thread.
With --gpu, it also times the functions on the first GPU, in wall time, and says whether the results are bit-identical.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tifffile
from PIL import Image

from transforms import pixel_statistics, quality
from transforms.augment import Augmenter, Ranges, draw
from transforms.encoding import encode_patch

SLIDE = pathlib.Path(__file__).parent.parent / "samples/slides/CMU-1-Small-Region.svs"
SIZE = 256
EVERYTHING = Ranges(
    flip=True, quarter_turns=True, rotation=10, blur=1, stain=0.05, brightness=0.1, contrast=0.1, saturation=0.1,
    hue=10, noise=0.02,
)  # fmt: skip
ALONE = {
    "flips and quarter turns": Ranges(flip=True, quarter_turns=True),
    "rotation": Ranges(rotation=10),
    "blur": Ranges(blur=1),
    "stain": Ranges(stain=0.05),
    "brightness, contrast": Ranges(brightness=0.1, contrast=0.1),
    "saturation, hue": Ranges(saturation=0.1, hue=10),
    "noise": Ranges(noise=0.02),
    "all of it": EVERYTHING,
}


def patches(margin: int) -> np.ndarray:
    """Cuts 64 patches that lie side by side, with ``margin`` pixels on every side."""
    slide, step = tifffile.imread(SLIDE), SIZE
    places = [(r, c) for r in range(64, 2700, step) for c in range(64, 1850, step)][:64]
    return np.stack([slide[r - margin : r + SIZE + margin, c - margin : c + SIZE + margin] for r, c in places])


def best(function, clock, tries: int) -> float:
    """Returns the milliseconds of the fastest of ``tries`` calls after a first one."""
    function()
    spent = []
    for _ in range(tries):
        start = clock()
        function()
        spent.append(clock() - start)
    return 1e3 * min(spent)


def augmenting(ranges: Ranges):
    """Returns a function without arguments that changes the 64 patches."""
    augment, rng = Augmenter(ranges, (SIZE, SIZE), 3, "uint8", (0, 255)), np.random.default_rng(0)
    given = patches(augment.margin)
    changes = [draw(ranges, lambda _: rng.random()) for _ in given]
    return functools.partial(augment, given, changes)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--gpu", action="store_true", help="also on the first GPU")
    parser.add_argument("--tries", type=int, default=20)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    given = patches(0)
    megapixels = given.shape[0] * SIZE * SIZE / 1e6
    jpeg = lambda: [encode_patch(patch, "jpeg", 95) for patch in given]
    work = {
        "JPEG 95": jpeg,
        "all scores": lambda: quality.score(given, tissue_threshold=30),
        "moments (for comparison)": lambda: pixel_statistics.measure(given),
        "Pillow's grey value (for comparison)": lambda: [Image.fromarray(patch).convert("L") for patch in given],
    } | {name: augmenting(ranges) for name, ranges in ALONE.items()}
    rounds = {name: [] for name in work}
    for _ in range(3):  # in turn, so that a busy minute of a shared machine does not hit only one of them
        for name, function in work.items():
            rounds[name].append(best(function, time.process_time, max(1, arguments.tries // 3)))
    for name, spent in rounds.items():
        share = min(spent) / min(rounds["JPEG 95"])
        print(f"{name:<38} {min(spent) / megapixels:7.2f} ms/MP   {share:6.0%} of JPEG")
    if arguments.gpu:
        compare_devices(work, megapixels, arguments.tries)


def compare_devices(work: dict, megapixels: float, tries: int) -> None:
    """Prints the time of both devices, including the copies to the GPU and back, and whether their results agree."""
    if not tf.config.list_physical_devices("GPU"):
        raise SystemExit("TensorFlow sees no GPU here")
    for name in ("all scores", *ALONE):
        results, times = [], []
        for device in ("/CPU:0", "/GPU:0"):
            with tf.device(device):
                results.append(np.concatenate([np.ravel(part) for part in work[name]()]))
                times.append(best(work[name], time.perf_counter, tries) / megapixels)
        same = np.array_equal(*results, equal_nan=True)
        print(f"{name:<38} CPU {times[0]:7.2f}  GPU {times[1]:7.2f} ms/MP   {'same bytes' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
