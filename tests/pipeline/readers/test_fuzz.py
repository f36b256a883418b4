"""Files with mutations, of every format: no build crashes or hangs, and every image and every patch is accounted for.

.venv/bin/python -m pytest tests/pipeline/readers/test_fuzz.py            a few of each format
.venv/bin/python -m pytest -m heavy tests/pipeline/readers/test_fuzz.py   2,000 in all; more with FUZZ=20000 before it
"""

import collections
import io
import json
import os
import time

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.build import build
from pipeline.config import Config
from pipeline.errors import Reason, TooManyRejectedError
from pipeline.runners.options import parse_options

HEIGHT, WIDTH = 48, 64


def by_pillow(form, **ways):
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, form, **ways)
    return out.getvalue()


def by_tifffile(**ways):
    out = io.BytesIO()
    tifffile.imwrite(out, PIXELS, photometric="rgb", **ways)
    return out.getvalue()


def pyramid():
    out = io.BytesIO()
    with tifffile.TiffWriter(out, ome=True) as writer:
        writer.write(PIXELS, subifds=1, tile=(16, 16), photometric="rgb", metadata={"PhysicalSizeX": 0.5})
        writer.write(PIXELS[::2, ::2], subfiletype=1, tile=(16, 16), photometric="rgb")
    return out.getvalue()


def dicom():
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = pydicom.Dataset()
    data.file_meta = meta
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = HEIGHT, WIDTH, 3, "RGB"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PlanarConfiguration, data.PixelData = 0, PIXELS.tobytes()
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def nifti():
    nibabel = pytest.importorskip("nibabel")
    colours = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nibabel.Nifti1Image(PIXELS.copy().view(colours)[..., 0].T, np.eye(4)).to_bytes()


PIXELS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)).resize((WIDTH, HEIGHT))
)
FORMATS = {
    "jpeg": lambda: by_pillow("JPEG"),
    "progressive.jpeg": lambda: by_pillow("JPEG", progressive=True),
    "png": lambda: by_pillow("PNG"),
    "webp": lambda: by_pillow("WEBP"),
    "avif": lambda: by_pillow("AVIF"),
    "jp2": lambda: by_pillow("JPEG2000"),
    "j2k": lambda: imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k"),
    "bmp": lambda: by_pillow("BMP"),
    "gif": lambda: by_pillow("GIF"),
    "ppm": lambda: by_pillow("PPM"),
    "tiff": by_tifffile,
    "deflate.tiff": lambda: by_tifffile(compression="deflate", tile=(16, 16), predictor=True),
    "jpeg.tiff": lambda: by_tifffile(compression="jpeg", tile=(16, 16)),
    "lzw.big.tiff": lambda: by_tifffile(compression="lzw", rowsperstrip=9, bigtiff=True),
    "zstd.planes.tiff": lambda: by_tifffile(compression="zstd", planarconfig="contig", tile=(32, 32)),
    "jp2.tiff": lambda: by_tifffile(compression="jpeg2000", tile=(32, 32)),
    "webp.tiff": lambda: by_tifffile(compression="webp", tile=(32, 32)),
    "pyramid.tiff": pyramid,
    "dicom": dicom,
    "nifti": nifti,
}


def mutate(data, rng):
    """The data with bytes changed, cut off, removed, doubled, or set to extremes, mostly near the header."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        reach = min(len(data), 512) if rng.random() < 0.7 else len(data)
        at = int(rng.integers(0, max(1, reach)))
        way = rng.integers(0, 6)
        if way == 0:
            data[at : at + 1] = bytes([rng.integers(256)])
        elif way == 1:
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
        elif way == 2:
            del data[int(rng.integers(len(data) + 1)) :]
        elif way == 3:
            del data[at : at + int(rng.integers(1, 64))]
        elif way == 4:
            data[at:at] = data[at : at + int(rng.integers(1, 64))]
        else:
            data[at : at + 2] = int(rng.integers(1 << 16)).to_bytes(2, "little")
    return bytes(data)


def fuzz(folder, count, seed):
    """Builds a dataset of ``count`` mutations, and one good image of each format, and checks the accounts."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir()
    originals = {name: make() for name, make in FORMATS.items()}
    for name, data in originals.items():
        (folder / "images" / f"good.{name}").write_bytes(data)
    names = list(originals)
    for number in range(count):
        name = names[number % len(names)]
        (folder / "images" / f"{number:05d}.{name}").write_bytes(mutate(originals[name], rng))
    config = Config.model_validate(
        {
            "input": {"images": str(folder / "images/*"), "max_seconds": 10},
            "output": {"path": str(folder / "out"), "encoding": "raw"},
            "patch": {"size": 32},
            "max_rejected": 0,
        }
    )
    start = time.monotonic()
    try:
        build(config, parse_options([]))
    except TooManyRejectedError:
        pass  # the accounts are there all the same
    print(f"{count} mutations took {time.monotonic() - start:.0f} s")
    (version,) = (folder / "out/versions").iterdir()
    rows = [json.loads(line) for line in (version / "rejected.jsonl").read_text().splitlines()]
    return version, rows


def check(folder, count, seed):
    import pyarrow.parquet as pq

    version, rows = fuzz(folder, count, seed)
    images = pq.read_table(version / "images.parquet").to_pylist()
    assert len(images) == count + len(FORMATS)
    for image in images:
        assert image["planned"] == image["written"] + image["filtered"] + image["rejected"]
    lost = collections.Counter()
    for row in rows:
        lost[row["image_id"]] += row["patches"]
    assert all(image["rejected"] == lost[image["image_id"]] for image in images)
    assert {row["reason"] for row in rows} <= set(Reason.__args__) - {"io_error", "changed", "missing_extra"}  # type: ignore[attr-defined]
    good = [image for image in images if image["image_id"].startswith("good.")]
    assert {image["written"] for image in good} == {-(-HEIGHT // 32) * -(-WIDTH // 32)}
    assert all(image["reason"] or image["planned"] for image in images)
    return collections.Counter(row["reason"] for row in rows)


def test_a_few_mutations_of_every_format_are_read_or_rejected(tmp_path):
    reasons = check(tmp_path, 5 * len(FORMATS), seed=1)
    assert reasons["corrupt_data"]
    assert reasons["corrupt_header"]


@pytest.mark.heavy
@pytest.mark.timeout(0)
def test_two_thousand_mutations_are_read_or_rejected(tmp_path):
    print(check(tmp_path, int(os.environ.get("FUZZ", "2000")), seed=2))
