"""What a run shows: progress bars on a terminal, plain lines elsewhere; the dry run; the
checkpoints that are read; the list of failures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from lep_bench import hub
from lep_bench.cli.app import format_duration, print_table
from lep_bench.config.load import Configs
from lep_bench.config.models import NamedCheckpoint
from lep_bench.errors import RunFailedError, count_noun
from lep_bench.files import format_size
from lep_bench.pipeline.hardware import Hardware
from lep_bench.pipeline.plan import Node, Plan
from lep_bench.pipeline.prepare import BYTES, cache_folder

if TYPE_CHECKING:
    from lep_bench.pipeline.worker import Event


KINDS = (
    "vocabulary",
    "init",
    "instruct-init",
    "donor",
    "propagation",
    "answers",
    "tuning",
    "score",
)


class Terminal:
    """Watches a run: a bar for the whole, one per worker, and one line for every finished stage."""

    def __init__(self, plan: Plan, hardware: Hardware) -> None:
        self.console = Console(stderr=False)
        self.plan = plan
        self.workers = hardware.workers
        self.begin: dict[str, float] = {}
        self.width = max([20, *(len(f"{n.model} {n.kind}") for n in plan.nodes.values())])
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.whole: TaskID = self.progress.add_task("all stages", total=len(plan.nodes), note="")
        self.rows: dict[str, TaskID] = {}
        self.said: set[str] = set()  # why something failed: what needs it fails for the same reason

    def __enter__(self) -> Terminal:
        kinds = {
            kind: sum(node.kind == kind for node in self.plan.nodes.values()) for kind in KINDS
        }
        todo = (
            ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
            or "nothing to do"
        )
        self.console.print(
            f"{self.plan.suite.name}: {count_noun(len(self.plan.models), 'model')}; to do: {todo}; "
            f"{count_noun(self.plan.current_cells, 'cell')} current",
            highlight=False,
        )
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def started(self, node: Node, worker: int) -> None:
        """A worker took a node."""
        self.begin[node.id] = time.monotonic()
        self.rows[node.id] = self.progress.add_task(
            escape(f"  {node.model} {node.kind}"), total=None, note=""
        )

    def event(self, node: Node, event: Event) -> None:
        """Progress moves a bar; an end prints one line."""
        row = self.rows.get(node.id)
        if event.kind == "progress" and row is not None:
            note = event.text or ("" if math.isnan(event.loss) else f"loss {event.loss:.2f}")
            self.progress.update(row, completed=event.done, total=event.total, note=escape(note))
        elif event.kind in ("done", "failed"):
            if row is not None:
                self.progress.remove_task(row)
            self.progress.advance(self.whole)
            shown = escape(event.text)
            if event.kind == "failed":
                shown = "[red]failed[/red]" + ("" if event.text in self.said else f": {shown}")
                self.said.add(event.text)
            if event.text != "cached":
                name = escape(f"{node.model} {node.kind}".ljust(self.width))
                self.console.print(
                    f"{name} {event.seconds:5.1f} s  {shown}", highlight=False, soft_wrap=True
                )
        elif event.kind == "restarted":
            if row is not None:
                self.progress.remove_task(row)
            self.console.print(
                f"{escape(f'{node.model} {node.kind}')}: {escape(event.text)}",
                highlight=False,
                soft_wrap=True,
            )


def dry_run(plan: Plan, workers: int, out: Path) -> None:
    """The graph, what is cached, disk and time, and the makespan against total / workers."""
    from lep_bench.pipeline.schedule import estimate_makespan

    rows = []
    for node in sorted(
        plan.nodes.values(), key=lambda n: (n.model.split("/")[0], n.group, KINDS.index(n.kind))
    ):
        needs = (
            ", ".join(
                f"{n.partition(':')[0]}{'' if n in plan.nodes else ' (cached)'}" for n in node.needs
            )
            or "-"
        )
        cells = f"{len(node.cells)} task{'s' if node.cells[1:] else ''}" if node.cells else ""
        rows.append((node.kind, node.model, cells, needs, format_duration(node.seconds)))
    if rows:
        print_table(("stage", "makes", "cells", "needs", "estimate"), rows)
    console = Console()
    span, bound = estimate_makespan(plan, workers)
    console.print(
        f"{count_noun(len(plan.models), 'model')}, {count_noun(len(plan.nodes), 'stage')} to do, "
        f"{len(plan.cached)} cached, {count_noun(plan.cells, 'cell')} to score, "
        f"{plan.current_cells} current",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"estimate: {format_duration(span)} with {count_noun(workers, 'worker')} (total / workers "
        f"= {format_duration(bound)}), "
        f"{format_size(sum(n.bytes for n in plan.nodes.values()))} on disk in {out}",
        highlight=False,
        soft_wrap=True,
    )


def finish(failed: list[tuple[str, str, str]], left_out: int, configs: Configs, suite: str) -> None:
    """Raises RunFailedError when anything failed (the reasons stand below the table) or was left
    out.
    """
    if failed:
        setting = any("prompt_characters" in why for _, _, why in failed)
        where = (
            f" ({configs.locate_field('suites', suite, 'metadata', 'prompt_characters')})"
            if setting
            else ""
        )
        raise RunFailedError(
            f"{count_noun(len(failed), 'cell')} failed; why stands below the table{where}; the "
            "same command tries them again"
        )
    if left_out:
        raise RunFailedError(
            f"models left out for lack of a checkpoint named above: {left_out}; the same "
            "command tries them again"
        )


def show_checkpoints(checkpoints: Iterable[NamedCheckpoint], *, err: bool = False) -> None:
    """A table of them without the built-in ones, and a line per reason why ids are not verified.
    Nothing where all are built in.
    """
    rows, missing = [], 0
    reasons: dict[str, list[str]] = {}
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
