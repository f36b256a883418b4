"""The arithmetic of patch grids against slow walks along the axis and ``numpy.pad``."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transforms.grid import Axis, Box, Cells, Grid, source_index

EDGES = ["drop", "pad", "shift"]
DILATIONS, ORIGINS = st.integers(1, 4), st.integers(-30, 30)
PAD_MODES = ["reflect", "symmetric", "edge", "constant"]


@st.composite
def axes(draw, edges=EDGES, max_length=60, dilations=DILATIONS, origins=ORIGINS):
    """Axes of all kinds: shorter than a patch, exact multiples, overlaps, gaps, dilated, starting anywhere."""
    numbers = st.integers(1, 20)
    axis = Axis(draw(st.integers(1, max_length)), draw(numbers), draw(numbers), draw(st.sampled_from(edges)))
    axis = axis._replace(dilation=draw(dilations))
    origin = draw(origins)
    return axis._replace(origin=max(origin, 1 - axis.span) if axis.edge == "pad" else abs(origin))


def plain_axes(edges=EDGES, max_length=60):
    """Axes of adjacent pixels from the border on."""
    return axes(edges, max_length, dilations=st.just(1), origins=st.just(0))


def dense_axes(edges=EDGES):
    """Axes that hold a patch, without gaps: the case that the coverage column of the module's table speaks of."""
    return plain_axes(edges).filter(lambda axis: axis.stride <= axis.size <= axis.length)


def starts_of(axis):
    return [axis.start(index) for index in range(axis.count)]


def walk(length, size, stride, edge, dilation=1, origin=0):
    """The starts of the patches, found by walking along the axis one stride after the other."""
    span = len(range(0, size * dilation, dilation)) * dilation - (dilation - 1)
    if edge == "drop":
        return [start for start in range(origin, length, stride) if start + span <= length]
    if origin >= length:
        return []
    starts = [origin]
    while starts[-1] + span < length and starts[-1] + stride < length:
        starts.append(starts[-1] + stride)
    if edge == "pad":
        return starts
    return [min(start, length - span) for start in starts] if span <= length else []


def coverage(axis, starts):
    """In how many of the patches each pixel of the image lies."""
    covered = np.zeros(axis.length, int)
    for start in starts:
        for pixel in range(start, start + axis.size * axis.dilation, axis.dilation):
            if 0 <= pixel < axis.length:
                covered[pixel] += 1
    return covered


@pytest.mark.parametrize(
    ("length", "size", "stride", "drop", "pad", "shift"),
    [
        (1, 1, 1, [0], [0], [0]),
        (1, 4, 3, [], [0], []),
        (3, 4, 4, [], [0], []),
        (4, 4, 4, [0], [0], [0]),
        (5, 4, 4, [0], [0, 4], [0, 1]),
        (12, 4, 4, [0, 4, 8], [0, 4, 8], [0, 4, 8]),
        (13, 5, 3, [0, 3, 6], [0, 3, 6, 9], [0, 3, 6, 8]),
        (10, 4, 3, [0, 3, 6], [0, 3, 6], [0, 3, 6]),
        (11, 4, 1, list(range(8)), list(range(8)), list(range(8))),
        (11, 3, 5, [0, 5], [0, 5, 10], [0, 5, 8]),
        (10, 3, 5, [0, 5], [0, 5], [0, 5]),
        (9, 2, 9, [0], [0], [0]),
        (10, 2, 9, [0], [0, 9], [0, 8]),
    ],
)
def test_starts_of_known_axes(length, size, stride, drop, pad, shift):
    starts = [starts_of(Axis(length, size, stride, edge)) for edge in EDGES]

    assert starts == [drop, pad, shift]


@settings(max_examples=500, deadline=None)
@given(axes())
def test_starts_are_those_of_a_walk_along_the_axis(axis):
    assert starts_of(axis) == walk(*axis)


@settings(max_examples=300, deadline=None)
@given(axes())
def test_patches_start_inside_the_image_each_behind_the_previous_one(axis):
    starts = starts_of(axis)

    assert starts == sorted(set(starts))
    assert all(min(0, axis.origin) <= start < axis.length for start in starts)


@settings(deadline=None)
@given(axes(["drop", "shift"]))
def test_drop_and_shift_never_leave_the_image(axis):
    assert all(0 <= start and start + axis.span <= axis.length for start in starts_of(axis))


@settings(max_examples=300, deadline=None)
@given(axes())
def test_coverage_counts_the_patches_that_hold_a_pixel(axis):
    assert [axis.coverage(pixel) for pixel in range(axis.length)] == coverage(axis, starts_of(axis)).tolist()


