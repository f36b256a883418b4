"""An image while it is cut: opened by its first window, with its companion rasters, and closed by the last."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from pipeline.config import Config
from pipeline.elements import ImageInfo
from pipeline.errors import Unreadable
from pipeline.parallel import Counters, Once
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
        self.is_whole = info.is_whole  # one bad part spoils the whole image
        self._config, self._left = config, windows
        self._lock = threading.Lock()
        self._rasters: dict[str, Reader] = {}
        self._levels: dict[int, Reader] = {}
        # Each is found once, or raises the same error every time.
        self._reader = Once(self._open)
        self._sample = Once(lambda: sample_pixels(self._reader(), info.uri, config.input))
        self._threshold = Once(self._find_threshold)
        self._stain = Once(self._find_stain)

    def read(self, box: Box) -> np.ndarray:
        """Reads pixels of the image, see :class:`pipeline.readers.Reader`."""
        reader = self._reader()
        if not reader.layout.is_whole:
            self._counters.count("pixels_decoded", box.height * box.width)
        return reader.read(box)

    def read_rasters(self, box: Box) -> dict[str, np.ndarray]:
        """Reads the same pixels of the companion rasters, by their names."""
        self._reader()
        return {name: self._read_raster(name, box) for name in self._rasters}

    def scale_factors(self, scale: int) -> tuple[float, float]:
        """Returns the pixels that ``scale`` pixels of the image take in the level that is read, down and across."""
        level, step = self._level_for(scale), self.info.step
        full, size = self._sizes[0], self._sizes[level]
        return scale * step[0] * size[0] / full[0], scale * step[1] * size[1] / full[1]

    def read_scale(self, scale: int, positions: Sequence[np.ndarray]) -> np.ndarray:
        """Reads pixels of ``scale`` times the size, see :func:`pipeline.readers.rescaled.read_by_area`.

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
        """Returns the saturation above which a pixel is tissue: as configured, or Otsu's for a sample of the image.

        Raises:
            Unreadable: if no pixel of the sample can be read; the same error every time.
        """
        return self._threshold()

    def _find_threshold(self) -> int:
        wanted = self._config.quality.tissue_threshold if self._config.quality else 0
        if wanted != "otsu":
            return wanted
        if self._config.input.channels != 3:
            return 0
        return quality.otsu(quality.saturation(self._sample(), self._config.value_range))

    def stain_matrix(self) -> np.ndarray | None:
        """Returns the matrix ``[3, 4]`` on densities that gives the image the reference stains; None if not asked for.

        Raises:
            Unreadable: ``no_stain``, or as :meth:`tissue_threshold`.
        """
        return self._stain()

    def _find_stain(self) -> np.ndarray | None:
        if not self._config.patch.stain:
            return None
        try:
            return stain.macenko(self._sample())
        except ValueError as error:
            raise Unreadable("no_stain", f"patch.stain: {error}") from error

    def window_done(self) -> None:
        """Counts a finished window; must be called once for every window, and the last call closes the image."""
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._sample.forget()
        if self._reader.was_made:
            opened = self._reader()
            levels = [reader for reader in self._levels.values() if reader.file is not opened.file]
            for reader in (opened, *self._rasters.values(), *levels):
                self._counters.count("bytes_read", reader.file.bytes_read)
                reader.close()

    def _read_raster(self, name: str, box: Box) -> np.ndarray:
        reader = self._rasters[name]
        try:
            with naming_raster(name, self.info, self._config.input.rasters[name]):
                return reader.read(box)
        except Unreadable:
            self.is_whole |= reader.layout.is_whole
            raise

    def _open(self) -> Reader:
        wanted = self._config.input
        reader = open_to_scale(self.info.uri, wanted)
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
        except Unreadable:
            for opened in (reader, *self._rasters.values()):
                opened.close()
            raise
        # The pixels of an image that is decoded whole are in memory, and serve other scales, too.
        self._levels = {reader.level: reader.source} if isinstance(reader, ScaledReader) else {wanted.level: reader}
        return reader
