"""An image while it is cut: opened by its first window, with the rasters that belong to it, and closed by the last."""

from __future__ import annotations

import threading

import numpy as np

from pipeline.config import Config
from pipeline.elements import ImageInfo, Unreadable
from pipeline.isolation import open_isolated
from pipeline.overview import sample_pixels
from pipeline.parallel import Clock
from pipeline.rasters import naming, open_raster
from pipeline.readers import Reader
from pipeline.readers.converted import Choice
from transforms import quality
from transforms.grid import Box


class OpenImage:
    """An image that is opened by the first of its windows and closed by the last."""

    def __init__(self, info: ImageInfo, config: Config, windows: int, clock: Clock):
        self.info, self._clock = info, clock
        self.is_whole = info.is_whole  # where one part is bad, all of it is
        self._config, self._left = config, windows
        self._lock = threading.RLock()
        self._opened: Reader | Unreadable | None = None
        self._rasters: dict[str, Reader] = {}
        self._tissue: int | Unreadable | None = None

    def read(self, box: Box) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The pixels of the image and of the rasters that belong to it, see :class:`pipeline.readers.Reader`.

        An image that does not open raises the same error every time.
        """
        reader = self._reader()
        if not reader.layout.is_whole:
            self._clock.count("pixels_decoded", box.height * box.width)
        return reader.read(box), {name: self._read_raster(name, box) for name in self._rasters}

    def tissue_threshold(self) -> int:
        """The saturation above which a pixel is tissue: as configured, or Otsu's for some pixels of the whole image.

        Raises:
            Unreadable: if none of those can be read; the same error every time.
        """
        wanted = self._config.quality.tissue_threshold if self._config.quality else 0
        if wanted != "otsu" or self._config.input.channels != 3:
            return 0 if wanted == "otsu" else wanted
        with self._lock:
            if self._tissue is None:
                try:
                    pixels = sample_pixels(self._reader(), self.info.uri, self._config.input)
                    self._tissue = quality.otsu(quality.saturation(pixels, self._config.value_range))
                except Unreadable as error:
                    self._tissue = error
        if isinstance(self._tissue, Unreadable):
            raise self._tissue
        return self._tissue

    def window_done(self) -> None:
        """To be called once for every window."""
        with self._lock:
            self._left -= 1
            if not self._left and self._opened and not isinstance(self._opened, Unreadable):
                for reader in (self._opened, *self._rasters.values()):
                    self._clock.count("bytes_read", reader.file.bytes_read)
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
            with naming(name, self.info, self._config.input):
                return reader.read(box)
        except Unreadable:
            self.is_whole |= reader.layout.is_whole
            raise

    def _open(self) -> Reader | Unreadable:
        wanted = self._config.input
        try:
            reader = open_isolated(self.info.uri, Choice.of(wanted), wanted.max_seconds)
        except Unreadable as error:
            return error
        if self.info.was:  # its header was not read
            self._clock.count("images_opened", 1)
        if reader.layout.is_whole:  # it is decoded once, by the first window
            self._clock.count("pixels_decoded", self.info.height * self.info.width)
        planned = (self.info.height, self.info.width, wanted.channels, wanted.dtype)
        try:
            if reader.layout[:4] != planned:
                raise Unreadable("changed", f"is {reader.layout[:4]} now, and was {planned} when the build was planned")
            for name in sorted(wanted.rasters):
                self._rasters[name] = open_raster(self.info, name, wanted, planned[:2])
        except Unreadable as error:
            for opened in (reader, *self._rasters.values()):
                opened.close()
            return error
        return reader
