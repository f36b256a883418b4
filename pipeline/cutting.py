"""From a window of an image to encoded patches: read, cut, score, filter, encode, measure.

Knows nothing of shards and Beam.
"""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.config import Augment, Config, Input, Raster
from pipeline.device import device
from pipeline.elements import ImageInfo, Rejected, Unreadable, digest, meta_of
from pipeline.opened import OpenImage
from pipeline.parallel import Clock, Turns
from pipeline.plan import grid_of
from pipeline.points import centres_of
from pipeline.records import Row, order_of, places_of
from transforms import moments, quality
from transforms.augment import Augmenter, Change, Ranges, draw
from transforms.crops import crop_start
from transforms.encoding import encode_patch
from transforms.example import PatchRecord, to_example
from transforms.grid import Cells, Grid
from transforms.patches import WindowPlan, cut, make_cutter, plan_window

_cutter = functools.cache(make_cutter)  # one traced function for a process, not for a shard
_make_augmenter = functools.cache(Augmenter)


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
    """Patches of a window.

    Attributes:
        starts: ``[N, 2]``: first row and column in the image.
        numbers: ``[N]``: of random crops in their image, else 0.
        patches: ``[N, H + 2 margin, W + 2 margin, C]``, with the surroundings that their augmentation needs.
        rasters: the same of the rasters that belong to the image.
        scores: once they are known.
        verdicts: None for a patch that is kept, else the name of what filters it.
        label: of the point that it is cut around, empty for that of the image.
    """

    starts: np.ndarray
    numbers: np.ndarray
    patches: np.ndarray
    rasters: dict[str, np.ndarray]
    scores: quality.Scores | None = None
    verdicts: Sequence[str | None] = ()
    label: str = ""


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
    how = _cut_around_points if config.input.points else _draw_crops if config.patch.crops else _cut_cells
    parts = list(how(image, cells, config, clock))
    cuts = [part for part in parts if isinstance(part, _Cut)]
    if turn:
        cuts = _without_duplicates(cuts, turn)
    found = Patches([], [], None, [part for part in parts if isinstance(part, Rejected)], collections.Counter())
    for part in cuts:
        found = _add(found, part, image.info._replace(label=part.label or image.info.label), config, clock)
    return found


def _cut_cells(image: OpenImage, cells: Cells, config: Config, clock: Clock) -> Iterator[_Cut | Rejected]:
    """The patches in one piece or, where a part of their window does not decode, in several."""
    cut = _cut_window(image, grid_of(image.info, config), cells, config, clock)
    if (
        isinstance(cut, Rejected)
        and cut.reason in ("corrupt_data", "crashed")
        and not image.is_whole
        and cells.count > 1
    ):
        for half in cells.halves():
            yield from _cut_cells(image, half, config, clock)
    else:
        yield cut if isinstance(cut, Rejected) else _score(cut, image, config, clock)


def _cut_around_points(image: OpenImage, cells: Cells, config: Config, clock: Clock) -> Iterator[_Cut | Rejected]:
    """The patches around the points of these numbers."""
    patch, shape = config.patch, (image.info.height, image.info.width)
    try:
        centres = centres_of(image.info, config, shape)
    except Unreadable as error:
        where, records = (
            (image.info.image_id, config.input.level),
            cells.count * config.records_per_patch(image.info.split),
        )
        yield Rejected("read", error.reason, error.message, *where, patches=records)
        return
    for row, col, label in centres[cells.row_from : cells.row_to]:
        grid = Grid.of(shape, patch.size, shape, "pad", patch.dilation, (row, col))
        cut = _cut_window(image, grid, Cells(0, 1, 0, 1), config, clock)
        yield cut if isinstance(cut, Rejected) else _score(cut._replace(label=label), image, config, clock)


def _draw_crops(image: OpenImage, cells: Cells, config: Config, clock: Clock) -> Iterator[_Cut | Rejected]:
    """The crops of these numbers: each the first of its tries that is kept, or the last one."""
    patch, shape = config.patch, (image.info.height, image.info.width)
    tries = patch.crops.tries if patch.crops else 1
    for number in range(cells.row_from, cells.row_to):
        for attempt in range(tries):
            random = digest(config.seed, "crop", image.info.image_id, config.input.level, number, attempt)
            row, col = crop_start(random, shape, patch.span)
            grid = Grid.of(shape, patch.size, shape, "pad", patch.dilation, (row, col))
            cut = _cut_window(image, grid, Cells(0, 1, 0, 1), config, clock)
            if isinstance(cut, Rejected):
                yield cut
                break
            scored = _score(cut._replace(numbers=np.array([number])), image, config, clock)
            if not any(scored.verdicts) or attempt == tries - 1:
                clock.count("crops_redrawn", attempt)
                yield scored
                break


def _cut_window(image: OpenImage, grid: Grid, cells: Cells, config: Config, clock: Clock) -> _Cut | Rejected:
    margin = _margin(image.info, config)
    plan = plan_window(grid, cells, config.patch.pad_mode, margin)
    try:
        with clock("read"):
            image.tissue_threshold()
            window, raster_windows = image.read(plan.source)
    except Unreadable as error:
        message = error.message.replace(image.info.uri, image.info.image_id)
        where = (image.info.image_id, config.input.level, *plan.source)
        records = cells.count * config.records_per_patch(image.info.split)
        return Rejected("read", error.reason, message, *where, patches=records)
    with device(config.workers).slot(), clock("cut"):
        patches = _cut_pixels(config.input, window, plan, config.patch.pad_value, margin, config)
        rasters = {
            name: _cut_pixels(form, raster_windows[name], plan, form.pad_value, margin, config)
            for name, form in config.input.rasters.items()
        }
    return _Cut(plan.starts, np.zeros(len(patches), int), patches, rasters)


