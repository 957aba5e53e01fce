"""lep-bench publish: what is written where, what is refused before anything is written, and an
upload to a Hub on the loopback.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from uploads import Serve, serve

from lep_bench import files as files_module
from lep_bench.files import shipped_folder, write_json
from lep_bench.leaderboard import publish, release
from lep_bench.pipeline.session import Session
from lep_bench.records.artifact import LEP, Lep, Parent
from lep_bench.records.schema import Provenance, Sample, Score, TaskResult
from lep_bench.records.store import Store

__all__ = ["serve"]  # a fixture
NAMES = ["mini-llama/instruct", "mini-llama/extended/donor", "mini-llama/extended/swap"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Invented scores of three models under the keys that a real plan gives them, and the last
    one's way.
    """
    given = Session.read("mini", tmp_path / "runs", None)
    plan = given.plan(NAMES)
    tasks = {cell.task.name: cell.task for node in plan.nodes.values() for cell in node.cells}
    scorings = {
        node.record.name: node.scoring
        for node in plan.nodes.values()
        if node.record and node.scoring
    }
    for place, (record, task, key) in enumerate(plan.expected):
        values = [float((i + place) % 3 > 0) for i in range(9)]
        samples = [
            Sample(
                doc_id=i,
                doc_hash=f"{i:08x}",
                group=str(i),
                gold="да",
                prediction="да",
                values={"score": v},
                prompt_ids="0" * 16,
            )
            for i, v in enumerate(values)
        ]
        provenance = Provenance(
            created="2026-01-02T03:04:05Z",
            engine="hf",
            device="cpu",
            dtype="float32",
            packages={"lep-bench": "0.1.0"},
        )
        result = TaskResult(
            status="ok",
            key=key,
            suite="mini",
            model=record,
            task=task,
            task_version=tasks[task].version,
            task_fingerprint=tasks[task].fingerprint,
            scoring=scorings[record.name],
            scores={"score": Score(value=sum(values) / 9)},
            samples=9,
            provenance=provenance,
        )
        given.store.write(result, samples)
        if record.stage == "propagation":
            way(given.store, record.name, record.fingerprint)
    return tmp_path / "runs"