@settings(max_examples=300, deadline=None)
@given(axes(dilations=st.just(1)))
def test_inside_every_pixel_lies_in_as_many_patches_as_strides_fit_in_a_size(axis):
    lattice = [start for i, start in enumerate(starts_of(axis)) if start == axis.origin + i * axis.stride]
    if lattice:
        margin = axis.size - axis.stride
        inside = coverage(axis, lattice)[max(0, lattice[0] + margin) : max(0, lattice[-1] + axis.size - margin)]
        assert set(inside.tolist()) <= {axis.size // axis.stride, -(-axis.size // axis.stride)}


@settings(deadline=None)
@given(axes(["drop", "pad"]))
def test_pixels_before_the_origin_lie_in_no_patch(axis):
    assert not coverage(axis, starts_of(axis))[: max(0, axis.origin)].any()


@settings(max_examples=300, deadline=None)
@given(axes(), st.integers(0, 59), st.integers(1, 60))
def test_touching_are_the_patches_whose_span_reaches_into_the_pixels(axis, pixel, end):
    pixel = min(pixel, axis.length - 1)
    end = min(max(end, pixel + 1), axis.length)
    expected = [i for i, start in enumerate(starts_of(axis)) if start < end and start + axis.span > pixel]

    assert list(axis.touching(pixel, end)) == expected


@settings(deadline=None)
@given(dense_axes(["pad", "shift"]))
def test_pad_and_shift_put_every_pixel_in_at_least_one_patch(axis):
    assert coverage(axis, starts_of(axis)).min() >= 1


@settings(deadline=None)
@given(dense_axes(["pad", "shift"]))
def test_pad_and_shift_need_their_last_patch(axis):
    starts = starts_of(axis)

    assert len(starts) == 1 or coverage(axis, starts[:-1])[-1] == 0


@settings(deadline=None)
@given(dense_axes(["drop"]))
def test_drop_leaves_out_fewer_last_pixels_than_the_stride(axis):
    covered = coverage(axis, starts_of(axis)) > 0
    missing = int((~covered).sum())

    assert missing <= axis.stride - 1
    np.testing.assert_array_equal(covered, np.arange(axis.length) < axis.length - missing)


@settings(deadline=None)
@given(plain_axes().filter(lambda axis: axis.stride > axis.size))
def test_gaps_of_a_stride_beyond_the_size_stay_uncovered(axis):
    starts = starts_of(axis)
    if axis.edge == "shift":
        starts = starts[:-1]  # the last patch moves back, possibly into a gap
    in_gap = np.arange(axis.length) % axis.stride >= axis.size

    assert coverage(axis, starts)[in_gap].sum() == 0


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40))
def test_an_axis_shorter_than_a_patch_has_a_patch_only_under_pad(length, missing, stride):
    size = length + missing

    assert [starts_of(Axis(length, size, stride, edge)) for edge in EDGES] == [[], [0], []]


@settings(max_examples=300, deadline=None)
@given(axes(), st.integers(-10, 100))
@example(Axis(9, 4, 3, "shift"), 6)  # behind the last start, before its multiple of the stride
@example(Axis(9, 4, 3, "shift"), 5)
def test_first_from_is_the_first_start_not_before_the_pixel(axis, pixel):
    later = [index for index, start in enumerate(walk(*axis)) if max(0, start) >= pixel]

    assert axis.first_from(pixel) == min(later, default=axis.count)


@settings(deadline=None)
@given(axes(), axes())
def test_boxes_are_all_pairs_of_starts_row_by_row(rows, cols):
    grid = Grid(rows, cols)
    expected = [Box(row, col, rows.span, cols.span) for row, col in itertools.product(walk(*rows), walk(*cols))]

    assert [grid.box(index) for index in range(grid.count)] == expected


def test_a_grid_takes_rows_before_columns():
    grid = Grid.of((5, 9), size=(2, 4), stride=(1, 3), edge="pad")
    different = Grid.of((5, 9), (2, 4), (1, 3), edge=("shift", "pad"), dilation=(2, 1), origin=(0, -2))

    assert grid == Grid(rows=Axis(5, 2, 1, "pad"), cols=Axis(9, 4, 3, "pad"))
    assert different == Grid(rows=Axis(5, 2, 1, "shift", 2, 0), cols=Axis(9, 4, 3, "pad", 1, -2))


