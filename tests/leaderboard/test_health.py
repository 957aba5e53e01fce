"""What generated texts look like: counted at scoring, added up per row, the same again from the
committed file.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from invented_run import ORDER, SUITE, TASKS, Made, Run, cell, models

from lep_bench.leaderboard import forms, publish
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.page import render_page
from lep_bench.leaderboard.table import Row, Table
from lep_bench.leaderboard.text import format_health
from lep_bench.records.schema import Sample
from lep_bench.records.text_counts import TextCounts, count_texts, is_russian

RUSSIAN = "Сегодня кролик приносит машину."


def sample(text: str | None, gold: str = RUSSIAN, **values: object) -> Sample:
    own = {"score": 1.0, **({} if text is None else {"text": text}), **values}
    return Sample(
        doc_id=0, doc_hash="0", group="0", gold=gold, prediction="", values=own, prompt_ids="0"
    )


def test_nothing_generated_is_not_counted() -> None:
    assert count_texts([sample(None), sample(None)]) is None and count_texts([]) is None


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (
            [sample("да", stopped=True), sample("да", stopped=False), sample("да")],
            {"texts": 3, "judged": 2, "stopped": 1},
        ),
        (
            [sample("кот and dog"), sample("all English", gold="English it is")],
            {"letters": 9, "cyrillic": 3},
        ),
        ([sample("42, 17!", gold="42")], {"letters": 0, "cyrillic": 0}),
        ([sample("а б в г а б в г")], {"sequences": 5, "repeated": 1}),
        ([sample("а а а а а а")], {"sequences": 3, "repeated": 2}),
        ([sample("а б в"), sample("")], {"texts": 2, "sequences": 0, "repeated": 0}),
        # other texts may say the same
        ([sample("а б в г"), sample("а б в г")], {"sequences": 2, "repeated": 0}),
        ([sample("д\ufffd\ufffd"), sample("да")], {"invalid": 1}),
    ],
)
def test_counts(samples: list[Sample], expected: dict[str, int]) -> None:
    found = count_texts(samples)
    assert found is not None and {name: getattr(found, name) for name in expected} == expected


def test_repetition_equals_the_plain_definition() -> None:
    for n in range(60):
        words = [str((i * i * n + i) % (3 + n % 5)) for i in range(n)]
        seen, repeated = set(), 0
        for i in range(len(words) - 3):
            repeated += tuple(words[i : i + 4]) in seen
            seen.add(tuple(words[i : i + 4]))
        assert (count_texts([sample(" ".join(words))]) or TextCounts()).repeated == repeated


def test_russian_is_what_is_mostly_cyrillic() -> None:
    assert (
        is_russian("Да, GPT!") is False and is_russian("Да, конечно, GPT") and not is_russian("123")
    )


def with_texts(made: Made, text: str, stopped: bool, counted: bool = False) -> Made:
    result, samples = made
    samples = [
        s.model_copy(
            update={"gold": RUSSIAN, "values": {**s.values, "text": text, "stopped": stopped}}
        )
        for s in samples
    ]
    provenance = result.provenance.model_copy(update={"tokens_out": 9})
    return result.model_copy(
        update={"provenance": provenance, "health": count_texts(samples) if counted else None}
    ), samples


def run_of(counted: bool) -> Run:
    run = Run()
    model = next(m for m in models() if m.name == "mini-llama/instruct")
    for task in TASKS:
        made = cell(model, task, items=10)
        run.add(
            with_texts(made, "да yes" if "ru" in task else "кот", "ru" in task, counted)
            if "copy" in task
            else made
        )
    return run


def row(table: Table) -> Row:
    (found,) = table.rows
    return found


@pytest.mark.parametrize("counted", [True, False])
def test_tasks_add_up(counted: bool) -> None:
    run = run_of(counted)
    found = row(build_table(run.results, run.samples, SUITE, ORDER)).health
    assert found is not None and (found.texts, found.stopped, found.repeated, found.invalid) == (
        20,
        0.5,
        None,
        0.0,
    )
    assert found.cyrillic == pytest.approx(5 / 8)
    assert format_health(row(build_table(run.results, run.samples, SUITE, ORDER))) == [
        "20",
        "50.0",
        "62.5",
        "—",
        "0.0",
    ]


def test_a_row_without_texts_has_dashes() -> None:
    run = Run()
    run.add(cell(models()[1], TASKS[0]))
    table = build_table(run.results, run.samples, SUITE, ORDER)
    assert (
        row(table).health is None
        and format_health(row(table)) == ["—"] * 5
        and "Generated texts" not in render_page(table)
    )


def test_page_csv_and_committed_file(tmp_path: Path) -> None:
    run = run_of(False)
    made = publish.write_leaderboard(tmp_path, SUITE, run.results, run.samples, ORDER)
    assert (
        publish.check_leaderboard(tmp_path) == []
        and row(made).health == row(build_table(run.results, run.samples, SUITE, ORDER)).health
    )
    assert "| `mini-llama/instruct` | 20 | 50.0 | 62.5 | — | 0.0 |" in (
        tmp_path / "README.md"
    ).read_text(encoding="utf-8")
    (found,) = csv.DictReader(io.StringIO(forms.render_csv(made)))
    assert (
        found["texts"],
        found["stopped"],
        found["cyrillic"],
        found["repeated"],
        found["invalid"],
    ) == ("20", "0.5", "0.625", "", "0")
    lines = (tmp_path / "results.jsonl").read_text(encoding="utf-8")
    assert '"health":[10,10,10,50,20,0,0,0]' in lines
    (tmp_path / "results.jsonl").write_text(
        lines.replace('"health":[10,10,10,50,20,0,0,0]', '"health":[1,2,3,4,5,6,7,8,9]'),
        encoding="utf-8",
    )
    assert "cannot be read" in publish.check_leaderboard(tmp_path)[0]
