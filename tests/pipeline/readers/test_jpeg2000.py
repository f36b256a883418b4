"""JPEG 2000: all bits, and the pixels of Pillow."""

import struct

import imagecodecs
import numpy as np
import pytest
from helpers import assert_reads, message_of, open_image, photo, picture, save
from PIL import Image


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


def test_a_jpeg_2000_that_claims_to_be_huge_is_too_large_before_anything_is_decoded(tmp_path):
    data = imagecodecs.jpeg2k_encode(photo(9, 9), codecformat="j2k")
    at = data.index(b"\xff\x51") + 6
    (tmp_path / "a.j2k").write_bytes(data[:at] + struct.pack(">II", 60_000, 60_000) + data[at + 8 :])
    assert message_of(tmp_path / "a.j2k")[0] == "too_large"
