"""Every reader of ours keeps the contract that readers of other packages keep."""

import imagecodecs
import nibabel
import numpy as np
import tifffile
import zarr
from helpers import GREY, RGB, TILED, exif_of, noise, photo, picture, save, write_dicom, write_tiff
from PIL import Image

from pipeline.readers import open_image, orientation
from pipeline.readers.testing import ReaderTests

HEIGHT, WIDTH = 70, 111


def decoded(path):
    """What Pillow decodes, as stored."""
    with Image.open(path) as image:
        pixels = np.asarray(image)
    return str(path), pixels if pixels.ndim == 3 else pixels[..., None]


class TestJpeg(ReaderTests):
    def write(self, folder):
        return decoded(save(folder / "a.jpg", Image.fromarray(photo(HEIGHT, WIDTH)), quality=80))

    def write_turned(self, folder, turned):
        return decoded(
            save(folder / "a.jpg", Image.fromarray(photo(HEIGHT, WIDTH)), exif=b"Exif\0\0" + exif_of(turned))
        )


class TestGreyJpeg(ReaderTests):
    def write(self, folder):
        return decoded(save(folder / "a.jpg", Image.fromarray(photo(HEIGHT, WIDTH)[..., 0]), progressive=True))


class TestCmykJpeg(ReaderTests):
    def write(self, folder):
        return decoded(save(folder / "a.jpg", Image.fromarray(picture(HEIGHT, WIDTH, 4), "CMYK")))


class TestPng8(ReaderTests):
    def write(self, folder):
        pixels = picture(HEIGHT, WIDTH)
        (folder / "a.png").write_bytes(imagecodecs.png_encode(pixels))
        return str(folder / "a.png"), pixels

    def write_turned(self, folder, turned):
        pixels = picture(HEIGHT, WIDTH)
        return str(save(folder / "a.png", Image.fromarray(pixels), exif=exif_of(turned))), pixels


class TestPng16(ReaderTests):
    def write(self, folder):
        pixels = picture(HEIGHT, WIDTH, 4, "uint16")
        (folder / "a.png").write_bytes(imagecodecs.png_encode(pixels))
        return str(folder / "a.png"), pixels


class TiffTests(ReaderTests):
    """``ways`` is how the file is written."""

    ways: dict
    form = (HEIGHT, WIDTH, 3, "uint8")

    def write(self, folder, **more):
        pixels = picture(*self.form)
        write_tiff(folder / "a.tif", pixels, **self.ways, **more)
        return str(folder / "a.tif"), pixels

    def write_turned(self, folder, turned):
        return self.write(folder, extratags=[(orientation.TAG, "H", 1, turned, True)])


class TestTiffInTiles(TiffTests):
    ways = RGB | TILED | {"compression": "deflate", "predictor": True}
    form = (HEIGHT, WIDTH, 3, "uint16")


class TestTiffInStrips(TiffTests):
    ways = RGB | {"rowsperstrip": 8, "compression": "lzw"}


class TestTiffInPlanes(TiffTests):
    ways = GREY | TILED | {"planarconfig": "separate", "compression": "zstd"}
    form = (HEIGHT, WIDTH, 6, "float32")


class TestTiffInRows(TiffTests):
    ways = GREY | {"byteorder": ">"}
    form = (HEIGHT, WIDTH, 1, "uint16")


class TestTiffOfJpegTiles(ReaderTests):
    def write(self, folder):
        write_tiff(folder / "a.tif", photo(HEIGHT, WIDTH), compression="jpeg", **RGB, **TILED)
        return decoded(folder / "a.tif")


class TestTiffLevel(ReaderTests):
    """A smaller level of a pyramid."""

    def write(self, folder):
        levels = [picture(2 * HEIGHT, 2 * WIDTH), picture(HEIGHT, WIDTH, seed=1)]
        with tifffile.TiffWriter(folder / "a.tif") as writer:
            writer.write(levels[0], subifds=1, **RGB, **TILED)
            writer.write(levels[1], subfiletype=1, **RGB, **TILED)
        return str(folder / "a.tif"), levels[1]

    def open(self, path):
        return open_image(path, level=1)


class TestBmp(ReaderTests):
    def write(self, folder):
        pixels = picture(HEIGHT, WIDTH)
        return str(save(folder / "a.bmp", Image.fromarray(pixels))), pixels


