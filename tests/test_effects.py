"""Every key of the configuration has a documented effect, and the digests follow it."""

import pathlib
import re
import typing

import pydantic
import pytest

from pipeline.config import Config
from pipeline.config.effects import EFFECTS, without

DOCUMENT = pathlib.Path(__file__).parent.parent / "docs/rebuilds.md"


def leaves(model, before=""):
    """``section.key`` of everything that can be set; ``*`` for the names in a dictionary of sections.

    A section that has an effect as a whole is not taken apart.
    """
    for name, field in model.model_fields.items():
        key = f"{before}{name}"
        sections = list(sections_in(field.annotation))
        if key in EFFECTS or not sections or any(not isinstance(one, tuple) and is_source(one) for one in sections):
            yield key
            continue
        for one in sections:
            section, star = one if isinstance(one, tuple) else (one, "")
            yield from leaves(section, f"{key}.{star}")


def is_source(section):
    """Rules in place of a value (``{"regex": ...}``) are values."""
    return section.__name__ in ("Regex", "Constant", "Replace")


def sections_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    elif typing.get_origin(annotation) is dict:
        for section in sections_in(typing.get_args(annotation)[1]):
            if section.__name__ != "Bounds":
                yield section, "*."
    else:
        for part in typing.get_args(annotation):
            yield from sections_in(part)


def test_every_key_has_an_effect():
    found = set(leaves(Config))
    assert {"input.rasters.*.file", "patch.crops.tries", "workers.min_ram", "splits"} < found
    assert found == EFFECTS.keys(), "a new key needs its effect in pipeline/config/effects.py and docs/rebuilds.md"


def test_the_document_says_the_same():
    table = re.findall(r"^\| \*\*(\w+)\*\* \|.*\| (.*?) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    said = {key: effect for effect, keys in table for key in re.findall(r"`([^`]+)`", keys)}
    assert said == EFFECTS


CHANGES = {
    "input.level": 1, "input.fingerprint": "content",
    "input.page": 1, "input.bands": [1, 2, 3], "input.convert": "rgb", "input.depth": "widen",
    "input.channels": 4, "input.dtype": "uint16", "input.range": [0, 255], "input.rasters.*.level": 1,
    "input.rasters.*.channels": 3, "input.rasters.*.dtype": "uint16", "input.rasters.*.pad_value": 1,
    "patch.size": 9, "patch.stride": 9, "patch.dilation": 2, "patch.origin": 1, "patch.edge": "drop",
    "patch.pad_mode": "constant", "patch.pad_value": 1, "quality.keep": {"entropy": {"min": 1}},
    "quality.duplicates": 1, "quality.tissue_threshold": 9, "quality.nodata": 1, "augment.copies": 2,
    "augment.original": False, "augment.quarter_turns": True, "augment.rotation": 1, "augment.blur": 1,
    "augment.stain": 0.1, "augment.brightness": 0.1, "augment.contrast": 0.1, "augment.saturation": 0.1,
    "augment.hue": 1, "augment.noise": 0.1, "output.encoding": "raw", "output.quality": 9, "seed": 1,
    "input.label": "folder", "input.group": "folder", "input.columns": {"age": "integer"},
    "splits": {"train": 0.5, "test": 0.5}, "output.shard_size": "1MB", "output.order": "sequential",
    "input.images": ["b"], "input.manifest": "m.csv", "input.root": "b", "input.max_seconds": 1,
    "input.rasters.*.file": {"match": "a", "replace": "b"}, "output.path": "c", "max_rejected": 0.5,
    "beam": {"x": 1}, "workers.device": "cpu", "workers.processes_per_gpu": 2, "workers.windows_per_gpu": 3,
    "gates": {"patches": {"min": 0.5}}, "workers.accelerator": "x", "workers.min_ram": "1GB",
}  # fmt: skip


def changed(values, key, value):
    first, _, rest = key.partition(".")
    names = list(values) if first == "*" else [first]
    return values | {name: changed(values.get(name, {}), rest, value) if rest else value for name in names}


@pytest.mark.parametrize("key", CHANGES)
def test_the_digests_change_with_the_keys_that_have_an_effect(key):
    base = {
        "input": {"images": ["a"], "rasters": {"mask": {}}},
        "output": {"path": "b"},
        "quality": {},
        "augment": {"flip": True},
    }
    before, after = Config.model_validate(base), Config.model_validate(changed(base, key, CHANGES[key]))
    differ = lambda digest: getattr(before, digest)() != getattr(after, digest)()
    assert differ("pixel_digest") == (EFFECTS[key] == "pixels")
    assert differ("content_digest") == (EFFECTS[key] != "report")


def test_keys_are_left_out_by_their_effect():
    values = {"input": {"rasters": {"a": {"file": "mask", "level": 1}}, "label": None}, "augment": None}
    assert without(values, "report") == {"input": {"rasters": {"a": {"level": 1}}, "label": None}, "augment": None}
    assert without(values, "names") == {"input": {"rasters": values["input"]["rasters"]}, "augment": None}
