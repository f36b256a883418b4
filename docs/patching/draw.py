"""Draws the pictures of docs/patching.md with the code that cuts: python docs/patching/draw.py"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from transforms.grid import Box, Grid, source_index  # noqa: E402
from transforms.stitch import Blend, stitch  # noqa: E402

_COLOURS = ["#e6194b", "#ffe119", "#3cb44b", "#00a0ff", "#f58231", "#c060ff"]
_MARGIN, _COLOUR_COUNT = 60, 160


def sample() -> np.ndarray:
    """The picture that is cut: a cat, ``[150, 226, 3]`` uint8."""
    picture = Image.open(ROOT / "samples/photos/chelsea.png").convert("RGB")
    return np.asarray(picture.resize((226, 150), Image.Resampling.LANCZOS))


def show(grid: Grid, pad: str = "reflect") -> Image.Image:
    """The image with what fills it around, faded; pixels in no patch dark; the patches as outlines."""
    image = sample()
    height, width = image.shape[:2]
    rows, cols = (source_index(np.arange(-_MARGIN, n + _MARGIN), n, pad) for n in (height, width))
    canvas = image[np.maximum(rows, 0)][:, np.maximum(cols, 0)].astype(float)
    canvas[rows < 0] = canvas[:, cols < 0] = 0
    hit = np.zeros(canvas.shape[:2], int)
    for index in range(grid.count):
        row, col, down, across = grid.box(index)
        hit[
            row + _MARGIN : row + _MARGIN + down : grid.rows.dilation,
            col + _MARGIN : col + _MARGIN + across : grid.cols.dilation,
        ] += 1
    inside = np.zeros(hit.shape, bool)
    inside[_MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width] = True
    canvas[~inside] = canvas[~inside] * 0.45 + 255 * 0.55
    canvas[~inside & (hit == 0)] = 255
    canvas[inside & (hit == 0)] *= 0.3
    picture = Image.fromarray(canvas.astype(np.uint8)).resize(
        (canvas.shape[1] * 2, canvas.shape[0] * 2), Image.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(picture)
    draw.rectangle(_scaled(Box(0, 0, height, width), 0), outline="black", width=2)
    for index in range(grid.count):
        draw.rectangle(_scaled(grid.box(index), 2 + 2 * (index % 3)), outline=_COLOURS[index % len(_COLOURS)], width=2)
    used = np.argwhere(hit > 0)
    low = np.minimum(used.min(axis=0), _MARGIN) * 2 - 6
    high = np.maximum(used.max(axis=0) + 1, [_MARGIN + height, _MARGIN + width]) * 2 + 6
    return picture.crop((int(low[1]), int(low[0]), int(high[1]), int(high[0])))


def _scaled(box: Box, inset: int) -> tuple[int, int, int, int]:
    left, top = (box.col + _MARGIN) * 2 + inset, (box.row + _MARGIN) * 2 + inset
    return left, top, left + box.width * 2 - 1 - 2 * inset, top + box.height * 2 - 1 - 2 * inset


def with_mask() -> Image.Image:
    """Patches of an image, above, and of its mask, below: the same boxes."""
    import imagecodecs
    import tifffile

    image = tifffile.imread(ROOT / "samples/microscopy/stardist_img2d.tif").astype(float)
    nuclei = imagecodecs.png_decode((ROOT / "samples/masks/stardist_img2d.png").read_bytes())
    image = np.clip((image - image.min()) / (np.quantile(image, 0.995) - image.min()) * 255, 0, 255)
    palette = np.random.default_rng(3).integers(60, 256, (int(nuclei.max()) + 1, 3))
    palette[0] = 0
    grid = Grid.of((256, 512), (128, 128), (128, 128), "shift")
    sheet = np.full((2 * 128 + 12, grid.cols.count * 132 + 4, 3), 255, np.uint8)
    for index in range(grid.cols.count):
        row, col, down, across = grid.box(index)
        place = slice(row, row + down), slice(col, col + across)
        left = 4 + index * 132
        sheet[4:132, left : left + 128] = image[place][..., None]
        sheet[136:264, left : left + 128] = palette[nuclei[place]]
    return Image.fromarray(sheet)


def blended(blend: Blend) -> np.ndarray:
    """What comes of patches of one colour each that overlap by half."""
    grid = Grid.of((128, 128), (64, 64), (32, 32), "pad")
    colours = np.random.default_rng(5).integers(0, 256, (grid.count, 1, 1, 3))
    return stitch(np.broadcast_to(colours, (grid.count, 64, 64, 3)).astype(np.uint8), grid, blend)


def pictures() -> dict[str, Image.Image]:
    """All pictures by the names of their files."""
    size = sample().shape[:2]
    blends: list[Blend] = ["average", "hann", "gaussian", "crop"]
    gap = np.full((128, 8, 3), 255, np.uint8)
    panels = np.concatenate([part for blend in blends for part in (blended(blend), gap)], axis=1)
    return {
        "drop": show(Grid.of(size, (64, 64), (64, 64), "drop")),
        "pad": show(Grid.of(size, (64, 64), (64, 64), "pad")),
        "pad_constant": show(Grid.of(size, (64, 64), (64, 64), "pad"), "constant"),
        "shift": show(Grid.of(size, (64, 64), (64, 64), "shift")),
        "overlap": show(Grid.of(size, (64, 64), (43, 54), "drop")),
        "gaps": show(Grid.of(size, (40, 40), (55, 62), "drop")),
        "origin": show(Grid.of(size, (64, 64), (64, 64), "pad", origin=(-21, -15))),
        "dilation": show(Grid.of(size, (20, 20), (75, 75), "drop", dilation=(3, 3))),
        "mask": with_mask(),
        "blend": Image.fromarray(panels[:, :-8]),
    }


if __name__ == "__main__":
    for name, picture in pictures().items():
        few = picture.quantize(_COLOUR_COUNT, dither=Image.Dither.NONE)
        few.save(HERE / f"{name}.png", optimize=True)
        print(f"{name}.png  {picture.width} x {picture.height}")
