"""The main job: run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lep_bench.cli.app import (
    AdapterFolders,
    ConfigFolders,
    DataFolder,
    Offline,
    Out,
    SuiteName,
    TaskFolders,
    app,
    split_names,
)
from lep_bench.cli.project import show_project

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
        typer.Option("--publish", help="Then publish to leaderboards/SUITE."),
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

    # before anything is imported that reads the environment once
    bundle.use_data_folder(data, offline)
    from lep_bench.cli import display, leaderboard
    from lep_bench.config.load import Configs
    from lep_bench.pipeline.hardware import resolve_hardware
    from lep_bench.pipeline.plan import Server
    from lep_bench.pipeline.run import plan_run, run_plan
    from lep_bench.pipeline.session import Session

    place = resolve_hardware(Configs.of(configs or ()), hardware, engine, workers)
    session = Session.read(
        suite,
        out,
        configs,
        adapters,
        tasks_dir,
        limit=limit,
        seeds=seeds,
        dtype=dtype,
        engine=place.engine,
        server=Server(url or "", key_variable),
    )
    request = plan_run(
        session,
        split_names(models, "--models"),
        None if tasks is None else split_names(tasks, "--tasks"),
        data,
        board=not dry_run,
    )
    show_project(context)
    typer.echo(place)
    if dry_run:
        display.dry_run(request.plan, place.workers, out)
        display.show_checkpoints(request.checkpoints.values())
        return
    done = run_plan(
        session,
        request,
        place,
        display.Terminal,
        lambda line: typer.echo(line, err=True),
        offline=offline,
    )
    leaderboard.show_board(done.board, publish=publish)
    display.finish(done.outcome.failed, done.left_out, session.configs, suite)
    leaderboard.report_changed(done.board)
