"""Where a TIFF lies and how large its pixels are, as rasterio reads it."""

import pytest
import rasterio
import tifffile
from helpers import noise, open_image
from rasterio.transform import Affine


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
    assert half.transform == pytest.approx(
        (2 * expected.a, 2 * expected.b, expected.c, 2 * expected.d, 2 * expected.e, expected.f)
    )
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
