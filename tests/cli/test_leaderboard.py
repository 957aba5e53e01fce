"""`lep-bench leaderboard` on a small run: every form and layout, printed alone so that it can be
piped.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from lep_bench import files

BASE = files.builtin_checkpoints() / "mini-llama" / "base"
pytestmark = pytest.mark.skipif(not BASE.is_dir(), reason="no shipped checkpoints")
SUITE = (
    "title: P\ntasks: [mini_facts_ru, mini_copy_ru]\nprotocol: strict\nmean: {kind: plain, tasks: "
    "{mini_facts_ru: 0.25, mini_copy_ru: 0}}\n"
)


def test_forms_and_layouts(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "suites").mkdir(parents=True)
    (tmp_path / "configs" / "suites" / "p.yaml").write_text(SUITE, encoding="utf-8")
    place = ("--suite", "p", "--configs", "configs", "--out", "out")
    done = cli("run", *place, "--models", str(BASE), "--engine", "hf", "--limit", 3, "--workers", 1)
    assert (
        done.code == 0 and "Nothing to ship: only models without a family were scored." in done.out
    ), done.err
    said = {
        form: cli("leaderboard", *place, "--format", form)
        for form in ("terminal", "markdown", "csv", "json", "latex", "html")
    }
    assert (
        all(one.code == 0 for one in said.values()) and "leaderboard: out" in said["terminal"].out
    )
    for form, begins in (
        ("markdown", "## P\n"),
        ("csv", "model,"),
        ("json", "{\n"),
        ("latex", "% "),
        ("html", "<section"),
    ):
        assert (
            said[form].out.startswith(begins)
            and "leaderboard: out" in said[form].err
            and "leaderboard: out" not in said[form].out
        )
    (row,) = csv.DictReader(io.StringIO(said["csv"].out))
    assert (
        row["model"] == "local/base"
        and (row["limit"], row["texts"]) == ("3", "3")
        and row["stopped"] in ("0", "0.333333", "0.666667", "1")
    )
    read = json.loads(said["json"].out)
    assert (
        read["blocks"][0]["sections"][0]["rows"][0]["health"]["texts"] == 3
        and "Nothing to ship" in read["ship"][0]["advice"][0]
    )
    page = (tmp_path / "out" / "p" / "leaderboard" / "README.md").read_text(encoding="utf-8")
    first = cli("leaderboard", *place, "--format", "markdown", "--layout", "paper1")
    assert (
        first.out.startswith(
            "## P: Instruct models and the best adapted one of each family, beside baselines\n"
        )
        and "`base`" in first.out
    )
    assert "`base`" not in cli("leaderboard", *place, "--format", "html", "--layout", "paper3").out
    assert (tmp_path / "out" / "p" / "leaderboard" / "README.md").read_text(
        encoding="utf-8"
    ) == page, "a layout is only printed"
    assert (
        cli("leaderboard", *place, "--format", "xml").code == 2
        and cli("leaderboard", *place, "--layout", "paper5").code == 2
    )


def test_a_page_shows_what_local_models_read_and_says_what_is_not_shown(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "suites").mkdir(parents=True)
    (tmp_path / "configs" / "suites" / "p.yaml").write_text(SUITE, encoding="utf-8")
    place = ("--suite", "p", "--configs", "configs", "--out", "out")
    assert (
        cli(
            "run", *place, "--models", str(BASE), "--engine", "hf", "--limit", 3, "--workers", 1
        ).code
        == 0
    )
    told = cli("leaderboard", *place, "--html", "page")
    assert told.code == 0 and "no questions" not in told.err and "not shown" not in told.err
    (file,) = (tmp_path / "out" / "p" / "results").rglob("mini_copy_ru@*.json")
    older = {"task_version": "0", "key": "0" * 16, "seal": None}
    read = json.loads(file.read_text(encoding="utf-8")) | older
    file.write_text(json.dumps(read), encoding="utf-8")
    file.rename(file.with_name(f"mini_copy_ru@{'0' * 16}.json"))
    told = cli("leaderboard", *place)
    assert (
        told.code == 0
        and "not shown: 1 score in out, of other models" in told.err
        and "than now: local/base mini_copy_ru: give" in told.err
    )


def test_a_score_changed_by_hand_is_a_dash_and_refused_elsewhere(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "suites").mkdir(parents=True)
    (tmp_path / "configs" / "suites" / "p.yaml").write_text(SUITE, encoding="utf-8")
    place = ("--suite", "p", "--configs", "configs", "--out", "out")
    run = cli("run", *place, "--models", str(BASE), "--engine", "hf", "--workers", 1)
    assert run.code == 0
    (file,) = (tmp_path / "out" / "p" / "results").rglob("mini_copy_ru@*.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    result["scores"][result["primary"]]["value"] = 0.99
    file.write_text(json.dumps(result), encoding="utf-8")

    shown = cli("leaderboard", *place, "--format", "csv")
    assert shown.code == 1 and file.name in shown.err and "0.99" not in shown.out
    for command in (
        ("publish", *place, "--to", "site"),
        ("gate", *place, "--write", "baseline.jsonl"),
    ):
        refused = cli(*command)
        assert refused.code == 2 and file.name in refused.err, refused.err
    assert not (tmp_path / "site").exists() and not (tmp_path / "baseline.jsonl").exists()
