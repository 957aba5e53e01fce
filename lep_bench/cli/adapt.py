"""Making checkpoints: adapt, vocabulary, export."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lep_bench.cli.app import AdapterFolders, ConfigFolders, Out, SuiteName, app
from lep_bench.errors import LepBenchError, RunFailedError
from lep_bench.files import check_folder

if TYPE_CHECKING:
    from lep_bench.plugin import Adapter, Params


UNION = "-union"


@app.command()
def adapt(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="The base model: a folder or a Hub id.")
    ],
    instruct: Annotated[
        str, typer.Argument(metavar="INSTRUCT", help="The instruct model tuned from it.")
    ],
    donor: Annotated[
        str,
        typer.Argument(
            metavar="DONOR", help="The base with a new vocabulary and trained embeddings."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist.")
    ],
    method: Annotated[
        str, typer.Option("--method", help="A propagation method (see lep-bench list adapters).")
    ] = "conversion",
    row_policy: Annotated[
        Literal["bytes-exact", "paper"],
        typer.Option(
            "--row-policy", help="How new tokens are split into old ones: bytes-exact or paper."
        ),
    ] = "bytes-exact",
    discard_donor_body: Annotated[
        bool,
        typer.Option(
            "--discard-donor-body",
            help="Accept a donor whose body was trained too. What its body learned is lost.",
        ),
    ] = False,
    device: Annotated[
        str, typer.Option("--device", help="Compute float64 products on cpu or cuda.")
    ] = "cpu",
    adapters: AdapterFolders = None,
) -> None:
    """Carry a donor's vocabulary into an instruct model (LEP).

    Learned Embedding Propagation: write INSTRUCT with DONOR's vocabulary to OUT. OUT is a complete
    checkpoint for transformers and vLLM. Its lep.json records lineage, rows and the fit.

    \b
    lep-bench adapt mistralai/Mistral-7B-v0.1 openchat/openchat-3.5-0106 ./my-donor ./openchat-ru
    lep-bench adapt builtin:mini-llama/base builtin:mini-llama/instruct ./donor ./adapted
    """
    import lep_bench
    from lep_bench.records import artifact

    check_folder(out.parent, "OUT")
    folder = lep_bench.adapt(
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
    for note in artifact.read_artifact(folder).lep.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"written: {folder}")


@app.command()
def vocabulary(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="bpe, unigram, extended, optimized, or another one (see lep-bench list adapters).",
        ),
    ],
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help="The base: the folder of a checkpoint or of a tokenizer, or a Hub id.",
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist.")
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="More files for --corpus.", show_default=False),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            metavar="FILE...",
            show_default=False,
            help="Text (a document a line), JSONL or Parquet files, folders of these, or a Hub "
            "dataset: ORG/NAME[:CONFIG][@REVISION].",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            help="bpe, unigram: ordinary tokens. Others: new tokens. Default: the paper's.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            help="optimized: the number of old tokens to keep. Default: half, as in the paper.",
            show_default=False,
        ),
    ] = None,
    union: Annotated[
        bool,
        typer.Option(
            "--union",
            help="extended, optimized: append a new BPE vocabulary of --size tokens to the old "
            "one, as the paper does.",
        ),
    ] = False,
    field: Annotated[
        str,
        typer.Option("--field", help="The text field of JSONL, Parquet and Hub rows."),
    ] = "text",
    tokenizer_only: Annotated[
        bool,
        typer.Option("--tokenizer-only", help="Write no model, even where BASE has weights."),
    ] = False,
    adapters: AdapterFolders = None,
) -> None:
    """Make a new vocabulary, and the base with it.

    OUT is a tokenizer for transformers and vLLM. Where BASE has weights, OUT is also the model that
    continued pre-training starts from: a new row is the mean of the old rows that spelled its
    token. Sizes follow the paper (arXiv 2412.21140): bpe and unigram are as large as the old
    vocabulary; extended adds 23,328 tokens (46,560 to bases with more than 64,000); optimized keeps
    half and adds 0.785 tokens for each kept one.

    \b
    lep-bench vocabulary extended meta-llama/Meta-Llama-3-8B ./llama3-ru --corpus data/*.parquet
    lep-bench vocabulary bpe ./mistral ./bpe --corpus news.txt --size 32000 --tokenizer-only
    lep-bench vocabulary unigram ./mistral ./mistral-uni --corpus wikimedia/wikipedia:20231101.ru
    """
    from lep_bench import corpora, hub, plugin

    check_folder(out.parent, "OUT")
    has_union = union and method in ("extended", "optimized")
    registry = plugin.discover_adapters(adapters or ())
    adapter = registry.get("vocabulary", method + UNION if has_union else method).adapter
    if union and not adapter.name.endswith(UNION):
        raise LepBenchError(f"--union: {method} has no such form; extended and optimized have")
    texts = (*(corpus or ()), *(more or ()))
    if not texts:
        raise LepBenchError(f"--corpus names nothing: give {corpora.KINDS}")
    options = {name: value for name, value in (("size", size), ("keep", keep)) if value is not None}
    corpora.parts(texts)  # a wrong name is reported before anything is loaded

    from lep_bench.surgery import newbase
    from lep_bench.surgery.tokenizers import loading
    from lep_bench.surgery.vocabulary import paper_sizes

    folder = (
        hub.locate_tokenizer(base) if tokenizer_only else hub.find_local(base) or hub.locate(base)
    )
    defaults = paper_sizes(loading.read_tokenizer(folder), adapter.name)
    params = _make_params(adapter, defaults, options)
    model = not tokenizer_only and newbase.has_weights(folder)
    shown = ", ".join(f"{name} {value:,}" for name, value in params.model_dump().items())
    typer.echo(f"{adapter.name}: {shown or 'no parameters'}")
    with Phases() as phases:
        report = newbase.make_new_base(
            base,
            folder,
            out,
            adapter,
            params,
            corpora.read(texts, field),
            corpora.corpus_digest(texts),
            model=model,
            watch=phases,
        )
    typer.echo(
        f"{report.entries:,} entries: {report.kept:,} old tokens, {report.new:,} new ones; "
        f"{report.unreachable:,} of them are never produced by any text"
    )
    typer.echo(f"written: {out} ({'model and tokenizer' if model else 'tokenizer only'})")


def _make_params(adapter: Adapter, defaults: dict[str, int], options: dict[str, int]) -> Params:
    """The method's parameters. Raises LepBenchError for options that it does not have or values
    that it refuses.
    """
    from pydantic import ValidationError

    fields = adapter.params.model_fields
    unknown = [f"--{name}" for name in options if name not in fields]
    if unknown:
        raise LepBenchError(
            f"{', '.join(unknown)}: {adapter.name} has no such parameter; it has: "
            f"{', '.join(fields) or 'none'}"
        )
    try:
        return adapter.params.model_validate({**defaults, **options})
    except ValidationError as error:
        first = error.errors()[0]
        raise LepBenchError(
            f"--{first['loc'][0]} {first['input']}: {first['msg'].lower()}"
        ) from error


class Phases:
    """Shows progress: a running clock on a terminal, and one line for every finished phase."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.console = Console()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self.progress = Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        )
        self.phase, self.detail, self.begin = "", "", 0.0
        self.task: Any = None

    def __enter__(self) -> Phases:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self("", "")
        self.progress.stop()

    def __call__(self, phase: str, detail: str) -> None:
        """Show the phase that runs now, and what is known about it so far."""
        if phase != self.phase:
            if self.phase:
                line = f"{self.phase:9} {time.monotonic() - self.begin:6.1f} s  {self.detail}"
                self.console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)
                self.progress.remove_task(self.task)
            self.phase, self.begin = phase, time.monotonic()
            self.task = self.progress.add_task("") if phase else None
        self.detail = detail
        if phase:
            self.progress.update(self.task, description=f"{phase} {detail}")


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model's name (see lep-bench list models): mini-llama/extended/conversion.",
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

    The model is built first if it is not in --out.

    \b
    lep-bench export mini-llama/extended/conversion ./exported
    """
    from lep_bench.cli import display
    from lep_bench.pipeline.build import Workshop
    from lep_bench.pipeline.execute import execute_plan
    from lep_bench.pipeline.hardware import Hardware
    from lep_bench.pipeline.session import Session

    if folder.exists():
        raise LepBenchError(f"{folder} exists already: choose another folder or remove it first")
    check_folder(folder.parent, "DIR")
    session = Session.read(suite, out, configs, adapters)
    plan = session.plan([model], tasks=())
    if len(plan.models) != 1:
        raise LepBenchError(f"export writes one model: {model} means {len(plan.models)}")
    if plan.nodes:
        hardware = Hardware.detect()
        with session.store.lock(), display.Terminal(plan, hardware) as terminal:
            outcome = execute_plan(
                plan, session.store, session.configs, hardware, terminal, session.adapter_folders
            )
        if outcome.broken:
            raise RunFailedError(
                "; ".join(f"{name}: {why}" for name, why in outcome.broken.items())
            )
    from lep_bench.surgery.export import export_checkpoint

    shop = Workshop(
        {node.id: node for node in (*plan.cached, *plan.nodes.values())},
        session.configs,
        session.registry,
    )
    export_checkpoint(shop.artifact(plan.makers[plan.models[0].key], plan.models[0].stage), folder)
    typer.echo(f"written: {folder}")
