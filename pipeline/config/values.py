"""The types of values that keys have: what is accepted, and the error for what is not."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

Dtype = Literal["uint8", "uint16", "float32"]
DTYPES: tuple[str, ...] = get_args(Dtype)
# The coordinates of annotations: pixels of full resolution, or the coordinate system of the image.
Coordinates = Literal["pixels", "world"]

_LIMITS = {"uint8": 255, "uint16": 65535}
_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def about(description: str) -> FieldInfo:
    """Says in a sentence what a key is for: the key reference, the JSON schema and editors show it."""
    field: FieldInfo = Field(description=description)
    return field


def holds(dtype: str, value: float) -> bool:
    """Says whether a value can be stored in this dtype."""
    return dtype not in _LIMITS or (value == int(value) and 0 <= value <= _LIMITS[dtype])


def value_limits(dtype: str) -> str:
    """Returns the values of an integer dtype, in words: ``0..255``."""
    return f"0..{_LIMITS[dtype]}"


def _two(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value, value)


def _pair_of_sizes(value: Any) -> tuple[Any, ...]:
    pair = _two(value)
    if len(pair) != 2 or not all(type(v) is int and v >= 1 for v in pair):
        raise ValueError("use a whole number of pixels from 1 up, or two as [rows, columns]")
    return pair


def _pair_of_offsets(value: Any) -> tuple[Any, ...]:
    pair = _two(value)
    if len(pair) != 2 or not all(type(v) is int for v in pair):
        raise ValueError("use a whole number of pixels, or two as [rows, columns]")
    return pair


def one_or_two_of(*allowed: str) -> BeforeValidator:
    """Accepts one of the names for both axes, or one for each."""

    def pair_of_names(value: Any) -> tuple[Any, ...]:
        pair = _two(value)
        if len(pair) != 2 or not all(name in allowed for name in pair):
            raise ValueError(f"use {', '.join(allowed[:-1])} or {allowed[-1]}, or two of them as [rows, columns]")
        return pair

    one = Literal[allowed]  # type: ignore[valid-type]
    return BeforeValidator(pair_of_names, json_schema_input_type=one | tuple[one, one])


def _low_and_high(value: Any) -> Any:
    numbers = isinstance(value, (list, tuple)) and all(type(one) in (int, float) for one in value)
    if not numbers or len(value) != 2 or not value[0] < value[1]:
        raise ValueError("use the lowest and the highest value as [low, high]")
    return value


def _otsu_or_integer(value: Any) -> int | str:
    if value != "otsu" and not (type(value) is int and 0 <= value <= 254):
        raise ValueError("use otsu or a whole number 0..254")
    chosen: int | str = value
    return chosen


def _byte_size(value: Any) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    unit = _SIZES.get(match[2].upper() or "B") if match else None
    if not match or not unit or float(match[1]) * unit < 1:
        raise ValueError("use a number with a unit such as 64MB, 1GB or 256MiB")
    return int(float(match[1]) * unit)


def _beam_value(value: Any) -> Any:
    if not all(isinstance(one, str | int | float) for one in (value if isinstance(value, list) else [value])):
        raise ValueError("use text, a number, true or false, or a list of them")
    return value


Integer = Annotated[int, Field(strict=True)]  # YAML's yes and no are not numbers
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[Integer, Field(ge=1)]
Index = Annotated[Integer, Field(ge=0)]
Pair = Annotated[tuple[int, int], BeforeValidator(_pair_of_sizes, json_schema_input_type=int | tuple[int, int])]
Offsets = Annotated[tuple[int, int], BeforeValidator(_pair_of_offsets, json_schema_input_type=int | tuple[int, int])]
Range = Annotated[tuple[Number, Number], BeforeValidator(_low_and_high, json_schema_input_type=tuple[float, float])]
Threshold = Annotated[
    int | Literal["otsu"], BeforeValidator(_otsu_or_integer, json_schema_input_type=int | Literal["otsu"])
]
ByteSize = Annotated[int, BeforeValidator(_byte_size, json_schema_input_type=int | str)]
BeamValue = Annotated[
    Any,
    BeforeValidator(_beam_value, json_schema_input_type=str | float | bool | list[str | float | bool]),
]

# A configuration is kept in the dataset and shown in messages.
CREDENTIALS = "credentials come from the environment, the files of the cloud's tools or the machine, never from here"


def _location(value: str) -> str:
    """Returns a path or URI, and raises for one that holds a secret."""
    if secret := secret_in(value):
        raise PydanticCustomError("secret", "{problem}", {"problem": f"holds {secret}; {CREDENTIALS}"})
    return value


def secret_in(uri: str) -> str | None:
    """Says which part of a URI may be a secret, in words; None if there is none.

    >>> secret_in("s3://key:word@bucket/a.tif"), secret_in("gs://bucket/a?.tif")
    ('a name or password before the @', None)
    """
    _, separator, rest = uri.partition("://")
    if separator and "@" in rest.partition("/")[0]:
        return "a name or password before the @"
    if separator and re.search(r"\?[^/]*=", rest):
        return "a query after the ?"
    return None


Location = Annotated[str, AfterValidator(_location)]
Locations = Annotated[
    tuple[Location, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | list[str]
    ),
]
