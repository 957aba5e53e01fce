"""Matching pursuit: every new token as a few shared tokens, carried over with the same weights."""

from pydantic import Field

from lep_bench.plugin import Params, propagation


class MatchingPursuitParams(Params):
    k: int = Field(64, gt=0, description="shared tokens per row, at most")
    anchors: int = Field(8192, gt=0, description="shared tokens to choose from, spread evenly over the vocabulary")


@propagation("matching-pursuit")
def matching_pursuit(problem, params: MatchingPursuitParams):
    """Sparse combination of shared tokens, found among the donor's rows and applied to the instruct model's.

    Goddard and Fernandes Neto 2025, arXiv 2506.06607: orthogonal matching pursuit. Shared tokens take their own instruct
    rows, so what the donor learned about these is dropped. 8192 anchors of hidden size 4096 take 1.6 GiB, and
    46,000 new tokens half an hour a matrix on one core; time grows with new tokens x k^2 x anchors.
    """
    import numpy as np

    from lep_bench.surgery.pursuit import Anchors

    shared, own = problem.overlap, dict(problem.overlap.tolist())
    new, old = shared[np.linspace(0, len(shared) - 1, min(params.anchors, len(shared))).astype(int)].T
    anchors, there = Anchors(problem.donor_at(new)), problem.instruct_at(old)
    problem.report.update(method="matching pursuit", k=params.k, anchors=len(new), shared=len(shared))

    def carried(rows, ids):
        made = rows.clone()
        kept = np.array([number in own for number in ids], dtype=bool)
        made[kept] = problem.instruct_at(np.array([own[number] for number in ids[kept]], dtype=int))
        made[~kept] = anchors.combine(rows[~kept], there, params.k)
        return made

    return carried
