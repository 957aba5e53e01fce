"""Publishing: leaderboard, model cards and records, to leaderboards/SUITE, a folder or the Hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lep_bench.cli.app import (
    AdapterFolders,
    ConfigFolders,
    DataFolder,
    Out,
    TaskFolders,
    app,
    split_names,
)
from lep_bench.cli.run import SuiteName
from lep_bench.errors import LepBenchError
from lep_bench.files import check_folder

if TYPE_CHECKING:
    from lep_bench.leaderboard.cards import Made
    from lep_bench.leaderboard.publish import Edition
    from lep_bench.leaderboard.table import Table
    from lep_bench.pipeline.session import Session
    from lep_bench.records.schema import TaskResult


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


@dataclass(frozen=True)
class Destination:
    """Where to: `board` is the leaderboard's folder below `folder`; `repo` the Hub's repository
    that the folder is meant for.
    """

    folder: Path
    board: str
    repo: str | None = None

    @classmethod
    def of(cls, to: str | None, suite: str, out: Path, upload: bool = False) -> Destination:
        """ORGANISATION/NAME is one of the Hub unless there is such a folder, or one that it could
        be made in and nothing to upload.
        """
        from lep_bench import bundle
        from lep_bench.files import shipped_folder
        from lep_bench.leaderboard.publish import LEADERBOARD

        if to is None:
            return cls(shipped_folder("leaderboards") / suite, "")
        if not to.strip():
            raise LepBenchError(
                "--to names nothing: give a folder, or ORGANISATION/NAME of the Hub"
            )
        path = Path(to).expanduser()
        meant = not path.exists() and (upload or not path.parent.exists())
        if meant and to[0] not in "./~" and bundle.HUB_ID.fullmatch(to):
            return cls(out / suite / "publish", LEADERBOARD, to)
        return cls(path, LEADERBOARD)

    def check(self) -> None:
        """Raise LepBenchError where nothing can be written."""
        there = next(
            p
            for p in (check_folder(self.folder, "--to"), *self.folder.absolute().parents)
            if p.exists()
        )
        if not os.access(there, os.W_OK):
            raise LepBenchError(
                f"--to {self.folder}: {there} may not be written to: choose another folder "
                "or mend its permissions"
            )

    def card(self, ways: Mapping[str, Made]) -> str:
        """What a model's repository takes of the folder: the one card's part. Raises LepBenchError
        for another number of cards.
        """
        from lep_bench.leaderboard.publish import MODELS

        if self.repo is None or len(ways) != 1:
            what = (
                f"these are {len(ways)} cards: name one model with --models"
                if self.repo
                else "give it with --to ORGANISATION/NAME"
            )
            raise LepBenchError(f"--repo-type model: a model's repository takes one card; {what}")
        return f"{MODELS}/{next(iter(ways))}/"


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
    lep-bench publish --suite darumeru --models FAMILY/VOCAB/METHOD --to ORG/MODEL --repo-type model --upload
    """
    from lep_bench import bundle

    bundle.use_data_folder(
        data, offline=False
    )  # before anything is imported that reads the environment once
    from lep_bench.cli import leaderboard
    from lep_bench.leaderboard import upload as leaderboard_upload
    from lep_bench.leaderboard.upload import token

    place = Destination.of(to, suite, out, upload)
    if upload and place.repo is None:
        raise LepBenchError("--upload needs the Hub's repository: --to ORGANISATION/NAME")
    if to is None and models is not None:
        raise LepBenchError(
            "--models chooses model cards, which leaderboards/SUITE has none of: give --to"
        )
    key = token() if upload and not dry_run else ""
    place.check()
    given, expected = leaderboard.read_stored(suite, out, configs, adapters, tasks_dir)
    results, order = given.cells(expected)
    whole = [result for result in results if result.scoring.limit is None]
    if not whole:
        raise LepBenchError(
            f"every result of suite {suite} in {out} is of a part of the rows (--limit): run "
            "without it, then publish"
        )
    chosen, ways = (
        selected(given, whole, None if models is None else split_names(models, "--models"))
        if place.board
        else ([], {})
    )
    below = place.card(ways) if repo_type == "model" else ""
    who = organisation or (place.repo or "").split("/")[0]
    files = release(
        given,
        whole,
        order,
        data,
        place,
        lambda table: edition(given, table, whole, data, chosen, ways, who),
        dry_run=dry_run,
    )
    files = {
        name.removeprefix(below): size for name, size in files.items() if name.startswith(below)
    }
    if dry_run:
        for name, size in files.items():
            typer.echo(f"{size:>10,} {name}")
        where = (
            f"the {repo_type} repository {place.repo} of the Hub"
            if place.repo
            else str(place.folder)
        )
        typer.echo(f"{len(files)} files for {where}; nothing was written")
    elif key and place.repo:
        typer.echo(
            "uploaded:    "
            f"{leaderboard_upload.upload(place.folder / below, list(files), place.repo, repo_type, key, public)}"
        )
    elif place.repo:
        typer.echo(
            f"nothing was uploaded: {place.repo} is taken for a repository of the Hub; add "
            f"--upload, or write ./{place.repo} for a folder"
        )


