"""The standard error of scores that are means over items, clustered by item group: the one place of
this formula.

Items that ask for the same thing (a fact in three wordings, a question and its mirror image) do not
err independently: what varies freely is the group. Notation: a score is S = sum over tasks t of w_t
* mean_t, task t having n_t items in G_t groups. With the residual r_i = v_i - mean_t of every item,
each group g collects

    u_g = sum over t of  w_t / n_t * sqrt(G_t / (G_t - 1)) * sum over items i of t in g of r_i
        SE(S) = sqrt(sum u_g^2)

With one task this is the usual cluster-robust standard error of a mean (Liang and Zeger 1986; for
evaluations: Miller 2024, arXiv 2411.00640) with the small-sample factor G / (G - 1); where every
item is its own group it is s / sqrt(n). Residuals are taken within each task (tasks are strata); a
group that occurs in two tasks (the same fact asked in two languages) is one cluster, so that the
tasks' common luck is not counted as independent evidence. A paired difference is the same with v_i
= a_i - b_i. At a score of exactly 0 or 1 the residuals vanish and the formula gives 0: it says
nothing there.

Every sum is exactly rounded (math.fsum) or in a fixed order (bincount), so that a page re-renders
to the same bytes anywhere. Values are on the scale of the score (0 to 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class WeightedScores:
    """One task's share of a score: its weight, the value of each item, the group of each item (same
    length): any names, or their `numbered` form, which a score of thousands of items should not
    work out again for every model."""

    weight: float
    values: Sequence[float]
    groups: Sequence[Hashable] | np.ndarray


def combined_stderr(parts: Sequence[WeightedScores]) -> float | None:
    """Standard error of the weighted sum of the parts' means (formula above); None where a part has
    fewer than two groups.
    """
    import numpy as np

    loads = []
    for part in parts:
        if len(part.values) != len(part.groups):
            raise ValueError(f"{len(part.values)} values but {len(part.groups)} groups")
        groups = part.groups if isinstance(part.groups, np.ndarray) else number_groups(part.groups)
        distinct = np.count_nonzero(np.bincount(groups))
        if distinct < 2:
            return None
        values = np.asarray(part.values, dtype=np.float64)
        residuals = values - math.fsum(values.tolist()) / len(values)
        loads.append(
            (groups, part.weight / len(values) * small_sample_factor(distinct) * residuals)
        )
    if not loads:
        return None
    count = max(int(groups.max()) for groups, _ in loads) + 1
    totals = sum(np.bincount(groups, weights=load, minlength=count) for groups, load in loads)
    return math.sqrt(math.fsum((totals[np.nonzero(totals)] ** 2).tolist()))


# of every group name ever met: the same group has the same number in every task
_numbers: dict[Hashable, int] = {}


def number_groups(groups: Sequence[Hashable]) -> np.ndarray:
    """[N] numbers of the groups' names, the same for the same name wherever it stands."""
    import numpy as np

    return np.array([_numbers.setdefault(name, len(_numbers)) for name in groups], dtype=np.int64)


def small_sample_factor(groups: int) -> float:
    """sqrt(G / (G - 1))."""
    return math.sqrt(groups / (groups - 1))


def clustered_stderr(values: Sequence[float], groups: Sequence[Hashable]) -> float | None:
    """Standard error of mean(values), clustered; None with fewer than two groups."""
    return combined_stderr([WeightedScores(1.0, values, groups)])


__all__ = [
    "Part",
    "centred",
    "clustered_stderr",
    "combined_stderr",
    "joined",
    "mean",
    "spread",
    "with_seeds",
]


def join_stderrs(parts: Sequence[WeightedScores], others: Sequence[float | None]) -> float | None:
    """Standard error of a sum of item means (`parts`) and of scores that are none, whose errors
    `others` are taken as independent (already weighted). None where one of them is not known or
    nothing is given."""
    known = [error for error in others if error is not None]
    items = combined_stderr(parts) if parts else None
    if len(known) < len(others) or (parts and items is None) or not (parts or known):
        return None
    return items if items is not None and not known else math.hypot(items or 0.0, *known)


def mean(values: Sequence[float]) -> float:
    """Exactly rounded arithmetic mean."""
    return math.fsum(values) / len(values)


