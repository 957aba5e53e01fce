"""What `lep-bench new` writes works at once."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from lep_bench import plugin
from lep_bench.config.load import Configs
from lep_bench.plugin import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_works_and_its_test_passes(cli, kind: str, tmp_path: Path) -> None:
    answer = cli("new", "adapter", "my-method", "--kind", kind, "--to", tmp_path)
    assert answer.code == 0, answer.err
    found = plugin.discover_adapters([tmp_path]).get(kind, "my-method")
    assert found.adapter.params() is not None and "ource" in found.adapter.doc
    assert "my-method" in cli("list", "adapters", "--adapters", tmp_path).out
    # Called here, not by another pytest: importing torch again would take longer than the test.
    runpy.run_path(str(tmp_path / "test_my_method.py"))["test_my_method"]()


def test_a_new_propagation_method_gives_models(cli, tmp_path: Path) -> None:
    cli("new", "adapter", "my-method", "--to", tmp_path)
    assert (
        "mini-llama/extended/my-method"
        in cli("list", "models", "mini-llama/*/my-method", "--adapters", tmp_path).out
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [("conversion", "already"), ("a+b", "+"), ("../x", "not usable"), ("class", "")],
)
def test_names_that_cannot_be_are_refused(cli, name: str, words: str, tmp_path: Path) -> None:
    answer = cli("new", "adapter", name, "--to", tmp_path / "new")
    if words:
        assert answer.code == 2 and words in answer.err and not (tmp_path / "new").exists()
    else:
        assert answer.code == 0 and plugin.discover_adapters([tmp_path / "new"]).get(
            "propagation", name
        )


def test_nothing_of_the_users_is_overwritten(cli, tmp_path: Path) -> None:
    (tmp_path / "my_method.py").write_text("mine", encoding="utf-8")
    answer = cli("new", "adapter", "my-method", "--to", tmp_path)
    assert answer.code == 2 and "exists already" in answer.err
    assert (tmp_path / "my_method.py").read_text(encoding="utf-8") == "mine"


def checkpoint(folder: Path, width: int = 64) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "hidden_size": width, "num_hidden_layers": 2}),
        encoding="utf-8",
    )
    return folder


def test_a_new_family_with_donors_gives_models(cli, tmp_path: Path) -> None:
    base, instruct, donor = (checkpoint(tmp_path / name) for name in ("base", "instruct", "donor"))
    to = tmp_path / "configs"
    donors = ("--donor", f"extended={donor}", "--donor", "bpe=some/repo")
    answer = cli(
        "new", "family", "mine", "--base", base, "--instruct", instruct, *donors, "--to", to
    )
    assert answer.code == 0, answer.err
    family = Configs.of([to]).family("mine")
    assert (
        family.base,
        family.vocabularies["extended"].donor,
        family.vocabularies["bpe"].donor,
    ) == (str(base), str(donor), "some/repo")
    listed = cli("list", "models", "all", "--suite", "mine", "--configs", to)
    assert (
        listed.code == 0
        and "mine/extended/conversion" in listed.out
        and "mine/bpe/swap" in listed.out
    )


def test_paths_typed_from_here_hold_in_a_yaml_elsewhere(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "instruct", "donor"):
        checkpoint(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    answer = cli(
        "new",
        "family",
        "mine",
        "--base",
        "./base",
        "--instruct",
        "instruct",
        "--donor",
        "bpe=./donor",
        "--to",
        "deep/configs",
    )
    assert answer.code == 0, answer.err
    monkeypatch.chdir("/")
    family = Configs.of([tmp_path / "deep/configs"]).family("mine")
    assert (family.base, family.instruct) == (str(tmp_path / "base"), str(tmp_path / "instruct"))
    assert family.vocabularies["bpe"].donor == str(tmp_path / "donor")


def test_a_new_family_with_a_text_is_trained_here(cli, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("текст\n", encoding="utf-8")
    answer = cli(
        "new",
        "family",
        "mine",
        "--base",
        "a/b",
        "--instruct",
        "a/c",
        "--corpus",
        tmp_path / "text.txt",
        "--to",
        tmp_path / "configs",
    )
    assert answer.code == 0, answer.err
    family = Configs.of([tmp_path / "configs"]).family("mine")
    assert (
        family.pretraining is not None
        and "original" in family.vocabularies
        and family.corpus == str(tmp_path / "text.txt")
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--donor"),
        (("--donor", "extended"), "VOCABULARY=PATH_OR_HUB_ID"),
        (("--donor", "extended=/no/such"), "/no/such"),
    ],
)
def test_a_family_that_cannot_work_is_refused_and_not_written(
    cli, arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    answer = cli(
        "new",
        "family",
        "mine",
        "--base",
        "a/b",
        "--instruct",
        "a/c",
        *arguments,
        "--to",
        tmp_path / "configs",
    )
    assert answer.code == 2 and words in answer.err
    assert not list((tmp_path / "configs").rglob("*.yaml"))


def test_models_of_different_shapes_are_refused(cli, tmp_path: Path) -> None:
    base, instruct = checkpoint(tmp_path / "base"), checkpoint(tmp_path / "instruct", width=128)
    answer = cli(
        "new",
        "family",
        "mine",
        "--base",
        base,
        "--instruct",
        instruct,
        "--donor",
        "bpe=a/b",
        "--to",
        tmp_path / "configs",
    )
    assert answer.code == 2 and "hidden size 64 and 128" in answer.err


def test_a_name_that_is_taken_is_refused(cli, tmp_path: Path) -> None:
    answer = cli(
        "new",
        "family",
        "mini-llama",
        "--base",
        "a/b",
        "--instruct",
        "a/c",
        "--donor",
        "bpe=a/d",
        "--to",
        tmp_path,
    )
    assert answer.code == 2 and "already" in answer.err


def test_a_new_task_is_listed_and_can_be_asked(cli, tmp_path: Path) -> None:
    from lep_bench.config.schema import Conversation
    from lep_bench.evaluate.lmeval import compile_task
    from lep_bench.testing import pico

    answer = cli("new", "task", "my-questions", "--to", tmp_path / "tasks")
    assert answer.code == 0, answer.err
    assert "my-questions" in cli("list", "tasks", "--tasks-dir", tmp_path / "tasks").out
    base, _ = pico.family(tmp_path / "pico")
    compiled = compile_task(
        "my-questions", base, Conversation(format="plain"), task_folders=[tmp_path / "tasks"]
    )
    assert (
        [item.group for item in compiled.items] == ["colours", "numbers"]
        and compiled.primary == "acc"
        and len(compiled.requests) == 6
    )


def test_a_shipped_tasks_name_is_refused(cli, tmp_path: Path) -> None:
    answer = cli("new", "task", "mini_facts_ru", "--to", tmp_path)
    assert answer.code == 2 and "already" in answer.err
