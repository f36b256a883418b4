"""PNM, PAM and PFM: all bits, read by rows."""

import numpy as np
import pytest
from helpers import assert_reads, open_image, part, photo, picture, reason_of, save
from PIL import Image

from transforms.grid import Box


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
