"""A bundle whose rows no run would take says so while it is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

SUITE = """title: T
models: [a]
tasks: [darumeru_rcb]
protocol: strict
mean: {kind: plain, tasks: {darumeru_rcb: 0}}
"""


def test_rows_that_cannot_be_asked_are_named(cli: Callable, tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "{premise}"},
            {"role": "bot", "content": "Ответ:"},
        ],
        "inputs": {"premise": "Дождь."},
        "outputs": "1",
        "meta": {"id": 1},
    }
    shot = {**row, "messages": [row["messages"][0], {"role": "bot", "content": "Ответ: 1"}]}
    folder = tmp_path / "rows" / "RefalMachine" / "darumeru" / "data" / "rcb"
    folder.mkdir(parents=True)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "s.yaml").write_text(SUITE)
    (folder / "prompt.jsonl").write_text(json.dumps(shot), encoding="utf-8")
    arguments = (
        "bundle",
        tmp_path / "made",
        "--suite",
        "s",
        "--configs",
        tmp_path,
        "--data",
        tmp_path / "rows",
    )
    (folder / "test.jsonl").write_text(json.dumps({**row, "outputs": "Да"}), encoding="utf-8")
    refused = cli(*arguments)
    assert (
        refused.code == 1 and "test.jsonl:1: its answer 'Да' is none of 1, 2, 3" in refused.err
    ), refused.err
    assert "1 task cannot be asked from its rows" in refused.err
    (folder / "test.jsonl").write_text(json.dumps(row), encoding="utf-8")
    made = cli(*arguments)
    assert made.code == 0, made.err
