"""Statistics from histograms against NumPy over all pixels."""

import base64
import functools
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from transforms.pixel_statistics import (
    QUANTILES,
    PixelStatistics,
    describe,
    empty,
    finished,
    from_json,
    measure,
    merge,
    to_json,
)

DTYPES = ["uint8", "uint16", "float32"]

# Zero and the subnormals below it share two bins, which are narrow but not relative to the value.
floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False).map(lambda x: x + 0.0)


def images(dtypes=DTYPES, channels=(1, 2, 3, 4)):
    """Arrays ``[H, W, C]`` of at least one pixel."""
    shapes = st.tuples(st.integers(1, 7), st.integers(1, 5), st.sampled_from(channels))
    return st.sampled_from(dtypes).flatmap(
        lambda dtype: hnp.arrays(dtype, shapes, elements=floats if dtype == "float32" else None)
    )


def noise(dtype, shape=(37, 29, 3), seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(-3, 50, shape).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def by_numpy(pixels):
    """(count, mean, std, min, max) of each channel, in float64 over the pixels themselves."""
    flat = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
    return [(len(c), c.mean(), c.std(), c.min(), c.max()) for c in flat.T]


def assert_described(description, pixels):
    """Count, minimum and maximum exactly; mean and deviation to float64's precision relative to the largest value."""
    expected = by_numpy(pixels)
    largest = np.abs(pixels).max(initial=0).astype(np.float64)
    exact = [(d["count"], d["min"], d["max"]) for d in description]
    assert exact == [(count, low, high) for count, _, _, low, high in expected]
    rounded = [(d["mean"], d["std"]) for d in description]
    np.testing.assert_allclose(rounded, [row[1:3] for row in expected], rtol=1e-6, atol=1e-9 * largest)


def assert_equal_statistics(a, b):
    assert a.dtype == b.dtype
    for name, x, y in zip(PixelStatistics._fields[1:], a[1:], b[1:]):
        np.testing.assert_array_equal(x, y, err_msg=name)


def assert_close_statistics(a, b):
    """Equal but for the rounding of mean and m2, which floats keep beside their histogram."""
    exact = ("histogram", "low", "high")
    for name in exact:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    scale = np.max(np.where(np.isfinite(a.low), np.maximum(np.abs(a.low), np.abs(a.high)), 0))
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(a.m2, b.m2, rtol=1e-9, atol=1e-12 * scale**2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_are_those_of_numpy_over_all_pixels(dtype):
    pixels = noise(dtype)
    pixels[..., 1] //= 2

    assert_described(describe(measure(pixels)), pixels)


@settings(deadline=None)
@given(images())
def test_statistics_of_any_image_are_those_of_numpy(pixels):
    assert_described(describe(measure(pixels)), pixels)


@settings(deadline=None)
@given(images(["uint8", "uint16"]))
def test_quantiles_of_integers_are_exactly_those_of_numpy(pixels):
    values = pixels.reshape(-1, pixels.shape[-1])
    expected = np.quantile(values, QUANTILES, axis=0, method="inverted_cdf").T.tolist()

    actual = [list(channel["quantiles"].values()) for channel in describe(measure(pixels))]
    assert actual == expected


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3000), st.sampled_from(["uint8", "uint16"]))
def test_quantiles_are_exact_for_any_number_of_pixels(count, dtype):
    pixels = np.random.default_rng(count).permutation(np.arange(count).astype(dtype))[:, None, None]
    expected = np.quantile(pixels, QUANTILES, method="inverted_cdf").tolist()

    assert describe(measure(pixels))[0]["quantiles"] == {str(q): value for q, value in zip(QUANTILES, expected)}