class TestGif(ReaderTests):
    def write(self, folder):
        numbers, colours = picture(HEIGHT, WIDTH, 1)[..., 0], picture(1, 256, 3, seed=1)[0]
        image = Image.fromarray(numbers, "P")
        image.putpalette(colours.tobytes())
        return str(save(folder / "a.gif", image)), colours[numbers]


class TestWebp(ReaderTests):
    def write(self, folder, **more):
        pixels = picture(HEIGHT, WIDTH, 4)
        return str(save(folder / "a.webp", Image.fromarray(pixels), lossless=True, exact=True, **more)), pixels

    def write_turned(self, folder, turned):
        return self.write(folder, exif=exif_of(turned))


class TestAvif(ReaderTests):
    def write(self, folder):
        pixels = picture(HEIGHT, WIDTH, 3, "uint16") >> 4
        (folder / "a.avif").write_bytes(imagecodecs.avif_encode(pixels, level=100, bitspersample=12))
        return str(folder / "a.avif"), pixels

    def write_turned(self, folder, turned):
        return decoded(save(folder / "a.avif", Image.fromarray(photo(HEIGHT, WIDTH)), exif=exif_of(turned)))


class TestJpeg2000(ReaderTests):
    def write(self, folder):
        pixels = picture(HEIGHT, WIDTH, 3, "uint16")
        (folder / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True))
        return str(folder / "a.jp2"), pixels


class TestPgm(ReaderTests):
    def write(self, folder):
        pixels = picture(HEIGHT, WIDTH, 1, "uint16")
        (folder / "a.pgm").write_bytes(b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT) + pixels.astype(">u2").tobytes())
        return str(folder / "a.pgm"), pixels


class TestTextPpm(ReaderTests):
    def write(self, folder):
        pixels = picture(HEIGHT, WIDTH)
        (folder / "a.ppm").write_text(f"P3\n{WIDTH} {HEIGHT}\n255\n" + "\n".join(map(str, pixels.ravel())))
        return str(folder / "a.ppm"), pixels


class TestPfm(ReaderTests):
    def write(self, folder):
        pixels = picture(HEIGHT, WIDTH, 3, "float32")
        (folder / "a.pfm").write_bytes(b"PF\n%d %d\n-1.0\n" % (WIDTH, HEIGHT) + pixels[::-1].astype("<f4").tobytes())
        return str(folder / "a.pfm"), pixels


class TestDicom(ReaderTests):
    def write(self, folder):
        pixels = noise(1, HEIGHT, WIDTH, dtype="int16")
        return str(write_dicom(folder / "a.dcm", pixels)), pixels[0, ..., None]


class TestDicomSlide(ReaderTests):
    def write(self, folder):
        tiles = noise(3, 4, 32, 32, 3)
        path = write_dicom(
            folder / "a.dcm", tiles.reshape(12, 32, 32, 3), TotalPixelMatrixRows=HEIGHT,
            TotalPixelMatrixColumns=WIDTH, DimensionOrganizationType="TILED_FULL",
        )  # fmt: skip
        return str(path), tiles.swapaxes(1, 2).reshape(96, 128, 3)[:HEIGHT, :WIDTH]


class TestNifti(ReaderTests):
    name = "a.nii"

    def write(self, folder):
        volume = noise(WIDTH, HEIGHT, dtype="int16")
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / self.name)
        return str(folder / self.name), volume.T[..., None]


class TestPackedNifti(TestNifti):
    name = "a.nii.gz"


class TestZarr(ReaderTests):
    def write(self, folder):
        pixels = picture(HEIGHT, WIDTH, 3, "float32")
        array = zarr.create_array(folder / "a.zarr", shape=pixels.shape, chunks=(32, 48, 3), dtype="float32")
        array[:] = pixels
        return str(folder / "a.zarr/zarr.json"), pixels


class TestSlide(ReaderTests):
    """Of a scanner whose files OpenSlide reads."""

    def write(self, folder):
        pixels = picture(600, 700)
        tifffile.imwrite(folder / "a.bif", pixels, tile=(256, 256), metadata=None, **RGB)
        return str(folder / "a.bif"), pixels