def test_a_box_of_a_grid_beyond_any_memory_is_found_at_once():
    grid = Grid.of((10**15, 10**12), size=(512, 256), stride=(7, 3), edge="shift")
    rows, cols = (10**15 - 512 + 6) // 7 + 1, (10**12 - 256 + 2) // 3 + 1

    assert grid.count == rows * cols
    assert grid.box(5 * cols + 11) == Box(35, 33, 512, 256)
    assert grid.box(grid.count - 1) == Box(10**15 - 512, 10**12 - 256, 512, 256)
    assert grid.rows.first_from(10**15 - 512) == rows - 1
    assert grid.rows.first_from(10**15 - 511) == rows


@st.composite
def tiled_grids(draw):
    """A grid and the areas that lines at any rows and columns divide its image into; some areas may be empty."""
    rows, cols = (draw(axes(max_length=40)) for _ in range(2))
    lines = [
        [0, *sorted(draw(st.lists(st.integers(0, axis.length), max_size=4))), axis.length] for axis in (rows, cols)
    ]
    pairs = [list(itertools.pairwise(of_axis)) for of_axis in lines]
    return Grid(rows, cols), [Box(r0, c0, r1 - r0, c1 - c0) for (r0, r1), (c0, c1) in itertools.product(*pairs)]


@settings(deadline=None)
@given(tiled_grids())
def test_areas_that_tile_the_image_share_no_patch_and_miss_none(grid_and_areas):
    grid, areas = grid_and_areas
    found = []
    for area in areas:
        cells = grid.cells(area)
        inside = itertools.product(range(cells.row_from, cells.row_to), range(cells.col_from, cells.col_to))
        indices = [row * grid.cols.count + col for row, col in inside]
        assert cells.count == len(indices)
        for index in indices:
            box = grid.box(index)
            assert area.row <= max(0, box.row) < area.row + area.height
            assert area.col <= max(0, box.col) < area.col + area.width
        found += indices

    assert sorted(found) == list(range(grid.count))


def test_cells_of_a_known_area():
    grid = Grid.of((9, 13), size=(4, 5), stride=(3, 3), edge="shift")  # starts 0 3 5 and 0 3 6 8

    assert grid.cells(Box(0, 0, 9, 13)) == Cells(0, 3, 0, 4)
    assert grid.cells(Box(3, 4, 2, 4)) == Cells(1, 2, 2, 3)
    assert grid.cells(Box(6, 9, 3, 4)) == Cells(3, 3, 4, 4)


@settings(deadline=None)
@given(st.tuples(*[st.integers(0, 50)] * 2), st.tuples(*[st.integers(1, 30)] * 2))
def test_halves_divide_the_longer_side_into_two_parts_of_like_size(first, shape):
    cells = Cells(first[0], first[0] + shape[0], first[1], first[1] + shape[1])
    if cells.count == 1:
        return
    one, two = cells.halves()
    members = lambda c: set(itertools.product(range(c.row_from, c.row_to), range(c.col_from, c.col_to)))

    assert members(one) | members(two) == members(cells)
    assert not members(one) & members(two)
    assert one.count >= 1 and two.count >= 1
    assert two.count - one.count in (0, min(shape))


def test_halves_of_known_cells():
    assert Cells(2, 7, 1, 4).halves() == (Cells(2, 4, 1, 4), Cells(4, 7, 1, 4))
    assert Cells(2, 3, 1, 5).halves() == (Cells(2, 3, 1, 3), Cells(2, 3, 3, 5))
    assert Cells(0, 3, 0, 3).halves() == (Cells(0, 1, 0, 3), Cells(1, 3, 0, 3))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 9), st.integers(0, 60), st.integers(0, 60), st.sampled_from(PAD_MODES))
@example(1, 60, 60, "reflect")
@example(2, 60, 60, "reflect")
@example(1, 60, 60, "symmetric")
def test_source_index_is_what_numpy_pads_with(length, before, after, mode):
    filler = {"constant_values": -1} if mode == "constant" else {}
    expected = np.pad(np.arange(length), (before, after), mode=mode, **filler)

    np.testing.assert_array_equal(source_index(np.arange(-before, length + after), length, mode), expected)


def test_source_index_takes_positions_in_any_order():
    assert source_index([4, -1, 0, 4], 3, "symmetric").tolist() == [1, 0, 0, 1]


def test_an_unknown_pad_mode_is_an_error_that_lists_the_modes():
    with pytest.raises(ValueError, match="'wrap' is unknown; use reflect, symmetric, edge or constant"):
        source_index(np.arange(3), 3, "wrap")
