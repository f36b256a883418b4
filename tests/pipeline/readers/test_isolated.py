"""A decoder that dies, hangs or floods costs its window; everything else is as without isolation."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tifffile
from helpers import RGB, SAMPLES, TILED, boxes_of, keep, photo, write_tiff
from PIL import Image

from pipeline import storage
from pipeline.errors import Unreadable
from pipeline.readers import isolated
from pipeline.readers.converted import Choice, open_as
from pipeline.readers.isolated import open_isolated
from transforms.grid import Box


def open_in_decoder(path, seconds=30.0, **choice):
    return keep(open_isolated(str(path), Choice(**choice), seconds))


@pytest.mark.parametrize(
    "path", ["slides/CMU-1-Small-Region.svs", "photos/retina.jpg", "microscopy/stardist_img2d.tif"]
)
def test_windows_are_those_of_this_process(path):
    here, there = keep(open_as(str(SAMPLES / path), Choice())), open_in_decoder(SAMPLES / path)
    assert there.layout == here.layout
    for box in boxes_of(here.layout.height, here.layout.width, 8):
        np.testing.assert_array_equal(there.read(box), here.read(box))
    there.close()


def test_conversions_are_done_there_too():
    path, choice = str(SAMPLES / "photos/chelsea.png"), {"convert": "gray", "depth": "scale", "dtype": "uint16"}
    box = Box(10, 20, 100, 200)
    expected = keep(open_as(path, Choice(**choice))).read(box)
    np.testing.assert_array_equal(open_in_decoder(path, **choice).read(box), expected)


def test_threads_have_decoders_of_their_own(tmp_path):
    write_tiff(tmp_path / "a.tif", photo(290, 440), compression="jpeg", **RGB, **TILED)
    boxes = list(boxes_of(290, 440, 60))
    reader = open_in_decoder(tmp_path / "a.tif")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(reader.read, boxes))
    here = keep(open_as(str(tmp_path / "a.tif"), Choice()))
    assert all(np.array_equal(window, here.read(box)) for window, box in zip(at_once, boxes))
    assert len({decoder.pid for decoder in isolated._idle}) == len(isolated._idle) <= 6


def test_files_of_a_storage_are_read_by_this_process(tmp_path, monkeypatch):
    write_tiff(tmp_path / "a.tif", photo(290, 440), compression="jpeg", **RGB, **TILED)
    Image.fromarray(photo(290, 440)).save(tmp_path / "a.jpg")
    opened = []

    def open_read(uri):
        opened.append(uri)
        return open(tmp_path / uri.removeprefix("fake://"), "rb")

    monkeypatch.setattr(storage, "open_read", open_read)
    for name in ("a.tif", "a.jpg"):
        reader = open_in_decoder("fake://" + name)
        expected = keep(open_as("fake://" + name, Choice()))
        for box in boxes_of(290, 440, 5):
            np.testing.assert_array_equal(reader.read(box), expected.read(box))
        assert 0 < reader.file.bytes_read
    assert opened.count("fake://a.tif") == 2


def test_a_storage_that_fails_is_an_io_error_there_too(tmp_path, monkeypatch):
    write_tiff(tmp_path / "a.tif", photo(290, 440), compression="jpeg", **RGB, **TILED)
    monkeypatch.setattr(storage, "open_read", lambda uri: open(tmp_path / "a.tif", "rb"))
    reader = open_in_decoder("fake://a.tif")
    box = Box(0, 0, 10, 10)
    expected = reader.read(box)

    def fail(size=-1):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(reader.file, "_file", type("F", (), {"read": staticmethod(fail), "seek": lambda *_: 0})())
        with pytest.raises(Unreadable) as caught:
            reader.read(Box(280, 430, 10, 10))
        assert caught.value.args == ("io_error", "cannot be read: Input/output error")
    np.testing.assert_array_equal(reader.read(box), expected)


# --- readers that misbehave: plug-ins of a package in a folder of its own ---

PLUG_IN = """
import os, signal, time
import numpy as np
from pipeline.readers import Layout

def matches(head, uri):
    return head.startswith(b"BAD!")

class Reader:
    def __init__(self, file):
        self.file, self.layout = file, Layout(100, 100, 1, "uint8", 10, 10)

    def read(self, box):
        pixels = np.full((box.height, box.width, 1), 7, np.uint8)
        bad = box.row <= 50 < box.row + box.height and box.col <= 50 < box.col + box.width
        if bad:
            {what}
        return pixels

    def close(self):
        pass

def open_reader(file, level, page):
    return Reader(file)
