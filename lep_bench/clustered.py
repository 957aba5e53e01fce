"""The standard error of scores that are means over items, clustered by item group: the one place of this formula.

Items that ask for the same thing (a fact in three wordings, a question and its mirror image) do not err independently: what
varies freely is the group. Notation: a score is S = sum over tasks t of w_t * mean_t, task t having n_t items in G_t groups.
With the residual r_i = v_i - mean_t of every item, each group g collects

    u_g = sum over t of  w_t / n_t * sqrt(G_t / (G_t - 1)) * sum over items i of t in g of r_i        SE(S) = sqrt(sum u_g^2)

With one task this is the usual cluster-robust standard error of a mean (Liang and Zeger 1986; for evaluations: Miller 2024,
arXiv 2411.00640) with the small-sample factor G / (G - 1); where every item is its own group it is s / sqrt(n). Residuals are
taken within each task (tasks are strata); a group that occurs in two tasks (the same fact asked in two languages) is one cluster, so
that the tasks' common luck is not counted as independent evidence. A paired difference is the same with v_i = a_i - b_i.
At a score of exactly 0 or 1 the residuals vanish and the formula gives 0: it says nothing there.

Every sum is exactly rounded (math.fsum) or in a fixed order (bincount), so that a page re-renders to the same bytes anywhere.
Values are on the scale of the score (0 to 1).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Part:
    """One task's share of a score: its weight, the value of each item, the group of each item (same length): any names, or their
    `numbered` form, which a score of thousands of items should not work out again for every model."""

    weight: float
    values: Sequence[float]
    groups: Sequence[Hashable] | np.ndarray


def combined_stderr(parts: Sequence[Part]) -> float | None:
    """Standard error of the weighted sum of the parts' means (formula above); None where a part has fewer than two groups."""
    import numpy as np

    loads = []
    for part in parts:
        if len(part.values) != len(part.groups):
            raise ValueError(f"{len(part.values)} values but {len(part.groups)} groups")
        groups = part.groups if isinstance(part.groups, np.ndarray) else numbered(part.groups)
        distinct = np.count_nonzero(np.bincount(groups))
        if distinct < 2:
            return None
        values = np.asarray(part.values, dtype=np.float64)
        residuals = values - math.fsum(values.tolist()) / len(values)
        loads.append((groups, part.weight / len(values) * factor(distinct) * residuals))
    if not loads:
        return None
    count = max(int(groups.max()) for groups, _ in loads) + 1
    totals = sum(np.bincount(groups, weights=load, minlength=count) for groups, load in loads)
    return math.sqrt(math.fsum((totals[np.nonzero(totals)] ** 2).tolist()))


_numbers: dict[Hashable, int] = {}  # of every group name ever met: the same group has the same number in every task


def numbered(groups: Sequence[Hashable]) -> np.ndarray:
    """[N] numbers of the groups' names, the same for the same name wherever it stands."""
    import numpy as np

    return np.array([_numbers.setdefault(name, len(_numbers)) for name in groups], dtype=np.int64)


def factor(groups: int) -> float:
    """sqrt(G / (G - 1))."""
    return math.sqrt(groups / (groups - 1))


def clustered_stderr(values: Sequence[float], groups: Sequence[Hashable]) -> float | None:
    """Standard error of mean(values), clustered; None with fewer than two groups."""
    return combined_stderr([Part(1.0, values, groups)])
