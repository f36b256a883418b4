"""What a build is told: a YAML file, validated into a frozen configuration.

Importing this module imports neither Beam nor TensorFlow, so that a wrong configuration answers at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class ConfigError(ValueError):
    """The configuration or the command line is wrong; the message names the key, the value and what is allowed."""


def _pair(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(type(v) is int and v >= 1 for v in pair):
        raise ValueError("use a whole number of pixels from 1 up, or two as [rows, columns]")
    return pair


def _bytes(value: Any) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    unit = _SIZES.get(match[2].upper() or "B") if match else None
    if not match or not unit or float(match[1]) * unit < 1:
        raise ValueError("use a number with a unit such as 64MB, 1GB or 256MiB")
    return int(float(match[1]) * unit)


def _name_source(value: Any) -> str:
    """Which kind of source of names a value is, so that only this kind complains of it."""
    if isinstance(value, dict) and len(value) == 1:
        return f"<{next(iter(value))}>"
    return "<regex>" if isinstance(value, Regex) else "<constant>" if isinstance(value, Constant) else "<word>"


def _beam_value(value: Any) -> Any:
    if not all(isinstance(one, str | int | float) for one in (value if isinstance(value, list) else [value])):
        raise ValueError("use text, a number, true or false, or a list of them")
    return value


Dtype = Literal["uint8", "uint16", "float32"]
DTYPES: tuple[str, ...] = get_args(Dtype)
Integer = Annotated[int, Field(strict=True)]  # YAML's yes and no are no numbers
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Pair = Annotated[tuple[int, int], BeforeValidator(_pair)]
ByteSize = Annotated[int, BeforeValidator(_bytes)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Regex(_Section):
    """The first group of the expression, searched for in the image id."""

    regex: str

    @field_validator("regex")
    @classmethod
    def _has_one_group(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"has {groups} groups; put parentheses around the one part that is the name")
        return value


class Constant(_Section):
    """The same name for every image."""

    constant: str


class Input(_Section):
    """Which images, and what they have to be."""

    images: Annotated[
        tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v), Field(min_length=1)
    ]
    root: str | None = None
    level: Annotated[Integer, Field(ge=0)] = 0
    page: Annotated[Integer, Field(ge=0)] | None = None
    bands: tuple[Annotated[Integer, Field(ge=1)], ...] = ()
    convert: Literal["as-is", "rgb", "gray"] = "as-is"
    depth: Literal["exact", "widen", "scale", "clip"] = "exact"
    max_seconds: Annotated[Number, Field(gt=0)] = 120
    channels: Annotated[Integer, Field(ge=1)] = 3
    dtype: Dtype = "uint8"
    label: Annotated[
        Annotated[Literal["folder"] | None, Tag("<word>")]
        | Annotated[Regex, Tag("<regex>")]
        | Annotated[Constant, Tag("<constant>")],
        Discriminator(_name_source),
    ] = None
    group: Annotated[
        Annotated[Literal["image", "folder"], Tag("<word>")] | Annotated[Regex, Tag("<regex>")],
        Discriminator(_name_source),
    ] = "image"

    @field_validator("label", "group", mode="before")
    @classmethod
    def _has_one_key(cls, value: Any, field: ValidationInfo) -> Any:
        known = ["regex", "constant"] if field.field_name == "label" else ["regex"]
        if isinstance(value, dict) and (len(value) != 1 or next(iter(value)) not in known):
            raise ValueError(f"use exactly one key, {' or '.join(known)}")
        return value


class Patch(_Section):
    """How an image is cut."""

    size: Pair = (256, 256)
    stride: Pair | None = None
    edge: Literal["drop", "pad", "shift"] = "pad"
    pad_mode: Literal["reflect", "symmetric", "edge", "constant"] = "reflect"
    pad_value: Number = 0

    @property
    def steps(self) -> tuple[int, int]:
        """The stride, or the size where none is given: patches side by side."""
        return self.stride or self.size


class Output(_Section):
    """Where the dataset goes, and its form."""

    path: str
    encoding: Literal["png", "jpeg", "raw"] = "png"
    quality: Annotated[Integer, Field(ge=1, le=100)] = 95
    shard_size: ByteSize = 256 * 10**6
    order: Literal["shuffled", "sequential"] = "shuffled"


class Workers(_Section):
    """What the workers that cut have, or have to have; the same patches come out of all of them."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    processes_per_gpu: Annotated[Integer, Field(ge=1)] = 1
    windows_per_gpu: Annotated[Integer, Field(ge=1)] = 2
    accelerator: str | None = None
    min_ram: ByteSize | None = None


