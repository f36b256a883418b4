"""Large sets of large images into sharded, shuffled, reproducible TFRecord patch datasets.

Build one, and train with it::

    import patchbeam

    outcome = patchbeam.build("configs/quickstart.yaml", images=["samples/photos/*"], output="out/photos")
    dataset = patchbeam.load("out/photos", "train")  # tf.data.Dataset of {image, label, key, image_id, row, col, ...}

=================  ====================================================================================================
load               the patches of a split as a ``tf.data.Dataset``
open_dataset       a version of a dataset: its manifest, statistics, shards and single patches
build, plan        the commands of these names, as functions
Config             a configuration; ``load_config`` reads one from a YAML file
Reader             the interface of a plug-in for a format, with ``Layout``, ``ImageFile``, ``Box``, ``Unreadable``,
                   ``check_inside`` and ``check_single``; ``ReaderTests`` is the contract that its tests inherit
=================  ====================================================================================================

Everything is imported when it is asked for: Beam and TensorFlow take seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _check_packages() -> None:
    """Raises ImportError where another file, such as a ``pipeline.py`` of yours, hides one of our packages."""
    for name in ("pipeline", "transforms"):
        spec, ours = importlib.util.find_spec(name), os.path.join(_ROOT, name, "__init__.py")
        found = (spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))) or "nothing"
        if os.path.realpath(found) != os.path.realpath(ours):
            raise ImportError(
                f"{found} hides the package {name!r} of patchbeam in {os.path.dirname(ours)}: rename it, or "
                "start Python in another folder"
            )


_check_packages()

from pipeline import __version__  # noqa: E402

if TYPE_CHECKING:
    from pipeline.build import Outcome, Plan
    from pipeline.config import Config, load_config
    from pipeline.dataset.reading import Dataset, load, open_dataset
    from pipeline.errors import Unreadable
    from pipeline.readers import ImageFile, Layout, Reader, check_inside, check_single
    from pipeline.readers.testing import ReaderTests
    from transforms.grid import Box

__all__ = [
    "Box", "Config", "Dataset", "ImageFile", "Layout", "Outcome", "Plan", "Reader", "ReaderTests", "Unreadable",
    "__version__", "build", "check_inside", "check_single", "load", "load_config", "open_dataset", "plan",
]  # fmt: skip

_MODULES = {
    "Box": "transforms.grid",
    "Config": "pipeline.config",
    "Dataset": "pipeline.dataset.reading",
    "ImageFile": "pipeline.readers",
    "Layout": "pipeline.readers",
    "Outcome": "pipeline.build",
    "Plan": "pipeline.build",
    "Reader": "pipeline.readers",
    "ReaderTests": "pipeline.readers.testing",
    "Unreadable": "pipeline.errors",
    "check_inside": "pipeline.readers",
    "check_single": "pipeline.readers",
    "load": "pipeline.dataset.reading",
    "load_config": "pipeline.config",
    "open_dataset": "pipeline.dataset.reading",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'patchbeam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def build(
    config: Config | str,
    *,
    images: Sequence[str] = (),
    output: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    beam_options: Sequence[str] = (),
    retry: bool = False,
    fresh: bool = False,
    wait: bool = False,
) -> Outcome:
    """Builds and publishes a dataset, as the command ``patchbeam build`` does.

    Args:
        config: a configuration, or the path of a YAML file.
        images: replace ``input.images``.
        output: replaces ``output.path``.
        overrides: keys of the configuration and their values, ``{"patch.size": 512}``.
        beam_options: flags of Beam, ``["--runner=FlinkRunner"]``.
        retry: whether to try again what the published version rejected.
        fresh: whether to take nothing over from earlier versions.
        wait: whether to wait for another build that writes to the same output.

    Returns:
        The published version: ``outcome.folder``, ``outcome.manifest`` and whether it is ``unchanged``.

    Raises:
        pipeline.errors.CommandError: with one sentence, and the exit code of the command as ``code``.
    """
    from pipeline.build import build as build_dataset
    from pipeline.config import as_config
    from pipeline.inputs.listing import check_inputs
    from pipeline.runners.options import complete_options

    checked = as_config(config, overrides or {}, images, output)
    check_inputs(checked.input)
    return build_dataset(checked, complete_options(beam_options, checked.beam), retry=retry, fresh=fresh, wait=wait)


def plan(
    config: Config | str,
    *,
    images: Sequence[str] = (),
    output: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Reads headers only and says what a build would do, as the command ``patchbeam plan`` does.

    Args:
        config, images, output, overrides: as for :func:`build`.

    Raises:
        pipeline.errors.CommandError: with one sentence.
    """
    from pipeline.build import plan as plan_dataset
    from pipeline.config import as_config
    from pipeline.inputs.listing import check_inputs

    checked = as_config(config, overrides or {}, images, output)
    check_inputs(checked.input)
    return plan_dataset(checked)
