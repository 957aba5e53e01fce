"""Do the leaderboard's statistics keep what they promise? Simulated suites whose truth is known,
judged by the code that judges real ones.

    python benchmarks/nulls.py [--runs 4000]

A run draws a suite of four tasks: right/wrong items each on its own; right/wrong items of facts in
three wordings, asked in two tasks that share the facts; and three labels scored by (accuracy +
macro F1) / 2. Items are easy or hard for all models alike. Eight models are asked: one control and
seven variants, of which each is compared with the control. With three seeds every model's level
varies from seed to seed.

Printed, and written to benchmarks/results/nulls.json:
  false alarms   all eight are alike: share of runs with any corrected p <= 0.05, of the seven means
      and of the 28 single tasks;
                 beside it the share of single p <= 0.05 (not corrected)
  coverage       share of 95% intervals that hold the true difference, where there is none and where
      there are some of 0 to 12 points
  ranks          share of runs in which every model's rank interval holds its true rank, where all
      are alike and where all differ
  equal          share of comparisons called "equal" although the true difference is exactly delta
  gate           share of models that pass although the true drop is exactly what --max-drop forbids
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from lep_bench.leaderboard import compare
from lep_bench.leaderboard.cells import Items, Metrics
from lep_bench.leaderboard.measure import Panel, Share
from lep_bench.stats import ALPHA

MODELS = 8
LABELS = ("a", "b", "c")
SCATTER = 0.03  # standard deviation of a model's level from seed to seed
DELTA = 0.01
F1, METRICS = "darumeru_rcb", Metrics.load(["darumeru_rcb"])


def asked(rng: np.random.Generator, hard: np.ndarray, level: float) -> np.ndarray:
    """Whether each item is answered rightly: with probability 0.55 - 0.3 * hardness (-1 to 1) +
    level.
    """
    return (rng.random(len(hard)) < 0.55 - 0.3 * hard + level).astype(float)


def labelled(
    rng: np.random.Generator, gold: np.ndarray, right: np.ndarray
) -> list[tuple[str, str]]:
    """(gold, predicted) labels; a wrong prediction is one of the other two."""
    said = np.where(right > 0, gold, (gold + rng.integers(1, 3, len(gold))) % 3)
    return [(LABELS[g], LABELS[s]) for g, s in zip(gold, said)]


def averaged(ids: tuple[str, ...], groups: tuple[str, ...], each: list[Items]) -> Items:
    return Items(
        ids,
        groups,
        np.mean([items.values for items in each], axis=0),
        tuple(raw for items in each for raw in items.raws),
    )


def suite(rng: np.random.Generator, levels: np.ndarray, seeds: int, size: int = 120) -> Panel:
    """One simulated suite; levels [models]: what each adds to every probability of a right answer.
    The control is model 0.
    """
    names = [f"m{i}" for i in range(len(levels))]
    facts = size // 3
    of_fact = rng.uniform(-1, 1, facts)
    fact_groups = tuple(f"fact-{i // 3}" for i in range(size))
    tasks: list[tuple[str, tuple[str, ...], np.ndarray]] = [
        ("single", ("",) * size, rng.uniform(-1, 1, size)),
        ("facts_ru", fact_groups, np.repeat(of_fact, 3)),
        ("facts_en", fact_groups, np.repeat(0.5 * of_fact + 0.5 * rng.uniform(-1, 1, facts), 3)),
        (F1, ("",) * size, rng.uniform(-1, 1, size)),
    ]
    gold = rng.choice(3, size, p=[0.6, 0.3, 0.1])
    shifts = levels[:, None] + (
        SCATTER * rng.standard_normal((len(levels), seeds)) if seeds > 1 else 0.0
    )
    shares = []
    for task, groups, hard in tasks:
        ids, rows, scores = tuple(map(str, range(size))), [], []
        for level in np.broadcast_to(shifts, (len(levels), seeds)):
            right = [asked(rng, hard, shift) for shift in level]
            each = [Items(ids, groups, values) for values in right]
            if task == F1:
                raws = [METRICS.raw(F1, "score", labelled(rng, gold, values)) for values in right]
                each = [Items(ids, groups, raw.shares()[1], (raw,)) for raw in raws if raw]
            rows.append(averaged(ids, groups, each))
            scores.append([float(items.values.mean()) for items in each])
        shares.append(Share(task, 0.25, scores, rows, [None] * len(levels)))
    return Panel(names, shares, [seeds] * len(levels))


def half_f1(right: np.ndarray) -> np.ndarray:
    """The score that infinitely many labelled items give, from the chance of a right answer; the
    prior is (0.6, 0.3, 0.1).
    """
    prior = np.array([0.6, 0.3, 0.1])
    hits = right[..., None] * prior
    said = hits + (1 - right[..., None]) / 2 * (1 - prior)
    return (right + (2 * hits / (prior + said)).mean(-1)) / 2


def truth(levels: np.ndarray, seeds: int) -> np.ndarray:
    """[models] of the mean over infinitely many items and seeds (F1 is not linear in the level,
    which varies over seeds).
    """
    points, weights = np.polynomial.hermite_e.hermegauss(20)
    right = 0.55 + levels[:, None] + (SCATTER * points if seeds > 1 else 0 * points)
    return 0.75 * (0.55 + levels) + 0.25 * (half_f1(right) * weights / weights.sum()).sum(1)


def suites(runs: int, seeds: int, seed: int) -> dict[str, float]:
    """False alarms, coverage and ranks. Only runs whose draw of levels is the null's enter the
    first.
    """
    rng = np.random.default_rng(seed)
    pairs = [(f"m{i}", "m0") for i in range(1, MODELS)]
    apart = np.linspace(0, 0.12, MODELS)
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(runs):
        panel = suite(rng, np.zeros(MODELS), seeds)
        means = compare.correct_differences(panel.differences(pairs), DELTA)
        single = compare.correct_differences(
            [d for s in panel.shares for d in panel.alone(s.task).differences(pairs)], DELTA
        )
        note("false alarm, means, corrected", any(d.corrected <= ALPHA for d in means))
        note("false alarm, tasks, corrected", any(d.corrected <= ALPHA for d in single))
        note("false alarm, one mean", np.mean([d.p <= ALPHA for d in means]))
        note("false alarm, one task", np.mean([d.p <= ALPHA for d in single]))
        for share, own in zip(
            panel.shares, np.array_split(np.array([d.p for d in single]), len(panel.shares))
        ):
            note(
                f"false alarm, one task, {'F1' if share.task == F1 else share.task}",
                np.mean(own <= ALPHA),
            )
        note("coverage, alike", np.mean([d.low <= 0 <= d.high for d in means]))
        note("coverage of single tasks, alike", np.mean([d.low <= 0 <= d.high for d in single]))
        note("ranks hold, alike", set(panel.ranks(panel.names).values()) == {(1, MODELS)})
        panel = suite(rng, apart, seeds)
        true = truth(apart, seeds)
        means = panel.differences(pairs)
        note(
            "coverage, apart",
            np.mean([d.low <= t - true[0] <= d.high for d, t in zip(means, true[1:])]),
        )
        ranks = panel.ranks(panel.names)
        note(
            "ranks hold, apart",
            all(best <= MODELS - i <= worst for i, (best, worst) in enumerate(ranks.values())),
        )
        note("width of ranks, apart", np.mean([worst - best for best, worst in ranks.values()]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def pair_of(rng: np.random.Generator, size: int, contested: float, drop: float) -> Panel:
    """Two models in one task of right/wrong items: of the items the share `contested` + `drop` is
    lost, `contested` won.
    """
    draw = rng.random(size)
    a, b = np.ones(size), np.ones(size)
    a[draw < contested + drop] = 0.0
    b[(draw >= contested + drop) & (draw < 2 * contested + drop)] = 0.0
    rows = [Items(tuple(map(str, range(size))), ("",) * size, values) for values in (a, b)]
    return Panel(
        ["now", "before"],
        [Share("single", 1.0, [[float(v.mean())] for v in (a, b)], rows, [None, None])],
        [1, 1],
    )


def edges(
    runs: int, seed: int, sizes: tuple[int, ...] = (100, 300, 1000)
) -> list[dict[str, float]]:
    """Verdict "equal" and gate where the true difference is exactly -DELTA."""
    from scipy.special import stdtrit

    rng, rows = np.random.default_rng(seed), []
    for size in sizes:
        for contested in (0.0, 0.005, 0.03):
            equal = passed = 0
            for _ in range(runs):
                panel = pair_of(rng, size, contested, DELTA)
                d = compare.correct_differences(panel.differences([("now", "before")]), DELTA)[0]
                equal += d.verdict == "equal"
                stderr, df = panel.error(0, 1)
                stderr = math.hypot(stderr, panel.floor) if stderr else 0.0
                passed += d.value - float(stdtrit(df, 1 - ALPHA)) * stderr > -DELTA
            rows.append(
                {
                    "items": size,
                    "contested": contested,
                    "equal": equal / runs,
                    "gate": passed / runs,
                }
            )
    return rows


def simulate(runs: int, seed: int = 0) -> dict:
    """Everything, with the Monte Carlo error of a share of 5%."""
    return {
        "runs": runs,
        "error_of_5_percent": math.sqrt(0.05 * 0.95 / runs),
        "one seed": suites(runs, 1, seed),
        "three seeds": suites(runs, 3, seed + 1),
        "edges": edges(runs, seed + 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4000)
    made = simulate(parser.parse_args().runs)
    print(
        f"{made['runs']} runs; Monte Carlo error of a share of 5%: "
        f"{100 * made['error_of_5_percent']:.1f} points\n"
    )
    print(f"{'':44} {'one seed':>9} {'three':>9}")
    for name, value in made["one seed"].items():
        print(f"{name:44} {value:9.3f} {made['three seeds'][name]:9.3f}")
    print(f"\ntrue difference = -delta: {'items':>6} {'contested':>10} {'equal':>8} {'gate':>8}")
    for row in made["edges"]:
        print(
            f"{'':25} {row['items']:6d} {row['contested']:10.3f} {row['equal']:8.3f} "
            f"{row['gate']:8.3f}"
        )
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "nulls.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
