"""WebP, AVIF, JPEG 2000, BMP, GIF, PNM and CMYK: the pixels are those that were written, or another decoder's."""

import struct

import imagecodecs
import numpy as np
import pytest
import tensorflow as tf
from helpers import SAMPLES, assert_reads, exif_of, message_of, open_and_read, part, photo, picture, reason_of
from PIL import Image, ImageOps

from pipeline.readers import open_image
from transforms.grid import Box


def save(path, image, **ways):
    image.save(path, **ways)
    return path


# --- WebP ---


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


# --- GIF and BMP ---


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


# --- AVIF and JPEG 2000 ---


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_an_avif_keeps_all_its_bits(tmp_path, channels, bits):
    dtype = "uint8" if bits == 8 else "uint16"
    pixels = picture(40, 50, channels, dtype) >> (0 if bits == 8 else 16 - bits)
    stored = pixels if channels > 1 else pixels[..., 0]
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(stored, level=100, bitspersample=bits))
    assert_reads(tmp_path / "a.avif", pixels)
    assert open_image(str(tmp_path / "a.avif")).layout[6:8] == ("gray" if channels == 1 else "rgb", bits)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_turns_and_mirrors_of_an_avif_are_applied(tmp_path, orientation):
    path = save(tmp_path / "a.avif", Image.fromarray(photo(60, 90)), exif=exif_of(orientation))
    assert_reads(path, np.asarray(ImageOps.exif_transpose(Image.open(path))), count=3)


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_a_jpeg_2000_keeps_all_its_bits(tmp_path, form, dtype, channels):
    pixels = picture(40, 50, channels, dtype)
    stored = pixels if channels > 1 else pixels[..., 0]
    data = imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, codecformat=form)
    (tmp_path / "a.jp2").write_bytes(data)
    assert_reads(tmp_path / "a.jp2", pixels, count=3)


def test_a_jpeg_2000_of_12_bits_says_how_many(tmp_path):
    pixels = picture(40, 50, 3, "uint16") % 4096
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(pixels, level=0, bitspersample=12))
    assert_reads(tmp_path / "a.jp2", pixels)
    assert open_image(str(tmp_path / "a.jp2")).layout[6:8] == ("rgb", 12)


def test_a_jpeg_2000_of_pillow_is_what_pillow_decodes(tmp_path):
    path = save(tmp_path / "a.jp2", Image.fromarray(photo(100, 131)), quality_layers=[20], irreversible=True)
    assert_reads(path, np.asarray(Image.open(path)))


@pytest.mark.parametrize("suffix", ["jp2", "avif"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.95])
def test_what_was_cut_says_so(tmp_path, suffix, keep):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(photo(200, 300)))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert reason_of(path) in ("corrupt_data", "corrupt_header")


def test_a_jpeg_2000_that_claims_to_be_huge_is_too_large_before_anything_is_decoded(tmp_path):
    data = imagecodecs.jpeg2k_encode(photo(9, 9), codecformat="j2k")
    at = data.index(b"\xff\x51") + 6
    (tmp_path / "a.j2k").write_bytes(data[:at] + struct.pack(">II", 60_000, 60_000) + data[at + 8 :])
    assert message_of(tmp_path / "a.j2k")[0] == "too_large"


# --- PNM ---


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_pnm_keeps_all_its_bits_and_is_read_by_rows(tmp_path, channels, dtype):
    pixels = picture(40, 50, channels, dtype)
    head = b"P%d\n# made by hand\n50 40\n%d\n" % (5 if channels == 1 else 6, np.iinfo(dtype).max)
    (tmp_path / "a.pnm").write_bytes(head + pixels.astype(pixels.dtype.newbyteorder(">")).tobytes())
    assert_reads(tmp_path / "a.pnm", pixels, (1, 50))


def test_pnm_of_pillow_is_what_was_written(tmp_path):
    for mode, block in [("RGB", (1, 91)), ("L", (1, 91)), ("1", None)]:
        image = Image.fromarray(photo(61, 91)).convert(mode)
        expected = np.asarray(image.convert("L") if mode == "1" else image)
        assert_reads(save(tmp_path / "a.ppm", image), expected.reshape(61, 91, -1), block)


