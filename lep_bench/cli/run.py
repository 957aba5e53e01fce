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
    from lep_bench.hardware import Hardware
    from lep_bench.plan import Plan
    from lep_bench.results import ModelRecord
    from lep_bench.run import Outcome
    from lep_bench.taskfiles import TaskFile

Models = Annotated[
    str,
    typer.Option(
        "--models",
        metavar="PATTERN,...|PATH|HUB_ID|all",
        help="Models: names of any family (which win over Hub ids), patterns like 'mini-llama/*/conversion', checkpoint folders, "
        "Hub ids, or all of the suite.",
    ),
]
SuiteName = Annotated[str, typer.Option("--suite", metavar="NAME", help="The suite: families, tasks, scoring and mean (lep-bench where configs).")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None, typer.Option("--dtype", help="Another number format than the suite's.", show_default=False)
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N rows of each task; such results are marked.", show_default=False)]
Engine = Annotated[
    Literal["auto", "hf", "vllm", "api"],
    typer.Option("--engine", help="What scores the models: hf (transformers), vllm, api (a server); auto: vllm where it and a GPU are, else hf."),
]
HardwareName = Annotated[
    str, typer.Option("--hardware", metavar="NAME|auto", help="What the run may use (configs/hardware: cpu, gpu, gpus); auto: what is here.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes; default one per GPU, else one per core, at most 8 (vllm and api: one).", show_default=False),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The OpenAI-compatible server that engine api and models api:NAME ask; naming another machine allows it.",
        show_default=False,
    ),
]  # fmt: skip
KeyVariable = Annotated[
    str | None,
    typer.Option(
        "--key-variable", metavar="NAME", help="The environment variable with the server's key; default OPENAI_API_KEY, over https only.",
        show_default=False,
    ),
]  # fmt: skip


