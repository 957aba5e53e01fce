"""Rows side by side: groups that tasks share, scores that are no means of items, and what the
resamples are of.
"""

from __future__ import annotations

import numpy as np
import pytest
from invented_paper import BY_NAME, PAPER, whole
from invented_run import drawn

from lep_bench import stats
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.cells import Items, Metrics, measure_exchanges
from lep_bench.leaderboard.measure import Panel, Scale, Share

F1, METRICS = "darumeru_rcb", Metrics.load(["darumeru_rcb"])


def items(task: str, values: list[float], groups: list[str] | None = None) -> Items:
    return Items(
        tuple(f"{task}{i}" for i in range(len(values))),
        tuple(groups or [""] * len(values)),
        np.array(values, dtype=float),
    )


def panel(shares: dict[str, list[Items]], weight: float = 0.5) -> Panel:
    rows = len(next(iter(shares.values())))
    made = [
        Share(task, weight, [[float(i.values.mean())] for i in own], own, [None] * rows)
        for task, own in shares.items()
    ]
    return Panel([f"m{r}" for r in range(rows)], made, [1] * rows)


def labelled(name: str, n: int = 90) -> Items:
    gold = ["abc"[int(3 * drawn("gold", i) ** 2)] for i in range(n)]
    said = [
        g if drawn(name, i) < 0.7 else "abc"[int(3 * drawn(name, "said", i))]
        for i, g in enumerate(gold)
    ]
    raw = METRICS.raw(F1, "score", list(zip(gold, said)))
    assert raw
    return Items(tuple(map(str, range(n))), ("",) * n, raw.shares()[1], (raw,))


def test_resamples_of_a_mean_equal_loops() -> None:
    values = [[drawn(m, i) for i in range(12)] for m in range(2)]
    groups = [f"g{i // 3}" for i in range(12)]
    own = panel({"t": [items("t", v, groups) for v in values]}, 1.0)
    for b, counts in enumerate(stats.resampling_weights(0, 4)[:20]):
        picked = [
            i for g in range(4) for _ in range(int(counts[g])) for i in range(3 * g, 3 * g + 3)
        ]
        for m in range(2):
            by_hand = (np.mean([values[m][i] for i in picked]) - np.mean(values[m])) * np.sqrt(
                4 / 3
            )
            assert own.deviations[b, m] == pytest.approx(by_hand, abs=1e-12)


def test_resamples_of_a_score_that_is_no_mean_recompute_it() -> None:
    own = panel({F1: [labelled("one"), labelled("two")]}, 1.0)
    raw = own.shares[0].items[1].raws[0]
    stored = [raw.distinct[code] for code in raw.codes]
    score = METRICS.aggregations[F1]["score"]
    for b, counts in enumerate(stats.resampling_weights(0, 90)[:10]):
        again = [pair for pair, n in zip(stored, counts) for _ in range(int(n))]
        assert own.deviations[b, 1] == pytest.approx(
            (score(again) - score(stored)) * np.sqrt(90 / 89), abs=1e-9
        )


def test_the_items_share_in_such_a_score_adds_up_to_it() -> None:
    own = labelled("three")
    raw = own.raws[0]
    assert own.values.mean() == pytest.approx(
        METRICS.aggregations[F1]["score"]([raw.distinct[code] for code in raw.codes])
    )


def test_tasks_that_share_groups_are_drawn_together() -> None:
    """The same facts in two languages: where the second task mirrors the first, the mean does not
    vary at all.
    """
    values = [float(drawn("fact", i) < 0.5) for i in range(40)]
    groups = [f"fact-{i}" for i in range(40)]
    mirrored = [1 - v for v in values]
    rows = {
        "ru": [items("ru", v, groups) for v in (values, [0.0] * 40)],
        "en": [items("en", v, groups) for v in (mirrored, [0.0] * 40)],
    }
    own = panel(rows)
    assert np.abs(own.deviations[:, 0]).max() < 1e-6
    assert np.abs(own.alone("ru").deviations[:, 0]).max() > 0.1
    (d,) = own.differences([("m0", "m1")])
    assert d.stderr == pytest.approx(0, abs=1e-12) and d.value == pytest.approx(0.5)
    apart = panel({"ru": rows["ru"], "en": [items("en", v) for v in (mirrored, [0.0] * 40)]})
    assert apart.differences([("m0", "m1")])[0].stderr > 0.05


def test_groups_that_only_one_of_two_tasks_has() -> None:
    values = [[float(drawn(m, i) < 0.5) for i in range(30)] for m in range(2)]
    left, right = [f"g{i}" for i in range(30)], [f"g{i + 15}" for i in range(30)]
    own = panel(
        {"a": [items("a", v, left) for v in values], "b": [items("b", v, right) for v in values]}
    )
    assert (
        own.tasks["a"].of == 45
        and own.deviations.shape == (stats.RESAMPLES, 2)
        and np.isfinite(own.deviations).all()
    )
    assert own.deviations.std(0) == pytest.approx(
        own.alone("a").deviations.std(0) / np.sqrt(2), rel=0.25
    )


