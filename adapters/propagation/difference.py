"""Difference: what instruction tuning did to the old subtokens, added to the donor's rows."""

from lep_bench.plugin import Params, propagation


@propagation("difference")
def difference(problem, params: Params):
    """The donor's rows plus the mean change of their old subtokens between base and instruct.

    Not in the LEP paper. The arithmetic of task vectors (Ilharco et al. 2023, arXiv 2212.04089), row by row through the
    matrix T of subtoken means: E_lep = E_donor + T (E_instruct - E_base).
    """
    return lambda rows, ids: rows + problem.mixed_at("instruct", ids) - problem.mixed_at("base", ids)
