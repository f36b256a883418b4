"""The input manifest: a table of images in CSV, JSON Lines or Parquet, with the names and files that belong to each.

The column ``uri`` has to be there. ``label``, ``group``, ``split``, ``mask``, ``points`` and ``regions`` have a
meaning; all others are metadata columns, carried into the records and the index as integers, numbers or text. Rows are
read one after the other, so that the size of the table does not matter.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import json
import math
import posixpath
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, cast

from pipeline import storage
from pipeline.config import OWN_COLUMNS, Config, Input, column_problem, secret_in
from pipeline.elements import is_json
from pipeline.errors import ConfigError

Kind = Literal["integer", "number", "text"]

_PATHS = ("mask", "points", "regions")
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
# Text is a number only if it is written as a number would be printed: 007 and 1.50e are names.
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_NUMBER = re.compile(r"-?(?:(?:0|[1-9]\d*)(?=[.eE])(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?")
_BATCH = 10_000


class ManifestRow(NamedTuple):
    """A row of the input manifest.

    Attributes:
        line: number of the row in a Parquet file, else of the line in which the row ends; counted from 1.
        uri, mask, points, polygons: absolute; points and polygons may also be JSON. The column of polygons is called
            ``regions``.
        meta: the metadata columns as a JSON object with one value, of the kind of the column, for each.
    """

    line: int
    uri: str
    label: str
    group: str
    split: str
    mask: str
    points: str
    polygons: str
    meta: str


def read_rows(config: Input) -> Iterator[ManifestRow]:
    """Yields the rows of ``config.manifest``; ``config.columns`` names the metadata columns.

    Raises:
        ConfigError: naming the line, if the file is no table, a path is none, or a value is not of its column's kind.
    """
    uri, columns = str(config.manifest), config.columns or {}
    folder = folder_of(uri)
    for line, row in _rows(uri):
        own = {name: _text(row.get(name), name, uri, line) for name in OWN_COLUMNS}
        if not own["uri"]:
            raise ConfigError(f"{where(uri, line)}: uri is empty")
        for name in ("uri", *_PATHS):
            if own[name] and not (name in ("points", "regions") and is_json(own[name])):
                own[name] = _resolve(own[name], folder, name, uri, line)
        meta = {name: _convert(row.get(name), columns[name], name, uri, line) for name in sorted(columns)}
        own["polygons"] = own.pop("regions")
        yield ManifestRow(line=line, **own, meta=json.dumps(meta, ensure_ascii=False) if meta else "")


def where(uri: str, line: int) -> str:
    """Returns the name of a row of the input manifest, for messages."""
    return f"{uri}: {'row' if _form(uri) == 'parquet' else 'line'} {line}"


def folder_of(uri: str) -> str:
    """Returns the folder against which the paths of the input manifest are resolved."""
    return storage.absolute(uri).rpartition("/")[0] or "/"


def with_columns(config: Config) -> Config:
    """Returns the configuration with ``input.columns`` filled in, from all rows where it is not given.

    If there are patterns, too, a column of integers becomes one of numbers, since their images have no value there.
    """
    if config.input.columns is not None or config.input.manifest is None:
        return config
    kinds: dict[str, set[str]] = {}
    for _, row in _rows(config.input.manifest):
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_kind(value))
    columns: dict[str, Kind] = {}
    for name in sorted(kinds.keys() - set(OWN_COLUMNS)):
        if problem := column_problem(name):
            raise ConfigError(f"{config.input.manifest}: the column {problem}")
        found = kinds[name] | ({"missing"} if config.input.images else set())
        number: Kind = "number" if found & {"number", "missing"} else "integer"
        columns[name] = number if found & {"integer", "number"} and "text" not in found else "text"
    return config.model_copy(update={"input": config.input.model_copy(update={"columns": columns})})


def without_values(columns: dict[str, Any]) -> str:
    """Returns the ``meta`` of an image that is not in the input manifest."""
    meta = {name: math.nan if columns[name] == "number" else "" for name in sorted(columns)}
    return json.dumps(meta) if meta else ""


def check_manifest(config: Input) -> None:
    """Fails at once for an input manifest whose first row cannot be used."""
    entries = read_rows(config.model_copy(update={"columns": None}))
    if next(entries, None) is None:
        raise ConfigError(f"input.manifest: {config.manifest!r} has no rows")


def _form(uri: str) -> str:
    form = _SUFFIXES.get(posixpath.splitext(uri)[1].lower())
    if form is None:
        raise ConfigError(f"input.manifest: {uri!r} ends in none of {', '.join(_SUFFIXES)}")
    return form


def _rows(uri: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields every row with its number; values are text in CSV, None where there is nothing."""
    form = _form(uri)
    read = {"csv": _csv_rows, "jsonl": _json_rows, "parquet": _parquet_rows}[form]
    try:
        file = storage.open_read(uri)
    except OSError as error:
        raise ConfigError(f"input.manifest: {uri!r} cannot be read: {error.strerror or error}") from error
    with io.BufferedReader(cast(io.RawIOBase, file), 1 << 20) as buffered:
        yield from read(buffered, uri)


