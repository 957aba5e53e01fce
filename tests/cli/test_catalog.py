"""`lep-bench list`, and how mistakes are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from lep_bench import files


def test_adapters_lists_kind_name_origin_and_first_docstring_line(cli) -> None:
    answer = cli("list", "adapters")
    assert answer.code == 0
    line = next(line for line in answer.out.splitlines() if line.split()[1:2] == ["conversion"])
    assert line.split()[0] == "propagation" and "shipped" in line and "Linear map" in line


def test_models_marks_what_all_means(cli) -> None:
    every, usual = cli("list", "models"), cli("list", "models", "all")
    assert every.code == usual.code == 0
    rows = [line.split() for line in every.out.splitlines()[1:]]
    listed = [row[0] for row in rows]
    assert (
        "mini-llama/extended/conversion+self-calibration" in listed
        and "mini-mistral/base" in listed
    )
    assert "mini-mistral/optimized/conversion" not in listed
    marked = [row[0] for row in rows if row[-1] == "yes"]
    assert marked == [line.split()[0] for line in usual.out.splitlines()[1:]]
    # Swap is followed by no tuning in the families' configs: derived, and left out of `all`.
    assert "mini-llama/bpe/swap+self-calibration" in set(listed) - set(marked)


def test_models_takes_a_pattern(cli) -> None:
    answer = cli("list", "models", "mini-llama/*/conversion")
    names = [line.split()[0] for line in answer.out.splitlines()[1:]]
    assert names == [
        f"mini-llama/{v}/conversion" for v in ("bpe", "unigram", "extended", "optimized")
    ]


def test_families_and_tasks_are_listed(cli) -> None:
    assert "builtin:mini-llama/instruct" in cli("list", "families").out
    tasks = cli("list", "tasks")
    assert tasks.code == 0
    row = next(line for line in tasks.out.splitlines() if line.startswith("mini_facts_ru"))
    assert "mini" in row.split()[2:]


def test_suites_are_listed_with_their_families(cli) -> None:
    rows = {line.split()[0]: line for line in cli("list", "suites").out.splitlines()}
    assert "mini-llama, mini-mistral" in rows["mini"] and "paper" in rows


def test_paths_prints_a_bare_path_for_scripts(cli) -> None:
    assert cli("list", "paths", "tasks").out.strip() == str(files.shipped_folder("tasks"))
    everything = cli("list", "paths").out
    assert all(name in everything for name in files.FOLDERS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list", "models", "mini-lama/*/conversion"), ("mini-lama", "did you mean")),
        (("list", "models", "--suite", "minni"), ("unknown suite 'minni'", "did you mean mini")),
        (("list", "models", "--configs", "/no/such/folder"), ("/no/such/folder", "no such folder")),
        (
            ("list", "adapters", "--adapters", "/no/such/folder"),
            ("/no/such/folder", "no such folder"),
        ),
        (("list", "paths", "cellar"), ("cellar", "adapters, tasks, configs")),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    cli, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    answer = cli(*arguments)
    assert answer.code == 2
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1
    assert all(word in answer.err for word in words), answer.err


def test_a_wrong_key_in_a_config_is_told_with_file_and_line(cli, tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    text = (files.shipped_folder("configs") / "suites" / "mini.yaml").read_text(encoding="utf-8")
    (tmp_path / "suites" / "mini.yaml").write_text(text + "protocoll: greedy\n", encoding="utf-8")
    answer = cli("list", "models", "--configs", tmp_path)
    line = len(text.splitlines()) + 1
    assert (
        answer.code == 2
        and f"mini.yaml:{line}: protocoll" in answer.err
        and "protocol" in answer.err
    )


def test_an_adapter_that_cannot_be_imported_is_told_with_file_and_line(cli, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import os\n\nraise RuntimeError('not today')\n", encoding="utf-8"
    )
    answer = cli("list", "adapters", "--adapters", tmp_path)
    assert answer.code == 2 and "broken.py:3: RuntimeError: not today" in answer.err
