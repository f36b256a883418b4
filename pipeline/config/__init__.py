"""The configuration of a build: its schema, and the YAML file that it is read from.

Loads fast: imports neither storage nor Beam nor TensorFlow.
"""

from pipeline.config.effects import Effect, Key, keys_of
from pipeline.config.file import as_config, json_schema, load_config
from pipeline.config.schema import (
    OWN_COLUMNS,
    Augment,
    Bounds,
    Config,
    Constant,
    Crops,
    Distances,
    Drift,
    Form,
    Gates,
    Input,
    Output,
    Patch,
    PatchLabel,
    Points,
    Quality,
    Raster,
    Regex,
    Replace,
    Workers,
    column_problem,
)
from pipeline.config.values import DTYPES, Coordinates, Dtype, secret_in

__all__ = [
    "DTYPES", "OWN_COLUMNS", "Augment", "Bounds", "Config", "Constant", "Coordinates", "Crops", "Distances", "Drift",
    "Dtype", "Effect", "Form", "Gates", "Input", "Key", "Output", "Patch", "PatchLabel", "Points", "Quality", "Raster",
    "Regex", "Replace", "Workers", "as_config", "column_problem", "json_schema", "keys_of", "load_config", "secret_in",
]  # fmt: skip
