"""A window is the same pixels as the same part of the whole image, judged by other decoders; what is broken says so."""

import concurrent.futures
import errno
import io
import itertools
import os
import shutil
import signal
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tensorflow as tf
import tifffile
from helpers import (
    GREY,
    ODD,
    RGB,
    SAMPLES,
    TILED,
    assert_reads,
    boxes_of,
    chunk,
    exif_of,
    jpeg_of,
    message_of,
    open_and_read,
    part,
    photo,
    picture,
    reason_of,
    shown,
    write_tiff,
)
from PIL import Image, ImageOps

from pipeline import storage
from pipeline.errors import Unreadable
from pipeline.readers import Layout, open_image, whole
from pipeline.readers.formats import tiff
from transforms.grid import Box

# --- TIFF: how it is written, the pixels, and the block that the layout has to tell ---

TIFFS = {
    "tiled": (RGB | TILED, (100, 131, 3), "uint8", (32, 48)),
    "tiled, of one tile": (RGB | {"tile": (112, 144)}, (100, 131, 3), "uint8", (100, 131)),
    "tiled, exact multiple": (RGB | TILED, (64, 96, 3), "uint8", (32, 48)),
    "tiled, deflate": (RGB | TILED | {"compression": "deflate"}, (100, 131, 3), "uint8", (32, 48)),
    "tiled, deflate, predictor": (
        RGB | TILED | {"compression": "deflate", "predictor": True}, (100, 131, 3), "uint16", (32, 48),
    ),
    "tiled, lzw, predictor": (RGB | TILED | {"compression": "lzw", "predictor": True}, (97, 53, 3), "uint8", (32, 48)),
    "tiled, zstd": (RGB | TILED | {"compression": "zstd"}, (97, 53, 3), "uint16", (32, 48)),
    "tiled, float, predictor": (
        GREY | TILED | {"compression": "deflate", "predictor": True}, (97, 53, 1), "float32", (32, 48),
    ),
    "tiled, float": (GREY | TILED, (97, 53, 1), "float32", (32, 48)),
    "tiled, grey": (GREY | TILED | {"compression": "lzw"}, (97, 53, 1), "uint16", (32, 48)),
    "tiled, 4 channels": (RGB | TILED | {"extrasamples": ["unassalpha"]}, (97, 53, 4), "uint8", (32, 48)),
    "tiled, 6 channels": (
        GREY | TILED | {"planarconfig": "contig", "compression": "zstd"}, (97, 53, 6), "uint16", (32, 48),
    ),
    "tiled, planes apart": (
        RGB | TILED | {"planarconfig": "separate", "compression": "deflate"}, (97, 53, 3), "uint8", (32, 48),
    ),
    "tiled, 6 planes apart": (GREY | TILED | {"planarconfig": "separate"}, (97, 53, 6), "float32", (32, 48)),
    "tiled, big-endian": (RGB | TILED | {"byteorder": ">"}, (97, 53, 3), "uint16", (32, 48)),
    "tiled, big-endian, predictor": (
        GREY | TILED | {"byteorder": ">", "compression": "lzw", "predictor": True}, (97, 53, 1), "float32", (32, 48),
    ),
    "tiled, BigTIFF": (RGB | TILED | {"bigtiff": True, "compression": "lzw"}, (97, 53, 3), "uint8", (32, 48)),
    "tiled, BigTIFF, big-endian": (
        RGB | TILED | {"bigtiff": True, "byteorder": ">", "compression": "zstd"}, (97, 53, 3), "uint16", (32, 48),
    ),
    "tiled, lossless JPEG 2000": (RGB | TILED | {"compression": "jpeg2000"}, (97, 53, 3), "uint8", (32, 48)),
    "tiled, lossless WebP": (
        RGB | TILED | {"compression": "webp", "compressionargs": {"level": -1}}, (97, 53, 3), "uint8", (32, 48),
    ),
    "strips": (RGB | {"rowsperstrip": 7, "compression": "deflate"}, (100, 131, 3), "uint8", (7, 131)),
    "strips, lzw, predictor": (
        RGB | {"rowsperstrip": 8, "compression": "lzw", "predictor": True}, (97, 53, 3), "uint16", (8, 53),
    ),
    "strips, planes apart": (
        RGB | {"rowsperstrip": 9, "planarconfig": "separate", "compression": "zstd"}, (97, 53, 3), "uint16", (9, 53),
    ),
    "strips, planes apart, uncompressed": (
        RGB | {"rowsperstrip": 9, "planarconfig": "separate"}, (97, 53, 3), "uint8", (9, 53),
    ),
    "strips, packbits": (GREY | {"rowsperstrip": 10, "compression": "packbits"}, (97, 53, 1), "uint8", (10, 53)),
    "strips, lzma": (GREY | {"rowsperstrip": 10, "compression": "lzma"}, (97, 53, 1), "float32", (10, 53)),
    "one strip, deflate": (RGB | {"rowsperstrip": 97, "compression": "deflate"}, (97, 53, 3), "uint8", (97, 53)),
    "one strip": (RGB | {"rowsperstrip": 97}, (97, 53, 3), "uint8", (1, 53)),
    "one strip, grey, big-endian": (GREY | {"byteorder": ">"}, (97, 53, 1), "uint16", (1, 53)),
    "one strip, float": (GREY, (97, 53, 1), "float32", (1, 53)),
    "one strip, float, big-endian": (GREY | {"byteorder": ">"}, (97, 53, 1), "float32", (1, 53)),
    "one strip, 4 channels": (RGB | {"extrasamples": ["unassalpha"]}, (97, 53, 4), "uint16", (1, 53)),
    "one strip, 6 channels": (GREY | {"planarconfig": "contig"}, (97, 53, 6), "uint8", (1, 53)),
    "uncompressed strips in a row": (RGB | {"rowsperstrip": 7}, (100, 131, 3), "uint8", (1, 131)),
    "one pixel": (RGB, (1, 1, 3), "uint8", (1, 1)),
    "one pixel, tiled": (RGB | {"tile": (16, 16)}, (1, 1, 3), "uint8", (1, 1)),
    "one row": (GREY | {"tile": (16, 16), "compression": "lzw"}, (1, 97, 1), "uint16", (1, 16)),
    "one column": (GREY | {"rowsperstrip": 16, "compression": "lzw"}, (97, 1, 1), "uint16", (16, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", TIFFS)
def test_windows_of_a_tiff_are_what_was_written(tmp_path, name):
    ways, shape, dtype, block = TIFFS[name]
    pixels = picture(*shape, dtype)
    write_tiff(tmp_path / "a.tif", pixels, **ways)
    assert_reads(tmp_path / "a.tif", pixels, block)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("ways", [TILED, {"rowsperstrip": 16}], ids=["tiles", "strips"])
def test_windows_of_jpeg_in_tiff_are_what_pillow_decodes(tmp_path, ways, subsampling):
    path = tmp_path / "a.tif"
    write_tiff(path, photo(100, 131), compression="jpeg", subsampling=subsampling, **RGB, **ways)
    with Image.open(path) as image:
        expected = np.asarray(image)
    assert np.abs(expected.astype(int) - photo(100, 131)).mean() < 10
    assert_reads(path, expected, (32, 48) if "tile" in ways else (16, 131))


def test_windows_of_grey_jpeg_in_tiff_are_what_pillow_decodes(tmp_path):
    write_tiff(tmp_path / "a.tif", photo(100, 131)[..., :1], compression="jpeg", **GREY, **TILED)
    with Image.open(tmp_path / "a.tif") as image:
        assert_reads(tmp_path / "a.tif", np.asarray(image)[..., None], (32, 48))


def test_jpeg_with_colours_as_they_are_keeps_them(tmp_path):
    colours = {"compressionargs": {"outcolorspace": "rgb"}}
    write_tiff(tmp_path / "a.tif", photo(100, 131), compression="jpeg", **RGB, **TILED, **colours)
    with Image.open(tmp_path / "a.tif") as image:
        expected = np.asarray(image)
    assert np.abs(expected.astype(int) - photo(100, 131)).mean() < 10
    assert_reads(tmp_path / "a.tif", expected, (32, 48))


YCBCR = "YCBCR is let through for every codec, and only JPEG turns it into RGB: the colours are silently wrong"


@pytest.mark.parametrize(
    "ways",
    [{}, {"compression": "deflate"}, {"compression": "lzw", **TILED}, {"compression": 33003, **TILED}],
    ids=["uncompressed", "deflate", "lzw", "Aperio JPEG 2000"],
)
def test_ycbcr_without_jpeg_is_refused_or_turned_into_rgb(tmp_path, ways):
    ycbcr = np.asarray(Image.fromarray(photo(100, 131)).convert("YCbCr"))
    write_tiff(tmp_path / "a.tif", ycbcr, photometric="ycbcr", **ways)
    try:
        _, pixels = open_and_read(tmp_path / "a.tif")
    except Unreadable as error:
        assert error.reason == "unsupported_mode"
    else:
        np.testing.assert_allclose(pixels.astype(int), photo(100, 131), atol=3)


def test_tiles_that_the_file_leaves_out_are_filled_with_nodata(tmp_path):
    pixels = picture(97, 53)
    for nodata, expected in [(None, 0), ("7", 7)]:
        tags = [(42113, "s", 0, nodata, True)] if nodata else []
        write_tiff(tmp_path / "a.tif", pixels, **RGB, **TILED, compression="deflate", extratags=tags)
        with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
            offsets, counts = (list(file.pages[0].tags[tag].value) for tag in (324, 325))
            offsets[2] = counts[2] = 0
            file.pages[0].tags[324].overwrite(offsets)
            file.pages[0].tags[325].overwrite(counts)
        sparse = pixels.copy()
        sparse[32:64, 0:48] = expected  # the third of two tiles to a row
        assert_reads(tmp_path / "a.tif", sparse, (32, 48))


@pytest.fixture
def pyramid(tmp_path):
    """A file and its levels: halves of the image above, in SubIFDs."""
    levels = [picture(130, 201), picture(65, 101, seed=1), picture(33, 51, seed=2)]
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(levels[0], subifds=2, compression="deflate", **RGB, **TILED)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, compression="deflate", **RGB, **TILED)
    return tmp_path / "pyramid.tif", levels


def test_levels_of_a_pyramid_are_read_apart(pyramid):
    path, levels = pyramid
    for index, expected in enumerate(levels):
        assert_reads(path, expected, (32, 48), level=index)
    assert message_of(path, 3) == ("no_such_level", "has 3 pyramid levels, asked for level 3")


def test_levels_in_directories_of_their_own_are_a_pyramid_too(tmp_path):
    levels = [picture(128, 200), picture(64, 100, seed=1)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(levels[0], **RGB, **TILED)
        writer.write(levels[1], subfiletype=1, **RGB, **TILED)
    for index, expected in enumerate(levels):
        assert_reads(tmp_path / "a.tif", expected, (32, 48), level=index)


STACKS = {
    "shaped": {}, "ImageJ": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "OME": {"ome": True, "metadata": {"axes": "TYX"}}, "plain": {"metadata": None},
}  # fmt: skip


@pytest.mark.parametrize("ways", STACKS.values(), ids=STACKS)
def test_a_stack_of_pages_is_refused_until_one_is_chosen(tmp_path, ways):
    pixels = picture(40, 30, 5)
    tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), **GREY, **ways)
    reason, message = message_of(tmp_path / "a.tif")
    assert reason == "unsupported_mode"
    assert message.startswith("a stack of 5 pages (")
    assert message.endswith("choose one of 5 with input.page")
    for page in range(5):
        assert_reads(tmp_path / "a.tif", pixels[..., page : page + 1], (1, 30), page=page, count=3)
    with pytest.raises(Unreadable) as caught:
        open_image(str(tmp_path / "a.tif"), page=5)
    assert caught.value.args == ("no_such_page", "has 5 pages, asked for page 5; the first is 0")


@pytest.mark.parametrize("ways", [{"imagej": True}, {"ome": True, **TILED}], ids=["ImageJ", "OME"])
def test_channels_that_are_pages_are_put_together(tmp_path, ways):
    pixels = picture(100, 131, 5, "uint16")
    tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), metadata={"axes": "CYX"}, **GREY, **ways)
    assert_reads(tmp_path / "a.tif", pixels, ways.get("tile", (100, 131)), count=5)


