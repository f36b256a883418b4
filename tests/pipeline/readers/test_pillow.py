"""WebP, GIF and BMP: the pixels are those that were written, or another decoder's."""

import struct

import imagecodecs
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_reads, exif_of, message_of, open_and_read, photo, picture, reason_of, save
from PIL import Image, ImageOps


@pytest.mark.parametrize("ways", [{"lossless": True}, {"quality": 60}], ids=str)
@pytest.mark.parametrize("channels", [3, 4])
def test_a_webp_is_what_its_library_decodes(tmp_path, ways, channels):
    stored = np.dstack([photo(60, 90), picture(60, 90, 1)])[..., :channels]
    path = save(tmp_path / "a.webp", Image.fromarray(stored), exact=True, **ways)
    expected = imagecodecs.webp_decode(path.read_bytes(), hasalpha=channels == 4)
    assert ("lossless" not in ways) or np.array_equal(expected, stored)
    assert_reads(path, expected)


@pytest.mark.parametrize("orientation", [3, 6])
def test_the_orientation_of_a_webp_is_applied(tmp_path, orientation):
    path = save(tmp_path / "a.webp", Image.fromarray(photo(60, 90)), lossless=True, exif=exif_of(orientation))
    assert_reads(path, np.asarray(ImageOps.exif_transpose(Image.open(path))))


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [photo(60, 90), photo(60, 90)[::-1], photo(60, 90)[:, ::-1]]
    images = [Image.fromarray(frame) for frame in frames]
    path = save(tmp_path / "a.webp", images[0], save_all=True, append_images=images[1:], lossless=True)
    np.testing.assert_array_equal(open_and_read(path)[1][..., :3], frames[0])
    flat = [image.quantize(50) for image in images]
    path = save(tmp_path / "a.gif", flat[0], save_all=True, append_images=flat[1:])
    assert_reads(path, tf.io.decode_gif(path.read_bytes()).numpy()[0])


def test_a_gif_has_the_colours_of_its_palette(tmp_path):
    image = Image.fromarray(photo(60, 90)).quantize(77)
    path = save(tmp_path / "a.gif", image)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), tf.io.decode_gif(path.read_bytes()).numpy()[0])
    assert_reads(path, np.asarray(image.convert("RGB")))


def test_a_transparent_colour_of_a_gif_becomes_alpha(tmp_path):
    image = Image.fromarray(photo(60, 90)).quantize(77)
    path = save(tmp_path / "a.gif", image, transparency=5)
    _, pixels = open_and_read(path)
    assert pixels.shape == (60, 90, 4)
    transparent = np.asarray(image) == 5
    assert 0 < transparent.sum() < transparent.size
    np.testing.assert_array_equal(pixels[..., 3], np.where(transparent, 0, 255))
    np.testing.assert_array_equal(pixels[~transparent][:, :3], np.asarray(image.convert("RGB"))[~transparent])


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_a_bmp_is_what_was_written(tmp_path, mode):
    image = Image.fromarray(photo(61, 91)).convert(mode)
    path = save(tmp_path / "a.bmp", image)
    expected = np.asarray(image.convert("RGB" if mode == "P" else "L" if mode == "1" else mode))
    assert_reads(path, expected if expected.ndim == 3 else expected[..., None])
    if mode == "RGB":
        np.testing.assert_array_equal(tf.io.decode_bmp(path.read_bytes()), expected)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "webp"])
def test_a_picture_that_was_cut_has_corrupt_data(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(photo(200, 300)).quantize(200).convert("RGB"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason_of(path) in ("corrupt_data", "corrupt_header")


def test_a_bmp_that_claims_to_be_huge_is_too_large_before_anything_is_decoded(tmp_path):
    data = bytearray(save(tmp_path / "a.bmp", Image.fromarray(photo(9, 9))).read_bytes())
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    (tmp_path / "a.bmp").write_bytes(data)
    assert message_of(tmp_path / "a.bmp")[0] == "too_large"
