"""What a table says, and above all what it refuses to say."""

from __future__ import annotations

import math
import statistics

import pytest
from invented_run import CHANCE, ORDER, SUITE, TASKS, Made, Run, cell, models, result

from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.compare import find_control
from lep_bench.leaderboard.forms import render_csv
from lep_bench.leaderboard.table import Row, Table
from lep_bench.records.schema import ModelRecord, Score, Scoring

MODELS = {m.name: m for m in models()}


def made(*cells: Made) -> Table:
    run = Run()
    for one in cells:
        run.add(one)
    return build_table(run.results, run.samples, SUITE, ORDER)


def row(table: Table, model: str) -> Row:
    (found,) = [r for r in table.rows if r.model == model]
    return found


def all_tasks(name: str, **how: object) -> list[Made]:
    return [cell(MODELS[name], task, **how) for task in TASKS]


@pytest.fixture(scope="module")
def whole() -> Table:
    run = Run.whole()
    return build_table(run.results, run.samples, SUITE, ORDER)


def test_blocks_sections_and_order(whole: Table) -> None:
    chat, plain = whole.blocks
    assert [chat.condition.format, plain.condition.format] == ["chat", "plain"]
    assert [s.family for s in chat.sections] == ["mini-llama", "mini-mistral"]
    labels = [r.label for r in chat.sections[0].rows]
    assert labels[:4] == ["instruct", "instruct+self-calibration", "bpe/instruct-init", "bpe/swap"]
    assert labels[6:8] == ["bpe/conversion+self-calibration", "unigram/instruct-init"]
    assert [r.label for r in plain.sections[0].rows[:4]] == [
        "base",
        "original/donor",
        "bpe/init",
        "bpe/donor",
    ]
    assert whole.models == 57 and len(whole.rows) == 57


def test_order_does_not_depend_on_the_order_of_results() -> None:
    run = Run.whole(items=6)
    a = build_table(run.results, run.samples, SUITE, ORDER)
    b = build_table(list(reversed(run.results)), run.samples, SUITE, ORDER)
    assert a == b
    without = build_table(run.results, run.samples, SUITE)
    assert [r.label for r in without.blocks[0].sections[0].rows[:2]] == [
        "instruct",
        "instruct+self-calibration",
    ]


def test_columns(whole: Table) -> None:
    assert [c.label for c in whole.columns] == [
        "symbols per token",
        "facts ru",
        "facts en",
        "copy ru",
        "copy en",
        "bits per byte",
    ]
    assert row(whole, "mini-llama/bpe/swap").cells[0].value == 3.4


def test_the_mean_and_the_difference_by_hand(whole: Table) -> None:
    """Everything again with loops, from the samples."""
    ours, theirs = (
        "mini-llama/extended/conversion+self-calibration",
        "mini-llama/instruct+self-calibration",
    )
    a = {t: cell(MODELS[ours], t) for t in CHANCE}
    b = {t: cell(MODELS[theirs], t) for t in CHANCE}
    clusters: dict[object, float] = {}
    means = {ours: 0.0, theirs: 0.0}
    for task, chance in CHANCE.items():
        for name, cells in ((ours, a), (theirs, b)):
            means[name] += (
                (cells[task][0].scores[cells[task][0].primary].value - chance) / (1 - chance) / 4
            )
        primary = a[task][0].primary
        gaps = [x.values[primary] - y.values[primary] for x, y in zip(a[task][1], b[task][1])]
        names = [s.group if "facts" in task else (task, s.doc_id) for s in a[task][1]]
        count = len(set(names))
        for gap, name in zip(gaps, names):
            share = (
                (gap - statistics.fmean(gaps))
                / len(gaps)
                / (1 - chance)
                / 4
                * math.sqrt(count / (count - 1))
            )
            clusters[name] = clusters.get(name, 0.0) + share
    found = row(whole, ours)
    assert found.mean.value == pytest.approx(means[ours])
    assert found.difference is not None and found.difference.control == theirs
    assert found.difference.value == pytest.approx(means[ours] - means[theirs])
    assert found.difference.stderr == pytest.approx(
        math.sqrt(sum(u * u for u in clusters.values()))
    )
    assert found.difference.letter == row(whole, theirs).letter != ""


def test_fair_controls() -> None:
    expected = {
        "base": None,
        "instruct": None,
        "instruct+self-calibration": "instruct",
        "original/donor": "base",
        "bpe/init": "base",
        "bpe/donor": "original/donor",
        "bpe/instruct-init": "instruct",
        "bpe/swap": "instruct",
        "bpe/conversion+self-calibration": "instruct+self-calibration",
    }
    for name, control in expected.items():
        assert find_control(MODELS[f"mini-llama/{name}"]) == (control and f"mini-llama/{control}")
    variant = MODELS["mini-llama/bpe/conversion+self-calibration"].model_copy(
        update={"variant": "copies"}
    )
    assert find_control(variant) == "mini-llama/instruct+self-calibration@copies"
    assert find_control(ModelRecord(name="baselines/x", stage="baseline", fingerprint="0")) is None


def test_no_difference_crosses_blocks(whole: Table) -> None:
    for block in whole.blocks:
        names = {r.model for s in block.sections for r in s.rows}
        assert all(
            r.difference.control in names for s in block.sections for r in s.rows if r.difference
        )
    five = Scoring(protocol="greedy", format="chat", shots=5)
    asked_otherwise = [
        (r.model_copy(update={"scoring": five}), s) for r, s in all_tasks("mini-llama/bpe/swap")
    ]
    table = made(*all_tasks("mini-llama/instruct"), *asked_otherwise)
    assert len(table.blocks) == 2 and row(table, "mini-llama/bpe/swap").difference is None


