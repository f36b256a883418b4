"""The examples in docstrings are true."""

import doctest
import importlib

MODULES = [
    "transforms.grid",
    "transforms.centred",
    "transforms.patches",
    "transforms.stitch",
    "transforms.taps",
    "transforms.polygons",
    "pipeline.dataset.tiff_pyramid",
    "transforms.pixels",
    "transforms.pixel_statistics",
    "transforms.quality",
    "transforms.augment",
    "transforms.crops",
    "transforms.stain",
    "pipeline.config",
    "pipeline.elements",
    "pipeline.inputs.labels",
    "pipeline.planning.plan_shards",
    "pipeline.storage",
    "pipeline.readers.orientation",
]


def test_examples_in_docstrings_give_what_they_say():
    results = {name: doctest.testmod(importlib.import_module(name)) for name in MODULES}

    assert {name: result.failed for name, result in results.items()} == dict.fromkeys(MODULES, 0)
    assert sum(result.attempted for result in results.values()) >= 1
