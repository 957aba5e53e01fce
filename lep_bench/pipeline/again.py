"""The commands that make a leaderboard's results again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lep_bench import files
from lep_bench.config.models import list_all_names
from lep_bench.records.schema import ModelRecord, TaskResult

if TYPE_CHECKING:
    from lep_bench.pipeline.session import Session


def reproduce_commands(
    given: Session, results: Sequence[TaskResult], data: Path | None
) -> tuple[str, ...]:
    """One `lep-bench run` for each engine, number format and row limit among the results; `data`
    and the other folders as they were given.

    None where a run of all models without any option does it: what a page says that names no
    commands.
    """
    # in `given` a --dtype took the place of the suite's own
    suite = given.configs.suite(given.suite.name)
    usual = list_all_names(suite, given.configs, given.registry)
    groups: dict[tuple[str, str, int | None], list[TaskResult]] = {}
    for result in results:
        groups.setdefault(
            (result.provenance.engine, result.scoring.dtype, result.scoring.limit), []
        ).append(result)
    made = []
    for (engine, dtype, limit), own in groups.items():
        names = list(dict.fromkeys(_name(result.model) for result in own))
        models = (
            ["all", *(name for name in names if name not in usual)]
            if usual and usual <= set(names)
            else names
        )
        asked, seeds = {result.task for result in own}, 1 + max(result.model.seed for result in own)
        options = {
            "--tasks": None
            if asked == set(suite.tasks)
            else ",".join(task for task in suite.tasks if task in asked),
            "--limit": limit,
            "--seeds": None if seeds == suite.seeds else seeds,
            "--dtype": None if dtype == suite.dtype or engine == "api" else dtype,
            "--url": own[0].provenance.hardware.get("server", "URL") if engine == "api" else None,
            "--data": data,
        }
        words = [
            word
            for option, value in options.items()
            if value is not None
            for word in (option, str(value))
        ]
        words += _folders(given)
        if (models, words, engine) != (["all"], [], "hf") or len(groups) > 1:
            made.append(
                shlex.join(
                    [
                        "lep-bench",
                        "run",
                        "--suite",
                        suite.name,
                        "--models",
                        ",".join(models),
                        "--engine",
                        engine,
                        *words,
                    ]
                )
            )
    return tuple(made)


def _name(model: ModelRecord) -> str:
    """As --models takes it: a folder below the one where we are by its relative path."""
    if model.stage != "local":
        return model.name
    place = Path(model.lineage[0])
    return (
        f"./{place.relative_to(Path.cwd())}"
        if place.is_absolute() and place.is_relative_to(Path.cwd())
        else model.lineage[0]
    )


def _folders(given: Session) -> list[str]:
    own = [
        ("--configs", folder)
        for folder in given.configs.folders
        if folder != files.shipped_folder("configs")
    ]
    own += [("--adapters", folder) for folder in given.adapter_folders]
    # lm-eval's own follow from the suite
    own += [
        ("--tasks-dir", folder) for folder in given.task_folders if "lm_eval" not in folder.parts
    ]
    return [word for option, folder in own for word in (option, str(folder))]
