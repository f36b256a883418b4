"""The contract of a reader as tests: our own readers pass them, and authors of plug-ins inherit them.

::

    class TestRaw8(patchbeam.ReaderTests):
        def write(self, folder):
            pixels = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5, 1)
            path = folder / "a.raw8"
            path.write_bytes(np.array([7, 5], "<u4").tobytes() + pixels.tobytes())
            return str(path), pixels

        def open(self, path):
            return Raw8(patchbeam.ImageFile(open(path, "rb"), path))
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import pathlib

import numpy as np

from pipeline.readers import Reader, open_image, orientation
from transforms.grid import Box


class ReaderTests:
    """Tests that pytest runs for a subclass whose name begins with ``Test``.

    A subclass defines :meth:`write` and, where ``open_image`` does not find the reader by itself, :meth:`open`. A
    format whose files have an orientation also defines :meth:`write_turned`.
    """

    def write(self, folder: pathlib.Path) -> tuple[str, np.ndarray]:
        """Writes a file and returns its path and its pixels ``[height, width, channels]``, known without the reader.

        Height and width should differ, and cover more than one block where the format has blocks.
        """
        raise NotImplementedError

    def write_turned(self, folder: pathlib.Path, turned: int) -> tuple[str, np.ndarray] | None:
        """Writes a file with an EXIF orientation, 1 to 8, and returns its path and its pixels as stored."""
        return None

    def open(self, path: str) -> Reader:
        """Opens a file."""
        return open_image(path)

    def test_the_layout_is_that_of_the_pixels(self, tmp_path: pathlib.Path) -> None:
        """The layout has the size, channels and type of the pixels, and blocks that fit into the image."""
        path, pixels = self.write(tmp_path)
        with contextlib.closing(self.open(path)) as reader:
            layout = reader.layout
        assert (layout.height, layout.width, layout.channels) == pixels.shape
        assert np.dtype(layout.dtype) == pixels.dtype
        assert 1 <= layout.block_height <= layout.height and 1 <= layout.block_width <= layout.width

    def test_a_window_is_a_part_of_the_whole(self, tmp_path: pathlib.Path) -> None:
        """Windows of all kinds equal the same part of the pixels: at the corners, across blocks, of one pixel."""
        path, pixels = self.write(tmp_path)
        with contextlib.closing(self.open(path)) as reader:
            for box in _boxes(reader):
                expected = pixels[box.row : box.row + box.height, box.col : box.col + box.width]
                np.testing.assert_array_equal(reader.read(box), expected, err_msg=str(box))
                assert reader.read(box).dtype == pixels.dtype

    def test_threads_read_at_the_same_time(self, tmp_path: pathlib.Path) -> None:
        """``read`` may be called by several threads at a time."""
        path, pixels = self.write(tmp_path)
        with contextlib.closing(self.open(path)) as reader, concurrent.futures.ThreadPoolExecutor(4) as pool:
            boxes = list(_boxes(reader)) * 4
            for box, found in zip(boxes, pool.map(reader.read, boxes)):
                expected = pixels[box.row : box.row + box.height, box.col : box.col + box.width]
                np.testing.assert_array_equal(found, expected, err_msg=str(box))

    def test_a_box_outside_is_refused(self, tmp_path: pathlib.Path) -> None:
        """A box that does not lie inside the image is an error of the caller, and never answered with other pixels."""
        path, pixels = self.write(tmp_path)
        height, width, _ = pixels.shape
        outside = (
            Box(-1, 0, 1, 1),
            Box(0, -1, 1, 1),
            Box(height - 1, 0, 2, 1),
            Box(0, width - 1, 1, 2),
            Box(0, 0, 0, 1),
        )
        with contextlib.closing(self.open(path)) as reader:
            for box in outside:
                try:
                    reader.read(box)
                except ValueError:
                    continue
                raise AssertionError(f"{box} of an image of {height} x {width} pixels was read")

    def test_the_orientation_is_applied(self, tmp_path: pathlib.Path) -> None:
        """Pixels and layout are those that a viewer shows."""
        for turned in range(1, 9):
            if written := self.write_turned(tmp_path, turned):
                path, stored = written
                shown = orientation.shown(stored, turned)
                with contextlib.closing(self.open(path)) as reader:
                    assert (reader.layout.height, reader.layout.width) == shown.shape[:2]
                    whole = Box(0, 0, *shown.shape[:2])
                    np.testing.assert_array_equal(reader.read(whole), shown, err_msg=f"orientation {turned}")

    def test_it_closes(self, tmp_path: pathlib.Path) -> None:
        """``close`` closes the file; a second call does nothing."""
        path, _ = self.write(tmp_path)
        reader = self.open(path)
        reader.close()
        reader.close()
        assert reader.file.closed


def _boxes(reader: Reader) -> list[Box]:
    layout = reader.layout
    axes = []
    for length, block in ((layout.height, layout.block_height), (layout.width, layout.block_width)):
        first = min(block - 1, length - 1)
        axes.append([(0, length), (0, 1), (length - 1, 1), (first, min(2, length - first)), (length // 3, length // 2)])
    found = [Box(row, col, height, width) for (row, height), (col, width) in itertools.product(*axes)]
    return [box for box in found if box.height and box.width]
