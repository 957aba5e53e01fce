"""The leaderboard of a session: its files, made from the current results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lep_bench.leaderboard import curves
from lep_bench.leaderboard.contamination import read_scan
from lep_bench.leaderboard.publish import write_leaderboard
from lep_bench.leaderboard.table import Table
from lep_bench.pipeline.again import reproduce_commands
from lep_bench.pipeline.session import Session
from lep_bench.records.schema import CHANGED, TaskResult


@dataclass(frozen=True)
class Board:
    """A leaderboard as it was written: `results` are its cells, `order` the models' names."""

    folder: Path
    table: Table
    results: Sequence[TaskResult]
    order: Sequence[str]

    @property
    def changed(self) -> tuple[str, ...]:
        """A reason for every result that is left out because it was changed by hand."""
        return tuple(f.reason for f in self.table.failures if CHANGED in f.reason)


def write_board(
    session: Session,
    results: Sequence[TaskResult],
    order: Sequence[str],
    data: Path | None,
    folder: Path | None = None,
    *,
    pictures: bool = False,
) -> Board:
    """Write the leaderboard's files to `folder` (default: OUT/SUITE/leaderboard), on request with
    pictures, which take seconds. Raises LepBenchError.
    """
    store, name = session.store, session.suite.name
    folder = folder or store.leaderboard(name)
    trained = None
    if pictures:
        donors = (result for result in results if result.model.stage == "donor")
        trained = curves.make_curves(curves.read_lineage(store, donors))
    scan = store.leaderboard(name).parent / "contamination.json"
    table = write_leaderboard(
        folder,
        session.suite,
        results,
        store.skim,
        order,
        scan=read_scan(scan, session.suite.tasks),
        commands=reproduce_commands(session, results, data),
        noise=store.noise(name),
        folders=session.task_folders,
        trained=trained,
    )
    return Board(folder, table, results, order)
