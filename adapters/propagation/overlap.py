"""Overlap: a linear map learned from the tokens that both vocabularies have."""

from lep_bench.plugin import Params, propagation


@propagation("overlap")
def overlap(problem, params: Params):
    """Linear map from base to instruct rows, fitted on the tokens common to both vocabularies.

    Tikhomirov and Chernyshev 2024, arXiv 2412.21140: D minimises || E_base[C] D - E_instruct[C] ||, C the common
    tokens (equal as bytes, specials left out); E_lep = E_donor D. With fewer common tokens than the hidden size D is
    the minimum-norm solution.
    """
    common = problem.overlap[:, 1]
    d = problem.fit(problem.rows_at("base", common), problem.rows_at("instruct", common))
    return lambda rows, ids: rows @ d
