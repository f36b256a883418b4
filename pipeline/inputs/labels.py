"""The label, group and split of an image by the rules of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pipeline.config import Config, Constant, Regex
from pipeline.elements import ImageRef, digest
from pipeline.errors import Unreadable


def name_by_rule(image_id: str, source: Literal["folder", "image"] | Regex | Constant | None) -> str:
    """Returns the label or group of an image.

    Raises:
        Unreadable: ``no_name`` where a regular expression does not match.

    >>> name_by_rule("tumor/patient7/a.svs", Regex(regex="(patient[0-9]+)"))
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


def split_of(group: str, splits: Mapping[str, float], seed: int) -> str:
    """Returns the split of a group, by its digest alone, so that other images that come or go do not move it."""
    share = digest(seed, "split", group) / 2**64
    for name, fraction in splits.items():
        share -= fraction
        if share < 0:
            return name
    return [name for name, fraction in splits.items() if fraction][-1]  # the fractions' rounding error


def label_group_split(ref: ImageRef, config: Config) -> dict[str, str]:
    """Returns the label, group and split of an image.

    Raises:
        Unreadable: ``no_name`` where a rule finds none.
    """
    label = ref.label or name_by_rule(ref.image_id, config.input.label)
    group = ref.group or name_by_rule(ref.image_id, config.input.group)
    return {"split": ref.split or split_of(group, config.splits, config.seed), "label": label, "group": group}
