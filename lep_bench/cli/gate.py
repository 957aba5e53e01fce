"""Regression gate: scores now against scores that were kept, for somebody's CI."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lep_bench.cli.app import ConfigFolders, Out, TaskFolders, app, split_names
from lep_bench.cli.run import SuiteName
from lep_bench.errors import LepBenchError, RunFailedError

if TYPE_CHECKING:
    from lep_bench.leaderboard.compare import GateResult


# a kept score has 12 digits: answers that did not change pass with --max-drop 0, too
ROUNDING = 1e-9


@app.command()
def gate(
    baseline: Annotated[
        Path,
        typer.Argument(
            metavar="BASELINE.json",
            help="A file written by --write, or the results.jsonl of a leaderboard folder.",
        ),
    ],
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            min=0,
            max=1,
            help="Drop of the mean that fails the gate (0.01: one point).",
        ),
    ] = 0.01,
    models: Annotated[
        str, typer.Option("--models", metavar="PATTERN,...", help="Only these models.")
    ] = "*",
    suite: SuiteName = "mini",
    out: Out = Path("runs"),
    configs: ConfigFolders = None,
    tasks_dir: TaskFolders = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the file from the scores in --out, and stop.")
    ] = False,
) -> None:
    """Fail where a model may be worse than a stored baseline.

    A model passes if the one-sided 95% lower bound of its paired difference, now minus baseline, is
    above -max_drop; the bounds are corrected for the number of models (Holm). Exit codes: 0 all
    pass, 1 some do not, 2 the two cannot be compared.

    \b
    lep-bench gate baseline.json --write
    lep-bench gate baseline.json --max-drop 0.01 --models 'mini-llama/*/conversion'
    """
    from lep_bench.pipeline.stored import StoredResults

    if baseline.is_dir():
        raise LepBenchError(
            f"{baseline} is a folder: name a file, written by --write, or the results.jsonl of a "
            "leaderboard folder"
        )
    patterns = split_names(models, "--models")
    stored = StoredResults.read(suite, out, configs, tasks_dir, patterns)
    if write:
        stored.write_baseline(baseline)
        count = len({c.result.model.name for c in stored.chosen})
        typer.echo(f"{baseline}: {count} models, {len(stored.chosen)} cells")
        return
    if not baseline.is_file():
        raise LepBenchError(
            f"{baseline}: no such file: write it with lep-bench gate {baseline} --write "
            f"--suite {suite}"
        )
    show_gate(stored.gate(baseline, patterns, max_drop), max_drop)


def show_gate(gated: Sequence[GateResult], max_drop: float) -> None:
    """Print a line per model. Raises RunFailedError naming those that do not pass."""
    from rich.console import Console
    from rich.text import Text

    from lep_bench.leaderboard.terminal import make_grid
    from lep_bench.leaderboard.text import clean_text, format_number

    def points(value: float) -> str:
        return format_number(value, True, 2, sign=True)

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    grid = make_grid()
    grid.add_column("model", overflow="fold")
    for head in ("baseline", "now", "change", "at worst", ""):
        grid.add_column(head, justify="right", no_wrap=True)
    failing = [g for g in gated if not g.bound > -max_drop - ROUNDING]
    for g in gated:
        numbers = [
            format_number(g.baseline, True, 1),
            format_number(g.now, True, 1),
            points(g.difference.value),
            points(g.bound),
        ]
        grid.add_row(
            Text(clean_text(g.model)),
            *numbers,
            Text("fails", style="bold red") if g in failing else Text("passes", style="green"),
        )
    console.print(grid)
    console.print(
        Text(
            "\nThe mean in percent. at worst: one-sided 95% lower bound, paired, corrected "
            f"for {len(gated)} models (Holm).",
            style="dim",
        )
    )
    for g in failing:
        lost = "dropped" if g.difference.value <= -max_drop else "may have dropped"
        typer.echo(
            f"{clean_text(g.model)}: {lost} by {100 * max_drop:g} points or more: "
            f"{points(g.difference.value)}, at worst {points(g.bound)}"
        )
    if failing:
        raise RunFailedError(
            f"{len(failing)} of {len(gated)} models do not pass --max-drop {max_drop:g}"
        )
    typer.echo(f"all {len(gated)} pass --max-drop {max_drop:g}")
