"""The examples in docstrings are true, in every module."""

import doctest
import importlib

from helpers import REPO

# Libraries that only some installations have; a module that cannot be imported without one is left out there.
EXTRAS = {"boto3", "botocore", "google", "nibabel", "openslide", "prometheus_client", "pydicom", "zarr"}


def our_modules():
    """Every module by its dotted name, except programs."""
    paths = [path for top in ("patchbeam", "pipeline", "transforms") for path in sorted((REPO / top).rglob("*.py"))]
    names = [".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if not name.endswith(".__main__")]


def imported(name):
    """The module; None if it needs an extra that is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in EXTRAS:
            raise
        return None


def test_examples_in_docstrings_give_what_they_say():
    modules = {name: imported(name) for name in our_modules()}
    results = {name: doctest.testmod(module) for name, module in modules.items() if module}

    assert {name: result.failed for name, result in results.items()} == dict.fromkeys(results, 0)
    assert {"patchbeam", "pipeline.build", "pipeline.storage.files", "transforms.grid"} < results.keys()
    assert sum(result.attempted for result in results.values()) >= 60