def test_channels_of_each_page_of_a_stack_are_put_together(tmp_path):
    pixels = picture(40, 30, 6, "uint16")
    stack = pixels.transpose(2, 0, 1).reshape(2, 3, 40, 30)
    for axes, channels in [("CZYX", lambda z: [z, 3 + z]), ("ZCYX", lambda z: [3 * z, 3 * z + 1, 3 * z + 2])]:
        tifffile.imwrite(tmp_path / "a.tif", stack, ome=True, metadata={"axes": axes}, **GREY)
        for page in range(6 // len(channels(0))):
            expected = pixels[..., channels(page)]
            assert_reads(tmp_path / "a.tif", expected, (40, 30), page=page, count=3)


@pytest.mark.parametrize("shape", [(40, 30, 1), (1, 40, 30), (1, 1, 40, 30, 1)])
def test_axes_of_one_are_no_stack(tmp_path, shape):
    pixels = picture(40, 30, 1, "uint16")
    tifffile.imwrite(tmp_path / "a.tif", pixels.reshape(shape), tile=(16, 16), photometric="minisblack")
    assert_reads(tmp_path / "a.tif", pixels, (16, 16), count=3)


def test_pages_of_unlike_sizes_are_counted_one_after_the_other(tmp_path):
    images = [picture(40, 30), picture(20, 50, 1, "uint16"), picture(20, 50, 1, "uint16", seed=1), picture(9, 9, 4)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for pixels in images:
            ways = GREY if pixels.shape[-1] == 1 else RGB
            writer.write(pixels.squeeze(), metadata=None, compression="lzw", **ways)
    for page, expected in enumerate(images):
        assert_reads(tmp_path / "a.tif", expected, page=page, count=3)


def test_a_stack_in_one_directory_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture(40, 30, 5).transpose(2, 0, 1), truncate=True, metadata={}, **GREY)
    assert reason_of(tmp_path / "a.tif") == "unsupported_mode"


def test_a_volume_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture(40, 30, 16).transpose(2, 0, 1), volumetric=True, tile=(16, 16, 16))
    assert reason_of(tmp_path / "a.tif") == "unsupported_mode"


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "int32", "float16", "float64"])
def test_other_types_keep_all_their_bits(tmp_path, dtype):
    values = np.random.default_rng(0).integers(-(2**31), 2**31, (97, 53, 2))
    pixels = np.random.default_rng(0).normal(0, 99, (97, 53, 2)).astype(dtype) if "f" in dtype else values.astype(dtype)
    write_tiff(tmp_path / "a.tif", pixels, planarconfig="contig", compression="zstd", **GREY, **TILED)
    assert_reads(tmp_path / "a.tif", pixels, (32, 48))