def way(store: Store, name: str, fingerprint: str) -> None:
    parents = tuple(
        Parent(role=role, name=f"org/{role}", location=f"org/{role}")
        for role in ("base", "instruct")
    )
    lep = Lep(
        model=name,
        fingerprint=fingerprint,
        kind="patch",
        stage="propagation",
        parents=parents,
        adapter="swap",
    )
    write_json(store.artifact(name, fingerprint) / LEP, lep.model_dump(mode="json"))


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A leaderboards/ folder of its own, in place of the checkout's."""
    folder = tmp_path / "checkout" / "leaderboards"
    folder.mkdir(parents=True)
    real = shipped_folder
    monkeypatch.setattr(
        files_module,
        "shipped_folder",
        lambda name: folder if name == "leaderboards" else real(name),
    )
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_folder_gets_everything_and_the_same_bytes_again(
    cli: Callable, out: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    answer = cli("publish", "--out", out, "--to", site, "--organisation", "Our Lab")
    assert answer.code == 0, answer.err
    assert "licence unknown: check before you publish: org/base, org/instruct" in answer.out
    assert "no .eval_results: the rows of these tasks are not data sets of the Hub" in answer.out
    found = files(site)
    kinds = [
        name for name in found if not name.startswith(("leaderboard/pictures/", "every_eval_ever/"))
    ]
    own = [f"leaderboard/{name}" for name in ("README.md", "results.jsonl", "table.csv")]
    assert kinds == ["README.md", *own, f"models/{NAMES[2]}/README.md"]
    records = [
        json.loads(text)
        for name, text in found.items()
        if name.startswith("every_eval_ever/data/mini/Our-Lab/")
    ]
    assert sorted(record["model_info"]["name"] for record in records) == sorted(NAMES)
    assert records[0]["evaluation_results"][0]["generation_config"]["generation_args"][
        "execution_command"
    ].startswith("lep-bench run --suite mini")
    assert ModelCard(found[f"models/{NAMES[2]}/README.md"].decode()).data.base_model == [
        "org/base",
        "org/instruct",
    ]
    assert all(
        (site / line.split("](")[1].split(")")[0]).is_file()
        for line in (site / "README.md").read_text().splitlines()
        if "](" in line
    )
    (site / "mine.txt").write_text("mine", encoding="utf-8")
    page = site / "leaderboard" / "README.md"
    page.write_text("Mine.\n\n" + page.read_text(encoding="utf-8"), encoding="utf-8")
    before = files(site)
    assert cli("publish", "--out", out, "--to", site, "--organisation", "Our Lab").code == 0
    assert files(site) == before


def test_a_dry_run_writes_nothing(cli: Callable, out: Path, tmp_path: Path) -> None:
    before = files(tmp_path)
    answer = cli("publish", "--out", out, "--to", tmp_path / "site", "--dry-run")
    assert (
        answer.code == 0
        and "leaderboard/results.jsonl" in answer.out
        and "nothing was written" in answer.out
    )
    assert files(tmp_path) == before and not (tmp_path / "site").exists()


def test_without_to_the_public_leaderboard_is_written_again(
    cli: Callable, out: Path, public: Path
) -> None:
    answer = cli("publish", "--out", out)
    assert answer.code == 0 and f"published:   {public}/mini/README.md" in answer.out, answer.err
    assert {"README.md", "results.jsonl", "table.csv"} <= set(
        os.listdir(public / "mini")
    ) and "models" not in os.listdir(public / "mini")
    assert publish.check_leaderboard(public / "mini") == []
    first = files(public)
    answer = cli("leaderboard", "--publish", "--out", out)
    assert answer.code == 0 and files(public) == first, answer.err


def test_models_choose_the_cards(cli: Callable, out: Path, tmp_path: Path) -> None:
    answer = cli("publish", "--out", out, "--to", tmp_path / "site", "--models", "*/extended/*")
    assert (
        answer.code == 0
        and f"no card, because their lep.json is not in {out}: {NAMES[1]}" in answer.out
    )
    records = [name for name in files(tmp_path / "site") if name.startswith("every_eval_ever")]
    assert len(records) == 2 and (tmp_path / "site" / "models" / NAMES[2] / "README.md").is_file()
    answer = cli(
        "publish", "--out", out, "--to", tmp_path / "site", "--models", "mini-llama/extended/swpa"
    )
    assert (
        answer.code == 2
        and answer.err.count("\n") == 1
        and "did you mean mini-llama/extended/swap" in answer.err
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--upload",), "--upload needs a Hub repository"),
        (("--upload", "--to", "./site"), "--upload needs a Hub repository"),
        (("--models", "*"), "give --to"),
        (("--to", " "), "--to is empty"),
        (("--to", "./taken/site"), "is a file, a folder is needed"),
        (("--to", "org/name", "--upload"), "no Hub token"),
        (
            ("--to", "org/name", "--repo-type", "model", "--models", "mini-llama/instruct"),
            "takes one card; these are 0 cards",
        ),
        (("--to", "./new", "--repo-type", "model"), "give it with --to ORGANISATION/NAME"),
        (("--to", "mine"), "README.md: needs"),
        (("--suite", "darumeru"), "no results of suite darumeru"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    cli: Callable,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "taken").write_text("x", encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("# My repository\n", encoding="utf-8")
    before = files(tmp_path)
    answer = cli("publish", "--out", out, *options)
    assert answer.code == 2 and said in answer.err and answer.err.count("\n") == 1, answer.err
    assert files(tmp_path) == before


def test_only_limited_results_are_not_published(cli: Callable, out: Path, tmp_path: Path) -> None:
    given = Session.read("mini", tmp_path / "short", None, limit=3)
    record, task, key = given.plan(["mini-llama/instruct"]).expected[0]
    whole = next(
        r for r in Store(out).read_all("mini") if (r.model.name, r.task) == (record.name, task)
    )
    limited = whole.model_copy(
        update={"key": key, "scoring": whole.scoring.model_copy(update={"limit": 3}), "samples": 3}
    )
    given.store.write(limited, Store(out).read_samples(whole)[:3])
    answer = cli("publish", "--out", tmp_path / "short", "--to", tmp_path / "site")
    assert answer.code == 2 and "--limit" in answer.err and not (tmp_path / "site").exists()


def test_a_repository_is_written_to_a_folder_first(
    cli: Callable, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = cli("publish", "--out", out, "--to", "org/site")
    assert answer.code == 0 and "nothing was uploaded" in answer.out and "./org/site" in answer.out
    assert (out / "mini" / "publish" / "leaderboard" / "README.md").is_file() and not (
        tmp_path / "org"
    ).exists()
    (tmp_path / "org" / "site").mkdir(parents=True)
    assert cli("publish", "--out", out, "--to", "org/site").code == 0
    assert (tmp_path / "org" / "site" / "README.md").is_file()


def test_an_upload_sends_what_was_written_and_nothing_else(
    cli: Callable, out: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = serve()
    monkeypatch.setenv("HF_TOKEN", "hf_key")
    staged = out / "mini" / "publish"
    mine = {"secret.txt", "leaderboard/secret.txt"}
    (staged / "leaderboard").mkdir(parents=True)
    for name in mine:
        (staged / name).write_text("x", encoding="utf-8")
    assert (
        cli("publish", "--out", out, "--to", "org/x", "--upload", "--dry-run").code == 0
        and not seen
    )
    answer = cli("publish", "--out", out, "--to", "org/x", "--upload")
    assert answer.code == 0 and f"uploaded:    {url}/datasets/org/x" in answer.out, answer.err
    assert json.loads(seen[0][2])["visibility"] == "private" and "hf_key" not in answer.out
    assert set(committed(seen.pop()[2])) == files(staged).keys() - mine
    answer = cli(
        "publish",
        "--out",
        out,
        "--to",
        "org/x",
        "--upload",
        "--repo-type",
        "model",
        "--models",
        NAMES[2],
    )
    assert answer.code == 0, answer.err
    assert seen[-1][0] == "/api/models/org/x/commit/main" and committed(seen[-1][2]) == [
        "README.md"
    ]


def committed(body: bytes) -> list[str]:
    return [json.loads(line)["value"]["path"] for line in body.splitlines() if b'"file"' in line]


def test_pages_are_put_below_their_folder(tmp_path: Path) -> None:
    from lep_bench.errors import LepBenchError

    for path in ("../x", "/x", "a/../../x"):
        with pytest.raises(LepBenchError, match="refused"):
            release.put_file(tmp_path, path, "x")
