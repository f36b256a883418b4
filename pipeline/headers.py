"""What the images are: opens headers only, and rejects cheaply what cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apache_beam as beam

from pipeline.config import Config, Patch
from pipeline.elements import ImageInfo, ImageRef, Rejected, Unreadable
from pipeline.names import name_of, split_of
from pipeline.plan import grid_of
from pipeline.points import centres_of
from pipeline.rasters import open_raster
from pipeline.readers import Layout, open_image


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
    label = ref.label or name_of(ref.image_id, config.input.label)
    group = ref.group or name_of(ref.image_id, config.input.group)
    reader = open_image(ref.uri, config.input.level)
    reader.close()
    layout = reader.layout
    if (layout.channels, layout.dtype) != (config.input.channels, config.input.dtype):
        raise Unreadable(
            "format_mismatch",
            f"{layout.channels}-channel {layout.dtype}, the configuration asks for {config.input.channels}-channel "
            f"{config.input.dtype}; build it apart with input.channels: {layout.channels}, input.dtype: {layout.dtype}",
        )
    if config.input.points:
        centres_of(ref, config, (layout.height, layout.width))
    elif not grid_of(layout, config).count:
        raise Unreadable("too_small", _why_no_patch(layout, config.patch))
    for name in sorted(config.input.rasters):
        open_raster(ref, name, config.input, (layout.height, layout.width)).close()
    return ImageInfo(
        image_id=ref.image_id,
        uri=ref.uri,
        fingerprint=ref.fingerprint,
        height=layout.height,
        width=layout.width,
        block_height=layout.block_height,
        block_width=layout.block_width,
        split=ref.split or split_of(group, config),
        label=label,
        group=group,
        mask=ref.mask,
        points=ref.points,
        regions=ref.regions,
        meta=ref.meta,
    )


def _why_no_patch(layout: Layout, patch: Patch) -> str:
    size = f"{layout.height} x {layout.width} pixels"
    if patch.origin[0] >= layout.height or patch.origin[1] >= layout.width:
        return f"{size} end before patch.origin, {patch.origin[0]}, {patch.origin[1]}"
    edges = " and ".join(sorted(set(patch.edge) - {"pad"}))
    return f"{size} hold no patch of {patch.span[0]} x {patch.span[1]}; patch.edge: pad would keep it, {edges} does not"
