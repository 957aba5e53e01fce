"""What was measured beside what a paper printed: reproduce."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated

import typer

from lep_bench.cli.app import Out, app, print_table
from lep_bench.errors import LepBenchError, count_noun
from lep_bench.files import check_folder


@app.command()
def reproduce(
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="A suite with quoted figures (leaderboards/NAME/quoted.csv).",
        ),
    ] = "paper",
    out: Out = Path("runs"),
    page: Annotated[
        bool,
        typer.Option(
            "--page", help="Render leaderboards/NAME/README.md again from its data files, and stop."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: every figure with its errors and interval.")
    ] = False,
) -> None:
    """Compare your results with the paper's figures.

    Each figure is reproduced, differs or is inconclusive. Nothing is run: results are those of
    lep-bench run --suite paper in --out. Only what was asked as the paper asked is set beside its
    figures, and only what was made of the paper's own checkpoints gets a verdict.
    leaderboards/paper/README.md says how it is reached.

    \b
    lep-bench reproduce --suite paper
    lep-bench reproduce --suite paper --out runs --json
    lep-bench reproduce --suite paper --page
    """
    from lep_bench import files
    from lep_bench.config.load import Configs
    from lep_bench.leaderboard import ledger, paper
    from lep_bench.leaderboard.cells import Metrics
    from lep_bench.leaderboard.examine import examine_results
    from lep_bench.records.store import Store

    check_folder(out, "--out")
    known = sorted(
        file.parent.name for file in files.shipped_folder("leaderboards").glob(f"*/{paper.DATA}")
    )
    if suite not in known:
        raise LepBenchError(
            f"--suite {suite}: no figures are quoted for it; there are some for: {', '.join(known)}"
        )
    folder, asked = files.shipped_folder("leaderboards") / suite, Configs.of().suite(suite)
    if page:
        paper.write_paper(folder)
        typer.echo(folder / "README.md")
        return
    store = Store(out)
    chosen = ledger.sorted_out(store.read_all(suite), asked, folder)
    found = ledger.list_entries(
        folder, asked, *examine_results(chosen, store.skim, Metrics.of(asked.tasks))
    )
    if as_json:
        import json

        written = {
            "suite": suite,
            "delta": asked.mean.delta,
            "figures": ledger.tally(found),
            "rows": [entry.as_json() for entry in found],
        }
        typer.echo(json.dumps(written, ensure_ascii=False, indent=1, allow_nan=False))
        return
    _show(suite, out, found, asked.mean.delta, bool(chosen))


def _show(suite: str, out: Path, found: list, delta: float, any_results: bool) -> None:
    from lep_bench.leaderboard import ledger, text

    rows, notes = ledger.overview(found)
    # Names of checkpoints are longer than a terminal is wide: letters stand for them, numbers for
    # what is to be said.
    letters = dict(
        zip(
            dict.fromkeys(row[3] for row in rows if row[3] != text.MISSING),
            [*string.ascii_lowercase, *string.ascii_uppercase],
        )
    )
    heads = [head.upper() for head in ledger.OVERVIEW if head != "in lep-bench"]
    print_table(
        heads,
        [
            (t, row, letters.get(made_of, made_of), status, said)
            for t, row, _, made_of, status, said in rows
        ],
    )
    typer.echo("\nCheckpoints, of the donor where there is one:")
    for name, letter in letters.items():
        typer.echo(f" {letter}  {name}")
    typer.echo("\nNotes:")
    for number, note in enumerate(notes, 1):
        typer.echo(f" {number}  {note}")
    if measured := ledger.beside(found):
        typer.echo()
        print_table([head.upper() for head in ledger.BESIDE], measured)
    counts = ledger.tally(found)
    typer.echo(
        f"\n{count_noun(sum(counts.values()), 'figure')}, ±delta is ±{delta:g}: "
        + ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    )
    if not any_results:
        typer.echo(
            f"{out} has no results of these models: lep-bench run --suite {suite} --out {out}"
        )
