"""Swap: the donor's embeddings as they are."""

from lep_bench.plugin import Params, propagation


@propagation("swap")
def swap(problem, params: Params):
    """The donor's rows unchanged.

    Tikhomirov and Chernyshev 2024, arXiv 2412.21140: E_lep = E_donor D with D the identity.
    """
    return lambda rows, ids: rows
