"""Means beside the suite's own: groups, fewer tasks, sampled answers, scores that are no means of
items.
"""

from __future__ import annotations

import csv
import io
import math
import statistics

import pytest
from invented_paper import AGGREGATES, BY_NAME, MODELS, PAPER, SAMPLED, cell, whole
from invented_run import Run
from rich.console import Console

from lep_bench.leaderboard import forms, page, publish, terminal, text
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.page import render_page
from lep_bench.leaderboard.table import Row, Table
from lep_bench.records.schema import Sample

ORDER = [m.name for m in MODELS]
COPY = [t for t in PAPER.tasks if "copy" in t]


@pytest.fixture(scope="module")
def run() -> Run:
    return whole()


@pytest.fixture(scope="module")
def table(run: Run) -> Table:
    return build_table(run.results, run.samples, PAPER, ORDER)


def row(table: Table, model: str) -> Row:
    (found,) = [r for r in table.rows if r.model == model]
    return found


def scores(model: str) -> dict[str, float]:
    return {task: cell(BY_NAME[model], task)[0].scores["score"].value for task in PAPER.tasks}


def shown(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    terminal.show_table(table, console)
    return console.export_text()


def test_every_mean_is_the_plain_mean_of_its_tasks(table: Table) -> None:
    model = "llama3-8b/extended/conversion"
    own, found = scores(model), row(table, model)
    labels = [s.label for s in table.summaries]
    assert labels == [
        "Micro-Avg without copying",
        "DaruMMLU",
        "DaruMERA",
        "DaruSum",
        "DaruCopy EN",
        "DaruCopy RU",
    ]
    assert found.mean.value == pytest.approx(statistics.fmean(own.values()))
    assert found.summaries[0].value == pytest.approx(
        statistics.fmean(v for t, v in own.items() if t not in COPY)
    )
    for label, value in zip(labels[1:], found.summaries[1:]):
        assert value.value == pytest.approx(statistics.fmean(own[t] for t in PAPER.groups[label]))
    # The paper's rule, from the printed groups: (3 MMLU + 8 MERA + 2 Sum + 2 Copy EN + 2 Copy RU) /
    # 17.
    sizes = [len(PAPER.groups[label]) for label in labels[1:]]
    assert sizes == [3, 8, 2, 2, 2]
    assert found.mean.value == pytest.approx(
        sum(n * (c.value or 0) for n, c in zip(sizes, found.summaries[1:])) / 17
    )


def test_a_missing_or_failed_task_leaves_only_its_own_means_empty(table: Table) -> None:
    missing = row(table, "llama3-8b/bpe/swap")  # USE was not asked
    assert missing.mean.status == "missing" and missing.difference is None
    assert [c.status for c in missing.summaries] == ["missing", "ok", "missing", "ok", "ok", "ok"]
    failed = row(table, "baselines/qwen2-7b-instruct")  # RWSD failed
    assert [c.status for c in failed.summaries] == ["failed", "ok", "failed", "ok", "ok", "ok"]
    limited = row(table, "llama3-8b/bpe/conversion")
    assert all(c.limit == 20 for c in limited.summaries) and limited.limit == 20


# invented items are not what these tasks' aggregations take
GIVEN = ("darumeru_mmlu_ru", "darumeru_mmlu_en", "darumeru_rucola")


def shares(task: str, samples: list[Sample]) -> list[float]:
    """Each item's value, or where the score is no mean what it loses without the item, from the
    definitions of F1 and grade.
    """
    values = [s.values["score"] for s in samples]
    if task not in AGGREGATES:
        return values
    n = len(values)
    whole = AGGREGATES[task](values)
    # A variant without one of its 20 rows is 19/20 of a variant.
    scale = 3 / (3 - 1 / 20) if task == "darumeru_use" else 1.0
    return [
        n * whole - (n - 1) * scale * AGGREGATES[task](values[:i] + values[i + 1 :])
        for i in range(n)
    ]


def test_errors_come_from_items_and_are_given_where_there_are_none(table: Table) -> None:
    """A mean's error from per-task errors: tasks share no items here, so squares add up."""
    model = BY_NAME["llama3-8b/extended/swap"]
    each = {}
    for task in PAPER.tasks:
        result, samples = cell(model, task)
        own = shares(task, samples)
        taken = task in GIVEN or task not in AGGREGATES
        each[task] = (
            (result.scores["score"].stderr or 0)
            if taken
            else statistics.stdev(own) / len(own) ** 0.5
        )
    found = row(table, model.name)
    assert found.mean.stderr == pytest.approx(math.sqrt(sum((e / 17) ** 2 for e in each.values())))
    assert found.summaries[2].stderr == pytest.approx(
        math.sqrt(sum((each[t] / 8) ** 2 for t in PAPER.groups["DaruMERA"]))
    )
    assert set(table.unpaired) == set(GIVEN)
    assert "not means over items: `darumeru_mmlu_ru`" in render_page(table)


def test_a_difference_is_paired_where_there_are_items(table: Table) -> None:
    ours, theirs = BY_NAME["llama3-8b/extended/swap"], BY_NAME["llama3-8b/instruct"]
    squares = []
    for task in PAPER.tasks:
        (a, x), (b, y) = cell(ours, task), cell(theirs, task)
        if task in GIVEN:
            squares += [(a.scores["score"].stderr or 0) ** 2, (b.scores["score"].stderr or 0) ** 2]
        else:
            squares.append(
                statistics.variance(p - q for p, q in zip(shares(task, x), shares(task, y)))
                / len(x)
            )
    found = row(table, ours.name).difference
    assert found is not None and found.control == theirs.name
    assert found.value == pytest.approx(
        statistics.fmean(scores(ours.name).values())
        - statistics.fmean(scores(theirs.name).values())
    )
    assert found.stderr == pytest.approx(math.sqrt(sum(squares)) / 17)


def test_without_its_given_error_a_score_gives_no_error_to_a_mean(run: Run) -> None:
    name, changed = "mistral-7b/instruct", Run()
    for result in (r for r in run.results if r.model.name == name):
        if result.task == "darumeru_rucola":
            bare = {"score": result.scores["score"].model_copy(update={"stderr": None})}
            changed.add((result.model_copy(update={"scores": bare}), run.samples(result)))
        else:
            changed.add((result, run.samples(result)))
    found = row(build_table(changed.results, changed.samples, PAPER, ORDER), name)
    assert (
        found.mean.value is not None
        and found.mean.stderr is None
        and found.summaries[2].stderr is None
    )
    assert found.summaries[1].stderr is not None


def test_spread_over_samplings(table: Table) -> None:
    found = row(table, "llama3-8b/instruct")
    cells = {c.task: v for c, v in zip(table.columns, found.cells) if c.metric == "score"}
    assert {task for task, c in cells.items() if c.sampling is not None} == SAMPLED
    assert (
        found.mean.sampling == pytest.approx(0.004 * math.sqrt(len(SAMPLED)) / 17)
        and found.mean.samplings == table.samplings == 5
    )
    assert found.summaries[1].sampling is None  # MMLU samples nothing
    assert text.format_cell(found.summaries[4], True, 1, " ±").endswith(" (sd 0.3)")
    assert text.format_cell(found.summaries[4], True, 1, "±").count("sd") == 0
    out = render_page(table).replace(page.NBSP, " ")
    assert "the mean over 5 sampling seeds" in out and "±3.1 (sd 0.4)" in out


def test_symbols_per_token_are_those_of_russian_text(table: Table) -> None:
    column = table.columns[0]
    assert (column.metric, column.task) == ("symbols_per_token", "darumeru_copy_sent_ru")
    assert row(table, "llama3-8b/instruct").cells[0].value == 2.89
    assert "characters per token of the model's answers in `darumeru_copy_sent_ru`" in render_page(
        table
    )


def test_blocks_and_their_two_tables(table: Table) -> None:
    assert [(b.condition.format, b.condition.shots) for b in table.blocks] == [
        ("chat", 0),
        ("plain", 5),
    ]
    lines = [line for line in page.render_markdown(table).splitlines() if line.startswith("| ")]
    heads = [line for line in lines if line.startswith("| model")]
    means = (
        "Micro-Avg | rank | Micro-Avg without copying | DaruMMLU | DaruMERA | DaruSum | DaruCopy "
        "EN | DaruCopy RU"
    )
    assert heads[0] == f"| model | symbols per token | {means} | difference |"
    assert (
        heads[1].startswith("| model | rummlu | mmlu ru |")
        and heads[1].endswith("| copy para ru |")
        and heads[:2] * 5 == heads
    )
    for line in lines[:9]:
        assert line.count("|") in (heads[0].count("|"), heads[1].count("|"))
    assert "| task | score | items | in the mean | group |" in render_page(
        table
    ) and "| 60 | yes | DaruCopy RU |" in render_page(table)


@pytest.mark.parametrize("width", [70, 90, 100, 140, 160, 200, 260])
def test_terminal(table: Table, width: int) -> None:
    out = shown(table, width)
    assert all(len(line) <= width for line in out.splitlines())
    single = "ruopenbookqa" in out.split("limit N")[0]
    assert single == (width >= 160) and (
        "too narrow for" in out and "the 17 single tasks" in out
    ) == (not single)
    assert ("DaruMMLU" in out) == ("the groups and" not in out) == (width >= 100) and "…" not in out
    (line,) = [line for line in out.splitlines() if "instruct A" in line and "±" in line][:1]
    mean = row(table, "llama3-8b/instruct").mean.value or 0
    assert f"{100 * mean:.1f}" in line and ("(sd 0.1)" in line) == (width < 100 or width >= 200)


def test_csv_and_the_committed_file(run: Run, table: Table, tmp_path) -> None:
    publish.write_leaderboard(tmp_path, PAPER, run.results, run.samples, ORDER)
    assert publish.check_leaderboard(tmp_path) == []
    assert page.render_markdown(publish.read_leaderboard(tmp_path)) == page.render_markdown(table)
    (found,) = [
        r
        for r in csv.DictReader(io.StringIO(forms.render_csv(table)))
        if r["model"] == "llama3-8b/instruct"
    ]
    assert float(found["DaruMMLU"]) == pytest.approx(
        row(table, "llama3-8b/instruct").summaries[1].value, abs=1e-6
    )
    assert (
        float(found["darumeru_use_sampling_sd"]) == 0.004
        and found["darumeru_rcb_sampling_sd"] == ""
    )


def test_notes_are_said_once() -> None:
    run = Run()
    for name in ("llama3-8b/instruct", "mistral-7b/instruct"):
        for task in PAPER.tasks:
            result, samples = cell(BY_NAME[name], task, items=3)
            notes = (
                ("12 rows left out",)
                if task == "darumeru_multiq"
                else ("3 rows | cut",)
                if (name[0], task[-3:]) == ("l", "use")
                else ()
            )
            run.add(
                (
                    result.model_copy(
                        update={"provenance": result.provenance.model_copy(update={"notes": notes})}
                    ),
                    samples,
                )
            )
    out = render_page(build_table(run.results, run.samples, PAPER, ORDER))
    assert (
        "- 12 rows left out: darumeru\\_multiq; every model\n" in out
        and "- 3 rows \\| cut: darumeru\\_use; `llama3-8b/instruct`\n" in out
    )