def test_a_pnm_of_text_is_read(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P2 3 2 # a comment\n1000\n0 1 2 # and another\n 998 999 1000\n")
    assert_reads(tmp_path / "a.pgm", np.array([[0, 1, 2], [998, 999, 1000]], np.uint16)[..., None])
    (tmp_path / "b.pbm").write_bytes(b"P1\n3 2\n1 0 1\n010\n")
    assert_reads(tmp_path / "b.pbm", np.array([[0, 255, 0], [255, 0, 255]], np.uint8)[..., None])
    (tmp_path / "c.ppm").write_bytes(b"P3\n1 1\n255\n1 2 3\n")
    assert_reads(tmp_path / "c.ppm", np.array([[[1, 2, 3]]], np.uint8))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_pfm_has_its_last_row_first(tmp_path, order):
    pixels = picture(40, 50, 3, "float32")
    head = b"PF\n50 40\n%s1.0\n" % (b"-" if order == "<" else b"")
    (tmp_path / "a.pfm").write_bytes(head + pixels[::-1].astype(order + "f4").tobytes())
    assert_reads(tmp_path / "a.pfm", pixels, (1, 50))


def test_a_pam_has_any_number_of_channels(tmp_path):
    pixels = picture(40, 50, 5, "uint16")
    head = b"P7\nWIDTH 50\nHEIGHT 40\nDEPTH 5\nMAXVAL 65535\nTUPLTYPE X\nENDHDR\n"
    (tmp_path / "a.pam").write_bytes(head + pixels.astype(">u2").tobytes())
    assert_reads(tmp_path / "a.pam", pixels, (1, 50))


def test_a_pnm_that_was_cut_gives_the_rows_that_it_has(tmp_path):
    pixels = picture(40, 50)
    (tmp_path / "a.ppm").write_bytes(b"P6 50 40 255\n" + pixels.tobytes()[:-10])
    reader = open_image(str(tmp_path / "a.ppm"))
    np.testing.assert_array_equal(reader.read(Box(0, 3, 39, 40)), part(pixels, Box(0, 3, 39, 40)))
    assert reason_of(tmp_path / "a.ppm", box=Box(39, 0, 1, 1)) == "corrupt_data"


@pytest.mark.parametrize(
    "data", [b"P6 ", b"P6 5 x 255\n", b"P6 0 5 255\n", b"P5 5 5 0\n1", b"P5 5 5 70000\n1", b"P6 900000 900000 255\nabc",
             b"P7\nWIDTH 5\n", b"P7\nWIDTH 5\nENDHDR\n"],
)  # fmt: skip
def test_a_pnm_without_a_sane_header_has_a_corrupt_header(tmp_path, data):
    (tmp_path / "a.pnm").write_bytes(data)
    assert reason_of(tmp_path / "a.pnm") == "corrupt_header"


# --- CMYK ---


def test_a_cmyk_jpeg_is_what_pillow_decodes(tmp_path):
    path = save(tmp_path / "a.jpg", Image.fromarray(picture(40, 50, 4), "CMYK"))
    expected = np.asarray(Image.open(path))
    assert_reads(path, expected)
    assert open_image(str(path)).layout.colour == "cmyk"


def test_every_picture_has_one_level_and_one_page(tmp_path):
    for suffix in ("webp", "avif", "jp2", "bmp", "gif", "ppm", "png", "jpg"):
        path = save(tmp_path / f"a.{suffix}", Image.fromarray(photo(20, 30)))
        assert message_of(path, 1)[0] == "no_such_level"
        with pytest.raises(Exception, match="no_such_page"):
            open_image(str(path), page=1)
        assert open_image(str(path), page=0).layout[:2] == (20, 30)


def test_the_resolution_of_a_slide_and_the_pyramid_of_a_file_are_in_the_layout(tmp_path):
    assert open_image(str(SAMPLES / "slides/CMU-1-Small-Region.svs")).layout.mpp == (0.499, 0.499)
    assert open_image(str(SAMPLES / "photos/retina.jpg")).layout.mpp is None
