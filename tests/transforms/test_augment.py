"""Changes of patches against NumPy, SciPy, Pillow and scikit-image, and what has to hold of all of them."""

import copy
import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage
import skimage.color
from PIL import Image, ImageEnhance

from transforms import stain
from transforms.augment import Augmenter, Change, Ranges, draw, margin

SIZE = (24, 24)
RANGES = {"uint8": (0, 255), "uint16": (0, 65535), "float32": (-1.0, 3.0)}


def picture(count, margin=0, channels=3, dtype="uint8", size=SIZE, seed=0):
    """Smooth random pictures with some structure."""
    rng = np.random.default_rng(seed)
    shape = (count, size[0] + 2 * margin, size[1] + 2 * margin, channels)
    smooth = scipy.ndimage.gaussian_filter(rng.random(shape), (0, 2, 2, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 0.8 + 0.1
    low, high = RANGES[dtype]
    return (low + smooth * (high - low)).astype(dtype)


@functools.cache  # compiling takes seconds
def augmenter(ranges, channels=3, dtype="uint8", size=SIZE, **more):
    return Augmenter(ranges, size, channels, dtype, RANGES[dtype], **more)


def drawn(ranges, count, seed=0):
    rng = np.random.default_rng(seed)
    return [draw(ranges, lambda _: rng.random()) for _ in range(count)]


EVERYTHING = Ranges(
    flip=True, quarter_turns=True, rotation=10, blur=1, stain=0.05, brightness=0.1, contrast=0.2, saturation=0.2,
    hue=20, noise=0.02,
)  # fmt: skip


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 3), ("uint16", 1), ("float32", 6)])
def test_nothing_changes_nothing(dtype, channels):
    ranges = Ranges(flip=True, rotation=5, blur=1, brightness=0.1, contrast=0.1, noise=0.1)
    augment = augmenter(ranges, channels, dtype)
    patches, m = picture(3, augment.margin, channels, dtype), augment.margin

    np.testing.assert_allclose(augment(patches, [Change()] * 3), patches[:, m:-m, m:-m], rtol=0, atol=0)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(("rows", "cols"), [(False, False), (True, False), (False, True), (True, True)])
def test_symmetries_are_those_of_numpy(rows, cols, turns):
    augment, patches = augmenter(Ranges(flip=True, quarter_turns=True)), picture(1)
    flipped = patches[0][:: -1 if rows else 1, :: -1 if cols else 1]
    change = Change(flip_rows=rows, flip_cols=cols, quarter_turns=turns)

    np.testing.assert_array_equal(augment(patches, [change])[0], np.rot90(flipped, turns))
    np.testing.assert_array_equal(augment.turn(patches, [change])[0], np.rot90(flipped, turns))


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("angle", [-10, 3.7, 9.999])
def test_a_rotation_is_that_of_scipy(dtype, angle):
    augment = augmenter(Ranges(rotation=10), 2, dtype, size=(24, 31))
    patches, m = picture(1, augment.margin, 2, dtype, size=(24, 31)), augment.margin
    expected = scipy.ndimage.rotate(patches[0].astype(float), angle, axes=(0, 1), reshape=False, order=1)
    low, high = RANGES[dtype]

    found = augment(patches, [Change(rotation=angle)])[0].astype(float)
    np.testing.assert_allclose(found, expected[m:-m, m:-m], atol=0.006 * (high - low))


@pytest.mark.parametrize(
    ("size", "rotation", "blur"), [((24, 24), 10, 0), ((16, 61), 45, 0), ((61, 16), 180, 0), ((16, 61), 12, 1.5)]
)
def test_the_margin_keeps_the_border_out_of_sight(size, rotation, blur):
    ranges = Ranges(rotation=rotation, blur=blur)
    augment = augmenter(ranges, 1, "uint8", size=size)
    m = augment.margin
    patches = np.zeros((8, size[0] + 2 * m, size[1] + 2 * m, 1), np.uint8)
    changes = [Change(rotation=a, blur=blur) for a in np.linspace(-rotation, rotation, 8)]
    padded = np.pad(patches, ((0, 0), (9, 9), (9, 9), (0, 0)), constant_values=255)

    assert not augment(padded, changes).any()  # the functions take any size of surroundings, and use this much of them
    assert (
        blur
        or augment(np.pad(patches[:, 4:-4, 4:-4], ((0, 0), (9, 9), (9, 9), (0, 0)), constant_values=255), changes).any()
    )


