"""The leaderboard without running anything: printed, in other forms, checked, published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lep_bench.cli.app import (
    AdapterFolders,
    ConfigFolders,
    DataFolder,
    Out,
    SuiteName,
    TaskFolders,
    app,
    renamed_flag,
)
from lep_bench.errors import LepBenchError, RunFailedError, count_noun

if TYPE_CHECKING:
    from lep_bench.leaderboard.release import Board, Destination
    from lep_bench.leaderboard.table import Table
    from lep_bench.pipeline.plan import ExpectedCell
    from lep_bench.pipeline.session import Session


Form = Literal["terminal", "markdown", "csv", "json", "latex", "html"]
Layout = Literal["full", "paper1", "paper2", "paper3", "paper4"]


def show_board(
    board: Board,
    *,
    publish: bool = False,
    form: Form = "terminal",
    layout: Layout = "full",
    html: Path | None = None,
    samples: int = 100,
) -> None:
    """Print a leaderboard that was written to OUT/SUITE/leaderboard, and write leaderboards/SUITE
    when published.

    `form` and `layout` change only what is printed; another form than the terminal's is printed
    alone, to be piped. `html`: folder of the page with pictures and `samples` items of each task.
    """
    from lep_bench.leaderboard.forms import arrange_table

    print_table(arrange_table(board.table, layout), form)
    piped = form != "terminal"
    typer.echo(f"leaderboard: {board.folder}/README.md", err=piped)
    if html is not None:
        from lep_bench.pipeline.board import write_html

        file = write_html(board, html, samples, lambda line: typer.echo(line, err=True))
        typer.echo(f"page:        {file} ({file.stat().st_size / 1e6:.1f} MB)", err=True)
    if publish:
        from lep_bench.leaderboard.release import Destination, release_run

        run = board.run
        destination = Destination.parse(None, run.suite.name, run.store.root)
        sizes = release_run(run.without_limits(), destination, built=board)
        report_release(destination, sizes, err=piped)


def report_changed(board: Board) -> None:
    """Raise RunFailedError where results are left out because they were changed by hand."""
    if board.changed:
        raise RunFailedError(
            f"{count_noun(len(board.changed), 'reason')} below the table: results that were "
            f"changed by hand are left out: {board.changed[0]}"
        )


def report_release(destination: Destination, sizes: dict[str, int], err: bool = False) -> None:
    """Say where the files were written. `err`: beside what is piped."""
    if destination.board:
        typer.echo(f"written:     {destination.folder}, {len(sizes)} files", err=err)
    else:
        typer.echo(f"published:   {destination.folder}/README.md", err=err)


def read_stored(
    suite: str,
    out: Path,
    configs: Sequence[Path] | None,
    adapters: Sequence[Path] | None,
    tasks: Sequence[Path] | None,
) -> tuple[Session, list[ExpectedCell]]:
    """The session of what was scored in `out`, and every cell that is expected there; says which
    scores are not shown. Raises LepBenchError where there is nothing to show.
    """
    from lep_bench.pipeline.session import Session

    session, expected, left_out = Session.read(suite, out, configs, adapters, tasks).expect_stored()
    if left_out:
        typer.echo(left_out, err=True)
    return session, expected


def print_table(table: Table, form: Form) -> None:
    """Print a table."""
    from lep_bench.leaderboard import forms, page, terminal

    if form == "terminal":
        from rich.console import Console

        terminal.show_table(table, Console())
        return
    renderers = {
        "markdown": page.render_tables,
        "csv": forms.render_csv,
        "json": forms.render_json,
        "latex": forms.render_latex,
        "html": page.render_html,
    }
    typer.echo(renderers[form](table), nl=False)


def check_pages(folders: Sequence[Path] | None, out: Path) -> None:
    """Compare the pages of `folders` in `out` (None: the published ones) with their results. Raises
    RunFailedError, and LepBenchError without any.
    """
    from lep_bench import files
    from lep_bench.leaderboard.publish import check_excerpt, check_leaderboard

    public = files.shipped_folder("leaderboards")
    if folders is not None and not folders:
        raise LepBenchError(
            f"--out {out} has no leaderboard to check: run something into it, or leave --out "
            "away for the published ones"
        )
    chosen = (
        folders
        if folders is not None
        else sorted(file.parent for file in public.glob("*/results.jsonl"))
    )
    wrong = [line for folder in chosen for line in check_leaderboard(folder)]
    # the README of a checkout shows the first rows; a wheel has none beside its leaderboards
    if folders is None:
        wrong += check_excerpt(public.parent / "README.md", public / "mini")
    for line in dict.fromkeys(wrong):  # results that cannot be read are those of page and excerpt
        typer.echo(line)
    mend = (
        "lep-bench publish --suite NAME"
        if folders is None
        else f"lep-bench leaderboard --suite NAME --out {out}"
    )
    if wrong:
        raise RunFailedError(f"pages differ from their results: {mend} writes them again")
    typer.echo(
        f"every {'published page' if folders is None else f'page in {out}'} equals what its "
        "results render to"
    )


@app.command()
def leaderboard(
    context: typer.Context,
    suite: SuiteName = "mini",
    out: Out = Path("runs"),
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
    data: DataFolder = None,
    form: Annotated[
        Form,
        typer.Option(
            "--format", help="What to print: latex needs booktabs; html is a fragment for a page."
        ),
    ] = "terminal",
    layout: Annotated[
        Layout,
        typer.Option(
            "--layout",
            help="Which rows and columns to print: all, or as in the paper's tables 1 (instruct "
            "and best adapted), 2 (base and donors), "
            "3 (propagation), 4 (propagation and tuning).",
        ),
    ] = "full",
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Check that every published page (with --out: every page in that folder) is what "
            "its results render to.",
        ),
    ] = False,
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            hidden=True,
            callback=renamed_flag("leaderboard --publish", "publish"),
            help="Also refresh leaderboards/SUITE.",
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="DIR",
            help="Also write DIR/index.html: table, pictures, models and answers in one file.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            min=0,
            help="Items per task on that page; items on which models disagree come first.",
        ),
    ] = 100,
) -> None:
    """Print the leaderboard without running anything.

    Configs, adapters, tasks and data as in the run: results of other tasks and rows are not shown.

    \b
    lep-bench leaderboard --suite mini
    lep-bench leaderboard --format latex --layout paper4 > table4.tex
    lep-bench leaderboard --html page
    lep-bench leaderboard --check
    lep-bench leaderboard --check --out runs
    """
    from lep_bench import bundle

    bundle.use_data_folder(
        data, offline=False
    )  # before anything is imported that reads the environment once
    if check:
        asked = context.get_parameter_source("out")
        check_pages(
            None if asked and asked.name == "DEFAULT" else sorted(out.glob("*/leaderboard")), out
        )
        return
    from lep_bench.pipeline.board import write_board

    session, expected = read_stored(suite, out, configs, adapters, tasks_dir)
    board = write_board(session, *session.cells(expected), data)
    show_board(board, publish=publish, form=form, layout=layout, html=html, samples=samples)
    report_changed(board)
