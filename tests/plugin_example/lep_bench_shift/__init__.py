"""A propagation method as an installable package: the entry point names this module, and lep-bench
finds what is in it.
"""

from lep_bench.plugin import Params, propagation


class Shift(Params):
    """strength: how much of the mean move is added."""

    strength: float = 1.0


@propagation("shift")
def shift(problem, params: Shift):
    """The donor's rows, moved by what instruction tuning did to the shared tokens on average.

    Source: an example, after task arithmetic (Ilharco et al., 2023, arXiv:2212.04089).
    """
    old_ids = problem.overlap[:, 1]
    move = (problem.instruct_at(old_ids) - problem.base_at(old_ids)).mean(dim=0)
    return lambda donor_rows, ids: donor_rows + params.strength * move
