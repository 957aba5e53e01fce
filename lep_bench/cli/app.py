"""The typer application that every command module adds its commands to, and the options that
several of them share.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lep_bench.errors import LepBenchError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
# The sections of `lep-bench --help`, each with its commands in the order they are shown.
SECTIONS = {
    "Run and compare": ("run", "leaderboard", "compare", "gate"),
    "Adapt a checkpoint": ("adapt", "vocabulary", "export"),
    "Extend": ("new",),
    "Inspect": ("list", "doctor", "check", "tokenizer", "prompts", "contamination"),
    "Publish": ("publish", "bundle"),
}
# Old name -> the command that does it now. The old ones are not in the help and go in 0.3.
RENAMED = {
    "models": "list models",
    "adapters": "list adapters",
    "families": "list families",
    "tasks": "list tasks",
    "where": "list paths",
}


def warn_renamed(old: str, new: str) -> None:
    """Tell somebody who typed an old spelling what to type now."""
    typer.echo(f"`lep-bench {old}` is now `lep-bench {new}`; the old name goes in 0.3", err=True)


def renamed_flag(old: str, new: str) -> Callable[[bool], bool]:
    """The callback of a hidden flag that another command replaces."""

    def warn(value: bool) -> bool:
        if value:
            warn_renamed(old, new)
        return value

    return warn


class HelpGroup(TyperGroup):
    """A group whose help shows the first sentence of every command whole.

    click cuts it to the terminal's width.
    """

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a list of commands for every section."""
        width = max(len(name) for name in self.commands)
        for title, names in self.sections():
            with formatter.section(title):
                for name in names:
                    summary = self.commands[name].get_short_help_str(limit=1000).rstrip(".")
                    formatter.write(f"  {name:<{width}}  {summary}\n")

    def sections(self) -> Iterable[tuple[str, Sequence[str]]]:
        """The titles of the help and the commands below each."""
        yield "Commands", list(self.commands)


class Commands(HelpGroup):
    """The group of all commands."""

    def sections(self) -> Iterable[tuple[str, Sequence[str]]]:
        """See `SECTIONS`."""
        yield from SECTIONS.items()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept --debug and --project after the command too: that is where people type them."""
        first: list[str] = []
        rest = list(args)
        end = rest.index("--") if "--" in rest else len(rest)
        for i in reversed(range(end)):
            if rest[i] == "--debug" or rest[i].startswith("--project="):
                first[:0] = [rest.pop(i)]
            elif rest[i] == "--project" and i + 1 < end:
                first[:0] = [rest.pop(i), rest.pop(i)]
        return super().parse_args(ctx, [*first, *rest] if rest else list(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; an old name leads to the new one."""
        if args[0] in RENAMED:
            new = RENAMED[args[0]]
            warn_renamed(args[0], new)
            args = [*new.split(), *args[1:]]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Typer would end silently, or with "Aborted!", on Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted: run the same command again to go on", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    name="lep-bench",
    help="Give language models a new vocabulary, carry it into their instruct versions (LEP), and "
    "measure the result.",
    epilog="Start with: lep-bench run --models all --dry-run. Then: lep-bench COMMAND -h.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # rich help costs start-up time and breaks examples at the terminal's width
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

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
        help="Also read tasks from this folder (repeatable).",
        show_default=False,
    ),
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        envvar="LEP_BENCH_DATA",
        help="Read rows and models from this folder first: a bundle, or files in the Hub's layout.",
        show_default=False,
    ),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Never use the network; fail when something is not here."),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="The folder for everything that is written.")
]


def split_names(text: str, option: str) -> list[str]:
    """The parts of a comma-separated list. Raises LepBenchError for an empty one."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise LepBenchError(
            f"{option} names nothing: give names separated by commas, or leave it out"
        )
    return names


def print_version(value: bool) -> None:
    """Print the version and stop."""
    if value:
        from lep_bench import __version__

        typer.echo(f"lep-bench {__version__}")
        raise typer.Exit()


@app.callback()
def read_global_options(
    context: typer.Context,
    _: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
    project: Annotated[
        Path | None,
        typer.Option(
            "--project",
            metavar="FILE|DIR",
            help="Take options from this lep-bench.yaml; default: the one in the working folder.",
            show_default=False,
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of a bug in lep-bench.")
    ] = False,
) -> None:
    """Options of every command. `main` reads --debug itself: errors reach it without a context."""
    from lep_bench.cli.project import apply_project

    apply_project(context, project)


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


def format_duration(seconds: float) -> str:
    """An estimate as `272 s`, `15 min`, `4 h` or `3 days`."""
    for unit, length, limit in (("s", 1, 600), ("min", 60, 6000), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


SuiteName = Annotated[
    str,
    typer.Option(
        "--suite",
        metavar="NAME",
        help="The suite: families, tasks, scoring and mean (see lep-bench list suites).",
    ),
]
