"""`lep-bench reproduce`: nothing measured, something measured, JSON, and bad input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "leaderboard"))
from invented_ledger import record, write

from lep_bench.records.store import Store


def test_nothing_measured(cli, tmp_path: Path) -> None:
    answer = cli("reproduce", "--suite", "paper", "--out", tmp_path / "none")
    assert answer.code == 0, answer.err
    assert "357 figures, ±delta is ±0.01: 174 not run, 183 cannot be built" in answer.out
    assert f"lep-bench run --suite paper --out {tmp_path / 'none'}" in answer.out
    assert "donor not public" in answer.out and "data not public: saiga d7" in answer.out
    assert (
        "RefalMachine/llama3_extended_darulm_20_05_24_part1-2_64000_bpe_full_lr2e4_bs256"
        in answer.out
    )
    assert not (tmp_path / "none").exists()


def test_measured_beside_quoted(cli, tmp_path: Path) -> None:
    for task in ("darumeru_sum_abstractive", "darumeru_sum_extractive"):
        write(Store(tmp_path), record("mistral-7b/instruct"), task, 0.322)
        write(Store(tmp_path), record("llama3-8b/instruct"), task, 0.4)
    answer = cli("reproduce", "--out", tmp_path)
    assert answer.code == 0, answer.err
    lines = [line.split() for line in answer.out.splitlines()]
    assert [
        "1",
        "mistral-7b/instruct",
        "DaruSum",
        "0.322",
        "0.322",
        "±0.001",
        "0.000",
        "±0.002",
        "reproduced",
    ] in lines
    assert [
        "4",
        "llama3-8b/instruct",
        "DaruSum",
        "0.322",
        "0.400",
        "±0.001",
        "+0.078",
        "±0.002",
        "differs",
    ] in lines

    found = json.loads(cli("reproduce", "--out", tmp_path, "--json").out)
    assert (
        found["delta"],
        found["figures"]["reproduced"],
        found["figures"]["differs"],
        len(found["rows"]),
    ) == (0.01, 2, 2, 58)
    first = found["rows"][0]
    assert (first["lep_bench"], first["made_of"], first["condition"]["protocol"]) == (
        "mistral-7b/instruct",
        ["openchat/openchat-3.5-0106"],
        "paper",
    )
    assert (
        first["figures"]["darusum"]["status"] == "reproduced"
        and abs(first["figures"]["darusum"]["difference"]) < 1e-9
    )
    assert first["figures"]["micro_avg"]["measured"] is None


def test_bad_input(cli, tmp_path: Path) -> None:
    answer = cli("reproduce", "--suite", "mini", "--out", tmp_path)
    assert (
        answer.code == 2
        and answer.err.strip()
        == "error: --suite mini: no figures are quoted for it; there are some for: paper"
    )
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert cli("reproduce", "--out", tmp_path / "file").code == 2
    write(Store(tmp_path / "runs"), record("mistral-7b/instruct"), "darumeru_rwsd", 0.5)
    next((tmp_path / "runs").rglob("*.json")).write_text("{", encoding="utf-8")
    answer = cli("reproduce", "--out", tmp_path / "runs")
    assert answer.code == 2 and "not a result" in answer.err and len(answer.err.splitlines()) == 1


def test_the_page_is_made_again_from_its_data(cli, tmp_path: Path, monkeypatch) -> None:
    from lep_bench import files

    shutil.copytree(files.shipped_folder("leaderboards") / "paper", tmp_path / "paper")
    page = tmp_path / "paper" / "README.md"
    before = page.read_text(encoding="utf-8")
    page.write_text("edited by hand\n", encoding="utf-8")
    found = files.shipped_folder
    monkeypatch.setattr(
        files, "shipped_folder", lambda name: tmp_path if name == "leaderboards" else found(name)
    )
    assert cli("reproduce", "--page").code == 0
    assert page.read_text(encoding="utf-8") == before