@pytest.mark.parametrize("white", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("ways", [{}, {"compression": "ccitt"}, {"compression": "deflate", "rowsperstrip": 8}], ids=str)
def test_bilevel_pages_are_black_and_white_as_pillow_shows_them(tmp_path, ways, white):
    bits = picture(40, 50, 1)[..., 0] > 127
    if "ccitt" in str(ways):
        with Image.fromarray(bits) as image:
            image.save(tmp_path / "a.tif", compression="group4", tiffinfo={262: int(white == "minisblack")})
    else:
        tifffile.imwrite(tmp_path / "a.tif", bits, photometric=white, metadata=None, **ways)
    with Image.open(tmp_path / "a.tif") as image:
        expected = np.where(np.asarray(image), 255, 0).astype(np.uint8)[..., None]
    assert 500 < (expected == 255).sum() < 1500
    assert_reads(tmp_path / "a.tif", expected, (8, 50) if "rowsperstrip" in ways else None)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_where_0_is_white_the_values_are_inverted(tmp_path, dtype):
    pixels = picture(40, 50, 1, dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels[..., 0], photometric="miniswhite", tile=(16, 16))
    assert_reads(tmp_path / "a.tif", np.iinfo(dtype).max - pixels, (16, 16))


def test_the_palette_of_a_tiff_becomes_its_colours(tmp_path):
    image = Image.fromarray(photo(100, 131)).quantize(200)
    image.save(tmp_path / "a.tif", compression="tiff_lzw")
    assert_reads(tmp_path / "a.tif", np.asarray(image.convert("RGB")))


def test_cmyk_and_lab_stay_as_they_are(tmp_path):
    for photometric, channels, colour in [("separated", 4, "cmyk"), ("cielab", 3, "lab")]:
        pixels = picture(40, 50, channels)
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, tile=(16, 16))
        assert_reads(tmp_path / "a.tif", pixels, (16, 16))
        assert open_image(str(tmp_path / "a.tif")).layout.colour == colour


