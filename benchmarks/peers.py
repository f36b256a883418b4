"""Compares other libraries for cutting patches on ten awkward images: python benchmarks/peers.py

Prints a table: the number of patches, the share of the pixels that lie in a patch, and the result of the inverse: the
image (yes), its values in another dtype, something else (no), or none where there is no inverse. patchify and empatches
need an older NumPy:

    python -m venv peers && peers/bin/pip install "patchify==0.2.3" "empatches==0.2.3" "numpy<2"
    peers/bin/python benchmarks/peers.py patchify empatches
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


class Case(NamedTuple):
    """An image and how it is to be cut."""

    name: str
    shape: tuple[int, int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    dtype: str = "uint8"


CASES = [
    Case("exact multiples", (10, 15, 3), (5, 5), (5, 5)),
    Case("primes", (11, 13, 3), (5, 5), (5, 5)),
    Case("primes, overlapping", (11, 13, 3), (5, 5), (3, 3)),
    Case("smaller than a patch", (3, 4, 3), (5, 5), (5, 5)),
    Case("one pixel", (1, 1, 3), (5, 5), (5, 5)),
    Case("stride beyond the size", (20, 20, 3), (3, 3), (7, 7)),
    Case("unlike axes", (11, 13, 3), (3, 7), (2, 5)),
    Case("one channel", (11, 13, 1), (5, 5), (5, 5)),
    Case("six channels of 16 bits", (11, 13, 6), (5, 5), (5, 5), "uint16"),
    Case("floats with NaN", (11, 13, 1), (5, 5), (3, 3), "float32"),
]


def image_of(case: Case) -> np.ndarray:
    """Makes an image of distinct values, which tell where they came from (modulo 256 for uint8, enough here)."""
    values = np.arange(np.prod(case.shape), dtype=np.float64).reshape(case.shape)
    if case.dtype == "float32":
        values[4, 5] = np.nan
    return values.astype(case.dtype)


Result = tuple[np.ndarray, Callable[[], np.ndarray] | None]  # patches [N, h, w, C], and their inverse


def patchbeam(edge: str) -> Callable[[np.ndarray, Case], Result]:
    """Returns patchbeam's way to cut, with one of the edge policies."""

    def run(image: np.ndarray, case: Case) -> Result:
        from transforms.grid import Cells, Grid
        from transforms.patches import cut, make_cutter, plan_window
        from transforms.stitch import stitch

        grid = Grid.of(case.shape[:2], case.size, case.stride, edge)
        if not grid.count:
            return np.zeros((0, *case.size, case.shape[2]), case.dtype), None
        plan = plan_window(grid, Cells(0, grid.rows.count, 0, grid.cols.count), "reflect")
        row, col, height, width = plan.source
        window = image[row : row + height, col : col + width]
        patches = cut(make_cutter(case.size, case.shape[2], case.dtype), window, plan)
        return patches, lambda: stitch(patches, grid, fill=0)

    return run


def tensorflow(padding: str) -> Callable[[np.ndarray, Case], Result]:
    """Returns the way of ``tf.image.extract_patches``, which has no inverse."""

    def run(image: np.ndarray, case: Case) -> Result:
        import tensorflow as tf

        sizes, strides = [1, *case.size, 1], [1, *case.stride, 1]
        found = tf.image.extract_patches(image[None], sizes, strides, [1, 1, 1, 1], padding).numpy()
        return found.reshape(-1, *case.size, case.shape[2]), None

    return run


def unfold(image: np.ndarray, case: Case) -> Result:
    """Cuts like ``torch.Tensor.unfold``, with NumPy's sliding windows."""
    windows = np.lib.stride_tricks.sliding_window_view(image, case.size, axis=(0, 1))
    windows = windows[:: case.stride[0], :: case.stride[1]]
    return np.moveaxis(windows, 2, -1).reshape(-1, *case.size, case.shape[2]), None


def with_patchify(image: np.ndarray, case: Case) -> Result:
    """Cuts with patchify, which has one step for both axes."""
    from patchify import patchify, unpatchify

    if case.stride[0] != case.stride[1]:
        raise ValueError("one step for both axes")
    found = patchify(image, (*case.size, case.shape[2]), step=case.stride[0])
    return found.reshape(-1, *case.size, case.shape[2]), lambda: unpatchify(found, image.shape)


def with_empatches(image: np.ndarray, case: Case) -> Result:
    """Cuts with empatches, which makes square patches with one stride."""
    from empatches import EMPatches

    if case.size[0] != case.size[1] or case.stride[0] != case.stride[1]:
        raise ValueError("square patches, one stride")
    tool = EMPatches()
    found, places = tool.extract_patches(image, patchsize=case.size[0], stride=case.stride[0])
    return np.stack(found), lambda: tool.merge_patches(found, places, mode="avg")


WAYS: dict[str, Callable[[np.ndarray, Case], Result]] = {
    "patchbeam drop": patchbeam("drop"),
    "patchbeam pad": patchbeam("pad"),
    "patchbeam shift": patchbeam("shift"),
    "extract_patches VALID": tensorflow("VALID"),
    "extract_patches SAME": tensorflow("SAME"),
    "unfold": unfold,
    "patchify": with_patchify,
    "empatches": with_empatches,
}


def outcome(way: Callable[[np.ndarray, Case], Result], case: Case) -> str:
    """Returns one cell of the table."""
    image = image_of(case)
    try:
        patches, back = way(image, case)
    except Exception as error:  # each library has its own errors
        return str(error) or type(error).__name__
    covered = np.isin(_bytes(image), _bytes(patches)).mean() if len(patches) else 0
    return f"{len(patches)}, {covered:.0%}, {_way_back(back, image) if back else 'none'}"


def _way_back(back: Callable[[], np.ndarray], image: np.ndarray) -> str:
    signal.alarm(10)
    try:
        found = np.asarray(back())
    except TimeoutError:
        return "does not end"
    except Exception:
        return "error"
    finally:
        signal.alarm(0)
    if found.shape != image.shape or not np.array_equal(found.astype(np.float64), image.astype(np.float64), True):
        return "no"
    return "yes" if found.dtype == image.dtype else f"as {found.dtype}"


def _bytes(values: np.ndarray) -> np.ndarray:
    """Packs each pixel into one value that compares equal to itself, even with NaN."""
    flat = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
    return flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()


def _give_up(*_: Any) -> None:
    raise TimeoutError


def main() -> None:
    """Prints the table of the ways named as arguments, or of those that need no other installation."""
    signal.signal(signal.SIGALRM, _give_up)
    chosen = sys.argv[1:] or [name for name in WAYS if name not in ("patchify", "empatches")]
    print("| image | patch, stride |", " | ".join(chosen), "|")
    print("|---|---|" + "---|" * len(chosen))
    for case in CASES:
        shape = " x ".join(map(str, case.shape))
        how = ", ".join(f"{a}" if a == b else f"{a} x {b}" for a, b in (case.size, case.stride))
        cells = " | ".join(outcome(WAYS[name], case) for name in chosen)
        print(f"| {case.name}, {shape} | {how} | {cells} |")


if __name__ == "__main__":
    main()
