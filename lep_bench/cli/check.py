"""Checking checkpoints: check."""

from __future__ import annotations

from typing import Annotated

import typer

from lep_bench.cli.app import app
from lep_bench.errors import CheckpointError


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
    """Check models for what breaks in vocabulary surgery.

    Weights against tokenizer, configs and chat template, and against the model they were made from:
    sizes, rows, special tokens, ends, merges, what transformers makes of the tokenizer. Works on
    any checkpoint; what we made is held to more.

    error: the model does not do what it should; warning: look at it; note: good to know. Every line
    says what, where, and how to mend it. Ends with 1 when there are errors, else with 0. Reads
    headers, embedding and head: an 8B model in 1 GB.

    \b
    lep-bench check ./openchat-ru
    lep-bench check builtin:mini-llama/base builtin:mini-llama/instruct
    """
    from lep_bench import hub

    places = [hub.find_local(folder) or hub.locate(folder) for folder in folders]

    from lep_bench.surgery.check import check_folder as findings
    from lep_bench.surgery.check.findings import LEVELS

    broken = False
    for name, place in zip(folders, places, strict=True):
        try:
            lines = [(finding.level, str(finding)) for finding in findings(place)]
        except (
            CheckpointError
        ) as error:  # not even readable: the next folder is looked at all the same
            lines = [("error", f"error: {error}")]
        for _, line in lines:
            typer.echo(line)
        counts = {level: sum(found == level for found, _ in lines) for level in LEVELS}
        listed = ", ".join(
            f"{n} {level}{'' if n == 1 else 's'}"
            for level, n in counts.items()
            if n or level != "note"
        )
        typer.echo(f"{name}: {'not sound' if counts['error'] else 'sound'}: {listed}")
        broken |= counts["error"] > 0
    if broken:
        raise typer.Exit(1)
