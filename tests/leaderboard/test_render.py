"""What the table looks like: nothing wraps in the middle of a number, and no name can do anything
but be a name.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from invented_run import ORDER, SUITE, TASKS, Run, cell, result
from rich.console import Console

from lep_bench.leaderboard import forms, page, terminal, text
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.page import render_page
from lep_bench.leaderboard.table import Table
from lep_bench.records.schema import ModelRecord

EVIL = "mini-llama/<script>|`x`[a](http://e.vil)\n# *b* www.e.vil @you \x1b[31m\u202e"


def table_of(run: Run) -> Table:
    return build_table(run.results, run.samples, SUITE, ORDER)


def shown(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    terminal.show_table(table, console)
    return console.export_text()


@pytest.fixture(scope="module")
def whole() -> Table:
    return table_of(Run.whole())


@pytest.mark.parametrize("width", [90, 100, 120, 140, 160, 220])
@pytest.mark.parametrize("seeds", [1, 2])
def test_terminal(width: int, seeds: int) -> None:
    out = shown(table_of(Run.whole(seeds=seeds)), width)
    assert all(len(line) <= width for line in out.splitlines())
    lines = out.splitlines()
    assert SUITE.note.split(".")[0] in lines[1]
    (line,) = [line for line in lines if "bpe/donor" in line and "3.40" in line][:1]
    assert "F" in line.split()[-1] or seeds == 2
    assert ("±" in line.split("3.40")[1][:16]) == (width >= 140)
    assert "(1) mini-llama/bpe/overlap, all tasks: failed: AdapterError" in out and "…" not in out
    assert ("too narrow" in out) == (width < 140)


def test_long_names_fold_at_their_tuning_and_keep_their_letter(whole: Table) -> None:
    row = replace(
        whole.blocks[0].sections[0].rows[0], label="instruct+self-calibration", letter="B"
    )
    assert terminal._label(row, fold=20).plain == "instruct\n   +self-calibration B"
    assert (
        terminal._label(
            replace(row, label="bpe/conversion+self-calibration", letter=""), fold=20
        ).plain
        == "bpe/conversion\n    +self-calibration"
    )
    assert (
        terminal._label(replace(row, label="optimized/instruct-init", letter=""), fold=20).plain
        == "optimized/\n    instruct-init"
    )


def test_terminal_without_results() -> None:
    assert "Nothing has been scored yet" in shown(table_of(Run()), 80)


def test_markdown_is_regular(whole: Table) -> None:
    lines = [line for line in page.render_markdown(whole).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {11}
    line = next(line for line in lines if line.startswith("| `bpe/overlap`"))
    assert line.endswith("| — | — | — | — | — | — | failed | — | — |")
    assert "failed: AdapterError: adapters/propagation/overlap.py" in page.render_markdown(whole)
    assert "TaskError: &lt;b&gt;it&lt;/b&gt; \\| broke" in page.render_markdown(whole)


def test_the_page_says_first_what_it_is(whole: Table) -> None:
    body = render_page(whole)
    assert body.startswith("> **A synthetic micro-world.")
    assert "One training seed" in body and "lep-bench run --suite mini --models all" in body
    assert "57 models in 2 families, 5 tasks, engine hf in float32." in body


def test_names_cannot_inject() -> None:
    run = Run()
    evil = ModelRecord(
        name=EVIL,
        family="mini-llama",
        stage="propagation",
        vocabulary="bpe",
        propagation="x",
        fingerprint="0",
    )
    for task in TASKS[:-1]:
        run.add(cell(evil, task))
    run.add((result(evil, TASKS[-1], status="failed", error=EVIL), []))
    table = table_of(run)
    out = render_page(table)
    row, spent = [line for line in out.splitlines() if "<script>" in line and line.startswith("| ")]
    assert row.startswith("| `<script>\\|'x'[a](http://e.vil) # *b* www.e.vil @you [31m` (1) |")
    assert spent.startswith(
        "| `mini-llama/<script>\\|'x'[a](http://e.vil) # *b* www.e.vil @you [31m` (1) 4 of 5 "
        "tasks |"
    )
    (reason,) = [line for line in out.splitlines() if line.startswith("- (1)")]
    said = reason.split("failed: ")[1]
    assert said == "mini-llama/&lt;script&gt;\\|\\`x\\`\\[a\\](http&#58;//e.vil)"
    assert "\x1b" not in out and "\u202e" not in out
    assert "\x1b" not in shown(table, 120)


def test_a_code_span_cannot_be_left() -> None:
    assert page.format_code("a`b|c\\|d") == "`a'b\\|c/\\|d`"
    assert (
        page.escape_markdown("<img> ![x](y) www.a @me https://b")
        == "&lt;img&gt; !\\[x\\](y) www&#46;a &#64;me https&#58;//b"
    )


def test_csv(whole: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(forms.render_csv(whole))))
    assert len(rows) == 57
    swap = next(r for r in rows if r["model"] == "mini-llama/extended/swap")
    assert (
        0 < float(swap["mini_facts_ru"]) < 1
        and swap["control"] == "mini-llama/instruct"
        and float(swap["difference"]) < 0
    )
    assert next(r for r in rows if r["failed"] == "all")["mean"] == ""
    assert next(r for r in rows if r["limit"])["limit"] == "20"


def test_csv_names_are_no_formulas() -> None:
    run = Run()
    run.add(cell(ModelRecord(name="=1+1", stage="local", fingerprint="0"), TASKS[0]))
    assert forms.render_csv(table_of(run)).splitlines()[1].startswith("'=1+1,")


def test_json(whole: Table) -> None:
    read = json.loads(forms.render_json(whole))
    assert read["suite"] == "mini" and len(read["blocks"][0]["sections"][0]["rows"]) == len(
        whole.blocks[0].sections[0].rows
    )


@pytest.mark.parametrize(
    ("value", "percent", "digits", "sign", "expected"),
    [
        (0.8625, True, 1, False, "86.2"),
        (0.8625000000001, True, 1, False, "86.2"),  # the last bits of a float decide nothing
        (0.8624999999999, True, 1, False, "86.2"),
        (0.8635, True, 1, False, "86.4"),
        (-0.0001, True, 1, True, "0.0"),
        (-0.5, True, 1, True, "−50.0"),
        (0.035, True, 1, True, "+3.5"),
        (1.23456, False, 3, False, "1.235"),
        (0.0, True, 1, False, "0.0"),
        (1e-12, True, 1, False, "0.0"),
        (100.0, True, 1, False, "10000.0"),
    ],
)
def test_numbers(value: float, percent: bool, digits: int, sign: bool, expected: str) -> None:
    assert text.format_number(value, percent, digits, sign) == expected


def test_a_bracket_in_the_name_of_a_mean_is_no_markup() -> None:
    suite = SUITE.model_copy(
        update={
            "groups": {"[/b] facts [red]": TASKS[:2]},
            "mean": SUITE.mean.model_copy(update={"name": "all [bold]"}),
        }
    )
    run = Run.whole()
    out = shown(build_table(run.results, run.samples, suite, ORDER), 200)
    assert all(word in out for word in ("[/b]", "[red]", "[bold]"))
