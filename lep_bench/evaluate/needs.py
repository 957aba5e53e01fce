"""Which rows tasks read, and whether they can be read: for bundles and the check before one goes offline."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lep_bench import bundle
from lep_bench.errors import TaskError, reason
from lep_bench.taskfiles import TaskFile


class NotFetched(TaskError):
    """Rows that are not here, and no way to the Hub for them."""


def files(task: TaskFile, folders: Sequence[Path], metadata: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What the task's own `files()` says: {"dataset", "revision", "config", "split", "role", "licence", "named", "patterns", "sha256"}
    for each part of a dataset; None for a task without it. Reads no rows. Raises TaskError for a task that cannot be built."""
    built = build(task, folders, metadata)
    return list(built.files()) if hasattr(built, "files") else None


def rows(task: TaskFile, folders: Sequence[Path], metadata: dict[str, Any]) -> int:
    """How many rows the task asks, after every row of it was read. Raises TaskError in one line when they cannot be read, NotFetched
    when there is no way to them."""
    look_for_hub(task)
    built = build(task, folders, metadata)
    shots = getattr(built.config.fewshot_config, "split", None)
    with clear_row_errors(task):
        count, examples = len(list(built.eval_docs)), len(built.dataset[shots]) if shots else None
    if not count or examples == 0:
        raise TaskError(f"{task.name}: its {'test' if not count else shots} split has no rows")
    return count


@contextlib.contextmanager
def clear_row_errors(task: TaskFile) -> Iterator[None]:
    """Turn what reading rows raises into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = reason(error)
        raise _kind(error)(why if why.startswith(f"{task.name}: ") else f"{task.name}: its rows cannot be read: {why}") from error


def build(task: TaskFile, folders: Sequence[Path], metadata: dict[str, Any]) -> Any:
    """The lm-eval task. One without a class of its own reads its dataset at once: the data folder's copy where there is one."""
    from lep_bench.evaluate.compiling import _quiet

    with _quiet():
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False, metadata=metadata)
        try:
            return next(iter(manager.load([spec(task)])["tasks"].values()))
        except Exception as error:  # a task's code and the datasets library: whatever they raise is theirs
            raise _kind(error)(f"task {task.name} ({task.path}) cannot be loaded: {reason(error)}") from error


def spec(task: TaskFile) -> str | dict[str, Any]:
    """How lm-eval is asked for a task: by name, or with its dataset in the data folder instead of on the Hub.

    The `datasets` library does not look into the Hub's cache when it is offline; a folder in the Hub's layout it reads
    anywhere. lm-eval takes changes of a known task only as the member of a group.
    """
    folder = bundle.dataset(task.dataset[0]) if task.dataset and not task.own_class else None
    return {"group": f"{task.name}-here", "task": [{"task": task.name, "dataset_path": str(folder)}]} if folder else task.name


def look_for_hub(task: TaskFile) -> None:
    """Before a task's rows are asked of the Hub: where it cannot be reached, this process and all that it starts are offline from now on.

    Without this the `datasets` library tries six times, in half a minute, for every dataset.
    """
    from huggingface_hub import constants

    name = task.dataset[0] if task.dataset else ""
    if constants.HF_HUB_OFFLINE or not bundle.HUB_ID.fullmatch(name) or bundle.dataset(name) or (task.own_class and bundle.given()):
        return
    if not _answers(constants.ENDPOINT):
        import datasets

        print(f"{constants.ENDPOINT} cannot be reached: only rows that are here already are read", file=sys.stderr)
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        os.environ.update(dict.fromkeys(bundle.OFFLINE, "1"))


@cache
def _answers(endpoint: str) -> bool:
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=5)  # whatever it answers
    except Exception as error:
        if not _of_network(error):
            raise
        return False
    return True


def _kind(error: BaseException) -> type[TaskError]:
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    return NotFetched if any(map(_of_network, chain)) else TaskError


def _of_network(error: BaseException) -> bool:
    """Whether a library says that it could not ask the Hub, or was told not to."""
    name = type(error).__name__
    return type(error).__module__.startswith("httpx") or name in ("ConnectionError", "LocalEntryNotFoundError", "OfflineModeIsEnabled")
