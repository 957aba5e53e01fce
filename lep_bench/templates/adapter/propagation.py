"""my-method: say here in one line what the method does."""

from lep_bench.plugin import Params, propagation


class Settings(Params):
    """Set in a family's YAML: `propagation: {my-method: {strength: 0.5}}`.

    Every field needs a default.
    """

    strength: float = 1.0


@propagation("my-method")
def my_method(problem, params: Settings):
    """The donor's rows, moved by what instruction tuning did to the shared tokens on average.

    Source: cite the paper or page that the method comes from. This example follows task arithmetic
    (arXiv 2212.04089).
    """
    # Called once for the input embedding and once for the head (problem.matrix says which).
    # `overlap` has a row (new id, old id) for every token that is in both vocabularies. base_at and
    # instruct_at take old ids, donor_at takes new ids, and all return float64 rows [n, d]. For a
    # linear map use problem.fit(problem.mixed("base"), problem.mixed("instruct")).
    old_ids = problem.overlap[:, 1]
    move = (problem.instruct_at(old_ids) - problem.base_at(old_ids)).mean(dim=0)
    # The returned function takes blocks of donor rows [n, d] with their new ids [n], and returns
    # the new rows [n, d].
    return lambda donor_rows, ids: donor_rows + params.strength * move
