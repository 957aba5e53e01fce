"""Regression gate: scores now against scores that were kept, for somebody's CI."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lep_bench.cli.app import ConfigFolders, Out, TaskFolders, app, split_names
from lep_bench.cli.run import SuiteName
from lep_bench.errors import LepBenchError, RunFailedError

if TYPE_CHECKING:
    from lep_bench.config.schema import Suite
    from lep_bench.leaderboard.compare import Gated
    from lep_bench.leaderboard.measure import Draft


# a kept score has 12 digits: answers that did not change pass with --max-drop 0, too
ROUNDING = 1e-9


@app.command()
def gate(
    baseline: Annotated[
        Path,
        typer.Argument(
            metavar="BASELINE.json",
            help="What --write wrote, or the results.jsonl of a leaderboard folder.",
        ),
    ],
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            min=0,
            max=1,
            help="The drop of the mean that is not accepted (0.01: one point).",
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
    from lep_bench import files
    from lep_bench.leaderboard import compare, published
    from lep_bench.leaderboard.assemble import drafts_of
    from lep_bench.pipeline.stored import StoredResults

    if baseline.is_dir():
        raise LepBenchError(
            f"{baseline}: a folder, a file is needed: what --write wrote, or the "
            "results.jsonl of a leaderboard folder"
        )
    patterns = split_names(models, "--models")
    given = StoredResults.read(suite, out, configs, tasks_dir, patterns)
    if write:
        chosen = list(
            {
                id(c): c
                for draft in given.drafts
                for cells in draft.cells.values()
                for c in cells.values()
            }.values()
        )
        files.write_text(
            baseline,
            published.dump_results(published.Published(given.suite, [], chosen, given.items)),
        )
        typer.echo(
            f"{baseline}: {len({c.result.model.name for c in chosen})} models, {len(chosen)} cells"
        )
        return
    if not baseline.is_file():
        raise LepBenchError(
            f"{baseline}: no such file: write it with lep-bench gate {baseline} --write "
            f"--suite {suite}"
        )
    held = published.load_results(baseline)
    if (held.suite.name, held.suite.mean) != (given.suite.name, given.suite.mean):
        raise LepBenchError(
            f"{baseline}: of suite {held.suite.name} with another mean than {suite} has now: "
            "write it again with --write"
        )
    pairs = matched(
        [d for d in drafts_of(held.chosen, held.suite) if fits(d.record.name, patterns)],
        given.drafts,
        given.suite,
        baseline,
    )
    show(compare.gate_models(pairs, given.suite, (held.lookup, given.items), max_drop), max_drop)


def fits(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def matched(
    old: Sequence[Draft], new: Sequence[Draft], suite: Suite, baseline: Path
) -> list[tuple[Draft, Draft]]:
    """(baseline, now) of every row of the baseline with the whole mean. Raises LepBenchError where
    there is none, or none now asked alike.
    """
    whole = [d for d in old if all(d.scored(task) for task in suite.mean.tasks)]
    if not whole:
        raise LepBenchError(
            f"{baseline}: none of the models asked for has a whole mean there: name others "
            "with --models, or write it again"
        )
    found = []
    for before in whole:
        name = before.record.name
        now = [d for d in new if (d.record.name, d.condition) == (name, before.condition)]
        gone = [task for task in suite.mean.tasks if not any(d.scored(task) for d in now)]
        if gone:
            raise LepBenchError(
                f"{name} has no score now of {', '.join(gone)}, asked as for {baseline}: run "
                "it, or leave it out with --models"
            )
        found += [(before, d) for d in now]
    return found


def show(gated: Sequence[Gated], max_drop: float) -> None:
    """Print a line per model. Raises RunFailedError naming those that do not pass."""
    from rich.console import Console
    from rich.text import Text

    from lep_bench.leaderboard.terminal import framed
    from lep_bench.leaderboard.text import clean, number

    def points(value: float) -> str:
        return number(value, True, 2, sign=True)

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    grid = framed()
    grid.add_column("model", overflow="fold")
    for head in ("baseline", "now", "change", "at worst", ""):
        grid.add_column(head, justify="right", no_wrap=True)
    failing = [g for g in gated if not g.bound > -max_drop - ROUNDING]
    for g in gated:
        numbers = [
            number(g.baseline, True, 1),
            number(g.now, True, 1),
            points(g.difference.value),
            points(g.bound),
        ]
        grid.add_row(
            Text(clean(g.model)),
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
            f"{clean(g.model)}: {lost} by {100 * max_drop:g} points or more: "
            f"{points(g.difference.value)}, at worst {points(g.bound)}"
        )
    if failing:
        raise RunFailedError(
            f"{len(failing)} of {len(gated)} models do not pass --max-drop {max_drop:g}"
        )
    typer.echo(f"all {len(gated)} pass --max-drop {max_drop:g}")
