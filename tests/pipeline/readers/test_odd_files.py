"""Odd files of the world: each is read, as other decoders read it, or says why not."""

import io
import os
import struct

import numpy as np
import pytest
import tensorflow as tf
import tifffile
from helpers import ODD, chunk, message_of, open_and_read, open_image, reason_of
from PIL import Image, ImageOps

from pipeline.readers import Layout

FIRST = Layout(128, 128, 3, "uint8", 128, 128)


ODD_FILES = {
    "12bit.cropped.tif": Layout(100, 100, 1, "uint16", 54, 100),
    "16bit.MM.cropped.tif": Layout(64, 64, 1, "uint16", 1, 64),
    "16bit.cropped.tif": Layout(64, 64, 1, "uint16", 1, 64),
    "LICENSE.txt": "unknown_format",
    "apng_dispose_op_previous.png": Layout(64, 128, 4, "uint8", 64, 128),
    "avif_rot1mir0.avif": Layout(427, 640, 3, "uint8", 427, 640),
    "broken.png": "corrupt_header",
    "broken_data_stream.png": (FIRST, "corrupt_data"),
    "decompression_bomb.gif": "too_large",
    "dispose_bgnd.gif": Layout(100, 100, 3, "uint8", 100, 100),
    "expected_to_read.jp2": (Layout(480, 640, 3, "uint8", 480, 640), "corrupt_data"),
    "g4_orientation_6.tif": Layout(88, 590, 1, "uint8", 88, 590),
    "hopper.Lab.tif": Layout(128, 128, 3, "uint8", 1, 128),
    "hopper_16bit.pgm": Layout(128, 128, 1, "uint16", 1, 128),
    "hopper_bw_500.png": Layout(500, 500, 1, "uint8", 500, 500),
    "hopper_g4.tif": Layout(128, 128, 1, "uint8", 128, 128),
    "hopper_orientation_2.jpg": FIRST,
    "hopper_orientation_3.jpg": FIRST,
    "hopper_orientation_4.jpg": FIRST,
    "hopper_orientation_5.jpg": FIRST,
    "hopper_orientation_6.jpg": FIRST,
    "hopper_orientation_6.webp": FIRST,
    "hopper_orientation_7.jpg": FIRST,
    "hopper_orientation_8.jpg": FIRST,
    "hopper_unknown_pixel_mode.tif": Layout(128, 128, 3, "uint32", 1, 128),
    "hopper_webp.tif": FIRST,
    "i_trns.png": Layout(64, 64, 2, "uint16", 64, 64),
    "iss634.webp": Layout(245, 245, 4, "uint8", 245, 245),
    "libtiff_segfault.tif": "corrupt_header",
    "multipage.tiff": "unsupported_mode",  # a stack
    "orientation_rectangle.jpg": Layout(2, 1, 3, "uint8", 2, 1),
    "pil_sample_cmyk.jpg": Layout(100, 100, 4, "uint8", 100, 100),
    "png_decompression_dos.png": Layout(1, 1, 1, "uint8", 1, 1),
    "seek_too_large.tif": "corrupt_header",
    "sugarshack.mpo": Layout(480, 640, 3, "uint8", 480, 640),
    "tiff_16bit_RGB.tiff": Layout(40, 100, 3, "uint16", 40, 100),
    "tiff_overflow_rows_per_strip.tif": (Layout(374, 278, 3, "uint8", 374, 278), "corrupt_data"),
    "tiff_strip_cmyk_jpeg.tif": Layout(100, 100, 4, "uint8", 100, 100),
    "tiff_tiled_jpeg_oob_read.tif": "corrupt_header",
    "tiff_tiled_planar_16bit_RGB.tiff": Layout(40, 100, 3, "uint16", 40, 100),
    "total-pages-zero.tif": "unsupported_mode",  # a stack
    "truncated_end_chunk.png": FIRST,  # all pixels are there, IEND is not
    "truncated_image.png": (Layout(480, 640, 3, "uint8", 480, 640), "corrupt_data"),
    "truncated_jpeg.jpg": (Layout(100, 100, 3, "uint8", 100, 100), "corrupt_data"),
    "zero_width.gif": "corrupt_header",
}


