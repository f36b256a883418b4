"""Kinds of values that keys of a configuration have: what is accepted, and what is said of what is not."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
)
from pydantic_core import PydanticCustomError

_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def pair_of_sizes(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(type(v) is int and v >= 1 for v in pair):
        raise ValueError("use a whole number of pixels from 1 up, or two as [rows, columns]")
    return pair


def pair_of_offsets(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(type(v) is int for v in pair):
        raise ValueError("use a whole number of pixels, or two as [rows, columns]")
    return pair


def low_and_high(value: Any) -> Any:
    numbers = isinstance(value, (list, tuple)) and all(type(one) in (int, float) for one in value)
    if not numbers or len(value) != 2 or not value[0] < value[1]:
        raise ValueError("use the lowest and the highest value as [low, high]")
    return value


def otsu_or_integer(value: Any) -> int | str:
    if value != "otsu" and not (type(value) is int and 0 <= value <= 254):
        raise ValueError("use otsu or a whole number 0..254")
    return value


def one_or_two_of(*allowed: str) -> BeforeValidator:
    """One of the names for both axes, or one for each."""

    def pair(value: Any) -> tuple[str, str]:
        pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
        if len(pair) != 2 or not all(name in allowed for name in pair):
            raise ValueError(f"use {', '.join(allowed[:-1])} or {allowed[-1]}, or two of them as [rows, columns]")
        return pair

    return BeforeValidator(pair)


def byte_size(value: Any) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    unit = _SIZES.get(match[2].upper() or "B") if match else None
    if not match or not unit or float(match[1]) * unit < 1:
        raise ValueError("use a number with a unit such as 64MB, 1GB or 256MiB")
    return int(float(match[1]) * unit)


def without_one(scales: tuple[int, ...]) -> tuple[int, ...]:
    """Without the patch itself."""
    return tuple(scale for scale in scales if scale != 1)


def beam_value(value: Any) -> Any:
    if not all(isinstance(one, str | int | float) for one in (value if isinstance(value, list) else [value])):
        raise ValueError("use text, a number, true or false, or a list of them")
    return value


Integer = Annotated[int, Field(strict=True)]  # YAML's yes and no are no numbers

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]

Pair = Annotated[tuple[int, int], BeforeValidator(pair_of_sizes)]

ByteSize = Annotated[int, BeforeValidator(byte_size)]

# What is written in a configuration is kept in the dataset and shown in messages.
CREDENTIALS = "credentials come from the environment, the files of the cloud's tools or the machine, never from here"


def location(value: str) -> str:
    """A path or URI without secrets."""
    if secret := secret_in(value):
        raise PydanticCustomError("secret", f"holds {secret}; {CREDENTIALS}")
    return value


def secret_in(uri: str) -> str | None:
    """What of a URI may be a secret, in words; None if there is nothing.

    >>> secret_in("s3://key:word@bucket/a.tif"), secret_in("gs://bucket/a?.tif")
    ('a name or password before the @', None)
    """
    _, separator, rest = uri.partition("://")
    if separator and "@" in rest.partition("/")[0]:
        return "a name or password before the @"
    if separator and re.search(r"\?[^/]*=", rest):
        return "a query after the ?"
    return None


Location = Annotated[str, AfterValidator(location)]

LIMITS = {"uint8": 255, "uint16": 65535}


def holds(dtype: str, value: float) -> bool:
    """Whether a value can be stored in this dtype."""
    return dtype not in LIMITS or (value == int(value) and 0 <= value <= LIMITS[dtype])
