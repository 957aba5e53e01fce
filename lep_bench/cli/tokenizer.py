"""Tokenizers side by side: tokenizer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lep_bench.cli.app import app, check_folder, print_table
from lep_bench.errors import LepBenchError

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
    "COME BACK",
)


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
            help="What to cut: text (a document a line), JSONL or Parquet (repeatable).",
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
            help="Draw symbols per token: .png or .svg.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare tokenizers on a text.

    Symbols per token (more is better: less to compute for the same text), tokens per word, bytes
    per token; CYRILLIC is the share of the vocabulary with a Cyrillic letter, USED the share that
    the text needs, COME BACK how many documents decode to themselves. Tokens that a tokenizer sets
    by itself (BOS) are not counted. Without --text a few Russian and English sentences are cut,
    enough for a first look only.

    \b
    lep-bench tokenizer builtin:mini-llama/base builtin:mini-mistral/base
    lep-bench tokenizer ./base ./donor --text news.txt --text forum.jsonl --json figures.json --plot figures.svg
    """
    from lep_bench import corpora, files, hub

    for file, option in ((json_file, "--json"), (plot, "--plot")):
        if file is not None and check_folder(file.parent, option) and file.is_dir():
            raise LepBenchError(f"{option} {file} is a folder: give a file in it")
    if plot is not None and plot.suffix not in PLOTS:
        raise LepBenchError(f"--plot {plot}: give a name that ends in {' or '.join(PLOTS)}")
    if text:
        next(corpora.read(tuple(text)))  # what is wrong with it is said before anything is loaded
    places = [hub.locate_tokenizer(folder) for folder in folders]

    from lep_bench.surgery.tokenizers import segmentation

    found = [
        segmentation.measure_segmentation(
            place, corpora.read(tuple(text)) if text else segmentation.SAMPLE, name
        )
        for place, name in zip(places, _names(folders), strict=True)
    ]
    print_table(COLUMNS, map(_row, found))
    first = found[0]
    counts = (
        f"{first.documents:,} documents, {first.words:,} words, {first.characters:,} characters, "
        f"{first.bytes:,} bytes"
    )
    typer.echo(f"text: {', '.join(text) if text else 'a built-in sample'}: {counts}")
    for one in found:
        for remark in (*one.notes, *([one.difference] if one.difference else [])):
            typer.echo(f"{one.name}: {remark}")
    if json_file is not None:
        files.write_json(
            json_file, {"text": text or [], "tokenizers": [one.record() for one in found]}
        )
        typer.echo(f"written: {json_file}")
    if plot is not None:
        files.write_bytes(plot, _drawn(found, plot.suffix[1:]))
        typer.echo(f"written: {plot}")


def _names(folders: Sequence[str]) -> list[str]:
    """Folder names where they tell the tokenizers apart, else what was given."""
    short = [
        folder if ":" in folder or not Path(folder).is_dir() else Path(folder).resolve().name
        for folder in folders
    ]
    return [
        own if short.count(own) == 1 else folder for own, folder in zip(short, folders, strict=True)
    ]


def _row(one: Segmentation) -> list[str]:
    figures = one.record()
    ratios = [
        f"{figures[name]:.2f}"
        for name in ("symbols_per_token", "tokens_per_word", "bytes_per_token")
    ]
    shares = [f"{100 * figures[name]:.1f}%" for name in ("cyrillic_share", "used_share")]
    return [
        one.name,
        one.kind,
        f"{one.vocabulary:,}",
        f"{one.specials:,}",
        shares[0],
        *ratios,
        shares[1],
        f"{one.exact:,} of {one.documents:,}",
    ]


def _drawn(found: Sequence[Segmentation], kind: str) -> bytes:
    """A bar per tokenizer, the first on top."""
    import matplotlib
    from matplotlib.figure import Figure

    values = [one.characters / one.tokens for one in found]
    figure = Figure(figsize=(7.0, 1.3 + 0.42 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(found)), values, height=0.62, color="#3b6ea5")
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=4)
    axes.set_yticks(range(len(found)), [f"{one.name}  ({one.vocabulary:,})" for one in found])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(values))
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(
        f"symbols per token (vocabulary size in brackets)\n{found[0].documents:,} documents, "
        f"{found[0].characters:,} characters"
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
