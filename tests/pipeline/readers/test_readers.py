"""Opening of images: a window is the same pixels as the same part of the whole image; what is broken says so."""

import concurrent.futures
import itertools
import os
import re
import shutil

import imagecodecs
import numpy as np
import pytest
from helpers import (
    ODD,
    REPO,
    RGB,
    SAMPLES,
    TILED,
    Watched,
    assert_reads,
    boxes_of,
    jpeg_of,
    message_of,
    open_image,
    photo,
    picture,
    reason_of,
    save,
    write_tiff,
)
from PIL import Image, ImageOps

from pipeline import storage
from pipeline.errors import Reason, Unreadable
from pipeline.readers import whole
from transforms.grid import Box


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


@pytest.mark.parametrize("orientation", range(1, 9))
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


def test_the_limit_of_whole_images_is_their_pixels_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "MAX_WHOLE_BYTES", 5 * 9 * 3 * 2)
    (tmp_path / "fits.png").write_bytes(imagecodecs.png_encode(picture(5, 9, dtype="uint16")))
    assert_reads(tmp_path / "fits.png", picture(5, 9, dtype="uint16"))
    (tmp_path / "more.png").write_bytes(imagecodecs.png_encode(picture(5, 10, dtype="uint16")))
    assert reason_of(tmp_path / "more.png") == "too_large"


@pytest.mark.parametrize("path", sorted((SAMPLES / "photos").glob("*.*")), ids=lambda path: path.name)
def test_the_photographs_of_the_samples_are_what_pillow_decodes(path):
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert_reads(path, expected, count=3)


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


@pytest.mark.parametrize("suffix", ["jp2", "avif"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.95])
def test_what_was_cut_says_so(tmp_path, suffix, keep):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(photo(200, 300)))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert reason_of(path) in ("corrupt_data", "corrupt_header")


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


def test_the_reasons_are_a_list_that_is_documented():
    text = (REPO / "docs/output_format.md").read_text().partition("| reason | meaning")[2]
    named = re.findall(r"^\| (\w+) \|", text, re.MULTILINE)
    assert sorted(named) == sorted(Reason.__args__)  # type: ignore[attr-defined]
