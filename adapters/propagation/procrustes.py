"""Procrustes: the rotation (or reflection) that comes nearest to turning base rows into instruct rows."""

from lep_bench.plugin import Params, propagation


@propagation("procrustes")
def procrustes(problem, params: Params):
    """Orthogonal map from base to instruct rows, on subtoken means over the new vocabulary.

    Schoenemann 1966, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31: of all orthogonal D the
    one of least || X D - Y || is U V', with X'Y = U S V'. Here X = T E_base and Y = T E_instruct, as in conversion; neither
    is centred or scaled. E_lep = E_donor D keeps the norms of the donor's rows and every angle between them.
    """
    import math

    import torch

    def nearest(sums):
        u, _, vh = torch.linalg.svd(sums.xy)
        return u @ vh

    def residual(sums, d):
        return float(f"{math.sqrt(sums.squared_error(d) / sums.yy):.6g}")

    sums = problem.products(problem.mixed("base"), problem.mixed("instruct"))
    held_out, both = residual(sums.held, nearest(sums.train)), sums.all
    d = nearest(both)
    problem.report.update(method="procrustes", rows=both.rows, residual=residual(both, d), held_out_residual=held_out)
    return lambda rows, ids: rows @ d