@pytest.mark.parametrize(("dtype", "photometric"), [("complex64", "minisblack"), ("float32", "miniswhite")])
def test_types_and_colours_that_no_reader_takes_are_refused(tmp_path, dtype, photometric):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30), dtype), photometric=photometric)
    assert reason_of(tmp_path / "a.tif") == "unsupported_mode"


def test_a_block_too_large_for_a_window_is_decoded_once_and_kept(tmp_path, monkeypatch):
    pixels = picture(97, 53, dtype="uint16")
    write_tiff(tmp_path / "a.tif", pixels, rowsperstrip=50, compression="deflate", **RGB)
    monkeypatch.setattr(tiff, "_MAX_BLOCK_BYTES", 1000)
    assert_reads(tmp_path / "a.tif", pixels)
    decoded = []
    blocks = tiff.BlockReader.read_stored
    monkeypatch.setattr(tiff.BlockReader, "read_stored", lambda self, box: decoded.append(1) or blocks(self, box))
    reader = open_image(str(tmp_path / "a.tif"))
    for box in boxes_of(97, 53):
        reader.read(box)
    assert decoded == [1]


# --- what is read of the file ---


class Watched(io.RawIOBase):
    """A file that counts the bytes it gives, and fails once it has given ``limit`` of them."""

    def __init__(self, uri, limit=None):
        self.file, self.limit, self.given = open(uri, "rb"), limit, 0

    def read(self, size=-1):
        if self.limit is not None and self.given >= self.limit:
            raise OSError(errno.EIO, "Input/output error")
        data = self.file.read(size)
        self.given += len(data)
        return data

    def readinto(self, buffer):
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset, whence=0):
        return self.file.seek(offset, whence)

    def tell(self):
        return self.file.tell()

    def close(self):
        self.file.close()
        super().close()

    readable = seekable = lambda self: True


@pytest.fixture
def watched(monkeypatch):
    """``watched(path, level=0, limit=None)``: (reader, its file)."""

    def open_watched(path, level=0, limit=None):
        files = []
        monkeypatch.setattr(storage, "open_read", lambda uri: files.append(Watched(uri, limit)) or files[-1])
        return open_image(str(path), level), files[0]

    return open_watched


