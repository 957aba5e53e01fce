"""lep-bench.yaml: options that need not be repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lep_bench import files
from lep_bench.cli.project import FILE, OPTIONS
from lep_bench.config.schema import Project

ADAPTER = '''
from lep_bench.plugin import Params, propagation

@propagation("{name}")
def method(problem, params: Params):
    """Nothing is moved. Source: nobody."""
    return lambda rows, ids: rows
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a suite `mine`, adapters in two folders, and a project file."""
    folder = tmp_path / "work"
    (folder / "my-configs" / "suites").mkdir(parents=True)
    mini = (files.shipped_folder("configs") / "suites" / "mini.yaml").read_text(encoding="utf-8")
    text = mini.replace("families: [mini-llama, mini-mistral]", "families: [mini-llama]")
    (folder / "my-configs" / "suites" / "mine.yaml").write_text(text, encoding="utf-8")
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / f"{name}.py").write_text(ADAPTER.format(name=name), encoding="utf-8")
    write(folder, suite="mine", out="results", configs="my-configs", adapters=["first", "second"])
    monkeypatch.chdir(folder)
    return folder


def write(folder: Path, **values: object) -> None:
    (folder / FILE).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def test_every_key_is_an_option() -> None:
    assert set(OPTIONS) == set(Project.model_fields)


def test_list_takes_suite_configs_and_adapters_from_the_file(cli, project: Path) -> None:
    answer = cli("list", "models")
    assert "of suite mine" in answer.err
    assert "mini-llama/bpe/first" in answer.out and "mini-llama/bpe/second" in answer.out
    assert "mini-mistral" not in answer.out
    assert "my-configs/suites/mine.yaml" not in answer.out and "mine" in cli("list", "suites").out


def test_flags_win(cli, project: Path) -> None:
    answer = cli("list", "models", "--suite", "mini", "--adapters", "second")
    assert "of suite mini" in answer.err and "mini-mistral/base" in answer.out
    assert "mini-llama/bpe/second" in answer.out and "mini-llama/bpe/first" not in answer.out


def test_a_run_says_what_it_takes_from_the_file(cli, project: Path) -> None:
    answer = cli("run", "--models", "mini-llama/base", "--dry-run", "--adapters", "first")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0] == (
        "project: lep-bench.yaml: --suite mine --out results --configs my-configs"
    )
    assert "project:" not in cli("list", "models").out


def test_leaderboard_reads_the_files_out_folder(cli, project: Path) -> None:
    answer = cli("leaderboard")
    assert answer.code == 2
    assert answer.err.startswith("error: no results of suite mine in results")


def test_arguments_of_the_same_name_are_left_alone(cli, project: Path) -> None:
    """`vocabulary METHOD BASE OUT`: OUT is no --out."""
    answer = cli("vocabulary", "bpe", "builtin:mini-llama/base")
    assert answer.code == 2 and "OUT" in answer.err


def test_commands_with_a_suite_of_their_own_keep_it(cli, project: Path) -> None:
    write(project, suite="mini")
    assert cli("reproduce", "--json").code == 0
    assert "--offline" not in cli("doctor").err


@pytest.mark.parametrize("place", ["work", "work/lep-bench.yaml"])
def test_paths_are_relative_to_the_file(
    cli, project: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (project.parent / "elsewhere").mkdir()
    monkeypatch.chdir(project.parent / "elsewhere")
    answer = cli("list", "models", "--project", f"../{place}")
    assert answer.code == 0, answer.err
    assert "of suite mine" in answer.err and "mini-llama/bpe/first" in answer.out
    run = cli("--project", f"../{place}", "run", "--models", "mini-llama/base", "--dry-run")
    assert "--out ../work/results --configs ../work/my-configs" in run.out.splitlines()[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("out: runs\nsuit: mine\n", (":2: suit: ", "did you mean suite")),
        ("suite: [mine]\n", (":1: suite: ",)),
        ("\nconfigs: {a: b}\n", (":2: configs",)),
        ("- suite\n", (":1: ", "suite, out, configs, adapters, tasks, data")),
        ("suite: 'mine\n", (": not valid YAML",)),
    ],
)
def test_a_mistake_is_one_line_with_file_and_line(
    cli, project: Path, text: str, words: tuple[str, ...]
) -> None:
    (project / FILE).write_text(text, encoding="utf-8")
    answer = cli("list", "models")
    assert answer.code == 2 and answer.err.count("\n") == 1, answer.err
    assert answer.err.startswith("error: lep-bench.yaml:")
    assert all(word in answer.err for word in words), answer.err


@pytest.mark.parametrize("place", ["nowhere", "first", "first/other.yaml"])
def test_a_project_that_is_not_there_is_refused(cli, project: Path, place: str) -> None:
    answer = cli("--project", place, "list", "models")
    assert answer.code == 2 and f"--project {place}: there is no lep-bench.yaml" in answer.err
