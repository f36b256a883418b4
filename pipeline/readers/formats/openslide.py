"""Slides that need OpenSlide (extra ``wsi``), from local disks: MIRAX, Hamamatsu, Leica, Ventana, Sakura, Zeiss.

They are recognised by their file names, because they begin like another format or consist of several files. Pixels
that were not scanned have the background colour of the slide, or white if it names none.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.errors import Unreadable
from pipeline.readers import ImageFile, Layout, Reader, check_inside, extra, unreadable
from transforms.grid import Box

_BLOCK = 512  # where the slide does not say


def open_reader(file: ImageFile, level: int, page: int | None) -> Reader:
    """See :func:`pipeline.readers.open_image`."""
    library = extra("openslide", "wsi")
    if page:
        raise Unreadable("no_such_page", f"a slide has page 0 only, asked for {page}")
    if not storage.is_local(file.uri):
        raise Unreadable("unsupported_mode", "OpenSlide reads local files only; copy the slide, with its folder")
    return _SlideReader(library, file, level)


class _SlideReader:
    def __init__(self, library: Any, file: ImageFile, level: int):
        self.file = file
        self._library, self._level = library, level
        self._lock = threading.Lock()
        self._slide: Any = library.OpenSlide(file.uri)
        levels = tuple((height, width) for width, height in self._slide.level_dimensions)
        if level >= len(levels):
            raise Unreadable("no_such_level", f"has {len(levels)} pyramid levels, asked for level {level}")
        self._downsample = self._slide.level_downsamples[level]
        facts = self._slide.properties
        block = [min(int(facts.get(f"openslide.level[{level}].tile-{side}", _BLOCK)), length)
                 for side, length in zip(("height", "width"), levels[level])]  # fmt: skip
        down, across = (float(facts.get(f"openslide.mpp-{axis}", 0)) * self._downsample for axis in "yx")
        colour = int(facts.get("openslide.background-color", "FFFFFF"), 16)
        self._background = np.array([colour >> 16, colour >> 8 & 255, colour & 255], np.uint16)
        mpp = (down, across) if down > 0 and across > 0 else None
        pyramid = levels if len(levels) > 1 else ()
        self.layout = Layout(*levels[level], 3, "uint8", block[0], block[1], "rgb", 8, pyramid, mpp)

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        check_inside(box, self.layout)
        with unreadable("corrupt_data", "does not decode"):
            place = (round(box.col * self._downsample), round(box.row * self._downsample))
            try:
                rgba = np.asarray(self._open().read_region(place, self._level, (box.width, box.height)))
            except self._library.OpenSlideError:
                self._slide = None  # every later call would also fail
                raise
        alpha = rgba[..., 3:].astype(np.uint16)
        blended = (rgba[..., :3] * alpha + self._background * (255 - alpha) + 127) // 255
        return blended.astype(np.uint8)

    def _open(self) -> Any:
        with self._lock:
            if self._slide is None:
                self._slide = self._library.OpenSlide(self.file.uri)
            return self._slide

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        if self._slide is not None:
            self._slide.close()
            self._slide = None
        self.file.close()
