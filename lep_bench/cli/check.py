"""Looking at checkpoints and tokenizers: check, tokenizer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lep_bench.cli.app import app, print_table
from lep_bench.errors import CheckpointError, LepBenchError, count_noun
from lep_bench.files import check_folder

if TYPE_CHECKING:
    from lep_bench.surgery.tokenizers.segmentation import Segmentation

PLOTS = (".png", ".svg")
COLUMNS = (
    "TOKENIZER",
    "KIND",
    "VOCABULARY",
    "SPECIALS",
    "CYRILLIC",
    "SYMBOLS/TOKEN",
    "TOKENS/WORD",
    "BYTES/TOKEN",
    "USED",
    "ROUND TRIP",
)


@app.command()
def check(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR...",
            help="Checkpoints, patches, tokenizers: folders, Hub ids or builtin:FAMILY/base.",
        ),
    ],
) -> None:
    """Check checkpoints for what vocabulary surgery breaks.

    Compares the weights with the tokenizer, the configs and the chat template, and with the model
    they were made from: sizes, rows, special tokens, end-of-sequence tokens, merges, and how
    transformers loads the tokenizer. Any checkpoint will do; more is checked in one that lep-bench
    wrote.

    error: the model cannot work as it should; warning: look at it; note: good to know. Each line
    says what, where, and how to fix it. Exit code 1 if there are errors, else 0. Only headers,
    embedding and head are read: 1 GB for an 8B model.

    \b
    lep-bench check ./openchat-ru
    lep-bench check builtin:mini-llama/base builtin:mini-llama/instruct
    """
    from lep_bench import hub

    places = [hub.find_local(folder) or hub.locate(folder) for folder in folders]

    from lep_bench.surgery import check as checks
    from lep_bench.surgery.check.findings import LEVELS

    has_errors = False
    for name, place in zip(folders, places, strict=True):
        try:
            lines = [(finding.level, str(finding)) for finding in checks.check_folder(place)]
        except CheckpointError as error:  # unreadable: the next folder is still checked
            lines = [("error", f"error: {error}")]
        for _, line in lines:
            typer.echo(line)
        counts = {level: sum(line[0] == level for line in lines) for level in LEVELS}
        summary = ", ".join(
            count_noun(count, level) for level, count in counts.items() if count or level != "note"
        )
        typer.echo(f"{name}: {'not sound' if counts['error'] else 'sound'}: {summary}")
        has_errors |= counts["error"] > 0
    if has_errors:
        raise typer.Exit(1)


@app.command()
def tokenizer(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR...", help="Folders with a tokenizer, Hub ids, or builtin:FAMILY/base."
        ),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="The text to tokenize: plain (a document a line), JSONL or Parquet (repeatable).",
            show_default=False,
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures here.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Plot symbols per token: .png or .svg.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare tokenizers on a text.

    Symbols per token (more is better: fewer tokens for the same text), tokens per word, bytes per
    token. CYRILLIC is the share of the vocabulary that has a Cyrillic letter. USED is the share
    that the text needs. ROUND TRIP counts the documents that decode to themselves. Tokens that a
    tokenizer adds by itself (BOS) are not counted. Without --text, a few Russian and English
    sentences are used: enough for a first look only.

    \b
    lep-bench tokenizer builtin:mini-llama/base builtin:mini-mistral/base
    lep-bench tokenizer ./base ./donor --text news.txt --json figures.json --plot figures.svg
    """
    from lep_bench import corpora, files, hub

    for file, option in ((json_file, "--json"), (plot, "--plot")):
        if file is not None and check_folder(file.parent, option) and file.is_dir():
            raise LepBenchError(f"{option} {file} is a folder: give a file in it")
    if plot is not None and plot.suffix not in PLOTS:
        raise LepBenchError(f"--plot {plot}: give a name that ends in {' or '.join(PLOTS)}")
    if text:
        next(corpora.read(tuple(text)))  # a wrong text is reported before anything is loaded
    places = [hub.locate_tokenizer(folder) for folder in folders]

    from lep_bench.surgery.tokenizers import segmentation

    rows = [
        segmentation.measure_segmentation(
            place, corpora.read(tuple(text)) if text else segmentation.SAMPLE, name
        )
        for place, name in zip(places, _shorten_names(folders), strict=True)
    ]
    print_table(COLUMNS, map(_format_row, rows))
    first = rows[0]
    typer.echo(
        f"text: {', '.join(text) if text else 'a built-in sample'}: {first.documents:,} documents, "
        f"{first.words:,} words, {first.characters:,} characters, {first.bytes:,} bytes"
    )
    for row in rows:
        for remark in (*row.notes, *([row.difference] if row.difference else [])):
            typer.echo(f"{row.name}: {remark}")
    if json_file is not None:
        files.write_json(
            json_file, {"text": text or [], "tokenizers": [row.record() for row in rows]}
        )
        typer.echo(f"written: {json_file}")
    if plot is not None:
        files.write_bytes(plot, _plot_symbols(rows, plot.suffix[1:]))
        typer.echo(f"written: {plot}")


def _shorten_names(folders: Sequence[str]) -> list[str]:
    """The folders' own names where these tell the tokenizers apart, else the whole paths."""
    short = [
        folder if ":" in folder or not Path(folder).is_dir() else Path(folder).resolve().name
        for folder in folders
    ]
    return [
        name if short.count(name) == 1 else folder
        for name, folder in zip(short, folders, strict=True)
    ]


def _format_row(row: Segmentation) -> list[str]:
    figures = row.record()
    ratios = [
        f"{figures[name]:.2f}"
        for name in ("symbols_per_token", "tokens_per_word", "bytes_per_token")
    ]
    return [
        row.name,
        row.kind,
        f"{row.vocabulary:,}",
        f"{row.specials:,}",
        f"{100 * figures['cyrillic_share']:.1f}%",
        *ratios,
        f"{100 * figures['used_share']:.1f}%",
        f"{row.exact:,} of {row.documents:,}",
    ]


def _plot_symbols(rows: Sequence[Segmentation], kind: str) -> bytes:
    """A bar chart of symbols per token, the first tokenizer on top."""
    import matplotlib
    from matplotlib.figure import Figure

    values = [row.characters / row.tokens for row in rows]
    figure = Figure(figsize=(7.0, 1.3 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(rows)), values, height=0.62, color="#3b6ea5")
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=4)
    axes.set_yticks(range(len(rows)), [f"{row.name}  ({row.vocabulary:,})" for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(values))
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(
        f"symbols per token (vocabulary size in brackets)\n{rows[0].documents:,} documents, "
        f"{rows[0].characters:,} characters"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    # text stays text; equal figures, equal bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lep-bench"}):
        buffer = io.BytesIO()
        figure.savefig(
            buffer,
            format=kind,
            dpi=200,
            metadata={"Date": None} if kind == "svg" else {"Software": None},
        )
    return buffer.getvalue()
