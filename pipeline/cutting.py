"""From a window of an image to encoded patches: read, cut, encode, measure. Knows nothing of shards and Beam."""

from __future__ import annotations

import functools
import threading
from typing import NamedTuple

import numpy as np

from pipeline.config import Config, Input, Raster
from pipeline.device import device
from pipeline.elements import ImageInfo, Rejected, Unreadable, digest, meta_of
from pipeline.parallel import Clock
from pipeline.plan import grid_of
from pipeline.rasters import naming, open_raster
from pipeline.readers import Reader, open_image
from pipeline.records import Row
from transforms import moments
from transforms.encoding import encode_patch
from transforms.example import PatchRecord, to_example
from transforms.grid import Box, Cells
from transforms.patches import WindowPlan, cut, make_cutter, plan_window

_cutter = functools.cache(make_cutter)  # one traced function for a process, not for a shard


class Patches(NamedTuple):
    """What became of a window.

    Attributes:
        rows: the patches that were cut.
        payloads: their serialized Examples.
        moments: of their pixels; None without patches.
        rejected: the parts that could not be read.
    """

    rows: list[Row]
    payloads: list[bytes]
    moments: moments.Moments | None
    rejected: list[Rejected]


class OpenImage:
    """An image that is opened by the first of its windows and closed by the last."""

    def __init__(self, info: ImageInfo, config: Config, windows: int, clock: Clock):
        self.info, self._clock = info, clock
        self.is_whole = info.is_whole  # where one part is bad, all of it is
        self._config, self._left = config.input, windows
        self._lock = threading.Lock()
        self._reader: Reader | Unreadable | None = None
        self._rasters: dict[str, Reader] = {}

    def read(self, box: Box) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The pixels of the image and of the rasters that belong to it, see :class:`pipeline.readers.Reader`.

        An image that does not open raises the same error every time.
        """
        with self._lock:
            if self._reader is None:
                self._reader = self._open()
        if isinstance(self._reader, Unreadable):
            raise self._reader
        return self._reader.read(box), {name: self._read_raster(name, box) for name in self._rasters}

    def _read_raster(self, name: str, box: Box) -> np.ndarray:
        reader = self._rasters[name]
        try:
            with naming(name, self.info, self._config):
                return reader.read(box)
        except Unreadable:
            self.is_whole |= reader.layout[:2] == (reader.layout.block_height, reader.layout.block_width)
            raise

    def _open(self) -> Reader | Unreadable:
        try:
            reader = open_image(self.info.uri, self._config.level)
        except Unreadable as error:
            return error
        planned = (self.info.height, self.info.width, self._config.channels, self._config.dtype)
        try:
            if reader.layout[:4] != planned:
                raise Unreadable("changed", f"is {reader.layout[:4]} now, and was {planned} when the build was planned")
            for name in sorted(self._config.rasters):
                self._rasters[name] = open_raster(self.info, name, self._config, planned[:2])
        except Unreadable as error:
            for opened in (reader, *self._rasters.values()):
                opened.close()
            return error
        return reader

    def window_done(self) -> None:
        """To be called once for every window."""
        with self._lock:
            self._left -= 1
            if not self._left and self._reader and not isinstance(self._reader, Unreadable):
                for reader in (self._reader, *self._rasters.values()):
                    self._clock.count("bytes_read", reader.file.bytes_read)
                    reader.close()


def cut_window(image: OpenImage, cells: Cells, config: Config, clock: Clock) -> Patches:
    """Reads the window of the patches ``cells`` and makes records of them.

    Where a part of the window does not decode, only the patches that need this part are rejected.
    """
    plan = plan_window(grid_of(image.info, config), cells, config.patch.pad_mode)
    try:
        with clock("read"):
            window, raster_windows = image.read(plan.source)
    except Unreadable as error:
        return _without_bad_parts(image, cells, config, clock, plan, error)
    with device(config.workers).slot(), clock("cut"):
        patches = _cut(config.input, window, plan, config.patch.pad_value, config)
        rasters = {
            name: _cut(config.input.rasters[name], pixels, plan, config.input.rasters[name].pad_value, config)
            for name, pixels in raster_windows.items()
        }
    with clock("encode"):
        records = [
            _encode(image.info, row, col, patch, {name: rasters[name][number] for name in rasters}, config)
            for number, ((row, col), patch) in enumerate(zip(plan.starts.tolist(), patches))
        ]
    with clock("measure"):
        measured = moments.measure(patches)
    return Patches([row for row, _ in records], [payload for _, payload in records], measured, [])


def _cut(form: Input | Raster, window: np.ndarray, plan: WindowPlan, pad_value: float, config: Config) -> np.ndarray:
    """The patches of a window of the image or of a raster that belongs to it: the same boxes, nothing interpolated."""
    size, dilation = config.patch.size, config.patch.dilation
    return cut(_cutter(size, form.channels, form.dtype, pad_value, dilation=dilation), window, plan)


def _without_bad_parts(
    image: OpenImage, cells: Cells, config: Config, clock: Clock, plan: WindowPlan, error: Unreadable
) -> Patches:
    if error.reason == "corrupt_data" and not image.is_whole and cells.count > 1:
        first, second = (cut_window(image, half, config, clock) for half in cells.halves())
        measured = [part.moments for part in (first, second) if part.moments]
        if measured:
            return Patches(
                first.rows + second.rows,
                first.payloads + second.payloads,
                functools.reduce(moments.merge, measured),
                first.rejected + second.rejected,
            )
    image_id, level = image.info.image_id, config.input.level
    message = error.message.replace(image.info.uri, image_id)
    rejected = Rejected("read", error.reason, message, image_id, level, *plan.source, patches=cells.count)
    return Patches([], [], None, [rejected])


def _encode(
    info: ImageInfo, row: int, col: int, patch: np.ndarray, rasters: dict[str, np.ndarray], config: Config
) -> tuple[Row, bytes]:
    level = config.input.level
    beside = {name: encode_patch(pixels, config.input.rasters[name].encoding) for name, pixels in rasters.items()}
    data = encode_patch(patch, config.output.encoding, config.output.quality)
    payload = to_example(
        PatchRecord(
            image=data,
            shape=patch.shape,
            dtype=patch.dtype.name,
            image_id=info.image_id,
            level=level,
            row=row,
            col=col,
            label=info.label,
            group=info.group,
            meta=tuple(meta_of(info).items()),
            rasters=tuple(beside.items()),
        )
    )
    shuffled = config.output.order == "shuffled"
    order = digest(config.seed, "order", info.image_id, level, row, col) if shuffled else 0
    places = tuple((payload.rindex(encoded), len(encoded)) for encoded in beside.values())
    return Row(order, info, row, col, len(payload), payload.index(data), len(data), rasters=places), payload
