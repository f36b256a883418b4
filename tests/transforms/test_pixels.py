"""Colours and types against Pillow, against exact fractions, and against their inverses."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transforms.pixels import clipped, holds, scaled, to_gray, to_rgb


def noise(channels, dtype="uint8"):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (50, 60, channels), dtype, endpoint=True)


def test_grey_of_a_photograph_is_pillows():
    pixels = noise(3)
    np.testing.assert_array_equal(to_gray(pixels, "rgb")[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_of_grey_is_itself_and_white_stays_white(dtype):
    grey = noise(1, dtype)
    np.testing.assert_array_equal(to_gray(to_rgb(grey, "gray"), "rgb"), grey)
    assert to_gray(np.full((1, 1, 3), np.iinfo(dtype).max, dtype), "rgb") == np.iinfo(dtype).max


def test_grey_of_floats_and_of_signed_values_is_the_weighted_sum():
    pixels = np.array([[[1.0, -2.0, 0.5]]], np.float32)
    assert to_gray(pixels, "rgb")[0, 0, 0] == np.float32((19595 - 2 * 38470 + 7471 / 2) / 65536)
    assert to_gray(np.array([[[-100, -100, -100]]], np.int16), "rgb") == -100


def test_colours_of_cmyk_are_pillows():
    inks = noise(4)
    expected = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")).astype(int)
    assert np.abs(to_rgb(inks, "cmyk", 255).astype(int) - expected).max() <= 1  # Pillow rounds in another place


def test_colours_of_cmyk_are_the_formula_rounded():
    inks = noise(4, "uint16").reshape(-1, 4)[:200]
    light = 65535 - inks.astype(object)
    expected = [[int(Fraction(c * k, 65535) + Fraction(1, 2)) for c in (a, b, d)] for a, b, d, k in light]
    np.testing.assert_array_equal(to_rgb(inks, "cmyk", 65535), expected)


def test_alpha_is_left_out():
    pixels = noise(4)
    np.testing.assert_array_equal(to_rgb(pixels, "rgb"), pixels[..., :3])
    np.testing.assert_array_equal(to_gray(noise(2), "gray"), noise(2)[..., :1])


@given(st.integers(1, 16), st.sampled_from(["uint8", "uint16"]), st.data())
def test_scaling_is_the_exact_fraction_rounded(bits, dtype, data):
    limit = (1 << bits) - 1
    value = data.draw(st.integers(0, limit))
    target = int(np.iinfo(dtype).max)
    expected = int(Fraction(value * target, limit) + Fraction(1, 2))
    assert scaled(np.array([value], np.uint16), limit, dtype)[0] == expected


def test_scaling_up_and_down_again_loses_nothing():
    every = np.arange(256, dtype=np.uint8)
    up = scaled(every, 255, "uint16")
    np.testing.assert_array_equal(up, every.astype(np.uint16) * 257)
    np.testing.assert_array_equal(scaled(up, 65535, "uint8"), every)
    np.testing.assert_array_equal(scaled(every, 255, "float32"), every.astype(np.float32) / np.float32(255))


def test_clipping_rounds_to_even_and_stays_within_the_type():
    values = np.array([-1e9, -0.5, 0.5, 1.5, 254.4, 255.5, np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(clipped(values, "uint8"), [0, 0, 0, 2, 254, 255, 255, 0, 0])
    np.testing.assert_array_equal(clipped(np.array([-5, 300, 70000]), "uint16"), [0, 300, 65535])
    assert clipped(np.array([0.1]), "float32")[0] == np.float32(0.1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("other", ["uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32"])
def test_a_type_holds_another_if_its_extremes_survive(dtype, other):
    info = np.finfo(other) if "float" in other else np.iinfo(other)
    extremes = np.array([info.min, info.max], other)
    with np.errstate(all="ignore"):
        back = extremes.astype(dtype).astype(object) == extremes.astype(object)
    if other != "float16" or dtype != "uint16":  # 65504 is a whole number, but 0.5 is a float16, too
        assert holds(dtype, other) == all(back)