@settings(deadline=None)
@given(images(["float32"]))
def test_quantiles_of_floats_lie_at_most_a_bin_below_those_of_numpy(pixels):
    values = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
    exact = np.quantile(values, QUANTILES, axis=0, method="inverted_cdf").T
    actual = np.array([list(channel["quantiles"].values()) for channel in describe(measure(pixels))])

    assert (actual <= exact).all()
    assert (exact - actual <= 2**-7 * np.abs(exact)).all()
    assert (actual.min(axis=1) >= values.min(axis=0)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_histogram_counts_the_pixels_between_its_edges(dtype):
    pixels = noise(dtype)
    for channel, description in enumerate(describe(measure(pixels))):
        edges, counts = description["histogram"]["edges"], description["histogram"]["counts"]
        expected, _ = np.histogram(pixels[..., channel].astype(np.float64), edges)

        assert counts == expected.tolist()
        assert sum(counts) == description["count"] == 37 * 29
        assert len(counts) <= 256 + 2 * 64


def test_the_histogram_of_integers_has_256_bins_of_equal_width():
    edges = [describe(measure(noise(dtype)))[0]["histogram"]["edges"] for dtype in ("uint8", "uint16")]

    assert edges == [list(range(257)), list(range(0, 65537, 256))]


def test_the_histogram_of_floats_has_bins_of_about_equal_population():
    pixels = np.random.default_rng(0).lognormal(0, 3, (300, 200, 1)).astype(np.float32)
    counts = describe(measure(pixels))[0]["histogram"]["counts"]
    in_one_bin = measure(pixels).histogram.max()

    assert len(counts) > 200
    assert max(counts) <= 300 * 200 / 256 + in_one_bin


def test_negative_numbers_are_counted_in_numerical_order():
    pixels = np.array([3, -1, 0, -200, 7, -0.5, 1e-20, -1e20], np.float32)[:, None, None]
    edges = describe(measure(pixels))[0]["histogram"]["edges"]

    # Each of these few values is that of many, with a narrow bin of its own: between two of them is one for the rest.
    assert np.searchsorted(edges, np.sort(pixels.ravel()), side="right").tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    assert describe(measure(pixels))[0]["quantiles"]["0.5"] == pytest.approx(-0.5, rel=2**-7)


@pytest.mark.parametrize("parts", [1, 7])
def test_a_small_deviation_survives_a_large_mean(parts):
    pixels = np.random.default_rng(1).normal(1e6, 1, (70, 50, 2)).astype(np.float32)
    merged = functools.reduce(merge, map(measure, np.split(pixels, parts)))

    described = [(d["mean"], d["std"]) for d in describe(merged)]
    np.testing.assert_allclose(described, [row[1:3] for row in by_numpy(pixels)], rtol=1e-9)


def test_nan_and_infinities_are_left_out():
    pixels = noise("float32", (20, 10, 1))
    spoiled = pixels.copy()
    spoiled[3, 4], spoiled[5, 6], spoiled[7, 8] = np.nan, np.inf, -np.inf
    finite = spoiled[np.isfinite(spoiled)].reshape(-1, 1, 1)

    assert_equal_statistics(measure(spoiled), measure(finite))
    assert describe(measure(spoiled))[0]["count"] == 197


def test_a_channel_of_nan_alone_has_no_statistics_and_leaves_the_others_theirs():
    pixels = noise("float32", (20, 10, 2))
    pixels[..., 0] = np.nan

    assert describe(measure(pixels)) == [
        {"count": 0, "mean": None, "std": None, "min": None, "max": None, "quantiles": None, "histogram": None},
        describe(measure(pixels[..., 1:]))[0],
    ]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_leading_axes_and_any_memory_layout_give_the_same(dtype, channels):
    pixels = noise(dtype, (6, 8, 10, channels))
    whole = describe(measure(pixels))

    assert_described(whole, pixels)
    for same in (pixels.reshape(-1, 10, channels), pixels.reshape(-1, channels), np.asfortranarray(pixels)):
        assert_close_statistics(measure(same), measure(pixels))
    assert_described(describe(measure(pixels[1:, ::2, ::-1])), pixels[1:, ::2])


@settings(deadline=None, max_examples=50)
@given(st.data(), st.sampled_from(DTYPES), st.integers(1, 4))
def test_merged_statistics_are_those_of_all_pixels_in_any_order_and_grouping(data, dtype, channels):
    images_of_kind = images([dtype], (channels,))
    a, b, c = (data.draw(images_of_kind) for _ in range(3))
    together = np.concatenate([image.reshape(-1, 1, channels) for image in (a, b, c)])
    one, two, three = map(measure, (a, b, c))
    whole = finished(measure(together))

    assert_close_statistics(finished(merge(merge(one, two), three)), whole)
    assert_close_statistics(finished(merge(one, merge(two, three))), whole)
    assert_close_statistics(merge(one, two), merge(two, one))
    if dtype != "float32":
        assert_equal_statistics(finished(merge(merge(three, one), two)), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_statistics_of_no_pixels_change_nothing(dtype):
    pixel_statistics = measure(noise(dtype))

    assert_close_statistics(merge(empty(3, dtype), pixel_statistics), pixel_statistics)
    assert_close_statistics(merge(pixel_statistics, empty(3, dtype)), pixel_statistics)
    assert_equal_statistics(merge(empty(3, dtype), empty(3, dtype)), empty(3, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_pixels_have_no_statistics(dtype):
    nothing = {"count": 0, "mean": None, "std": None, "min": None, "max": None, "quantiles": None, "histogram": None}

    assert describe(empty(2, dtype)) == [nothing, nothing]
    for channels in (1, 2, 3):
        assert describe(measure(np.zeros((0, 4, channels), dtype))) == [nothing] * channels
    assert empty(2, dtype).count.tolist() == [0, 0]


def test_a_known_image_is_described_as_by_hand():
    pixels = np.array([[[10, 0], [20, 0]], [[20, 0], [50, 0]]], np.uint8)
    one, zero = describe(measure(pixels))

    counts = one["histogram"].pop("counts")
    assert {value: count for value, count in enumerate(counts) if count} == {10: 1, 20: 2, 50: 1}
    assert one == {
        "count": 4,
        "mean": 25.0,
        "std": 15.0,
        "min": 10.0,
        "max": 50.0,
        "quantiles": {"0.01": 10, "0.05": 10, "0.25": 10, "0.5": 20, "0.75": 20, "0.95": 50, "0.99": 50},
        "histogram": {"edges": list(range(257))},
    }
    assert (zero["mean"], zero["std"], zero["quantiles"]["0.99"]) == (0, 0, 0)


def test_counts_beyond_32_bits_are_exact():
    pixel_statistics = measure(np.array([[[3]], [[65535]]], np.uint16))
    for _ in range(40):
        pixel_statistics = merge(pixel_statistics, pixel_statistics)
    description = describe(pixel_statistics)[0]

    assert (description["count"], description["mean"], description["std"]) == (2**41, 32769.0, 32766.0)


@settings(deadline=None, max_examples=30)
@given(images())
def test_json_holds_statistics_exactly(pixels):
    pixel_statistics = measure(pixels)
    restored = from_json(json.loads(json.dumps(to_json(pixel_statistics))))

    assert_equal_statistics(restored, pixel_statistics)
    assert [a.dtype for a in restored[1:]] == [a.dtype for a in pixel_statistics[1:]]
    assert describe(restored) == describe(pixel_statistics)
    assert_close_statistics(merge(restored, pixel_statistics), merge(pixel_statistics, restored))


def test_json_holds_the_statistics_of_no_pixels():
    for dtype in DTYPES:
        assert_equal_statistics(
            from_json(json.loads(json.dumps(to_json(empty(2, dtype)), allow_nan=False))), empty(2, dtype)
        )


def test_arrays_in_json_are_compressed_little_endian_bytes():
    values = to_json(measure(np.array([[[1.5, -4]], [[2.5, -4]]], np.float32)))
    array = lambda name, kind: np.frombuffer(zlib.decompress(base64.b64decode(values[name])), kind).tolist()

    assert (array("mean", "<f8"), array("m2", "<f8")) == ([2, -4], [0.5, 0])
    assert (array("low", "<f8"), array("high", "<f8")) == ([1.5, -4], [2.5, -4])
    assert sum(array("histogram", "<i8")) == 4


def test_a_description_is_valid_json_with_the_largest_float_as_nodata_value():
    pixels = np.array([[[1]], [[np.finfo(np.float32).max]]], np.float32)

    json.dumps(describe(measure(pixels)), allow_nan=False)
