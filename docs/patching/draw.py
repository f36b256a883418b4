"""Draws the pictures of docs/patching.md with the code that cuts: python docs/patching/draw.py"""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import tifffile
from PIL import Image, ImageDraw

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.elements import digest  # noqa: E402
from pipeline.inputs.geojson import geometries, rings_of  # noqa: E402
from transforms.centred import centred_start  # noqa: E402
from transforms.crops import crop_start  # noqa: E402
from transforms.grid import Box, Edge, Grid, source_index  # noqa: E402
from transforms.polygons import fill  # noqa: E402
from transforms.stitch import Blend, stitch  # noqa: E402
from transforms.taps import area_taps  # noqa: E402
from transforms.weigh import weigh  # noqa: E402

_COLOURS = ["#e6194b", "#ffe119", "#3cb44b", "#00a0ff", "#f58231", "#c060ff"]
_MARGIN, _COLOUR_COUNT = 60, 160


def sample() -> np.ndarray:
    """The picture that is cut: a cat, ``[150, 226, 3]`` uint8."""
    picture = Image.open(ROOT / "samples/photos/chelsea.png").convert("RGB")
    return np.asarray(picture.resize((226, 150), Image.Resampling.LANCZOS))


def show(grid: Grid | list[Grid], pad: str = "reflect", points: list[tuple[float, float]] | None = None) -> Image.Image:
    """The image with what fills it around, faded; pixels in no patch dark; the patches as outlines, points as discs."""
    grids = grid if isinstance(grid, list) else [grid]
    image = sample()
    height, width = image.shape[:2]
    rows, cols = (source_index(np.arange(-_MARGIN, n + _MARGIN), n, pad) for n in (height, width))
    canvas = image[np.maximum(rows, 0)][:, np.maximum(cols, 0)].astype(float)
    canvas[rows < 0] = canvas[:, cols < 0] = 0
    hit = np.zeros(canvas.shape[:2], int)
    for grid in grids:
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
    for index, box in enumerate(grid.box(index) for grid in grids for index in range(grid.count)):
        draw.rectangle(_scaled(box, 2 + 2 * (index % 3)), outline=_COLOURS[index % len(_COLOURS)], width=2)
    for x, y in points or ():
        x, y = 2 * (x + _MARGIN), 2 * (y + _MARGIN)
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill="white", outline="black", width=2)
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


def crops(count: int) -> Image.Image:
    """The first crops of an image, as a build draws them."""
    shape, size = sample().shape[:2], (64, 64)
    starts = [crop_start(digest(0, "crop", "chelsea.png", 0, number, 0), shape, size) for number in range(count)]
    return show([Grid.of(shape, size, shape, "pad", origin=start) for start in starts])


def centred(edge: Edge) -> Image.Image:
    """Patches around points, one of which lies near the border."""
    shape, points, grids = sample().shape[:2], [(66.0, 62.0), (120.0, 60.0), (150.0, 138.0), (12.0, 100.0)], []
    for x, y in points:
        row, col = (centred_start(place, 56, n, edge) for place, n in zip((y, x), shape))
        if row is not None and col is not None:
            grids.append(Grid.of(shape, (56, 56), (999, 999), "pad", origin=(row, col)))
    return show(grids, points=points)


_THIRD = 6  # the slide is shown this many times smaller


def slide() -> np.ndarray:
    """The sample slide, ``[2967, 2220, 3]`` uint8."""
    return tifffile.imread(ROOT / "samples/slides/CMU-1-Small-Region.svs")


def shown(pixels: np.ndarray) -> np.ndarray:
    """Smaller, by area."""
    axes = [area_taps(np.arange(n // _THIRD) * _THIRD, _THIRD, n, "edge")[2] for n in pixels.shape[:2]]
    return np.asarray(weigh(pixels, *axes))


def regions() -> Image.Image:
    """The patches of a slide of which annotations cover three quarters, and the annotations; all others dark."""
    pixels = slide()
    geojson = json.loads((ROOT / "samples/regions/CMU-1-Small-Region.geojson").read_text())
    inside, outlines = np.zeros(pixels.shape[:2], np.uint8), []
    for value, (geometry, _) in enumerate(geometries(geojson), 1):
        for rings in rings_of(geometry):
            inside[fill(rings, Box(0, 0, *inside.shape))] = value
            outlines += [(ring, value) for ring in rings]
    grid = Grid.of(inside.shape, (192, 192), (192, 192), "drop")
    canvas, boxes = shown(pixels) * 0.35, []
    for box in map(grid.box, range(grid.count)):
        patch = inside[box.row : box.row + 192, box.col : box.col + 192]
        if (patch > 0).mean() >= 0.75:
            boxes.append((box, np.bincount(patch.ravel(), minlength=3)[1:].argmax()))
            place = tuple(slice(start // _THIRD, (start + 192) // _THIRD) for start in box[:2])
            canvas[place] = shown(pixels)[place]
    picture = Image.fromarray(canvas.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for box, kind in boxes:
        corner = box.col // _THIRD + 1, box.row // _THIRD + 1
        draw.rectangle((*corner, corner[0] + 29, corner[1] + 29), outline=_COLOURS[3 * int(kind) % 4], width=2)
    for ring, value in outlines:
        draw.line([tuple(place / _THIRD) for place in ring], fill=_COLOURS[3 * (value - 1) % 4], width=2)
    return picture


def scales() -> Image.Image:
    """A patch, and as many pixels about the same middle of 4 and of 16 times the size."""
    pixels, size, middle = slide(), 96, np.array([1900.0, 1180.0])
    panels = []
    for scale in (1, 4, 16):
        starts = [(place / scale - size / 2 + np.arange(size)) * scale for place in middle]
        (row, height, rows, _), (col, width, cols, _) = (
            area_taps(start, scale, n, "reflect") for start, n in zip(starts, pixels.shape[:2])
        )
        found = np.asarray(weigh(pixels[row : row + height, col : col + width], rows, cols))
        panel = Image.fromarray(found).resize((288, 288), Image.Resampling.NEAREST)
        inner = [(288 - 288 / part) / 2 for part in (4, 16) if part <= scale]
        for number, inset in enumerate(inner):
            corners = (inset, inset, 287 - inset, 287 - inset)
            ImageDraw.Draw(panel).rectangle(corners, outline=_COLOURS[number], width=2)
        panels += [np.asarray(panel), np.full((288, 8, 3), 255, np.uint8)]
    return Image.fromarray(np.concatenate(panels[:-1], axis=1))


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
        "random": crops(9),
        "centred_pad": centred("pad"),
        "centred_shift": centred("shift"),
        "centred_drop": centred("drop"),
        "regions": regions(),
        "scales": scales(),
        "mask": with_mask(),
        "blend": Image.fromarray(panels[:, :-8]),
    }


if __name__ == "__main__":
    for name, picture in pictures().items():
        few = picture.quantize(_COLOUR_COUNT, dither=Image.Dither.NONE)
        few.save(HERE / f"{name}.png", optimize=True)
        print(f"{name}.png  {picture.width} x {picture.height}")
