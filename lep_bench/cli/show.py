"""How listing commands print: one rich table, readable on a terminal and whole lines when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

WIDE = 1000  # columns when the output is no terminal: a line per row, so that grep and cut work


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print rows under bold column heads. On a terminal long cells fold; piped, every row is one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", title=title or None, title_justify="left")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        # Text, not str: a bracket in a docstring or a path is no markup.
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)