def test_one_contested_item_in_every_kind_of_score() -> None:
    for name, change in (("right/wrong", None), ("F1", "b")):
        if change:
            one = labelled("one")
            raw = one.raws[0]
            pairs = [raw.distinct[code] for code in raw.codes]
            pairs[4] = (pairs[4][0], "abc"[("abc".index(pairs[4][1]) + 1) % 3])
            other = METRICS.raw(F1, "score", pairs)
            own = panel({F1: [one, Items(one.ids, one.groups, other.shares()[1], (other,))]})
        else:
            own = panel({"t": [items("t", [1.0] * 90), items("t", [0.0] + [1.0] * 89)]})
        (d,) = own.differences([("m0", "m1")])
        assert d.p >= 0.05 and d.low < 0 < d.high, name


def test_fewer_than_two_groups_say_nothing() -> None:
    own = panel({"t": [items("t", [1.0, 0.0], ["g", "g"]), items("t", [0.0, 0.0], ["g", "g"])]})
    (d,) = own.differences([("m0", "m1")])
    assert (d.value, d.stderr, d.low, d.p, d.verdict) == (
        0.25,
        None,
        None,
        None,
        None,
    ) and own.ranks(["m0", "m1"]) == {}


def test_a_task_without_items_is_taken_as_not_paired() -> None:
    own = items("t", [float(drawn("t", i) < 0.5) for i in range(50)])
    shares = [
        Share("t", 0.5, [[float(own.values.mean())]] * 2, [own, own], [None, None]),
        Share("u", 0.5, [[0.5], [0.3]], None, [0.03, 0.04]),
    ]
    (d,) = Panel(["a", "b"], shares, [1, 1]).differences([("a", "b")])
    assert (
        d.value == pytest.approx(0.1)
        and d.stderr == pytest.approx(0.025)
        and "not paired" in d.test
        and d.p < 0.05
    )
    shares[1].errors[0] = None
    assert Panel(["a", "b"], shares, [1, 1]).differences([("a", "b")])[0].p is None


def test_a_whole_suite_of_all_kinds_of_scores() -> None:
    run = whole()
    made = build_table(run.results, run.samples, PAPER, list(BY_NAME))
    found = [f for block in made.blocks for f in block.findings]
    assert found and all(
        f.difference.p is not None and f.difference.low <= f.difference.value <= f.difference.high
        for f in found
    )


@pytest.mark.parametrize(
    ("task", "metric"), [(F1, "f1_macro"), (F1, "score"), ("darumeru_rucola", "mcc")]
)
def test_one_contested_item_says_nothing_where_it_changes_every_share(
    task: str, metric: str
) -> None:
    """One row alone gives a label once: macro F1 falls from 1 to 0.5, and with it the jackknife
    share of every item.
    """
    metrics = Metrics.load([task])
    for n in (20, 300):
        one = [("a", "a")] * (n - 2) + [("b", "b")] * 2
        rows = []
        for pairs in (one, [("a", "b" if task != F1 else "c"), *one[1:]]):
            raw = metrics.raw(task, metric, pairs)
            rows.append(Items(tuple(map(str, range(n))), ("",) * n, raw.shares()[1], (raw,)))
        (d,) = panel({task: rows}, 1.0).differences([("m0", "m1")])
        assert (d.p, d.test) == (1.0, "exact sign test (McNemar)") and abs(d.value) > 0.001


def test_an_exchange_is_what_computing_both_scores_again_gives() -> None:
    one, two = (labelled(name).raws[0] for name in ("one", "two"))
    score = METRICS.aggregations[F1]["score"]
    a, b = ([raw.distinct[code] for code in raw.codes] for raw in (one, two))
    parts = measure_exchanges(one, two)
    for i in range(40):
        swapped = score([*a[:i], b[i], *a[i + 1 :]]) - score([*b[:i], a[i], *b[i + 1 :]])
        assert parts[i] == pytest.approx((score(a) - score(b) - swapped) / 2, abs=1e-12)
    assert parts.sum() == pytest.approx(score(a) - score(b), abs=0.002)


def test_a_score_that_some_resamples_do_not_have() -> None:
    """A user's precision: nothing was called "a" in some resamples."""

    def precision(pairs: list[tuple[str, str]]) -> float:
        said = [gold for gold, prediction in pairs if prediction == "a"]
        return said.count("a") / len(said)

    metrics = Metrics({"t": {"p": precision}})
    rows = []
    for gold in ("aab", "bab"):
        raw = metrics.raw("t", "p", [*zip(gold, "aaa"), *[("b", "b")] * 9])
        rows.append(Items(tuple(map(str, range(12))), ("",) * 12, raw.shares()[1], (raw,)))
    (d,) = panel({"t": rows}, 1.0).differences([("m0", "m1")])
    assert d.value == pytest.approx(1 / 3) and d.low < 0 < d.high and d.p == 1.0


@pytest.mark.parametrize("kind", ["plain", "centred"])
def test_a_tasks_weight_is_what_its_score_moves_the_mean_by(kind: str) -> None:
    """Errors of a mean are weighted sums: a centred mean weighs a task by 1 / (1 - chance)."""
    scale = Scale({"a": 0.25, "b": 0.0}, kind)
    scores = {"a": 0.5, "b": 0.75}
    for task in scores:
        moved = scale.mean({**scores, task: scores[task] + 0.1}) - scale.mean(scores)
        assert scale.weight(task) * 0.1 == pytest.approx(moved)
    assert scale.weight("a") == pytest.approx(0.5 if kind == "plain" else 0.5 / 0.75)
