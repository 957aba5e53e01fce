"""`lep-bench compare`: two models from stored samples, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboard"))
from invented_run import TASKS, cell, models

from lep_bench.records.schema import Sample, TaskResult
from lep_bench.records.store import Store

MODELS = {m.name: m for m in models()}
A, B, BASE = "mini-llama/bpe/swap", "mini-llama/bpe/overlap", "mini-llama/base"
Change = Callable[[TaskResult, list[Sample]], tuple[TaskResult, list[Sample]]]


def add(
    out: Path,
    name: str,
    change: Change | None = None,
    seed: int = 0,
    tasks: tuple[str, ...] = TASKS,
) -> None:
    for task in tasks:
        result, samples = cell(MODELS[name].model_copy(update={"seed": seed}), task)
        Store(out).write(*(change(result, samples) if change else (result, samples)))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in (A, B, BASE):
        add(tmp_path, name)
    return tmp_path


def test_the_table(cli: Callable, out: Path) -> None:
    answer = cli("compare", A, "mini-llama/*/overlap", "--out", out, "--items", "3")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[:2] == [f"A  {A}", f"B  {B}"] and max(map(len, lines)) <= 100
    copied = next(line.split() for line in lines if line.startswith("mini_copy_ru"))
    a, b = (
        [bool(s.values["exact_match"]) for s in cell(MODELS[name], "mini_copy_ru")[1]]
        for name in (A, B)
    )
    both, first, second = (
        sum(x and y for x, y in zip(a, b)),
        sum(x > y for x, y in zip(a, b)),
        sum(y > x for x, y in zip(a, b)),
    )
    assert copied[1:3] == [f"{100 * sum(v) / 60:.1f}" for v in (a, b)] and copied[-4:-1] == [
        str(both),
        str(first),
        str(second),
    ]
    assert float(copied[-6]) == pytest.approx(
        binomtest(min(first, second), first + second).pvalue, abs=0.006
    )
    assert any(line.startswith("centred mean") for line in lines)
    assert (
        answer.out.count("gold  x") == 3
        and "One training seed" in answer.out
        and "undecided" in answer.out
    )


def test_json_holds_every_number(cli: Callable, out: Path) -> None:
    (made,) = json.loads(cli("compare", A, B, "--out", out, "--json").out)
    back = json.loads(cli("compare", B, A, "--out", out, "--json").out)[0]
    assert (made["a"], made["b"], made["missing"]) == (A, B, []) and len(made["lines"]) == 4
    d, other = made["mean"]["difference"], back["mean"]["difference"]
    assert d["value"] == pytest.approx(made["mean"]["a"] - made["mean"]["b"]) and d[
        "value"
    ] == pytest.approx(-other["value"])
    assert d["p"] == other["p"] and d["low"] == pytest.approx(-other["high"], abs=2e-3)
    assert made["smallest"] == pytest.approx(2.8016 * d["stderr"], rel=1e-4)


def test_a_missing_task_leaves_no_mean(cli: Callable, tmp_path: Path) -> None:
    add(tmp_path, A)
    add(tmp_path, B, tasks=TASKS[1:])
    answer = cli("compare", A, B, "--out", tmp_path)
    assert (
        answer.code == 0
        and "No mean: mini_facts_ru not scored for both." in answer.out
        and "centred mean" not in answer.out
    )


def test_several_seeds(cli: Callable, tmp_path: Path) -> None:
    for seed in range(3):
        add(tmp_path, A, seed=seed)
        add(tmp_path, B, seed=seed)
    answer = cli("compare", A, B, "--out", tmp_path)
    assert "Tests: t over 3 seeds." in answer.out and "3 training seeds" in answer.out


def fails(answer: object, *parts: str) -> None:
    assert answer.code == 2 and len(answer.err.strip().splitlines()) == 1, answer
    assert all(part in answer.err for part in parts), answer.err


def test_names_that_do_not_fit(cli: Callable, out: Path) -> None:
    fails(cli("compare", "mini-llama/bpe/swapp", B, "--out", out), "unknown model", A)
    fails(cli("compare", "mini-llama/*", B, "--out", out), "fits 3 models", A, "name one")
    fails(cli("compare", A, A, "--out", out), "name two models")
    fails(cli("compare", A, B, "--out", out / "nothing"), "no results of suite mini")
    fails(
        cli("compare", A, BASE, "--out", out),
        "prompted in different ways",
        "chat, 0-shot",
        "plain, 0-shot",
    )


def changed(**fields: object) -> Change:
    return lambda result, samples: (result.model_copy(update=fields), samples)


def machine(result: TaskResult, samples: list[Sample]) -> tuple[TaskResult, list[Sample]]:
    return result.model_copy(
        update={"provenance": result.provenance.model_copy(update={"engine_version": "9.9"})}
    ), samples


def fewer(result: TaskResult, samples: list[Sample]) -> tuple[TaskResult, list[Sample]]:
    key, values = result.primary, [s.values[result.primary] for s in samples[:50]]
    scores = {
        **result.scores,
        key: result.scores[key].model_copy(update={"value": sum(values) / 50}),
    }
    return result.model_copy(update={"samples": 50, "scores": scores}), samples[:50]


def others(result: TaskResult, samples: list[Sample]) -> tuple[TaskResult, list[Sample]]:
    return result, [s.model_copy(update={"doc_hash": "0"}) for s in samples]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (machine, ("engine hf 9.9", "run one again with the other's settings")),
        (
            changed(task_version="2", task_fingerprint="v2"),
            ("version 1 (", "version 2 (", "run the older one again"),
        ),
        (fewer, ("50 items and 60 items", "--limit")),
        (others, ("not given the same items",)),
    ],
)
def test_what_may_not_be_compared(
    cli: Callable, tmp_path: Path, change: Change, said: tuple[str, ...]
) -> None:
    add(tmp_path, A)
    add(tmp_path, B, change)
    fails(cli("compare", A, B, "--out", tmp_path), f"{A} and {B} cannot be compared", *said)


def test_samples_that_are_not_as_they_were(cli: Callable, out: Path) -> None:
    (result,) = [r for r in Store(out).read_all("mini", A) if r.task == "mini_copy_ru"]
    file = Store(out).samples("mini", A, result.task, result.key)
    whole = file.read_text()
    file.write_text(whole.replace('"exact_match":0.0', '"exact_match":1.0', 1))
    fails(cli("compare", A, B, "--out", out), f"{A}/mini_copy_ru@", "changed since the run")
    file.write_text("\n".join(whole.splitlines()[:-3]) + "\n")
    fails(cli("compare", A, B, "--out", out), "mini_copy_ru", "57 samples", "60")
    file.unlink()
    fails(cli("compare", A, B, "--out", out), "mini_copy_ru", "missing")


def test_seeds_on_one_side_only(cli: Callable, tmp_path: Path) -> None:
    for seed in range(3):
        add(tmp_path, A, seed=seed)
    add(tmp_path, B)
    answer = cli("compare", A, B, "--out", tmp_path)
    assert (
        "Tests: t over 3 and 1 seeds." in answer.out
        and "Intervals: of the same test." in answer.out
        and "One training seed:" in answer.out
    )


def test_a_limit_is_said(cli: Callable, tmp_path: Path) -> None:
    for name in (A, B):
        for task in TASKS:
            Store(tmp_path).write(*cell(MODELS[name], task, limit=20))
    assert (
        "Scored on at most 20 items per task (--limit)"
        in cli("compare", A, B, "--out", tmp_path).out
    )