"""
WAYS = {
    "segfault": ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "SIGSEGV"),
    "abort": ("os.abort()", "crashed", "SIGABRT"),
    "exit": ("os._exit(3)", "crashed", "exit code 3"),
    "loop": ("exec('while True: pass')", "timeout", "max_seconds"),
    "sleep": ("time.sleep(1000)", "timeout", "max_seconds"),
    "flood": ("pixels = np.ones(1 << 36, np.uint8)", "too_large", "4 GiB"),
    "wrong shape": ("pixels = pixels[:, :, [0, 0]]", "corrupt_data", "cannot be read"),
    "error": ("raise RuntimeError('odd')", "corrupt_data", "odd"),
}


@pytest.fixture
def bad_reader(tmp_path, monkeypatch, own_decoders):
    """``bad_reader(what)`` installs a reader that does this where a window holds pixel (50, 50)."""

    def install(what):
        site = tmp_path / "site"
        (site / "bad_reader-1.dist-info").mkdir(parents=True)
        (site / "bad_reader.py").write_text(PLUG_IN.replace("{what}", what))
        (site / "bad_reader-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: bad-reader\nVersion: 1\n")
        (site / "bad_reader-1.dist-info/entry_points.txt").write_text("[patchbeam.readers]\nbad = bad_reader\n")
        monkeypatch.syspath_prepend(str(site))
        (tmp_path / "a.bad").write_bytes(b"BAD!")
        return tmp_path / "a.bad"

    yield install
    sys.modules.pop("bad_reader", None)


@pytest.mark.parametrize("way", WAYS)
def test_a_window_that_fails_costs_that_window(bad_reader, way):
    what, reason, message = WAYS[way]
    reader = open_in_decoder(bad_reader(what), seconds=0.5)
    good = Box(0, 0, 50, 100)
    for _ in range(2):
        assert (reader.read(good) == 7).all()
        with pytest.raises(Unreadable) as caught:
            reader.read(Box(40, 40, 20, 20))
        assert caught.value.reason == reason
        assert message in caught.value.message
    assert (reader.read(good) == 7).all()


def test_a_build_goes_on_where_a_decoder_dies(bad_reader, tmp_path, make_config):
    from pipeline.elements import ImageRef
    from pipeline.parallel import Counters
    from pipeline.planning.geometry import grid_of
    from pipeline.planning.inspect_images import inspect_image
    from pipeline.shards.cut_window import OpenImage, WindowCutter
    from transforms.grid import Box as Area

    path = bad_reader("os.kill(os.getpid(), signal.SIGSEGV)")
    config = make_config(input={"channels": 1}, patch={"size": 10}, splits={"train": 1.0})
    info = inspect_image(ImageRef("a.bad", str(path), "1"), config)
    cells = grid_of(info, config.patch).cells(Area(0, 0, 100, 100))
    image = OpenImage(info, config, 1, Counters())
    patches = WindowCutter(config, Counters()).cut(image, cells)
    image.window_done()
    assert len(patches.rows) == 99
    assert [(row.reason, row.row, row.col, row.patches) for row in patches.rejected] == [("crashed", 50, 50, 1)]


def test_decoders_end_with_the_process_that_uses_them_even_in_a_loop(bad_reader, tmp_path):
    path = bad_reader("exec('while True: pass')")
    script = textwrap.dedent(f"""
        import sys, threading, time
        sys.path[:] = {sys.path!r}
        from pipeline.readers import isolated
        from pipeline.readers.converted import Choice
        from transforms.grid import Box
        reader = isolated.open_isolated({str(path)!r}, Choice(), 500)
        print(isolated._fork_server.process.pid, isolated._idle[0].pid, flush=True)
        reader.read(Box(0, 0, 100, 100))
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(signal.SIGKILL)
    for pid in pids:
        for _ in range(100):
            if not _running(pid):
                break
            signal.sigtimedwait([], 0.1)
        assert not _running(pid)


def _running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_decoder_that_somebody_ends_is_replaced(tmp_path):
    write_tiff(tmp_path / "a.tif", photo(100, 131), **RGB, **TILED)
    reader = open_in_decoder(tmp_path / "a.tif")
    box = Box(0, 0, 50, 50)
    expected = reader.read(box)
    for decoder in list(isolated._idle):
        os.kill(decoder.pid, signal.SIGTERM)
    for _ in range(len(isolated._idle) + 1):
        try:
            window = reader.read(box)
        except Unreadable as error:
            assert error.reason == "crashed"
    np.testing.assert_array_equal(window, expected)


def test_an_image_is_opened_anew_after_an_error(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, photo(100, 131), compression="deflate", **RGB, **TILED)
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    good = path.read_bytes()
    path.write_bytes(good[:start] + bytes(count) + good[start + count :])
    reader = open_in_decoder(path)
    with pytest.raises(Unreadable) as caught:
        reader.read(Box(0, 0, 5, 5))
    assert caught.value.reason == "corrupt_data"
    np.testing.assert_array_equal(reader.read(Box(40, 60, 5, 5)), photo(100, 131)[40:45, 60:65])


@pytest.mark.parametrize(
    ("program", "message", "reason"),
    [
        ("import a_library_that_is_not_there", "patchbeam doctor says what is missing", "missing_extra"),
        ("import os; os.kill(os.getpid(), 9)", "the process that decoders come from died of SIGKILL", "io_error"),
    ],
)
def test_decoders_that_do_not_start_name_the_way_out(monkeypatch, own_decoders, program, message, reason):
    monkeypatch.setattr(isolated, "_START", program)
    with pytest.raises(Unreadable, match=message) as caught:
        open_in_decoder(SAMPLES / "photos/chelsea.png")
    assert caught.value.reason == reason


def test_a_fork_server_that_lives_is_not_waited_for(monkeypatch, own_decoders):
    """As where this process has no descriptors left."""

    def full(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(isolated, "send_handle", full)
    monkeypatch.setattr(isolated, "_DIES_S", 0.1)
    with pytest.raises(Unreadable, match=r"no process .* can be started: .*Too many open files") as caught:
        open_in_decoder(SAMPLES / "photos/chelsea.png")
    assert caught.value.reason == "io_error"
