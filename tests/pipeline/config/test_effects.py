"""Every key of the configuration has an effect, and the digests follow it."""

import pytest

from pipeline.config import Config, Effect, keys_of
from pipeline.config.effects import without

EFFECTS = {key.name: key.effect for key in keys_of(Config)}

# What each key is changed to, from what BASE has.
CHANGES = {
    "input.images": ["b"], "input.manifest": "m.csv", "input.columns": {"age": "integer"}, "input.root": "b",
    "input.level": 1, "input.mpp": 0.5, "input.gsd": 10, "input.page": 1, "input.bands": [1, 2, 3],
    "input.convert": "rgb", "input.depth": "widen", "input.max_seconds": 1, "input.fingerprint": "content",
    "input.channels": 4, "input.dtype": "uint16", "input.range": [0, 255],
    "input.rasters.*.file": {"match": "a", "replace": "b"}, "input.rasters.*.level": 1,
    "input.rasters.*.channels": 3, "input.rasters.*.dtype": "uint16", "input.rasters.*.pad_value": 1,
    "input.rasters.*.classes": {"cell": 1, "vessel": 3}, "input.rasters.*.class_from": "kind",
    "input.rasters.*.coordinates": "world",
    "input.points.file": {"match": "a", "replace": "b"}, "input.points.label": "size",
    "input.points.coordinates": "world", "input.label": "folder", "input.group": "folder",
    "patch.size": 9, "patch.stride": 9, "patch.dilation": 2, "patch.origin": 1, "patch.edge": "drop",
    "patch.pad_mode": "constant", "patch.pad_value": 1, "patch.crops.per_image": 2, "patch.crops.per_megapixel": 3,
    "patch.crops.tries": 2, "patch.scales": [4], "patch.cover": {"mask": {"cell": {"min": 0.5}}},
    "patch.label.raster": "other", "patch.label.min": 0.5, "patch.stain": "macenko",
    "quality.keep": {"entropy": {"min": 1}}, "quality.duplicates": 1, "quality.tissue_threshold": 9,
    "quality.nodata": 1, "augment.copies": 2, "augment.original": False, "augment.flip": False,
    "augment.quarter_turns": True, "augment.rotation": 1, "augment.blur": 1, "augment.stain": 0.1,
    "augment.brightness": 0.1, "augment.contrast": 0.1, "augment.saturation": 0.1, "augment.hue": 1,
    "augment.noise": 0.1, "output.path": "c", "output.encoding": "raw", "output.quality": 9,
    "output.shard_size": "1MB", "output.order": "sequential", "splits": {"train": 0.5, "test": 0.5}, "seed": 1,
    "max_rejected": 0.5, "gates.verify": True, "gates.rejected": 0.5, "gates.patches": {"min": 0.5},
    "gates.patches_per_label": {"min": 0.5}, "gates.drift.mean": 1, "gates.drift.std": 1,
    "gates.drift.jensen_shannon_divergence": 1, "gates.drift.labels.infinity_norm": 1,
    "gates.drift.labels.jensen_shannon_divergence": 1, "gates.leakage": "exact", "workers.device": "cpu",
    "workers.processes_per_gpu": 2, "workers.windows_per_gpu": 3, "workers.accelerator": "x", "workers.min_ram": "1GB",
    "beam": {"x": 1},
}  # fmt: skip


def base_for(key):
    """A configuration in which the key can have its value and another one."""
    classes = {"mask": {"classes": {"cell": 1}}, "other": {"classes": {"cell": 1}}}
    values = {
        "input": {"images": ["a"], "rasters": classes},
        "output": {"path": "b"},
        "quality": {},
        "augment": {"flip": True, "noise": 0.2},
    }
    if key.startswith("input.points"):
        values["input"]["points"] = {}
    if key.startswith("patch.crops"):
        values["quality"]["keep"] = {"sharpness": {"min": 1}}
        values["patch"] = {"crops": {} if key == "patch.crops.per_megapixel" else {"per_image": 1}}
    if key.startswith("patch.label"):
        values["patch"] = {"label": {"raster": "mask"}}
    if key == "input.rasters.*.channels":
        values["input"]["rasters"] = {"mask": {}}
    return values


def changed(values, key, value):
    first, _, rest = key.partition(".")
    names = list(values) if first == "*" else [first]
    return values | {name: changed(values.get(name, {}), rest, value) if rest else value for name in names}


def test_every_key_is_changed_here():
    assert CHANGES.keys() == EFFECTS.keys()
    assert {"input.rasters.*.file", "patch.crops.tries", "workers.min_ram", "splits"} < EFFECTS.keys()


@pytest.mark.parametrize("key", CHANGES)
def test_the_digests_change_with_the_keys_that_have_an_effect(key):
    base = base_for(key)
    values = changed(base, key, CHANGES[key])
    if key == "patch.crops.per_megapixel":
        base["patch"]["crops"] = {"per_megapixel": 1}
    before, after = Config.model_validate(base), Config.model_validate(values)
    assert before != after
    differ = lambda digest: getattr(before, digest)() != getattr(after, digest)()
    assert differ("pixel_digest") == (EFFECTS[key] == Effect.PIXELS)
    assert differ("content_digest") == (EFFECTS[key] != Effect.REPORT)


def test_a_key_without_an_effect_is_an_error_of_the_program():
    class Half(Config):
        new: int = 0

    with pytest.raises(TypeError, match=r"new has no effect; annotate it with one of pixels, names, report"):
        list(keys_of(Half))


def test_every_key_says_what_it_is_for():
    assert [key.name for key in keys_of(Config) if not key.field.description] == []


def test_keys_are_left_out_by_their_names():
    values = {"input": {"rasters": {"a": {"file": "mask", "level": 1}}, "label": None}, "augment": None}
    assert without(values, ["input.rasters.*.file", "augment"]) == {
        "input": {"rasters": {"a": {"level": 1}}, "label": None}
    }
