"""Items of a cell: numbers, and scores that are no means over items, recomputed for many resamples
at once.
"""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invented_paper import BY_NAME, PAPER, cell
from invented_run import Run

from lep_bench import stats
from lep_bench.leaderboard import examine
from lep_bench.leaderboard.cells import Chosen, Items, Metrics, average_items, read_items
from lep_bench.records.schema import Score

METRICS = Metrics.load(PAPER.tasks)
SUBJECTS = ("anatomy", "astronomy", "econometrics", "formal_logic", "sociology", "not a subject")


def values(task: str, n: int = 90, seed: int = 0) -> list[Any]:
    """Stored values as the task's aggregation takes them; the grade's come in whole variants of 15
    rows.
    """
    draw = random.Random(f"{task} {seed}")
    if "mmlu" in task:
        return [[draw.choice(SUBJECTS), float(draw.random() < 0.6)] for _ in range(n)]
    if task == "darumeru_use":
        return [[float(draw.randrange(6)) / 2, i // 15] for i in range(n)]
    labels = "01" if "rucola" in task else "abcd"
    return [
        [gold := draw.choice(labels), gold if draw.random() < 0.6 else draw.choice(labels)]
        for _ in range(n)
    ]


def found(
    task: str, stored: list[Any], model: str = "llama3-8b/instruct", **changes: Any
) -> tuple[Chosen, Items | None]:
    """What is made of a cell of these values."""
    result, samples = cell(BY_NAME[model], task, items=len(stored))
    aggregate = METRICS.aggregations.get(task, {}).get("score", statistics.fmean)
    score = Score(**({"value": aggregate(stored)} if "value" not in changes else {}), **changes)
    samples = [s.model_copy(update={"values": {"score": v}}) for s, v in zip(samples, stored)]
    (one,), lookup = examine.examine_results(
        [Chosen(result.model_copy(update={"scores": {"score": score}}))], lambda r: samples, METRICS
    )
    return one, lookup(one.result)


@pytest.mark.parametrize(
    ("task", "metric"),
    [(task, metric) for task, own in METRICS.aggregations.items() for metric in own],
)
def test_resampled_scores_are_those_of_the_plain_functions(task: str, metric: str) -> None:
    """Every row of counts is a list of values; a grade's resamples are of whole variants, each
    drawn one counted anew.
    """
    plain = METRICS.aggregations[task][metric]
    stored, numbers = values(task), np.random.default_rng(1)
    raw = METRICS.raw(task, metric, stored)
    assert raw is not None and raw.function is METRICS.resampled[task][metric]
    draws = [list(range(len(stored))), [3, 3, 4]]
    for _ in range(50):
        if task == "darumeru_use":
            draws[1:2] = []
            draws.append([15 * v + i for v in numbers.integers(0, 6, 6) for i in range(15)])
        else:
            draws.append(list(numbers.integers(0, len(stored), 60)))
    counts = np.array([np.bincount(raw.codes[draw], minlength=len(raw.distinct)) for draw in draws])
    own = [
        [
            [*stored[i][:1], 100 * (n // 15) + stored[i][1]]
            if task == "darumeru_use"
            else stored[i]
            for n, i in enumerate(draw)
        ]
        for draw in draws
    ]
    assert raw.scores(counts) == pytest.approx([plain(rows) for rows in own], rel=1e-12)


@pytest.mark.parametrize("task", METRICS.aggregations)
def test_shares_give_the_score_and_the_jackknifes_error(task: str) -> None:
    one, items = found(task, stored := values(task))
    assert items is not None and one.failure is None
    plain, n = METRICS.aggregations[task]["score"], len(stored)
    assert items.values.mean() == pytest.approx(plain(stored), rel=1e-12)
    if task != "darumeru_use":  # whose plain function takes a variant without a row for a whole one
        without = [plain(stored[:i] + stored[i + 1 :]) for i in range(n)]
        jackknife = (
            (n - 1) / n * sum((w - statistics.fmean(without)) ** 2 for w in without)
        ) ** 0.5
        assert stats.stderr([items.values], [items.clusters(task)]) == pytest.approx(jackknife)


def test_a_grades_error_is_that_of_points_per_row() -> None:
    _, items = found("darumeru_use", stored := values("darumeru_use"))
    assert items is not None
    points = [15 / 34 * p for p, _ in stored]
    assert stats.stderr([items.values], [items.clusters("t")]) == pytest.approx(
        statistics.stdev(points) / 90**0.5, rel=0.01
    )


def test_metrics_of_a_users_task_that_are_not_vectorised(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: mine\n")
    (tmp_path / "metrics.py").write_text(
        "def top(v):\n    return max(v) - min(v)\nAGGREGATIONS = {'mine': {'score': top}}\n"
    )
    metrics = Metrics.load(["mine"], [tmp_path])
    raw = metrics.raw("mine", "score", [1, 2, 2, 5])
    assert raw is not None and raw.scores(np.array([[1, 2, 1], [2, 1, 0], [0, 0, 3]])).tolist() == [
        4,
        1,
        0,
    ]
    assert metrics.raw("mine", "score", list(range(201))) is None, "too many to do one by one"
    assert (
        metrics.raw("mine", "other", [1]) is None and metrics.raw("mine", "score", [[[1]]]) is None
    )


def test_no_items_where_they_do_not_give_the_score() -> None:
    for stored in (
        [1.0, 0.0, None, 1.0],
        ["a", "b", "a", "b"],
        [float("nan"), 1.0, 1.0, 1.0],
        [float("inf"), 1.0],
    ):
        assert found("darumeru_parus", stored, value=0.5)[1] is None
    assert found("darumeru_rcb", [["a", "a"]])[1] is None, "one item has no error"
    one, items = found("darumeru_rcb", values("darumeru_rcb"), value=0.4, samplings=5)
    assert items is None and one.failure is None, "of sampled labels only the first is stored"


def test_cells_asked_the_same_share_their_ids() -> None:
    run = Run()
    for name in ("llama3-8b/instruct", "llama3-8b/bpe/swap"):
        run.add(cell(BY_NAME[name], "darumeru_parus"))
    cells, lookup = examine.examine_results([Chosen(r) for r in run.results], run.samples, METRICS)
    a, b = (lookup(c.result) for c in cells)
    assert (
        a is not None
        and b is not None
        and a.ids is b.ids
        and a.groups is b.groups
        and (a.values != b.values).any()
    )


def test_seeds_are_averaged() -> None:
    one, two = (found("darumeru_rcb", values("darumeru_rcb", seed=seed))[1] for seed in (1, 2))
    assert one is not None and two is not None
    both = average_items([one, two])
    assert (
        both is not None
        and (both.values == (one.values + two.values) / 2).all()
        and both.raws == one.raws + two.raws
    )
    shorter = found("darumeru_rcb", values("darumeru_rcb", n=30))[1]
    assert (
        average_items([one, shorter]) is None
        and average_items([one, None]) is None
        and average_items([]) is None
        and average_items([one]) is one
    )


def test_a_group_may_be_a_number_that_an_item_has_too() -> None:
    result, samples = cell(next(iter(BY_NAME.values())), "darumeru_parus")
    numbered = [s.model_copy(update={"group": str(s.doc_id // 3)}) for s in samples]
    found = [
        read_items(result, given, METRICS, {})
        for given in (numbered, [s.model_copy(update={"group": str(s.doc_id)}) for s in samples])
    ]
    assert found[0].groups == tuple(s.group for s in numbered) and set(found[1].groups) == {""}
