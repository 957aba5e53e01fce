"""The typer application that every command module adds its commands to, and the options that
several of them share.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lep_bench.errors import LepBenchError, unknown_name

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Commands(TyperGroup):
    """The group of all commands. Typer would end silently, or with "Aborted!", on Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted: run the same command again to go on", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    name="lep-bench",
    help="Give language models a new vocabulary, carry it into their instruct versions (LEP), and "
    "measure what came out.",
    epilog="Start with: lep-bench run --models all --dry-run. Then: lep-bench COMMAND -h.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # rich help costs start-up time and breaks examples at the terminal's width
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
new = typer.Typer(
    help="Write a new adapter, family or task that works at once.", no_args_is_help=True
)
app.add_typer(new, name="new")

AdapterFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--adapters",
        metavar="DIR",
        help="Also load the adapters in this folder (repeatable).",
        show_default=False,
    ),
]
ConfigFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--configs",
        metavar="DIR",
        help="Also read families, suites and baselines from this folder (repeatable).",
        show_default=False,
    ),
]
TaskFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--tasks-dir",
        metavar="DIR",
        help="Also look for tasks in this folder (repeatable).",
        show_default=False,
    ),
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        envvar="LEP_BENCH_DATA",
        help="A bundle, or rows (and models) in the Hub's layout, read first.",
        show_default=False,
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Touch no network: what is not here already is an error.")
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="The folder that everything is written to.")
]


def names(text: str, option: str) -> list[str]:
    """A comma-separated list without empty parts. Raises LepBenchError when nothing is left."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise LepBenchError(
            f"{option} names nothing: give names with commas between them, or leave the option out"
        )
    return found


def fitting(
    names: Iterable[str], patterns: Sequence[str], kind: str = "model", hint: str = ""
) -> list[str]:
    """The names that fit one of the patterns. Raises UnknownNameError for a pattern that fits
    none.
    """
    known = list(names)
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise unknown_name(kind, pattern, known, hint)
    return [
        name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]


def check_folder(path: Path, what: str = "") -> Path:
    """`path` itself when it is a folder or can become one, else LepBenchError: a file stands in its
    way.
    """
    there = next((p for p in (path, *path.parents) if p.exists()), path)
    if there.is_file():
        raise LepBenchError(
            f"{what}{' ' if what else ''}{path}: {there} is a file, a folder is needed: "
            "choose another name"
        )
    return path


def version(value: bool) -> None:
    """Print the version and stop."""
    if value:
        from lep_bench import __version__

        typer.echo(f"lep-bench {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Options that stand before the command."""


WIDE = 1000  # columns when the output is no terminal: a line per row, so that grep and cut work


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", *, err: bool = False
) -> None:
    """Print rows under bold column heads. On a terminal long cells fold; piped, every row is one
    line.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = sys.stderr if err else sys.stdout
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else WIDE)
    grid = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
        title=title or None,
        title_justify="left",
    )
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        # Text, not str: a bracket in a docstring or a path is no markup.
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)


def format_size(count: float) -> str:
    """Bytes as `15 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_duration(seconds: float) -> str:
    """An estimate as `272 s`, `15 min`, `4 h` or `3 days`."""
    for unit, length, limit in (("s", 1, 600), ("min", 60, 6000), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
