"""Two models against each other, and models against a stored baseline, from stored samples."""

from __future__ import annotations

import dataclasses
import json as json_module
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lep_bench.cli.app import ConfigFolders, Out, SuiteName, TaskFolders, app, split_names
from lep_bench.errors import LepBenchError, RunFailedError, count_noun

if TYPE_CHECKING:
    from lep_bench.config.schema import Suite
    from lep_bench.leaderboard.compare import ComparedTask, Comparison, GateResult
    from lep_bench.records.schema import Sample


WIDTH = 100  # columns when the output is no terminal


@app.command()
def compare(
    a: Annotated[
        str,
        typer.Argument(metavar="A", help="A model's name, or a pattern that fits one model only."),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The model it is compared with.")],
    suite: SuiteName = "mini",
    out: Out = Path("runs"),
    configs: ConfigFolders = None,
    tasks_dir: TaskFolders = None,
    items: Annotated[
        int,
        typer.Option(
            "--items",
            min=0,
            metavar="N",
            help="Show up to N items that only one of them answered correctly.",
        ),
    ] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Compare two models item by item: is the difference real?

    Reads stored samples. For every task and the mean it prints both scores, their difference with
    its 95% interval, p (also corrected for the number of tasks), and the verdict: higher, lower,
    equal (within the suite's delta) or undecided. Models that were prompted differently are
    refused.

    \b
    lep-bench compare mini-llama/bpe/swap mini-llama/bpe/overlap
    lep-bench compare 'mini-llama/bpe/*calibration' 'mini-llama/instruct+*' --items 10
    """
    from lep_bench.pipeline.stored import StoredResults

    stored = StoredResults.read(suite, out, configs, tasks_dir, [a, b])
    compared = stored.compare(a, b)
    if json:
        plain = [dataclasses.asdict(comparison) for _, _, comparison in compared]
        typer.echo(json_module.dumps(plain, ensure_ascii=False, indent=1))
        return
    for x, y, comparison in compared:
        tasks = [line.task for line in comparison.lines]
        differing = stored.list_differing(x, y, tasks, items)
        show_comparison(comparison, stored.suite, differing)


def show_comparison(
    c: Comparison, suite: Suite, items: Sequence[tuple[str, Sample, Sample]]
) -> None:
    """Print a comparison: complete at 100 columns."""
    from rich.console import Console
    from rich.text import Text

    from lep_bench.leaderboard.terminal import make_grid
    from lep_bench.leaderboard.text import clean_text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    how = c.condition
    console.print(Text(f"A  {clean_text(c.a)}\nB  {clean_text(c.b)}", style="bold"))
    asked = (
        f"asked as {how.format}, {how.shots}-shot: protocol {how.protocol}, engine {how.engine}, "
        f"{how.dtype}"
    )
    console.print(Text(f"Suite {suite.name}, {asked}\n", style="cyan"))
    grid = make_grid()
    counted = any(line.right for line in c.lines)
    heads = [
        "A",
        "B",
        "A − B",
        "95% interval",
        "p",
        "corrected",
        *(["both\nright", "only\nA", "only\nB"] if counted else []),
        "A is",
    ]
    grid.add_column("task", overflow="fold", vertical="bottom")
    for head in heads:
        grid.add_column(
            head, justify="left" if head == "A is" else "right", no_wrap=True, vertical="bottom"
        )
    for line in c.lines:
        grid.add_row(*map(Text, _format_line(line, counted)))
    if c.mean is not None:
        grid.add_section()
        grid.add_row(
            *(
                Text(cell, style="bold")
                for cell in _format_line(
                    c.mean, counted, suite.mean.name or f"{suite.mean.kind} mean"
                )
            )
        )
    console.print(grid)
    console.print()
    for remark in list_remarks(c, suite):
        console.print(Text(f" {remark}", style="dim"))
    if items:
        console.print(
            Text(
                f"\nItems that they answered differently ({len(items)} shown; more with --items N)",
                style="bold",
            )
        )
        for task, x, y in items:
            prompt = f"prompt {x.prompt_ids}" + (
                "" if x.prompt_ids == y.prompt_ids else f" (A), {y.prompt_ids} (B)"
            )
            console.print(Text(f"{task} {x.doc_id}, {prompt}", style="cyan"))
            for name, text in (("gold", x.gold), ("A", x.prediction), ("B", y.prediction)):
                console.print(
                    Text(f"  {name:>4}  {clean_text(text)}"), no_wrap=True, overflow="ellipsis"
                )


def _format_line(line: ComparedTask, counted: bool, name: str = "") -> list[str]:
    from lep_bench.leaderboard.text import format_interval, format_number, format_p

    d = line.difference
    right = [str(n) for n in line.right[:3]] if line.right else [""] * 3
    found = [
        format_number(line.a, True, 1),
        format_number(line.b, True, 1),
        format_number(d.value, True, 1, sign=True),
        format_interval(d),
        format_p(d.p),
    ]
    return [
        name or line.task,
        *found,
        "" if name else format_p(d.corrected),
        *(right if counted else []),
        d.verdict or "not known",
    ]


def list_remarks(c: Comparison, suite: Suite) -> list[str]:
    """How to read these numbers, and how much they can say."""
    points = f"{100 * suite.mean.delta:g} point{'' if suite.mean.delta == 0.01 else 's'}"
    found = [
        (
            "Scores in percent; both answered the same items, and items of one group count as "
            "one draw."
        ),
        (
            f"corrected: Holm over {count_noun(len(c.lines), 'task')}; the mean is one "
            "comparison, its "
            "p needs no correction."
        ),
        f"A is higher or lower: corrected p ≤ 0.05. equal: the interval lies within ±{points}.",
        "undecided: the items support neither claim, which is not the same as equal.",
    ]
    tests = dict.fromkeys(
        line.difference.test
        for line in (*c.lines, *([c.mean] if c.mean else []))
        if line.difference.test
    )
    own = {test.startswith(("t over", "normal")) for test in tests}
    where = {True: "of the same test", False: "paired bootstrap by item group"}
    if tests:
        found.append(f"Tests: {'; '.join(tests)}.")
        sources = [where[is_parametric] for is_parametric in sorted(own, reverse=True)]
        found.append(f"Intervals: {', where that is t or normal, else '.join(sources)}.")
    if c.limit is not None:
        found.append(
            f"Scored on at most {c.limit} items per task (--limit), not on the whole suite."
        )
    if c.missing:
        found.append(f"No mean: {', '.join(c.missing)} not scored for both.")
    elif c.smallest is not None:
        found.append(
            "The smallest difference of the mean that this suite detects with a power of 80%: "
            f"{100 * c.smallest:.1f} points."
        )
    seeds = (
        f"{c.seeds} training seeds: the difference is between methods."
        if c.seeds > 1
        else "One training seed: this says something about the checkpoint, not about the method."
    )
    return [*found, seeds]


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
