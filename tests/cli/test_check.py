"""`lep-bench check`: findings as lines, one closing line per folder, exit code 1 on errors only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lep_bench import files

MINI = files.builtin_checkpoints() / "mini-llama" / "instruct"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "model"))


def edit(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_sound_models(cli: Callable) -> None:
    answer = cli("check", "builtin:mini-llama/base", MINI)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        "builtin:mini-llama/base: sound: 0 errors, 0 warnings",
        f"{MINI}: sound: 0 errors, 0 warnings",
    ]


def test_warnings_are_no_failure(cli: Callable, model: Path) -> None:
    edit(model / "generation_config.json", eos_token_id=1001)
    answer = cli("check", model)
    assert answer.code == 0
    first, last = answer.out.splitlines()
    assert first.startswith(
        f"warning: {model}: the chat template ends an answer with '<|eot_id|>' (1009), which "
        "is not among the ends [1001]; "
    )
    assert (
        first.endswith("add it to eos_token_id in generation_config.json")
        and last == f"{model}: sound: 0 errors, 1 warning"
    )


def test_errors_and_folders_that_cannot_be_read_end_with_1(
    cli: Callable, model: Path, tmp_path: Path
) -> None:
    edit(model / "config.json", vocab_size=1000)
    empty = tmp_path / "empty"
    empty.mkdir()
    answer = cli("check", empty, model, "builtin:mini-llama/base")
    assert answer.code == 1
    assert answer.out.splitlines() == [
        f"error: {empty} is no checkpoint: it has no config.json",
        f"{empty}: not sound: 1 error, 0 warnings",
        (
            f"error: {model}: config.json says vocab_size 1000, the embedding has 1024 rows; set "
            "vocab_size to the rows"
        ),
        (
            f"error: {model}: config.json says vocab_size 1000, the head has 1024 rows; set "
            "vocab_size to the rows"
        ),
        f"{model}: not sound: 2 errors, 0 warnings",
        "builtin:mini-llama/base: sound: 0 errors, 0 warnings",
    ]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("/no/where", "no such folder"),
        ("builtin:mini-lama/base", "did you mean"),
        ("some/model", "Hub"),
    ],
)
def test_a_name_that_is_nothing_is_a_mistake(cli: Callable, place: str, words: str) -> None:
    answer = cli("check", place)
    assert answer.code == 2 and words in answer.err and answer.out == ""
