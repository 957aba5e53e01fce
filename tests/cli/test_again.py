"""What a run leaves behind: the command that makes it again, whose rows they are, why some failed,
and the check of its pages.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from lep_bench import files
from lep_bench.leaderboard import release
from lep_bench.pipeline.board import make_scored_run
from lep_bench.pipeline.session import Session
from lep_bench.records.store import read_result

BASE = files.builtin_checkpoints() / "mini-llama" / "base"
pytestmark = pytest.mark.skipif(not BASE.is_dir(), reason="no shipped checkpoints")
SUITE = """title: P
tasks: [mini_facts_ru, mini_copy_ru, darumeru_parus]
protocol: strict
metadata: {prompt_characters: 6000}
mean: {kind: plain, tasks: {mini_facts_ru: 0.25}}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two checkpoints of one name, a suite, and rows whose prompts are too long for
    them.
    """
    for name in ("one", "two"):
        shutil.copytree(BASE, tmp_path / name / "model")
    config = tmp_path / "two" / "model" / "generation_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text(encoding="utf-8")), "temperature": 0.5}),
        encoding="utf-8",
    )
    (tmp_path / "configs" / "suites").mkdir(parents=True)
    (tmp_path / "configs" / "suites" / "p.yaml").write_text(SUITE, encoding="utf-8")
    for split, answer in (("test", "Ответ:"), ("prompt", "Ответ: 1")):
        messages = [
            {"role": "user", "content": "{premise} 1. {choice1} 2. {choice2}"},
            {"role": "bot", "content": answer},
        ]
        inputs = {
            "premise": "Дождь шёл семь дней. " * 30,
            "choice1": "Река вышла из берегов.",
            "choice2": "Трава засохла.",
        }
        row = {
            "messages": messages,
            "inputs": inputs,
            "outputs": "1",
            "meta": {"id": 1, "task": "effect"},
        }
        (tmp_path / "data" / "parus").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "parus" / f"{split}.jsonl").write_text(
            json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEP_BENCH_DATA", "")
    return tmp_path


def made_again(page: Path) -> list[str]:
    """The commands of a page."""
    lines = page.read_text(encoding="utf-8").split("### Reproduce")[1].splitlines()
    return [line.partition("    # ")[0] for line in lines if line.startswith("lep-bench run")]


def test_a_run_leaves_its_command_and_its_failures_once(cli, place: Path) -> None:
    typed = [
        "--suite",
        "p",
        "--models",
        "./one/model",
        "--engine",
        "hf",
        "--tasks",
        "mini_facts_ru,darumeru_parus",
        "--limit",
        "2",
    ]
    typed += ["--data", "data", "--configs", "configs"]
    done = cli("run", *typed, "--out", "out", "--workers", 1)
    page = place / "out" / "p" / "leaderboard" / "README.md"
    assert done.code == 1 and made_again(page) == [shlex.join(["lep-bench", "run", *typed])], (
        done.err
    )
    said = " ".join((done.out + done.err).split())
    assert (
        said.count("do not fit the model's 256 positions") == 1
        and "darumeru_parus: failed: darumeru_parus:" not in said
    )
    suite = place / "configs" / "suites" / "p.yaml"
    assert (
        "1 cell failed" in done.err
        and f"{Path('configs', 'suites', 'p.yaml')}:4: metadata.prompt_characters" in done.err
    ), suite
    assert (
        cli(
            "leaderboard", "--suite", "p", "--configs", "configs", "--data", "data", "--out", "out"
        ).code
        == 0
    )
    assert made_again(page) == [shlex.join(["lep-bench", "run", *typed])], (
        "the results alone say it"
    )

    assert cli("leaderboard", "--check", "--out", "out").code == 0
    page.write_text(
        page.read_text(encoding="utf-8").replace("mini_facts_ru", "mini_facts_en"), encoding="utf-8"
    )
    done = cli("leaderboard", "--check", "--out", "out")
    assert (
        done.code == 1
        and str(Path("out", "p", "leaderboard", "README.md")) in done.out
        and "--out out writes them again" in done.err
    )
    assert cli("leaderboard", "--check", "--out", "nothing").code == 2

    other = cli("run", *typed[:3], "two/model", *typed[4:], "--out", "out")
    assert other.code == 2 and other.err.count("\n") == 1, other.err
    assert (
        f"results of local/model from {place / 'one' / 'model'}, those of "
        f"{place / 'two' / 'model'} would take their place"
    ) in other.err
    (place / "second").symlink_to(place / "two" / "model")
    assert cli("run", *typed[:3], "second", *typed[4:], "--out", "out", "--dry-run").code == 0
    shutil.move(place / "one", place / "moved")
    assert (
        cli("run", *typed[:3], "moved/model", *typed[4:], "--out", "out", "--dry-run").code == 0
    ), "the same checkpoint elsewhere"

    session = Session.read("p", Path("out"), [Path("configs")])
    run = make_scored_run(session, [], [], None)
    results = [read_result(file) for file in (place / "out").rglob("results/**/*.json")]
    half = [
        r.model_copy(
            update={"scoring": r.scoring.model_copy(update={"dtype": "float16", "limit": None})}
        )
        for r in results
    ]
    assert len(release.reproduce_commands(run, [*results, *half])) == 2
    assert (
        "--dtype float16" in release.reproduce_commands(run, half)[0]
        and "--limit" not in release.reproduce_commands(run, half)[0]
    )


def test_a_run_of_all_models_needs_no_words(cli, place: Path) -> None:
    """The page of the mini suite names `--models all` without any option, as it did before commands
    were kept.
    """
    from lep_bench.leaderboard import publish

    folder = files.shipped_folder("leaderboards") / "mini"
    held = publish.read_leaderboard(folder)
    given = Session.read("mini", Path("no-results"), None)
    names = {row.model for row in held.rows}
    assert (
        held.commands == ()
        and {record.name for record, _, _ in given.plan(["all"]).expected} <= names
    )
