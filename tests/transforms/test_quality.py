"""Scores against scikit-image, SciPy and the definitions written out in NumPy."""

import colorsys

import numpy as np
import pytest
import scipy.ndimage
import skimage.color
import skimage.filters
import skimage.measure

from transforms import quality
from transforms.quality import Duplicates, otsu, saturation, score

RANGES = {"uint8": (0, 255), "uint16": (0, 4095), "float32": (-1.0, 3.0)}


def noise(count, height, width, channels, dtype="uint8", seed=0):
    """Patches of unlike texture: from flat to full noise."""
    rng = np.random.default_rng(seed)
    low, high = RANGES[dtype]
    share = rng.random((count, height, width, channels)) * np.linspace(0.01, 1, count)[:, None, None, None]
    return (low + share * (high - low)).astype(dtype)


def middle_rows(height):
    return [(2 * i + 1) * height // 16 for i in range(8)]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 200), (37, 41), (5, 3), (1, 1)])
def test_sharpness_is_the_variance_of_the_laplacian_of_scipy_on_the_sampled_rows(height, width):
    patches = noise(40, height, width, 3)
    luma = (patches @ np.array([77, 150, 29]) + 128) // 256
    expected = [scipy.ndimage.laplace(grey, mode="nearest")[middle_rows(height)].var() for grey in luma]

    np.testing.assert_allclose(score(patches).sharpness, expected, rtol=1e-6)


def test_a_blurred_patch_is_less_sharp_and_scipy_agrees_on_all_rows():
    sharp = noise(4, 256, 256, 1)
    blurred = scipy.ndimage.gaussian_filter(sharp, (0, 2, 2, 0))
    found, worse = score(sharp).sharpness, score(blurred).sharpness

    assert (worse < found / 50).all()
    all_rows = [scipy.ndimage.laplace(p[..., 0].astype(int), mode="nearest").var() for p in sharp]
    np.testing.assert_allclose(found, all_rows, rtol=0.15)  # the rows are a sample


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deeper_pixels_have_the_scores_of_the_same_picture_in_eight_bits(dtype):
    low, high = RANGES[dtype]
    eight = noise(6, 64, 96, 3)
    deep = (low + eight / 255 * (high - low)).astype(dtype)
    found, expected = score(deep, RANGES[dtype]), score(eight)

    np.testing.assert_allclose(
        found.sharpness, expected.sharpness, rtol=0.03, atol=3
    )  # eight bits round the grey value
    np.testing.assert_allclose(found.entropy, expected.entropy, atol=0.2)
    np.testing.assert_allclose(found.clipped_high, expected.clipped_high)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_entropy_is_that_of_scikit_image(dtype):
    patches = noise(5, 128, 100, 2, dtype)
    low, high = RANGES[dtype]
    steps = 255 if dtype == "uint8" else 65535
    values = np.rint((patches.astype(float) - low) * (steps / (high - low))).astype(int) // ((steps + 1) // 256)
    expected = [skimage.measure.shannon_entropy(p[middle_rows(128)]) for p in values]

    np.testing.assert_allclose(score(patches, RANGES[dtype]).entropy, expected, atol=1e-5)


def test_tissue_is_the_share_of_saturated_pixels_that_are_not_black():
    patches = noise(6, 32, 32, 3)
    patches[0] = [3, 0, 0]  # saturated, but black
    rows = patches[:, middle_rows(32)]
    expected = [
        np.mean([
            max(pixel) >= 16 and int(255 * colorsys.rgb_to_hsv(*pixel)[1] + 1e-9) > 60
            for pixel in row.reshape(-1, 3).tolist()
        ])
        for row in rows
    ]  # fmt: skip

    np.testing.assert_allclose(score(patches, tissue_threshold=60).tissue, expected, atol=1e-6)
    assert np.isnan(score(noise(2, 8, 8, 1)).tissue).all()


def test_saturation_is_that_of_scikit_image():
    pixels = np.maximum(noise(3, 50, 60, 3), 16)
    np.testing.assert_allclose(saturation(pixels), 255 * skimage.color.rgb2hsv(pixels)[..., 1], atol=1)


@pytest.mark.parametrize("seed", range(5))
def test_otsu_is_that_of_scikit_image(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(60, 20, 4000), rng.normal(170, 15, 1000 * (seed + 1))]).clip(0, 255)
    values = values.astype(np.uint8)

    assert otsu(values) == skimage.filters.threshold_otsu(values)
    assert otsu(np.full(9, 7, np.uint8)) == 7


