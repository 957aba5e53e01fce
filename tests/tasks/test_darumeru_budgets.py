"""Prompts that are too long: shots dropped, prompts cut, rows left out; and the tasks under
lm-eval's own evaluator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import darumeru_folder
import pytest

from lep_bench import files


def load(names: list[str], **metadata: Any) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(
        include_path=str(files.shipped_folder("tasks")), include_defaults=False, metadata=metadata
    ).load(names)


def task_of(name: str, **metadata: Any) -> Any:
    return load([f"darumeru_{name}"], **metadata)["tasks"][f"darumeru_{name}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return darumeru_folder.build(tmp_path_factory.mktemp("rows"), list(task_of("mmlu_ru").CONFIGS))


@pytest.fixture(autouse=True)
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEP_BENCH_DATA", str(folder))


def lengths(path: Path, texts: list[str]) -> list[int]:
    """Tokens with the tokenizer's own BOS, by transformers."""
    from transformers import PreTrainedTokenizerFast

    return [
        len(ids) for ids in PreTrainedTokenizerFast.from_pretrained(str(path))(texts)["input_ids"]
    ]


@pytest.mark.parametrize("name", ["rcb", "rucola", "parus"])
def test_shots_that_do_not_stay_under_the_budget_are_dropped(
    name: str, tokenizers: dict[str, Path]
) -> None:
    for path in tokenizers.values():
        free = task_of(name, tokenizer=str(path), max_length=100_000)
        doc = free.eval_docs[0]
        whole = {k: free.fewshot_context(doc, k) for k in range(6)}
        tokens = {k: max(lengths(path, texts)) for k, texts in whole.items()}
        for kept in (0, 2, 4):
            # Strictly under: a prompt of exactly the budget's length does not fit. Budget = model -
            # 64 new tokens here.
            for budget, expected in ((tokens[kept + 1], kept), (tokens[kept + 1] + 1, kept + 1)):
                task = task_of(name, tokenizer=str(path), max_length=budget + 64)
                assert task.fewshot_context(doc, 5) == whole[expected], (name, path, budget)
                assert (task.asked(doc).shots, task.asked(doc).asked_shots) == (expected, 5)


def test_mmlu_loses_its_last_shots_first(tokenizers: dict[str, Path]) -> None:
    path = tokenizers["sentencepiece"]
    task = task_of("mmlu_ru", tokenizer=str(path), max_length=100_000)
    doc = task.eval_docs[0]
    (two,), (three,) = task.fewshot_context(doc, 2), task.fewshot_context(doc, 3)
    assert [n for n in range(5) if f"Вопрос {n} о" in two[: two.rindex("Вопрос")]] == [0, 1]
    task.max_length = lengths(path, [three])[0] + 64
    assert task.fewshot_context(doc, 5) == [two]
    task.max_length = 65  # no shot fits: then there is no headline, either
    assert not task.fewshot_context(doc, 5)[0].startswith("Ниже") and task.asked(doc).shots == 0


def test_the_budget_is_4000_however_long_the_model(tokenizers: dict[str, Path]) -> None:
    for path in tokenizers.values():
        task = task_of("rcb", tokenizer=str(path), max_length=100_000)
        doc = task.eval_docs[0]

        def grown(length: int, doc: Any = doc) -> dict[str, Any]:
            return {**doc, "inputs": {**doc["inputs"], "premise": "~" * length}}

        (before, base) = lengths(
            path, [*task.fewshot_context(grown(10), 1), *task.fewshot_context(grown(20), 1)]
        )
        each = (base - before) / 10  # tokens of a "~"
        size = 20 + round((4000 - base) / each)
        (length,) = lengths(path, task.fewshot_context(grown(size - 10), 1))
        assert length < 4000 and task.asked(grown(size - 10)).shots == 1
        task.fewshot_context(grown(size + 10), 1)
        assert task.asked(grown(size + 10)).shots == 0


@pytest.mark.parametrize(("name", "new"), [("rcb", 1), ("multiq", 64), ("sum_extractive", 1)])
def test_paper_cuts_on_the_left_what_the_model_cannot_read(
    name: str, new: int, tokenizers: dict[str, Path]
) -> None:
    for path in tokenizers.values():
        whole = task_of(name, tokenizer=str(path), max_length=100_000)
        doc = whole.eval_docs[0]
        (text,) = whole.fewshot_context(doc, 0)
        (length,) = lengths(path, [text])
        task = task_of(name, tokenizer=str(path), max_length=length - 20 + new)
        (cut,) = task.fewshot_context(doc, 0)
        requests = task.construct_requests(
            doc=doc, ctx=[cut], metadata=("t", 0, 1), apply_chat_template=False, chat_template=None
        )
        assert text.endswith(cut) and task.asked(doc).cut and task.asked(doc).shots == 0
        assert (
            task.asked(doc).conversations == whole.asked(doc).conversations
            and not whole.asked(doc).cut
        )
        for request in requests:
            if name == "multiq":
                assert lengths(path, [cut])[0] + request.args[1]["max_gen_toks"] <= task.max_length
                assert lengths(path, [cut])[0] + 64 >= task.max_length - 6
            else:
                assert lengths(path, [cut + request.args[1]])[0] - 1 <= task.max_length
    with pytest.raises(
        ValueError, match="1024 new tokens leave no room for a prompt in the model's 256 positions"
    ):
        task = task_of("copy_para_ru", tokenizer=str(path), max_length=256)
        task.fewshot_context(task.eval_docs[0], 0)


