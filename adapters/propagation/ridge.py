"""Ridge: conversion held back by a penalty whose strength held-out rows decide."""

from pydantic import Field, NonNegativeFloat

from lep_bench.plugin import Params, propagation


class RidgeParams(Params):
    grid: tuple[NonNegativeFloat, ...] = Field(
        (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1, description="lambda, in mean eigenvalues of X'X"
    )


@propagation("ridge")
def ridge(problem, params: RidgeParams):
    """Conversion with a penalty on D, as strong as suits the tokens that the fit has not seen.

    Hoerl and Kennard 1970, "Ridge regression: biased estimation for nonorthogonal problems", Technometrics 12: D minimises
    || X D - Y ||^2 + lambda || D ||^2, with X = T E_base and Y = T E_instruct as in conversion. Of the grid that lambda is
    taken whose D, fitted without every tenth row, has the least error on these rows; the last fit is on all rows.
    lep.json has the pick (`ridge`, as in the grid) and the held-out residual of each choice.
    """
    import math

    from lep_bench.surgery import leastsquares

    def fitted(sums, strength):
        return leastsquares.solve(sums, strength * float(sums.xx.trace()) / len(sums.xx))

    def residual(sums, d):
        return float(f"{math.sqrt(sums.squared_error(d) / sums.yy):.6g}")

    sums = problem.products(problem.mixed("base"), problem.mixed("instruct"))
    held_out = {f"{strength:g}": residual(sums.held, fitted(sums.train, strength)) for strength in params.grid}
    best, both = min(held_out, key=held_out.__getitem__), sums.all
    d = fitted(both, float(best))
    problem.report.update(method="ridge", rows=both.rows, residual=residual(both, d), ridge=float(best), held_out_residuals=held_out)
    return lambda rows, ids: rows @ d
