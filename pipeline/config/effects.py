"""What a change of each key of the configuration changes in a dataset, and so what a build does again.

========  =============================================================================================================
pixels    the patches themselves: everything is read and cut again
names     what records say beside their pixels, and where they lie: records are written again, nothing is decoded
report    nothing of the dataset
========  =============================================================================================================

``*`` stands for any name, and a section for all of its keys. A key that is not here counts as one of the pixels, and
fails a test.
"""

from __future__ import annotations

from typing import Any, Literal

Effect = Literal["pixels", "names", "report"]

_PIXELS = """
input.level input.mpp input.gsd input.page input.bands input.convert input.depth input.channels input.dtype input.range
input.fingerprint input.points.label input.points.coordinates
input.rasters.*.level input.rasters.*.channels input.rasters.*.dtype input.rasters.*.pad_value
input.rasters.*.classes input.rasters.*.class_from input.rasters.*.coordinates
patch.cover patch.label.raster patch.label.min patch.scales patch.stain
patch.size patch.stride patch.dilation patch.origin patch.edge patch.pad_mode patch.pad_value
patch.crops.per_image patch.crops.per_megapixel patch.crops.tries
quality.keep quality.duplicates quality.tissue_threshold quality.nodata
augment.copies augment.original augment.flip augment.quarter_turns augment.rotation augment.blur augment.stain
augment.brightness augment.contrast augment.saturation augment.hue augment.noise
output.encoding output.quality seed
"""
_NAMES = "input.label input.group input.columns splits output.shard_size output.order"
_REPORT = """
input.images input.manifest input.root input.max_seconds input.rasters.*.file input.points.file
output.path max_rejected gates beam
workers.device workers.processes_per_gpu workers.windows_per_gpu workers.accelerator workers.min_ram
"""

EFFECTS: dict[str, Effect] = {
    **dict.fromkeys(_PIXELS.split(), "pixels"),
    **dict.fromkeys(_NAMES.split(), "names"),
    **dict.fromkeys(_REPORT.split(), "report"),
}


def without(values: dict[str, Any], effect: Effect) -> dict[str, Any]:
    """A dumped configuration without the keys that have this effect.

    >>> without({"seed": 1, "output": {"path": "a", "order": "shuffled"}}, "report")
    {'seed': 1, 'output': {'order': 'shuffled'}}
    """
    for key in (key for key, its_effect in EFFECTS.items() if its_effect == effect):
        values = _without(values, key.split("."))
    return values


def _without(values: Any, key: list[str]) -> Any:
    if not isinstance(values, dict):
        return values
    first, *rest = key
    if not rest:
        return {name: value for name, value in values.items() if name != first}
    return {name: _without(value, rest) if first in (name, "*") else value for name, value in values.items()}
