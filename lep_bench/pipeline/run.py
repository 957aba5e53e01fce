"""The main job: plan, fetch what is read, build and score what is not current, write the
leaderboard.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lep_bench import bundle, hub
from lep_bench.config.models import NamedCheckpoint
from lep_bench.errors import LepBenchError
from lep_bench.files import format_size
from lep_bench.leaderboard.release import Board
from lep_bench.pipeline.board import write_board
from lep_bench.pipeline.hardware import Hardware
from lep_bench.pipeline.plan import Outcome, Plan
from lep_bench.pipeline.prepare import check_servers, fetch_checkpoints, list_read
from lep_bench.pipeline.session import Session
from lep_bench.tasks import TaskFile, scan_tasks

if TYPE_CHECKING:
    from lep_bench.pipeline.execute import Observer


# Shows a run while it lasts.
Watch = Callable[[Plan, Hardware], "AbstractContextManager[Observer]"]


@dataclass(frozen=True)
class Request:
    """What is to be run: `patterns` of models and names of `tasks` (None: the suite's), the plan
    for them, and by reference the `checkpoints` that it reads.
    """

    patterns: Sequence[str]
    tasks: Sequence[str] | None
    data: Path | None
    plan: Plan
    checkpoints: dict[str, NamedCheckpoint]


@dataclass(frozen=True)
class Run:
    """What came of a run: the leaderboard after it, and how many models were `left_out` for lack of
    a checkpoint.
    """

    outcome: Outcome
    left_out: int
    board: Board


def plan_run(
    session: Session,
    patterns: Sequence[str],
    tasks: Sequence[str] | None,
    data: Path | None = None,
    *,
    board: bool = True,
) -> Request:
    """Plan a run; nothing is written. `board`: also say which cells the leaderboard shows
    afterwards. Raises LepBenchError for anything that cannot work, and where `data` is not as its
    manifest says.
    """
    plan = session.plan(patterns, tasks, board=board)
    checkpoints = list_read(plan, session.checkpoints(patterns))
    if data is not None:
        bundle.verify(data, {c.location for c in checkpoints.values()})
    return Request(patterns, tasks, data, plan, checkpoints)


def run_plan(
    session: Session,
    request: Request,
    hardware: Hardware,
    watch: Watch,
    report: Callable[[str], None],
    *,
    offline: bool = False,
) -> Run:
    """Build and score what is not current, and write OUT/SUITE/leaderboard. `report` takes a line
    about every checkpoint that cannot be had.

    A cell that fails is recorded, and the run goes on. Raises LepBenchError for what the user must
    mend first; everything finished until then is kept.
    """
    plan = request.plan
    check_servers(plan, session.settings.server, offline)
    fetched, missing = fetch_checkpoints(request.checkpoints)
    with session.store.lock():
        # Another run may have scored something since, and a fetched checkpoint tells more of itself
        # than its name.
        if session.results.refresh() or fetched:
            plan = session.plan(request.patterns, request.tasks, board=True)
        outcome, left_out = _carry_out(session, plan, missing, hardware, watch, report)
        for node in plan.nodes.values():
            for cell in node.cells:
                assert node.record is not None
                session.results.forget(node.record.name, cell.task.name, cell.key)
        results, order = session.cells(plan.shown)
        board = write_board(session, results, order, request.data)
    return Run(outcome, left_out, board)


def _carry_out(
    session: Session,
    plan: Plan,
    missing: dict[str, str],
    hardware: Hardware,
    watch: Watch,
    report: Callable[[str], None],
) -> tuple[Outcome, int]:
    """Execute the plan without what needs a missing checkpoint, and count the models that are left
    out for it.
    """
    left = leave_out(plan, missing, report)
    scores = [node.id for node in plan.nodes.values() if node.kind == "score"]
    left_out = sum(node not in left.nodes for node in scores)
    check_disk(left, session.store.root)
    for task in list_tasks(left).values():
        assert task.dataset
        # first: what it finds out, the workers learn from the environment
        hub.go_offline_if_unreachable(task.dataset[0], task.own_class)

    def meanwhile() -> None:
        check_rows(left, session)
        import scipy.special  # noqa: F401  what the leaderboard needs, while the workers import theirs

    with watch(left, hardware) as watching:
        if not left.nodes:
            return Outcome(), left_out
        # here: a run with nothing to do needs none of it
        from lep_bench.pipeline.execute import execute_plan

        outcome = execute_plan(
            left,
            session.store,
            session.configs,
            hardware,
            watching,
            session.adapter_folders,
            session.task_folders,
            meanwhile,
        )
    return outcome, left_out


def leave_out(plan: Plan, missing: dict[str, str], report: Callable[[str], None]) -> Plan:
    """The plan without what needs a missing checkpoint (reference -> why). Raises LepBenchError
    when nothing is left to do.
    """
    reasons: dict[str, list[str]] = {}
    for reference, why in missing.items():
        reasons.setdefault(why.partition(": ")[2], []).append(reference)
    for reason, references in reasons.items():
        kept = plan.without(references).nodes
        names = sorted(
            node.model
            for node in plan.nodes.values()
            if node.kind == "score" and node.id not in kept
        )
        if names:
            checkpoints = ", ".join(missing[r].partition(": ")[0] for r in references[:3])
            if references[3:]:
                checkpoints += f" and {len(references) - 3} more (--dry-run lists them)"
            more = f" and {len(names) - 1} more" if names[1:] else ""
            report(f"missing, for {names[0]}{more}: {checkpoints}: {reason}")
    left = plan.without(missing)
    if plan.nodes and not left.nodes:
        raise LepBenchError(
            "nothing can be run without the checkpoints named above: lep-bench bundle --suite "
            f"{plan.suite.name} DIR --models (with a network) stores the suite's, --models PATH "
            "takes a local folder"
        )
    return left


def check_disk(plan: Plan, out: Path) -> None:
    """Raise LepBenchError before the work when the plan's estimate does not fit on the disk."""
    need = sum(node.bytes for node in plan.nodes.values())
    free = shutil.disk_usage(out).free
    if need > free:
        raise LepBenchError(
            f"{out}: about {format_size(need)} are needed and {format_size(free)} are free: "
            "free some, or give another folder with --out"
        )


def list_tasks(plan: Plan) -> dict[str, TaskFile]:
    """By name, the tasks with a dataset that have a cell to score."""
    return {
        cell.task.name: cell.task
        for node in plan.nodes.values()
        for cell in node.cells
        if cell.task.dataset
    }


def check_rows(plan: Plan, session: Session) -> None:
    """Read (from the Hub: fetch) the rows of every task that has a cell to score, before the first
    model is built.

    Raises LepBenchError that names the tasks whose rows cannot be had, and those that can be
    scored.
    """
    tasks = list_tasks(plan)
    if not tasks:
        return  # before imports that take seconds
    from lep_bench.evaluate import lmeval

    folders = scan_tasks(session.task_folders).folders
    wrong: dict[str, LepBenchError] = {}
    for name, task in tasks.items():
        try:
            lmeval.count_rows(task, folders, lmeval.build_metadata(session.suite))
        except LepBenchError as error:
            wrong[name] = error
    if wrong:
        rest = [name for name in tasks if name not in wrong]
        sets = list(
            dict.fromkeys(
                tasks[name].dataset[0]
                for name, error in wrong.items()
                if isinstance(error, lmeval.RowsNotFetchedError)
            )
        )
        first = next(
            (
                str(error)
                for error in wrong.values()
                if not isinstance(error, lmeval.RowsNotFetchedError)
            ),
            "",
        )
        bundled = (
            f"where there is a network, lep-bench bundle --suite {session.suite.name} DIR; then "
            "run with --data DIR"
        )
        lines = (
            [f"Not here, and the Hub cannot be reached: {', '.join(sets)}: {bundled}"]
            if sets
            else []
        )
        lines += [f"The first{' of the others' if sets else ''}: {first}"] if first else []
        lines += [f"Score the others with --tasks {','.join(rest)}"] if rest else []
        what = (
            f"{len(wrong)} of {len(tasks)} tasks cannot be asked: {', '.join(wrong)}"
            if rest
            else f"none of {len(tasks)} tasks can be asked"
        )
        raise LepBenchError(f"{what}. {'. '.join(lines)}")
