"""The vectorised errors against loops that follow the formula word by word, and against what is
known in closed form.
"""

from __future__ import annotations

import math
import random
import statistics

import pytest

from lep_bench import stats
from lep_bench.leaderboard import measure

Part = tuple[float, list[float], list]  # weight, values, groups


def joined(parts: list[Part]) -> float | None:
    weights, values, groups = zip(*parts)
    return stats.stderr(values, groups, weights)


def by_hand(parts: list[Part]) -> float:
    """The formula of `stats.stderr` with loops only."""
    names = {group for _, _, groups in parts for group in groups}
    variance = 0.0
    for name in names:
        u = 0.0
        for weight, values, groups in parts:
            n, clusters = len(values), len(set(groups))
            centre = sum(values) / n
            for value, group in zip(values, groups):
                if group == name:
                    u += weight / n * math.sqrt(clusters / (clusters - 1)) * (value - centre)
        variance += u * u
    return math.sqrt(variance)


def drawn(seed: int, n: int, groups: int) -> tuple[list[float], list[str]]:
    rng = random.Random(seed)
    return [rng.random() for _ in range(n)], [f"g{rng.randrange(groups)}" for _ in range(n)]


@pytest.mark.parametrize(("n", "groups"), [(5, 2), (60, 20), (300, 7), (41, 41)])
def test_clustered_error_equals_loops(n: int, groups: int) -> None:
    values, names = drawn(n, n, groups)
    assert stats.stderr([values], [names]) == pytest.approx(
        by_hand([(1.0, values, names)]), rel=1e-12
    )


def test_without_groups_it_is_the_usual_error() -> None:
    values, _ = drawn(1, 50, 1)
    assert stats.stderr([values], [range(50)]) == pytest.approx(
        statistics.stdev(values) / math.sqrt(50), rel=1e-12
    )


def test_repeated_items_are_no_new_evidence() -> None:
    values, _ = drawn(2, 30, 1)
    once = stats.stderr([values], [range(30)])
    thrice = stats.stderr([values * 3], [list(range(30)) * 3])
    assert thrice == pytest.approx(once, rel=1e-12)


def test_tasks_combine_and_share_groups() -> None:
    a, b = drawn(3, 40, 12), drawn(4, 60, 12)
    parts = [(1 / 3, *a), (0.5, *b)]
    assert joined(parts) == pytest.approx(by_hand(parts), rel=1e-12)
    apart = [
        (1 / 3, a[0], [("a", g) for g in a[1]]),
        (0.5, b[0], [("b", g) for g in b[1]]),
    ]
    each = [stats.stderr([values], [groups]) * weight for weight, values, groups in apart]
    assert joined(apart) == pytest.approx(math.hypot(*each), rel=1e-12)
    # The same fact in two languages: errors that go together make the mean less certain than two
    # independent tasks.
    same = [(0.5, a[0], a[1]), (0.5, a[0], a[1])]
    assert joined(same) == pytest.approx(stats.stderr([a[0]], [a[1]]), rel=1e-12)


def test_the_error_is_as_large_as_what_really_varies() -> None:
    """1,000 tests of 40 groups of 3 alike items: the estimated error against the scatter of the
    means.
    """
    rng = random.Random(6)
    means, errors = [], []
    for _ in range(1000):
        levels = [rng.random() for _ in range(40)]
        values = [float(rng.random() < level) for level in levels for _ in range(3)]
        means.append(statistics.mean(values))
        errors.append(stats.stderr([values], [[i // 3 for i in range(120)]]) ** 2)
    assert math.sqrt(statistics.mean(errors)) == pytest.approx(statistics.stdev(means), rel=0.08)


def test_what_cannot_be_known_is_none() -> None:
    assert stats.stderr([[1.0, 0.0]], [["a", "a"]]) is None
    assert stats.stderr([], [], []) is None
    assert stats.seed_spread([0.5]) is None
    assert stats.add_seed_error(None, [0.1, 0.2]) is None


def test_seeds_widen_a_difference() -> None:
    a = [0.7, 0.8, 0.75]
    assert stats.add_seed_error(0.03, a, [0.9]) == pytest.approx(
        math.sqrt(0.03**2 + statistics.variance(a) / 3)
    )
    assert stats.add_seed_error(0.03, [0.7], [0.9]) == pytest.approx(0.03)


def test_unequal_lengths_are_a_mistake() -> None:
    with pytest.raises(ValueError):
        stats.stderr([[1.0, 0.0]], [["a"]])


def test_centred() -> None:
    assert measure.centre_score(0.25, 0.25) == 0
    assert measure.centre_score(1.0, 0.25) == 1
    assert measure.centre_score(0.1, 0.25) == pytest.approx(-0.2)
