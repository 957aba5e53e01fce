"""`lep-bench doctor --offline`, and runs that find no way to the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundled import BASE, DATA, STORED, lines, parus
from huggingface_hub import constants

from lep_bench import bundle

pytestmark = pytest.mark.skipif(not BASE.is_dir(), reason="no shipped checkpoints")


def test_doctor_proves_that_a_suite_is_complete(
    make, cli, hub, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "bundle"

    def doctor(*more: object) -> tuple[int, str]:
        done = cli(
            "doctor", "--offline", "--suite", "tiny", "--configs", configs, "--out", tmp_path, *more
        )
        return done.code, done.out

    assert make("--models").code == 0
    code, text = doctor("--data", root)
    assert code == 0, text
    for words in (
        "3 rows",
        "pymorphy3",
        str(root / "dictionaries"),
        str(root / "models--org--pico" / "snapshots" / hub.commit),
        f"run --suite tiny --data {root}",
    ):
        assert words in text
    next(root.glob("models--org--pico/snapshots/*/model.safetensors")).unlink()
    (root / "dictionaries" / "words.dawg").unlink()
    rows = root / "RefalMachine" / "darumeru" / "data" / "parus" / "prompt.jsonl"
    rows.write_bytes(lines([{**parus(1), "inputs": None}]))
    code, text = doctor("--data", root)
    flat = " ".join(text.split())
    for words in (
        "prompt.jsonl has",
        "prompt.jsonl:1: the row has no inputs",
        "no model.safetensors",
        "pymorphy3 or its dictionaries do not load",
    ):
        assert words in flat
    advice = [
        line
        for line in text.splitlines()
        if line.startswith("- ") and "vllm" not in line and "for the tested one" not in line
    ]
    assert (
        code == 1
        and advice
        and all("lep-bench bundle --suite tiny" in line for line in advice)
        and "error    rows" in text
    )
    monkeypatch.delenv(bundle.DATA)  # set by the commands above for this process
    monkeypatch.delenv(bundle.DICTIONARY_PATH)
    code, text = doctor()
    assert (
        code == 1
        and "RefalMachine/darumeru" in text
        and "org/pico at" in text
        and "lep-bench bundle --suite tiny DIR" in text
    )
    assert cli("doctor", "--offline").code == 2


def test_doctor_for_a_model_and_rows_of_ones_own(
    make, cli, hub, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    for name in STORED:
        (mirror / "RefalMachine" / "darumeru" / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / "RefalMachine" / "darumeru" / name).write_bytes(DATA[name])
    suite = ("doctor", "--offline", "--suite", "tiny", "--configs", configs, "--out", tmp_path)
    done = cli(*suite, "--data", mirror, "--models", BASE)
    flat = " ".join(done.out.split())
    assert done.code == 0, done.out
    assert (
        "complete for 1 task of tiny; 1 of 1 data sets are unproven copies" in flat
        and "note RefalMachine/darumeru 3 rows of 1 task" in flat
    )
    assert f"run --suite tiny --data {mirror} --configs {configs} --offline --models {BASE}" in flat
    assert "lep-bench bundle --suite tiny DIR" in done.out and f"tiny {mirror}" not in done.out, (
        "no bundle into somebody's own folder"
    )
    assert all(
        len(line) <= 120 or str(tmp_path) in line
        for line in done.out.partition("what to do")[0].splitlines()
    )
    done = cli(*suite, "--data", mirror)
    assert done.code == 1 and "org/pico at" in done.out and "--offline --models PATH" in done.out, (
        "rows can be complete without the suite's models"
    )
    assert make("--data", mirror).code == 0
    done = cli(*suite, "--data", tmp_path / "bundle", "--models", BASE)
    assert done.code == 0 and "nothing proves their revision: RefalMachine/darumeru" in " ".join(
        done.out.split()
    )
    del hub.repositories["model", "org/pico"]
    refused = cli(
        "run",
        "--suite",
        "tiny",
        "--configs",
        configs,
        "--data",
        mirror,
        "--offline",
        "--out",
        tmp_path / "out",
    )
    assert (
        refused.code == 2
        and "lep-bench bundle --suite tiny DIR --models" in refused.err
        and "--models PATH" in refused.err
    )


def test_without_a_way_to_the_hub_a_run_gives_up_at_once(
    cli, surroundings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The datasets library alone asks six times for each of them, and says so each time."""
    import datasets

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for library in (constants, datasets.config):
        monkeypatch.setattr(library, "HF_HUB_OFFLINE", False)
    (tmp_path / "suites").mkdir()
    content = (
        "title: R\ntasks: [belebele_rus_Cyrl, xquad_ru, darumeru_parus]\nlm_eval: [belebele, "
        "xquad]\nprotocol: strict\n"
    )
    (tmp_path / "suites" / "r.yaml").write_text(
        content + "mean: {kind: plain, tasks: {}}\n", encoding="utf-8"
    )
    done = cli(
        "run", "--suite", "r", "--configs", tmp_path, "--models", BASE, "--out", tmp_path / "out"
    )
    assert (
        done.code == 2
        and done.err.count("\n") == 2
        and done.err.startswith("http://127.0.0.1:9 cannot be reached")
    ), done.err
    assert (
        "facebook/belebele, google/xquad, RefalMachine/darumeru: where there is a network, "
        "lep-bench bundle --suite r DIR"
    ) in done.err
