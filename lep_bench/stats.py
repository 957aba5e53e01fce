"""The statistics of a leaderboard: arrays in, numbers out.

Five functions do the work:

- `stderr`: the standard error of a score over items, clustered by item group;
- `paired_test`: the p of a paired difference, by sign flips;
- `interval`: the 95% interval of a difference, from resamples;
- `holm`: p values corrected for their number;
- `ranks`: the best and worst rank of each row, all of them right at once.

The rest are helpers: the resamples behind `interval` and `ranks`, errors over training seeds,
Student's t, and the error of a score that a task computes with code of its own.

Scores run from 0 to 1. Every sum is exactly rounded (math.fsum) or in a fixed order (bincount) and
random numbers are raw bits of a fixed generator, so a page re-renders to the same bytes anywhere.
Shapes: N items, G item groups, T tasks, R rows, B resamples (RESAMPLES).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

ALPHA = 0.05
FLIPS = 9_999  # random sign flips of a permutation test
RESAMPLES = 2_000  # of the bootstrap
RESAMPLES_AT_ONCE = 200  # resamples drawn at once; even, and a divisor of RESAMPLES
MAX_EXACT_GROUPS = 13  # item groups with a difference up to which all 2^n sign flips are counted
BATCHES = 512  # more groups than these flip their signs in so many batches
SMALLEST_P = 1e-300  # no p is 0
NEGLIGIBLE = 1e-13  # smaller differences of scores are rounding
JACKKNIFE_BLOCKS = 40  # groups are joined into so many blocks where each omission is expensive


# --- standard errors ---


def stderr(
    values: Sequence[Sequence[float] | np.ndarray],
    groups: Sequence[Sequence[Hashable] | np.ndarray],
    weights: Sequence[float] = (1.0,),
) -> float | None:
    """Standard error of a weighted sum of means over items: `values`, `groups` T x [N_t], `weights`
    [T].

    Items that ask for the same thing (a fact in three wordings, a question and its mirror image) do
    not err independently: what varies freely is the group. With the residual r_i = v_i - mean_t of
    every item, each group g collects

        u_g = sum over t of  w_t / n_t * sqrt(G_t / (G_t - 1)) * sum over items i of t in g of r_i
        SE = sqrt(sum u_g^2)

    For one task this is the cluster-robust standard error of a mean (Liang and Zeger 1986; for
    evaluations: Miller 2024, arXiv 2411.00640) with the factor G / (G - 1) for small samples; where
    every item is its own group it is s / sqrt(n). Residuals are taken within each task. A group
    that occurs in two tasks (the same fact in two languages) is one cluster, so their common luck
    is not counted as independent evidence. For a paired difference pass v_i = a_i - b_i. At a score
    of exactly 0 or 1 the residuals vanish and the formula gives 0: it says nothing there.

    `groups` are names of any kind, or integers from `number_groups`. Returns None without tasks, or
    where a task has fewer than two groups. Raises ValueError for unequal lengths.
    """
    loads = []
    for own, names, weight in zip(values, groups, weights, strict=True):
        if len(own) != len(names):
            raise ValueError(f"{len(own)} values but {len(names)} groups")
        numbers = names if isinstance(names, np.ndarray) else number_groups(names)
        distinct = int(np.count_nonzero(np.bincount(numbers)))
        if distinct < 2:
            return None
        own = np.asarray(own, dtype=np.float64)
        residuals = own - mean(own.tolist())
        loads.append((numbers, weight / len(own) * small_sample_factor(distinct) * residuals))
    if not loads:
        return None
    count = 1 + max(int(numbers.max()) for numbers, _ in loads)
    totals = np.zeros(count)
    for numbers, load in loads:
        totals += np.bincount(numbers, weights=load, minlength=count)
    return math.sqrt(math.fsum((totals[np.nonzero(totals)] ** 2).tolist()))


# of every group name ever met: a group has the same number in every task
_numbers: dict[Hashable, int] = {}


def number_groups(groups: Sequence[Hashable]) -> np.ndarray:
    """[N] integers for group names; the same name has the same integer in every call."""
    return np.array([_numbers.setdefault(name, len(_numbers)) for name in groups], dtype=np.int64)


def small_sample_factor(groups: int) -> float:
    """sqrt(G / (G - 1))."""
    return math.sqrt(groups / (groups - 1))


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
    """Standard error of a difference over items and training seeds: sqrt(SE_items^2 + sum over
    models of sd^2 / k).

    `seeds` holds each model's score per seed (k of them); a model with one seed adds nothing, since
    its seed error is unknown. The seed-by-item part of the variance is in both terms, so the result
    errs on the wide side.
    """
    if items is None:
        return None
    return math.sqrt(
        items**2 + math.fsum((seed_spread(scores) or 0.0) ** 2 / len(scores) for scores in seeds)
    )


def aggregate_stderr(
    values: Sequence[Any], groups: Sequence[str], aggregate: Callable[[list[Any]], Any]
) -> float | None:
    """Standard error of `aggregate(values)`, a score that a task computes with code of its own.

    Means of numbers have `stderr`'s error. Ratios of sums (bits per byte: pairs of numbers) have
    the jackknife's over groups, anything else (F1) the jackknife's over at most JACKKNIFE_BLOCKS
    blocks of groups. Returns None where there are fewer than two groups or the aggregation cannot
    do without the omitted items.
    """
    places = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    cluster, count = np.array([places[group] for group in groups], dtype=np.int64), len(places)
    if count < 2:
        return None
    whole = float(aggregate(list(values)))
    table = _to_table(values)
    if (
        table is not None
        and table.shape[1] == 1
        and math.isclose(whole, table.mean(), rel_tol=1e-9, abs_tol=1e-12)
    ):
        return stderr([table[:, 0]], [groups])
    try:
        if table is not None and table.shape[1] == 2:
            totals = table.sum(0)
            if math.isclose(whole, float(aggregate([tuple(totals)])), rel_tol=1e-9):
                parts = np.stack(
                    [np.bincount(cluster, table[:, column], count) for column in (0, 1)], 1
                )
                return _jackknife([float(aggregate([tuple(row)])) for row in totals - parts])
        blocks = min(count, JACKKNIFE_BLOCKS)
        return _jackknife(
            [
                float(aggregate([v for v, b in zip(values, cluster % blocks) if b != omitted]))
                for omitted in range(blocks)
            ]
        )
    except (ArithmeticError, ValueError, TypeError, IndexError, KeyError):
        return None  # an aggregation that cannot do without the omitted items


def _jackknife(scores: Sequence[float]) -> float | None:
    n, estimates = len(scores), np.array(scores)
    error = float(np.sqrt((n - 1) / n * np.square(estimates - estimates.mean()).sum()))
    return error if math.isfinite(error) else None


def _to_table(values: Sequence[Any]) -> np.ndarray | None:
    """[N, 1] for numbers, [N, 2] for pairs of numbers, else None."""
    rows = [value if isinstance(value, (tuple, list)) else (value,) for value in values]
    if {len(row) for row in rows} not in ({1}, {2}) or not all(
        isinstance(part, (int, float, np.number, np.bool_)) for row in rows for part in row
    ):
        return None
    return np.array(rows, dtype=np.float64)


# --- tests ---


def paired_test(differences: Sequence[np.ndarray]) -> list[tuple[float, str]]:
    """Two-sided p of each comparison, and the test's name. `differences`: an array [G] per
    comparison, what each item group adds to the difference of two scores.

    Under the null hypothesis two models are exchangeable in every group, so each difference could
    as well have the other sign; groups without a difference say nothing. Where all differences have
    the same size this is the exact binomial test of McNemar (1947). Otherwise all sign flips of up
    to 13 groups are counted, else 9,999 random ones: p = (1 + hits) / (1 + 9,999). More than 512
    groups flip in 512 batches, which is as valid: a permutation test may use any group of
    permutations. Where Hoeffding's inequality (1963) bounds that p below 1 / (1 + 9,999), the bound
    is returned.
    """
    from scipy.special import bdtr  # scipy costs a fifth of a second

    outcomes: list[tuple[float, str]] = [(1.0, "no item differs")] * len(differences)
    to_flip: dict[int, np.ndarray] = {}
    for i, difference in enumerate(differences):
        u = difference[np.abs(difference) > NEGLIGIBLE]
        if not len(u):
            continue
        total, sizes = abs(u.sum()), np.abs(u)
        bound = 2 * math.exp(-(total**2) / (2 * (u @ u)))
        if sizes.max() - sizes.min() <= 1e-9 * sizes.max():
            fewer = min(np.sum(u > 0), np.sum(u < 0))
            outcomes[i] = min(1.0, 2 * float(bdtr(fewer, len(u), 0.5))), "exact sign test (McNemar)"
        elif len(u) <= MAX_EXACT_GROUPS:
            patterns = (np.arange(2 ** len(u))[:, None] >> np.arange(len(u)) & 1) * 2.0 - 1.0
            hits = np.abs(patterns @ u) >= total * (1 - 1e-9)
            outcomes[i] = float(np.mean(hits)), "all sign flips"
        elif bound < 1 / (1 + FLIPS):
            outcomes[i] = bound, "sign flips, bounded"
        else:
            to_flip[i] = (
                u if len(u) <= BATCHES else np.bincount(np.arange(len(u)) % BATCHES, u, BATCHES)
            )
    indices = list(to_flip)
    for start in range(0, len(indices), 256):
        some = indices[start : start + 256]
        longest = max(len(to_flip[i]) for i in some)
        u = np.stack([np.pad(to_flip[i], (0, longest - len(to_flip[i]))) for i in some], 1)
        hits = np.sum(
            np.abs(_signs(FLIPS, BATCHES)[:, :longest] @ u) >= np.abs(u.sum(0)) * (1 - 1e-9),
            axis=0,
        )
        for i, count in zip(some, hits):
            outcomes[i] = (1 + int(count)) / (1 + FLIPS), "sign flips"
    return [(max(p, SMALLEST_P), test) for p, test in outcomes]


def t_test(
    value: float, stderr: float, df: float, level: float = 1 - ALPHA
) -> tuple[float, float, float]:
    """Two-sided p of value / stderr under Student's t, and both ends of its interval; df may be
    infinite (normal).
    """
    from scipy.special import stdtr, stdtrit

    df = min(df, 1e9)
    half = float(stdtrit(df, (1 + level) / 2)) * stderr
    p = 2 * float(stdtr(df, -abs(value) / stderr)) if stderr else 1.0
    return max(p, SMALLEST_P), value - half, value + half


def satterthwaite_df(variances: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of (variance, df): (sum v)^2 / sum(v^2 / df) (Satterthwaite
    1946).
    """
    positive = [(v, df) for v, df in variances if v > 0]
    if not positive:
        return math.inf
    return math.fsum(v for v, _ in positive) ** 2 / math.fsum(v**2 / df for v, df in positive)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """[K] each p corrected for all of them (Holm 1979); None stays, and is not counted.

    As statsmodels' multipletests, which takes a second to import and collects garbage at every
    call: a tenth of a second each.
    """
    order = sorted((i for i, x in enumerate(p) if x is not None), key=lambda i: p[i] or 0.0)
    corrected: list[float | None] = [None] * len(p)
    least = 0.0
    for step, i in enumerate(order):
        corrected[i] = least = min(1.0, max(least, (p[i] or 0.0) * (len(order) - step)))
    return corrected


