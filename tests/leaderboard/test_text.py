"""Signs, intervals, ranks and marks: what is printed beside numbers, and only where a test says
so.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from invented_run import ORDER, SUITE, Run

from lep_bench.leaderboard import text
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.table import Cell, Contrast, Difference, Row, Table

GAP = Difference(
    "f/a", "A", -0.031, 0.012, 1, -0.054, -0.007, 0.0116, 0.0348, "lower", "sign flips"
)


@pytest.fixture(scope="module")
def whole() -> Table:
    run = Run.whole(items=12)
    return build_table(run.results, run.samples, SUITE, ORDER)


@pytest.mark.parametrize(
    ("verdict", "sign"),
    [("higher", "▲"), ("lower", "▼"), ("equal", "="), ("undecided", "·"), (None, "")],
)
def test_signs_stand_where_a_verdict_is(verdict: str | None, sign: str) -> None:
    cell = Cell("ok", 0.903, 0.017, seeds=1, verdict=verdict)
    assert (
        text.format_cell(cell, True, 1, " ±") == f"90.3 ±1.7{sign}"
        and text.format_cell(cell, True, 1, None) == f"90.3{sign}"
    )
    assert (
        text.format_cell(replace(cell, sampling=0.002), True, 1, " ±")
        == f"90.3 ±1.7{sign} (sd 0.2)"
    )
    assert text.format_difference(replace(GAP, verdict=verdict), " ±") == f"−3.1 ±1.2{sign} A"
    said = text.format_contrast(Contrast("?", "f/b", replace(GAP, verdict=verdict)), " ±")
    assert said == [
        "−3.1 ±1.2",
        "[−5.4, −0.7]",
        "0.012",
        "0.035",
        f"{sign} {verdict}" if verdict else "—",
    ]


def test_p_is_never_printed_as_zero() -> None:
    assert [text.format_p(p) for p in (None, 1e-300, 0.000999, 0.001, 0.04999999, 1.0)] == [
        "—",
        "<0.001",
        "<0.001",
        "0.001",
        "0.050",
        "1.000",
    ]


def test_ranks_and_intervals() -> None:
    row = Row("f/a", "a", "base", "", (), Cell(), None, None, None)
    assert [text.format_rank(replace(row, rank=r)) for r in (None, (1, 1), (2, 5))] == [
        "—",
        "1",
        "2–5",
    ]
    assert (
        text.format_interval(replace(GAP, low=None)) == "—"
        and text.format_interval(replace(GAP, low=0.0, high=0.02)) == "[0.0, +2.0]"
    )


def test_the_rank_column_is_there_only_with_ranks(whole: Table) -> None:
    assert "rank" in text.make_headers(whole, "whole") and text.RANKS_EXPLAINED in text.make_legend(
        whole
    )
    bare = replace(
        whole,
        blocks=tuple(
            replace(b, sections=tuple(_bare(s) for s in b.sections)) for b in whole.blocks
        ),
    )
    assert (
        "rank" not in text.make_headers(bare, "whole")
        and text.explain_signs(bare) is None
        and text.RANKS_EXPLAINED not in text.make_legend(bare)
    )
    assert len(text.make_headers(bare, "whole")) == len(
        text.format_row(bare, bare.rows[0], "whole", "±")
    )


def _bare(section):
    plain = (
        replace(
            r, rank=None, difference=None, cells=tuple(replace(c, verdict=None) for c in r.cells)
        )
        for r in section.rows
    )
    return replace(section, rows=tuple(plain))


def test_the_legend_names_rule_and_margin(whole: Table) -> None:
    said = text.explain_signs(replace(whole, delta=0.02)) or ""
    assert "within ±2.0" in said and "Holm" in said and "at most 0.05" in said


def test_marks() -> None:
    row = Row(
        "f/a",
        "a",
        "base",
        "",
        (Cell("ok", 0.5, seeds=1, limit=20, stale=True),),
        Cell(),
        None,
        None,
        3,
    )
    assert text.format_marks(row) == f"limit 20 {text.STALE} (3)"
    failed = replace(row, cells=(Cell("failed"),))
    assert text.format_marks(failed) == "failed (3)"


def test_grids_group_by_vocabulary(whole: Table) -> None:
    first = next(text.make_grids(whole, "±"))
    assert [name for name, _ in first.groups] == [
        "original",
        "bpe",
        "unigram",
        "extended",
        "optimized",
    ]
    assert sum(len(rows) for _, rows in first.groups) == len(first.section.rows)
    assert (
        text.find_vocabulary(Row("local/a/b", "a/b", "local", "", (), Cell(), None, None, None))
        == ""
    )


def test_tallies() -> None:
    found = [
        Contrast("?", "f/b", replace(GAP, verdict=v)) for v in ("lower", "lower", "equal", None)
    ]
    assert text.count_verdicts(found) == "2 lower, 1 equal, 1 not tested"
