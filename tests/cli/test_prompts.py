"""`lep-bench prompts` as a user meets it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lep_bench import files
from lep_bench.testing import pico

ROW = {
    "messages": [
        {"role": "user", "content": 'Дано: "{premise}" 1. {choice1} 2. {choice2} Что следствие?'},
        {"role": "bot", "content": "Ответ:"},
    ],
    "inputs": {"premise": "Лиса бежит.", "choice1": "Она устала.", "choice2": "Холм спит."},
    "outputs": "1",
    "meta": {"id": 1, "task": "effect"},
}
SHOT = {
    "messages": [
        {"role": "user", "content": "Дано: пример"},
        {"role": "bot", "content": "Ответ: 2"},
    ],
    "inputs": {},
    "outputs": "2",
    "meta": {"id": 9, "task": "effect"},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows of PARus: two test rows, five shots."""
    folder = tmp_path / "rows" / "parus"
    folder.mkdir(parents=True)
    for split, rows in {
        "test": [ROW, {**ROW, "meta": {"id": 2, "task": "effect"}}],
        "prompt": [SHOT] * 5,
    }.items():
        (folder / f"{split}.jsonl").write_text(
            "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
        )
    return tmp_path / "rows"


def test_a_row_is_shown_as_the_model_reads_it(cli: Callable) -> None:
    answer = cli("prompts", "mini-llama/instruct", "mini_facts_ru", "-n", 1, "--ids")
    assert answer.code == 0 and not answer.err
    for part in (
        "mini-llama/instruct, mini_facts_ru, as suite mini asks (protocol greedy)",
        (
            "asked in the model's own chat template, 0 shots; BOS <|begin_of_text|> (1000), 256 "
            "positions"
        ),
        "── row 0 · ",
        "  user  Вопрос:",
        "<|start_header_id|>assistant<|end_header_id|>↵",
        "1000›<|begin_of_text|>  1006›<|start_header_id|>  616›user",
        "  the log-probability of ",
        "300 prompts of 300 rows proven: BOS once, every message in its place, ids as the "
        "model's own chat template gives them, "
        "the model's turn opened, none too long",
    ):
        assert part in answer.out, part
    assert "row 1" not in answer.out


def test_models_by_folder_and_builtin_name(cli: Callable, tmp_path: Path) -> None:
    base, instruct = pico.family(tmp_path, kind="sentencepiece")
    for file in base.glob("*.safetensors"):  # a tokenizer is enough
        file.unlink()
    plain = cli("prompts", base, "mini_copy_en", "-n", 1)
    assert (
        plain.code == 0
        and "asked in plain text" in plain.out
        and "at most 64 tokens, until" in plain.out
    )
    chat = cli("prompts", instruct, "mini_copy_en", "-n", 0)
    assert chat.code == 0 and "chat template" in chat.out and "row 0" not in chat.out
    running = cli("prompts", "builtin:mini-mistral/instruct", "mini_text_ru", "-n", 1)
    assert (
        running.code == 0 and "running text" in running.out and "chat template" not in running.out
    )


def test_faults_are_one_line_each_and_end_with_1(cli: Callable, tmp_path: Path) -> None:
    _, model = pico.family(tmp_path)
    template = model / "chat_template.jinja"
    template.write_text(
        template.read_text(encoding="utf-8").replace(
            "m['content']", "'' if m['role'] == 'user' else m['content']"
        ),
        encoding="utf-8",
    )
    answer = cli("prompts", model, "mini_facts_en", "-n", 0)
    assert answer.code == 1
    lines = answer.err.splitlines()
    assert lines[0].startswith(
        "task mini_facts_en, row 0: the user's text, message 1 of 1, is not in the prompt in "
        "its place: 'Question:"
    )
    assert (
        len(lines) == 21
        and lines[-1] == "... and 280 more"
        and "300 prompts of 300 rows: 300 faults, listed above" in answer.out
    )


