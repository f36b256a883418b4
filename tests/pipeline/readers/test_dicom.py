"""DICOM: the values and the units of pydicom; slides by tile."""

import numpy as np
import pydicom
import pytest
from helpers import assert_reads, message_of, noise, write_dicom


def tiles_of(slide, side):
    rows, cols = (-(-length // side) for length in slide.shape[:2])
    padded = np.zeros((rows * side, cols * side, 3), np.uint8)
    padded[: slide.shape[0], : slide.shape[1]] = slide
    return padded.reshape(rows, side, cols, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_a_dicom_keeps_its_values_and_its_spacing(tmp_path, dtype):
    pixels = noise(1, 40, 50, dtype=dtype)
    path = write_dicom(tmp_path / "a.dcm", pixels, PixelSpacing=[0.5, 0.25])
    layout = assert_reads(path, pixels[0, ..., None])
    assert layout.mpp == (500, 250)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, pixels[0])
    assert message_of(path, level=1)[0] == "no_such_level"


def test_a_rescale_gives_the_units_of_the_scanner(tmp_path):
    pixels = noise(1, 40, 50, dtype="int16")
    path = write_dicom(tmp_path / "a.dcm", pixels, RescaleSlope="2.5", RescaleIntercept="-1024")
    expected = pydicom.pixels.apply_modality_lut(pixels[0], pydicom.dcmread(path)).astype(np.float32)
    assert_reads(path, expected[..., None])


def test_where_0_is_white_a_dicom_is_inverted(tmp_path):
    pixels = noise(1, 40, 50, dtype="uint16") % 4096
    path = write_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    assert assert_reads(path, 4095 - pixels[0, ..., None]).bits == 12


def test_a_frame_of_a_series_is_chosen_by_page(tmp_path):
    pixels = noise(3, 40, 50, 3)
    path = write_dicom(tmp_path / "a.dcm", pixels)
    assert message_of(path)[0] == "unsupported_mode"
    assert message_of(path, page=3)[0] == "no_such_page"
    for page in range(3):
        assert_reads(path, pixels[page], page=page)


def test_a_slide_is_read_by_its_tiles(tmp_path):
    slide = noise(70, 100, 3)
    path = write_dicom(tmp_path / "a.dcm", tiles_of(slide, 32), TotalPixelMatrixRows=70, TotalPixelMatrixColumns=100,
                 DimensionOrganizationType="TILED_FULL")  # fmt: skip
    assert_reads(path, slide, (32, 32))


def test_tiles_that_a_slide_leaves_out_are_white(tmp_path):
    slide = noise(64, 96, 3)
    order, tiles = [4, 0, 2], tiles_of(slide, 32)
    groups = []
    for number in order:
        place = pydicom.Dataset()
        place.RowPositionInTotalImagePixelMatrix = number // 3 * 32 + 1
        place.ColumnPositionInTotalImagePixelMatrix = number % 3 * 32 + 1
        group = pydicom.Dataset()
        group.PlanePositionSlideSequence = [place]
        groups.append(group)
    path = write_dicom(tmp_path / "a.dcm", tiles[order], TotalPixelMatrixRows=64, TotalPixelMatrixColumns=96,
                 DimensionOrganizationType="TILED_SPARSE", PerFrameFunctionalGroupsSequence=groups)  # fmt: skip
    expected = np.full_like(slide, 255)
    for number in order:
        place = (slice(number // 3 * 32, number // 3 * 32 + 32), slice(number % 3 * 32, number % 3 * 32 + 32))
        expected[place] = slide[place]
    assert_reads(path, expected, (32, 32))