@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
def test_a_window_of_a_tiled_tiff_reads_the_bytes_of_its_tiles_only(tmp_path, watched, compression):
    write_tiff(tmp_path / "a.tif", photo(290, 440), compression=compression, **RGB, **TILED)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        counts = np.reshape(file.pages[0].databytecounts, (10, 10))
    reader, file = watched(tmp_path / "a.tif")
    reader.read(Box(0, 0, 1, 1))  # with JPEG, tifffile looks once whether there is a JFIF header
    for box in boxes_of(290, 440):
        before = file.given
        reader.read(box)
        rows = slice(box.row // 32, (box.row + box.height - 1) // 32 + 1)
        cols = slice(box.col // 48, (box.col + box.width - 1) // 48 + 1)
        assert file.given - before == counts[rows, cols].sum()


def test_a_window_of_planes_apart_reads_its_tile_of_every_plane(tmp_path, watched):
    write_tiff(tmp_path / "a.tif", picture(97, 53), planarconfig="separate", **RGB, **TILED)
    reader, file = watched(tmp_path / "a.tif")
    before = file.given
    reader.read(Box(40, 3, 20, 40))
    assert file.given - before == 3 * 32 * 48


def test_a_window_of_plain_rows_reads_its_rows_only(tmp_path, watched):
    write_tiff(tmp_path / "a.tif", picture(97, 53, dtype="uint16"), **RGB)
    reader, file = watched(tmp_path / "a.tif")
    before = file.given
    reader.read(Box(40, 3, 20, 40))
    assert file.given - before == 20 * 53 * 3 * 2


@pytest.mark.parametrize(
    "path",
    ["slides/CMU-1-Small-Region.svs", "photos/retina.jpg", "photos/chelsea.png", "microscopy/stardist_img2d.tif"],
)
def test_opening_reads_the_header_only(watched, path):
    _, file = watched(SAMPLES / path)
    assert file.given < 50_000
    assert file.given < os.path.getsize(SAMPLES / path) / 5


@pytest.mark.parametrize("path", ["slides/CMU-1-Small-Region.svs", "photos/retina.jpg", "photos/chelsea.png"])
def test_the_file_counts_the_bytes_that_were_read(watched, path):
    reader, file = watched(SAMPLES / path)
    for box in (Box(0, 0, 5, 5), Box(100, 200, 90, 30), Box(0, 0, 5, 5)):
        reader.read(box)
        assert reader.file.bytes_read == file.given > 0


def test_opening_a_png_leaves_its_pixels_alone(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(picture(500, 600)))  # IDAT chunks of 8 KiB
    files = []
    buffered = lambda uri: io.BufferedReader(files.append(Watched(uri)) or files[-1])
    monkeypatch.setattr(storage, "open_read", buffered)
    open_image(str(tmp_path / "a.png"))
    assert files[0].given < os.path.getsize(tmp_path / "a.png") / 5


def test_closing_closes_the_file(watched):
    for path in ["slides/CMU-1-Small-Region.svs", "photos/retina.jpg", "photos/chelsea.png"]:
        reader, file = watched(SAMPLES / path)
        reader.close()
        assert file.file.closed


def test_a_file_that_cannot_be_used_is_closed(tmp_path, watched, monkeypatch):
    (tmp_path / "a").write_bytes(b"II*\0 not a TIFF")
    files = []
    monkeypatch.setattr(storage, "open_read", lambda uri: files.append(Watched(uri)) or files[-1])
    message_of(tmp_path / "a")
    message_of(SAMPLES / "photos/chelsea.png", level=1)
    message_of(ODD / "LICENSE.txt")
    assert [file.file.closed for file in files] == [True] * 3


@pytest.mark.parametrize(
    "path",
    [
        "photos/chelsea.png",
        pytest.param("photos/retina.jpg"),
        pytest.param("slides/CMU-1-Small-Region.svs"),
    ],
)
def test_a_storage_that_fails_at_the_header_is_an_io_error(watched, path):
    with pytest.raises(Unreadable) as caught:
        watched(SAMPLES / path, limit=16)
    assert caught.value.args == ("io_error", "cannot be read: Input/output error")


@pytest.mark.parametrize("path", ["photos/chelsea.png", "photos/retina.jpg", "slides/CMU-1-Small-Region.svs"])
def test_a_storage_that_fails_at_the_pixels_is_an_io_error(watched, path):
    reader, file = watched(SAMPLES / path)
    file.limit = file.given
    for _ in range(2):
        with pytest.raises(Unreadable) as caught:
            reader.read(Box(0, 0, 10, 10))
        assert caught.value.args == ("io_error", "cannot be read: Input/output error")


def test_a_storage_that_fails_at_a_large_block_is_an_io_error(tmp_path, watched, monkeypatch):
    monkeypatch.setattr(tiff, "_MAX_BLOCK_BYTES", 1000)
    write_tiff(tmp_path / "a.tif", picture(97, 53), rowsperstrip=97, compression="deflate", **RGB)
    reader, file = watched(tmp_path / "a.tif")
    file.limit = file.given + os.path.getsize(tmp_path / "a.tif")  # the file is read once whole, before the block
    with pytest.raises(Unreadable) as caught:
        reader.read(Box(0, 0, 97, 53))
    assert caught.value.args == ("io_error", "cannot be read: Input/output error")


@pytest.mark.parametrize("path", ["tiled.tif", "rows.tif", "photo.jpg"])
def test_threads_read_the_same_as_one_after_the_other(tmp_path, path):
    pixels = photo(290, 440)
    if path == "tiled.tif":
        write_tiff(tmp_path / path, pixels, compression="jpeg", **RGB, **TILED)
    elif path == "rows.tif":
        write_tiff(tmp_path / path, pixels, **RGB)
    else:
        Image.fromarray(pixels).save(tmp_path / path)
    reader = open_image(str(tmp_path / path))
    boxes = list(boxes_of(290, 440, 150))
    one_by_one = [np.array(reader.read(box)) for box in boxes]
    reader.close()
    reader = open_image(str(tmp_path / path))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(reader.read, boxes))
    assert all(np.array_equal(a, b) for a, b in zip(one_by_one, at_once))


@pytest.mark.parametrize(
    "compression",
    ["deflate", pytest.param("jpeg")],
)  # fmt: skip
def test_the_file_is_touched_under_the_lock_only(tmp_path, watched, monkeypatch, compression):
    write_tiff(tmp_path / "a.tif", photo(100, 131), compression=compression, **RGB, **TILED)
    reader, file = watched(tmp_path / "a.tif")
    locked = []
    lock = reader._planes[0].func.__self__._lock
    read, seek = file.read, file.seek
    file.read = lambda size=-1: locked.append(lock.locked()) or read(size)
    file.seek = lambda offset, whence=0: locked.append(lock.locked()) or seek(offset, whence)
    reader.read(Box(0, 0, 100, 131))
    assert len(locked) >= 24
    assert all(locked)


# --- orientation ---

ORIENTATIONS = range(1, 9)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    "ways", [TILED, {"rowsperstrip": 8, "compression": "deflate"}, {}], ids=["tiles", "strips", "rows"]
)
def test_windows_of_a_turned_tiff_are_those_of_the_shown_image(tmp_path, ways, orientation):
    stored = picture(70, 111, 4, "uint16")
    tags = [(274, "H", 1, orientation, True)]
    write_tiff(tmp_path / "a.tif", stored, extrasamples=["unassalpha"], extratags=tags, **RGB, **ways)
    block = ways.get("tile", (ways.get("rowsperstrip", 1), 111))
    assert_reads(tmp_path / "a.tif", shown(stored, orientation), block if orientation < 5 else block[::-1])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_tiff_of_pillow_is_shown_as_by_pillow(tmp_path, orientation):
    Image.fromarray(picture(23, 37)).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    with Image.open(tmp_path / "a.tif") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(open_and_read(tmp_path / "a.tif")[1], expected)
    np.testing.assert_array_equal(expected, shown(picture(23, 37), orientation))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_windows_of_a_turned_photograph_are_those_of_the_shown_image(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo(61, 90)).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape[:2] == ((61, 90) if orientation < 5 else (90, 61))
    assert_reads(path, expected)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(picture(5, 9)).save(tmp_path / "a.png", exif=exif)
    assert_reads(tmp_path / "a.png", picture(5, 9))
    write_tiff(tmp_path / "a.tif", picture(5, 9), extratags=[(274, "H", 1, orientation, True)], **RGB)
    assert_reads(tmp_path / "a.tif", picture(5, 9), (1, 9))


