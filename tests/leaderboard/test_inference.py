"""Tests, intervals and ranks against scipy, statsmodels, what is known in closed form, and
simulated suites whose truth is known.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from lep_bench import stats
from lep_bench.leaderboard import compare

WEIGHTS = [[1.0, 1.0, 0.0, 0.0, 3.0], [1.0, 1.0, 2.0, 0.0, 1.0], [3.0, 0.0, 1.0, 1.0, 0.0]]
UNIFORMS = [0.6904105203500994, 0.4712479288993687]
SIGNS = [
    [1.0, -1.0, -1.0, 1.0, -1.0, 1.0],
    [1.0, 1.0, 1.0, -1.0, -1.0, 1.0],
    [1.0, 1.0, 1.0, 1.0, -1.0, -1.0],
]


def only(u: list[float] | np.ndarray) -> tuple[float, str]:
    (found,) = stats.paired_test([np.asarray(u, dtype=float)])
    return found


def total(u: np.ndarray, axis: int = 0) -> np.ndarray:
    return np.sum(u, axis=axis)


@pytest.mark.parametrize(
    ("won", "lost"), [(1, 0), (0, 1), (3, 9), (40, 61), (5, 5), (200, 120), (0, 30)]
)
def test_right_and_wrong_is_statsmodels_exact_mcnemar(won: int, lost: int) -> None:
    p, test = only([0.01] * won + [-0.01] * lost + [0.0] * 50)
    assert (
        p == pytest.approx(mcnemar([[50, won], [lost, 0]], exact=True).pvalue, rel=1e-12)
        and "McNemar" in test
    )


@pytest.mark.parametrize("n", [2, 5, 9, 13])
def test_few_groups_are_counted_as_scipy_does(n: int) -> None:
    u = np.random.default_rng(n).normal(0.3, 1, n)
    whole = permutation_test(
        (u,), total, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    p, test = only(u)
    assert p == pytest.approx(whole.pvalue, rel=1e-12) and test == "all sign flips"


@pytest.mark.parametrize("n", [14, 200, 3000])
def test_many_groups_are_close_to_the_t_test(n: int) -> None:
    """Also with more groups than flip one by one."""
    u = np.random.default_rng(n).normal(1.5 / math.sqrt(n), 1, n)
    p, test = only(u)
    assert test == "sign flips" and p == pytest.approx(
        ttest_1samp(u, 0).pvalue, abs=0.025 if n > 14 else 0.05
    )


def test_far_differences_are_bounded_from_above_and_never_nothing() -> None:
    u = np.random.default_rng(0).normal(0.5, 1, 900)
    p, test = only(u)
    assert test == "sign flips, bounded" and ttest_1samp(u, 0).pvalue < p < 1e-4
    assert 0 < only(np.linspace(1, 2, 100_000))[0] < 1e-200


def test_the_observed_signs_are_one_of_those_that_count() -> None:
    """No p of random flips is 0: (1 + hits) / (1 + 9,999)."""
    p, test = only(np.linspace(1, 1.1, 15))
    assert (
        test == "sign flips"
        and p >= 1e-4
        and p * 10_000 == pytest.approx(round(p * 10_000), abs=1e-9)
    )


@pytest.mark.parametrize("others", [0, 7, 5000])
def test_one_contested_item_says_nothing(others: int) -> None:
    assert only([0.5] + [0.0] * others) == (1.0, "exact sign test (McNemar)")
    assert only([0.0] * others) == (1.0, "no item differs")
    # Not even beside rounding errors.
    assert only([0.5] + [1e-17] * others)[0] == 1.0


def test_a_comparison_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(1)
    many = [rng.normal(0.05, 1, n) for n in (20, 100, 400, 700) for _ in range(80)]
    together = stats.paired_test(many)
    assert [only(u) for u in many[::40]] == together[::40]
    assert stats.paired_test([]) == []


def test_holm_is_statsmodels() -> None:
    p = [0.01, 0.04, 0.0005, 0.03, 0.9, 0.005, 0.04]
    assert stats.holm(p) == pytest.approx(multipletests(p, 0.05, "holm")[1].tolist())
    assert stats.holm([None, 0.02, None, 0.04]) == [None, 0.04, None, 0.04]
    assert stats.holm([]) == []


def test_weights_draw_every_group_as_often() -> None:
    drawn = stats.resampling_weights(0, 50)
    assert drawn.shape == (stats.RESAMPLES, 50) and (drawn.sum(1) == 50).all()
    assert np.abs(drawn.mean(0) - 1).max() < 0.1 and drawn.var() == pytest.approx(
        1 - 1 / 50, rel=0.03
    )
    assert (stats.resampling_weights(1, 50) != drawn).any()


def test_random_numbers_never_change() -> None:
    """A page that was published must render to the same bytes with any later numpy."""
    assert stats.resampling_weights(3, 5)[:3].tolist() == WEIGHTS
    assert stats.draw_uniforms(1, 2)[0].tolist() == UNIFORMS
    assert stats._signs(3, 70)[:, 62:68].tolist() == SIGNS


def test_student_is_scipys() -> None:
    values = [0.3, 0.1, 0.25, -0.05]
    whole = ttest_1samp(values, 0)
    p, low, high = stats.t_test(float(np.mean(values)), float(np.std(values, ddof=1)) / 2, 3)
    assert (p, low, high) == pytest.approx((whole.pvalue, *whole.confidence_interval(0.95)))
    assert stats.t_test(0.0, 1.0, math.inf)[1] == pytest.approx(-1.96, abs=1e-3)


def test_satterthwaite() -> None:
    assert stats.satterthwaite_df([(0.5, 4)]) == pytest.approx(4)
    assert stats.satterthwaite_df([(0.5, 4), (0.5, 4)]) == pytest.approx(8)
    assert stats.satterthwaite_df([(0.0, 3)]) == math.inf


@pytest.mark.parametrize(
    ("value", "low", "high", "corrected", "said"),
    [
        (0.05, 0.02, 0.08, 0.01, "higher"),
        (-0.05, -0.08, -0.02, 0.01, "lower"),
        (0.05, 0.02, 0.08, 0.2, "undecided"),
        (0.005, 0.001, 0.009, 0.01, "equal"),
        (0.0, -0.02, 0.02, 1.0, "undecided"),
        (0.0, -0.009, 0.01, 1.0, "equal"),
        (0.0, -0.01, 0.01, 1.0, "equal"),
        (-0.002, -0.011, 0.007, 1.0, "undecided"),
        (0.002, -0.007, 0.011, 1.0, "undecided"),
        (0.05, 0.02, 0.08, 0.05, "higher"),
        (0.05, 0.02, 0.08, 0.0501, "undecided"),
        (0.0, -0.02, 0.02, 0.01, "undecided"),
        (0.1, None, None, 0.01, None),
        (0.1, 0.05, 0.15, None, None),
    ],
)
def test_verdicts(
    value: float, low: float | None, high: float | None, corrected: float | None, said: str | None
) -> None:
    assert compare.judge_difference(value, low, high, corrected, 0.01) == said


def test_an_interval_is_never_narrower_than_its_floor() -> None:
    assert stats.interval(0.0, np.zeros(2000), 0.0) == (0.0, 0.0)
    low, high = stats.interval(0.1, np.zeros(2000), 0.01)
    assert (low, high) == pytest.approx((0.1 - 0.0196, 0.1 + 0.0196), abs=1e-5)


def test_ranks() -> None:
    rng = np.random.default_rng(3)
    scatter = rng.normal(0, 0.01, (2000, 4))
    assert stats.ranks(np.array([0.9, 0.5, 0.51, 0.1]), scatter, 0.0) == [
        (1, 1),
        (2, 3),
        (2, 3),
        (4, 4),
    ]
    assert stats.ranks(np.array([0.9, 0.9, 0.9]), np.zeros((2000, 3)), 0.0) == [(1, 3)] * 3
    # Rows that err together are told apart better than their own errors would say.
    together = np.repeat(rng.normal(0, 0.1, (2000, 1)), 2, 1) + rng.normal(0, 0.001, (2000, 2))
    assert stats.ranks(np.array([0.5, 0.51]), together, 0.0) == [(2, 2), (1, 1)]
    assert stats.ranks(np.array([0.5, 0.51]), together, 0.02) == [(1, 2), (1, 2)]


@pytest.fixture(scope="module")
def nulls() -> ModuleType:
    file = Path(__file__).parents[2] / "benchmarks" / "nulls.py"
    spec = importlib.util.spec_from_file_location("benchmark_nulls", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seeds", [1, 3])
def test_simulated_suites_keep_what_is_promised(nulls: ModuleType, seeds: int) -> None:
    """24 suites; the 1,000 are in benchmarks/results/nulls.json. Bounds: what 5% shows at most in
    99.9% of such samples.
    """
    found = nulls.suites(24, seeds, 10 + seeds)
    for name in ("means", "tasks"):
        assert found[f"false alarm, {name}, corrected"] <= 0.25
    assert found["false alarm, one task, F1"] <= 0.12 and found["false alarm, one mean"] <= 0.12
    assert min(v for k, v in found.items() if k.startswith("coverage")) >= 0.9
    assert min(v for k, v in found.items() if k.startswith("ranks hold")) >= 0.75
    assert found["width of ranks, apart"] < nulls.MODELS - 1  # they do say something


def test_equal_is_rarely_said_of_what_is_not(nulls: ModuleType) -> None:
    rows = nulls.edges(100, 5, sizes=(300,))
    assert max(row["equal"] for row in rows) <= 0.14
    assert max(row["gate"] for row in rows) <= 0.16
