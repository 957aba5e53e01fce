"""The tasks through their contract, and models that know, miss or guess the answers: what the tests
of the scores share.
"""

from __future__ import annotations

import copy
import json
import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import darumeru_rows
import rules

from lep_bench import files

Answered = list[tuple[dict[str, Any], list[Any]]]


@cache
def load(task: str, **metadata: str) -> Any:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str(files.shipped_folder("tasks")), include_defaults=False, metadata=metadata
    )
    return manager.load([task])["tasks"][task]


def rows(task: str) -> list[dict[str, Any]]:
    return darumeru_rows.rows(task.removeprefix("darumeru_"))


def scored(task: Any, answered: Answered) -> dict[str, float]:
    """What lm-eval makes of the answers: process_results over raw rows, then aggregation."""
    collected: dict[str, list[Any]] = {}
    for row, given in answered:
        kept = copy.deepcopy(row)
        for metric, value in task.process_results(row, given).items():
            collected.setdefault(metric, []).append(value)
        assert row == kept, "a row was changed"
    aggregation = task.aggregation()
    assert set(aggregation) == set(collected) == set(task.higher_is_better()) and all(
        task.higher_is_better().values()
    )
    found = {metric: aggregation[metric](values) for metric, values in collected.items()}
    # Stored values come back as JSON: tuples as lists.
    assert found == {
        metric: aggregation[metric](json.loads(json.dumps(values)))
        for metric, values in collected.items()
    }
    return found


def agree(
    task: str, answered: Answered, folder: Path | None = None, protocol: str = "paper"
) -> dict[str, float]:
    """Both computations, held against each other to 1e-9; the scores."""
    metadata = {"protocol": protocol} | ({"tokenizer": str(folder)} if folder else {})
    found = scored(load(task, **metadata), answered)
    expected = rules.scores(task, answered, tokens(folder) if folder else None)
    assert set(found) == rules.METRICS[task] | {"score"}
    for metric, value in expected.items():
        assert math.isclose(found[metric], value, rel_tol=0, abs_tol=1e-9), (
            metric,
            found[metric],
            value,
        )
    return found


@cache
def tokens(folder: Path) -> rules.Tokens:
    return rules.Tokens.of(folder)


def options(count: int, place: int) -> list[tuple[float, bool]]:
    return [(-0.5, True) if n == place else (-1.0 - n, False) for n in range(count)]


def gold_option(name: str, row: dict[str, Any]) -> tuple[int, int]:
    """How many options the row has and which is right."""
    if name in ("mmlu_ru", "mmlu_en"):
        return 4, row["answer"]
    if name == "rucola":
        return 2, row["label"]
    listed = {"rwsd": ["Да", "Нет"], "rcb": ["1", "2", "3"], "parus": ["1", "2"]}.get(
        name, list("ABCD")
    )
    return len(listed), listed.index(row["outputs"])


def knowing(name: str, row: dict[str, Any], right: bool) -> list[Any]:
    """The answer of an oracle, or of its opposite."""
    if name == "multiq":
        return [row["outputs"][-1]["segment"] if right else "Слон"]
    if name == "use":
        parts = row["outputs"].split(",")
        return [
            (parts[0] if row["meta"]["type"] == "text" else row["outputs"])
            if right
            else ",".join("0" for _ in parts)
        ]
    if name == "sum_abstractive":
        return [" ".join(row["summary_sents"]) if right else "qwerty asdfgh zxcvbn"]
    if name == "sum_extractive":
        return [
            (-float((n in row["extractive_summary"]) != right), False)
            for n in range(len(row["src_sents"]))
        ]
    count, place = gold_option(name, row)
    if name == "parus":
        return [
            *options(2, place if right else 1 - place),
            *options(2, 1 - place if right else place),
        ]
    return options(count, place if right else (place + 1) % count)


def guessed(name: str, row: dict[str, Any], other: dict[str, Any], rng: random.Random) -> list[Any]:
    """A random answer: options with ties; text right, nearly right, wrong, empty or with more
    around it.
    """
    if name in ("multiq", "use", "sum_abstractive"):
        return [rng.choice(texts(name, knowing(name, row, True)[0], knowing(name, other, True)[0]))]
    count = (
        len(row["src_sents"])
        if name == "sum_extractive"
        else gold_option(name, row)[0] * (2 if name == "parus" else 1)
    )
    return [(rng.choice((-0.25, -1.5, -1.5, -7.0)), rng.random() < 0.1) for _ in range(count)]


def texts(name: str, gold: str, other: str) -> list[str]:
    common = [
        gold,
        f" {gold}",
        f"{gold}\n",
        gold.upper(),
        "",
        " \n",
        "...",
        f"«{gold}»",
        f"{gold}. Пояснение: так сказано в тексте.",
        other,
    ]
    parts = gold.split(",") if name == "use" else gold.split()
    sign = "," if name == "use" else " "
    halves = [
        sign.join(parts[::-1]),
        sign.join(parts[: len(parts) // 2]),
        f"{sign} ".join(parts),
        sign.join([*parts, parts[0]]),
        f"{gold} {other}",
    ]
    if name == "use":
        return [
            *common,
            *halves,
            sign.join([*parts[:-1], "9"]),
            f"{gold},9",
            f"12+ {gold}!",
            f"Ответ: {gold}",
            ";".join(parts),
            "1,2,3,4,5",
        ]
    return [
        *common,
        *halves,
        f"The {gold}",
        f"{gold}, an apple",
        f"a {gold}!",
        gold.replace(" ", "-"),
        f"{gold} {gold}",
    ]