# --- PNG ---


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


def test_a_jpeg_with_broken_exif_is_read_as_stored(tmp_path):
    Image.fromarray(photo(5, 9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0garbage!")
    assert open_and_read(tmp_path / "a.jpg")[0][:6] == (5, 9, 3, "uint8", 5, 9)


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


def test_the_limit_of_whole_images_is_their_pixels_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "MAX_WHOLE_BYTES", 5 * 9 * 3 * 2)
    (tmp_path / "fits.png").write_bytes(imagecodecs.png_encode(picture(5, 9, dtype="uint16")))
    assert_reads(tmp_path / "fits.png", picture(5, 9, dtype="uint16"))
    (tmp_path / "more.png").write_bytes(imagecodecs.png_encode(picture(5, 10, dtype="uint16")))
    assert reason_of(tmp_path / "more.png") == "too_large"


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


# --- JPEG ---


@pytest.mark.parametrize(
    "ways",
    [{}, {"quality": 30}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2},
     {"keep_rgb": True}, {"restart_marker_rows": 1}],
    ids=str,
)  # fmt: skip
def test_a_jpeg_is_what_pillow_decodes(tmp_path, ways):
    Image.fromarray(photo(101, 67)).save(tmp_path / "a.jpg", **ways)
    with Image.open(tmp_path / "a.jpg") as image:
        assert_reads(tmp_path / "a.jpg", np.asarray(image))


def test_a_grey_jpeg_has_one_channel(tmp_path):
    Image.fromarray(photo(101, 67)[..., 0]).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert_reads(tmp_path / "a.jpg", np.asarray(image)[..., None])


@pytest.mark.parametrize("path", sorted((SAMPLES / "photos").glob("*.*")), ids=lambda path: path.name)
def test_the_photographs_of_the_samples_are_what_pillow_decodes(path):
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert_reads(path, expected, count=3)


def test_the_slide_of_the_samples_is_what_pillow_decodes():
    path = SAMPLES / "slides/CMU-1-Small-Region.svs"
    with Image.open(path) as image:
        expected = np.asarray(image)
    assert expected.shape == (2967, 2220, 3)
    assert_reads(path, expected, (240, 240))
    assert message_of(path, 1) == ("no_such_level", "has 1 pyramid levels, asked for level 1")


def test_the_microscopy_of_the_samples_is_what_pillow_decodes():
    path = SAMPLES / "microscopy/stardist_img2d.tif"
    with Image.open(path) as image:
        assert_reads(path, np.asarray(image)[..., None], (1, 512))


