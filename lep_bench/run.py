"""Execute a plan: worker processes, jobs in order of need, failures recorded, interruption harmless."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from lep_bench import paths, worker
from lep_bench.config import Configs
from lep_bench.errors import LepBenchError
from lep_bench.plan import Node, Plan, pick, priorities
from lep_bench.store import Store
from lep_bench.worker import Event, Order


class Observer(Protocol):
    """Who watches a run: the terminal, a test."""

    def started(self, node: Node, worker: int) -> None: ...

    def event(self, node: Node, event: Event) -> None: ...


@dataclass(frozen=True)
class Hardware:
    """What a run uses; recorded, never part of a key. `workers` processes with `threads` each."""

    workers: int
    threads: int
    device: str = "cpu"

    @classmethod
    def detect(cls, workers: int | None = None) -> Hardware:
        """One worker per core up to 8 (small models gain nothing from threads), threads = cores / workers."""
        cores = paths.cores()
        count = max(1, min(workers or min(cores, 8), 64))
        return cls(count, max(1, cores // count))


@dataclass
class Outcome:
    """What came of a run: cells that failed as (model, task, why), models that could not be built and why, and seconds."""

    broken: dict[str, str] = field(default_factory=dict)
    failed: list[tuple[str, str, str]] = field(default_factory=list)
    built: int = 0
    scored: int = 0
    seconds: float = 0.0


@dataclass
class _Worker:
    number: int
    process: multiprocessing.process.BaseProcess
    connection: Connection
    lifeline: Connection
    node: Node | None = None
    group: str | None = None


class _Broken(Exception):
    """A worker met a bug of ours: carries its traceback."""


def execute(
    plan: Plan, store: Store, configs: Configs, hardware: Hardware, observer: Observer, adapters: tuple[Path, ...] = (), tasks: tuple[Path, ...] = ()
) -> Outcome:
    """Do every node of the plan. Whoever calls holds `store.lock()`.

    An adapter or task that fails is recorded as failed cells and the run goes on. Raises LepBenchError for what the
    user must mend (a full disk, a damaged checkpoint); everything finished until then is kept.
    """
    outcome = Outcome()
    begin = time.monotonic()
    if plan.nodes:
        nodes = {**{n.id: n for n in plan.cached}, **plan.nodes}
        order = Order(plan.suite.name, store, nodes, configs, adapters, tasks, hardware.threads, hardware.device, plan.engine)
        with _workers(min(hardware.workers, len(plan.nodes)), order) as crew:
            _loop(plan, order, crew, observer, outcome)
    outcome.seconds = time.monotonic() - begin
    return outcome


@contextmanager
def _workers(count: int, order: Order) -> Iterator[list[_Worker]]:
    context = multiprocessing.get_context("spawn")
    crew = []
    try:
        for number in range(count):
            ours, theirs = context.Pipe()
            # The child reads from `far` and exits when `near`, which only this process holds, is closed: kill -9 included.
            far, near = context.Pipe(duplex=False)
            process = context.Process(target=worker.main, args=(order, theirs, far), name=f"lep-bench-worker-{number}", daemon=True)
            process.start()
            theirs.close()
            far.close()
            crew.append(_Worker(number, process, ours, near))
        yield crew
        for member in crew:
            member.connection.close()  # they see the end of their orders and leave by themselves
        for member in crew:
            member.process.join(timeout=20)
    finally:
        for member in crew:
            member.connection.close()
            if member.process.is_alive():
                member.process.terminate()
        for member in crew:
            member.process.join(timeout=5)
            member.lifeline.close()  # whoever is still there dies now
            member.process.join()


def _loop(plan: Plan, order: Order, crew: list[_Worker], observer: Observer, outcome: Outcome) -> None:
    ranks = priorities(plan)
    waiting = dict(plan.nodes)
    broken: dict[str, str] = {}  # node id -> why it and all that needs it cannot be
    finished: set[str] = {node.id for node in plan.cached}
    while waiting or any(member.node for member in crew):
        for node in [n for n in waiting.values() if any(need in broken for need in n.needs)]:
            why = next(broken[need] for need in node.needs if need in broken)
            _give_up(waiting.pop(node.id), why, order, observer, outcome, broken)
        for member in crew:
            ready = [n for n in waiting.values() if all(need in finished for need in n.needs)]
            if member.node is None and ready:
                node = pick(ready, ranks, member.group, [m.group for m in crew if m is not member and m.node])
                member.node, member.group = waiting.pop(node.id), node.group
                member.connection.send(node.id)
                observer.started(node, member.number)
        busy = {m.connection: m for m in crew if m.node}
        if not busy:
            continue
        for connection in wait(list(busy), timeout=1.0):
            member = busy[connection]  # type: ignore[index]
            node = member.node
            assert node is not None
            try:
                event = member.connection.recv()
            except (EOFError, OSError):
                member.process.join(timeout=5)
                raise LepBenchError(
                    f"the worker doing {node.model} ({node.kind}) died with exit code {member.process.exitcode}, often for lack of memory: "
                    "free some or use --workers 1, and run the same command again; what was finished is kept"
                ) from None
            _hear(event, node, member, order, observer, outcome, finished, broken)


def _hear(
    event: Event, node: Node, member: _Worker, order: Order, observer: Observer, outcome: Outcome, finished: set[str], broken: dict[str, str]
) -> None:
    if event.kind == "cell":
        outcome.scored += 1
    elif event.kind == "cell-failed":
        outcome.failed.append((node.model, event.task, event.text))
    elif event.kind == "done":
        member.node = None
        finished.add(node.id)
        outcome.built += node.kind != "score"
    elif event.kind == "failed":
        member.node = None
        _give_up(node, event.text, order, observer, outcome, broken)
        return
    elif event.kind == "error":
        raise LepBenchError(f"{node.model} ({node.kind}): {event.text}")
    elif event.kind == "crash":
        raise _Broken(f"in the worker doing {node.model} ({node.kind}):\n{event.text}")
    observer.event(node, event)


def _give_up(node: Node, why: str, order: Order, observer: Observer, outcome: Outcome, broken: dict[str, str]) -> None:
    """Record a node that cannot be done: its own cells as failed, its users through the loop."""
    broken[node.id] = why
    outcome.broken.setdefault(node.model, why)
    for cell in node.cells:
        order.store.write(worker.failure(node, cell, why, order), ())
        outcome.failed.append((node.model, cell.task.name, why))
    observer.event(node, Event("failed", node.id, why))