class Config(_Section):
    """A whole configuration; ``configs/quickstart.yaml`` explains every key."""

    input: Input
    output: Output
    patch: Patch = Patch()
    splits: dict[str, Annotated[Number, Field(ge=0, le=1)]] = {"train": 1.0}
    seed: Integer = 0
    max_rejected: Annotated[Number, Field(ge=0, le=1)] = 0.01
    workers: Workers = Workers()
    beam: dict[str, Annotated[Any, BeforeValidator(_beam_value)]] = {}

    @field_validator("splits")
    @classmethod
    def _splits_add_up(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"the name {name!r} may hold only a-z, 0-9 and _, and starts with a letter")
        if abs(sum(value.values()) - 1) > 1e-9:
            raise ValueError(f"the fractions add up to {sum(value.values()):g}; they have to add up to 1")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        channels, dtype, encoding = self.input.channels, self.input.dtype, self.output.encoding
        if encoding == "png" and (dtype == "float32" or channels > 4):
            raise ValueError(f"output.encoding: png cannot hold {channels} channels of {dtype}; use raw")
        if encoding == "jpeg" and (dtype != "uint8" or channels not in (1, 3)):
            raise ValueError(f"output.encoding: jpeg cannot hold {channels} channels of {dtype}; use png or raw")
        limit = {"uint8": 255, "uint16": 65535}.get(dtype)
        if limit and not (self.patch.pad_value == int(self.patch.pad_value) and 0 <= self.patch.pad_value <= limit):
            raise ValueError(f"patch.pad_value: {self.patch.pad_value:g} is no {dtype}; use an integer 0..{limit}")
        return self

    @model_validator(mode="after")
    def _converts_to_its_channels(self) -> Config:
        made = {"rgb": 3, "gray": 1}.get(self.input.convert) or len(self.input.bands)
        if made and made != self.input.channels:
            key = "bands" if self.input.convert == "as-is" else "convert"
            raise ValueError(
                f"input.channels: {self.input.channels}, but input.{key} makes {made}; set input.channels: {made}"
            )
        return self

    @property
    def training_split(self) -> str:
        """The split whose pixels set the normalisation: ``train``, or the first one where none is called so."""
        return "train" if "train" in self.splits else next(iter(self.splits))

    def content_digest(self) -> str:
        """64 hexadecimal digits that change with every key that changes the dataset.

        Where the images lie, where the output goes, how much may be rejected and what runs the build do not change it;
        which images there are enters a build through their identities.
        """
        values = self.model_dump(mode="json", exclude={"max_rejected", "workers", "beam"})
        for name in ("images", "root", "max_seconds"):
            del values["input"][name]
        del values["output"]["path"]
        values["patch"]["stride"] = self.patch.steps
        values["splits"] = list(self.splits.items())  # their order decides, too
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        named = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in named]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"{key}: stands twice{node.start_mark}; keep one")
        return super().construct_mapping(node, deep)


def load_config(
    path: str, overrides: Sequence[str] = (), images: Sequence[str] = (), output: str | None = None
) -> Config:
    """Reads and checks a configuration.

    Args:
        path: a YAML file.
        overrides: ``key.path=value`` with a YAML value, applied in order.
        images: replaces ``input.images``.
        output: replaces ``output.path``.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.load(file, _Loader)  # _Loader is a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are no UTF-8, dates that do not exist
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, expected keys such as input, patch and output")
    for override in overrides:
        _set(values, override)
    if images:
        _set_value(values, ["input", "images"], list(images), "--input")
    if output:
        _set_value(values, ["output", "path"], output, "--output")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join([f"{path}:", *(f"  {_explain(e)}" for e in error.errors())])) from error


def _set(values: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value, for example --set patch.size=512")
    try:
        value = yaml.load(text, _Loader)
    except ConfigError as error:
        raise ConfigError(f"--set {override}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
    _set_value(values, key.split("."), value, f"--set {override}")


def _set_value(values: dict, keys: list[str], value: Any, said: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{said}: {key} holds {values!r}, which has no keys below it")
    values[keys[-1]] = value


def _explain(error: Mapping[str, Any]) -> str:
    """One line of pydantic's findings in our form: key, value, what is allowed."""
    location = [str(part) for part in error["loc"] if not str(part).startswith("<")]  # our tags of unions
    key = ".".join(location) or "configuration"
    if error["type"] == "extra_forbidden":
        known = _keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, 1)
        return f"{key}: unknown key; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
    if error["type"] == "missing":
        return f"{key}: is missing; set it in the file or on the command line"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and not location:
        return message
    return f"{key}: {error['input']!r} is not allowed: {message[0].lower()}{message[1:]}"


def _keys(location: list[str]) -> list[str]:
    model: Any = Config
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    return list(getattr(model, "model_fields", {"regex": 0, "constant": 0}))
