"""Reads every file below some folders as a build does, compares it with other libraries, and makes a table.

    .venv/bin/python benchmarks/formats.py FOLDER ...            prints the table
    .venv/bin/python benchmarks/formats.py --write FOLDER ...    puts it into docs/formats.md

A file is read whole, in a decoder. Its pixels are compared with those that Pillow, rasterio, OpenSlide, pydicom and
nibabel give for the same file, as far as they can read it.
"""

import collections
import pathlib
import sys
import time
import warnings

import numpy as np
from PIL import Image, ImageOps

from pipeline.errors import Unreadable
from pipeline.readers.converted import Choice
from pipeline.readers.isolated import open_isolated
from transforms.grid import Box

DOCS = pathlib.Path(__file__).parents[1] / "docs/formats.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
NOT_IMAGES = {".json", ".md", ".txt"}


def read(path):
    """Returns pixels, layout and page of a file."""
    page = None
    try:
        reader = open_isolated(str(path), Choice(), 60)
    except Unreadable as error:
        if "input.page" not in error.message:
            raise
        page = 0
        reader = open_isolated(str(path), Choice(page=0), 60)
    try:
        return reader.read(Box(0, 0, reader.layout.height, reader.layout.width)), reader.layout, page
    finally:
        reader.close()


def by_pillow(path, page):
    with Image.open(path) as image:
        shown = ImageOps.exif_transpose(image)
        if shown.mode == "1":
            return np.asarray(shown.convert("L"))
        if shown.mode in ("P", "PA"):
            return np.asarray(shown.convert("RGBA" if "transparency" in shown.info else "RGB"))
        return np.asarray(shown)


def by_rasterio(path, page):
    import rasterio

    with rasterio.open(path) as dataset:
        pixels = dataset.read()
        if dataset.colorinterp[0] == rasterio.enums.ColorInterp.palette:
            colours = dataset.colormap(1)
            return np.array([colours[number][:3] for number in range(256)], np.uint8)[pixels[0]]
        return np.moveaxis(pixels, 0, -1)


def by_openslide(path, page):
    import openslide

    with openslide.OpenSlide(str(path)) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def by_pydicom(path, page):
    import pydicom

    header = pydicom.dcmread(path)
    if "TotalPixelMatrixRows" in header:
        raise ValueError("tiles")
    pixels = pydicom.pixels.pixel_array(path, index=page) if page is not None else pydicom.pixels.pixel_array(path)
    if header.BitsAllocated == 1:
        return pixels * np.uint8(255)
    return pydicom.pixels.apply_modality_lut(pixels, header).astype(
        pixels.dtype if "RescaleSlope" not in header else "f4"
    )


def by_nibabel(path, page):
    import nibabel

    volume = np.asanyarray(nibabel.load(path).dataobj)
    return volume.reshape(*volume.shape[:2], -1, order="F")[..., page or 0].T


PEERS = {"Pillow": by_pillow, "rasterio": by_rasterio, "OpenSlide": by_openslide, "pydicom": by_pydicom,
         "nibabel": by_nibabel}  # fmt: skip


def compare(path, pixels, page):
    """Returns the names of the peers with the same pixels, and the others with their differences."""
    same, other = [], []
    for name, peer in PEERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = np.asarray(peer(path, page))
        except Exception:  # not its format
            continue
        theirs = theirs[..., None] if theirs.ndim == 2 else theirs
        if theirs.shape == pixels.shape and theirs.dtype.kind == "i" and pixels.dtype.kind == "u":
            theirs = theirs.astype(pixels.dtype) if theirs.min() >= 0 else theirs  # Pillow's mode I
        theirs = theirs.astype(theirs.dtype.newbyteorder("="))
        if theirs.shape != pixels.shape:
            other.append(f"{name}: {'x'.join(map(str, theirs.shape))}")
        elif theirs.dtype != pixels.dtype:
            other.append(f"{name}: {theirs.dtype}")
        elif np.array_equal(theirs, pixels, equal_nan=pixels.dtype.kind == "f"):
            same.append(name)
        else:
            off = np.abs(theirs.astype("f8") - pixels)
            other.append(f"{name}: {np.mean(off > 0):.1%} of the values, by {np.nanmax(off):g} at most")
    return ", ".join(same), "; ".join(other)


def facts_of(layout, page):
    facts = [f"page {page}"] if page is not None else []
    facts += [f"{len(layout.levels)} levels"] if layout.levels else []
    facts += [f"{layout.mpp[0]:.4g} µm"] if layout.mpp else []
    facts += [layout.crs[:24]] if layout.crs else []
    facts += [f"nodata {layout.nodata}"] if layout.nodata else []
    return ", ".join(facts)


def row_of(root, path):
    start = time.perf_counter()
    try:
        pixels, layout, page = read(path)
    except Unreadable as error:
        return f"| {path.relative_to(root)} | {error.reason} | | | |", error.reason, time.perf_counter() - start
    spent = time.perf_counter() - start
    size = f"{layout.height} x {layout.width} x {layout.channels} {layout.dtype}"
    same, other = compare(path, pixels, page)
    return f"| {path.relative_to(root)} | {size} | {facts_of(layout, page)} | {same} | {other} |", "read", spent


def main(arguments):
    write = arguments[:1] == ["--write"]
    lines = ["| file | read, or reason | known of it | same pixels as | other pixels than |", "|---|---|---|---|---|"]
    outcomes, slowest = collections.Counter(), 0.0
    for folder in arguments[write:]:
        root = pathlib.Path(folder)
        for path in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix not in NOT_IMAGES):
            line, outcome, spent = row_of(root, path)
            print(f"{spent:6.1f} s  {path}", file=sys.stderr, flush=True)
            outcomes[outcome] += 1
            slowest = max(slowest, spent)
            lines.append(line)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    text = f"{sum(outcomes.values())} files: {counts}. The slowest took {slowest:.1f} s.\n\n" + "\n".join(lines) + "\n"
    if write:
        before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
        DOCS.write_text(before + BEGIN + text + END + rest.partition(END)[2], encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
