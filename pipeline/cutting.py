"""From a window of an image to encoded patches: read, cut, encode, measure. Knows nothing of shards and Beam."""

from __future__ import annotations

import functools
import threading
from typing import NamedTuple

import numpy as np

from pipeline.config import Config
from pipeline.device import device
from pipeline.elements import ImageInfo, Rejected, Unreadable, digest
from pipeline.isolation import open_isolated
from pipeline.parallel import Clock
from pipeline.plan import grid_of
from pipeline.readers import Reader
from pipeline.readers.converted import Choice
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
        self._config, self._left = config.input, windows
        self._lock = threading.Lock()
        self._reader: Reader | Unreadable | None = None

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`; an image that does not open raises the same error every time."""
        with self._lock:
            if self._reader is None:
                self._reader = self._open()
        if isinstance(self._reader, Unreadable):
            raise self._reader
        return self._reader.read(box)

    def _open(self) -> Reader | Unreadable:
        try:
            reader = open_isolated(self.info.uri, Choice.of(self._config), self._config.max_seconds)
        except Unreadable as error:
            return error
        planned = (self.info.height, self.info.width, self._config.channels, self._config.dtype)
        if reader.layout[:4] == planned:
            return reader
        reader.close()
        return Unreadable("changed", f"is {reader.layout[:4]} now, and was {planned} when the build was planned")

    def window_done(self) -> None:
        """To be called once for every window."""
        with self._lock:
            self._left -= 1
            if not self._left and self._reader and not isinstance(self._reader, Unreadable):
                self._clock.count("bytes_read", self._reader.file.bytes_read)
                self._reader.close()


def cut_window(image: OpenImage, cells: Cells, config: Config, clock: Clock) -> Patches:
    """Reads the window of the patches ``cells`` and makes records of them.

    Where a part of the window does not decode, only the patches that need this part are rejected.
    """
    plan = plan_window(grid_of(image.info, config), cells, config.patch.pad_mode)
    try:
        with clock("read"):
            window = image.read(plan.source)
    except Unreadable as error:
        return _without_bad_parts(image, cells, config, clock, plan, error)
    with device(config.workers).slot(), clock("cut"):
        cutter = _cutter(config.patch.size, config.input.channels, config.input.dtype, config.patch.pad_value)
        patches = cut(cutter, window, plan)
    with clock("encode"):
        records = [
            _encode(image.info, row, col, patch, config) for (row, col), patch in zip(plan.starts.tolist(), patches)
        ]
    with clock("measure"):
        measured = moments.measure(patches)
    return Patches([row for row, _ in records], [payload for _, payload in records], measured, [])


def _without_bad_parts(
    image: OpenImage, cells: Cells, config: Config, clock: Clock, plan: WindowPlan, error: Unreadable
) -> Patches:
    if error.reason in ("corrupt_data", "crashed") and not image.info.is_whole and cells.count > 1:
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


def _encode(info: ImageInfo, row: int, col: int, patch: np.ndarray, config: Config) -> tuple[Row, bytes]:
    level = config.input.level
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
        )
    )
    shuffled = config.output.order == "shuffled"
    order = digest(config.seed, "order", info.image_id, level, row, col) if shuffled else 0
    return Row(order, info, row, col, len(payload), payload.index(data), len(data)), payload
