"""What is asked for is what comes: bands, colours and types; and nothing else is changed."""

import numpy as np
import pytest
import tifffile
from helpers import boxes_of, part, photo, picture
from PIL import Image

from pipeline.config import Input
from pipeline.errors import Unreadable
from pipeline.readers import converted
from pipeline.readers.converted import Choice, open_as
from transforms.pixels import scaled, to_gray


def read(path, **choice):
    reader = open_as(str(path), Choice(**choice))
    height, width, channels, dtype = reader.layout[:4]
    whole = next(boxes_of(height, width))
    pixels = np.array(reader.read(whole))
    for box in boxes_of(height, width, 5):
        np.testing.assert_array_equal(reader.read(box), part(pixels, box))
    reader.close()
    assert (*pixels.shape, pixels.dtype.name) == (height, width, channels, dtype)
    return pixels


def reason(path, **choice):
    with pytest.raises(Unreadable) as caught:
        open_as(str(path), Choice(**choice))
    return caught.value.args


@pytest.fixture
def tiff(tmp_path):
    def write(pixels, **ways):
        path = tmp_path / "a.tif"
        planes = {"planarconfig": "contig"} if pixels.ndim == 3 else {}
        tifffile.imwrite(path, pixels, **{"photometric": "minisblack", "tile": (16, 16)} | planes | ways)
        return path

    return write


def test_nothing_is_converted_without_being_asked(tmp_path):
    pixels = picture(40, 50, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), pixels)
    np.testing.assert_array_equal(read(tmp_path / "a.png", dtype="uint16"), pixels)


def test_the_choice_is_that_of_the_configuration():
    config = Input(images="a", level=2, page=3, bands=[3, 2, 1], convert="rgb", depth="scale", dtype="uint16")
    assert Choice.of(config) == Choice(2, 3, (3, 2, 1), "rgb", "scale", "uint16")


def test_bands_come_in_the_order_that_is_asked_for(tiff):
    pixels = picture(40, 50, 6, "uint16")
    path = tiff(pixels)
    np.testing.assert_array_equal(read(path, bands=(4, 3, 2)), pixels[..., [3, 2, 1]])
    np.testing.assert_array_equal(read(path, bands=(6,)), pixels[..., 5:])
    np.testing.assert_array_equal(read(path, bands=(1, 1)), pixels[..., [0, 0]])
    assert reason(path, bands=(1, 7)) == ("no_such_band", "has 6 bands, asked for band 7; the first is 1")


def test_three_bands_are_a_colour_image(tiff):
    pixels = picture(40, 50, 6)
    path = tiff(pixels)
    expected = to_gray(pixels[..., [3, 2, 1]], "rgb")
    np.testing.assert_array_equal(read(path, bands=(4, 3, 2), convert="gray"), expected)
    np.testing.assert_array_equal(read(path, bands=(5,), convert="rgb"), pixels[..., [4, 4, 4]])


def test_bands_without_a_colour_are_not_converted(tiff):
    code, message = reason(tiff(picture(40, 50, 6)), convert="rgb")
    assert code == "unsupported_mode"
    assert message == "6 bands of no known colour, which no formula makes rgb; see input.bands"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
@pytest.mark.parametrize("convert", ["rgb", "gray"])
def test_a_png_of_any_mode_becomes_what_pillow_makes_of_it(tmp_path, mode, convert):
    image = Image.fromarray(photo(40, 50)).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.convert("RGB"))  # without blending, as here
    if convert == "gray":
        expected = np.asarray(image.convert("RGB").convert("L"))[..., None]
    np.testing.assert_array_equal(read(tmp_path / "a.png", convert=convert), expected)


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
    Image.fromarray(photo(40, 50)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    expected = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB")).astype(int)
    assert np.abs(read(tmp_path / "a.jpg", convert="rgb") - expected).max() <= 1
    assert np.abs(read(tmp_path / "a.jpg", convert="rgb") - photo(40, 50).astype(int)).mean() < 5


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float16"])
def test_widening_changes_no_value(tiff, dtype):
    values = np.random.default_rng(0).integers(-99, 99, (40, 50, 2)).astype(dtype)
    np.testing.assert_array_equal(read(tiff(values), depth="widen", dtype="float32"), values.astype(np.float32))


@pytest.mark.parametrize(("dtype", "wanted"), [("int16", "uint16"), ("uint16", "uint8"), ("float64", "float32"),
                                               ("int32", "float32")])  # fmt: skip
def test_widening_does_not_narrow(tiff, dtype, wanted):
    assert read(tiff(np.ones((40, 50, 2), dtype)), depth="widen", dtype=wanted).dtype == dtype


def test_scaling_knows_how_many_bits_are_in_use(tmp_path, tiff):
    pixels = picture(40, 50, 1, "uint16") % 4096
    (tmp_path / "a.pgm").write_bytes(b"P5 50 40 4095\n" + pixels.astype(">u2").tobytes())
    np.testing.assert_array_equal(read(tmp_path / "a.pgm", depth="scale"), scaled(pixels, 4095, "uint8"))
    np.testing.assert_array_equal(read(tiff(pixels[..., 0]), depth="scale"), scaled(pixels, 65535, "uint8"))
    assert read(tiff(pixels[..., 0].astype("int16")), depth="scale").dtype == "int16"  # of no known range


def test_clipping_takes_any_type_to_any_other(tiff):
    values = np.random.default_rng(0).normal(100, 200, (40, 50, 2))
    np.testing.assert_array_equal(read(tiff(values), depth="clip"), np.clip(np.rint(values), 0, 255).astype(np.uint8))


def test_a_large_window_is_converted_in_parts(tiff, monkeypatch):
    pixels = picture(40, 50, 3)
    whole = read(tiff(pixels, photometric="rgb"), convert="gray", depth="scale", dtype="uint16")
    monkeypatch.setattr(converted, "_PIXELS_AT_A_TIME", 170)
    np.testing.assert_array_equal(
        read(tiff(pixels, photometric="rgb"), convert="gray", depth="scale", dtype="uint16"), whole
    )
    np.testing.assert_array_equal(whole, to_gray(pixels, "rgb").astype(np.uint16) * 257)