def _cut_pixels(
    form: Input | Raster, window: np.ndarray, plan: WindowPlan, pad_value: float, margin: int, config: Config
) -> np.ndarray:
    """The patches of a window of the image or of a raster that belongs to it: the same boxes, nothing interpolated."""
    size = (config.patch.size[0] + 2 * margin, config.patch.size[1] + 2 * margin)
    return cut(_cutter(size, form.channels, form.dtype, pad_value, dilation=config.patch.dilation), window, plan)


def _augmented(info: ImageInfo, config: Config) -> bool:
    return bool(config.augment) and info.split == config.training_split


def _margin(info: ImageInfo, config: Config) -> int:
    return _augmenter(config).margin if _augmented(info, config) else 0


def _augmenter(config: Config) -> Augmenter:
    ranges = Ranges(**(config.augment or Augment()).ranges())
    return _make_augmenter(ranges, config.patch.size, config.input.channels, config.input.dtype, config.value_range)


def _inner(patches: np.ndarray, config: Config) -> np.ndarray:
    """The patches without their surroundings."""
    height, width = config.patch.size
    row, col = (patches.shape[1] - height) // 2, (patches.shape[2] - width) // 2
    return patches[:, row : row + height, col : col + width]


def _score(cut: _Cut, image: OpenImage, config: Config, clock: Clock) -> _Cut:
    if not (wanted := config.quality):
        return cut
    with device(config.workers).slot(), clock("score"):
        patches = _inner(cut.patches, config)
        scores = quality.score(patches, config.value_range, wanted.nodata, image.tissue_threshold())
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
    records_per_patch = config.records_per_patch(info.split)
    filtered = collections.Counter(verdict for verdict in cut.verdicts if verdict)
    filtered = collections.Counter({name: count * records_per_patch for name, count in filtered.items()})
    kept = np.array([verdict is None for verdict in cut.verdicts] or [True] * len(cut.starts))
    if not kept.any():
        return found._replace(filtered=found.filtered + filtered)
    if not kept.all():
        scores = cut.scores.take(kept) if cut.scores else None
        rasters = {name: pixels[kept] for name, pixels in cut.rasters.items()}
        cut = _Cut(cut.starts[kept], cut.numbers[kept], cut.patches[kept], rasters, scores)
    rows, payloads, measured = list(found.rows), list(found.payloads), found.moments
    for copy, patches, rasters, changes in _copies(cut, info, config, clock):
        with clock("encode"):
            for place, patch in enumerate(patches):
                number = int(cut.numbers[place]) * records_per_patch + copy
                extra = tuple(column[place].item() for column in cut.scores) if cut.scores else ()
                done = json.dumps(changes[place].done()) if changes else "{}"
                beside = {name: pixels[place] for name, pixels in rasters.items()}
                row, payload = _encode(info, cut.starts[place].tolist(), number, patch, beside, extra, done, config)
                rows.append(row)
                payloads.append(payload)
        with clock("measure"):
            more = moments.measure(patches)
            measured = moments.merge(measured, more) if measured else more
    return Patches(rows, payloads, measured, found.rejected, found.filtered + filtered)


def _copies(
    cut: _Cut, info: ImageInfo, config: Config, clock: Clock
) -> Iterator[tuple[int, np.ndarray, dict[str, np.ndarray], list[Change]]]:
    """(number of the copy, patches ``[N, H, W, C]``, rasters, what was done to each); to the original nothing was."""
    if not config.augment or not _augmented(info, config):
        yield 0, cut.patches, cut.rasters, []
        return
    if config.augment.original:
        rasters = {name: _inner(pixels, config) for name, pixels in cut.rasters.items()}
        yield 0, np.ascontiguousarray(_inner(cut.patches, config)), rasters, []
    augmenter = _augmenter(config)
    for copy in range(config.augment.original, config.records_per_patch(info.split)):
        places = zip(cut.numbers.tolist(), cut.starts.tolist())
        identities = [(info.image_id, config.input.level, *start, number, copy) for number, start in places]
        changes = [draw(augmenter.ranges, functools.partial(_uniform, config.seed, i)) for i in identities]
        with device(config.workers).slot(), clock("augment"):
            patches = augmenter(cut.patches, changes)
            rasters = {name: augmenter.turn(pixels, changes) for name, pixels in cut.rasters.items()}
        yield copy, patches, rasters, changes


def _uniform(seed: int, identity: tuple, name: str) -> float:
    """A number 0..1 that decides one thing about one copy of a patch."""
    return digest(seed, "augment", *identity, name) / 2**64


def _encode(
    info: ImageInfo,
    start: list[int],
    copy: int,
    patch: np.ndarray,
    rasters: dict[str, np.ndarray],
    extra: tuple,
    done: str,
    config: Config,
) -> tuple[Row, bytes]:
    level, (row, col) = config.input.level, start
    beside = {name: encode_patch(pixels, config.input.rasters[name].encoding) for name, pixels in rasters.items()}
    data = encode_patch(patch, config.output.encoding, config.output.quality)
    record = PatchRecord(
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
        rasters=tuple(sorted(beside.items())),
        copy=copy,
        augmentation=done if config.has_copies else None,
    )
    payload = to_example(record)
    order = order_of(config, info.image_id, row, col, copy)
    extra = (*extra, copy, done) if config.has_copies else extra
    image, places = places_of(record, payload)
    return Row(order, info, row, col, copy, len(payload), *image, rasters=places, extra=extra), payload
