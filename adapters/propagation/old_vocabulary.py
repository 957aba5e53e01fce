"""Old vocabulary: a linear map learned from all tokens of the old vocabulary."""

from lep_bench.plugin import Params, propagation


@propagation("old-vocabulary")
def old_vocabulary(problem, params: Params):
    """Linear map from base to instruct rows, fitted on the whole old vocabulary.

    A further solver of the code of Tikhomirov and Chernyshev 2024 (arXiv 2412.21140; github.com/RefalMachine/ruadapt): D
    minimises || E_base D - E_instruct || over the trained ordinary tokens of the old vocabulary, whatever the new one is
    (no T); E_lep = E_donor D.
    """
    d = problem.fit(problem.base_blocks(), problem.instruct_blocks())
    return lambda rows, ids: rows @ d
