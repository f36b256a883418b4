"""From a window of an image to encoded patches: read, cut, score, filter, encode, measure.

Knows nothing of shards and Beam.
"""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.config import Config, Input, Quality, Raster
from pipeline.device import device
from pipeline.elements import ImageInfo, Rejected, Unreadable, digest, meta_of
from pipeline.overview import sample_pixels
from pipeline.parallel import Clock, Turns
from pipeline.plan import grid_of
from pipeline.rasters import naming, open_raster
from pipeline.readers import Reader, open_image
from pipeline.records import Row
from transforms import moments, quality
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
        filtered: score -> patches that were left out because of it.
    """

    rows: list[Row]
    payloads: list[bytes]
    moments: moments.Moments | None
    rejected: list[Rejected]
    filtered: collections.Counter[str]


class Turn(NamedTuple):
    """The place of a window among those of its region, which is the order in which duplicates are looked for."""

    turns: Turns
    number: int
    seen: quality.Duplicates

    def done(self) -> None:
        """Lets the next window look; to be called in any case."""
        self.turns.passed(self.number)


class _Cut(NamedTuple):
    """Patches ``[N, H, W, C]``, where they start, ``[N, 2]``, and, once they are scored, their scores and verdicts.

    ``rasters`` are the patches of the rasters that belong to the image, by name. A verdict is None for a patch that is
    kept, else the name of what filters it.
    """

    starts: np.ndarray
    patches: np.ndarray
    rasters: dict[str, np.ndarray]
    scores: quality.Scores | None = None
    verdicts: Sequence[str | None] = ()


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

    def reader(self) -> Reader:
        """The open image; one that does not open raises the same error every time."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
        if isinstance(self._opened, Unreadable):
            raise self._opened
        return self._opened

    def read(self, box: Box) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The pixels of the image and of the rasters that belong to it, see :class:`pipeline.readers.Reader`."""
        pixels = self.reader().read(box)
        return pixels, {name: self._read_raster(name, box) for name in self._rasters}

    def _read_raster(self, name: str, box: Box) -> np.ndarray:
        reader = self._rasters[name]
        try:
            with naming(name, self.info, self._config.input):
                return reader.read(box)
        except Unreadable:
            self.is_whole |= reader.layout[:2] == (reader.layout.block_height, reader.layout.block_width)
            raise

    def _open(self) -> Reader | Unreadable:
        wanted = self._config.input
        try:
            reader = open_image(self.info.uri, wanted.level)
        except Unreadable as error:
            return error
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
                    pixels = sample_pixels(self.reader(), self.info.uri, self._config.input.level)
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


def cut_window(image: OpenImage, cells: Cells, config: Config, clock: Clock, turn: Turn | None = None) -> Patches:
    """Reads the window of the patches ``cells`` and makes records of those that are kept.

    Where a part of the window does not decode, only the patches that need this part are rejected.

    Args:
        image: where the window lies.
        cells: patches of its grid.
        config: the build.
        clock: counts the time.
        turn: when to look for duplicates among the patches that were kept before; None for never.
    """
    cuts: list[_Cut] = []
    rejected: list[Rejected] = []
    for part in _cut_readable(image, cells, config, clock):
        if isinstance(part, Rejected):
            rejected.append(part)
        else:
            cuts.append(part)
    if config.quality:
        with clock("score"):
            cuts = [_score(part, image.tissue_threshold(), config) for part in cuts]
        if turn:
            cuts = _without_duplicates(cuts, turn)
    found = Patches([], [], None, rejected, collections.Counter())
    for part in cuts:
        found = _add(found, part, image.info, config, clock)
    return found


def _cut_readable(image: OpenImage, cells: Cells, config: Config, clock: Clock) -> Iterator[_Cut | Rejected]:
    """The patches in one piece or, where a part of their window does not decode, in several."""
    plan = plan_window(grid_of(image.info, config), cells, config.patch.pad_mode)
    try:
        with clock("read"):
            if config.quality:
                image.tissue_threshold()
            window, raster_windows = image.read(plan.source)
    except Unreadable as error:
        if error.reason == "corrupt_data" and not image.is_whole and cells.count > 1:
            for half in cells.halves():
                yield from _cut_readable(image, half, config, clock)
            return
        message = error.message.replace(image.info.uri, image.info.image_id)
        where = (image.info.image_id, config.input.level, *plan.source)
        yield Rejected("read", error.reason, message, *where, patches=cells.count)
        return
    with device(config.workers).slot(), clock("cut"):
        patches = _cut(config.input, window, plan, config.patch.pad_value, config)
        rasters = {
            name: _cut(config.input.rasters[name], pixels, plan, config.input.rasters[name].pad_value, config)
            for name, pixels in raster_windows.items()
        }
    yield _Cut(plan.starts, patches, rasters)


def _cut(form: Input | Raster, window: np.ndarray, plan: WindowPlan, pad_value: float, config: Config) -> np.ndarray:
    """The patches of a window of the image or of a raster that belongs to it: the same boxes, nothing interpolated."""
    size, dilation = config.patch.size, config.patch.dilation
    return cut(_cutter(size, form.channels, form.dtype, pad_value, dilation=dilation), window, plan)


def _score(cut: _Cut, tissue_threshold: int, config: Config) -> _Cut:
    wanted = config.quality or Quality()
    scores = quality.score(cut.patches, config.value_range, wanted.nodata, tissue_threshold)
    verdicts: list[str | None] = [None] * len(cut.starts)
    for name in reversed([name for name in quality.NAMES if name in wanted.keep]):  # the first one that fails is named
        bounds = wanted.keep[name]
        low = -np.inf if bounds.min is None else bounds.min
        high = np.inf if bounds.max is None else bounds.max
        values = getattr(scores, name)
        for index in np.flatnonzero(~((low <= values) & (values <= high))):
            verdicts[index] = name
    return cut._replace(scores=scores, verdicts=verdicts)


def _without_duplicates(cuts: list[_Cut], turn: Turn) -> list[_Cut]:
    turn.turns.wait(turn.number)
    try:
        return [
            cut._replace(
                verdicts=[
                    verdict or (None if turn.seen.add(fingerprint) else "duplicates")
                    for verdict, fingerprint in zip(cut.verdicts, cut.scores.fingerprint)
                ]
            )
            for cut in cuts
            if cut.scores
        ]
    finally:
        turn.done()


def _add(found: Patches, cut: _Cut, info: ImageInfo, config: Config, clock: Clock) -> Patches:
    """With the records of the patches that are kept."""
    filtered = collections.Counter(verdict for verdict in cut.verdicts if verdict)
    kept = np.array([verdict is None for verdict in cut.verdicts] or [True] * len(cut.starts))
    patches = cut.patches if kept.all() else cut.patches[kept]
    starts, scores = cut.starts[kept].tolist(), cut.scores.take(kept) if cut.scores else None
    columns = list(zip(*(column.tolist() for column in scores))) if scores else [()] * len(starts)
    with clock("encode"):
        records = [
            _encode(info, start, patch, {name: of_all[number] for name, of_all in cut.rasters.items()}, extra, config)
            for number, start, patch, extra in zip(np.flatnonzero(kept), starts, patches, columns)
        ]
    with clock("measure"):
        measured = moments.measure(patches) if starts else None
    both = [part for part in (found.moments, measured) if part]
    return Patches(
        found.rows + [row for row, _ in records],
        found.payloads + [payload for _, payload in records],
        functools.reduce(moments.merge, both) if both else None,
        found.rejected,
        found.filtered + filtered,
    )


def _encode(
    info: ImageInfo, start: list[int], patch: np.ndarray, rasters: dict[str, np.ndarray], extra: tuple, config: Config
) -> tuple[Row, bytes]:
    level, (row, col) = config.input.level, start
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
    return Row(order, info, row, col, len(payload), payload.index(data), len(data), 0, places, extra), payload
