"""Formats of medicine, slides and maps, as the libraries of their users read them; and readers of other packages."""

import re
import sys

import nibabel
import numpy as np
import openslide
import pydicom
import pytest
import rasterio
import tifffile
import zarr
from helpers import REPO
from rasterio.transform import Affine

from pipeline.errors import Reason, Unreadable
from pipeline.readers import isolated, open_image
from pipeline.readers.converted import Choice
from pipeline.readers.isolated import open_isolated
from transforms.grid import Box


def noise(*shape, dtype="uint8"):
    rng = np.random.default_rng(0)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def check(path, expected, block=None, level=0, page=None):
    """All pixels and some windows; returns the layout."""
    reader = open_image(str(path), level, page)
    layout = reader.layout
    assert (layout.height, layout.width, layout.channels, layout.dtype) == (*expected.shape, expected.dtype.name)
    if block:
        assert layout[4:6] == block
    height, width = expected.shape[:2]
    for box in (Box(0, 0, height, width), Box(height // 3, width // 4, height // 2, width // 3)):
        window = reader.read(box)
        assert window.dtype == expected.dtype
        end = (box.row + box.height, box.col + box.width)
        np.testing.assert_array_equal(window, expected[box.row : end[0], box.col : end[1]])
    reader.close()
    return layout


def reason(path, level=0, page=None):
    with pytest.raises(Unreadable) as caught:
        open_image(str(path), level, page)
    return caught.value.reason


# --- DICOM ---


def dicom(path, pixels, **tags):
    """A DICOM of ``[frames, rows, columns(, 3)]``."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3"
    data = pydicom.Dataset()
    data.file_meta = meta
    data.NumberOfFrames, data.Rows, data.Columns = pixels.shape[:3]
    data.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 4:
        data.PlanarConfiguration = 0
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_a_dicom_keeps_its_values_and_its_spacing(tmp_path, dtype):
    pixels = noise(1, 40, 50, dtype=dtype)
    path = dicom(tmp_path / "a.dcm", pixels, PixelSpacing=[0.5, 0.25])
    layout = check(path, pixels[0, ..., None])
    assert layout.mpp == (500, 250)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, pixels[0])
    assert reason(path, level=1) == "no_such_level"


def test_a_rescale_gives_the_units_of_the_scanner(tmp_path):
    pixels = noise(1, 40, 50, dtype="int16")
    path = dicom(tmp_path / "a.dcm", pixels, RescaleSlope="2.5", RescaleIntercept="-1024")
    expected = pydicom.pixels.apply_modality_lut(pixels[0], pydicom.dcmread(path)).astype(np.float32)
    check(path, expected[..., None])


def test_where_0_is_white_a_dicom_is_inverted(tmp_path):
    pixels = noise(1, 40, 50, dtype="uint16") % 4096
    path = dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    assert check(path, 4095 - pixels[0, ..., None]).bits == 12


def test_a_frame_of_a_series_is_chosen_by_page(tmp_path):
    pixels = noise(3, 40, 50, 3)
    path = dicom(tmp_path / "a.dcm", pixels)
    assert reason(path) == "unsupported_mode"
    assert reason(path, page=3) == "no_such_page"
    for page in range(3):
        check(path, pixels[page], page=page)


def tiles_of(slide, side):
    rows, cols = (-(-length // side) for length in slide.shape[:2])
    padded = np.zeros((rows * side, cols * side, 3), np.uint8)
    padded[: slide.shape[0], : slide.shape[1]] = slide
    return padded.reshape(rows, side, cols, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)


def test_a_slide_is_read_by_its_tiles(tmp_path):
    slide = noise(70, 100, 3)
    path = dicom(tmp_path / "a.dcm", tiles_of(slide, 32), TotalPixelMatrixRows=70, TotalPixelMatrixColumns=100,
                 DimensionOrganizationType="TILED_FULL")  # fmt: skip
    check(path, slide, (32, 32))


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
    path = dicom(tmp_path / "a.dcm", tiles[order], TotalPixelMatrixRows=64, TotalPixelMatrixColumns=96,
                 DimensionOrganizationType="TILED_SPARSE", PerFrameFunctionalGroupsSequence=groups)  # fmt: skip
    expected = np.full_like(slide, 255)
    for number in order:
        place = (slice(number // 3 * 32, number // 3 * 32 + 32), slice(number % 3 * 32, number % 3 * 32 + 32))
        expected[place] = slide[place]
    check(path, expected, (32, 32))


# --- NIfTI ---


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", ">i2"])
def test_slices_of_a_volume_are_nibabels(tmp_path, suffix, dtype):
    volume = noise(50, 40, 3, 2, dtype="int16").astype(dtype)
    image = nibabel.Nifti1Image(volume, np.diag([0.25, 0.5, 3, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / f"a.{suffix}")
    loaded = np.asanyarray(nibabel.load(tmp_path / f"a.{suffix}").dataobj)
    for page in range(6):
        expected = loaded[:, :, page % 3, page // 3].T[..., None]
        expected = expected.astype(expected.dtype.newbyteorder("="))
        layout = check(tmp_path / f"a.{suffix}", expected, (1, 50) if suffix == "nii" else (40, 50), page=page)
        assert layout.mpp == (500, 250)
    assert reason(tmp_path / f"a.{suffix}") == "unsupported_mode"
    assert reason(tmp_path / f"a.{suffix}", page=6) == "no_such_page"


def test_a_scale_of_a_volume_is_applied(tmp_path):
    image = nibabel.Nifti2Image(noise(50, 40, dtype="int16"), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    loaded = nibabel.load(tmp_path / "a.nii")
    slope, inter = loaded.dataobj.slope, loaded.dataobj.inter
    expected = (loaded.dataobj.get_unscaled() * slope + inter).astype(np.float32)
    check(tmp_path / "a.nii", expected.T[..., None])


def test_gzip_of_something_else_is_an_unknown_format(tmp_path):
    import gzip

    (tmp_path / "a.gz").write_bytes(gzip.compress(b"hello" * 200))
    assert reason(tmp_path / "a.gz") == "unknown_format"


# --- Zarr ---


def test_an_array_is_read_by_its_chunks(tmp_path):
    pixels = noise(70, 100, 3)
    array = zarr.create_array(tmp_path / "a.zarr", shape=pixels.shape, chunks=(32, 48, 3), dtype="uint8")
    array[:] = pixels
    check(tmp_path / "a.zarr/zarr.json", pixels, (32, 48))


@pytest.mark.parametrize("version", [2, 3])
def test_an_ome_zarr_has_levels_pages_and_channels(tmp_path, version):
    levels = [noise(2, 3, 4, 64, 96, dtype="uint16"), noise(2, 3, 4, 32, 48, dtype="uint16")]
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    datasets = []
    for number, pixels in enumerate(levels):
        array = group.create_array(str(number), shape=pixels.shape, chunks=(1, 1, 1, 32, 32), dtype="uint16")
        array[:] = pixels
        scale = [1, 1, 5, 0.25 * 2**number, 0.5 * 2**number]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axes = [{"name": "t"}, {"name": "c"}, *({"name": axis, "unit": "micrometer"} for axis in "zyx")]
    scales = [{"axes": axes, "datasets": datasets}]
    group.attrs.update({"multiscales": scales} if version == 2 else {"ome": {"multiscales": scales}})
    path = tmp_path / "a.zarr" / (".zattrs" if version == 2 else "zarr.json")
    for level, pixels in enumerate(levels):
        for page in (0, 5, 7):
            expected = np.moveaxis(pixels[page // 4, :, page % 4], 0, -1)
            layout = check(path, expected, (32, 32), level, page)
            assert layout.mpp == (0.25 * 2**level, 0.5 * 2**level)
            assert layout.levels == ((64, 96), (32, 48))
    assert reason(path) == "unsupported_mode"
    assert reason(path, page=8) == "no_such_page"
    assert reason(path, level=2, page=0) == "no_such_level"


# --- OpenSlide ---


def test_slides_by_name_are_read_by_openslide(tmp_path):
    slide = noise(600, 700, 3)
    with tifffile.TiffWriter(tmp_path / "a.bif") as writer:
        for level, pixels in enumerate((slide, slide[::2, ::2])):
            writer.write(pixels, photometric="rgb", tile=(256, 256), subfiletype=level, metadata=None,
                         resolution=(20_000, 40_000), resolutionunit="CENTIMETER")  # fmt: skip
    layout = check(tmp_path / "a.bif", slide, (256, 256))
    assert layout.levels == ((600, 700), (300, 350))
    assert layout.mpp == pytest.approx((0.25, 0.5))
    with openslide.OpenSlide(tmp_path / "a.bif") as peer:
        assert layout.mpp[1] == pytest.approx(float(peer.properties["openslide.mpp-x"]))
    check(tmp_path / "a.bif", slide[::2, ::2], level=1)
    assert reason(tmp_path / "a.bif", level=2) == "no_such_level"


# --- where an image lies ---


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("transform", [Affine(10, 0, 5000, 0, -20, 7000), Affine(10, 2, 5000, 3, -20, 7000)])
def test_coordinates_are_those_of_rasterio(tmp_path, transform, point):
    tags = {"AREA_OR_POINT": "Point" if point else "Area"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", height=64, width=96, count=1, dtype="float32",
                       crs="EPSG:32633", transform=transform, nodata=float("nan"), tiled=True, blockxsize=16,
                       blockysize=16) as dataset:  # fmt: skip
        dataset.update_tags(**tags)
        dataset.write(noise(1, 64, 96).astype("float32"))
        dataset.build_overviews([2], rasterio.enums.Resampling.nearest)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        expected = dataset.transform
    layout = open_image(str(tmp_path / "a.tif")).layout
    assert layout.transform == pytest.approx(tuple(expected)[:6])
    assert (layout.crs, layout.nodata) == ("EPSG:32633", "nan")
    half = open_image(str(tmp_path / "a.tif"), 1).layout
    assert half.transform == pytest.approx(tuple(expected * Affine.scale(2))[:6])
    assert half.levels == ((64, 96), (32, 48))


def test_the_size_of_a_pixel_is_what_the_file_says(tmp_path):
    pixels = noise(64, 96)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, resolution=(20_000, 40_000), resolutionunit="CENTIMETER")
    assert open_image(str(path)).layout.mpp == (0.25, 0.5)
    tifffile.imwrite(path, pixels, resolution=(72, 72), resolutionunit="INCH")
    assert open_image(str(path)).layout.mpp is None
    tifffile.imwrite(path, pixels, imagej=True, resolution=(2, 4), metadata={"unit": "um"})
    assert open_image(str(path)).layout.mpp == (0.25, 0.5)
    names = {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(pixels, subifds=1, tile=(16, 16), metadata=names)
        writer.write(pixels[::2, ::2], subfiletype=1, tile=(16, 16))
    assert open_image(str(path)).layout.mpp == (0.25, 0.5)
    assert open_image(str(path), 1).layout.mpp == (0.5, 1)


# --- what is not there, and what others add ---


@pytest.mark.parametrize(("module", "name"), [("pydicom", "medical"), ("nibabel", "medical"), ("openslide", "wsi"),
                                              ("zarr", "zarr")])  # fmt: skip
def test_a_missing_extra_says_what_to_install(tmp_path, monkeypatch, module, name):
    files = {"pydicom": "a.dcm", "nibabel": "a.nii", "openslide": "a.mrxs", "zarr": "zarr.json"}
    starts = {"pydicom": bytes(128) + b"DICM", "nibabel": bytes(344) + b"n+1\0", "openslide": b"?", "zarr": b"{}"}
    (tmp_path / files[module]).write_bytes(starts[module])
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(Unreadable) as caught:
        open_image(str(tmp_path / files[module]))
    assert caught.value.args == ("missing_extra", f'needs {module}: pip install "patchbeam[{name}]"')


def test_the_reader_of_the_documentation_works_as_a_package_of_its_own(tmp_path, monkeypatch):
    code = re.search(r"```python\n# my_package/raw8.py.*?\n(.*?)```", (REPO / "docs/formats.md").read_text(), re.DOTALL)
    site = tmp_path / "site"
    (site / "my_package-1.dist-info").mkdir(parents=True)
    (site / "my_package").mkdir()
    (site / "my_package/__init__.py").write_text("")
    (site / "my_package/raw8.py").write_text(code[1])
    (site / "my_package-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (site / "my_package-1.dist-info/entry_points.txt").write_text("[patchbeam.readers]\nraw8 = my_package.raw8\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(isolated, "_fork_server", None)  # a new one, with the new path
    monkeypatch.setattr(isolated, "_idle", [])
    pixels = noise(40, 50, 1)
    (tmp_path / "a.raw8").write_bytes(np.array([40, 50], "<u4").tobytes() + pixels.tobytes())
    reader = open_isolated(str(tmp_path / "a.raw8"), Choice(convert="rgb"), 30)
    np.testing.assert_array_equal(reader.read(Box(3, 4, 20, 30)), np.repeat(pixels[3:23, 4:34], 3, axis=-1))


def test_the_reasons_are_a_list_that_is_documented():
    text = (REPO / "docs/output_format.md").read_text().partition("| reason | meaning")[2]
    named = re.findall(r"^\| (\w+) \|", text, re.MULTILINE)
    assert sorted(named) == sorted(Reason.__args__)