def test_clipping_and_missing_data_are_counted():
    patch = np.full((3, 64, 64, 2), 9, np.uint8)
    patch[1, :, :16] = 0
    patch[1, :, 32:] = [255, 0]
    found = score(patch, nodata=0)

    assert found.clipped_low.tolist() == [0, 0.5, 0]
    assert found.clipped_high.tolist() == [0, 0.25, 0]
    assert found.nodata.tolist() == [0, 0.25, 0]  # all channels have to be missing
    assert score(patch).nodata.tolist() == [0, 0, 0]


def test_nan_is_missing_data():
    patch = np.zeros((1, 64, 64, 2), np.float32)
    patch[0, :, :16] = np.nan
    patch[0, :, 16:32, 0] = np.nan
    patch[0, :, 32:, 1] = 0.5

    assert score(patch, (0, 1)).nodata.tolist() == [0.25]
    assert score(patch, (0, 1), nodata=0.5).nodata.tolist() == [0.25]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_patch_has_the_same_scores_in_every_batch(dtype):
    patches = noise(70, 40, 56, 3, dtype)
    together = score(patches, RANGES[dtype], tissue_threshold=40)
    for first, count in [(0, 1), (69, 1), (3, 33), (31, 39)]:
        part = score(patches[first : first + count], RANGES[dtype], tissue_threshold=40)
        for name, expected, actual in zip(part._fields, together.take(np.s_[first : first + count]), part):
            np.testing.assert_array_equal(actual, expected, err_msg=name)


def test_two_traces_serve_all_numbers_of_patches():
    before = quality._measure_batch.traces
    for count in (1, 8, 9, 64, 65, 90):
        score(noise(count, 48, 44, 3), tissue_threshold=count)
    for height in (20, 60):
        score(noise(3, height, 44, 3))

    assert quality._measure_batch.traces == before + 2


def test_fingerprints_of_alike_patches_are_near_and_of_others_far():
    rng = np.random.default_rng(1)
    pictures = scipy.ndimage.gaussian_filter(rng.random((20, 128, 128, 1)), (0, 12, 12, 0))
    pictures = (pictures - pictures.min()) / np.ptp(pictures) * 220 + 10
    noisy = pictures + rng.normal(0, 1.5, pictures.shape)
    first, second = (score(p.astype(np.uint8)).fingerprint for p in (pictures, noisy))
    distances = np.bitwise_count(first[:, None] ^ second[None])

    assert np.diag(distances).max() <= 6
    assert distances[~np.eye(20, dtype=bool)].min() > 10


def test_a_fingerprint_compares_means_of_parts():
    ramp = np.tile(np.arange(90, dtype=np.uint8)[None, :, None], (1, 16, 1, 1)).reshape(1, 16, 90, 1)
    assert score(ramp).fingerprint.tolist() == [2**64 - 1]
    assert score(ramp[:, :, ::-1]).fingerprint.tolist() == [0]


def test_duplicates_are_told_by_distance_to_what_was_kept():
    rng = np.random.default_rng(0)
    prints = rng.integers(0, 2**64, 300, np.uint64)
    again = prints ^ np.uint64(0b1011)
    seen = Duplicates(3)

    assert all(seen.add(p) for p in prints)
    assert not any(seen.add(p) for p in again)
    assert not any(seen.add(p) for p in prints)
    assert seen.add(prints[0] ^ np.uint64(0b1111 << 20))
