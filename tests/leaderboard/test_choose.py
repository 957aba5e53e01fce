"""Of several results of one cell, which one a table shows."""

from __future__ import annotations

import pytest
from invented_run import models, result

from lep_bench.leaderboard.cells import choose_results
from lep_bench.records.schema import Score, Scoring, TaskResult

TASK = "mini_facts_ru"
MODEL, OTHER = models()[0], models()[1]


def made(
    created: str, *, version: str = "new", limit: int | None = None, model=MODEL, **fields: object
) -> TaskResult:
    """A scored result of TASK, written at `created`."""
    fields.setdefault("scores", {"acc": Score(value=0.5)})
    scoring = fields.pop("scoring", Scoring(protocol="greedy", format="chat", limit=limit))
    one = result(model, TASK, created=created, scoring=scoring, primary="acc", **fields)
    return one.model_copy(update={"task_fingerprint": version, "key": f"{created}-{limit}"})


def failed(created: str, **fields: object) -> TaskResult:
    return made(created, status="failed", error="it broke", scores={}, **fields)


NEWEST = made("9", model=OTHER)  # another model's: it says which version of the task is current

CASES = {
    "current before stale, though it failed": (failed("1"), made("2", version="old")),
    "current before stale, though limited": (made("1", limit=5), made("2", version="old")),
    "current before stale, though older": (made("1"), made("2", version="old")),
    "scored before failed, though older": (made("1"), failed("2")),
    "scored before failed, though limited": (made("1", limit=5), failed("2")),
    "whole before limited, though older": (made("1"), made("2", limit=5)),
    "the newest of equals": (made("2"), made("1")),
    "the newest of failed ones": (failed("2"), failed("1")),
    "the newest of stale ones": (made("2", version="old"), made("1", version="older")),
    "the greater key at one time": (made("1", limit=7), made("1", limit=5)),
}


@pytest.mark.parametrize("turned", [False, True], ids=["as they are", "turned round"])
@pytest.mark.parametrize("name", CASES)
def test_one_result_of_a_cell_is_chosen(name: str, turned: bool) -> None:
    wanted, other = CASES[name]
    held = [wanted, other, NEWEST]
    chosen = choose_results(held[::-1] if turned else held, "mini", [TASK])
    (one,) = [c for c in chosen if c.result.model.name == MODEL.name]
    assert one.result == wanted
    assert one.stale == (wanted.task_fingerprint != "new")


@pytest.mark.parametrize(
    "change",
    [
        {"scoring": Scoring(protocol="greedy", format="chat", shots=1)},
        {"scoring": Scoring(protocol="greedy", format="plain")},
        {"scoring": Scoring(protocol="strict", format="chat")},
        {"scoring": Scoring(protocol="greedy", format="chat", dtype="bfloat16")},
        {"model": MODEL.model_copy(update={"seed": 1})},
    ],
)
def test_what_was_asked_otherwise_is_another_cell(change: dict) -> None:
    assert len(choose_results([made("1"), made("2", **change)], "mini", [TASK])) == 2


def test_another_engine_is_another_cell() -> None:
    other = made("2")
    other = other.model_copy(
        update={"provenance": other.provenance.model_copy(update={"engine": "vllm"})}
    )
    assert len(choose_results([made("1"), other], "mini", [TASK])) == 2


def test_other_suites_and_tasks_are_left_out() -> None:
    assert not choose_results([made("1")], "other", [TASK]) and not choose_results(
        [made("1")], "mini", ["other"]
    )