def _csv_rows(file: Any, uri: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            names = next(reader, [])
            _check_names(names, uri)
            for values in reader:
                if len(values) != len(names):
                    if not values:
                        continue
                    raise ConfigError(
                        f"{where(uri, reader.line_num)}: has {len(values)} values, the header {len(names)}"
                    )
                yield reader.line_num, {name: value or None for name, value in zip(names, values)}
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{where(uri, reader.line_num + 1)}: is no CSV in UTF-8: {error}") from error


def _json_rows(file: Any, uri: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{where(uri, line)}: is no JSON: {error}") from error
        if not isinstance(row, dict) or "uri" not in row:
            raise ConfigError(f"{where(uri, line)}: is no JSON object with the key uri")
        yield line, {name: _Typed(value) if isinstance(value, str) else value for name, value in row.items()}


def _parquet_rows(file: Any, uri: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        _check_names(table.schema_arrow.names, uri)
        batches = table.iter_batches(_BATCH)
        for line, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
            yield line, {name: _Typed(value) if isinstance(value, str) else value for name, value in row.items()}
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{uri}: is no Parquet: {error}") from error


class _Typed(str):
    """Text that its file declares as text, so that no other kind is guessed."""

    __slots__ = ()


def _check_names(names: list[str], uri: str) -> None:
    if "uri" not in names:
        raise ConfigError(f"{uri}: has no column uri; there are {', '.join(names) or 'none'}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{uri}: has the column {twice[0]!r} twice")


def _text(value: Any, name: str, uri: str, line: int) -> str:
    """Returns the value of one of the columns with a meaning."""
    if isinstance(value, (list, dict)) and name in ("points", "regions"):
        return json.dumps(value)
    if isinstance(value, (list, dict)):
        raise ConfigError(f"{where(uri, line)}: {name} is a list or an object; text is expected")
    found: str = _convert(value, "text", name, uri, line)
    return found


def _resolve(path: str, folder: str, name: str, uri: str, line: int) -> str:
    if secret := secret_in(path):
        raise ConfigError(f"{where(uri, line)}: {name} holds {secret}; credentials come from the environment only")
    if "\0" in path:
        raise ConfigError(f"{where(uri, line)}: {name} is no path: {path!r}")
    if storage.is_local(path) and not path.startswith("/"):
        scheme, separator, joined = storage.join(folder, path).rpartition("://")
        path = scheme + separator + posixpath.normpath(joined)
    elif storage.is_local(path):
        path = posixpath.normpath(path)
    if ".." in path.split("/"):
        raise ConfigError(f"{where(uri, line)}: {name} has .. in it: {path!r}")
    return path


def _kind(value: Any) -> str:
    """Returns ``missing``, ``integer``, ``number`` or ``text``; text in CSV is judged by how it is written."""
    if value is None:
        return "missing"
    if isinstance(value, bool) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str) and not isinstance(value, _Typed):
        return "integer" if _INTEGER.fullmatch(value) else "number" if _NUMBER.fullmatch(value) else "text"
    return "text"


def _convert(value: Any, kind: str, name: str, uri: str, line: int) -> Any:
    """Converts a value to the kind of its column; a missing one becomes NaN as a number and empty as text."""
    if value is None and kind != "integer":
        return math.nan if kind == "number" else ""
    if isinstance(value, (list, dict, bytes)):
        raise ConfigError(
            f"{where(uri, line)}: {name} is a {type(value).__name__}; numbers and text are carried. Leave the column "
            "out, or name those to carry in input.columns"
        )
    if kind == "text":
        if isinstance(value, bool):
            return "true" if value else "false"
        return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        number = float(value) if kind == "number" else int(value)
        if kind == "number" or (number == (value if not isinstance(value, str) else number) and abs(number) < 2**63):
            return number
    raise ConfigError(f"{where(uri, line)}: {name} is {value!r}, and the column holds values of the kind {kind}")
