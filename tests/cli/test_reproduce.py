"""`lep-bench reproduce`, the earlier name of leaderboards/paper/ledger.py."""

from __future__ import annotations

import json
from pathlib import Path


def test_the_old_name_runs_the_script_and_says_so(cli, tmp_path: Path) -> None:
    answer = cli("reproduce", "--out", tmp_path / "none", "--json")
    assert answer.code == 0, answer.err
    assert len(answer.err.splitlines()) == 1 and "ledger.py --out" in answer.err
    found = json.loads(answer.out)
    assert found["delta"] == 0.01 and len(found["rows"]) == 357
    assert (found["figures"]["not run"], found["figures"]["cannot be built"]) == (174, 183)


def test_a_suite_without_quoted_figures_is_refused(cli, tmp_path: Path) -> None:
    answer = cli("reproduce", "--suite", "mini", "--out", tmp_path)
    assert answer.code == 2 and "--suite mini: no figures are quoted" in answer.err


def test_a_file_as_the_results_folder_is_refused(cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert cli("reproduce", "--out", tmp_path / "file").code == 2
