"""What a build is told: the schema of a configuration, and the YAML file that it is read from.

Answers at once: imports neither storage nor Beam nor TensorFlow.
"""

from pipeline.config.file import load_config
from pipeline.config.schema import (
    DTYPES,
    OWN_COLUMNS,
    Augment,
    Bounds,
    Config,
    Constant,
    Coordinates,
    Crops,
    Distances,
    Drift,
    Dtype,
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
from pipeline.config.values import secret_in

__all__ = [
    "DTYPES", "OWN_COLUMNS", "Augment", "Bounds", "Config", "Constant", "Coordinates", "Crops", "Distances", "Drift",
    "Dtype", "Form", "Gates", "Input", "Output", "Patch", "PatchLabel", "Points", "Quality", "Raster", "Regex",
    "Replace", "Workers", "column_problem", "load_config", "secret_in",
]  # fmt: skip
