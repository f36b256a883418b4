"""Reads a configuration from a YAML file and the command line, with error messages of our own."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, get_args

import yaml
from pydantic import (
    ValidationError,
)

from pipeline.config.schema import Config
from pipeline.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Loads safe YAML in which a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
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
    values = _read(path)
    for override in overrides:
        _set(values, override)
    return _checked(values, path, images, output)


def _read(path: str) -> dict[str, Any]:
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
    return values


def _checked(values: dict[str, Any], said: str, images: Sequence[str], output: str | None) -> Config:
    if images:
        _set_value(values, ["input", "images"], list(images), "--input")
    if output:
        _set_value(values, ["output", "path"], output, "--output")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join([f"{said}:", *(f"  {_explain(e)}" for e in error.errors())])) from error


def as_config(
    config: Config | str, overrides: Mapping[str, Any], images: Sequence[str] = (), output: str | None = None
) -> Config:
    """Returns a configuration, from a file or a given one, with some of its keys replaced.

    Args:
        config: a configuration, or the path of a YAML file.
        overrides: keys and their values, ``{"patch.size": 512}``.
        images: replaces ``input.images``.
        output: replaces ``output.path``.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    values = _read(config) if isinstance(config, str) else config.model_dump(mode="json")
    for key, value in overrides.items():
        _set_value(values, key.split("."), value, f"overrides {key}")
    return _checked(values, config if isinstance(config, str) else "configuration", images, output)


def json_schema() -> dict[str, Any]:
    """Returns the JSON schema of a configuration, for editors that complete and check YAML.

    It checks each key by itself; only :func:`load_config` checks the rules between keys.
    """
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Config.model_json_schema()
    return schema | {"title": "patchbeam configuration"}


def _set(values: dict[str, Any], override: str) -> None:
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


def _set_value(values: dict[str, Any], keys: list[str], value: Any, said: str) -> None:
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise ConfigError(f"{said}: {key} holds {values!r}, which has no keys below it")
    values[keys[-1]] = value


def _explain(error: Mapping[str, Any]) -> str:
    """Formats one of pydantic's errors as a line: key, value, what is allowed."""
    location = [str(part) for part in error["loc"] if not str(part).startswith("<")]  # our tags of unions
    key = ".".join(location) or "configuration"
    if error["type"] == "extra_forbidden":
        known = _keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, 1)
        return f"{key}: unknown key; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
    if error["type"] == "missing":
        return f"{key}: is missing; set it in the file or on the command line"
    if error["type"] == "secret":  # the value is not shown again
        return f"{key}: {error['msg']}"
    if error["type"] == "missing_images":
        return f"{key}.images: {error['msg']}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and not location:
        found: str = message
        return found
    return f"{key}: {error['input']!r} is not allowed: {message[0].lower()}{message[1:]}"


def _keys(location: list[str]) -> list[str]:
    model: Any = Config
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        options = get_args(field.annotation) if field else ()  # of "Section | None"
        model = next((one for one in options if hasattr(one, "model_fields")), field and field.annotation)
    return list(getattr(model, "model_fields", {"regex": 0, "constant": 0}))