def test_strict_refuses_a_prompt_that_the_model_cannot_read(tokenizers: dict[str, Path]) -> None:
    for path in tokenizers.values():
        task = task_of("rcb", protocol="strict", tokenizer=str(path), max_length=12)
        with pytest.raises(
            ValueError,
            match=r"darumeru_rcb: .*test\.jsonl:1: its prompt of \d+ tokens .* the model's 12 positions: lower prompt_characters",
        ):
            task.fewshot_context(task.eval_docs[0], 0)


def test_strict_chooses_rows_and_shots_by_characters_alike_for_every_tokenizer(
    folder: Path, tmp_path: Path, tokenizers: dict[str, Path]
) -> None:
    rows = [darumeru_folder.row("rcb", n) for n in range(3)]
    rows[1]["inputs"]["premise"] = "ю" * 300
    darumeru_folder._lines(tmp_path / "rcb" / "test.jsonl", rows)
    darumeru_folder._lines(
        tmp_path / "rcb" / "prompt.jsonl", [darumeru_folder.row("rcb", n, True) for n in range(6)]
    )
    length = len("Ситуация: premise 0 Гипотеза: hypothesis 0Ответ:")
    shot = len("Ситуация: premise 0 Гипотеза: hypothesis 0Ответ: 2")
    for settings in (*({"tokenizer": str(path)} for path in tokenizers.values()), {}):
        task = task_of(
            "rcb",
            protocol="strict",
            data=str(tmp_path),
            max_length=100_000,
            prompt_characters=length + 2 * shot,
            **settings,
        )
        assert task.eval_docs == [rows[0], rows[2]] and task.left_out == ["row 1 (id 1)"]
        for chat in (False, True):
            task.fewshot_context(
                rows[0],
                5,
                apply_chat_template=chat,
                chat_template=(lambda m, add_generation_prompt: "x" * 9999) if chat else None,
            )
            assert task.asked(rows[0]).shots == 2
        task = task_of(
            "rcb",
            protocol="strict",
            data=str(tmp_path),
            max_length=100_000,
            prompt_characters=length + 2 * shot - 1,
            **settings,
        )
        task.fewshot_context(rows[0], 5)
        assert task.asked(rows[0]).shots == 1
    assert task_of("rcb", data=str(tmp_path)).left_out == []  # paper asks every row


def test_under_lm_evals_own_evaluator() -> None:
    """`lm_eval run --include_path tasks --tasks ... --limit 2`, in this process, on a mini
    model.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    model = str(files.builtin_checkpoints() / "mini-llama" / "instruct")
    names = [
        "DaruMMLU",
        "DaruCopy RU",
        "darumeru_rwsd",
        "darumeru_use",
        "darumeru_rucola",
        "darumeru_sum_extractive",
    ]
    arguments = {"pretrained": model, "dtype": "float32", "max_length": 2048}
    for protocol, chat in (("strict", False), ("paper", True)):
        manager = TaskManager(
            include_path=str(files.shipped_folder("tasks")),
            include_defaults=False,
            metadata={**arguments, "protocol": protocol},
        )
        tasks = (
            names
            if protocol == "strict"
            else [*names[:1], *names[2:], "darumeru_copy_sent_ru", "darumeru_multiq"]
        )
        found = simple_evaluate(
            model="hf",
            model_args=arguments,
            tasks=tasks,
            task_manager=manager,
            limit=2,
            apply_chat_template=chat,
            bootstrap_iters=0,
            device="cpu",
        )
        results = found["results"]
        mean = (
            sum(
                results[f"darumeru_{name}"]["score,none"]
                for name in ("rummlu", "mmlu_ru", "mmlu_en")
            )
            / 3
        )
        assert found["groups"]["DaruMMLU"]["score,none"] == pytest.approx(mean)
        assert len(found["samples"]["darumeru_rwsd"]) == 2
        for name, values in results.items():
            assert 0.0 <= values["score,none"] <= 1.0, name


def test_lm_eval_says_what_the_rules_did(
    tokenizers: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    for protocol, settings, said in (
        (
            "paper",
            {"max_length": 120},
            ["2 of 2 rows asked with fewer shots than wanted, as more did not fit"],
        ),
        (
            "strict",
            {"prompt_characters": 200, "max_length": 4096},
            ["2 of 2 rows asked with fewer shots"],
        ),
        ("paper", {"max_length": 4096}, []),
    ):
        caplog.clear()
        task = task_of(
            "rcb", protocol=protocol, tokenizer=str(tokenizers["byte-level"]), **settings
        )
        task.set_config("num_fewshot", 5)
        task.build_all_requests()
        found = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(found) == len(said) and all(
            f"darumeru_rcb: {part}" in line for part, line in zip(said, found, strict=True)
        ), found


@pytest.mark.parametrize("value", ["many", -5, 0, 2.5, True])
def test_settings_that_are_no_numbers_are_one_line(value: Any) -> None:
    for key in ("max_length", "prompt_characters"):
        with pytest.raises(
            ValueError,
            match=f"darumeru_rcb: {key} is {value!r} in the metadata: a whole number above 0 is "
            "needed",
        ):
            task_of("rcb", **{key: value})


def test_a_misspelt_setting_is_no_silent_default() -> None:
    from lm_eval.tasks import TaskManager

    from lep_bench import files

    manager = TaskManager(
        include_path=str(files.shipped_folder("tasks")),
        include_defaults=False,
        metadata={"protocl": "strict"},
    )
    with pytest.raises(ValueError, match="'protocl': did you mean protocol"):
        manager.load(["darumeru_rcb"])
    fine = {
        "dtype": "float32",
        "max_model_len": 4096,
        "tokenizer_mode": "auto",
        "batch_size": 1,
        "device": "cpu",
        "trust_remote_code": False,
    }
    assert TaskManager(
        include_path=str(files.shipped_folder("tasks")), include_defaults=False, metadata=fine
    ).load(["darumeru_rcb"])["tasks"]