@app.command()
def run(
    models: Models = "all",
    suite: SuiteName = "mini",
    tasks: Annotated[str | None, typer.Option("--tasks", metavar="TASK,...", help="Only these tasks of the suite.", show_default=False)] = None,
    limit: Limit = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Train donors and tunings with this many seeds.", show_default=False)] = None,
    dtype: Dtype = None,
    out: Out = Path("runs"),
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
    engine: Engine = "auto",
    hardware: HardwareName = "auto",
    workers: Workers = None,
    url: Url = None,
    key_variable: KeyVariable = None,
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
    lep-bench run --engine api --url http://127.0.0.1:8000/v1 --models ./my-checkpoint
    """
    from lep_bench import bundle

    bundle.use(data, offline)  # before anything is imported that reads the environment once
    from lep_bench.cli import checkpoints, display, servers
    from lep_bench.cli.setup import Setup
    from lep_bench.config import Configs
    from lep_bench.hardware import resolve
    from lep_bench.plan import Server

    place = resolve(Configs.of(configs or ()), hardware, engine, workers)
    server = Server(url or "", key_variable)
    given = Setup.read(suite, out, configs, adapters, tasks_dir, limit=limit, seeds=seeds, dtype=dtype, engine=place.engine, server=server)
    patterns, chosen = names(models, "--models"), None if tasks is None else names(tasks, "--tasks")
    todo = given.plan(patterns, chosen)
    typer.echo(place)
    read = checkpoints.of_plan(todo, given.checkpoints(patterns))
    if data is not None:
        bundle.verify(data, {c.location for c in read.values()})
    if dry_run:
        display.dry_run(todo, place.workers, out)
        checkpoints.show(read.values())
        return
    servers.ready(todo, server, offline)
    missing = checkpoints.fetch(read)
    with given.store.lock():
        outcome, left_out = carry_out(given, patterns, chosen, place, missing)
        show(given, given.plan(["all", *patterns]).expected, data, publish=publish)
    display.finish(outcome.failed, left_out, given.configs, suite)


def carry_out(given: Setup, patterns: Sequence[str], chosen: Sequence[str] | None, place: Hardware, missing: dict[str, str]) -> tuple[Outcome, int]:
    """Build and score what is still to do; what came of it, and how many models were left out because checkpoints are `missing`.

    Whoever calls holds the store's lock. Planned anew, since the lock was free only now: another run may just have finished some of it.
    """
    from lep_bench import bundle
    from lep_bench.cli import display
    from lep_bench.run import execute

    todo, left_out = display.without(given.plan(patterns, chosen), missing)
    display.check_disk(todo, given.store.root)
    for task in tasks_of(todo).values():
        assert task.dataset
        bundle.look_for_hub(task.dataset[0], task.own_class)  # first: what it finds out, the workers learn from the environment
    with display.Terminal(todo, place) as terminal:
        outcome = execute(
            todo, given.store, given.configs, place, terminal, given.adapter_folders, given.task_folders, lambda: rows_there(todo, given)
        )
    return outcome, left_out


def tasks_of(todo: Plan) -> dict[str, TaskFile]:
    """By name, the tasks with a dataset that have a cell to score."""
    return {cell.task.name: cell.task for node in todo.nodes.values() for cell in node.cells if cell.task.dataset}


def rows_there(todo: Plan, given: Setup) -> None:
    """Read (from the Hub: fetch) the rows of every task that has a cell to score, before the first model is built.

    Raises LepBenchError that names the tasks whose rows cannot be had, and those that can be scored.
    """
    from lep_bench import taskfiles
    from lep_bench.cli.bundle import metadata
    from lep_bench.evaluate import needs

    tasks = tasks_of(todo)
    folders = taskfiles.scan(given.task_folders).folders if tasks else ()
    wrong: dict[str, LepBenchError] = {}
    for name, task in tasks.items():
        try:
            needs.rows(task, folders, metadata(given.suite))
        except LepBenchError as error:
            wrong[name] = error
    if wrong:
        rest = [name for name in tasks if name not in wrong]
        sets = list(dict.fromkeys(tasks[name].dataset[0] for name, error in wrong.items() if isinstance(error, needs.NotFetched)))
        first = next((str(error) for error in wrong.values() if not isinstance(error, needs.NotFetched)), "")
        bundled = f"where there is a network, lep-bench bundle --suite {given.suite.name} DIR; then run with --data DIR"
        lines = [f"Not here, and the Hub cannot be reached: {', '.join(sets)}: {bundled}"] if sets else []
        lines += [f"The first{' of the others' if sets else ''}: {first}"] if first else []
        lines += [f"Score the others with --tasks {','.join(rest)}"] if rest else []
        what = f"{len(wrong)} of {len(tasks)} tasks cannot be asked: {', '.join(wrong)}" if rest else f"none of {len(tasks)} tasks can be asked"
        raise LepBenchError(f"{what}. {'. '.join(lines)}")


def show(given: Setup, expected: Sequence[tuple[ModelRecord, str, str]], data: Path | None, *, publish: bool = False) -> None:
    """Render the current cells (model, task, key): to the terminal, to OUT/SUITE/leaderboard, and to leaderboards/SUITE when published."""
    from rich.console import Console

    from lep_bench import paths
    from lep_bench.cli import again
    from lep_bench.leaderboard import clean, render
    from lep_bench.leaderboard import publish as publishing

    suite, store, results = given.suite, given.store, []
    # Models api:NAME are expected under every engine, each time as the same cell.
    for record, task, key in {(record.name, task, key): (record, task, key) for record, task, key in expected}.values():
        result = store.read(suite.name, record.name, task, key)
        if result is not None and (result.status == "failed" or result.model.fingerprint == record.fingerprint):
            results.append(result)
    order = list(dict.fromkeys(record.name for record, _, _ in expected))
    folder = store.leaderboard(suite.name)
    scan = clean.read(folder.parent / "contamination.json", suite.tasks, given.task_folders)
    noise = store.noise(suite.name)
    made = publishing.write(folder, suite, results, store.read_samples, order, scan=scan, commands=again.commands(given, results, data), noise=noise)
    render.terminal(made, Console())
    typer.echo(f"leaderboard: {folder}/README.md")
    if publish:
        public = paths.folder("leaderboards") / suite.name
        whole = [result for result in results if result.scoring.limit is None]
        publishing.write(public, suite, whole, store.read_samples, order, scan=scan, commands=again.commands(given, whole, data), noise=noise)
        if suite.name == "mini":
            publishing.refresh_excerpt(public.parent.parent / "README.md", public)
        typer.echo(f"published:   {public}/README.md")


def check_pages(folders: Sequence[Path] | None, out: Path) -> None:
    """Compare the pages of `folders` in `out` (None: the published ones) with their results. Raises RunFailed, and LepBenchError without any."""
    from lep_bench import paths
    from lep_bench.leaderboard import publish as publishing

    public = paths.folder("leaderboards")
    if folders is not None and not folders:
        raise LepBenchError(f"--out {out} has no leaderboard to check: run something into it, or leave --out away for the published ones")
    chosen = folders if folders is not None else sorted(folder for folder in public.iterdir() if folder.is_dir())
    wrong = [line for folder in chosen for line in publishing.check(folder)]
    if folders is None:  # the README of a checkout shows the first rows; a wheel has none beside its leaderboards
        wrong += publishing.check_excerpt(public.parent / "README.md", public / "mini")
    for line in wrong:
        typer.echo(line)
    mend = "lep-bench leaderboard --publish" if folders is None else f"lep-bench leaderboard --suite NAME --out {out}"
    if wrong:
        raise RunFailed(f"pages differ from their results: {mend} writes them again")
    typer.echo(f"every {'published page' if folders is None else f'page in {out}'} equals what its results render to")


@app.command()
def leaderboard(
    context: typer.Context,
    suite: SuiteName = "mini",
    out: Out = Path("runs"),
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
    data: DataFolder = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Check that every published page (with --out: every page in that folder) is what its results render to."),
    ] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Also refresh leaderboards/SUITE.")] = False,
) -> None:
    """Print the leaderboard without running anything.

    Configs, adapters, tasks and data as in the run: results of other tasks and rows are not shown.

    \b
    lep-bench leaderboard --suite mini
    lep-bench leaderboard --check
    lep-bench leaderboard --check --out runs
    """
    from lep_bench import bundle

    bundle.use(data, offline=False)  # before anything is imported that reads the environment once
    from lep_bench.cli.setup import Setup

    if check:
        asked = context.get_parameter_source("out")
        check_pages(None if asked and asked.name == "DEFAULT" else sorted(out.glob("*/leaderboard")), out)
        return
    scored = Setup.read(suite, out, configs, adapters, tasks_dir).scored()
    if not scored:
        raise LepBenchError(f"no results of suite {suite} in {out}: run lep-bench run --suite {suite} first, or name its --out folder")
    seeds, expected = 1 + max(result.model.seed for result in scored), []
    for dtype, engine in sorted({(result.scoring.dtype, result.provenance.engine) for result in scored}):
        limits = {result.scoring.limit for result in scored if (result.scoring.dtype, result.provenance.engine) == (dtype, engine)}
        # Results under a row limit are shown only where there are none without.
        for limit in (None,) if None in limits else sorted(limits):
            own = None if engine == "api" else dtype  # a server's is not known, and no suite's
            given = Setup.read(suite, out, configs, adapters, tasks_dir, limit=limit, seeds=seeds, dtype=own, engine=engine)
            expected += given.plan(["all", *given.names_of(scored)]).expected
    if not {(r.model.name, r.task, r.key) for r in scored} & {(record.name, task, key) for record, task, key in expected}:
        raise LepBenchError(
            f"{out} has {len(scored)} results of suite {suite}, all of other tasks, rows or settings than now: "
            "give --data, --configs and --tasks-dir as in the run, or run it again"
        )
    show(given, expected, data, publish=publish)
