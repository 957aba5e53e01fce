"""Making checkpoints: adapt, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lep_bench.cli.app import AdapterFolders, ConfigFolders, Out, app, check_folder
from lep_bench.cli.run import SuiteName
from lep_bench.errors import LepBenchError, RunFailedError


@app.command()
def adapt(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The base model: folder or Hub id.")],
    instruct: Annotated[
        str, typer.Argument(metavar="INSTRUCT", help="The instruct model tuned from it.")
    ],
    donor: Annotated[
        str,
        typer.Argument(
            metavar="DONOR", help="The base with a new vocabulary, its embeddings trained."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist.")
    ],
    method: Annotated[
        str, typer.Option("--method", help="A propagation method (lep-bench adapters lists them).")
    ] = "conversion",
    row_policy: Annotated[
        str,
        typer.Option(
            "--row-policy", help="How new tokens are cut into old ones: bytes-exact, or paper."
        ),
    ] = "bytes-exact",
    discard_donor_body: Annotated[
        bool,
        typer.Option(
            "--discard-donor-body",
            help="Use the embeddings of a donor whose body was trained too; what its body learned "
            "is lost.",
        ),
    ] = False,
    device: Annotated[
        str, typer.Option("--device", help="What does the float64 products: cpu or cuda.")
    ] = "cpu",
    adapters: AdapterFolders = None,
) -> None:
    """LEP on any three checkpoints.

    Learned Embedding Propagation: write INSTRUCT with DONOR's vocabulary to OUT.

    OUT is a complete checkpoint for transformers and vLLM, with lep.json (lineage, rows, fit
    report) beside it.

    \b
    lep-bench adapt mistralai/Mistral-7B-v0.1 openchat/openchat-3.5-0106 ./my-donor ./openchat-ru
    lep-bench adapt builtin:mini-llama/base builtin:mini-llama/instruct ./donor ./adapted --method swap
    """
    from lep_bench import adapt as propagate
    from lep_bench.records import artifact

    check_folder(out.parent, "OUT")
    made = propagate(
        base,
        instruct,
        donor,
        out,
        method=method,
        row_policy=row_policy,
        discard_donor_body=discard_donor_body,
        device=device,
        adapters=adapters or (),
    )
    for note in artifact.read_artifact(made).lep.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"written: {made}")


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model's name (lep-bench models), e.g. mini-llama/extended/conversion.",
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder to write; it must not exist.")
    ],
    suite: SuiteName = "mini",
    out: Out = Path("runs"),
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
) -> None:
    """Write a model as a Hugging Face checkpoint.

    It is built first if it is not there.

    \b
    lep-bench export mini-llama/extended/conversion ./exported
    """
    from lep_bench.cli import display
    from lep_bench.cli.setup import Setup
    from lep_bench.pipeline.build import Workshop
    from lep_bench.pipeline.execute import execute_plan
    from lep_bench.pipeline.hardware import Hardware

    if folder.exists():
        raise LepBenchError(f"{folder} exists already: choose another folder or remove it first")
    check_folder(folder.parent, "DIR")
    given = Setup.read(suite, out, configs, adapters)
    todo = given.plan([model], tasks=())
    if len(todo.models) != 1:
        raise LepBenchError(f"export writes one model: {model} means {len(todo.models)}")
    if todo.nodes:
        hardware = Hardware.detect()
        with given.store.lock(), display.Terminal(todo, hardware) as terminal:
            outcome = execute_plan(
                todo, given.store, given.configs, hardware, terminal, given.adapter_folders
            )
        if outcome.broken:
            raise RunFailedError(
                "; ".join(f"{name}: {why}" for name, why in outcome.broken.items())
            )
    from lep_bench.surgery.export import export_checkpoint

    shop = Workshop(
        {node.id: node for node in (*todo.cached, *todo.nodes.values())},
        given.configs,
        given.registry,
    )
    export_checkpoint(shop.artifact(todo.makers[todo.models[0].key], todo.models[0].stage), folder)
    typer.echo(f"written: {folder}")
