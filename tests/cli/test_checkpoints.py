"""Which checkpoints a run needs: told without the network, and what cannot be had is left out of
the run in one line each.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from lep_bench import files
from lep_bench.hub import (
    HubUnreachableError,
    find_cached,
    format_reference,
    locate,
    parse_reference,
)
from lep_bench.pipeline.session import Session

BASE = files.builtin_checkpoints() / "mini-llama" / "base"
pytestmark = pytest.mark.skipif(not BASE.is_dir(), reason="no shipped checkpoints")


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache of our own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def keep(hub: Path, repo: str) -> Path:
    """Put a small model into the cache as the Hub's `repo`; gives its snapshot's folder."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    shutil.copytree(BASE, folder / "snapshots" / "0123abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc", encoding="utf-8")
    return folder / "snapshots" / "0123abc"


def line(text: str, *words: str) -> str:
    found = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(found) == 1, (words, text)
    return found[0]


def test_a_dry_run_of_the_papers_suite_says_what_it_would_fetch(
    cli, hub: Path, tmp_path: Path
) -> None:
    keep(hub, "openchat/openchat-3.5-0106")
    done = cli("run", "--suite", "paper", "--models", "all", "--dry-run", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert line(done.out, "meta-llama/Meta-Llama-3-8B-Instruct").split()[:5] == [
        "to",
        "fetch",
        "16",
        "GB",
        "gated",
    ]
    assert line(done.out, " openchat/openchat-3.5-0106 ").startswith("here")
    assert "and no release" in line(done.out, "unverified: openchat/openchat-3.5-0106: ")
    assert (
        line(done.out, "to fetch: about", "GB", str(hub)) and "llama3_cut_extended" not in done.out
    )
    assert " days with " in line(done.out, "estimate:"), (
        "an 8B model is not scored on a laptop in seconds, nor in years"
    )


def test_models_names_checkpoints_on_stderr_and_only_those_it_lists(cli) -> None:
    done = cli("list", "models", "llama3-8b/optimized/swap", "--suite", "paper")
    assert len(done.out.splitlines()) == 2
    assert "unverified" in line(done.err, "to fetch", "llama3_cut_extended") and "gated" in line(
        done.err, "Meta-Llama-3-8B-Instruct"
    )
    assert "mistral" not in done.err and "unigram" not in done.err
    assert "CHECKPOINT" not in cli("list", "models").err, "the built-in families need none"


def test_families_marks_ids_that_are_gated_or_not_verified(cli) -> None:
    out = cli("list", "families").out
    assert "(gated)" in line(out, "llama3-8b", " base ") and "(unverified)" in line(
        out, "mistral-7b", " instruct "
    )
    assert "unverified" not in line(out, "mistral-7b", " base ")


def test_a_dry_run_asks_no_network(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def look_up(host: object, *_: object, **__: object) -> None:
        asked.append(host)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert cli("list", "models", "--suite", "paper").code == 0
    assert (
        cli(
            "run",
            "--suite",
            "paper",
            "--models",
            "all,some-org/some-model",
            "--dry-run",
            "--out",
            tmp_path / "out",
        ).code
        == 0
    )
    assert not asked
    with pytest.raises(HubUnreachableError):
        locate("some-org/some-model")
    assert asked, "the guard of this test does not see the library's requests"


def test_missing_checkpoints_are_one_line_that_says_what_to_do(
    cli, hub: Path, tmp_path: Path
) -> None:
    hub.mkdir()
    done = cli(
        "run",
        "--suite",
        "paper",
        "--models",
        "mistral-7b/bpe/swap,baselines/vikhr-5.2",
        "--out",
        tmp_path / "out",
    )
    assert done.code == 2 and "Traceback" not in done.err
    told = done.err.splitlines()
    assert len(told) == 2 and told[0].startswith(
        "missing, for baselines/vikhr-5.2 and 1 more: mistralai/Mistral-7B-v0.1, "
    )
    assert "and 1 more (--dry-run lists them): no such folder here" in told[0]
    assert told[1].startswith(
        "error: nothing can be run without the checkpoints named above: lep-bench bundle "
        "--suite paper DIR --models"
    )
    assert "--models PATH" in told[1]


def test_what_cannot_be_had_is_left_out_of_the_plan_with_all_that_needs_it(
    tmp_path: Path, hub: Path
) -> None:
    keep(hub, "mistralai/Mistral-7B-v0.1")
    given = Session.read("paper", tmp_path / "out", None)
    todo = given.plan(["mistral-7b/base", "mistral-7b/bpe/donor", "mistral-7b/bpe/conversion"])
    donor = "checkpoint:RefalMachine/mistral_darulm_20_05_24_part1-2_32000_bpe_full_lr1e4_bs256"
    assert set(todo.without([donor]).nodes) == {"score:mistral-7b/base"}
    assert todo.without([]).nodes == todo.nodes
    assert (
        "score:mistral-7b/bpe/conversion"
        not in todo.without(["checkpoint:openchat/openchat-3.5-0106"]).nodes
    )


def test_a_download_that_broke_off_counts_as_missing(hub: Path) -> None:
    assert find_cached("org/model") is None
    folder = keep(hub, "org/model")
    assert find_cached("org/model") == folder and find_cached("org/model", "v2") is None
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert find_cached("org/model") is None


def test_a_folder_with_an_at_sign_is_no_revision(tmp_path: Path) -> None:
    assert parse_reference(format_reference("org/model", "abc")) == ("org/model", "abc")
    folder = tmp_path / "me@work" / "base"
    shutil.copytree(BASE, folder)
    assert parse_reference(format_reference(str(folder))) == (str(folder), None)
    given = Session.read("mini", tmp_path / "out", None)
    assert given.plan([str(folder)]).models[0].location == str(folder)
