"""The inspection of images: it opens headers only, and rejects cheaply what cannot be used."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from pipeline import storage
from pipeline.config import DTYPES, Config, Input, Patch
from pipeline.elements import ImageInfo, ImageRef, Previous, Rejected
from pipeline.errors import Unreadable
from pipeline.inputs.labels import label_group_split
from pipeline.inputs.listing import read_listing
from pipeline.inputs.points import centres_of
from pipeline.inputs.slices import Slice
from pipeline.parallel import cores, in_order
from pipeline.planning.geometry import grid_of
from pipeline.planning.image_rows import images_table
from pipeline.planning.known_headers import known_headers
from pipeline.planning.region_rows import ROWS, Totals, regions_table
from pipeline.readers import Layout
from pipeline.readers.rasters import open_raster
from pipeline.readers.rescaled import open_to_scale


@dataclasses.dataclass
class InspectImages(beam.PTransform):  # type: ignore[type-arg]
    """Slices of a listing -> the work in each split, ``(split, Totals)``.

    For each slice two tables are written into ``folder``: the facts of its images, for the accounts at the end, and its
    regions, for the plan. Images and regions are no elements of the pipeline: a local runner would hold them in memory.

    Args:
        config: the build.
        listing: URI of the listing.
        folder: where the tables go.
        previous: version whose headers are not read again.
    """

    config: Config
    listing: str
    folder: str
    previous: Previous | None = None

    def expand(self, slices):  # type: ignore[no-untyped-def]  # Beam would read annotations
        do = _Inspect(self.config, self.listing, self.folder, self.previous)
        return slices | beam.ParDo(do).with_output_types(tuple[str, Totals])


class _Inspect(beam.DoFn):
    def __init__(self, config: Config, listing: str, folder: str, previous: Previous | None):
        self._config, self._listing, self._folder, self._previous = config, listing, folder, previous

    def process(self, rows: Slice) -> Iterator[tuple[str, Totals]]:
        refs = list(read_listing(self._listing, rows.first, rows.end))
        if len(refs) != rows.end - rows.first:
            raise RuntimeError(f"{self._listing}: is another one than when the job began; start it again")
        known = list(known_headers(refs, self._config, self._previous)) if self._previous else refs
        beam.metrics.Metrics.counter("patchbeam", "images_opened").inc(sum(isinstance(one, ImageRef) for one in known))
        found = list(inspect_images(known, self._config))
        storage.write_table(storage.join(self._folder, rows.file("images")), images_table(found, self._config))
        regions, totals = regions_table((one for one in found if isinstance(one, ImageInfo)), self._config)
        storage.write_table(storage.join(self._folder, rows.file("regions")), regions, ROWS)
        yield from totals.items()


def inspect_images(images: Sequence[ImageRef | ImageInfo | Rejected], config: Config) -> Iterator[ImageInfo | Rejected]:
    """Yields the images that are known already, and for the others what their headers say, some read at a time."""
    refs = ((image, config) for image in images if isinstance(image, ImageRef))
    inspected = in_order(_info_or_rejected, refs, cores())
    return (next(inspected) if isinstance(image, ImageRef) else image for image in images)


def _info_or_rejected(ref: ImageRef, config: Config) -> ImageInfo | Rejected:
    try:
        return inspect_image(ref, config)
    except Unreadable as error:
        message = error.message.replace(ref.uri, ref.image_id)
        return Rejected("inspect", error.reason, message, ref.image_id, config.input.level)


def inspect_image(ref: ImageRef, config: Config) -> ImageInfo:
    """Reads the header of an image, and gives the image its names and its split.

    Raises:
        Unreadable: if the image cannot be opened, is not what the configuration asks for, or has no patch.
    """
    names = label_group_split(ref, config)
    reader = open_to_scale(ref.uri, config.input)
    reader.close()
    layout = reader.layout
    _check_form(layout, config.input)
    of_ref: dict[str, Any] = ref._asdict() | names
    of_layout = {name: getattr(layout, name) for name in ("height", "width", "block_height", "block_width")}
    info = ImageInfo(**of_ref, **of_layout, facts=_facts(layout))
    if config.input.points:
        centres_of(info, config.input.points, config.patch)
    elif not grid_of(layout, config.patch).count:
        raise Unreadable("too_small", _why_no_patch(layout, config.patch))
    for name, raster in sorted(config.input.rasters.items()):
        open_raster(info, name, raster, config.input.max_seconds).close()
    return info


def _facts(layout: Layout) -> str:
    """Returns the other facts of the header, as JSON; see :class:`pipeline.elements.ImageInfo`."""
    known = {name: getattr(layout, name) for name in ("levels", "mpp", "crs", "transform", "nodata", "step")}
    known = {name: value for name, value in known.items() if value}
    return json.dumps(known, sort_keys=True) if known else ""


def _check_form(layout: Layout, wanted: Input) -> None:
    if (layout.channels, layout.dtype) == (wanted.channels, wanted.dtype):
        return
    ways = [f"build it apart with input.channels: {layout.channels}, input.dtype: {layout.dtype}"]
    if layout.dtype not in DTYPES:
        ways = [f"input.dtype is one of {', '.join(DTYPES)}"]
    if layout.channels != wanted.channels:
        ways.append("or choose input.bands, or input.convert: rgb or gray")
    if layout.dtype != wanted.dtype:
        ways.append("or say how to change the type, input.depth: widen, scale or clip")
    raise Unreadable(
        "format_mismatch",
        f"{layout.channels}-channel {layout.dtype}, the configuration asks for {wanted.channels}-channel "
        f"{wanted.dtype}; {'; '.join(ways)}",
    )


def _why_no_patch(layout: Layout, patch: Patch) -> str:
    size = f"{layout.height} x {layout.width} pixels"
    if patch.origin[0] >= layout.height or patch.origin[1] >= layout.width:
        return f"{size} end before patch.origin, {patch.origin[0]}, {patch.origin[1]}"
    edges = " and ".join(sorted(set(patch.edge) - {"pad"}))
    return f"{size} hold no patch of {patch.span[0]} x {patch.span[1]}; patch.edge: pad would keep it, {edges} does not"