def test_the_table_of_odd_files_is_complete():
    assert sorted(ODD_FILES) == sorted(os.listdir(ODD))


@pytest.mark.parametrize("name", ODD_FILES)
def test_every_odd_file_is_read_or_says_why_not(name):
    expected = ODD_FILES[name]
    if isinstance(expected, str):
        assert message_of(ODD / name)[0] == expected
        return
    if isinstance(expected, Layout):
        layout, pixels = open_and_read(ODD / name)
        assert layout[:6] == expected[:6]
        assert (*pixels.shape, pixels.dtype.name) == expected[:4]
        return
    layout, reason = expected
    assert open_image(str(ODD / name)).layout[:6] == layout[:6]
    assert reason_of(ODD / name) == reason


@pytest.mark.parametrize(
    "name",
    [*(f"hopper_orientation_{i}.jpg" for i in range(2, 9)), "orientation_rectangle.jpg", "sugarshack.mpo",
     "apng_dispose_op_previous.png", "pil_sample_cmyk.jpg", "tiff_strip_cmyk_jpeg.tif", "avif_rot1mir0.avif",
     "iss634.webp", "hopper_orientation_6.webp", "hopper_16bit.pgm", "12bit.cropped.tif", "16bit.cropped.tif",
     "16bit.MM.cropped.tif"],
)  # fmt: skip
def test_odd_files_are_what_pillow_decodes(name):
    with Image.open(ODD / name) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    _, pixels = open_and_read(ODD / name)
    np.testing.assert_array_equal(pixels, expected if expected.ndim == 3 else expected[..., None])


def test_a_png_that_ends_after_its_pixels_has_them_all():
    data = (ODD / "truncated_end_chunk.png").read_bytes()
    assert data.endswith(b"IDAT")  # a second chunk begins and the file ends
    expected = tf.io.decode_png(data[:-8] + chunk(b"IEND", b"")).numpy()
    np.testing.assert_array_equal(open_and_read(ODD / "truncated_end_chunk.png")[1], expected)


@pytest.mark.parametrize("name", ["png_decompression_dos.png", "hopper_bw_500.png"])
def test_odd_png_files_are_what_tensorflow_decodes(name):
    expected = tf.io.decode_png((ODD / name).read_bytes()).numpy()
    np.testing.assert_array_equal(open_and_read(ODD / name)[1], expected)


def test_one_transparent_grey_of_sixteen_bits_becomes_alpha():
    data = (ODD / "i_trns.png").read_bytes()
    (transparent,) = struct.unpack(">H", data[data.index(b"tRNS") + 4 :][:2])
    grey = tf.io.decode_png(data, channels=1, dtype=tf.uint16).numpy()
    alpha = np.where(grey == transparent, 0, 65535).astype(np.uint16)
    assert 0 < (alpha == 0).sum() < alpha.size
    np.testing.assert_array_equal(open_and_read(ODD / "i_trns.png")[1], np.concatenate([grey, alpha], axis=-1))


def test_the_same_picture_in_planes_and_in_pixels_has_the_same_pixels():
    planes, pixels = (open_and_read(ODD / f"tiff_{way}16bit_RGB.tiff")[1] for way in ("tiled_planar_", ""))
    np.testing.assert_array_equal(planes, pixels)
    np.testing.assert_array_equal(pixels, tifffile.imread(ODD / "tiff_16bit_RGB.tiff"))


def test_webp_in_tiff_is_what_pillow_decodes_of_its_strip():
    with tifffile.TiffFile(ODD / "hopper_webp.tif") as file:
        start, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    with Image.open(io.BytesIO((ODD / "hopper_webp.tif").read_bytes()[start : start + count])) as image:
        expected = np.asarray(image)
    np.testing.assert_array_equal(open_and_read(ODD / "hopper_webp.tif")[1], expected)
