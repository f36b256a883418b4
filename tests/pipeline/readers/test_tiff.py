"""TIFF: windows of every form of it are what was written; what is broken says so."""

import os
import signal
import struct

import numpy as np
import pytest
import tifffile
from helpers import (
    GREY,
    RGB,
    SAMPLES,
    TILED,
    assert_reads,
    boxes_of,
    message_of,
    open_and_read,
    open_image,
    part,
    photo,
    picture,
    reason_of,
    shown,
    write_tiff,
)
from PIL import Image, ImageOps

from pipeline.errors import Unreadable
from pipeline.readers.formats import tiff
from transforms.grid import Box

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


def test_a_storage_that_fails_at_a_large_block_is_an_io_error(tmp_path, watched, monkeypatch):
    monkeypatch.setattr(tiff, "_MAX_BLOCK_BYTES", 1000)
    write_tiff(tmp_path / "a.tif", picture(97, 53), rowsperstrip=97, compression="deflate", **RGB)
    reader, file = watched(tmp_path / "a.tif")
    file.limit = file.given + os.path.getsize(tmp_path / "a.tif")  # the file is read once whole, before the block
    with pytest.raises(Unreadable) as caught:
        reader.read(Box(0, 0, 97, 53))
    assert caught.value.args == ("io_error", "cannot be read: Input/output error")


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "ways", [TILED, {"rowsperstrip": 8, "compression": "deflate"}, {}], ids=["tiles", "strips", "rows"]
)
def test_windows_of_a_turned_tiff_are_those_of_the_shown_image(tmp_path, ways, orientation):
    stored = picture(70, 111, 4, "uint16")
    tags = [(274, "H", 1, orientation, True)]
    write_tiff(tmp_path / "a.tif", stored, extrasamples=["unassalpha"], extratags=tags, **RGB, **ways)
    block = ways.get("tile", (ways.get("rowsperstrip", 1), 111))
    assert_reads(tmp_path / "a.tif", shown(stored, orientation), block if orientation < 5 else block[::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_of_pillow_is_shown_as_by_pillow(tmp_path, orientation):
    Image.fromarray(picture(23, 37)).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    with Image.open(tmp_path / "a.tif") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(open_and_read(tmp_path / "a.tif")[1], expected)
    np.testing.assert_array_equal(expected, shown(picture(23, 37), orientation))


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