def test_missing_failed_and_limited(whole: Table) -> None:
    missing = row(whole, "mini-mistral/bpe/swap")
    assert (
        missing.cells[2].status == missing.mean.status == "missing"
        and missing.mean.value is None
        and missing.difference is None
    )
    failed = row(whole, "mini-llama/bpe/overlap")
    assert failed.failed and {c.status for c in failed.cells} == {"failed"}
    part = row(whole, "mini-llama/unigram/swap")
    assert not part.failed and part.cells[3].status == "failed" and part.mean.value is None
    assert [(f.number, f.tasks == TASKS) for f in whole.failures] == [(1, True), (2, False)]
    assert "more" not in whole.failures[0].reason
    limited = row(whole, "mini-mistral/unigram/swap")
    assert limited.limit == 20 and limited.mean.limit == 20 and limited.difference is None


def test_a_control_with_a_gap_gives_no_difference() -> None:
    table = made(*all_tasks("mini-llama/instruct")[1:], *all_tasks("mini-llama/bpe/swap"))
    assert row(table, "mini-llama/bpe/swap").mean.value is not None
    assert row(table, "mini-llama/bpe/swap").difference is None


def test_other_items_or_another_task_version_give_no_difference() -> None:
    control = all_tasks("mini-llama/instruct")
    shifted = [
        (r, [s.model_copy(update={"doc_hash": "0"}) for s in samples])
        for r, samples in all_tasks("mini-llama/bpe/swap")
    ]
    assert row(made(*control, *shifted), "mini-llama/bpe/swap").difference is None
    older = [
        (r.model_copy(update={"task_fingerprint": "v0"}), s)
        for r, s in all_tasks("mini-llama/bpe/swap", created="2024")
    ]
    table = made(*control, *older)
    assert (
        row(table, "mini-llama/bpe/swap").difference is None
        and row(table, "mini-llama/bpe/swap").stale
    )
    assert not row(table, "mini-llama/instruct").stale


def test_a_score_that_is_no_mean_of_its_items_gets_no_error_from_them() -> None:
    cells = [
        (
            r.model_copy(update={"scores": {r.primary: Score(value=0.5)}}),
            [sample.model_copy(update={"values": {}}) for sample in samples],
        )
        for r, samples in all_tasks("mini-llama/instruct")[:4]
    ]
    found = row(made(*cells), "mini-llama/instruct")
    assert (
        found.mean.value is not None and found.mean.stderr is None and found.cells[0].stderr is None
    )


def test_whole_results_before_limited_and_scored_before_failed() -> None:
    model = MODELS["mini-llama/instruct"]
    table = made(
        *(cell(model, t) for t in TASKS), *(cell(model, t, limit=5, created="2026") for t in TASKS)
    )
    assert row(table, model.name).limit is None
    late = [(result(model, t, status="failed", error="x", created="2026"), []) for t in TASKS]
    assert not made(*(cell(model, t) for t in TASKS), *late).failures


def test_running_text_joins_the_row_of_the_questions() -> None:
    cells = all_tasks("mini-llama/instruct")
    text = (
        cells[-1][0].model_copy(update={"scoring": Scoring(protocol="text", format="plain")}),
        cells[-1][1],
    )
    table = made(*cells[:-1], text)
    assert len(table.rows) == 1 and row(table, "mini-llama/instruct").cells[-1].status == "ok"
    assert made(text).rows[0].cells[-1].status == "ok"


def test_seeds_are_one_row() -> None:
    run = Run.whole(seeds=3)
    table = build_table(run.results, run.samples, SUITE, ORDER)
    assert len(table.rows) == 57 and table.seeds == 3
    name = "mini-llama/extended/conversion"
    each = []
    for seed in range(3):
        model = MODELS[name].model_copy(update={"seed": seed})
        results = {t: cell(model, t)[0] for t in CHANCE}
        each.append(
            statistics.fmean(
                (r.scores[r.primary].value - CHANCE[t]) / (1 - CHANCE[t])
                for t, r in results.items()
            )
        )
    found = row(table, name)
    assert found.mean.value == pytest.approx(
        statistics.fmean(each)
    ) and found.mean.spread == pytest.approx(statistics.stdev(each))
    assert found.difference is not None and found.difference.seeds == 3
    single = row(build_table(Run.whole().results, Run.whole().samples, SUITE, ORDER), name)
    assert single.mean.spread is None and single.mean.seeds == 1


def test_models_without_a_family_come_last() -> None:
    other = ModelRecord(name="baselines/qwen", stage="baseline", fingerprint="0")
    table = made(*(cell(other, t) for t in TASKS), *all_tasks("mini-llama/instruct"))
    assert [s.family for s in table.blocks[0].sections] == ["mini-llama", "baselines"]
    assert row(table, "baselines/qwen").label == "qwen"


def test_nothing_at_all() -> None:
    table = made()
    assert table.rows == () and table.seeds == 0


def test_the_frame_has_a_line_per_row_and_the_columns_of_the_csv() -> None:
    table = made(*all_tasks("mini-llama/instruct"), *all_tasks("mini-llama/base"))
    frame = table.to_frame()
    header, *lines = render_csv(table).splitlines()
    assert list(frame.columns) == header.split(",") and len(frame) == len(lines) == 2
    one = frame.set_index("model").loc["mini-llama/instruct"]
    found = row(table, "mini-llama/instruct")
    assert one["mean"] == found.mean.value and one["mean_stderr"] == found.mean.stderr
    assert frame["mean_seed_sd"].dtype == "float64" and frame["mean_seed_sd"].isna().all()
    assert list(made().to_frame().columns)[:2] == ["model", "family"]