def with_size(data, height, width):
    """A JPEG that claims another size in its frame header."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def test_a_jpeg_that_claims_to_be_huge_is_too_large_before_anything_is_decoded(tmp_path):
    (tmp_path / "a.jpg").write_bytes(with_size(jpeg_of(photo(8, 8)), 60_000, 60_000))
    reason, message = message_of(tmp_path / "a.jpg")
    assert reason == "too_large"
    assert message.endswith("convert it to a tiled TIFF")


def test_a_grey_jpeg_may_have_as_many_pixels_as_bytes_are_allowed(tmp_path):
    (tmp_path / "a.jpg").write_bytes(with_size(jpeg_of(photo(8, 8)[..., 0]), 20_000, 20_000))
    assert open_image(str(tmp_path / "a.jpg")).layout[:6] == (20_000, 20_000, 1, "uint8", 20_000, 20_000)


# --- what is broken ---


@pytest.mark.parametrize("name", ["retina.jpg", "hubble_deep_field.jpg", "chelsea.png"])
def test_a_download_that_stopped_at_60_percent_has_corrupt_data(tmp_path, name):
    data = (SAMPLES / "photos" / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 6 // 10])
    layout = open_image(str(SAMPLES / "photos" / name)).layout
    reader = open_image(str(tmp_path / name))
    assert reader.layout == layout
    for box in (Box(0, 0, 8, 8), Box(layout.height - 8, 0, 8, 8)):  # the first rows are there, but not trusted
        with pytest.raises(Unreadable) as caught:
            reader.read(box)
        assert caught.value.reason == "corrupt_data"


@pytest.mark.parametrize("cut", [1, 2, 50])
def test_a_jpeg_without_its_last_bytes_has_corrupt_data(tmp_path, cut):
    (tmp_path / "a.jpg").write_bytes(jpeg_of(photo(101, 67))[:-cut])
    assert reason_of(tmp_path / "a.jpg") == "corrupt_data"


def test_a_jpeg_that_misses_its_second_half_but_ends_in_an_end_marker_has_corrupt_data(tmp_path):
    data = jpeg_of(photo(300, 400))
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    assert reason_of(tmp_path / "a.jpg") == "corrupt_data"


def test_what_does_not_decode_is_tried_once(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(jpeg_of(photo(101, 67))[:-50])
    reader = open_image(str(tmp_path / "a.jpg"))
    tried = []
    decode = reader._decode
    monkeypatch.setattr(reader, "_decode", lambda data: tried.append(1) or decode(data))
    for box in boxes_of(101, 67, 5):
        with pytest.raises(Unreadable):
            reader.read(box)
    assert tried == [1]


def test_an_empty_file_says_so(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert message_of(tmp_path / "a.jpg") == ("empty_file", "the file has no bytes")


def test_a_web_page_says_so(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\n <!DOCTYPE html><title>404 Not Found</title>")
    assert message_of(tmp_path / "a.jpg") == (
        "unknown_format",
        "starts with b'\\n <!DOCTYPE html' (a web page?); known are JPEG, PNG, TIFF, WebP, AVIF, "
        "JPEG 2000, BMP, GIF, PNM, DICOM, NIfTI, Zarr and slides",
    )


def test_a_missing_file_and_a_folder_are_io_errors(tmp_path):
    assert message_of(tmp_path / "a.jpg") == ("io_error", "cannot be opened: No such file or directory")
    assert message_of(tmp_path) == ("io_error", "cannot be opened: Is a directory")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "txt"])
def test_the_content_and_not_the_suffix_chooses_the_reader(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    shutil.copy(SAMPLES / "photos/chelsea.png", path)
    assert open_image(str(path)).layout[:6] == (300, 451, 3, "uint8", 300, 451)
    shutil.copy(SAMPLES / "photos/retina.jpg", path)
    assert open_image(str(path)).layout[:6] == (1411, 1411, 3, "uint8", 1411, 1411)
    shutil.copy(SAMPLES / "slides/CMU-1-Small-Region.svs", path)
    assert open_image(str(path)).layout[:6] == (2967, 2220, 3, "uint8", 240, 240)


@pytest.mark.parametrize("path", ["photos/retina.jpg", "photos/chelsea.png"])
def test_a_photograph_has_one_level(path):
    assert message_of(SAMPLES / path, 1)[0] == "no_such_level"


def damage_all(data):
    return bytes(len(data))


def damage_header(data):
    return data[:2] + bytes(20) + data[22:]


def damage_end(data):
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


@pytest.mark.parametrize("damage", [damage_all, damage_header, damage_end])
@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_one_corrupt_tile_spoils_only_the_windows_that_touch_it(tmp_path, compression, damage):
    path = tmp_path / "a.tif"
    write_tiff(path, photo(100, 131), compression=compression, **RGB, **TILED)
    _, expected = open_and_read(path)
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[0].dataoffsets[4], file.pages[0].databytecounts[4]
    data = path.read_bytes()
    path.write_bytes(data[:start] + damage(data[start : start + count]) + data[start + count :])
    reader = open_image(str(path))
    spoiled = 0
    for box in boxes_of(100, 131, 60):
        # Tile 4 of 3 to a row: rows 32..63, columns 48..95.
        if box.row < 64 and box.row + box.height > 32 and box.col < 96 and box.col + box.width > 48:
            spoiled += 1
            with pytest.raises(Unreadable) as caught:
                reader.read(box)
            assert caught.value.reason == "corrupt_data"
        else:
            np.testing.assert_array_equal(reader.read(box), part(expected, box))
    assert 10 < spoiled < 60


@pytest.mark.parametrize(
    "ways",
    [
        TILED,
        TILED | {"compression": "jpeg"},
        TILED | {"compression": "deflate"},
        {"rowsperstrip": 8, "compression": "lzw"},
        {},
    ],
    ids=["tiles", "JPEG", "deflate", "strips", "rows"],
)
@pytest.mark.parametrize("cut", [1, 40])
def test_a_tiff_without_its_last_bytes_reads_all_but_the_last_block(tmp_path, ways, cut):
    path = tmp_path / "a.tif"
    write_tiff(path, photo(100, 131), **RGB, **ways)
    _, expected = open_and_read(path)
    path.write_bytes(path.read_bytes()[:-cut])
    reader = open_image(str(path))
    box = Box(0, 0, 96, 96)
    np.testing.assert_array_equal(reader.read(box), part(expected, box))
    with pytest.raises(Unreadable) as caught:
        reader.read(Box(99, 130, 1, 1))
    assert caught.value.args == ("corrupt_data", f"the file ends {cut} bytes before the end of a block")


def test_a_jpeg_tile_that_was_written_too_short_has_corrupt_data(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, photo(100, 131), compression="jpeg", **RGB, **TILED)
    with tifffile.TiffFile(path, mode="r+b") as file:
        counts = list(file.pages[0].databytecounts)
        counts[0] -= 3
        file.pages[0].tags[325].overwrite(counts)
    assert reason_of(path, box=Box(0, 0, 5, 5)) == "corrupt_data"
    reader = open_image(str(path))
    assert reader.read(Box(40, 60, 5, 5)).shape == (5, 5, 3)


def test_a_jpeg_tile_that_misses_its_second_half_but_ends_in_an_end_marker_has_corrupt_data(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, photo(256, 256), compression="jpeg", tile=(256, 256), **RGB)
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data = path.read_bytes()
    path.write_bytes(data[: start + count // 2] + b"\xff\xd9" + bytes(count - count // 2 - 2) + data[start + count :])
    assert reason_of(path) == "corrupt_data"


@pytest.mark.parametrize("keep", [4, 8, 30, 100])
def test_a_tiff_that_ends_in_its_header_has_a_corrupt_header(tmp_path, keep):
    write_tiff(tmp_path / "whole.tif", picture(97, 53), **RGB, **TILED)
    (tmp_path / "a.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:keep])
    assert reason_of(tmp_path / "a.tif") == "corrupt_header"


class TooLong(BaseException):
    """No Exception, which the code under test would take for a broken file."""


def test_a_tiff_whose_directories_go_in_a_circle_does_not_hang(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for pixels in (picture(40, 50), picture(20, 25)):
            writer.write(pixels, metadata=None, **RGB, **TILED)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        second, end = file.pages[1].offset, file.pages.next_page_offset
    data = (tmp_path / "a.tif").read_bytes()
    assert data[end : end + 4] == bytes(4)  # no third directory
    (tmp_path / "a.tif").write_bytes(data[:end] + struct.pack("<I", second) + data[end + 4 :])

    def give_up(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        np.testing.assert_array_equal(open_and_read(tmp_path / "a.tif")[1], picture(40, 50))
    except Unreadable as error:
        assert error.reason in ("corrupt_header", "unsupported_mode")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_block_beyond_every_file_is_corrupt_data_and_no_io_error(tmp_path):
    write_tiff(tmp_path / "a.tif", picture(40, 50), bigtiff=True, compression="deflate", **RGB, **TILED)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags[324].overwrite([1 << 62, *file.pages[0].dataoffsets[1:]])
    assert reason_of(tmp_path / "a.tif", box=Box(0, 0, 5, 5)) == "corrupt_data"


@pytest.mark.parametrize("offset", [0xFFFFFFF0, 0xFFFF0000])
def test_an_image_before_an_offset_to_nowhere_is_read(tmp_path, offset):
    write_tiff(tmp_path / "a.tif", picture(40, 50), **RGB, **TILED)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        end = file.pages.next_page_offset
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:end] + struct.pack("<I", offset) + data[end + 4 :])
    with Image.open(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), picture(40, 50))
    np.testing.assert_array_equal(open_and_read(tmp_path / "a.tif")[1], picture(40, 50))


def test_a_slide_that_was_cut_says_so_without_a_crash(tmp_path):
    data = (SAMPLES / "slides/CMU-1-Small-Region.svs").read_bytes()
    for keep in (10, 1000, 300_000, 1_700_000, len(data) - 1):
        (tmp_path / "a.svs").write_bytes(data[:keep])
        try:
            open_and_read(tmp_path / "a.svs")
        except Unreadable as error:
            assert error.reason in ("corrupt_header", "corrupt_data")


def test_flipped_bytes_anywhere_give_pixels_or_a_reason_and_nothing_else(tmp_path):
    """Whatever a file holds: no other exception, and never pixels of another shape than the layout says."""
    write_tiff(tmp_path / "a.tif", photo(40, 50), compression="deflate", tile=(16, 16), **RGB)
    originals = [(tmp_path / "a.tif").read_bytes(), imagecodecs.png_encode(photo(40, 50)), jpeg_of(photo(40, 50))]
    rng = np.random.default_rng(0)
    for original, _ in itertools.product(originals, range(60)):
        data = bytearray(original)
        for at in rng.integers(4, min(len(data), 700), rng.integers(1, 6)):
            data[at] = rng.integers(256)
        (tmp_path / "b").write_bytes(data)
        try:
            reader = open_image(str(tmp_path / "b"))
            layout = reader.layout
            if layout.height * layout.width > 1 << 20:
                continue
            pixels = reader.read(Box(0, 0, layout.height, layout.width))
        except Unreadable:
            continue
        assert (*pixels.shape, pixels.dtype.name) == layout[:4]


# --- odd files of the world ---

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
