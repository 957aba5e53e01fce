"""The quoted figures: every row marked, every mean checked, the committed page as its data
renders.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from lep_bench import files
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import paper, publish

FOLDER = files.shipped_folder("leaderboards") / "paper"

# Rows whose printed Micro-Avg is not (3 MMLU + 8 MERA + 2 Sum + 2 Copy EN + 2 Copy RU) / 17 within
# rounding. There is none.
EXCEPTIONS: list[str] = []


def test_micro_averages() -> None:
    rows = paper.quoted(FOLDER)
    assert len(rows) == 58 and all(row.recomputed() is not None for row in rows)
    assert [row.name() for row, _ in paper.exceptions(rows)] == EXCEPTIONS


def test_an_exception_would_be_listed() -> None:
    row = paper.quoted(FOLDER)[0]
    wrong = paper.Quoted(**{**vars(row), "scores": {**row.scores, "micro_avg": 0.7}})
    assert [r.name() for r, _ in paper.exceptions([wrong])] == ["table 1, OpenChat-3.5, original"]
    assert "printed 0.700, formula 0.607" in paper._checked([wrong], paper.exceptions([wrong]))


def test_every_row_is_marked() -> None:
    assert publish.check_leaderboard(FOLDER) == []
    lines = [
        line
        for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and " 0." in line
    ]
    assert len(lines) == 58 and all(line.startswith("| quoted |") for line in lines)
    with open(FOLDER / paper.DATA, encoding="utf-8", newline="") as file:
        assert all(
            row["status"] == "quoted" and row["source"].startswith("arXiv 2412.21140, table ")
            for row in csv.DictReader(file)
        )


def test_unmarked_rows_are_refused(tmp_path: Path) -> None:
    text = (FOLDER / paper.DATA).read_text(encoding="utf-8")
    (tmp_path / paper.DATA).write_text(text.replace("quoted,", "measured,", 1), encoding="utf-8")
    with pytest.raises(LepBenchError, match=r"quoted\.csv:2: status must be"):
        paper.quoted(tmp_path)
    (tmp_path / paper.DATA).write_text(text, encoding="utf-8")
    for name in (paper.MODELS, paper.ITEMS):
        shutil.copy(FOLDER / name, tmp_path)
    assert publish.check_leaderboard(tmp_path) != []
    paper.write_paper(tmp_path)
    assert publish.check_leaderboard(tmp_path) == []
