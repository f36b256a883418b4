"""JPEG: the pixels are those of Pillow, and what is cut says so."""

import struct

import numpy as np
import pytest
from helpers import (
    assert_reads,
    boxes_of,
    jpeg_of,
    message_of,
    open_and_read,
    open_image,
    photo,
    picture,
    reason_of,
    save,
)
from PIL import Image

from pipeline.errors import Unreadable


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


def test_a_jpeg_with_broken_exif_is_read_as_stored(tmp_path):
    Image.fromarray(photo(5, 9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0garbage!")
    assert open_and_read(tmp_path / "a.jpg")[0][:6] == (5, 9, 3, "uint8", 5, 9)


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


def test_a_cmyk_jpeg_is_what_pillow_decodes(tmp_path):
    path = save(tmp_path / "a.jpg", Image.fromarray(picture(40, 50, 4), "CMYK"))
    expected = np.asarray(Image.open(path))
    assert_reads(path, expected)
    assert open_image(str(path)).layout.colour == "cmyk"
