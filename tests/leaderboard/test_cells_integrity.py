"""A table from a folder in which things went wrong: what cannot be trusted is marked or failed, and
the rest of the table is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from invented_paper import BY_NAME, PAPER, cell

from lep_bench.leaderboard import publish
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.page import render_page
from lep_bench.leaderboard.table import Row, Table
from lep_bench.records.schema import CHANGED
from lep_bench.records.store import Store

OURS, CONTROL, OTHER = "llama3-8b/extended/conversion", "llama3-8b/instruct", "llama3-8b/bpe/swap"
TASK = "darumeru_rcb"  # F1: also a score that is no mean over items is checked


TASKS = (TASK, "darumeru_parus", "darumeru_use", "darumeru_multiq")
MEAN = PAPER.mean.model_copy(update={"tasks": {task: PAPER.mean.tasks[task] for task in TASKS}})
SUITE = PAPER.model_copy(update={"tasks": TASKS, "mean": MEAN, "groups": {}, "without": {}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for name in (OURS, CONTROL, OTHER):
        for task in TASKS:
            store.write(*cell(BY_NAME[name], task))
    return store


def file(store: Store, kind: str, model: str = OURS, task: str = TASK) -> Path:
    (found,) = (store.root / "paper" / kind / model).glob(f"{task}@*")
    return found


def edit(where: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(where.read_text(encoding="utf-8"))
    change(data)
    where.write_text(json.dumps(data), encoding="utf-8")


def made(store: Store) -> Table:
    return build_table(store.read_all("paper"), store.skim, SUITE, list(BY_NAME))


def row(table: Table, model: str) -> Row:
    (found,) = [r for r in table.rows if r.model == model]
    return found


def others_stand(table: Table) -> None:
    """The one row that nothing was done to is whole, and compared."""
    fine = row(table, OTHER)
    assert (
        fine.mean.value is not None
        and not fine.stale
        and fine.difference is not None
        and fine.refused is None
    )


def test_as_the_run_wrote_them(store: Store) -> None:
    table = made(store)
    assert not any(r.stale or r.failure for r in table.rows)
    assert row(table, OURS).difference is not None and table.unpaired == ()


def raised(data: dict) -> None:
    data["scores"]["score"]["value"] += 0.1


def unsealed(data: dict) -> None:
    raised(data)
    del data["seal"], data["samples_digest"]


def resealed(data: dict) -> None:
    from lep_bench.records.schema import TaskResult, seal_result

    raised(data)
    data.update(seal_result(TaskResult.model_validate(data)).model_dump(mode="json"))


def left_out(table: Table, model: str, task: str = TASK) -> str:
    """The reason why a cell has no score; the row has no mean and is in no comparison."""
    assert row(table, model).mean.value is None and row(table, model).difference is None
    assert not any(
        model in (f.model, f.difference.control) for b in table.blocks for f in b.findings
    )
    (failure,) = [f for f in table.failures if f.model == model]
    assert failure.tasks == (task,) and CHANGED in failure.reason
    return failure.reason


@pytest.mark.parametrize("change", [raised, unsealed, resealed])
def test_an_edited_score_is_left_out_with_a_reason_that_names_the_file(
    store: Store, change: Callable[[dict], None], tmp_path: Path
) -> None:
    """By the seal; without one, or with a new one, because the samples give another score."""
    edit(file(store, "results"), change)
    table = made(store)
    assert f"{OURS}/{TASK}@" in left_out(table, OURS)
    others_stand(table)
    assert CHANGED in render_page(table)
    board = tmp_path / "board"
    publish.write_leaderboard(board, SUITE, store.read_all("paper"), store.skim, list(BY_NAME))
    (line,) = publish.check_leaderboard(board)
    assert CHANGED in line and OURS in line


def test_edited_samples_are_left_out(store: Store) -> None:
    """A gold answer, which no score is computed from any more, too."""
    where = file(store, "samples")
    where.write_bytes(where.read_bytes().replace(b'"gold":"x"', b'"gold":"y"', 1))
    table = made(store)
    assert f"samples/{OURS}/{TASK}@" in left_out(table, OURS)
    others_stand(table)


def test_an_edited_control_is_compared_with_nothing(store: Store) -> None:
    edit(file(store, "results", CONTROL), raised)
    table = made(store)
    left_out(table, CONTROL)
    assert row(table, OURS).difference is None and row(table, OTHER).difference is None
    assert row(table, OURS).mean.value is not None


@pytest.mark.parametrize("wrong", ["missing", "short", "damaged"])
def test_samples_that_cannot_be_used_fail_their_cell_only(store: Store, wrong: str) -> None:
    where = file(store, "samples")
    lines = where.read_bytes().splitlines(keepends=True)
    if wrong == "missing":
        where.unlink()
    else:
        where.write_bytes(b"".join(lines[:-1]) + (lines[-1][:9] if wrong == "damaged" else b""))
    table = made(store)
    ours = row(table, OURS)
    assert (
        ours.mean.status == "failed"
        and ours.difference is None
        and [c.status for c in ours.cells].count("failed") == 1
    )
    (failure,) = table.failures
    said = {
        "missing": "the samples are missing",
        "short": "59 samples, the result is of 60",
        "damaged": "samples cannot be read",
    }[wrong]
    assert failure.model == OURS and failure.tasks == (TASK,) and said in failure.reason
    assert (
        f"paper/samples/{OURS}/{TASK}@" in failure.reason
        and "run again" in failure.reason
        and str(store.root) not in failure.reason
    )
    others_stand(table)


def test_two_task_versions_are_not_compared(store: Store) -> None:
    result, samples = cell(BY_NAME[CONTROL], TASK)
    newer = result.provenance.model_copy(update={"created": "2030-01-01T00:00:00"})
    store.write(
        result.model_copy(
            update={"task_version": "2", "task_fingerprint": "v2-rcb", "provenance": newer}
        ),
        samples,
    )
    table = made(store)
    ours = row(table, OURS)
    assert ours.stale and ours.difference is None and not row(table, CONTROL).stale
    assert ours.refused == (
        f"{TASK} in version 1 (v1-{TASK}) and version 2 (v2-rcb): run the older one again"
    )
    assert not any(
        CONTROL in (f.model, f.difference.control) for b in table.blocks for f in b.findings
    )


def test_two_protocols_are_never_in_one_block(store: Store) -> None:
    for task in SUITE.tasks:
        result, samples = cell(BY_NAME[OURS], task)
        strict = result.model_copy(
            update={
                "scoring": result.scoring.model_copy(update={"protocol": "strict"}),
                "key": f"strict-{task}",
            }
        )
        file(store, "results", OURS, task).unlink()
        store.write(strict, samples)
    table = made(store)
    assert sorted(b.condition.protocol for b in table.blocks) == ["paper", "strict"]
    for block in table.blocks:
        names = {r.model for s in block.sections for r in s.rows}
        assert (OURS in names) == (block.condition.protocol == "strict")
        assert all(f.model in names and f.difference.control in names for f in block.findings)
    assert row(table, OURS).difference is None
    others_stand(table)
