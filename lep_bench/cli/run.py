"""The main job: run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lep_bench.cli.app import (
    AdapterFolders,
    ConfigFolders,
    DataFolder,
    Offline,
    Out,
    TaskFolders,
    app,
    split_names,
)
from lep_bench.cli.project import show_project
from lep_bench.errors import LepBenchError

if TYPE_CHECKING:
    from lep_bench.cli.setup import Setup
    from lep_bench.pipeline.execute import Outcome
    from lep_bench.pipeline.hardware import Hardware
    from lep_bench.pipeline.plan import Plan
    from lep_bench.tasks import TaskFile


Models = Annotated[
    str,
    typer.Option(
        "--models",
        metavar="PATTERN,...|PATH|HUB_ID|all",
        help="Models: names of any family (which win over Hub ids), patterns like "
        "'mini-llama/*/conversion', checkpoint folders, "
        "Hub ids, or all of the suite.",
    ),
]
SuiteName = Annotated[
    str,
    typer.Option(
        "--suite",
        metavar="NAME",
        help="The suite: families, tasks, scoring and mean (see lep-bench list suites).",
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="Another number format than the suite's.", show_default=False),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        help="Only the first N rows of each task; such results are marked.",
        show_default=False,
    ),
]
Engine = Annotated[
    Literal["auto", "hf", "vllm", "api"],
    typer.Option(
        "--engine",
        help="What scores the models: hf (transformers), vllm, api (a server); auto: vllm where it "
        "and a GPU are, else hf.",
    ),
]
HardwareName = Annotated[
    str,
    typer.Option(
        "--hardware",
        metavar="NAME|auto",
        help="What the run may use (configs/hardware: cpu, gpu, gpus); auto: what is here.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Processes; default one per GPU, else one per core, at most 8 (vllm and api: one).",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The OpenAI-compatible server that engine api and models api:NAME ask; naming another "
        "machine allows it.",
        show_default=False,
    ),
]
KeyVariable = Annotated[
    str | None,
    typer.Option(
        "--key-variable",
        metavar="NAME",
        help="The environment variable with the server's key; default OPENAI_API_KEY, over https "
        "only.",
        show_default=False,
    ),
]


@app.command()
def run(
    context: typer.Context,
    models: Models = "all",
    suite: SuiteName = "mini",
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", metavar="TASK,...", help="Only these tasks of the suite.", show_default=False
        ),
    ] = None,
    limit: Limit = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            help="Train donors and tunings with this many seeds.",
            show_default=False,
        ),
    ] = None,
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and stop.")
    ] = False,
    publish: Annotated[
        bool,
        typer.Option("--publish", help="Also refresh leaderboards/SUITE with this run's results."),
    ] = False,
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

    bundle.use_data_folder(
        data, offline
    )  # before anything is imported that reads the environment once
    from lep_bench.cli import checkpoints, display, leaderboard, servers
    from lep_bench.cli.setup import Setup
    from lep_bench.config.load import Configs
    from lep_bench.pipeline.hardware import resolve_hardware
    from lep_bench.pipeline.plan import Server

    place = resolve_hardware(Configs.of(configs or ()), hardware, engine, workers)
    server = Server(url or "", key_variable)
    given = Setup.read(
        suite,
        out,
        configs,
        adapters,
        tasks_dir,
        limit=limit,
        seeds=seeds,
        dtype=dtype,
        engine=place.engine,
        server=server,
    )
    patterns, chosen = (
        split_names(models, "--models"),
        None if tasks is None else split_names(tasks, "--tasks"),
    )
    todo = given.plan(patterns, chosen)
    show_project(context)
    typer.echo(place)
    read = checkpoints.of_plan(todo, given.checkpoints(patterns))
    if data is not None:
        bundle.verify(data, {c.location for c in read.values()})
    if dry_run:
        display.dry_run(todo, place.workers, out)
        checkpoints.show_checkpoints(read.values())
        return
    servers.ready(todo, server, offline)
    missing = checkpoints.fetch(read)
    with given.store.lock():
        outcome, left_out = carry_out(given, patterns, chosen, place, missing)
        leaderboard.show_leaderboard(
            given, given.plan(["all", *patterns]).expected, data, publish=publish
        )
    display.finish(outcome.failed, left_out, given.configs, suite)


def carry_out(
    given: Setup,
    patterns: Sequence[str],
    chosen: Sequence[str] | None,
    place: Hardware,
    missing: dict[str, str],
) -> tuple[Outcome, int]:
    """Build and score what is still to do; what came of it, and how many models were left out
    because checkpoints are `missing`.

    Whoever calls holds the store's lock. Planned anew, since the lock was free only now: another
    run may just have finished some of it.
    """
    from lep_bench import hub
    from lep_bench.cli import display
    from lep_bench.pipeline.execute import execute_plan

    todo, left_out = display.without(given.plan(patterns, chosen), missing)
    display.check_disk(todo, given.store.root)
    for task in tasks_of(todo).values():
        assert task.dataset
        # first: what it finds out, the workers learn from the environment
        hub.go_offline_if_unreachable(task.dataset[0], task.own_class)

    def meanwhile() -> None:
        rows_there(todo, given)
        import scipy.special  # noqa: F401  this and the next: what `show` needs, while the workers import theirs

        from lep_bench.leaderboard import (
            publish,  # noqa: F401
            terminal,  # noqa: F401
        )

    with display.Terminal(todo, place) as watching:
        outcome = execute_plan(
            todo,
            given.store,
            given.configs,
            place,
            watching,
            given.adapter_folders,
            given.task_folders,
            meanwhile,
        )
    return outcome, left_out


def tasks_of(todo: Plan) -> dict[str, TaskFile]:
    """By name, the tasks with a dataset that have a cell to score."""
    return {
        cell.task.name: cell.task
        for node in todo.nodes.values()
        for cell in node.cells
        if cell.task.dataset
    }


def rows_there(todo: Plan, given: Setup) -> None:
    """Read (from the Hub: fetch) the rows of every task that has a cell to score, before the first
    model is built.

    Raises LepBenchError that names the tasks whose rows cannot be had, and those that can be
    scored.
    """
    tasks = tasks_of(todo)
    if not tasks:
        return  # before imports that take seconds
    from lep_bench.cli.bundle import metadata
    from lep_bench.evaluate import rows
    from lep_bench.tasks import scan_tasks

    folders = scan_tasks(given.task_folders).folders
    wrong: dict[str, LepBenchError] = {}
    for name, task in tasks.items():
        try:
            rows.count_rows(task, folders, metadata(given.suite))
        except LepBenchError as error:
            wrong[name] = error
    if wrong:
        rest = [name for name in tasks if name not in wrong]
        sets = list(
            dict.fromkeys(
                tasks[name].dataset[0]
                for name, error in wrong.items()
                if isinstance(error, rows.RowsNotFetchedError)
            )
        )
        first = next(
            (
                str(error)
                for error in wrong.values()
                if not isinstance(error, rows.RowsNotFetchedError)
            ),
            "",
        )
        bundled = (
            f"where there is a network, lep-bench bundle --suite {given.suite.name} DIR; then "
            "run with --data DIR"
        )
        lines = (
            [f"Not here, and the Hub cannot be reached: {', '.join(sets)}: {bundled}"]
            if sets
            else []
        )
        lines += [f"The first{' of the others' if sets else ''}: {first}"] if first else []
        lines += [f"Score the others with --tasks {','.join(rest)}"] if rest else []
        what = (
            f"{len(wrong)} of {len(tasks)} tasks cannot be asked: {', '.join(wrong)}"
            if rest
            else f"none of {len(tasks)} tasks can be asked"
        )
        raise LepBenchError(f"{what}. {'. '.join(lines)}")
