"""`leaderboard --html`: what the page needs from --out and from the tasks: artifacts, curves, and
the questions that models read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lep_bench.errors import LepBenchError

if TYPE_CHECKING:
    from lep_bench.evaluate.lmeval import Item
    from lep_bench.leaderboard.table import Table
    from lep_bench.pipeline.session import Session
    from lep_bench.records.schema import TaskResult


def write(
    given: Session, table: Table, results: Sequence[TaskResult], folder: Path, samples: int
) -> None:
    """Write the page of a table to `folder` and say where it is. Raises LepBenchError."""
    from lep_bench.leaderboard import curves
    from lep_bench.leaderboard.html import site

    made = curves.read_lineage(given.store, results)
    file = site.write_site(
        folder,
        table,
        results,
        given.store.read_samples,
        artifacts=made,
        curves=curves.make_curves(made),
        most=samples,
        questions=questions(given),
        drawn=given.store.leaderboard(given.suite.name),
    )
    typer.echo(f"page:        {file} ({file.stat().st_size / 1e6:.1f} MB)", err=True)


def questions(
    given: Session,
) -> Callable[[TaskResult, Sequence[int]], Mapping[tuple[int, str], str]]:
    """How the page gets a task's questions: compiled again as the result's model was asked, without
    weights. Where that cannot be done (rows or tokenizer are not here) there are none, and the page
    says which command shows them."""

    def read(result: TaskResult, rows: Sequence[int]) -> dict[tuple[int, str], str]:
        from lep_bench import tasks
        from lep_bench.cli.prompts import found
        from lep_bench.evaluate.lmeval import compile_tasks
        from lep_bench.pipeline.plan import choose_scoring

        try:
            task = tasks.scan_tasks(given.task_folders).get(result.task)
            # local/NAME is found by its place only
            name = result.model.lineage[0] if result.model.stage == "local" else result.model.name
            spec, folder = found(
                name, task, given.suite, given.configs, given.registry, given.store.root
            )
            conversation, scoring = choose_scoring(
                given.suite, spec, given.configs.family(spec.family) if spec.family else None
            )
            (compiled,) = compile_tasks(
                [task.name],
                folder,
                conversation,
                limit=max(rows) + 1,
                task_folders=given.task_folders,
                metadata=scoring.passed_on(),
                prove=False,
            )
        except LepBenchError as error:
            typer.echo(f"{result.task}: no questions on the page: {error}", err=True)
            return {}
        wanted = set(rows)
        return {
            (item.doc_id, item.doc_hash): text
            for item in compiled.items
            if item.doc_id in wanted and (text := _asked(item))
        }

    return read


def _asked(item: Item) -> str:
    """What the model read, roles before their messages; the options below. Empty for running text:
    the sample itself has it.
    """
    parts = []
    for prompt in item.prompts:
        said = (
            [f"{m['role']}: {m['content']}" for m in prompt.messages]
            if prompt.messages
            else [prompt.text]
        )
        parts.append("\n".join(said))
    text = "\n\n".join(parts).strip()
    return "\n".join([text, *(f"— {option}" for option in item.options)]) if text else ""