def release(
    given: Session,
    results: Sequence[TaskResult],
    order: Sequence[str],
    data: Path | None,
    place: Destination | None = None,
    beside: Callable[[Table], Edition] | None = None,
    *,
    dry_run: bool = False,
    err: bool = False,
) -> dict[str, int]:
    """Make the leaderboard of `results`, and what stands `beside` it, in a folder of its own, then
    bring it all into its place (default: leaderboards/SUITE). The files, by path below it, with
    their bytes. `err`: say it beside what is piped."""
    from tempfile import TemporaryDirectory

    from lep_bench.leaderboard.publish import (
        begin_edition,
        install_edition,
        put_file,
        refresh_excerpt,
    )
    from lep_bench.pipeline.board import write_board

    place = place or Destination.of(None, given.suite.name, given.store.root)
    with TemporaryDirectory(prefix="lep-bench-") as made:
        work = Path(made)
        board = write_board(
            given,
            results,
            order,
            data,
            begin_edition(work, place.folder, place.board),
            pictures=True,
        )
        if board.changed:
            raise LepBenchError(f"nothing was published: {board.changed[0]}")
        table = board.table
        for path, text in (
            beside(table).files(place.folder).items() if beside and place.board else ()
        ):
            put_file(work, path, text)
        files = {
            p.relative_to(work).as_posix(): p.stat().st_size
            for p in sorted(work.rglob("*"))
            if p.is_file()
        }
        if dry_run:
            return files
        install_edition(work, place.folder, place.board)
    if not place.board and given.suite.name == "mini":
        refresh_excerpt(place.folder.parent.parent / "README.md", place.folder)
    said = (
        f"written:     {place.folder}, {len(files)} files"
        if place.board
        else f"published:   {place.folder}/README.md"
    )
    typer.echo(said, err=err)
    return files


def selected(
    given: Session, results: Sequence[TaskResult], wanted: Sequence[str] | None
) -> tuple[list[str], dict[str, Made]]:
    """Models that get a record, and the ways of those that get a card; prints which get none, and
    whose licence nobody knows.

    Raises UnknownNameError for a pattern that fits no scored model."""
    from lep_bench.config.models import widen_suite
    from lep_bench.leaderboard import cards
    from lep_bench.leaderboard.upload import made_here
    from lep_bench.pipeline.stored import match_names

    records: dict[str, TaskResult] = {}
    # the first training seed's way is told
    for result in sorted((r for r in results if r.status == "ok"), key=lambda r: r.model.seed):
        records.setdefault(result.model.name, result)
    chosen = list(records) if wanted is None else match_names(records, wanted, "scored model")
    families = map(given.configs.family, widen_suite(given.suite, chosen, given.configs).families)
    licences = {
        location: family.licence
        for family in families
        for location in (family.base, family.instruct)
    }
    ways: dict[str, Made] = {}
    without = []
    for name in chosen:
        model = records[name].model
        if model.stage == "local" or (
            made_here(model) if wanted else model.propagation or model.tuning
        ):
            made = cards.trace_lineage(records[name], given.store, licences)
            if made is not None:
                ways[name] = made
            elif model.stage != "local":
                without.append(name)
    if without:
        typer.echo(
            f"no card, since their lep.json is not in {given.store.root}: {', '.join(without)}"
        )
    if doubtful := sorted(
        {a.place or a.name for made in ways.values() for a in made.ancestors if not a.licence}
    ):
        typer.echo(f"licence {cards.LOOK}: {', '.join(doubtful)}")
    return chosen, ways


def edition(
    given: Session,
    table: Table,
    results: Sequence[TaskResult],
    data: Path | None,
    chosen: Sequence[str],
    ways: dict[str, Made],
    organisation: str,
) -> Edition:
    """What stands beside the leaderboard."""
    from lep_bench.leaderboard.publish import Edition
    from lep_bench.leaderboard.upload import dataset
    from lep_bench.pipeline import again
    from lep_bench.tasks import select_tasks

    tasks = {task.name: task for task in select_tasks(given.suite.tasks, given.task_folders)}
    if ways and not any(dataset(task) for task in tasks.values()):
        typer.echo("no .eval_results: the rows of these tasks are no data sets of the Hub")
    controls = {row.model: row.control for row in table.rows}
    usual = f"lep-bench run --suite {given.suite.name} --models all"

    def commands(name: str) -> Sequence[str]:
        return again.reproduce_commands(
            given, [r for r in results if r.model.name in (name, controls.get(name))], data
        ) or (usual,)

    return Edition(
        table,
        [r for r in results if r.model.name in chosen],
        ways,
        chosen,
        tasks,
        cache(commands),
        organisation,
    )