def test_chat_rows_shots_and_their_shortage(cli: Callable, data: Path) -> None:
    shown = cli("prompts", "mini-llama/instruct", "darumeru_parus", "--data", data, "-n", 1)
    assert shown.code == 0, shown.err
    assert (
        "(protocol strict)" in shown.out
        and "row 0 · prompt 2 of 2" in shown.out
        and "1. Холм спит. 2. Она устала." in shown.out
    )
    assert (
        "4 prompts of 2 rows proven: BOS once, every message in its place, ids as the model's "
        "own chat template"
    ) in shown.out
    fits = cli(
        "prompts",
        "mini-llama/base",
        "darumeru_parus",
        "--data",
        data,
        "--suite",
        "paper",
        "--shots",
        2,
        "-n",
        1,
    )
    assert (
        fits.code == 0
        and "the listed format non_instruct_simple, 2 shots" in fits.out
        and "2 of 2 shots" in fits.out
    ), fits.err
    long = [
        SHOT | {"messages": [{"role": "user", "content": "лиса " * 150}, SHOT["messages"][1]]}
    ] * 5
    (data / "parus" / "prompt.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in long), encoding="utf-8"
    )
    short = cli(
        "prompts", "mini-llama/base", "darumeru_parus", "--data", data, "--suite", "paper", "-n", 0
    )
    assert (
        short.code == 1
        and short.err.splitlines()[0] == "task darumeru_parus, row 0: 0 of 5 shots fit"
    )
    assert (
        "2 of 2 rows asked with fewer shots than wanted, as more did not fit (10 of 10 shots "
        "left out)"
    ) in short.out
    # Strict chooses shots by characters, alike for every model: as in a run, that is no fault.
    suite = files.shipped_folder("configs") / "suites" / "darumeru.yaml"
    (data / "suites").mkdir()
    strict = suite.read_text(encoding="utf-8").replace(
        "prompt_characters: 6000", "prompt_characters: 800, max_length: 4096"
    )
    (data / "suites" / "short.yaml").write_text(strict, encoding="utf-8")
    chosen = cli(
        "prompts",
        "mini-llama/base",
        "darumeru_parus",
        "--data",
        data,
        "--suite",
        "short",
        "--configs",
        data,
        "--shots",
        1,
        "-n",
        0,
    )
    assert (
        chosen.code == 0
        and "2 of 2 shots left out by the rules, for every model alike" in chosen.out
    ), chosen.err
    assert "all shots there" not in chosen.out


def test_a_tokenizer_without_a_template_is_told_what_to_choose(
    cli: Callable, data: Path, tmp_path: Path
) -> None:
    model = pico.family(tmp_path / "pico")[0]
    for suite, form, choice in (
        (
            "darumeru",
            "asked in plain text, 5 shots",
            "ask under protocol paper with `conversation: FORMAT` in configs/baselines/NAME.yaml",
        ),
        (
            "paper",
            "asked in the listed format non_instruct_simple, 5 shots",
            "or `conversation: FORMAT` in configs/baselines/NAME.yaml",
        ),
    ):
        told = cli(
            "prompts",
            model,
            "darumeru_parus",
            "--data",
            data,
            "--suite",
            suite,
            "--shots",
            0,
            "-n",
            0,
        )
        assert form.split(",")[0] in told.out and choice in told.out, told.out + told.err
        assert (
            "this tokenizer has no chat template" in told.out
            and "FORMAT one of llama3, llama3_no_system, openchat_3.5_1210" in told.out
        )
    base = cli("prompts", "mini-llama/base", "mini_facts_ru", "-n", 0)
    assert (
        base.code == 0
        and "has no chat template and needs none: suite mini asks base models without" in base.out
    )


def test_mistakes_are_one_line(cli: Callable, tmp_path: Path) -> None:
    for arguments, message in {
        ("mini-lama/instruct", "mini_copy_ru"): "did you mean mini-llama/instruct",
        ("mini-llama/instruct", "mini_copy"): "unknown task 'mini_copy'",
        ("mini-llama/extended/swap", "mini_copy_ru", "--out", tmp_path): "is not built yet in",
        ("mini-llama/*", "mini_copy_ru"): "give one of",
        ("mini-llama/instruct", "mini_copy_ru", "--suite", "minni"): "unknown suite 'minni'",
        (
            "mini-llama/instruct",
            "darumeru_rcb",
            "--suite",
            "mini",
        ): "suite mini has no task darumeru_rcb; it has mini_facts_ru,",
    }.items():
        answer = cli("prompts", *arguments)
        assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1, (
            answer.err
        )


def test_a_built_in_checkpoint_copied_elsewhere_reads_the_same(
    cli: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "copied"
    shutil.copytree(files.builtin_checkpoints() / "mini-mistral" / "instruct", folder)
    ours, copied = (
        cli("prompts", model, "mini_facts_ru", "-n", 2)
        for model in ("mini-mistral/instruct", folder)
    )
    assert ours.code == copied.code == 0
    assert ours.out.split("── row 0", 1)[1] == copied.out.split("── row 0", 1)[1]
