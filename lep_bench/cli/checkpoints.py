"""A table of the checkpoints that a run reads: here or to be fetched, how large, gated,
unverified.
"""

from __future__ import annotations

from collections.abc import Iterable

import typer

from lep_bench import hub
from lep_bench.cli.app import print_table
from lep_bench.config.models import NamedCheckpoint
from lep_bench.files import format_size
from lep_bench.pipeline.checkpoints import BYTES, cache_folder


def show_checkpoints(checkpoints: Iterable[NamedCheckpoint], *, err: bool = False) -> None:
    """A table of them without the built-in ones, and a line per reason why ids are not verified.
    Nothing where all are built in.
    """
    rows, reasons, missing = [], {}, 0
    for c in {
        (c.location, c.revision): c for c in checkpoints if not c.location.startswith(hub.BUILTIN)
    }.values():
        here = hub.find_cached(c.location, c.revision) is not None
        count = (
            hub.count_parameters(c.location) if hub.find_local(c.location) else c.parameters or 0
        )
        missing += 0 if here else count * BYTES
        marks = ", ".join(name for name in ("gated", "unverified") if getattr(c, name))
        newest = "-" if hub.find_local(c.location) else "newest"
        rows.append(
            (
                "here" if here else "to fetch",
                format_size(count * BYTES) if count else "?",
                marks,
                c.revision or newest,
                c.location,
            )
        )
        if c.unverified:
            reasons.setdefault(c.unverified, []).append(c.location)
    if not rows:
        return
    typer.echo(err=err)
    print_table(["STATE", "SIZE", "MARKS", "REVISION", "CHECKPOINT"], rows, err=err)
    if missing:
        typer.echo(f"to fetch: about {format_size(missing)} into {cache_folder()}", err=err)
    for reason, locations in reasons.items():
        typer.echo(f"unverified: {', '.join(locations)}: {reason}", err=err)
