"""PNG: all bits, palettes and transparency, against TensorFlow, Pillow and files made by hand."""

import io
import os
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    Watched,
    assert_reads,
    chunk,
    exif_of,
    message_of,
    open_and_read,
    open_image,
    picture,
    reason_of,
    shown,
)
from PIL import Image, ImageOps

from pipeline import storage


def make_png(height, width, depth, kind, rows, before=b"", after=b"", interlaced=0):
    """A PNG by hand: ``rows`` are packed rows of pixels, each gets filter 0."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_png_keeps_all_its_bits(tmp_path, channels, dtype):
    pixels = picture(37, 53, channels, dtype)
    data = imagecodecs.png_encode(pixels)
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(tf.io.decode_png(data, dtype=dtype), pixels)
    assert_reads(tmp_path / "a.png", pixels)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_levels_of_few_bits_are_spread_over_the_whole_range(tmp_path, depth):
    levels = np.random.default_rng(0).integers(0, 2**depth, (5, 16), np.uint8)
    bits = np.unpackbits(levels[..., None], axis=-1)[..., -depth:]
    rows = np.packbits(bits.reshape(5, -1), axis=-1)
    (tmp_path / "a.png").write_bytes(make_png(5, 16, depth, 0, rows))
    assert_reads(tmp_path / "a.png", (levels * (255 // (2**depth - 1)))[..., None])


PALETTE = np.array([[255, 0, 9], [1, 2, 3], [40, 50, 60]], np.uint8)


def test_a_palette_becomes_its_colours(tmp_path):
    numbers = np.array([[0, 1, 2, 1], [2, 2, 0, 1]], np.uint8)
    (tmp_path / "a.png").write_bytes(make_png(2, 4, 8, 3, numbers, chunk(b"PLTE", PALETTE.tobytes())))
    assert_reads(tmp_path / "a.png", PALETTE[numbers])


def test_a_palette_with_transparency_gets_an_alpha_channel(tmp_path):
    numbers = np.array([[0, 1, 2, 1], [2, 2, 0, 1]], np.uint8)
    before = chunk(b"PLTE", PALETTE.tobytes()) + chunk(b"tRNS", b"\x07\x80")
    (tmp_path / "a.png").write_bytes(make_png(2, 4, 8, 3, numbers, before))
    with_alpha = np.column_stack([PALETTE, np.array([7, 128, 255], np.uint8)])
    assert_reads(tmp_path / "a.png", with_alpha[numbers])


def test_a_palette_of_one_bit_becomes_its_colours(tmp_path):
    rows = [[0b10110010], [0b01000001]]
    (tmp_path / "a.png").write_bytes(make_png(2, 8, 1, 3, rows, chunk(b"PLTE", PALETTE[:2].tobytes())))
    assert_reads(tmp_path / "a.png", PALETTE[[[1, 0, 1, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0, 1]]])


def test_a_transparent_colour_becomes_an_alpha_channel(tmp_path):
    grey = np.array([[5, 6, 5], [7, 8, 9]], np.uint8)
    (tmp_path / "grey.png").write_bytes(make_png(2, 3, 8, 0, grey, chunk(b"tRNS", b"\0\5")))
    assert_reads(tmp_path / "grey.png", np.dstack([grey, np.where(grey == 5, 0, 255).astype(np.uint8)]))
    rgb = np.array([[[1, 2, 3], [1, 2, 4]], [[0, 0, 0], [1, 2, 3]]], np.uint8)
    data = make_png(2, 2, 8, 2, rgb.reshape(2, 6), chunk(b"tRNS", b"\0\1\0\2\0\3"))
    (tmp_path / "rgb.png").write_bytes(data)
    assert_reads(tmp_path / "rgb.png", np.dstack([rgb, np.array([[0, 255], [255, 0]], np.uint8)]))


def test_an_interlaced_png_is_read(tmp_path):
    pixels = picture(21, 13)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [row.tobytes() for r, c, dr, dc in passes for row in pixels[r::dr, c::dc]]  # PNG specification, 8.2
    (tmp_path / "a.png").write_bytes(make_png(21, 13, 8, 2, rows, interlaced=1))
    assert_reads(tmp_path / "a.png", pixels)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (chunk(b"eXIf", exif_of(6)), b""),
        pytest.param(b"", chunk(b"eXIf", exif_of(6))),
        pytest.param(chunk(b"eXIf", exif_of(6, bytes(1 << 16))), b""),
    ],
    ids=["before the pixels", "after the pixels", "large"],
)  # fmt: skip
def test_the_orientation_of_a_png_is_found_wherever_it_stands(tmp_path, before, after):
    stored = picture(5, 9)
    (tmp_path / "a.png").write_bytes(make_png(5, 9, 8, 2, stored.reshape(5, -1), before, after))
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(expected, shown(stored, 6))
    np.testing.assert_array_equal(open_and_read(tmp_path / "a.png")[1], expected)


def test_a_png_with_broken_exif_is_read_as_stored(tmp_path):
    data = make_png(5, 9, 8, 2, picture(5, 9).reshape(5, -1), chunk(b"eXIf", b"garbage!"))
    (tmp_path / "a.png").write_bytes(data)
    assert_reads(tmp_path / "a.png", picture(5, 9))


def test_a_transparent_colour_beside_an_alpha_channel_is_ignored(tmp_path):
    pixels = picture(5, 9, 4)
    data = make_png(5, 9, 8, 6, pixels.reshape(5, -1), chunk(b"tRNS", b"\0\0\0\0\0\0"))
    (tmp_path / "a.png").write_bytes(data)
    assert_reads(tmp_path / "a.png", pixels)


def test_a_png_whose_checksum_is_wrong_is_corrupt(tmp_path):
    data = bytearray(make_png(5, 9, 8, 2, picture(5, 9).reshape(5, -1)))
    data[-30] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    assert reason_of(tmp_path / "a.png") == "corrupt_data"


def test_a_png_that_claims_to_be_huge_is_too_large_before_anything_is_decoded(tmp_path):
    (tmp_path / "a.png").write_bytes(make_png(100_000, 100_000, 8, 2, []))
    assert message_of(tmp_path / "a.png") == (
        "too_large",
        "100000 x 100000 x 3 uint8 takes 28610 MiB, and this format can only be decoded whole, up to 512 MiB; "
        "convert it to a tiled TIFF",
    )


@pytest.mark.parametrize(
    "data",
    [
        make_png(0, 5, 8, 2, []),
        make_png(5, 0, 8, 2, []),
        make_png(5, 5, 8, 5, []),
        make_png(5, 5, 8, 2, [])[:20],
        make_png(5, 5, 8, 2, [])[:33],
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"123") + chunk(b"IDAT", b""),
        b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b""),
    ],
    ids=[
        "no rows",
        "no columns",
        "no such kind",
        "cut in IHDR",
        "cut after IHDR",
        "signature",
        "short IHDR",
        "no IHDR",
    ],
)
def test_a_png_without_a_sane_header_has_a_corrupt_header(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    assert reason_of(tmp_path / "a.png") == "corrupt_header"


def test_opening_a_png_leaves_its_pixels_alone(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(picture(500, 600)))  # IDAT chunks of 8 KiB
    files = []
    buffered = lambda uri: io.BufferedReader(files.append(Watched(uri)) or files[-1])
    monkeypatch.setattr(storage, "open_read", buffered)
    open_image(str(tmp_path / "a.png"))
    assert files[0].given < os.path.getsize(tmp_path / "a.png") / 5
