"""From a window of an image to encoded patches: read, cut, score, filter, encode, measure.

Knows nothing of shards and Beam.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import Augment, Bounds, Config, Input, Points, Raster
from pipeline.elements import ImageInfo, Rejected, digest, meta_of
from pipeline.errors import Unreadable
from pipeline.inputs.points import centres_of
from pipeline.parallel import Counters, Turns
from pipeline.planning.geometry import grid_of
from pipeline.shards import class_cover
from pipeline.shards.context_patches import cut_context
from pipeline.shards.device import device
from pipeline.shards.index import Row, order_of, places_of
from pipeline.shards.open_image import OpenImage
from transforms import pixel_statistics, quality
from transforms.augment import Augmenter, Change, Ranges, draw
from transforms.crops import crop_start
from transforms.encoding import encode_patch
from transforms.example import PatchRecord, to_example
from transforms.grid import Cells, Grid
from transforms.patches import WindowPlan, cut, make_cutter, plan_window

_cutter = functools.cache(make_cutter)  # one traced function per process, not per shard
_make_augmenter = functools.cache(Augmenter)


class Patches(NamedTuple):
    """The outcome of a window.

    Attributes:
        rows: the patches that were cut.
        payloads: their serialized Examples.
        pixel_statistics: statistics of their pixels; None without patches.
        rejected: the parts that could not be read.
        filtered: score -> patches that were left out because of it.
    """

    rows: list[Row]
    payloads: list[bytes]
    pixel_statistics: pixel_statistics.PixelStatistics | None
    rejected: list[Rejected]
    filtered: collections.Counter[str]


class Turn(NamedTuple):
    """The place of a window in the order in which the windows of its region look for duplicates."""

    turns: Turns
    number: int
    seen: quality.Duplicates

    def done(self) -> None:
        """Lets the next window look for duplicates; must be called in any case."""
        self.turns.passed(self.number)


class _Cut(NamedTuple):
    """Patches of a window.

    Attributes:
        starts: ``[N, 2]``: first row and column in the image.
        numbers: ``[N]``: numbers of random crops within their image, else 0.
        labels: N labels.
        verdicts: None for a patch that is kept, else the name of what filters it.
        covers: shares of the classes of the rasters, see ``pipeline.shards.class_cover``.
        patches: ``[N, H + 2 margin, W + 2 margin, C]``, with the surroundings that their augmentation needs; empty
            where none is kept.
        companions: feature -> its patches, in the same form, for each of ``config.companions``.
        scores: scores of the patches, once they are known.
    """

    starts: np.ndarray
    numbers: np.ndarray
    labels: Sequence[str]
    verdicts: Sequence[str | None]
    covers: dict[str, np.ndarray]
    patches: np.ndarray
    companions: dict[str, np.ndarray]
    scores: quality.Scores | None = None

    def kept(self) -> _Cut:
        """Returns the patches that nothing filters."""
        keep = np.array([verdict is None for verdict in self.verdicts], bool)
        if keep.all():
            return self
        of_arrays = lambda arrays: {name: values[keep] for name, values in arrays.items()}
        labels, scores = list(itertools.compress(self.labels, keep)), self.scores and self.scores.take(keep)
        return _Cut(
            self.starts[keep], self.numbers[keep], labels, [None] * len(labels),
            of_arrays(self.covers), self.patches[keep], of_arrays(self.companions), scores,
        )  # fmt: skip


class WindowCutter:
    """Cuts the windows of a build, each from the file to encoded records.

    Args:
        config: the build.
        counters: counts the time that each kind of work takes.
    """

    def __init__(self, config: Config, counters: Counters):
        self._config, self._counters = config, counters

    def cut(self, image: OpenImage, cells: Cells, turn: Turn | None = None) -> Patches:
        """Reads the window of the patches ``cells`` and makes records of those that are kept.

        Where a part of the window does not decode, only the patches that need this part are rejected.

        Args:
            image: the image that holds the window.
            cells: patches of its grid.
            turn: when to look for duplicates among the patches that were kept before; None for never.
        """
        if self._config.input.points:
            parts = list(self._cut_around_points(image, cells))
        elif self._config.patch.crops:
            parts = list(self._draw_crops(image, cells))
        else:
            parts = list(self._cut_cells(image, cells))
        cuts = [part for part in parts if isinstance(part, _Cut)]
        if turn:
            cuts = _without_duplicates(cuts, turn)
        found = Patches([], [], None, [part for part in parts if isinstance(part, Rejected)], collections.Counter())
        for part in cuts:
            found = self._add(found, part, image)
        return found

    def _cut_cells(self, image: OpenImage, cells: Cells) -> Iterator[_Cut | Rejected]:
        """Yields the patches in one piece or, where a part of their window does not decode, in several."""
        cut = self._cut_window(image, grid_of(image.info, self._config.patch), cells)
        if (
            isinstance(cut, Rejected)
            and cut.reason in ("corrupt_data", "crashed")
            and not image.is_whole
            and cells.count > 1
        ):
            for half in cells.halves():
                yield from self._cut_cells(image, half)
        else:
            yield cut

    def _cut_around_points(self, image: OpenImage, cells: Cells) -> Iterator[_Cut | Rejected]:
        """Yields the patches around the points whose numbers are the rows of ``cells``."""
        try:
            centres = centres_of(image.info, self._config.input.points or Points(), self._config.patch)
        except Unreadable as error:
            where = (image.info.image_id, self._config.input.level)
            records = cells.count * self._config.records_per_patch(image.info.split)
            yield Rejected("read", error.reason, error.message, *where, patches=records)
            return
        for row, col, label in centres[cells.row_from : cells.row_to]:
            cut = self._cut_one(image, row, col)
            yield cut._replace(labels=[label]) if label and isinstance(cut, _Cut) else cut

    def _draw_crops(self, image: OpenImage, cells: Cells) -> Iterator[_Cut | Rejected]:
        """Yields the crops whose numbers are the rows of ``cells``: of each the first try that is kept, or the last."""
        patch, shape = self._config.patch, (image.info.height, image.info.width)
        tries = patch.crops.tries if patch.crops else 1
        for number in range(cells.row_from, cells.row_to):
            for attempt in range(tries):
                random = digest(
                    self._config.seed, "crop", image.info.image_id, self._config.input.level, number, attempt
                )
                cut = self._cut_one(image, *crop_start(random, shape, patch.span))
                if isinstance(cut, Rejected):
                    yield cut
                    break
                if not any(cut.verdicts) or attempt == tries - 1:
                    self._counters.count("crops_redrawn", attempt)
                    yield cut._replace(numbers=np.array([number]))
                    break

    def _cut_one(self, image: OpenImage, row: int, col: int) -> _Cut | Rejected:
        """Cuts the patch that begins at this pixel."""
        patch, shape = self._config.patch, (image.info.height, image.info.width)
        grid = Grid.of(shape, patch.size, shape, "pad", patch.dilation, (row, col))
        return self._cut_window(image, grid, Cells(0, 1, 0, 1))

    def _cut_window(self, image: OpenImage, grid: Grid, cells: Cells) -> _Cut | Rejected:
        """Cuts and scores the patches; rasters first, since the image is not read for patches that they filter."""
        margin = self._margin(image.info)
        plan = plan_window(grid, cells, self._config.patch.pad_mode, margin)
        try:
            with self._counters.timer("read"):
                windows = image.read_rasters(plan.source)
            with device(self._config.workers).slot(), self._counters.timer("cut"):
                forms = self._config.input.rasters.items()
                rasters = {name: self._cut_pixels(r, windows[name], plan, r.pad_value, margin) for name, r in forms}
            found = self._with_classes(plan, rasters, image.info)
            if all(found.verdicts):
                return found
            with self._counters.timer("read"):
                threshold = image.tissue_threshold()
                image.stain_matrix()
                window = image.read(plan.source)
            with device(self._config.workers).slot(), self._counters.timer("cut"):
                patches = self._cut_pixels(self._config.input, window, plan, self._config.patch.pad_value, margin)
            starts = plan.starts.reshape(len(plan.rows), len(plan.cols), 2)
            for scale in self._config.patch.scales:
                with self._counters.timer("scale"):
                    rows, cols = starts[:, 0, 0], starts[0, :, 1]
                    found.companions[f"scale/{scale}"] = cut_context(
                        image, scale, rows, cols, margin, self._config.patch
                    )
        except Unreadable as error:
            message = error.message.replace(image.info.uri, image.info.image_id)
            where = (image.info.image_id, self._config.input.level, *plan.source)
            records = cells.count * self._config.records_per_patch(image.info.split)
            return Rejected("read", error.reason, message, *where, patches=records)
        return self._score(found._replace(patches=patches), threshold)

    def _with_classes(self, plan: WindowPlan, rasters: dict[str, np.ndarray], info: ImageInfo) -> _Cut:
        """Returns the labels, shares and verdicts that follow from the rasters, before the image itself is read."""
        count, patch = len(plan.starts), self._config.patch
        found = class_cover.class_shares(
            {name: _inner(pixels, self._config.patch.size) for name, pixels in rasters.items()},
            self._config.input.rasters,
        )
        bounds = {f"{name}/{kind}": bound for name, kinds in patch.cover.items() for kind, bound in kinds.items()}
        labels = [info.label] * count
        if patch.label:
            labels = class_cover.class_labels(
                found, patch.label, [*self._config.input.rasters[patch.label.raster].classes], info.label
            )
        companions = {f"raster/{name}": pixels for name, pixels in rasters.items()}
        verdicts = class_cover.first_failing(class_cover.with_any(found, self._config.input.rasters), bounds, count)
        return _Cut(plan.starts, np.zeros(count, int), labels, verdicts, found, np.zeros(0), companions)

    def _cut_pixels(
        self, form: Input | Raster, window: np.ndarray, plan: WindowPlan, pad_value: float, margin: int
    ) -> np.ndarray:
        """Cuts the patches of a window of the image or a companion raster: the same boxes, nothing interpolated."""
        size = (self._config.patch.size[0] + 2 * margin, self._config.patch.size[1] + 2 * margin)
        return cut(
            _cutter(size, form.channels, form.dtype, pad_value, dilation=self._config.patch.dilation), window, plan
        )

    def _augmented(self, info: ImageInfo) -> bool:
        return bool(self._config.augment) and info.split == self._config.training_split

    def _margin(self, info: ImageInfo) -> int:
        return self._augmenter().margin if self._augmented(info) else 0

    def _augmenter(self, ranges: Ranges | None = None) -> Augmenter:
        """Returns the augmenter of the configuration, or one for other ranges."""
        ranges = ranges or Ranges(**(self._config.augment or Augment()).ranges())
        form = (
            self._config.patch.size,
            self._config.input.channels,
            self._config.input.dtype,
            self._config.value_range,
        )
        return _make_augmenter(ranges, *form, bool(self._config.patch.stain))

    def _score(self, cut: _Cut, tissue_threshold: int) -> _Cut:
        if not (wanted := self._config.quality):
            return cut
        with device(self._config.workers).slot(), self._counters.timer("score"):
            scores = quality.score(
                _inner(cut.patches, self._config.patch.size), self._config.value_range, wanted.nodata, tissue_threshold
            )
        bounds: dict[str, Bounds] = {name: wanted.keep[name] for name in quality.NAMES if name in wanted.keep}
        more = class_cover.first_failing(scores._asdict(), bounds, len(cut.starts))
        return cut._replace(scores=scores, verdicts=[first or second for first, second in zip(cut.verdicts, more)])

    def _add(self, found: Patches, cut: _Cut, image: OpenImage) -> Patches:
        """Adds the records of the patches that are kept."""
        records_per_patch = self._config.records_per_patch(image.info.split)
        filtered = collections.Counter(verdict for verdict in cut.verdicts if verdict)
        filtered = collections.Counter({name: count * records_per_patch for name, count in filtered.items()})
        if all(cut.verdicts):
            return found._replace(filtered=found.filtered + filtered)
        cut = cut.kept()
        rows, payloads, measured = list(found.rows), list(found.payloads), found.pixel_statistics
        for copy, patches, companions, changes in self._copies(cut, image):
            with self._counters.timer("encode"):
                for place, patch in enumerate(patches):
                    done = json.dumps(changes[place].done()) if changes else "{}"
                    row, col = cut.starts[place].tolist()
                    number = int(cut.numbers[place]) * records_per_patch + copy
                    attributes = tuple(column[place].item() for column in (*(cut.scores or ()), *cut.covers.values()))
                    one = _One(image.info, row, col, number, cut.labels[place], attributes, done)
                    entry, payload = self._encode(
                        one, patch, {name: pixels[place] for name, pixels in companions.items()}
                    )
                    rows.append(entry)
                    payloads.append(payload)
            with self._counters.timer("measure"):
                more = pixel_statistics.measure(patches)
                measured = pixel_statistics.merge(measured, more) if measured else more
        return Patches(rows, payloads, measured, found.rejected, found.filtered + filtered)

    def _copies(
        self, cut: _Cut, image: OpenImage
    ) -> Iterator[tuple[int, np.ndarray, dict[str, np.ndarray], list[Change]]]:
        """Yields (number of the copy, patches ``[N, H, W, C]``, companions, changes); the original has no changes."""
        augment, info, matrix = self._config.augment, image.info, image.stain_matrix()
        as_image = [f"scale/{scale}" for scale in self._config.patch.scales]
        if not augment or not self._augmented(info) or augment.original:
            patches = np.ascontiguousarray(_inner(cut.patches, self._config.patch.size))
            companions = {name: _inner(pixels, self._config.patch.size) for name, pixels in cut.companions.items()}
            if matrix is not None:
                with device(self._config.workers).slot(), self._counters.timer("augment"):
                    plain, nothing = self._augmenter(Ranges()), [Change()] * len(patches)
                    patches = plain(patches, nothing, matrix)
                    companions |= {
                        name: plain(np.ascontiguousarray(companions[name]), nothing, matrix) for name in as_image
                    }
            yield 0, patches, companions, []
        if not augment or not self._augmented(info):
            return
        augmenter = self._augmenter()
        for copy in range(augment.original, self._config.records_per_patch(info.split)):
            places = zip(cut.numbers.tolist(), cut.starts.tolist())
            identities = [(info.image_id, self._config.input.level, *start, number, copy) for number, start in places]
            changes = [draw(augmenter.ranges, functools.partial(_uniform, self._config.seed, i)) for i in identities]
            with device(self._config.workers).slot(), self._counters.timer("augment"):
                patches = augmenter(cut.patches, changes, matrix)
                companions = {
                    name: augmenter(pixels, changes, matrix) if name in as_image else augmenter.turn(pixels, changes)
                    for name, pixels in cut.companions.items()
                }
            yield copy, patches, companions, changes

    def _encode(self, one: _One, patch: np.ndarray, companions: dict[str, np.ndarray]) -> tuple[Row, bytes]:
        info = one.info
        encoded = {
            name: encode_patch(patch if name == "image" else companions[name], form.encoding, form.jpeg_quality)
            for name, form in self._config.forms.items()
        }
        record = PatchRecord(
            image=encoded.pop("image"),
            shape=patch.shape,
            dtype=patch.dtype.name,
            image_id=info.image_id,
            level=self._config.input.level,
            row=one.row,
            col=one.col,
            label=one.label,
            group=info.group,
            meta=tuple(meta_of(info).items()),
            companions=tuple(encoded.items()),
            copy=one.copy,
            augmentation=one.done if self._config.has_copies else None,
        )
        payload = to_example(record)
        order = order_of(self._config, info.image_id, one.row, one.col, one.copy)
        attributes = (*one.attributes, one.copy, one.done) if self._config.has_copies else one.attributes
        found, places = places_of(record, payload)
        row = Row(
            order,
            info,
            one.row,
            one.col,
            one.copy,
            one.label,
            len(payload),
            *found,
            companions=places,
            attributes=attributes,
        )
        return row, payload


def _inner(patches: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the patches without their surroundings."""
    height, width = size
    row, col = (patches.shape[1] - height) // 2, (patches.shape[2] - width) // 2
    return patches[:, row : row + height, col : col + width]


def _without_duplicates(cuts: list[_Cut], turn: Turn) -> list[_Cut]:
    turn.turns.wait(turn.number)
    try:
        return [cut._replace(verdicts=_duplicates(cut, turn.seen)) if cut.scores else cut for cut in cuts]
    finally:
        turn.done()


def _duplicates(cut: _Cut, seen: quality.Duplicates) -> list[str | None]:
    pairs = zip(cut.verdicts, cut.scores.fingerprint if cut.scores else ())
    return [verdict or (None if seen.add(fingerprint) else "duplicates") for verdict, fingerprint in pairs]


def _uniform(seed: int, identity: tuple[Any, ...], name: str) -> float:
    """Returns a number 0..1 that decides the parameter ``name`` of one copy of a patch."""
    return digest(seed, "augment", *identity, name) / 2**64


class _One(NamedTuple):
    """The facts of a record apart from its pixels; ``attributes`` are the values of the score and cover columns."""

    info: ImageInfo
    row: int
    col: int
    copy: int
    label: str
    attributes: tuple[Any, ...]
    done: str
