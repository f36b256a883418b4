"""AVIF: all bits, and turned as Pillow shows it."""

import imagecodecs
import numpy as np
import pytest
from helpers import assert_reads, exif_of, open_image, photo, picture, save
from PIL import Image, ImageOps


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
