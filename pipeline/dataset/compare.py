"""The differences between two versions: images, patches, labels, statistics."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.dataset.reading import Dataset

_SHOWN = 5


class ImageChange(NamedTuple):
    """Images that changed in the same way.

    Attributes:
        images: their ids.
        patches: patches written of them, in the version that has the images; in the later one where both have them.
    """

    images: list[str]
    patches: int


def compare_images(a: Dataset, b: Dataset) -> dict[str, ImageChange]:
    """Returns images ``added``, ``removed``, ``changed`` (their files) and ``relabelled`` (label, group or split)."""
    before, after = _images(a), _images(b)
    joined = before.join(after, "image_id", join_type="full outer", left_suffix="_a", right_suffix="_b")
    there = {side: pc.is_valid(joined[f"fingerprint_{side}"]) for side in "ab"}
    both = pc.and_(there["a"], there["b"])
    differ = lambda name: pc.fill_null(pc.not_equal(_text(joined, f"{name}_a"), _text(joined, f"{name}_b")), False)
    changed = pc.and_(both, differ("fingerprint"))
    names = pc.or_(pc.or_(differ("label"), differ("group")), differ("split"))
    kinds = {
        "added": (pc.invert(there["a"]), "b"),
        "removed": (pc.invert(there["b"]), "a"),
        "changed": (changed, "b"),
        "relabelled": (pc.and_(both, names), "b"),
    }
    return {kind: _change(joined.filter(mask), side) for kind, (mask, side) in kinds.items()}


def _images(dataset: Dataset) -> pa.Table:
    found = storage.read_table(storage.join(dataset.folder, "images.parquet"))
    found = found.select(["image_id", "split", "label", "group", "written"])
    listing = storage.read_table(storage.join(dataset.folder, "inputs.parquet")).select(["image_id", "fingerprint"])
    return found.join(listing, "image_id", join_type="inner")


def _text(table: pa.Table, name: str) -> pa.ChunkedArray:
    return pc.fill_null(table[name], "")


def _change(images: pa.Table, side: str) -> ImageChange:
    return ImageChange(
        sorted(images["image_id"].to_pylist()), pc.sum(images[f"written_{side}"], min_count=0).as_py() or 0
    )


def describe_difference(a: Dataset, b: Dataset) -> str:
    """Describes the images and patches that differ, and the statistics side by side."""
    lines = [f"{'':<11}{a.manifest.version} -> {b.manifest.version}"]
    for kind, change in compare_images(a, b).items():
        shown = ", ".join(change.images[:_SHOWN]) + (", ..." if len(change.images) > _SHOWN else "")
        lines.append(f"{kind:<11}{len(change.images):,} images, {change.patches:,} patches" + (shown and f": {shown}"))
    one, other = a.statistics()["splits"], b.statistics()["splits"]
    for split in [*one, *(name for name in other if name not in one)]:
        sides = [of.get(split, {"patches": 0, "labels": {}, "channels": []}) for of in (one, other)]
        lines += ["", f"{split}: {sides[0]['patches']:,} -> {sides[1]['patches']:,} patches"]
        lines += _labels(*(side["labels"] for side in sides)) + _channels(*(side["channels"] for side in sides))
    return "\n".join(lines)


def _labels(a: dict[str, int], b: dict[str, int]) -> list[str]:
    names = [name for name in (*b, *(name for name in a if name not in b)) if a.get(name) != b.get(name)]
    counts = [f"{name or '(none)'} {a.get(name, 0):,} -> {b.get(name, 0):,}" for name in names]
    return [f"  labels   {', '.join(counts[:20])}" + (", ..." if len(counts) > 20 else "")] if counts else []


def _channels(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[str]:
    lines = []
    for number in range(max(len(a), len(b))):
        sides = [of[number] if number < len(of) else {} for of in (a, b)]
        values = (f"{name} {_number(sides[0], name)} -> {_number(sides[1], name)}" for name in ("mean", "std"))
        lines.append(f"  channel {number}  " + "  ".join(values))
    return lines


def _number(channel: dict[str, Any], name: str) -> str:
    return "-" if channel.get(name) is None else f"{channel[name]:.6g}"
