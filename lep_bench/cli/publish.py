"""Publishing: leaderboard, model cards and records, to leaderboards/SUITE, a folder or the Hub."""

from __future__ import annotations

import runpy
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
    split_names,
)
from lep_bench.errors import LepBenchError
from lep_bench.files import check_folder

if TYPE_CHECKING:
    from lep_bench.leaderboard.release import CardSelection, ScoredRun


Cards = Annotated[
    str | None,
    typer.Option(
        "--models",
        metavar="PATTERN,...",
        help="Models that get a card and a record; default: cards for all adapted ones, records "
        "for all.",
        show_default=False,
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="DIR|HUB_REPO",
        help="A folder, or a repository of the Hub; default: leaderboards/SUITE.",
        show_default=False,
    ),
]
KindOfRepo = Annotated[
    Literal["dataset", "model"],
    typer.Option(
        "--repo-type",
        help="What HUB_REPO is: a dataset for everything, or the model that one card is for.",
    ),
]
Who = Annotated[
    str | None,
    typer.Option(
        "--organisation",
        metavar="NAME",
        help="Who measured, for the records; default: HUB_REPO's.",
        show_default=False,
    ),
]


@app.command()
def publish(
    suite: SuiteName = "mini",
    out: Out = Path("runs"),
    models: Cards = None,
    to: To = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print which files would be written or uploaded, and stop."),
    ] = False,
    upload: Annotated[
        bool,
        typer.Option(
            "--upload",
            help="Upload to the HUB_REPO of --to; it is made, private, where there is none.",
        ),
    ] = False,
    repo_type: KindOfRepo = "dataset",
    public: Annotated[
        bool, typer.Option("--public", help="A repository that is made here is public.")
    ] = False,
    organisation: Who = None,
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
    data: DataFolder = None,
) -> None:
    """Publish what was scored: leaderboard, model cards, records.

    Without --to, leaderboards/SUITE is written again. With it: leaderboard/ (page, pictures, item
    scores), models/NAME/ (model card with the Hub's metadata, .eval_results) and every_eval_ever/.
    Everything is written to a folder first; weights are never uploaded.

    \b
    lep-bench publish --suite mini --dry-run
    lep-bench publish --suite mini --to ./site
    lep-bench publish --suite darumeru --to ORG/leaderboard --upload
    lep-bench publish --models FAMILY/VOCAB/METHOD --to ORG/MODEL --repo-type model --upload
    """
    from lep_bench import bundle

    bundle.use_data_folder(
        data, offline=False
    )  # before anything is imported that reads the environment once
    from lep_bench.cli import leaderboard
    from lep_bench.leaderboard import release
    from lep_bench.pipeline.board import make_scored_run
    from lep_bench.pipeline.stored import match_names

    to_where = release.Destination.parse(to, suite, out, upload)
    if upload and to_where.repo is None:
        raise LepBenchError("--upload needs a Hub repository: --to ORGANISATION/NAME")
    if to is None and models is not None:
        raise LepBenchError(
            "--models chooses model cards, which leaderboards/SUITE does not have: give --to"
        )
    token = release.read_token() if upload and not dry_run else ""
    to_where.check()
    session, expected = leaderboard.read_stored(suite, out, configs, adapters, tasks_dir)
    run = make_scored_run(session, *session.cells(expected), data).without_limits()
    if not run.results:
        raise LepBenchError(
            f"every result of suite {suite} in {out} covers only part of the rows (--limit): run "
            "without it, then publish"
        )
    selection = None
    if to_where.board:
        scored = release.list_scored_models(run.results)
        patterns = ["*"] if models is None else split_names(models, "--models")
        chosen = match_names(scored, patterns, "scored model")
        selection = release.select_cards(run, chosen, explicit=models is not None)
        _report_selection(run, selection)
    lineages = selection.lineages if selection else {}
    below = to_where.find_card_folder(lineages) if repo_type == "model" else ""
    who = organisation or (to_where.repo or "").split("/")[0]
    sizes = release.release_run(run, to_where, selection, who, dry_run=dry_run)
    published = {
        name.removeprefix(below): size for name, size in sizes.items() if name.startswith(below)
    }
    if dry_run:
        for name, size in published.items():
            typer.echo(f"{size:>10,} {name}")
        where = (
            f"the {repo_type} repository {to_where.repo} on the Hub"
            if to_where.repo
            else str(to_where.folder)
        )
        typer.echo(f"{len(published)} files for {where}; nothing was written")
        return
    leaderboard.report_release(to_where, sizes)
    if token and to_where.repo:
        address = release.upload_files(
            to_where.folder / below, list(published), to_where.repo, repo_type, token, public
        )
        typer.echo(f"uploaded:    {address}")
    elif to_where.repo:
        typer.echo(
            f"nothing was uploaded: {to_where.repo} looks like a Hub repository; add --upload, or "
            f"write ./{to_where.repo} for a folder"
        )


def _report_selection(run: ScoredRun, selection: CardSelection) -> None:
    """Say which models get no card, and whose licence nobody names."""
    from lep_bench.leaderboard import cards

    if selection.missing:
        typer.echo(
            f"no card, because their lep.json is not in {run.store.root}: "
            f"{', '.join(selection.missing)}"
        )
    if selection.unknown_licences:
        typer.echo(f"licence {cards.UNKNOWN_LICENCE}: {', '.join(selection.unknown_licences)}")
    if selection.lineages and not cards.has_hub_datasets(run.suite.tasks, run.task_folders):
        typer.echo("no .eval_results: the rows of these tasks are not data sets of the Hub")


@app.command(hidden=True)
def reproduce(
    suite: Annotated[str, typer.Option("--suite", metavar="NAME")] = "paper",
    out: Out = Path("runs"),
    page: Annotated[bool, typer.Option("--page")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Run leaderboards/paper/ledger.py, which compares your results with the paper's figures."""
    from lep_bench import files

    if suite != "paper":
        raise LepBenchError(f"--suite {suite}: no figures are quoted for it, only for paper")
    check_folder(out, "--out")
    script = files.shipped_folder("leaderboards") / "paper" / "ledger.py"
    flags = [*["--page"] * page, *["--json"] * as_json]
    command = " ".join(["python", str(script), "--out", str(out), *flags])
    typer.echo(f"`lep-bench reproduce` is now `{command}`; the old name goes in 0.3", err=True)
    raise typer.Exit(runpy.run_path(str(script))["main"](["--out", str(out), *flags]))
