"""Bytes and requests that reading a window costs on S3, by kind of file.

    python benchmarks/transfers.py [FOLDER for 2 GB of files]

A server on this machine serves the files from their folder and answers the S3 requests that a reader makes.
"""

import http.server
import itertools
import os
import pathlib
import re
import sys
import tempfile
import threading
import typing
import urllib.parse

import imagecodecs
import numpy as np
import tifffile
from mosaic import pictures

from pipeline.readers import open_image
from pipeline.storage import range_file
from transforms.grid import Box

ROOT = pathlib.Path(__file__).parent.parent
SVS = (
    "Aperio Image Library v11.2.1\r\n{side}x{side} [0,0 {side}x{side}] (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.499"
)


def tiles_of(pixels, tile, encode):
    """Returns the encoded tiles of a picture, row by row."""
    rows, cols = pixels.shape[0] // tile, pixels.shape[1] // tile
    cut = [pixels[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile] for r in range(rows) for c in range(cols)]
    return [encode(np.ascontiguousarray(one)) for one in cut]


def write_tiled(path, side, tile, encoded, levels=1, **options):
    """Writes a TIFF of ``side`` x ``side`` pixels, with pyramid levels of half the side each, from repeated tiles."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(levels):
            size = side >> level
            count = (-(-size // tile)) ** 2
            kind = (
                options if level == 0 else {k: v for k, v in options.items() if k != "description"} | {"subfiletype": 1}
            )
            tiff.write((encoded[i % len(encoded)] for i in range(count)), shape=(size, size, 3), dtype="uint8",
                       tile=(tile, tile), metadata=None, **kind)  # fmt: skip


def make_files(folder):
    """Yields the description, path and window of each kind of file."""
    picture = pictures()
    jpeg = lambda tile: imagecodecs.jpeg_encode(tile, 90)
    raw, plain = f"{folder}/plain.tif", tiles_of(picture, 256, lambda tile: tile.tobytes())
    write_tiled(raw, 18_944, 256, plain, photometric="rgb")
    yield "tiled TIFF, no compression, 18,944²", raw, Box(4096, 8192, 4096, 4096)
    path = f"{folder}/jpeg.tif"
    write_tiled(path, 16_384, 256, tiles_of(picture, 256, jpeg), photometric="ycbcr", compression="jpeg")
    yield "tiled TIFF, JPEG, 16,384²", path, Box(2500, 3500, 4096, 4096)
    path, side = f"{folder}/slide.svs", 12_000
    write_tiled(path, side, 240, tiles_of(picture, 240, jpeg), photometric="ycbcr", compression="jpeg",
                description=SVS.format(side=side))  # fmt: skip
    yield "SVS, JPEG, 12,000²", path, Box(2500, 3500, 4096, 4096)
    path = f"{folder}/cog.tif"
    deflated = tiles_of(picture, 512, lambda tile: imagecodecs.zlib_encode(tile.tobytes(), 1))
    write_tiled(path, 8_192, 512, deflated, levels=4, photometric="rgb", compression="deflate")
    yield "COG layout, deflate, 8,192² and 3 overviews", path, Box(2500, 3500, 4096, 4096)
    path = f"{folder}/photo.jpg"
    pathlib.Path(path).write_bytes(imagecodecs.jpeg_encode(np.tile(picture, (5, 3, 1))[:9216, :9216].copy(), 90))
    yield "JPEG, 9,216²", path, Box(4096, 4096, 4096, 4096)
    yield (
        "SVS of the samples, 2,220 × 2,967",
        str(ROOT / "samples/slides/CMU-1-Small-Region.svs"),
        Box(500, 700, 1024, 1024),
    )


class Server(http.server.BaseHTTPRequestHandler):
    """Answers HEAD and ranged GET of objects; ``files`` maps keys to paths, ``sent`` counts bytes and requests."""

    protocol_version = "HTTP/1.1"
    files: typing.ClassVar = {}
    sent: typing.ClassVar = [0, 0]
    lock = threading.Lock()

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(200, 0, os.path.getsize(self.path_of()))

    def do_GET(self):
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        with open(self.path_of(), "rb") as file:
            file.seek(first)
            data = file.read(last - first + 1)
        self.answer(206, len(data), len(data))
        self.wfile.write(data)

    def path_of(self):
        return self.files[urllib.parse.unquote(self.path).rpartition("/")[2]]

    def answer(self, status, sent, length):
        with self.lock:
            self.sent[0] += sent
            self.sent[1] += 1
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(length))
        self.end_headers()


def measure(folder):
    print("| file | size | window | opening | the window | together, of the file | opening again |")
    print("|---|--:|---|--:|--:|--:|--:|")
    for what, path, window in make_files(folder):
        size, key = os.path.getsize(path), os.path.basename(path)
        Server.files[key] = path
        range_file._cache = range_file._Blocks()
        sent = [tuple(Server.sent)]
        reader = open_image(f"s3://bucket/{key}")
        sent.append(tuple(Server.sent))
        pixels = reader.read(window)
        sent.append(tuple(Server.sent))
        reader.close()
        open_image(f"s3://bucket/{key}").close()
        sent.append(tuple(Server.sent))
        steps = [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(sent)]
        assert np.array_equal(pixels, open_image(path).read(window)), path
        shown = [f"{count / 1e6:,.2f} MB in {requests}" for count, requests in steps]
        share = (steps[0][0] + steps[1][0]) / size
        print(f"| {what} | {size / 1e6:,.1f} MB | {window.height} × {window.width} | {shown[0]} | {shown[1]} "
              f"| {share:.2%} | {shown[2]} |", flush=True)  # fmt: skip


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.server_port}"
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        measure(folder)
    server.shutdown()


if __name__ == "__main__":
    main()
