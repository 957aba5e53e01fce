"""The leaderboard of a session: its files, made from the current results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lep_bench.leaderboard import cards, plots, site
from lep_bench.leaderboard.release import Board, ScoredRun
from lep_bench.pipeline.questions import make_question_reader
from lep_bench.pipeline.session import Session
from lep_bench.records.schema import TaskResult


def make_scored_run(
    session: Session, results: Sequence[TaskResult], order: Sequence[str], data: Path | None
) -> ScoredRun:
    """The results of a session with the settings that reproduce them."""
    return ScoredRun(
        session.suite,
        session.configs,
        session.registry,
        session.store,
        results,
        order,
        session.adapter_folders,
        session.task_folders,
        data,
    )


def write_board(
    session: Session, results: Sequence[TaskResult], order: Sequence[str], data: Path | None
) -> Board:
    """Write OUT/SUITE/leaderboard. Raises LepBenchError."""
    return Board.write(make_scored_run(session, results, order, data))


def write_html(board: Board, folder: Path, samples: int, warn: Callable[[str], None]) -> Path:
    """Write the self-contained page of a leaderboard to `folder`, with `samples` items of each
    task; returns the file. `warn` is told of questions that cannot be made again.
    """
    run = board.run
    artifacts = cards.read_artifacts(run.store, run.results)
    return site.write_site(
        folder,
        board.table,
        run.results,
        run.store.read_samples,
        artifacts=artifacts,
        curves=plots.make_curves(artifacts),
        most=samples,
        questions=make_question_reader(
            run.suite, run.configs, run.registry, run.store, run.task_folders, warn
        ),
        drawn=board.folder,
    )
