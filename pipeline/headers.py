"""What the images are: opens headers only, and rejects cheaply what cannot be used."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Literal

import apache_beam as beam

from pipeline.config import DTYPES, Config, Constant, Regex
from pipeline.elements import ImageInfo, ImageRef, Rejected, Unreadable, digest
from pipeline.isolation import open_isolated
from pipeline.readers import Layout
from pipeline.readers.converted import Choice
from transforms.grid import Grid


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
    label = name_of(ref.image_id, config.input.label)
    group = name_of(ref.image_id, config.input.group)
    reader = open_isolated(ref.uri, Choice.of(config.input), config.input.max_seconds)
    reader.close()
    layout = reader.layout
    _check_form(layout, config)
    if not Grid.of((layout.height, layout.width), config.patch.size, config.patch.steps, config.patch.edge).count:
        height, width = config.patch.size
        raise Unreadable(
            "too_small",
            f"{layout.height} x {layout.width} pixels hold no patch of {height} x {width}; "
            f"patch.edge: pad would keep it, {config.patch.edge} does not",
        )
    split = split_of(group, config)
    block = (layout.block_height, layout.block_width)
    names = ("levels", "mpp", "crs", "transform", "nodata")
    facts = {name: value for name in names if (value := getattr(layout, name))}
    text = json.dumps(facts, sort_keys=True) if facts else ""
    return ImageInfo(*ref, layout.height, layout.width, *block, split, label, group, text)


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


def name_of(image_id: str, source: Literal["folder", "image"] | Regex | Constant | None) -> str:
    """The label or group of an image.

    Raises:
        Unreadable: ``no_name`` where a regular expression does not match.

    >>> name_of("tumor/patient7/a.svs", Regex(regex="(patient[0-9]+)"))
    'patient7'
    """
    if source is None:
        return ""
    if source == "image":
        return image_id
    if source == "folder":
        return image_id.rpartition("/")[0].rpartition("/")[2]
    if isinstance(source, Constant):
        return source.constant
    found = re.search(source.regex, image_id)
    if not found or found[1] is None:
        raise Unreadable("no_name", f"the expression {source.regex!r} finds no name in the image id {image_id!r}")
    return found[1]


def split_of(group: str, config: Config) -> str:
    """The split of a group: by its digest alone, so that other images coming or going do not move it."""
    share = digest(config.seed, "split", group) / 2**64
    for name, fraction in config.splits.items():
        share -= fraction
        if share < 0:
            return name
    return [name for name, fraction in config.splits.items() if fraction][-1]  # the fractions' rounding error
