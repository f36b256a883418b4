"""The small picture of an image does not depend on how it was cut; near copies have near fingerprints."""

import io

import numpy as np
import pytest
from helpers import SAMPLES
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transforms.perceptual_hash import CELLS, cell_shares, difference_hash, luma_or_mean, pairs_within

PHOTOS = sorted((SAMPLES / "photos").glob("*.*g"))


def picture(pixels, patches):
    """``[2, 8, 9]`` of patches (row, col, height, width, step)."""
    (height, width), total = pixels.shape[:2], np.zeros((2, *CELLS))
    for row, col, rows, cols, step in patches:
        padded = np.pad(pixels, ((0, rows * step), (0, cols * step), (0, 0)), "symmetric")
        patch = padded[row : row + rows * step : step, col : col + cols * step : step]
        down, across = cell_shares(row, rows, step, height, CELLS[0]), cell_shares(col, cols, step, width, CELLS[1])
        total += np.stack([down @ luma_or_mean(patch) @ across.T, np.outer(down.sum(axis=1), across.sum(axis=1))])
    return total


def hash_images(image):
    pixels = np.asarray(image.convert("RGB"))
    return difference_hash(*picture(pixels, [(0, 0, *pixels.shape[:2], 1)]), pixels.shape[:2])  # type: ignore[call-arg]


@given(
    st.integers(-20, 90), st.integers(1, 60), st.integers(1, 3), st.integers(1, 80), st.integers(1, 12)
)  # fmt: skip
def test_shares_add_up_to_what_lies_within(first, length, step, extent, cells):
    found = cell_shares(first, length, step, extent, cells)
    inside = [len(set(range(first + step * k, first + step * (k + 1))) & set(range(extent))) for k in range(length)]
    assert found.shape == (cells, length)
    assert found.sum(axis=0) == pytest.approx(inside)
    assert (found.sum(axis=1) <= extent / cells + 1e-9).all()


def test_a_grid_of_patches_makes_the_picture_of_the_image():
    pixels = np.random.default_rng(0).integers(0, 256, (83, 101, 3)).astype(np.uint8)
    whole = picture(pixels, [(0, 0, 83, 101, 1)])
    patches = [(row, col, 32, 32, 1) for row in range(0, 83, 32) for col in range(0, 101, 32)]
    np.testing.assert_allclose(picture(pixels, patches), whole)
    assert difference_hash(*whole, (83, 101)) is not None  # type: ignore[call-arg]


def test_the_bits_say_which_cell_is_darker():
    means = np.zeros(CELLS)
    means[:4] = [0, 1, 2, 1, 0, 0, 0, 0, 5]
    bits = int(difference_hash(means, np.ones(CELLS), CELLS))
    assert f"{bits:064b}" == "11000001" * 4 + "0" * 32


@pytest.mark.parametrize("hole", [0.0, 0.4])
def test_what_shows_too_little_or_nothing_has_none(hole):
    weights = np.ones(CELLS)
    weights[3, 4] = hole
    assert difference_hash(np.random.default_rng(0).random(CELLS), weights, CELLS) is None
    assert difference_hash(np.full(CELLS, 7.0), np.ones(CELLS), CELLS) is None
    one_thing = np.ones(CELLS)
    one_thing[2:5, 3:6] = [[2, 5, 2], [5, 9, 5], [2, 5, 2]]
    assert difference_hash(one_thing, np.ones(CELLS), CELLS) is None
    assert difference_hash(np.arange(72.0).reshape(CELLS), np.ones(CELLS), CELLS) is None  # a gradient


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_photographs_that_were_saved_again_are_near_and_others_far(path):
    image = Image.open(path)
    saved = io.BytesIO()
    image.convert("RGB").resize((image.width // 2, image.height // 2)).save(saved, "webp", quality=80)
    distance = lambda other: int(np.bitwise_count(hash_images(image) ^ hash_images(other)))
    assert distance(Image.open(saved)) <= 4
    assert all(distance(Image.open(other)) > 4 for other in PHOTOS if other != path)


@given(st.integers(0, 6), st.integers(0, 2**32))
def test_pairs_are_those_that_comparing_all_finds(distance, seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 2**64, 30, np.uint64, endpoint=False)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (40, 7)).astype(np.uint64), axis=1)
    b = a[rng.integers(0, 30, 40)] ^ flips
    near = np.bitwise_count(a[:, None] ^ b) <= distance
    found = list(zip(*(side.tolist() for side in pairs_within(a, b, distance))))
    assert found == list(zip(*(side.tolist() for side in np.nonzero(near))))


def test_no_images_make_no_pairs():
    none = np.array([], np.uint64)
    assert [side.tolist() for side in pairs_within(none, none, 4)] == [[], []]
