"""Conversion: a linear map learned from subtoken means over the whole new vocabulary."""

from lep_bench.plugin import Params, propagation


@propagation("conversion")
def conversion(problem, params: Params):
    """Linear map from base to instruct rows, fitted on subtoken means over the new vocabulary.

    Tikhomirov and Chernyshev 2024, arXiv 2412.21140: D minimises || (T E_base) D - (T E_instruct) ||, T the matrix
    that averages a new token's old subtokens; E_lep = E_donor D. T stays inside the solve: pulled out it does worse.
    """
    d = problem.fit(problem.mixed("base"), problem.mixed("instruct"))
    return lambda rows, ids: rows @ d
