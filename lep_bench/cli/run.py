"""The main job and what surrounds it: run, leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lep_bench.cli.app import AdapterFolders, ConfigFolders, DataFolder, Offline, Out, TaskFolders, app, names
from lep_bench.errors import LepBenchError, RunFailed

if TYPE_CHECKING:
    from lep_bench.cli.setup import Setup
    from lep_bench.config import Suite
    from lep_bench.plan import Plan
    from lep_bench.results import ModelRecord
    from lep_bench.run import Hardware
    from lep_bench.store import Store

Models = Annotated[
    str,
    typer.Option(
        "--models",
        metavar="PATTERN,...|PATH|HUB_ID|all",
        help="Models: names, patterns like 'mini-llama/*/conversion', checkpoint folders, Hub ids, or all.",
    ),
]
SuiteName = Annotated[str, typer.Option("--suite", metavar="NAME", help="The suite: families, tasks, scoring and mean (lep-bench where configs).")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None, typer.Option("--dtype", help="Another number format than the suite's.", show_default=False)
]


@app.command()
def run(
    models: Models = "all",
    suite: SuiteName = "mini",
    tasks: Annotated[str | None, typer.Option("--tasks", metavar="TASK,...", help="Only these tasks of the suite.", show_default=False)] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N rows of each task; such results are marked.", show_default=False)
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Train donors and tunings with this many seeds.", show_default=False)] = None,
    dtype: Dtype = None,
    out: Out = Path("runs"),
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
    engine: Annotated[Literal["hf", "vllm"], typer.Option("--engine", help="What scores the models: hf (transformers) or vllm.")] = "hf",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default one per core, at most 8.", show_default=False)] = None,
    data: DataFolder = None,
    offline: Offline = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Also refresh leaderboards/SUITE with this run's results.")] = False,
) -> None:
    """Adapt, score and compare models, and print the leaderboard.

    Finished artifacts and scores are kept in --out: interrupted anywhere, the same command goes on.

    \b
    lep-bench run --models all
    lep-bench run --models 'mini-llama/extended/*' --limit 50
    lep-bench run --models ./my-checkpoint,mini-llama/instruct --tasks mini_facts_ru
    lep-bench run --suite darumeru --data BUNDLE --offline
    """
    from lep_bench import bundle

    bundle.use(data, offline)  # before anything is imported that reads the environment once
    from lep_bench.cli import checkpoints, display
    from lep_bench.cli.setup import Setup
    from lep_bench.run import execute

    given = Setup.read(suite, out, configs, adapters, tasks_dir, limit=limit, seeds=seeds, dtype=dtype, engine=engine)
    patterns, chosen = names(models, "--models"), None if tasks is None else names(tasks, "--tasks")
    todo = given.plan(patterns, chosen)
    hardware = hardware_for(engine, workers)
    read = checkpoints.of_plan(todo, given.checkpoints())
    if data is not None:
        bundle.verify(data, {c.location for c in read.values()})
    if dry_run:
        display.dry_run(todo, hardware.workers, out)
        checkpoints.show(read.values())
        return
    missing = checkpoints.fetch(read)
    with given.store.lock():
        # The lock was free only now: plan again, another run may just have finished some of it.
        todo, left_out = display.without(given.plan(patterns, chosen), missing)
        display.check_disk(todo, out)
        rows_there(todo, given)
        with display.Terminal(todo, hardware) as terminal:
            outcome = execute(todo, given.store, given.configs, hardware, terminal, given.adapter_folders, given.task_folders)
        show(given.suite, given.plan(["all", *patterns]).expected, given.store, given.task_folders, publish=publish)
    display.finish(outcome.failed, left_out)


def hardware_for(engine: str, workers: int | None) -> Hardware:
    """What the run may use; each vLLM takes what the machine has. Raises LepBenchError for an engine that is not installed."""
    from lep_bench.run import Hardware

    if engine == "vllm":
        from lep_bench.engines import vllm_start

        vllm_start.installed()
        workers = workers or 1
    return Hardware.detect(workers)


def rows_there(todo: Plan, given: Setup) -> None:
    """Read (from the Hub: fetch) the rows of every task that has a cell to score, before the first model is built.

    Raises LepBenchError that names the tasks whose rows cannot be had, and those that can be scored.
    """
    from lep_bench import taskfiles
    from lep_bench.cli.bundle import metadata
    from lep_bench.evaluate import needs

    tasks = {cell.task.name: cell.task for node in todo.nodes.values() for cell in node.cells if cell.task.dataset}
    folders = taskfiles.scan(given.task_folders).folders if tasks else ()
    wrong: dict[str, str] = {}
    for name, task in tasks.items():
        try:
            needs.rows(task, folders, metadata(given.suite))
        except LepBenchError as error:
            wrong[name] = str(error)
    if wrong:
        rest = [name for name in tasks if name not in wrong]
        raise LepBenchError(
            f"{len(wrong)} of {len(tasks)} tasks cannot be asked: {', '.join(wrong)}. The first: {next(iter(wrong.values()))}"
            + (f". Score the others with --tasks {','.join(rest)}" if rest else "")
        )


def show(
    suite: Suite, expected: Sequence[tuple[ModelRecord, str, str]], store: Store, task_folders: Sequence[Path], *, publish: bool = False
) -> None:
    """Render the current cells (model, task, key): to the terminal, to OUT/SUITE/leaderboard, and to leaderboards/SUITE when published."""
    from rich.console import Console

    from lep_bench import paths
    from lep_bench.leaderboard import clean, render
    from lep_bench.leaderboard import publish as publishing

    results = []
    for record, task, key in expected:
        result = store.read(suite.name, record.name, task, key)
        if result is not None and (result.status == "failed" or result.model.fingerprint == record.fingerprint):
            results.append(result)
    order = list(dict.fromkeys(record.name for record, _, _ in expected))
    folder = store.leaderboard(suite.name)
    scan = clean.read(folder.parent / "contamination.json", suite.tasks, task_folders)
    made = publishing.write(folder, suite, results, store.read_samples, order, scan=scan)
    render.terminal(made, Console())
    typer.echo(f"leaderboard: {folder}/README.md")
    if publish:
        public = paths.folder("leaderboards") / suite.name
        publishing.write(public, suite, [r for r in results if r.scoring.limit is None], store.read_samples, order, scan=scan)
        if suite.name == "mini":
            publishing.refresh_excerpt(public.parent.parent / "README.md", public)
        typer.echo(f"published:   {public}/README.md")


@app.command()
def leaderboard(
    suite: SuiteName = "mini",
    out: Out = Path("runs"),
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
    data: DataFolder = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check that every published page in leaderboards/ is what its committed results render to.")
    ] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Also refresh leaderboards/SUITE.")] = False,
) -> None:
    """Print the leaderboard without running anything.

    Configs, adapters, tasks and data as in the run: results of other tasks and rows are not shown.

    \b
    lep-bench leaderboard --suite mini
    lep-bench leaderboard --check
    """
    from lep_bench import bundle, paths

    bundle.use(data, offline=False)  # before anything is imported that reads the environment once
    from lep_bench.cli.setup import Setup
    from lep_bench.leaderboard import publish as publishing

    if check:
        wrong = [line for folder in sorted(paths.folder("leaderboards").iterdir()) if folder.is_dir() for line in publishing.check(folder)]
        # The README of a checkout shows the first rows; a wheel has none beside its leaderboards.
        wrong += publishing.check_excerpt(paths.folder("leaderboards").parent / "README.md", paths.folder("leaderboards") / "mini")
        for line in wrong:
            typer.echo(line)
        if wrong:
            raise RunFailed("published pages differ from their results: lep-bench leaderboard --publish writes them again")
        typer.echo("every published page equals what its results render to")
        return
    scored = Setup.read(suite, out, configs, adapters, tasks_dir).scored()
    if not scored:
        raise LepBenchError(f"no results of suite {suite} in {out}: run lep-bench run --suite {suite} first, or name its --out folder")
    seeds, expected = 1 + max(result.model.seed for result in scored), []
    for dtype, engine in sorted({(result.scoring.dtype, result.provenance.engine) for result in scored}):
        limits = {result.scoring.limit for result in scored if (result.scoring.dtype, result.provenance.engine) == (dtype, engine)}
        # Results under a row limit are shown only where there are none without.
        for limit in (None,) if None in limits else sorted(limits):
            given = Setup.read(suite, out, configs, adapters, tasks_dir, limit=limit, seeds=seeds, dtype=dtype, engine=engine)
            expected += given.plan(["all", *given.names_of(scored)]).expected
    if not {(r.model.name, r.task, r.key) for r in scored} & {(record.name, task, key) for record, task, key in expected}:
        raise LepBenchError(
            f"{out} has {len(scored)} results of suite {suite}, all of other tasks, rows or settings than now: "
            "give --data, --configs and --tasks-dir as in the run, or run it again"
        )
    show(given.suite, expected, given.store, given.task_folders, publish=publish)
