"""What the images are: opens headers only, and rejects cheaply what cannot be used."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from pipeline.config import DTYPES, Config, Patch
from pipeline.elements import ImageInfo, ImageRef, Rejected, Unreadable
from pipeline.names import name_of, split_of
from pipeline.plan import grid_of
from pipeline.points import centres_of
from pipeline.rasters import open_raster
from pipeline.readers import Layout
from pipeline.scaling import open_to_scale


@dataclasses.dataclass
class InspectImages(beam.PTransform):
    """ImageRef -> ``.infos`` of ImageInfo and ``.rejected`` of Rejected."""

    config: Config

    def expand(self, refs):
        return refs | beam.ParDo(_Inspect(self.config)).with_outputs("rejected", main="infos")


class _Inspect(beam.DoFn):
    def __init__(self, config: Config):
        self._config = config

    def process(self, ref: ImageRef) -> Iterator:
        beam.metrics.Metrics.counter("patchbeam", "images_opened").inc()
        try:
            yield inspect_image(ref, self._config)
        except Unreadable as error:
            level = self._config.input.level
            row = Rejected("inspect", error.reason, error.message.replace(ref.uri, ref.image_id), ref.image_id, level)
            yield beam.pvalue.TaggedOutput("rejected", row)


def inspect_image(ref: ImageRef, config: Config) -> ImageInfo:
    """Reads the header and gives the image its names and its split.

    Raises:
        Unreadable: if the image cannot be opened, is not what the configuration asks for, or has no patch.
    """
    names = names_of(ref, config)
    reader = open_to_scale(ref.uri, config.input)
    reader.close()
    layout = reader.layout
    _check_form(layout, config)
    of_ref: dict[str, Any] = ref._asdict() | names
    of_layout = {name: getattr(layout, name) for name in ("height", "width", "block_height", "block_width")}
    info = ImageInfo(**of_ref, **of_layout, facts=_facts(layout))
    if config.input.points:
        centres_of(info, config)
    elif not grid_of(layout, config).count:
        raise Unreadable("too_small", _why_no_patch(layout, config.patch))
    for name in sorted(config.input.rasters):
        open_raster(info, name, config.input).close()
    return info


def names_of(ref: ImageRef, config: Config) -> dict[str, str]:
    """Label, group and split of an image.

    Raises:
        Unreadable: ``no_name`` where a rule finds none.
    """
    label = ref.label or name_of(ref.image_id, config.input.label)
    group = ref.group or name_of(ref.image_id, config.input.group)
    return {"split": ref.split or split_of(group, config), "label": label, "group": group}


def _facts(layout: Layout) -> str:
    """What else the header says, as JSON; see :class:`pipeline.elements.ImageInfo`."""
    known = {name: getattr(layout, name) for name in ("levels", "mpp", "crs", "transform", "nodata", "step")}
    known = {name: value for name, value in known.items() if value}
    return json.dumps(known, sort_keys=True) if known else ""


def _check_form(layout: Layout, config: Config) -> None:
    wanted = config.input
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