def seed_spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1) over training seeds; None with fewer than two."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def add_seed_error(items: float | None, *seeds: Sequence[float]) -> float | None:
    """Item error and seed error of a difference joined: sqrt(SE_items^2 + sum over models of sd^2 /
    k), k seeds each.

    `seeds` holds each model's score per seed; models with one seed add nothing (their seed error is
    unknown). The seed-by-item part of the variance is in both terms, so the result errs on the wide
    side.
    """
    if items is None:
        return None
    return math.sqrt(
        items**2 + math.fsum((seed_spread(scores) or 0.0) ** 2 / len(scores) for scores in seeds)
    )


def centre_score(score: float, chance: float) -> float:
    """(s - c) / (1 - c): 0 is guessing, 1 is perfect, below chance is negative (not clipped)."""
    return (score - chance) / (1.0 - chance)


# groups are put into at most so many blocks where every omission costs a whole aggregation
JACKKNIFE_BLOCKS = 40


def aggregate_stderr(
    values: Sequence[Any], groups: Sequence[str], aggregate: Callable[[list[Any]], Any]
) -> float | None:
    """Standard error of `aggregate(values)`; values i belongs to the cluster groups[i]. None where
    there is none to give.

    Means: cluster-robust, see `lep_bench.stats`. Ratios of sums (bits per byte): jackknife over
    clusters. Anything else (F1): jackknife over at most `BLOCKS` blocks of clusters.
    """
    cluster, count = _number_blocks(groups)
    if count < 2:
        return None
    whole = float(aggregate(list(values)))
    table = _as_numbers(values)
    if (
        table is not None
        and table.shape[1] == 1
        and math.isclose(whole, table.mean(), rel_tol=1e-9, abs_tol=1e-12)
    ):
        return clustered_stderr(table[:, 0].tolist(), groups)
    try:
        if table is not None and table.shape[1] == 2:
            totals = table.sum(0)
            if math.isclose(whole, float(aggregate([tuple(totals)])), rel_tol=1e-9):
                parts = np.stack(
                    [np.bincount(cluster, table[:, column], count) for column in (0, 1)], 1
                )
                return _jackknife(
                    np.array([float(aggregate([tuple(row)])) for row in totals - parts])
                )
        block = cluster % min(count, JACKKNIFE_BLOCKS)
        left = [
            [value for value, b in zip(values, block, strict=True) if b != out]
            for out in range(min(count, JACKKNIFE_BLOCKS))
        ]
        return _jackknife(np.array([float(aggregate(rest)) for rest in left]))
    except (ArithmeticError, ValueError, TypeError, IndexError, KeyError):
        return None  # an aggregation that cannot do without the omitted items has no standard error


def _jackknife(estimates: np.ndarray) -> float | None:
    n = len(estimates)
    error = float(np.sqrt((n - 1) / n * np.square(estimates - estimates.mean()).sum()))
    return error if math.isfinite(error) else None


def _number_blocks(groups: Sequence[str]) -> tuple[np.ndarray, int]:
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    return np.array([names[group] for group in groups], dtype=np.int64), len(names)


def _as_numbers(values: Sequence[Any]) -> np.ndarray | None:
    """[n, 1] for numbers, [n, 2] for pairs of numbers, else None."""
    rows = [value if isinstance(value, (tuple, list)) else (value,) for value in values]
    widths = {len(row) for row in rows}
    if widths not in ({1}, {2}) or not all(
        isinstance(part, (int, float, np.number, np.bool_)) for row in rows for part in row
    ):
        return None
    return np.array(rows, dtype=np.float64)


ALPHA = 0.05
FLIPS = 9_999  # random sign flips of a permutation test
RESAMPLES = 2_000  # of the bootstrap
RESAMPLES_AT_ONCE = 200  # resamples drawn at once; even, and a divisor of RESAMPLES
EXACT = 13  # item groups with a difference up to which all 2^n sign flips are counted
BATCHES = 512  # more groups than these flip their signs in so many batches
SMALLEST = 1e-300  # no p is 0
NOTHING = 1e-13  # differences of scores that are rounding only


def _bits(*stream: int) -> Any:
    """A generator of raw 64-bit numbers of its own for every `stream`."""
    import numpy as np

    return np.random.PCG64(np.random.SeedSequence(20241221, spawn_key=stream))