# --- resamples, and what is read from them ---


def _bit_generator(*stream: int) -> Any:
    """A generator of raw 64-bit numbers, one for every `stream`."""
    return np.random.PCG64(np.random.SeedSequence(20241221, spawn_key=stream))


@lru_cache(maxsize=2)
def _signs(flips: int, groups: int) -> np.ndarray:
    """[flips, G] of -1 and 1."""
    raw = _bit_generator(0).random_raw((flips, -(-groups // 64)))
    return np.unpackbits(raw.astype("<u8").view(np.uint8), axis=1, count=groups) * 2.0 - 1.0


@lru_cache(maxsize=48)
def resampling_weights(stratum: int, groups: int) -> np.ndarray:
    """[B, G]: how often each of a stratum's item groups is in each resample, drawn with
    replacement.
    """
    generator, weights = _bit_generator(1, stratum), np.empty((RESAMPLES, groups), np.float32)
    # All at once, 14,000 groups would take half a gigabyte of 64-bit numbers.
    for start in range(0, RESAMPLES, RESAMPLES_AT_ONCE):
        raw = generator.random_raw(RESAMPLES_AT_ONCE * groups // 2).astype("<u8").view("<u4")
        picked = (
            (raw.astype(np.uint64) * np.uint64(groups) >> np.uint64(32))
            .astype(np.int64)
            .reshape(RESAMPLES_AT_ONCE, groups)
        )
        picked += np.arange(RESAMPLES_AT_ONCE)[:, None] * groups
        weights[start : start + RESAMPLES_AT_ONCE] = np.bincount(
            picked.ravel(), minlength=RESAMPLES_AT_ONCE * groups
        ).reshape(RESAMPLES_AT_ONCE, groups)
    return weights


def draw_uniforms(stream: int, count: int) -> np.ndarray:
    """[B, count] uniform numbers between 0 and 1, both excluded."""
    raw = _bit_generator(2, stream).random_raw((RESAMPLES, count))
    return ((raw >> np.uint64(11)) + 0.5) / 2**53


def interval(
    value: float, deviations: np.ndarray, floor: float, level: float = 1 - ALPHA
) -> tuple[float, float]:
    """Both ends of a percentile interval (Efron 1979). `deviations` [B]: each resample's value
    minus `value`.

    `floor` is a standard error that is added to both half-widths in quadrature: see
    `leaderboard.measure.Panel.floor`.
    """
    from scipy.special import ndtri

    low, high = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2])
    least = -float(ndtri((1 - level) / 2)) * floor
    return value - math.hypot(min(low, 0.0), least), value + math.hypot(max(high, 0.0), least)


def ranks(points: np.ndarray, deviations: np.ndarray, floor: float) -> list[tuple[int, int]]:
    """Best and worst rank of each of R rows, all of them right at once with 95% (Mogstad, Romano,
    Shaikh and Wilhelm 2024).

    `points` [R]; `deviations` [B, R] of the resamples from them; `floor` is a standard error of
    every difference that the resamples lack. A pair is decided where |difference| / error exceeds
    the 95% point, over the resamples, of the largest such ratio of all pairs. Best rank = 1 + the
    rows that are surely better; worst = R - the rows that are surely worse.
    """
    n = len(points)
    error, largest = np.zeros((n, n)), np.zeros(len(deviations))
    for i in range(n - 1):
        gaps = deviations[:, i : i + 1] - deviations[:, i + 1 :]
        # About 0, not about their mean: a metric that is biased in resamples shows it here.
        error[i, i + 1 :] = own = np.sqrt(np.mean(gaps**2, 0))
        largest = np.fmax(largest, (np.abs(gaps) / np.where(own > NEGLIGIBLE, own, np.inf)).max(1))
    error = np.hypot(error + error.T, floor)
    critical = max(float(np.quantile(largest, 1 - ALPHA)), 1.96)
    # [i, j]: j is surely better than i
    better = points[None, :] - points[:, None] > critical * error + NEGLIGIBLE
    return [(1 + int(up), n - int(down)) for up, down in zip(better.sum(1), better.sum(0))]
