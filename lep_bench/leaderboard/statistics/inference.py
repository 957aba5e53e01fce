"""Tests, intervals and ranks of paired comparisons. Arrays in, numbers out; what is compared with what is decided elsewhere.

Random numbers are numpy's raw bit stream under a fixed seed (`random_raw`, which numpy keeps the same between versions), so that a
page re-renders to the same bytes. Nothing here depends on the order of the comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

ALPHA = 0.05
FLIPS = 9_999  # random sign flips of a permutation test
RESAMPLES = 2_000  # of the bootstrap
BLOCK = 200  # resamples drawn at once; even, and a divisor of RESAMPLES
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


def sign_flips(differences: Sequence[np.ndarray]) -> list[tuple[float, str]]:
    """Two-sided p, and the test's name, of each sum of differences: one array per comparison, a number for each item group.

    Under the null two models are exchangeable in every group, so that each difference could as well have the other sign; groups without
    a difference say nothing. Where all differences have the same size this is the exact binomial test of McNemar (1947), else all sign
    flips of up to 13 groups are counted, else 9,999 random ones: p = (1 + hits) / (1 + 9,999). More than 512 groups flip in 512 batches,
    which is as valid: a permutation test may use any group of permutations. Where Hoeffding's inequality (1963) bounds that p by less than
    1 / (1 + 9,999), the bound is given.
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
            open_[i] = u if len(u) <= BATCHES else np.bincount(np.arange(len(u)) % BATCHES, u, BATCHES)
    names = list(open_)
    for start in range(0, len(names), 256):
        some = names[start : start + 256]
        used = max(len(open_[i]) for i in some)
        u = np.stack([np.pad(open_[i], (0, used - len(open_[i]))) for i in some], 1)
        hits = np.sum(np.abs(_signs(FLIPS, BATCHES)[:, :used] @ u) >= np.abs(u.sum(0)) * (1 - 1e-9), axis=0)
        for i, count in zip(some, hits):
            found[i] = (1 + int(count)) / (1 + FLIPS), "sign flips"
    return [(max(p, SMALLEST), test) for p, test in found]


@lru_cache(maxsize=48)
def weights(stratum: int, groups: int) -> np.ndarray:
    """[RESAMPLES, groups]: how often each of a stratum's item groups is in each resample, drawn with replacement."""
    import numpy as np

    bits, out = _bits(1, stratum), np.empty((RESAMPLES, groups), np.float32)
    for start in range(0, RESAMPLES, BLOCK):  # whole at once 14,000 groups would take half a gigabyte of 64-bit numbers
        raw = bits.random_raw(BLOCK * groups // 2).astype("<u8").view("<u4")
        picked = (raw.astype(np.uint64) * np.uint64(groups) >> np.uint64(32)).astype(np.int64).reshape(BLOCK, groups)
        picked += np.arange(BLOCK)[:, None] * groups
        out[start : start + BLOCK] = np.bincount(picked.ravel(), minlength=BLOCK * groups).reshape(BLOCK, groups)
    return out


def uniforms(stream: int, count: int) -> np.ndarray:
    """[RESAMPLES, count] numbers evenly spread between 0 and 1, both excluded."""
    import numpy as np

    return ((_bits(2, stream).random_raw((RESAMPLES, count)) >> np.uint64(11)) + 0.5) / 2**53


def percentiles(value: float, deviations: np.ndarray, floor: float, level: float = 1 - ALPHA) -> tuple[float, float]:
    """Both ends of a percentile interval from [RESAMPLES] deviations of the resamples from `value`.

    `floor` is a standard error that is added to both half-widths in quadrature: see `panel.Panel.floor`.
    """
    import numpy as np
    from scipy.special import ndtri

    low, high = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2])
    least = -float(ndtri((1 - level) / 2)) * floor
    return value - math.hypot(min(low, 0.0), least), value + math.hypot(max(high, 0.0), least)


def satterthwaite(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of variances, each with its own: (sum v)^2 / sum(v^2 / df) (Satterthwaite 1946)."""
    given = [(v, df) for v, df in parts if v > 0]
    return math.fsum(v for v, _ in given) ** 2 / math.fsum(v**2 / df for v, df in given) if given else math.inf


def student(value: float, stderr: float, df: float, level: float = 1 - ALPHA) -> tuple[float, float, float]:
    """Two-sided p of value / stderr under Student's t, and both ends of its interval; df may be infinite (normal)."""
    from scipy.special import stdtr, stdtrit

    df = min(df, 1e9)
    half = float(stdtrit(df, (1 + level) / 2)) * stderr
    p = 2 * float(stdtr(df, -abs(value) / stderr)) if stderr else 1.0
    return max(p, SMALLEST), value - half, value + half


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Each p corrected for all of them (Holm 1979); None stays, and is not counted.

    As statsmodels' multipletests, which takes a second to import and collects garbage at every call: a tenth of a second each.
    """
    order = sorted((i for i, x in enumerate(p) if x is not None), key=lambda i: p[i] or 0.0)
    corrected: list[float | None] = [None] * len(p)
    least = 0.0
    for step, i in enumerate(order):
        corrected[i] = least = min(1.0, max(least, (p[i] or 0.0) * (len(order) - step)))
    return corrected


def verdict(value: float, low: float | None, high: float | None, corrected: float | None, delta: float) -> Any:
    """`equal` where the whole interval lies within ±delta, else what the corrected test found, else "undecided"; None where nothing is known."""
    if low is None or high is None or corrected is None:
        return None
    if -delta <= low and high <= delta:
        return "equal"
    return "undecided" if corrected > ALPHA or not value else "higher" if value > 0 else "lower"


def ranks(points: np.ndarray, deviations: np.ndarray, floor: float) -> list[tuple[int, int]]:
    """Best and worst rank of each of n rows, all of them right at once with 95% (Mogstad, Romano, Shaikh and Wilhelm 2024).

    `points` [n]; `deviations` [RESAMPLES, n] of the resamples from them; `floor` is a standard error of every difference that the
    resamples lack. A pair is decided where |difference| / error exceeds the 95% point, over the resamples, of the largest such ratio of
    all pairs; best rank = 1 + rows that are surely better, worst = n - rows that are surely worse.
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
    better = points[None, :] - points[:, None] > critical * error + NOTHING  # [i, j]: j is surely better than i
    return [(1 + int(up), n - int(down)) for up, down in zip(better.sum(1), better.sum(0))]
