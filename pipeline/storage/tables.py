"""Parquet tables as files anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.storage.files import atomic_write, open_read

if TYPE_CHECKING:
    import pyarrow as pa


_BATCH = 10_000


def read_table(
    uri: str, filters: list[tuple[str, str, Any]] | None = None, columns: list[str] | None = None
) -> pa.Table:
    """Reads a Parquet file as a table, or only rows that pass all of the filters, ``(column, operator, value)``."""
    import pyarrow.parquet as pq

    with open_read(uri) as file:
        return pq.read_table(file, columns=columns, filters=filters)


def read_rows(
    uri: str, first: int = 0, end: int | None = None, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yields the rows from ``first`` to ``end`` of a Parquet file, by default all; reads few of the other rows."""
    import pyarrow.parquet as pq

    with open_read(uri) as file:
        table = pq.ParquetFile(file)
        sizes = (table.metadata.row_group(group).num_rows for group in range(table.num_row_groups))
        starts = list(itertools.accumulate(sizes, initial=0))
        end = starts[-1] if end is None else end
        groups = [group for group, (a, b) in enumerate(itertools.pairwise(starts)) if a < end and b > first]
        at = starts[groups[0]] if groups else 0
        for batch in table.iter_batches(_BATCH, groups, columns):
            yield from batch[max(0, first - at) : max(0, end - at)].to_pylist()
            at += batch.num_rows


def write_table(uri: str, table: pa.Table, group: int = 1 << 16) -> None:
    """Writes a table as a Parquet file, complete or not at all; equal tables give equal bytes.

    Args:
        uri: path or URI of the file.
        table: what to write.
        group: rows that are read together.
    """
    import pyarrow.parquet as pq

    with atomic_write(uri) as file:
        pq.write_table(table, file, row_group_size=group)