def test_a_mask_is_turned_like_its_image():
    """The image is its own coordinates: where a pixel came from can be read off it."""
    ranges = Ranges(flip=True, quarter_turns=True, rotation=10)
    augment = augmenter(ranges, 2, "uint16")
    m, side = augment.margin, SIZE[0] + 2 * augment.margin
    grid = np.stack(np.meshgrid(*2 * [np.arange(side) * 1000], indexing="ij"), axis=-1).astype(np.uint16)
    changes = drawn(ranges, 20)
    image, mask = augment(np.stack([grid] * 20), changes), augment.turn(np.stack([grid] * 20), changes)

    assert set(np.unique(mask) % 1000) == {0}  # nothing between two labels
    assert np.abs(image.astype(int) - mask.astype(int)).max() <= 504
    assert m > 0


def test_blur_is_that_of_scipy():
    augment = augmenter(Ranges(blur=2))
    patches, m = picture(4, augment.margin), augment.margin
    changes = [Change(blur=b) for b in (0, 0.4, 1, 2)]
    for patch, found, change in zip(patches, augment(patches, changes), changes):
        expected = patch.astype(float)
        if change.blur:
            expected = scipy.ndimage.gaussian_filter(expected, (change.blur, change.blur, 0), radius=m)
        np.testing.assert_allclose(found.astype(float), expected[m:-m, m:-m], atol=0.51)


@pytest.mark.parametrize(("name", "field"), [("Contrast", "contrast"), ("Color", "saturation")])
@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_contrast_and_saturation_are_close_to_those_of_pillow(name, field, factor):
    patches = picture(1)
    patches[..., 1:] = patches[
        ..., :1
    ]  # grey: Pillow's contrast is about the mean grey value, ours about each channel's
    if field == "saturation":
        patches = picture(1)
    expected = np.asarray(getattr(ImageEnhance, name)(Image.fromarray(patches[0])).enhance(factor))
    found = augmenter(Ranges(contrast=0.5, saturation=0.5))(patches, [Change(**{field: factor})])[0]

    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=2)


@pytest.mark.parametrize("dtype", RANGES)
def test_brightness_and_contrast_have_one_meaning_for_all_dtypes(dtype):
    patches = picture(2, channels=5, dtype=dtype)
    low, high = RANGES[dtype]
    found = augmenter(Ranges(brightness=0.2, contrast=0.5), 5, dtype)(
        patches, [Change(brightness=0.11, contrast=1.4), Change(brightness=-0.2, contrast=0.6)]
    )
    for patch, result, (brightness, contrast) in zip(patches, found, [(0.11, 1.4), (-0.2, 0.6)]):
        values = patch.astype(float)
        mean = values.mean(axis=(0, 1))
        expected = ((values - mean) * contrast + mean + brightness * (high - low)).clip(low, high)
        np.testing.assert_allclose(result, expected, atol=0.51 if dtype != "float32" else 1e-3, rtol=1e-4)


def test_hue_keeps_the_grey_value_and_turns_the_colour_as_far_as_asked():
    patches = picture(1) // 2 + 60
    yiq = skimage.color.rgb2yiq(patches[0].astype(float))
    for angle in (-30, 15):
        turned = skimage.color.rgb2yiq(augmenter(Ranges(hue=30))(patches, [Change(hue=angle)])[0].astype(float))
        np.testing.assert_allclose(turned[..., 0], yiq[..., 0], atol=1.5)
        strong = np.hypot(yiq[..., 1], yiq[..., 2]) > 15
        difference = np.angle((turned[..., 1] + 1j * turned[..., 2]) / (yiq[..., 1] + 1j * yiq[..., 2]), deg=True)
        np.testing.assert_allclose(difference[strong], angle, atol=6)
        np.testing.assert_allclose(np.median(difference[strong]), angle, atol=0.5)


