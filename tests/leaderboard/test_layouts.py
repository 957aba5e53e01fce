"""Tables arranged as the paper's: which rows and columns stay, and that nothing is concluded from
what was left out.
"""

from __future__ import annotations

import json

import pytest
from invented_paper import MODELS, PAPER
from invented_paper import whole as paper_run
from invented_run import ORDER, SUITE, TASKS, Run, cell

from lep_bench.leaderboard import forms, page, recommend
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.table import Table
from lep_bench.records.schema import ModelRecord


@pytest.fixture(scope="module")
def whole() -> Table:
    run = Run.whole(items=12)
    for task in TASKS:
        run.add(
            cell(
                ModelRecord(name="baselines/qwen", stage="baseline", fingerprint="0"),
                task,
                items=12,
            )
        )
    return build_table(run.results, run.samples, SUITE, ORDER)


@pytest.fixture(scope="module")
def paper() -> Table:
    run = paper_run()
    return build_table(run.results, run.samples, PAPER, [m.name for m in MODELS])


def labels(table: Table) -> dict[str, list[str]]:
    return {
        section.family: [row.label for row in section.rows]
        for block in table.blocks
        for section in block.sections
    }


def test_full_is_the_table_itself(whole: Table) -> None:
    assert forms.arrange_table(whole, "full") is whole


def test_instruct_and_the_best_adapted(whole: Table) -> None:
    found = labels(forms.arrange_table(whole, "paper1"))
    section = whole.blocks[0].sections[0]
    best = max(
        (row for row in section.rows if row.stage == "propagation" and row.mean.value is not None),
        key=lambda row: row.mean.value,
    )
    assert (
        best.label in found["mini-llama"]
        and "instruct" in found["mini-llama"]
        and found["baselines"] == ["qwen"]
    )
    assert set(found["mini-llama"]) == {
        "instruct",
        best.label,
        (best.control or "").removeprefix("mini-llama/"),
    }
    assert "picked by these same numbers" in forms.arrange_table(whole, "paper1").note


def test_base_and_donors(whole: Table) -> None:
    found = labels(forms.arrange_table(whole, "paper2"))
    assert found["mini-mistral"] == [
        "base",
        "original/donor",
        "bpe/donor",
        "unigram/donor",
        "extended/donor",
    ]
    assert [b.condition.format for b in forms.arrange_table(whole, "paper2").blocks] == ["plain"]


def test_propagation_without_tuning(whole: Table) -> None:
    found = labels(forms.arrange_table(whole, "paper3"))["mini-mistral"]
    assert found == [
        "instruct",
        *(
            f"{v}/{m}"
            for v in ("bpe", "unigram", "extended")
            for m in ("swap", "overlap", "conversion")
        ),
    ]


def test_propagation_and_tuning_beside_the_tuned_original(whole: Table) -> None:
    found = labels(forms.arrange_table(whole, "paper4"))["mini-mistral"]
    pairs = [
        label
        for v in ("bpe", "unigram", "extended")
        for label in (f"{v}/conversion", f"{v}/conversion+self-calibration")
    ]
    assert found == ["instruct", "instruct+self-calibration", *pairs]


@pytest.mark.parametrize("layout", list(forms.CAPTIONS))
def test_every_letter_and_finding_has_its_row(whole: Table, layout: str) -> None:
    table = forms.arrange_table(whole, layout)
    for block in table.blocks:
        rows = {row.model: row for section in block.sections for row in section.rows}
        for row in rows.values():
            assert (
                row.difference is None
                or rows[row.difference.control].letter == row.difference.letter
            )
        assert all({f.model, f.difference.control} <= set(rows) for f in block.findings)
    assert {f.model for f in table.failures} <= {row.model for row in table.rows}


def test_numbers_stay_and_ranks_and_advice_go(whole: Table) -> None:
    table = forms.arrange_table(whole, "paper3")
    before = {row.model: row for row in whole.rows}
    assert all(
        row.mean == before[row.model].mean
        and row.difference == before[row.model].difference
        and row.rank is None
        for row in table.rows
    )
    assert any(row.rank for row in whole.rows) and recommend.recommendation_lines(whole, str)
    assert "ship" not in json.loads(forms.render_json(table)) and "ship" in json.loads(
        forms.render_json(whole)
    )


def test_groups_are_the_columns_where_there_are_groups(paper: Table) -> None:
    table = forms.arrange_table(paper, "paper3")
    lines = [
        line for line in page.render_markdown(table).splitlines() if line.startswith("| model")
    ]
    assert set(lines) == {
        (
            "| model | symbols per token | Micro-Avg | DaruMMLU | DaruMERA | DaruSum | DaruCopy "
            "EN | DaruCopy RU | difference |"
        )
    }
    before = next(row for row in paper.rows if row.model == "llama3-8b/extended/swap")
    after = next(row for row in table.rows if row.model == before.model)
    assert after.summaries == before.summaries[1:] and after.cells == before.cells[:1]
