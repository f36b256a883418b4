"""Numbers and tables as text for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence


def counted(number: int, noun: str) -> str:
    """Formats a number of things.

    >>> counted(1, "shard"), counted(2000, "patch"), counted(0, "image")
    ('1 shard', '2,000 patches', '0 images')
    """
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{ending}"


def in_bytes(size: int) -> str:
    """Formats a size in MB, or in GB from one GB on.

    >>> in_bytes(1_500_000), in_bytes(2_000_000_000)
    ('1.5 MB', '2.0 GB')
    """
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"


def as_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lays out columns side by side; one whose header begins with ``>`` is aligned to the right.

    >>> print(as_table(["name", ">size"], [["a", "1.5 MB"], ["of more", "20.0 MB"]]))
    name        size
    a         1.5 MB
    of more  20.0 MB
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        right = header.startswith(">")
        table.add_column(header.removeprefix(">"), justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=10_000, color_system=None, markup=False, emoji=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