@pytest.mark.parametrize("dtype", RANGES)
def test_noise_is_normal_and_every_value_has_its_own(dtype):
    low, high = RANGES[dtype]
    patches = np.full((2, 128, 128, 3), (low + high) / 2, dtype)
    found = augmenter(Ranges(noise=0.1), dtype=dtype, size=(128, 128))(
        patches, [Change(noise=0.05, noise_seed=5), Change(noise=0.05, noise_seed=6)]
    )
    noise = (found.astype(float) - patches) / (high - low) / 0.05

    assert scipy.stats.kstest((noise[0] + np.random.default_rng(0).uniform(-0.5, 0.5, noise[0].shape) / 12.75
                               * (dtype == "uint8")).ravel(), "norm").statistic < 0.02  # fmt: skip
    flat = noise.reshape(2, -1)
    assert abs(np.corrcoef(flat)[0, 1]) < 0.02
    assert abs(np.corrcoef(flat[0, :-1], flat[0, 1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[0, :-1].ravel(), noise[0, 1:].ravel())[0, 1]) < 0.02


def test_stain_jitter_changes_the_amounts_that_scikit_image_finds():
    rng = np.random.default_rng(0)
    amounts = rng.uniform(0.02, 0.12, (32, 32, 3))
    patches = np.rint(skimage.color.hed2rgb(amounts) * 255).astype(np.uint8)[None]
    factors, shifts = (1.2, 0.8, 1.1), (0.1, 0.05, 0.0)
    found = augmenter(Ranges(stain=0.2), size=(32, 32))(patches, [Change(stain_factors=factors, stain_shifts=shifts)])[
        0
    ]
    # scikit-image counts in logarithms to the base of a million.
    expected = skimage.color.rgb2hed(patches[0]) * factors + np.array(shifts) / -np.log(1e-6)

    np.testing.assert_allclose(skimage.color.rgb2hed(found), expected, atol=0.01)


def test_float_images_keep_what_is_not_a_number():
    augment = augmenter(Ranges(contrast=0.5, brightness=0.2, noise=0.1), 1, "float32")
    patches = picture(1, channels=1, dtype="float32")
    patches[0, 3, 4] = np.nan
    found = augment(patches, [Change(contrast=1.5, brightness=0.1, noise=0.1)])

    assert np.argwhere(np.isnan(found)).tolist() == [[0, 3, 4, 0]]


def test_a_patch_comes_out_the_same_in_every_batch():
    augment = augmenter(EVERYTHING)
    patches, changes = picture(19, augment.margin), drawn(EVERYTHING, 19)
    together = augment(patches, changes)
    for first, count in [(0, 1), (18, 1), (5, 9), (3, 16)]:
        part = np.s_[first : first + count]
        np.testing.assert_array_equal(augment(patches[part], changes[part]), together[part])
    for stage in augment.stages.values():
        assert stage.traces == 1


DIGEST = """
import hashlib, sys, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
sys.path.insert(0, "tests/transforms")
from test_augment import EVERYTHING, RANGES, augmenter, drawn, picture
for dtype in ("uint8", "uint16"):
    ranges = EVERYTHING if dtype == "uint8" else EVERYTHING._replace(stain=0)
    augment = augmenter(ranges, dtype=dtype)
    found = augment(picture(9, augment.margin, dtype=dtype), drawn(ranges, 9))
    print(hashlib.sha256(found.tobytes()).hexdigest())
"""


def test_the_bytes_depend_neither_on_threads_nor_on_the_instructions_of_the_processor(pytestconfig):
    said = []
    for threads, flags in [("1", ""), ("4", ""), ("2", "--xla_cpu_max_isa=SSE4_2")]:
        done = subprocess.run(
            [sys.executable, "-c", DIGEST, threads], capture_output=True, text=True, check=True,
            env=os.environ | {"XLA_FLAGS": flags}, cwd=pytestconfig.rootpath,
        )  # fmt: skip
        said.append(done.stdout.split())
    assert len(set(said[0])) == 2
    assert said[0] == said[1] == said[2]


def test_compiled_and_plain_tensorflow_agree():
    augment = augmenter(EVERYTHING)
    patches, changes = picture(8, augment.margin), drawn(EVERYTHING, 8)
    compiled = augment(patches, changes)
    plain = copy.copy(augment)
    plain.stages = {name: stage.plain for name, stage in augment.stages.items()}

    np.testing.assert_array_equal(plain(patches, changes), compiled)


def test_a_change_is_drawn_name_by_name_and_written_as_what_it_does():
    asked = []
    change = draw(EVERYTHING, lambda name: asked.append(name) or 0.25)
    assert len(asked) == len(set(asked))
    few = draw(Ranges(hue=20), lambda name: {"hue": 0.25}[name] if name == "hue" else 0.9)
    assert few.hue == change.hue == -10
    assert few.done() == {"hue": -10}
    assert Change().done() == {}
    json.dumps(change.done())


def test_drawn_numbers_fill_their_ranges():
    changes = drawn(EVERYTHING, 500)
    for name, middle in [("rotation", 0), ("brightness", 0), ("contrast", 1), ("saturation", 1), ("hue", 0)]:
        values = np.array([getattr(change, name) for change in changes])
        width = getattr(EVERYTHING, name)
        assert np.abs(values - middle).max() <= width
        assert values.min() < middle - 0.9 * width < middle + 0.9 * width < values.max()
    assert {change.quarter_turns for change in changes} == {0, 1, 2, 3}
    assert {(change.flip_rows, change.flip_cols) for change in changes} == {(a, b) for a in (0, 1) for b in (0, 1)}


def section(amounts, background=4000, seed=0):
    """Pixels of a section of two stains with unlike amounts, and of the empty glass beside it."""
    rng = np.random.default_rng(seed)
    stains = np.array([[0.6, 0.25], [0.7, 0.85], [0.38, 0.46]])
    stains = stains / np.linalg.norm(stains, axis=0)
    concentrations = rng.gamma(3, 0.2, (20000, 2)) * amounts + 0.15 * np.array(amounts)
    pixels = 256 * np.exp(-concentrations @ stains.T) - 1
    glass = rng.normal(250, 2, (background, 3))
    return np.concatenate([pixels, glass]).clip(0, 255).round().astype(np.uint8), stains


def test_macenko_finds_the_stains():
    pixels, stains = section((1.5, 1.0))
    found = stain._stain_vectors(stain.density(pixels)[(stain.density(pixels) >= 0.15).all(axis=1)])
    angles = np.degrees(np.arccos((found * stains).sum(axis=0).clip(-1, 1)))
    assert angles.max() < 6


def test_macenko_makes_pale_and_strong_sections_alike():
    means = []
    for amounts in [(0.8, 1.4), (1.6, 0.7), (1.2, 1.1)]:
        pixels, _ = section(amounts)
        patch = pixels[:20000].reshape(1, 100, 200, 3)
        found = Augmenter(Ranges(), (100, 200), 3, "uint8", (0, 255), normalize=True)(
            patch, [Change()], stain.macenko(pixels)
        )
        means.append((patch.mean(axis=(0, 1, 2)), found.mean(axis=(0, 1, 2))))
    before, after = (np.ptp(np.array(side), axis=0).max() for side in zip(*means))
    assert before > 20
    assert after < before / 4


def test_macenko_refuses_what_has_no_stain():
    with pytest.raises(ValueError, match="0 of 500 pixels are stained, 100 are needed"):
        stain.macenko(np.full((500, 3), 240, np.uint8))


def test_margins():
    assert margin(Ranges(flip=True, quarter_turns=True, hue=5), (64, 32)) == 0
    assert margin(Ranges(rotation=90), (100, 10)) == margin(Ranges(rotation=180), (100, 10)) >= 46
