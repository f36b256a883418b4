"""Stitching against a slow accumulation in NumPy, and as the exact inverse of cutting."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import weigh
from transforms.grid import Box, Cells, Grid
from transforms.patches import cut, make_cutter, plan_window
from transforms.stitch import blend_weights, plan_stitch, stitch, stitch_window

BLENDS = ["average", "hann", "gaussian", "crop"]
cached_cutter = functools.cache(make_cutter)


def noise(shape, dtype, seed=0):
    values = np.random.default_rng(seed).integers(0, 65536, shape)
    return (values / 7 - 4000).astype(dtype) if dtype == "float32" else values.astype(dtype)


def all_cells(grid):
    return Cells(0, grid.rows.count, 0, grid.cols.count)


def cut_all(image, grid, pad="reflect"):
    axes = grid.rows, grid.cols
    size, dilation = tuple(axis.size for axis in axes), tuple(axis.dilation for axis in axes)
    plan = plan_window(grid, all_cells(grid), pad)
    row, col, height, width = plan.source
    cutter = cached_cutter(size, image.shape[2], image.dtype.name, dilation=dilation)
    return cut(cutter, image[row : row + height, col : col + width], plan)


def accumulate(patches, grid, blend, present=None):
    """(sum of weights times values, sum of weights), pixel by pixel; crop keeps the patch with the nearest centre."""
    rows, cols = grid.rows, grid.cols
    total = np.zeros((rows.length, cols.length, patches.shape[-1]))
    weight = np.zeros((rows.length, cols.length))
    best = np.full((rows.length, cols.length, 2), np.inf)
    for index in range(grid.count):
        if present is not None and not present[index]:
            continue
        row, col, _, _ = grid.box(index)
        for i in range(rows.size):
            for j in range(cols.size):
                y, x = row + i * rows.dilation, col + j * cols.dilation
                if not (0 <= y < rows.length and 0 <= x < cols.length):
                    continue
                if blend == "crop":
                    distance = abs(i - (rows.size - 1) / 2), abs(j - (cols.size - 1) / 2)
                    if distance[0] < best[y, x, 0] or (distance[0] == best[y, x, 0] and distance[1] < best[y, x, 1]):
                        best[y, x], total[y, x], weight[y, x] = distance, patches[index, i, j], 1
                else:
                    w = blend_weights(rows.size, blend)[i] * blend_weights(cols.size, blend)[j]
                    total[y, x] += w * patches[index, i, j]
                    weight[y, x] += w
    return total, weight


@st.composite
def grids(draw, complete=False):
    """Grids of all kinds; complete ones leave out no pixel."""
    size = draw(st.sampled_from([(3, 5), (4, 2), (1, 1)]))
    axes = []
    for side in size:
        edge = draw(st.sampled_from(["pad", "shift"] if complete else ["drop", "pad", "shift"]))
        dilation = 1 if complete else draw(st.integers(1, 2))
        span = (side - 1) * dilation + 1
        stride = draw(st.integers(1, side if complete else side + 2))
        low = 1 - span if edge == "pad" else 0
        origin = draw(st.integers(low, 0 if complete else 3))
        length = draw(st.integers((1 if edge == "pad" else span) + max(0, origin), 19))
        axes.append((length, side, stride, edge, dilation, origin))
    return Grid.of(*zip(*axes))


@settings(max_examples=60, deadline=None)
@given(grids(complete=True), st.sampled_from(BLENDS), st.sampled_from(["uint8", "uint16", "float32"]))
def test_stitching_what_was_cut_gives_the_image_back_to_the_bit(grid, blend, dtype):
    image = noise((grid.rows.length, grid.cols.length, 2), dtype)
    found = stitch(cut_all(image, grid), grid, blend)

    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, image)


@settings(max_examples=60, deadline=None)
@given(grids(), st.sampled_from(BLENDS), st.integers(0, 99))
def test_unlike_patches_are_blended_as_a_slow_accumulation_blends_them(grid, blend, seed):
    patches = noise((grid.count, grid.rows.size, grid.cols.size, 2), "float32", seed)
    total, weight = accumulate(patches, grid, blend)
    expected = np.where(weight[..., None] > 0, total / np.maximum(weight, 1e-300)[..., None], -7)

    np.testing.assert_allclose(stitch(patches, grid, blend, fill=-7), expected, rtol=1e-6, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(grids(), st.sampled_from(["average", "hann", "gaussian"]), st.integers(0, 99))
def test_patches_that_are_not_there_count_for_nothing(grid, blend, seed):
    patches = noise((grid.count, grid.rows.size, grid.cols.size, 1), "float32", seed)
    present = np.random.default_rng(seed).random(grid.count) < 0.6
    patches[~present] = np.nan
    total, weight = accumulate(patches, grid, blend, present)
    expected = np.where(weight[..., None] > 0, total / np.maximum(weight, 1e-300)[..., None], -7)
    plan = plan_stitch(grid, Box(0, 0, grid.rows.length, grid.cols.length), blend)

    found = stitch_window(patches, plan, -7, present)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(grids(), st.sampled_from(BLENDS), st.data())
def test_a_window_is_the_same_part_of_the_whole_to_the_bit(grid, blend, data):
    patches = noise((grid.count, grid.rows.size, grid.cols.size, 1), "uint16")
    whole = stitch(patches, grid, blend, fill=9)
    row, col = (data.draw(st.integers(0, axis.length - 1)) for axis in grid)
    height, width = data.draw(st.integers(1, grid.rows.length - row)), data.draw(st.integers(1, grid.cols.length - col))
    plan = plan_stitch(grid, Box(row, col, height, width), blend)
    cells = plan.cells
    needed = [
        r * grid.cols.count + c
        for r in range(cells.row_from, cells.row_to)
        for c in range(cells.col_from, cells.col_to)
    ]

    np.testing.assert_array_equal(stitch_window(patches[needed], plan, 9), whole[row : row + height, col : col + width])


def test_pixels_in_no_patch_need_a_value():
    grid = Grid.of((7, 9), size=(3, 3), stride=(3, 3), edge="drop")
    patches = cut_all(noise((7, 9, 1), "uint8"), grid)

    with pytest.raises(ValueError, match="1 rows and 0 columns of the image lie in no patch"):
        stitch(patches, grid)
    assert (stitch(patches, grid, fill=200)[6] == 200).all()


def test_half_overlapping_hann_windows_add_up_to_one():
    for size in (2, 6, 256):
        weights = blend_weights(size, "hann")
        np.testing.assert_allclose(weights[: size // 2] + weights[size // 2 :], 1, atol=1e-15)


def test_a_gaussian_falls_to_what_its_deviation_says():
    weights = blend_weights(800, "gaussian")
    at = lambda share: weights[round(share * 800)]

    assert at(0.5) == pytest.approx(1, abs=1e-4)
    assert at(0.5 + 0.125) == pytest.approx(np.exp(-0.5), rel=1e-2)
    assert weights.min() > 3e-4


def test_a_nan_stays_in_the_pixels_whose_patches_hold_it():
    grid = Grid.of((4, 9), size=(4, 3), stride=(4, 2), edge="pad")
    patches = np.zeros((grid.count, 4, 3, 1), np.float32)
    patches[1, 0, 2] = np.nan  # image pixel (0, 4), also in patch 2
    patches[3, 3, 1] = np.inf  # image pixel (3, 7)

    found = stitch(patches, grid)[..., 0]
    assert np.argwhere(np.isnan(found)).tolist() == [[0, 4]]
    assert np.argwhere(np.isinf(found)).tolist() == [[3, 7]]


def test_one_trace_for_each_dtype_serves_all_sizes_and_blends():
    for shape in [(9, 11), (4, 20)]:
        for blend in BLENDS:
            grid = Grid.of(shape, (3, 4), (2, 3), "pad")
            stitch(cut_all(noise((*shape, 2), "uint8"), grid), grid, blend)

    assert weigh._traced(weigh.tf.uint8).experimental_get_tracing_count() == 1


def test_an_unknown_blend_is_an_error_that_lists_them():
    with pytest.raises(ValueError, match="'linear' is unknown; use average, hann, gaussian or crop"):
        blend_weights(4, "linear")
