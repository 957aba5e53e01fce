"""Which rows tasks read, and whether they can be read: for bundles and the check before one goes
offline.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lep_bench import bundle, hub
from lep_bench.errors import TaskError, explain_error
from lep_bench.files import text_digest
from lep_bench.tasks import TaskFile, scan_tasks

if TYPE_CHECKING:
    from lep_bench.config.schema import Suite


def build_metadata(suite: Suite) -> dict[str, Any]:
    """What a suite's tasks are given in a run, as far as it decides which rows they read."""
    return {**suite.metadata, "protocol": suite.protocol}


class RowsNotFetchedError(TaskError):
    """Rows that are not here, and no way to the Hub for them."""


def list_files(
    task: TaskFile, folders: Sequence[Path], metadata: dict[str, Any]
) -> list[dict[str, Any]] | None:
    """What the task's own `files()` says: {"dataset", "revision", "config", "split", "role",
    "licence", "named", "patterns", "sha256"} for each part of a dataset; None for a task without
    it. Reads no rows. Raises TaskError for a task that cannot be built."""
    built = build_task(task, folders, metadata)
    return list(built.files()) if hasattr(built, "files") else None


def count_rows(task: TaskFile, folders: Sequence[Path], metadata: dict[str, Any]) -> int:
    """How many rows the task asks, after every row of it was read. Raises TaskError in one line
    when they cannot be read, RowsNotFetchedError when there is no way to them."""
    if task.dataset:
        hub.go_offline_if_unreachable(task.dataset[0], task.own_class)
    built = build_task(task, folders, metadata)
    shots = getattr(built.config.fewshot_config, "split", None)
    with explain_row_errors(task):
        count, examples = len(list(built.eval_docs)), len(built.dataset[shots]) if shots else None
    if not count or examples == 0:
        raise TaskError(f"{task.name}: its {'test' if not count else shots} split has no rows")
    return count


@contextlib.contextmanager
def explain_row_errors(task: TaskFile) -> Iterator[None]:
    """Turn what reading rows raises into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = explain_error(error)
        raise _error_class(error)(
            why
            if why.startswith(f"{task.name}: ")
            else f"{task.name}: its rows cannot be read: {why}"
        ) from error


def build_task(task: TaskFile, folders: Sequence[Path], metadata: dict[str, Any]) -> Any:
    """The lm-eval task. One without a class of its own reads its dataset at once: the data folder's
    copy where there is one.
    """

    with quiet_lm_eval():
        from lm_eval.tasks import TaskManager

        manager = TaskManager(
            include_path=[str(folder) for folder in folders],
            include_defaults=False,
            metadata=metadata,
        )
        try:
            return next(iter(manager.load([task_request(task)])["tasks"].values()))
        except (
            Exception
        ) as error:  # a task's code and the datasets library: whatever they raise is theirs
            raise _error_class(error)(
                f"task {task.name} ({task.path}) cannot be loaded: {explain_error(error)}"
            ) from error


def task_request(task: TaskFile) -> str | dict[str, Any]:
    """How lm-eval is asked for a task: by name, or with its dataset in the data folder instead of
    on the Hub.

    The `datasets` library does not look into the Hub's cache when it is offline; a folder in the
    Hub's layout it reads anywhere. lm-eval takes changes of a known task only as the member of a
    group.
    """
    folder = bundle.locate_dataset(task.dataset[0]) if task.dataset and not task.own_class else None
    return (
        {"group": f"{task.name}-here", "task": [{"task": task.name, "dataset_path": str(folder)}]}
        if folder
        else task.name
    )


def _error_class(error: BaseException) -> type[TaskError]:
    chain = [error]
    while (
        before := chain[-1].__cause__ or chain[-1].__context__
    ) is not None and before not in chain:
        chain.append(before)
    return RowsNotFetchedError if any(map(hub.is_network_error, chain)) else TaskError


def read_evaluation_rows(
    names: Sequence[str], task_folders: Sequence[Path], metadata: dict[str, Any]
) -> Iterator[tuple[str, int, str, Any]]:
    """(task, doc_id, doc_hash, row) of every row of the named tasks, numbered and hashed as in
    their samples.

    `metadata` as in a run (protocol, data): it decides which rows there are. Raises
    UnknownNameError for a task that does not exist, TaskError for one whose rows cannot be read.
    """

    known = scan_tasks(task_folders)
    for task in [known.get(name) for name in names]:
        if task.dataset:
            hub.go_offline_if_unreachable(task.dataset[0], task.own_class)
        built = build_task(task, known.folders, metadata)
        with explain_row_errors(task):
            rows = list(built.eval_docs)
        yield from ((task.name, number, doc_digest(row), row) for number, row in enumerate(rows))


def doc_digest(doc: Any) -> str:
    """Hash of a row, the same for every model and engine."""
    return text_digest(json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str))


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """lm-eval draws a progress bar and logs lines for every task: ours is one line for all."""
    import datasets
    import lm_eval.api.task as module
    from tqdm import tqdm

    logger, bar = logging.getLogger("lm_eval"), module.tqdm
    level = logger.level
    bars = datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    module.tqdm = lambda *args, **kwargs: tqdm(*args, **{**kwargs, "disable": True})
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        module.tqdm = bar
        if not bars:
            datasets.enable_progress_bars()
