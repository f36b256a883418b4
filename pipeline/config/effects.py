"""The effect of a change of a key on a dataset, and so on what a build does again.

======  ===============================================================================================================
pixels  the patches themselves: everything is read and cut again
names   what records hold apart from pixels, and where they lie: records are written again, nothing is decoded
report  nothing of the dataset
======  ===============================================================================================================

The effect of a key is declared at its field in ``pipeline.config.schema``, as metadata of the annotation. The effect of
a section holds for all its keys.
"""

from __future__ import annotations

import enum
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Effect(enum.StrEnum):
    """The part of a dataset that changes with a key."""

    PIXELS = "pixels"
    NAMES = "names"
    REPORT = "report"

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Returns the JSON schema of a key with the effect of a change."""
        return handler(schema) | {"x-effect": self.value}


class Key(NamedTuple):
    """A key of the configuration.

    Attributes:
        name: its path, ``input.rasters.*.level``; ``*`` stands for any name.
        effect: the effect of a change.
        field: type, default and description.
    """

    name: str
    effect: Effect
    field: FieldInfo


def keys_of(model: type[BaseModel], above: str = "", inherited: Effect | None = None) -> Iterator[Key]:
    """Yields every key of a section and of the sections below it.

    Raises:
        TypeError: for a key without an effect.
    """
    for name, field in model.model_fields.items():
        effect = next((one for one in field.metadata if isinstance(one, Effect)), inherited)
        sections = list(_sections_in(field.annotation))
        for section, star in sections:
            yield from keys_of(section, f"{above}{name}.{star}", effect)
        if not sections:
            if effect is None:
                raise TypeError(f"{above}{name} has no effect; annotate it with one of {', '.join(Effect)}")
            yield Key(f"{above}{name}", effect, field)


def _sections_in(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """Yields the sections that a value of this type may be, with ``*.`` where they have names of the user's own."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not getattr(annotation, "is_value", False):
            yield annotation, ""
    elif typing.get_origin(annotation) is dict:
        yield from ((section, "*.") for section, _ in _sections_in(typing.get_args(annotation)[1]))
    else:
        for part in typing.get_args(annotation):
            yield from _sections_in(part)


def without(values: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Returns a dumped configuration without the keys of these names.

    >>> without({"seed": 1, "output": {"path": "a", "order": "shuffled"}}, ["output.path"])
    {'seed': 1, 'output': {'order': 'shuffled'}}
    """
    for name in names:
        values = _without(values, name.split("."))
    return values


def _without(values: Any, key: list[str]) -> Any:
    if not isinstance(values, dict):
        return values
    first, *rest = key
    if not rest:
        return {name: value for name, value in values.items() if name != first}
    return {name: _without(value, rest) if first in (name, "*") else value for name, value in values.items()}
