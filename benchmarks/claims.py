"""What the mini suite shows of the method, over seeds: chance before training, recovery by it, what
calibration repairs.

    lep-bench run --models all --seeds 3 --out runs/seeds
    python benchmarks/claims.py runs/seeds

Prints four tables and writes benchmarks/results/claims.json. A seed is a seed of our trainings
(donor, calibration); the shipped base and instruct checkpoints are the same for all of them.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from lep_bench.records.store import Store

METHODS = ("swap", "overlap", "conversion")
SCORED = ("mini_facts_ru", "mini_facts_en", "mini_copy_ru", "mini_copy_en")


class Scores:
    """Primary scores by (model, seed, task) of one output folder."""

    def __init__(self, out: Path, suite: str) -> None:
        results = [
            r for r in Store(out).read_all(suite) if r.status == "ok" and r.scoring.limit is None
        ]
        self.values = {
            (r.model.name, r.model.seed, r.task): r.scores[r.primary].value for r in results
        }
        self.vocabularies = sorted(
            {
                (r.model.family or "", r.model.vocabulary)
                for r in results
                if r.model.vocabulary and r.model.vocabulary != "original"
            }
        )
        self.seeds = sorted({r.model.seed for r in results})

    def get(self, model: str, task: str, seed: int = 0) -> float:
        """NaN where the cell is missing."""
        return self.values.get((model, seed, task), float("nan"))

    def over_seeds(self, model: str, task: str) -> np.ndarray:
        """[seeds], percent."""
        return 100 * np.array([self.get(model, task, seed) for seed in self.seeds])


def recovery(scores: Scores) -> list[dict]:
    """Facts and copying before CPT (init), after it (donor), and of the same rows in the instruct
    body.
    """
    rows = []
    for family, vocabulary in scores.vocabularies:
        root = f"{family}/{vocabulary}"
        row: dict = {"model": root}
        for task in SCORED:
            row[task] = {
                "init": 100 * scores.get(f"{root}/init", task),
                "donor": list(scores.over_seeds(f"{root}/donor", task)),
                "instruct-init": 100 * scores.get(f"{root}/instruct-init", task),
                "conversion": list(scores.over_seeds(f"{root}/conversion", task)),
            }
        rows.append(row)
    return rows


def calibration(scores: Scores) -> list[dict]:
    """Self-calibration against the same model without it, pair by pair (vocabulary x seed), and its
    control.
    """
    rows = []
    for task in SCORED:
        pairs = []
        for family, vocabulary in scores.vocabularies:
            root = f"{family}/{vocabulary}/conversion"
            pairs += list(
                scores.over_seeds(f"{root}+self-calibration", task) - scores.over_seeds(root, task)
            )
        families = sorted({family for family, _ in scores.vocabularies})
        control = [
            scores.over_seeds(f"{f}/instruct+self-calibration", task)
            - 100 * scores.get(f"{f}/instruct", task)
            for f in families
        ]
        changed = [p for p in pairs if p and not np.isnan(p)]
        wins = int(sum(p > 0 for p in changed))
        p_value = binomtest(wins, len(changed)).pvalue if changed else float("nan")
        mean, controls = float(np.nanmean(pairs)), float(np.nanmean(control))
        row = {
            "task": task,
            "pairs": len(pairs),
            "mean": mean,
            "better": wins,
            "worse": len(changed) - wins,
        }
        rows.append(
            row | {"sign_test_p": float(p_value), "control_mean": controls, "net": mean - controls}
        )
    return rows


def methods(scores: Scores) -> list[dict]:
    """Swap, overlap and conversion against each other: mean and spread of the differences over
    vocabularies and seeds.
    """
    rows = []
    for task in SCORED:
        for a, b in combinations(METHODS, 2):
            d = np.concatenate(
                [
                    scores.over_seeds(f"{f}/{v}/{a}", task)
                    - scores.over_seeds(f"{f}/{v}/{b}", task)
                    for f, v in scores.vocabularies
                ]
            )
            d = d[~np.isnan(d)]
            rows.append(
                {
                    "task": task,
                    "pair": f"{a} - {b}",
                    "mean": float(d.mean()),
                    "sd": float(d.std(ddof=1)),
                    "n": len(d),
                    "better": int((d > 0).sum()),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--suite", default="mini")
    given = parser.parse_args()
    scores = Scores(given.out, given.suite)
    record = {
        "seeds": len(scores.seeds),
        "recovery": recovery(scores),
        "calibration": calibration(scores),
        "methods": methods(scores),
    }

    print(
        f"{len(scores.seeds)} seeds; percent; mean over seeds (lowest - highest); facts: chance 25"
    )
    print(
        f"\n{'':24} {'':14} {'init':>6} {'donor (CPT)':>22} {'instruct-init':>14} "
        f"{'conversion':>22}"
    )
    for row in record["recovery"]:
        for task in SCORED:
            cell = row[task]
            print(
                f"{row['model']:24} {task.removeprefix('mini_'):14} {cell['init']:6.1f} "
                f"{_span(cell['donor']):>22} {cell['instruct-init']:14.1f} "
                f"{_span(cell['conversion']):>22}"
            )
    print(
        "\nself-calibration of conversion models, difference to the same model without it; "
        "control: the instruct model"
    )
    print(
        f"{'task':14} {'pairs':>5} {'mean':>7} {'better':>7} {'worse':>6} "
        f"{'sign test p':>12} {'control':>8} {'net':>7}"
    )
    for row in record["calibration"]:
        print(
            f"{row['task'].removeprefix('mini_'):14} {row['pairs']:5d} {row['mean']:+7.1f} "
            f"{row['better']:7d} {row['worse']:6d} "
            f"{row['sign_test_p']:12.2g} {row['control_mean']:+8.1f} {row['net']:+7.1f}"
        )
    print("\nmethods against each other, over vocabularies and seeds")
    for row in record["methods"]:
        name, line = (
            row["task"].removeprefix("mini_"),
            f"mean {row['mean']:+6.1f} sd {row['sd']:5.1f}",
        )
        print(f"{name:14} {row['pair']:22} {line} better {row['better']} of {row['n']}")
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "claims.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _span(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ({min(values):.1f} - {max(values):.1f})"


if __name__ == "__main__":
    main()
