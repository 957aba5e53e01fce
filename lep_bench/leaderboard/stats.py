"""Standard errors for scores that are means over items, clustered by item group. Values are on the scale of the score (0 to 1).

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
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One task's share of a score: its weight, the value of each item, the group of each item (same length)."""

    weight: float
    values: Sequence[float]
    groups: Sequence[Hashable]


def combined_stderr(parts: Sequence[Part]) -> float | None:
    """Standard error of the weighted sum of the parts' means (formula above); None where a part has fewer than two groups."""
    import numpy as np

    index: dict[Hashable, int] = {}
    loads = []
    for part in parts:
        if len(part.values) != len(part.groups):
            raise ValueError(f"{len(part.values)} values but {len(part.groups)} groups")
        distinct = len(set(part.groups))
        if distinct < 2:
            return None
        values = np.asarray(part.values, dtype=np.float64)
        residuals = values - math.fsum(part.values) / len(part.values)
        factor = part.weight / len(part.values) * math.sqrt(distinct / (distinct - 1))
        loads.append((np.array([index.setdefault(group, len(index)) for group in part.groups]), factor * residuals))
    if not loads:
        return None
    totals = sum(np.bincount(where, weights=load, minlength=len(index)) for where, load in loads)
    return math.sqrt(math.fsum(totals * totals))


def joined(parts: Sequence[Part], others: Sequence[float | None]) -> float | None:
    """Standard error of a sum of item means (`parts`) and of scores that are none, whose errors `others` are taken as independent
    (already weighted). None where one of them is not known or nothing is given."""
    known = [error for error in others if error is not None]
    items = combined_stderr(parts) if parts else None
    if len(known) < len(others) or (parts and items is None) or not (parts or known):
        return None
    return items if items is not None and not known else math.hypot(items or 0.0, *known)


def clustered_stderr(values: Sequence[float], groups: Sequence[Hashable]) -> float | None:
    """Standard error of mean(values), clustered; None with fewer than two groups."""
    return combined_stderr([Part(1.0, values, groups)])


def paired(a: Sequence[float], b: Sequence[float], groups: Sequence[Hashable]) -> tuple[float, float | None]:
    """mean(a) - mean(b) and its clustered standard error, item by item: `a` and `b` answer the same items in the same order."""
    if len(a) != len(b) or not len(a):
        raise ValueError(f"paired values must be equally many and some: {len(a)} and {len(b)}")
    differences = [x - y for x, y in zip(a, b)]
    return math.fsum(differences) / len(differences), clustered_stderr(differences, groups)


def mean(values: Sequence[float]) -> float:
    """Exactly rounded arithmetic mean."""
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1) over training seeds; None with fewer than two."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def with_seeds(items: float | None, *seeds: Sequence[float]) -> float | None:
    """Item error and seed error of a difference joined: sqrt(SE_items^2 + sum over models of sd^2 / k), k seeds each.

    `seeds` holds each model's score per seed; models with one seed add nothing (their seed error is unknown). The
    seed-by-item part of the variance is in both terms, so the result errs on the wide side.
    """
    if items is None:
        return None
    return math.sqrt(items**2 + math.fsum((spread(scores) or 0.0) ** 2 / len(scores) for scores in seeds))


def centred(score: float, chance: float) -> float:
    """(s - c) / (1 - c): 0 is guessing, 1 is perfect, below chance is negative (not clipped)."""
    return (score - chance) / (1.0 - chance)
