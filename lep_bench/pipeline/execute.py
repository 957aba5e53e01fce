"""Execute a plan: worker processes, jobs in order of need, failures recorded, interruption
harmless.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from lep_bench import files
from lep_bench.config.load import Configs
from lep_bench.errors import LepBenchError
from lep_bench.pipeline.hardware import Hardware
from lep_bench.pipeline.plan import Node, Outcome, Plan
from lep_bench.pipeline.schedule import Seat, pick_node, rank_nodes
from lep_bench.pipeline.worker import Event, Order, record_failed_cell, run_worker
from lep_bench.records.store import Store


class Observer(Protocol):
    """Who watches a run: the terminal, a test."""

    def started(self, node: Node, worker: int) -> None: ...

    def event(self, node: Node, event: Event) -> None: ...


class Unobserved:
    """Nobody watches."""

    def __init__(self, plan: Plan, hardware: Hardware) -> None: ...

    def __enter__(self) -> Unobserved:
        return self

    def __exit__(self, *_: object) -> None: ...

    def started(self, node: Node, worker: int) -> None: ...

    def event(self, node: Node, event: Event) -> None: ...


@dataclass
class _Worker:
    number: int
    process: multiprocessing.process.BaseProcess
    connection: Connection
    lifeline: Connection
    node: Node | None = None
    seat: Seat = Seat()


class _WorkerCrashed(Exception):
    """A worker met a bug of ours: carries its traceback."""


def execute_plan(
    plan: Plan,
    store: Store,
    configs: Configs,
    hardware: Hardware,
    observer: Observer,
    adapters: tuple[Path, ...] = (),
    tasks: tuple[Path, ...] = (),
    meanwhile: Callable[[], None] = lambda: None,
) -> Outcome:
    """Do every node of the plan. Whoever calls holds `store.lock()`. `meanwhile` is called while
    the workers start; what it raises ends the run.

    An adapter or task that fails is recorded as failed cells and the run goes on; so is a model
    whose worker dies twice. Raises LepBenchError for what the user must mend (a full disk, a
    damaged checkpoint); everything finished until then is kept.
    """
    outcome = Outcome()
    begin = time.monotonic()
    if plan.nodes:
        nodes = {**{n.id: n for n in plan.cached}, **plan.nodes}
        order = Order(plan.suite.name, store, nodes, configs, adapters, tasks, hardware)
        with _start_workers(min(hardware.workers, len(plan.nodes)), order) as crew:
            meanwhile()
            run = _Execution(plan, order, crew, observer, outcome)
            run.go()
        if run.deaths:
            files.remove_unfinished(store.root)
    outcome.seconds = time.monotonic() - begin
    return outcome


def _start_worker(number: int, order: Order) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # The child reads from `far` and exits when `near`, which only this process holds, is closed:
    # kill -9 included.
    far, near = context.Pipe(duplex=False)
    # A daemon may have no children; a vLLM on several GPUs has one on each, and ends them with
    # itself.
    daemon = len(order.hardware.seen_by(number)) < 2
    process = context.Process(
        target=run_worker,
        args=(order, theirs, far, number),
        name=f"lep-bench-worker-{number}",
        daemon=daemon,
    )
    process.start()
    theirs.close()
    far.close()
    return _Worker(number, process, ours, near)


@contextmanager
def _start_workers(count: int, order: Order) -> Iterator[list[_Worker]]:
    crew: list[_Worker] = []
    try:
        for number in range(count):
            crew.append(_start_worker(number, order))
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


class _Execution:
    """The nodes of a plan, given to a crew one by one in order of need."""

    def __init__(
        self, plan: Plan, order: Order, crew: list[_Worker], observer: Observer, outcome: Outcome
    ) -> None:
        self.order, self.crew, self.observer, self.outcome = order, crew, observer, outcome
        self.ranks = rank_nodes(plan)
        self.waiting = dict(plan.nodes)
        self.finished: set[str] = {node.id for node in plan.cached}
        self.broken: dict[str, str] = {}  # node id -> why it and all that needs it cannot be
        self.deaths: set[str] = set()  # nodes that a worker died of
        self.heard: dict[str, set[str]] = {}  # score node -> its tasks that are written

    def go(self) -> None:
        """Until every node is finished or broken."""
        while self.waiting or any(member.node for member in self.crew):
            for node in [
                n for n in self.waiting.values() if any(need in self.broken for need in n.needs)
            ]:
                self.give_up(
                    self.waiting.pop(node.id),
                    next(self.broken[need] for need in node.needs if need in self.broken),
                )
            for member in self.crew:
                ready = [
                    n
                    for n in self.waiting.values()
                    if all(need in self.finished for need in n.needs)
                ]
                if member.node is None and ready:
                    node = pick_node(
                        ready,
                        self.ranks,
                        member.seat,
                        [m.seat for m in self.crew if m is not member],
                    )
                    self.give(member, self.waiting.pop(node.id))
            busy = {m.connection: m for m in self.crew if m.node}
            for connection in wait(list(busy), timeout=1.0) if busy else ():
                member = busy[connection]  # type: ignore[index]
                try:
                    event = member.connection.recv()
                except (EOFError, OSError):
                    member.process.join(timeout=5)
                    self.died(
                        member, f"exit code {member.process.exitcode}, often for lack of memory"
                    )
                else:
                    self.hear(event, member)

    def give(self, member: _Worker, node: Node) -> None:
        """Let a worker do a node."""
        member.node, member.seat = node, member.seat.after(node)
        try:
            member.connection.send(node.id)
        except OSError:
            pass  # it died while it had nothing to do: the loop reads the end of its connection
        self.observer.started(node, member.number)

    def hear(self, event: Event, member: _Worker) -> None:
        """What a worker says about its node."""
        node = member.node
        assert node is not None
        if event.kind in ("cell", "cell-failed"):
            self.heard.setdefault(node.id, set()).add(event.task)
            if event.kind == "cell":
                self.outcome.scored += 1
            else:
                self.outcome.failed.append((node.model, event.task, event.text))
        elif event.kind == "done":
            member.node = None
            self.finished.add(node.id)
            self.outcome.built += node.kind != "score"
        elif event.kind == "failed":
            member.node = None
            self.give_up(node, event.text)
            return
        elif event.kind == "lost":
            self.died(member, event.text)
            return
        elif event.kind == "error":
            raise LepBenchError(f"{node.model} ({node.kind}): {event.text}")
        elif event.kind == "crash":
            raise _WorkerCrashed(f"in the worker doing {node.model} ({node.kind}):\n{event.text}")
        self.observer.event(node, event)

    def died(self, member: _Worker, why: str) -> None:
        """A fresh worker takes the place of one that died: once for the same node, which goes on
        with the cells not yet written.
        """
        node = member.node
        assert node is not None
        member.process.join(timeout=5)
        member.connection.close()
        member.lifeline.close()
        member.process.kill()
        member.process.join()
        left = replace(
            node,
            cells=tuple(
                cell for cell in node.cells if cell.task.name not in self.heard.get(node.id, ())
            ),
        )
        fresh = _start_worker(
            member.number, replace(self.order, nodes={**self.order.nodes, node.id: left})
        )
        self.crew[self.crew.index(member)] = fresh
        if node.id in self.deaths:
            self.give_up(
                left,
                f"its process died twice ({why}): free memory or use --workers 1, and run "
                "the same command again",
            )
            return
        self.deaths.add(node.id)
        self.observer.event(
            node,
            Event("restarted", node.id, f"its process died ({why}): once more, in a fresh one"),
        )
        self.give(fresh, left)

    def give_up(self, node: Node, why: str) -> None:
        """Record a node that cannot be done: its own cells as failed, its users through the
        loop.
        """
        self.broken[node.id] = why
        self.outcome.broken.setdefault(node.model, why)
        for cell in node.cells:
            self.order.store.write(record_failed_cell(node, cell, why, self.order), ())
            self.outcome.failed.append((node.model, cell.task.name, why))
        self.observer.event(node, Event("failed", node.id, why))
