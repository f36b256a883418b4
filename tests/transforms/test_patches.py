"""Cutting with TensorFlow against ``numpy.pad`` and slices; pixel values encode positions, so wrong offsets show."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.grid import Box, Cells, Grid
from transforms.patches import cut, make_cutter, plan_window

EDGES = ["drop", "pad", "shift"]
PAD_MODES = ["reflect", "symmetric", "edge", "constant"]
SIZE = (3, 5)

cached_cutter = functools.cache(make_cutter)  # tracing costs more than cutting


def positions(height, width, channels, dtype):
    """``[H, W, C]``: every value is its own position, modulo a prime where the dtype is too small."""
    values = np.arange(height * width * channels).reshape(height, width, channels)
    if dtype == "float32":
        return (values / 4 - 100).astype(dtype)
    return (values % {"uint8": 251, "uint16": 65521}[dtype]).astype(dtype)


def all_cells(grid):
    return Cells(0, grid.rows.count, 0, grid.cols.count)


def crop(image, box):
    return image[box.row : box.row + box.height, box.col : box.col + box.width]


def cut_with_numpy(image, grid, pad, value=0):
    """Every patch of the grid ``[N, *size, C]``, sliced from the image padded as a whole, the rows first."""
    boxes = [grid.box(index) for index in range(grid.count)]
    top, left = max(0, -min(box.row for box in boxes)), max(0, -min(box.col for box in boxes))
    bottom = max(0, max(box.row + box.height for box in boxes) - image.shape[0])
    right = max(0, max(box.col + box.width for box in boxes) - image.shape[1])
    for mode, width in zip(
        [pad, pad] if isinstance(pad, str) else pad, [((top, bottom), (0, 0)), ((0, 0), (left, right))]
    ):
        filler = {"constant_values": value} if mode == "constant" else {}
        image = np.pad(image, (*width, (0, 0)), mode=mode, **filler)
    crops = [crop(image, box._replace(row=box.row + top, col=box.col + left)) for box in boxes]
    return np.stack([patch[:: grid.rows.dilation, :: grid.cols.dilation] for patch in crops])


def assert_same(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("uint16", 5), ("float32", 12)])
@pytest.mark.parametrize("pad", PAD_MODES)
@pytest.mark.parametrize("edge", EDGES)
def test_patches_are_those_sliced_from_the_padded_image(edge, pad, dtype, channels):
    cutter = cached_cutter(SIZE, channels, dtype, 9)
    compared = 0
    for shape in [(1, 1), (2, 9), (3, 5), (6, 10), (7, 11), (13, 17)]:
        for stride in [(3, 5), (2, 3), (1, 4), (4, 7)]:
            grid = Grid.of(shape, SIZE, stride, edge)
            if grid.count == 0:
                continue
            image = positions(*shape, channels, dtype)
            plan = plan_window(grid, all_cells(grid), pad)
            assert_same(cut(cutter, crop(image, plan.source), plan), cut_with_numpy(image, grid, pad, 9))
            compared += grid.count

    assert compared > 50


@st.composite
def grids_with_cells(draw):
    """A grid and a non-empty rectangle of its patches; the axes have nothing in common."""
    size, stride, dilation = (
        draw(st.sampled_from(values))
        for values in ([SIZE, (4, 2)], [(3, 5), (1, 2), (2, 1), (5, 6)], [(1, 1), (1, 1), (2, 3)])
    )
    edge = tuple(draw(st.sampled_from(EDGES)) for _ in size)
    span = [(s - 1) * d + 1 for s, d in zip(size, dilation)]
    origin = tuple(draw(st.integers(1 - n if e == "pad" else 0, 4)) for e, n in zip(edge, span))
    smallest = [max(o, 0) + (1 if e == "pad" else n) for o, e, n in zip(origin, edge, span)]
    grid = Grid.of(tuple(draw(st.integers(low, low + 15)) for low in smallest), size, stride, edge, dilation, origin)
    row, col = draw(st.integers(0, grid.rows.count - 1)), draw(st.integers(0, grid.cols.count - 1))
    row_to, col_to = draw(st.integers(row + 1, grid.rows.count)), draw(st.integers(col + 1, grid.cols.count))
    return grid, Cells(row, row_to, col, col_to)


@settings(max_examples=150, deadline=None)
@given(grids_with_cells(), st.tuples(st.sampled_from(PAD_MODES), st.sampled_from(PAD_MODES)))
def test_a_window_holds_enough_for_the_patches_that_the_whole_image_gives(grid_and_cells, pad):
    grid, cells = grid_and_cells
    image = positions(grid.rows.length, grid.cols.length, 2, "uint16")
    indices = [
        row * grid.cols.count + col
        for row in range(cells.row_from, cells.row_to)
        for col in range(cells.col_from, cells.col_to)
    ]
    plan = plan_window(grid, cells, pad)
    window = crop(image, plan.source).copy()

    assert window.shape[:2] == (plan.source.height, plan.source.width)
    cutter = cached_cutter(
        (grid.rows.size, grid.cols.size), 2, "uint16", 7, dilation=(grid.rows.dilation, grid.cols.dilation)
    )
    assert_same(cut(cutter, window, plan), cut_with_numpy(image, grid, pad, 7)[indices])
    assert plan.starts.tolist() == [list(grid.box(index)[:2]) for index in indices]


@settings(deadline=None)
@given(grids_with_cells(), st.sampled_from(PAD_MODES))
def test_a_window_is_as_small_as_its_patches_allow(grid_and_cells, pad):
    grid, cells = grid_and_cells
    plan = plan_window(grid, cells, pad)
    source = plan.source

    assert source.row >= 0 and source.row + source.height <= grid.rows.length
    assert source.col >= 0 and source.col + source.width <= grid.cols.length
    assert {0, source.height - 1} <= set(plan.row_fill.tolist())
    assert {0, source.width - 1} <= set(plan.col_fill.tolist())


def test_a_known_window_at_the_corner_of_an_image():
    grid = Grid.of((7, 11), size=(4, 3), stride=(3, 4), edge="pad")
    plan = plan_window(grid, Cells(1, 2, 1, 3), "symmetric")

    assert plan.source == Box(3, 4, 4, 7)
    assert plan.row_fill.tolist() == [0, 1, 2, 3]
    assert plan.col_fill.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert (plan.rows.tolist(), plan.cols.tolist()) == ([0], [0, 4])
    assert plan.starts.tolist() == [[3, 4], [3, 8]]
    assert [array.dtype.name for array in plan[1:]] == 4 * ["int32"] + ["int64"]


def test_a_known_image_padded_with_a_constant():
    grid = Grid.of((2, 3), size=(2, 2), stride=(2, 2), edge="pad")
    image = np.array([[[1], [2], [3]], [[4], [5], [6]]], np.uint8)
    patches = cut(make_cutter((2, 2), 1, "uint8", 99), image, plan_window(grid, all_cells(grid), "constant"))

    assert patches[..., 0].tolist() == [[[1, 2], [4, 5]], [[3, 99], [6, 99]]]


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 0), ("uint8", 255), ("uint16", 65535), ("float32", -1.5)])
def test_constant_padding_fills_with_the_given_value_on_both_axes(dtype, value):
    grid = Grid.of((4, 7), SIZE, SIZE, "pad")
    image = positions(4, 7, 3, dtype)
    plan = plan_window(grid, all_cells(grid), "constant")
    patches = cut(make_cutter(SIZE, 3, dtype, value), image, plan)

    assert_same(patches, cut_with_numpy(image, grid, "constant", value))
    assert (patches[3, 1:] == value).all() and (patches[3, :, 2:] == value).all()


def test_a_whole_float_pads_integer_images():
    grid = Grid.of((1, 1), SIZE, SIZE, "pad")
    plan = plan_window(grid, all_cells(grid), "constant")
    patches = cut(make_cutter(SIZE, 1, "uint8", 255.0), np.zeros((1, 1, 1), np.uint8), plan)

    assert patches.ravel().tolist() == [0] + [255] * 14


def test_patches_side_by_side_reassemble_to_the_image():
    grid = Grid.of((9, 20), SIZE, SIZE, "pad")
    image = positions(9, 20, 4, "uint16")
    patches = cut(cached_cutter(SIZE, 4, "uint16"), image, plan_window(grid, all_cells(grid), "reflect"))

    assert_same(patches.reshape(3, 4, *SIZE, 4).transpose(0, 2, 1, 3, 4).reshape(image.shape), image)


@pytest.mark.parametrize("stride", [(4, 5), (2, 3), (5, 7)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_drop_gives_the_valid_patches_of_tensorflow(dtype, stride):
    grid = Grid.of((19, 23), (4, 5), stride, "drop")
    image = positions(19, 23, 3, dtype)
    expected = tf.image.extract_patches(image[None], [1, 4, 5, 1], [1, *stride, 1], [1, 1, 1, 1], "VALID").numpy()
    patches = cut(cached_cutter((4, 5), 3, dtype), image, plan_window(grid, all_cells(grid), "reflect"))

    assert expected.shape[1:3] == (grid.rows.count, grid.cols.count)
    assert_same(patches, expected.reshape(-1, 4, 5, 3))


@pytest.mark.parametrize("dilation", [(2, 2), (3, 1)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3), (9, 8)])
def test_dilated_patches_under_drop_are_the_valid_patches_of_tensorflow(stride, dilation):
    grid = Grid.of((19, 23), (4, 5), stride, "drop", dilation)
    image = positions(19, 23, 3, "float32")
    expected = tf.image.extract_patches(image[None], [1, 4, 5, 1], [1, *stride, 1], [1, *dilation, 1], "VALID").numpy()
    cutter = cached_cutter((4, 5), 3, "float32", dilation=dilation)
    patches = cut(cutter, image, plan_window(grid, all_cells(grid), "reflect"))

    assert expected.shape[1:3] == (grid.rows.count, grid.cols.count)
    assert_same(patches, expected.reshape(-1, 4, 5, 3))


@pytest.mark.parametrize("shape", [(16, 20), (17, 23), (1, 1), (3, 40)])
def test_zeros_around_the_image_are_the_same_patches_of_tensorflow(shape):
    """SAME puts half of its zeros before the image, which is a negative origin; with stride = size the counts agree."""
    size = (4, 5)
    missing = [-length % side for length, side in zip(shape, size)]
    grid = Grid.of(shape, size, size, "pad", origin=tuple(-(n // 2) for n in missing))
    image = positions(*shape, 3, "float32")  # type: ignore[call-arg]
    expected = tf.image.extract_patches(image[None], [1, *size, 1], [1, *size, 1], [1, 1, 1, 1], "SAME").numpy()
    patches = cut(cached_cutter(size, 3, "float32"), image, plan_window(grid, all_cells(grid), "constant"))

    assert expected.shape[1:3] == (grid.rows.count, grid.cols.count)
    assert_same(patches, expected.reshape(-1, *size, 3))


def test_one_trace_serves_windows_of_all_sizes_with_and_without_padding():
    cutter = make_cutter(SIZE, 3, "uint8")
    for shape, edge, pad in [((9, 11), "pad", "edge"), ((30, 7), "drop", "edge"), ((3, 5), "shift", "reflect")]:
        grid = Grid.of(shape, SIZE, (2, 4), edge)
        image = positions(*shape, 3, "uint8")
        for cells in (all_cells(grid), Cells(0, 1, 0, 1)):
            plan = plan_window(grid, cells, pad)
            cut(cutter, crop(image, plan.source), plan)

    assert cutter.experimental_get_tracing_count() == 1


def test_a_window_needs_its_channel_axis_and_the_channels_of_the_cutter():
    plan = plan_window(Grid.of((6, 10), SIZE, SIZE, "drop"), Cells(0, 2, 0, 2), "reflect")
    cutter = cached_cutter(SIZE, 1, "uint8", 9)

    assert cut(cutter, np.zeros((6, 10, 1), np.uint8), plan).shape == (4, *SIZE, 1)
    for wrong in [(6, 10), (6, 10, 3), (1, 6, 10, 1)]:
        with pytest.raises(TypeError):
            cut(cutter, np.zeros(wrong, np.uint8), plan)


def test_patches_are_read_only_because_they_share_the_memory_of_a_tensor():
    plan = plan_window(Grid.of((6, 10), SIZE, SIZE, "drop"), Cells(0, 2, 0, 2), "reflect")
    patches = cut(cached_cutter(SIZE, 1, "uint8", 9), positions(6, 10, 1, "uint8"), plan)

    with pytest.raises(ValueError, match="read-only"):
        patches[0] = 0
