"""From scored cells to a table that says no more than the numbers do. Knows results and suites, never how a model is run."""

from lep_bench.leaderboard.assemble import build
from lep_bench.leaderboard.table import Table

__all__ = ["Table", "build"]