@lru_cache(maxsize=2)
def _signs(flips: int, groups: int) -> np.ndarray:
    """[flips, groups] of -1 and 1."""
    import numpy as np

    raw = _bits(0).random_raw((flips, -(-groups // 64)))
    return np.unpackbits(raw.astype("<u8").view(np.uint8), axis=1, count=groups) * 2.0 - 1.0


def sign_flip_test(differences: Sequence[np.ndarray]) -> list[tuple[float, str]]:
    """Two-sided p, and the test's name, of each sum of differences: one array per comparison, a
    number for each item group.

    Under the null two models are exchangeable in every group, so that each difference could as well
    have the other sign; groups without a difference say nothing. Where all differences have the
    same size this is the exact binomial test of McNemar (1947), else all sign flips of up to 13
    groups are counted, else 9,999 random ones: p = (1 + hits) / (1 + 9,999). More than 512 groups
    flip in 512 batches, which is as valid: a permutation test may use any group of permutations.
    Where Hoeffding's inequality (1963) bounds that p by less than 1 / (1 + 9,999), the bound is
    given.
    """
    import numpy as np
    from scipy.special import bdtr

    found: list[tuple[float, str]] = [(1.0, "no item differs")] * len(differences)
    open_: dict[int, np.ndarray] = {}
    for i, given in enumerate(differences):
        u = given[np.abs(given) > NOTHING]
        if not len(u):
            continue
        total, sizes = abs(u.sum()), np.abs(u)
        bound = 2 * math.exp(-(total**2) / (2 * (u @ u)))
        if sizes.max() - sizes.min() <= 1e-9 * sizes.max():
            fewer = min(np.sum(u > 0), np.sum(u < 0))
            found[i] = min(1.0, 2 * float(bdtr(fewer, len(u), 0.5))), "exact sign test (McNemar)"
        elif len(u) <= EXACT:
            patterns = (np.arange(2 ** len(u))[:, None] >> np.arange(len(u)) & 1) * 2.0 - 1.0
            found[i] = float(np.mean(np.abs(patterns @ u) >= total * (1 - 1e-9))), "all sign flips"
        elif bound < 1 / (1 + FLIPS):
            found[i] = bound, "sign flips, bounded"
        else:
            open_[i] = (
                u if len(u) <= BATCHES else np.bincount(np.arange(len(u)) % BATCHES, u, BATCHES)
            )
    names = list(open_)
    for start in range(0, len(names), 256):
        some = names[start : start + 256]
        used = max(len(open_[i]) for i in some)
        u = np.stack([np.pad(open_[i], (0, used - len(open_[i]))) for i in some], 1)
        hits = np.sum(
            np.abs(_signs(FLIPS, BATCHES)[:, :used] @ u) >= np.abs(u.sum(0)) * (1 - 1e-9), axis=0
        )
        for i, count in zip(some, hits):
            found[i] = (1 + int(count)) / (1 + FLIPS), "sign flips"
    return [(max(p, SMALLEST), test) for p, test in found]


@lru_cache(maxsize=48)
def resampling_weights(stratum: int, groups: int) -> np.ndarray:
    """[RESAMPLES, groups]: how often each of a stratum's item groups is in each resample, drawn
    with replacement.
    """
    import numpy as np

    bits, out = _bits(1, stratum), np.empty((RESAMPLES, groups), np.float32)
    # whole at once 14,000 groups would take half a gigabyte of 64-bit numbers
    for start in range(0, RESAMPLES, RESAMPLES_AT_ONCE):
        raw = bits.random_raw(RESAMPLES_AT_ONCE * groups // 2).astype("<u8").view("<u4")
        picked = (
            (raw.astype(np.uint64) * np.uint64(groups) >> np.uint64(32))
            .astype(np.int64)
            .reshape(RESAMPLES_AT_ONCE, groups)
        )
        picked += np.arange(RESAMPLES_AT_ONCE)[:, None] * groups
        out[start : start + RESAMPLES_AT_ONCE] = np.bincount(
            picked.ravel(), minlength=RESAMPLES_AT_ONCE * groups
        ).reshape(RESAMPLES_AT_ONCE, groups)
    return out


def draw_uniforms(stream: int, count: int) -> np.ndarray:
    """[RESAMPLES, count] numbers evenly spread between 0 and 1, both excluded."""
    import numpy as np

    return ((_bits(2, stream).random_raw((RESAMPLES, count)) >> np.uint64(11)) + 0.5) / 2**53


def percentile_interval(
    value: float, deviations: np.ndarray, floor: float, level: float = 1 - ALPHA
) -> tuple[float, float]:
    """Both ends of a percentile interval from [RESAMPLES] deviations of the resamples from `value`.

    `floor` is a standard error that is added to both half-widths in quadrature: see
    `panel.Panel.floor`.
    """
    import numpy as np
    from scipy.special import ndtri

    low, high = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2])
    least = -float(ndtri((1 - level) / 2)) * floor
    return value - math.hypot(min(low, 0.0), least), value + math.hypot(max(high, 0.0), least)


def satterthwaite_df(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of variances, each with its own: (sum v)^2 / sum(v^2 / df)
    (Satterthwaite 1946).
    """
    given = [(v, df) for v, df in parts if v > 0]
    return (
        math.fsum(v for v, _ in given) ** 2 / math.fsum(v**2 / df for v, df in given)
        if given
        else math.inf
    )


def student_interval(
    value: float, stderr: float, df: float, level: float = 1 - ALPHA
) -> tuple[float, float, float]:
    """Two-sided p of value / stderr under Student's t, and both ends of its interval; df may be
    infinite (normal).
    """
    from scipy.special import stdtr, stdtrit

    df = min(df, 1e9)
    half = float(stdtrit(df, (1 + level) / 2)) * stderr
    p = 2 * float(stdtr(df, -abs(value) / stderr)) if stderr else 1.0
    return max(p, SMALLEST), value - half, value + half


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Each p corrected for all of them (Holm 1979); None stays, and is not counted.

    As statsmodels' multipletests, which takes a second to import and collects garbage at every
    call: a tenth of a second each.
    """
    order = sorted((i for i, x in enumerate(p) if x is not None), key=lambda i: p[i] or 0.0)
    corrected: list[float | None] = [None] * len(p)
    least = 0.0
    for step, i in enumerate(order):
        corrected[i] = least = min(1.0, max(least, (p[i] or 0.0) * (len(order) - step)))
    return corrected


def judge_difference(
    value: float, low: float | None, high: float | None, corrected: float | None, delta: float
) -> Any:
    """`equal` where the whole interval lies within ±delta, else what the corrected test found, else
    "undecided"; None where nothing is known.
    """
    if low is None or high is None or corrected is None:
        return None
    if -delta <= low and high <= delta:
        return "equal"
    return "undecided" if corrected > ALPHA or not value else "higher" if value > 0 else "lower"


def joint_ranks(points: np.ndarray, deviations: np.ndarray, floor: float) -> list[tuple[int, int]]:
    """Best and worst rank of each of n rows, all of them right at once with 95% (Mogstad, Romano,
    Shaikh and Wilhelm 2024).

    `points` [n]; `deviations` [RESAMPLES, n] of the resamples from them; `floor` is a standard
    error of every difference that the resamples lack. A pair is decided where |difference| / error
    exceeds the 95% point, over the resamples, of the largest such ratio of all pairs; best rank = 1
    + rows that are surely better, worst = n - rows that are surely worse.
    """
    import numpy as np

    n = len(points)
    error, largest = np.zeros((n, n)), np.zeros(len(deviations))
    for i in range(n - 1):
        gaps = deviations[:, i : i + 1] - deviations[:, i + 1 :]
        # About 0, not about their mean: a metric that is biased in resamples shows it here.
        error[i, i + 1 :] = own = np.sqrt(np.mean(gaps**2, 0))
        largest = np.fmax(largest, (np.abs(gaps) / np.where(own > NOTHING, own, np.inf)).max(1))
    error = np.hypot(error + error.T, floor)
    critical = max(float(np.quantile(largest, 1 - ALPHA)), 1.96)
    # [i, j]: j is surely better than i
    better = points[None, :] - points[:, None] > critical * error + NOTHING
    return [(1 + int(up), n - int(down)) for up, down in zip(better.sum(1), better.sum(0))]
