"""Which checkpoints a run reads: here or to be fetched, how large, gated, unverified; and fetching
them before the work.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import typer

from lep_bench import hub
from lep_bench.cli.app import format_size, print_table
from lep_bench.config.models import NamedCheckpoint
from lep_bench.errors import CheckpointError
from lep_bench.pipeline.plan import Plan

BYTES = 2  # per parameter: published checkpoints are bfloat16 or float16


def of_plan(plan: Plan, named: Iterable[NamedCheckpoint]) -> dict[str, NamedCheckpoint]:
    """By reference, what the plan's nodes read: with all that the configs know about it (`named`),
    else only its location.
    """
    known = {hub.format_reference(c.location, c.revision): c for c in named}
    read = {reference for node in plan.nodes.values() for reference in plan.reads(node)}
    given = {
        reference: NamedCheckpoint("", *hub.parse_reference(reference))
        for reference in sorted(read - known.keys())
    }
    return {reference: c for reference, c in (known | given).items() if reference in read}


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
        typer.echo(f"to fetch: about {format_size(missing)} into {_folder()}", err=err)
    for reason, locations in reasons.items():
        typer.echo(f"unverified: {', '.join(locations)}: {reason}", err=err)


def fetch(checkpoints: dict[str, NamedCheckpoint]) -> dict[str, str]:
    """Fetch what is not here. For what cannot be had, or would not fit on the disk with the rest:
    reference -> why, in one line.
    """
    wanted = {
        reference: c
        for reference, c in checkpoints.items()
        if hub.find_cached(c.location, c.revision) is None
    }
    need, folder = sum(c.parameters or 0 for c in wanted.values()) * BYTES, _folder()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    missing: dict[str, str] = {}
    reachable = True
    for reference, c in wanted.items():
        try:
            # offline nothing is fetched
            if need > free and os.environ.get("HF_HUB_OFFLINE") != "1":
                raise CheckpointError(
                    f"{c.location}: {format_size(need)} are to be fetched in all, "
                    f"{format_size(free)} are free in {folder}: set HF_HOME, or fetch less"
                )
            if not reachable:
                raise hub.HubUnreachableError.of(c.location)
            hub.locate(c.location, c.revision)
        except CheckpointError as error:
            reachable = reachable and not isinstance(error, hub.HubUnreachableError)
            missing[reference] = str(error)
    return missing


def _folder() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)
