"""What several test files share: builds made by hand, what is read of them, and pictures in files."""

import errno
import hashlib
import io
import json
import pathlib
import struct
import zlib
from unittest.mock import MagicMock

import imagecodecs
import numpy as np
import pyarrow.dataset
import pytest
import tifffile
from PIL import Image, ImageOps

from pipeline import readers
from pipeline.build import build
from pipeline.config import Config
from pipeline.elements import FORMAT
from pipeline.errors import Unreadable
from pipeline.runners.options import parse_options
from pipeline.versions.manifest import Manifest
from transforms.grid import Box

REPO = pathlib.Path(__file__).parent.parent
SAMPLES = REPO / "samples"
ODD = REPO / "tests/data/odd"

# --- builds ---

ONE_WORKER = ["--direct_num_workers=1"]


def configure(root, out, **sections):
    values = {
        "input": {"images": [f"{root}/**/*"], "label": "folder"},
        "output": {"path": str(out)},
        "patch": {"size": 32},
        "splits": {"train": 0.6, "test": 0.4},
    }
    for name, section in sections.items():
        values[name] = values[name] | section if isinstance(values.get(name), dict) and name != "splits" else section
    return Config.model_validate(values)


def leave_out_graphs(monkeypatch):
    """Leaves out the analysis with tf-transform, which takes ten seconds; a test takes the fixture ``no_graphs``."""
    monkeypatch.setattr("pipeline.build.graphs_program", MagicMock())


def run(config, flags=ONE_WORKER):
    return build(config, parse_options(flags))


def read_index(folder):
    return pyarrow.dataset.dataset(f"{folder}/index").to_table().to_pylist()


def patches_of(folder):
    """(image id, row, col) -> patch, with nothing but the index and NumPy (and a PNG decoder)."""
    found = {}
    for row in read_index(folder):
        with open(f"{folder}/{row['shard']}", "rb") as file:
            file.seek(row["image_offset"])
            found[row["image_id"], row["row"], row["col"]] = imagecodecs.png_decode(file.read(row["image_length"]))
    return found


def checksums(folder, but=("manifest.json",)):
    """File -> sha256 of everything below the folder, except what names the time or the machine."""
    paths = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
    names = {str(path.relative_to(folder)): path for path in paths}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if not name.startswith(tuple(but))
    }


# --- pixels ---


def picture(height, width, channels=3, dtype="uint8", seed=0):
    """``[height, width, channels]`` noise of the whole range of the type, in which every pixel differs."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(0, 1000, (height, width, channels)).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def noise(*shape, dtype="uint8"):
    """The whole range of an integer type, in any number of dimensions."""
    rng = np.random.default_rng(0)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def photo(height, width):
    """Part of a photograph: what lossy codecs are made for."""
    with Image.open(SAMPLES / "photos/chelsea.png") as image:
        return np.asarray(image)[:height, :width].copy()


def shown(stored, orientation):
    """What Pillow shows, for any number of channels and any type: it turns an image of the pixels' numbers."""
    height, width, channels = stored.shape
    numbers = Image.fromarray(np.arange(height * width, dtype=np.int32).reshape(height, width))
    numbers.getexif()[274] = orientation
    return stored.reshape(-1, channels)[np.asarray(ImageOps.exif_transpose(numbers))]


# --- files ---

RGB = {"photometric": "rgb"}
GREY = {"photometric": "minisblack"}
TILED = {"tile": (32, 48)}


def write_tiff(path, pixels, **ways):
    file = {name: ways.pop(name) for name in ("byteorder", "bigtiff") if name in ways}
    if ways.get("planarconfig") == "separate":
        pixels = np.moveaxis(pixels, -1, 0)
    elif pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    with tifffile.TiffWriter(path, **file) as writer:
        writer.write(pixels, metadata=None, **ways)


def exif_of(orientation, more=b""):
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0") + more


def jpeg_of(pixels, **ways):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **ways)
    return out.getvalue()


def save(path, image, **ways):
    image.save(path, **ways)
    return path


def chunk(name, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_dicom(path, pixels, **tags):
    """A DICOM of ``[frames, rows, columns(, 3)]``."""
    import pydicom

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


# --- what is read of them ---


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


_open = []


def keep(reader):
    """Keeps an open image until the test ends, which closes it."""
    _open.append(reader)
    return reader


def close_kept():
    while _open:
        _open.pop().close()


def open_image(*image, **ways):
    return keep(readers.open_image(*image, **ways))


def boxes_of(height, width, count=20, seed=0):
    """The whole image, its four corners, and random boxes."""
    yield Box(0, 0, height, width)
    yield from (Box(row, col, 1, 1) for row in (0, height - 1) for col in (0, width - 1))
    rng = np.random.default_rng(seed)
    for _ in range(count):
        (top, bottom), (left, right) = (sorted(rng.integers(0, length + 1, 2)) for length in (height, width))
        if top < bottom and left < right:
            yield Box(int(top), int(left), int(bottom - top), int(right - left))


def part(pixels, box):
    return pixels[box.row : box.row + box.height, box.col : box.col + box.width]


def open_and_read(path, level=0):
    """(layout, all pixels)."""
    reader = open_image(str(path), level)
    try:
        return reader.layout, np.array(reader.read(Box(0, 0, reader.layout.height, reader.layout.width)))
    finally:
        reader.close()


def assert_reads(path, expected, block=None, level=0, count=20, page=None):
    """The layout, the whole, and windows of it, are those of ``expected``; returns the layout."""
    reader = open_image(str(path), level, page)
    height, width, channels = expected.shape
    block = block or (height, width)
    assert reader.layout[:6] == (height, width, channels, expected.dtype.name, *block)
    for box in boxes_of(height, width, count):
        window = reader.read(box)
        assert window.dtype == expected.dtype
        np.testing.assert_array_equal(window, part(expected, box), err_msg=str(box))
    reader.close()
    return reader.layout


def reason_of(path, level=0, box=None):
    """Why it cannot be opened, or else why it, or ``box``, cannot be read."""
    with pytest.raises(Unreadable) as caught:
        reader = open_image(str(path), level)
        reader.read(box or Box(0, 0, reader.layout.height, reader.layout.width))
    return caught.value.reason


def message_of(path, level=0, page=None):
    """Why it cannot be opened: (reason, message)."""
    with pytest.raises(Unreadable) as caught:
        open_image(str(path), level, page)
    return caught.value.args


# --- manifests ---


def make_manifest(accounts=None, splits=None, **changes):
    """The manifest of a version that holds nothing, with these changes."""
    split = {"images": 0, "patches": 0, "shards": 0, "bytes": 0, "largest_to_mean": 1.0}
    counts = dict.fromkeys(("images", "images_rejected", "planned", "written", "filtered", "rejected"), 0)
    values = {
        "format": FORMAT,
        "version": "20260101T000000Z-abababab",
        "identity": "ab" * 32,
        "content_digest": "cd" * 32,
        "created": "2026-01-01T00:00:00Z",
        "seconds": 1.0,
        "host": "here",
        "software": {},
        "config": {},
        "inputs": {"images": 0, "digest": "ef" * 32},
        "previous": None,
        "accounts": counts | {"filters": {}, "reasons": {}, "split_images": {}} | (accounts or {}),
        "splits": {name: split | facts for name, facts in (splits or {}).items()},
        "counters": {},
        "files": {},
    }
    return Manifest.model_validate(values | changes)


def rewrite_manifest(folder, change):
    """Changes the JSON of a manifest, ``change(content)``, as a build that wrote it so: its checksum is right."""
    path = pathlib.Path(folder, "manifest.json")
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"checksum": checksum}))
