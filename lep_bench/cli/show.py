"""How listing commands print: one rich table, readable on a terminal and whole lines when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

WIDE = 1000  # columns when the output is no terminal: a line per row, so that grep and cut work


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", *, err: bool = False) -> None:
    """Print rows under bold column heads. On a terminal long cells fold; piped, every row is one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = sys.stderr if err else sys.stdout
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else WIDE)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", title=title or None, title_justify="left")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        # Text, not str: a bracket in a docstring or a path is no markup.
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)


def size(count: float) -> str:
    """Bytes as `15 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """An estimate as `272 s`, `15 min`, `4 h` or `3 days`."""
    for unit, length, limit in (("s", 1, 600), ("min", 60, 6000), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
