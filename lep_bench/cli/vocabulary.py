"""New vocabularies: vocabulary."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lep_bench.cli.app import AdapterFolders, app, check_folder
from lep_bench.errors import LepBenchError

if TYPE_CHECKING:
    from lep_bench.plugin import Adapter, Params


UNION = "-union"
Corpus = Annotated[
    list[str] | None,
    typer.Option(
        "--corpus",
        metavar="FILE...",
        show_default=False,
        help="Text (a document a line), JSONL or Parquet files, folders of these, or a Hub "
        "dataset: ORG/NAME[:CONFIG][@REVISION].",
    ),
]


@app.command()
def vocabulary(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="bpe, unigram, extended, optimized, or another one of lep-bench adapters.",
        ),
    ],
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE", help="The base: a checkpoint's or a tokenizer's folder, or a Hub id."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist.")
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Further files for --corpus.", show_default=False),
    ] = None,
    corpus: Corpus = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            help="bpe, unigram: ordinary tokens; else new tokens. Default: the paper's.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            help="optimized: how many old tokens are kept. Default: half, as the paper.",
            show_default=False,
        ),
    ] = None,
    union: Annotated[
        bool,
        typer.Option(
            "--union",
            help="extended, optimized: as the paper, put a new BPE vocabulary of --size tokens "
            "behind the old one.",
        ),
    ] = False,
    field: Annotated[
        str,
        typer.Option(
            "--field", help="The field of JSONL, Parquet and Hub rows that holds the text."
        ),
    ] = "text",
    tokenizer_only: Annotated[
        bool, typer.Option("--tokenizer-only", help="Write no model, though BASE has weights.")
    ] = False,
    adapters: AdapterFolders = None,
) -> None:
    """Make a new vocabulary, and the base with it.

    OUT is a tokenizer for transformers and vLLM and, where BASE has weights, the model that
    continued pre-training starts from: every new row is the mean of the old rows that spelled the
    token. Sizes follow the paper (arXiv 2412.21140): bpe and unigram as large as the old
    vocabulary; extended 23,328 new tokens (46,560 for bases with more than 64,000); optimized keeps
    half and adds 0.785 new tokens for each kept one.

    \b
    lep-bench vocabulary extended meta-llama/Meta-Llama-3-8B ./llama3-ru --corpus data/*.parquet
    lep-bench vocabulary bpe ./mistral ./mistral-bpe --corpus news.txt forum.jsonl --size 32000 --tokenizer-only
    lep-bench vocabulary unigram ./mistral ./mistral-uni --corpus wikimedia/wikipedia:20231101.ru
    """
    from lep_bench import corpora, hub, plugin

    check_folder(out.parent, "OUT")
    adapter = (
        plugin.discover_adapters(adapters or ())
        .get(
            "vocabulary",
            method + UNION if union and method in ("extended", "optimized") else method,
        )
        .adapter
    )
    if union and not adapter.name.endswith(UNION):
        raise LepBenchError(f"--union: {method} has no such form; extended and optimized have")
    texts = (*(corpus or ()), *(more or ()))
    if not texts:
        raise LepBenchError(f"--corpus names nothing: give {corpora.KINDS}")
    given = {name: value for name, value in (("size", size), ("keep", keep)) if value is not None}
    corpora.parts(texts)  # a wrong name is told before anything is loaded

    from lep_bench.surgery import renewal
    from lep_bench.surgery.tokenizers import loading
    from lep_bench.surgery.vocabulary import paper_sizes

    folder = (
        hub.locate_tokenizer(base) if tokenizer_only else hub.find_local(base) or hub.locate(base)
    )
    params = _params(adapter, paper_sizes(loading.read_tokenizer(folder), adapter.name), given)
    model = not tokenizer_only and renewal.has_weights(folder)
    typer.echo(
        f"{adapter.name}: "
        f"{', '.join(f'{name} {value:,}' for name, value in params.model_dump().items()) or 'no parameters'}"
    )
    with Phases() as phases:
        digest = corpora.corpus_digest(texts)
        made = renewal.make_vocabulary(
            base,
            folder,
            out,
            adapter,
            params,
            corpora.read(texts, field),
            digest,
            model=model,
            watch=phases,
        )
    typer.echo(
        f"{made.entries:,} entries: {made.kept:,} old tokens, {made.new:,} new ones, "
        f"{made.unreachable:,} of them come out of no text"
    )
    typer.echo(f"written: {out} ({'model and tokenizer' if model else 'tokenizer only'})")


def _params(adapter: Adapter, usual: dict[str, int], given: dict[str, int]) -> Params:
    """The method's parameters. Raises LepBenchError for options that it does not have or values
    that it refuses.
    """
    from pydantic import ValidationError

    unknown = [f"--{name}" for name in given if name not in adapter.params.model_fields]
    if unknown:
        raise LepBenchError(
            f"{', '.join(unknown)}: {adapter.name} has no such parameter; it has: "
            f"{', '.join(adapter.params.model_fields) or 'none'}"
        )
    try:
        return adapter.params.model_validate({**usual, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise LepBenchError(
            f"--{first['loc'][0]} {first['input']}: {first['msg'].lower()}"
        ) from error


class Phases:
    """Shows what is being done: a running clock on a terminal, and one line for every finished
    phase.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.console = Console()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self.progress = Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        )
        self.phase, self.known, self.begin = "", "", 0.0
        self.task: Any = None

    def __enter__(self) -> Phases:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self("", "")
        self.progress.stop()

    def __call__(self, phase: str, known: str) -> None:
        """The phase that runs now, and what is known about it so far."""
        if phase != self.phase:
            if self.phase:
                line = f"{self.phase:9} {time.monotonic() - self.begin:6.1f} s  {self.known}"
                self.console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)
                self.progress.remove_task(self.task)
            self.phase, self.begin = phase, time.monotonic()
            self.task = self.progress.add_task("") if phase else None
        self.known = known
        if phase:
            self.progress.update(self.task, description=f"{phase} {known}")
