"""An image while it is cut: opened by its first window, with the rasters that belong to it, and closed by the last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.elements import ImageInfo
from pipeline.errors import Unreadable
from pipeline.parallel import Counters
from pipeline.readers import Reader
from pipeline.readers.converted import Choice
from pipeline.readers.isolated import open_isolated
from pipeline.readers.rasters import naming_raster, open_raster
from pipeline.readers.rescaled import ScaledReader, nearest_finer, open_to_scale, read_by_area
from pipeline.readers.sample import sample_pixels
from transforms import quality, stain
from transforms.grid import Box


class OpenImage:
    """An image that is opened by the first of its windows and closed by the last."""

    def __init__(self, info: ImageInfo, config: Config, windows: int, counters: Counters):
        self.info, self._counters = info, counters
        self.is_whole = info.is_whole  # where one part is bad, all of it is
        self._config, self._left = config, windows
        self._lock = threading.RLock()
        self._opened: Reader | Unreadable | None = None
        self._rasters: dict[str, Reader] = {}
        self._levels: dict[int, Reader] = {}
        self._known: dict[str, Any] = {}

    def read(self, box: Box) -> np.ndarray:
        """Pixels of the image, see :class:`pipeline.readers.Reader`.

        An image that does not open raises the same error every time.
        """
        reader = self._reader()
        if not reader.layout.is_whole:
            self._counters.count("pixels_decoded", box.height * box.width)
        return reader.read(box)

    def read_rasters(self, box: Box) -> dict[str, np.ndarray]:
        """The same pixels of the rasters that belong to the image, by their names."""
        self._reader()
        return {name: self._read_raster(name, box) for name in self._rasters}

    def scale_factors(self, scale: int) -> tuple[float, float]:
        """Pixels that ``scale`` pixels of the image take in the level that they are read from, down and across."""
        level, step = self._level_for(scale), self.info.step
        full, size = self._sizes[0], self._sizes[level]
        return scale * step[0] * size[0] / full[0], scale * step[1] * size[1] / full[1]

    def read_scale(self, scale: int, positions: Sequence[np.ndarray]) -> np.ndarray:
        """Pixels of ``scale`` times the size, see :func:`pipeline.readers.rescaled.read_by_area`.

        Raises:
            Unreadable: see :class:`pipeline.readers.Reader`.
        """
        self._reader()
        level, patch = self._level_for(scale), self._config.patch
        with self._lock:
            if level not in self._levels:
                choice = Choice.of(self._config.input)._replace(level=level)
                self._levels[level] = open_isolated(self.info.uri, choice, self._config.input.max_seconds)
        reader = self._levels[level]
        return read_by_area(reader, positions, self.scale_factors(scale), patch.pad_mode, patch.pad_value)

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        return self.info.fact("levels") or [(self.info.height, self.info.width)]

    def _level_for(self, scale: int) -> int:
        step = self.info.step
        return nearest_finer(self._sizes, (scale * step[0], scale * step[1]))

    def tissue_threshold(self) -> int:
        """The saturation above which a pixel is tissue: as configured, or Otsu's for some pixels of the whole image.

        Raises:
            Unreadable: if none of those can be read; the same error every time.
        """
        wanted = self._config.quality.tissue_threshold if self._config.quality else 0
        if wanted != "otsu" or self._config.input.channels != 3:
            return 0 if wanted == "otsu" else wanted
        limits = self._config.value_range
        return self._once("tissue", lambda: quality.otsu(quality.saturation(self._sample(), limits)))

    def stain_matrix(self) -> np.ndarray | None:
        """What gives the image the stains of the reference, ``[3, 4]`` on densities; None where nothing asks for it.

        Raises:
            Unreadable: ``no_stain``, or as :meth:`tissue_threshold`.
        """
        if not self._config.patch.stain:
            return None

        def estimate():
            try:
                return stain.macenko(self._sample())
            except ValueError as error:
                raise Unreadable("no_stain", f"patch.stain: {error}") from error

        return self._once("stain", estimate)

    def _sample(self) -> np.ndarray:
        return self._once("sample", lambda: sample_pixels(self._reader(), self.info.uri, self._config.input))

    def _once(self, name: str, find: Callable[[], Any]) -> Any:
        """What ``find`` returns or raises, found once."""
        with self._lock:
            if name not in self._known:
                try:
                    self._known[name] = find()
                except Unreadable as error:
                    self._known[name] = error
        if isinstance(self._known[name], Unreadable):
            raise self._known[name]
        return self._known[name]

    def window_done(self) -> None:
        """To be called once for every window."""
        with self._lock:
            self._left -= 1
            if not self._left and self._opened and not isinstance(self._opened, Unreadable):
                self._known.clear()
                levels = [reader for reader in self._levels.values() if reader.file is not self._opened.file]
                for reader in (self._opened, *self._rasters.values(), *levels):
                    self._counters.count("bytes_read", reader.file.bytes_read)
                    reader.close()

    def _reader(self) -> Reader:
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
        if isinstance(self._opened, Unreadable):
            raise self._opened
        return self._opened

    def _read_raster(self, name: str, box: Box) -> np.ndarray:
        reader = self._rasters[name]
        try:
            with naming_raster(name, self.info, self._config.input.rasters[name]):
                return reader.read(box)
        except Unreadable:
            self.is_whole |= reader.layout.is_whole
            raise

    def _open(self) -> Reader | Unreadable:
        wanted = self._config.input
        try:
            reader = open_to_scale(self.info.uri, wanted)
        except Unreadable as error:
            return error
        if self.info.previous_split:  # its header was not read
            self._counters.count("images_opened", 1)
        if reader.layout.is_whole:  # it is decoded once, by the first window
            self._counters.count("pixels_decoded", self.info.height * self.info.width)
        planned = (self.info.height, self.info.width, wanted.channels, wanted.dtype)
        try:
            if reader.layout[:4] != planned:
                raise Unreadable("changed", f"is {reader.layout[:4]} now, and was {planned} when the build was planned")
            for name, raster in sorted(wanted.rasters.items()):
                self._rasters[name] = open_raster(self.info, name, raster, wanted.max_seconds)
        except Unreadable as error:
            for opened in (reader, *self._rasters.values()):
                opened.close()
            return error
        # What an image that is decoded whole has in memory serves other scales, too.
        self._levels = {reader.level: reader.source} if isinstance(reader, ScaledReader) else {wanted.level: reader}
        return reader
