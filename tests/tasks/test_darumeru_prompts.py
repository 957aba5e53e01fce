"""What the Darumeru tasks ask: conversation formats, shots and budgets, options and cuts, under
both protocols.
"""

from __future__ import annotations

import math
import sys
from functools import cache
from pathlib import Path
from typing import Any

import darumeru_folder
import pytest

from lep_bench import files

REAL = Path(__file__).resolve().parents[2] / "benchmarks" / "real.py"
LEAD = "Ответ:"


def load(name: str, **metadata: Any) -> Any:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str(files.shipped_folder("tasks")), include_defaults=False, metadata=metadata
    )
    return manager.load([f"darumeru_{name}"])["tasks"][f"darumeru_{name}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return darumeru_folder.build(tmp_path_factory.mktemp("rows"), list(load("mmlu_ru").CONFIGS))


@pytest.fixture(autouse=True)
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEP_BENCH_DATA", str(folder))


def _real() -> dict[str, Path]:
    """Tokenizers of LLaMa-3 and Mistral, where the benchmarks' files are at hand."""
    sys.path.insert(0, str(REAL.parent))
    try:
        import real
    finally:
        sys.path.remove(str(REAL.parent))
    found = {name: real.HOME / "tok" / name for name in ("llama3", "mistral")}
    return {name: path for name, path in found.items() if (path / "tokenizer.json").is_file()}


@pytest.fixture(scope="module")
def every(tokenizers: dict[str, Path]) -> dict[str, Path]:
    return {**tokenizers, **_real()}


@cache
def reference(folder: Path) -> Any:
    """The tokenizer by transformers: another reader than the tasks'."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(folder))


def template(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
    return "".join(f"<{m['role']}>{m['content']}" for m in messages) + (
        "<assistant>" if add_generation_prompt else ""
    )


USER, SHOT = (
    "Ситуация: premise 0 Гипотеза: hypothesis 0",
    "Ситуация: premise 1 Гипотеза: hypothesis 1",
)
FIRST = "Ситуация: premise 0 Гипотеза: hypothesis 0"
HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"
TURN = HEAD + "{}<|eot_id|>"
SYSTEM = (
    "Ты полезный чат-бот, который отвечает на вопросы студентов по университетским курсам на "
    "русском языке."
)
LLAMA = (
    TURN.format("user", SHOT)
    + TURN.format("assistant", "Ответ: 2")
    + TURN.format("user", FIRST)
    + TURN.format("assistant", "Ответ: 2")
    + TURN.format("user", USER)
    + HEAD.format("assistant")
    + LEAD
)
EXPECTED = {
    "llama3": TURN.format("system", SYSTEM) + LLAMA,
    "llama3_no_system": LLAMA,
    "openchat_3.5_1210": (
        f"GPT4 Correct User: {SHOT}<|end_of_turn|>GPT4 Correct Assistant: Ответ: "
        f"2<|end_of_turn|>GPT4 Correct User: {FIRST}<|end_of_turn|>"
        f"GPT4 Correct Assistant: Ответ: 2<|end_of_turn|>GPT4 Correct User: {USER}"
        f"<|end_of_turn|>GPT4 Correct Assistant: {LEAD}"
    ),
    "mistral": (
        f"[INST] {SHOT} [/INST]Ответ: 2</s>[INST] {FIRST} [/INST]Ответ: 2</s>[INST] {USER} "
        f"[/INST]{LEAD}"
    ),
    "non_instruct": (
        f"Query: {SHOT}\nResponse: Ответ: 2\n\nQuery: {FIRST}\nResponse: Ответ: 2\n\nQuery: "
        f"{USER}\nResponse: {LEAD}"
    ),
    "non_instruct_simple": f"{SHOT}\nОтвет: 2\n\n{FIRST}\nОтвет: 2\n\n{USER}\n{LEAD}",
    "template": (
        f"<user>{SHOT}<assistant>Ответ: 2<user>{FIRST}<assistant>Ответ: 2<user>{USER}<assistant>"
        f"{LEAD}"
    ),
}
STOPS = {
    "llama3": ["<|eot_id|>"],
    "llama3_no_system": ["<|eot_id|>"],
    "openchat_3.5_1210": ["<|end_of_turn|>"],
    "non_instruct_simple": ["\n", "\n\n"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_conversation_formats(name: str) -> None:
    """Shot 1 stands before shot 0, which is nearest; the answer is left open; no BOS."""
    task, chat = load("rcb", conversation=name), name == "template"
    doc = task.eval_docs[0]
    rest = {"apply_chat_template": chat, "chat_template": template if chat else None}
    assert task.fewshot_context(doc, 2, **rest) == [EXPECTED[name]]
    asked = task.asked(doc)
    assert (asked.shots, asked.asked_shots, asked.cut) == (2, 2, False)
    assert [m["role"] for m in asked.conversations[0]] == (
        ["system"] if name == "llama3" else []
    ) + ["user", "assistant"] * 3
    task = load("multiq", conversation=name)
    (request,) = task.construct_requests(
        doc=task.eval_docs[0], ctx=["x"], metadata=("t", 0, 1), **rest
    )
    sampled = {"do_sample": True, "temperature": 0.1, "top_p": 0.9, "top_k": 40, "max_gen_toks": 64}
    assert (
        request.args == ("x", {"until": STOPS.get(name, []), **sampled})
        and task.repeats_sampling
        and task.character_limit is None
    )


def test_the_default_conversation_and_wrong_ones() -> None:
    task = load("rcb")
    doc = task.eval_docs[0]
    assert task.fewshot_context(doc, 0) == [f"{USER}\n{LEAD}"]
    assert task.fewshot_context(doc, 0, apply_chat_template=True, chat_template=template) == [
        f"<user>{USER}<assistant>{LEAD}"
    ]
    # A row whose last message is the question: the model begins its own turn.
    open_row = {**doc, "messages": doc["messages"][:1]}
    assert task.fewshot_context(open_row, 0, apply_chat_template=True, chat_template=template) == [
        f"<user>{USER}<assistant>"
    ]
    assert load("rcb", conversation="llama3_no_system").fewshot_context(open_row, 0) == [
        TURN.format("user", USER) + HEAD.format("assistant")
    ]
    with pytest.raises(ValueError, match="conversation template needs the model's chat template"):
        load("rcb", conversation="template").fewshot_context(doc, 0)
    with pytest.raises(ValueError, match="no words for a message of role system"):
        load("rcb", conversation="mistral").fewshot_context(doc, 0, system_instruction="Отвечай.")
    for metadata, said in (
        ({"protocol": "strikt"}, "there is no protocol 'strikt': paper and strict are known"),
        (
            {"conversation": "llama4"},
            "conversation 'llama4' under protocol paper: template, llama3, .* are known",
        ),
        (
            {"conversation": "llama3", "protocol": "strict"},
            "under protocol strict: template, non_instruct_simple are known",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            load("rcb", **metadata)
    with pytest.raises(ValueError, match="7 shots were asked for, the split prompt has 6 rows"):
        task.fewshot_context(doc, 7)
    with pytest.raises(ValueError, match="row id 1 has not been asked"):
        load("rcb").asked(load("rcb").eval_docs[1])


def test_parus_is_asked_in_both_orders_and_its_shots_in_one() -> None:
    task = load("parus")
    doc = task.eval_docs[0]
    texts = task.fewshot_context(doc, 1)
    shot = 'Дано: "premise 0" 1. choice1 0 2. choice2 0 Что следствие?\nОтвет: 1\n\n'
    assert texts == [
        f'{shot}Дано: "premise 0" 1. choice1 0 2. choice2 0 Что следствие?\nОтвет:',
        f'{shot}Дано: "premise 0" 1. choice2 0 2. choice1 0 Что следствие?\nОтвет:',
    ]
    requests = task.construct_requests(
        doc=doc, ctx=texts, metadata=("t", 0, 1), apply_chat_template=False, chat_template=None
    )
    assert [r.args for r in requests] == [
        (text, option) for text in texts for option in (" 1", " 2")
    ]
    assert [r.idx for r in requests] == [0, 1, 2, 3] and len(task.asked(doc).conversations) == 2


def test_rucola_begins_its_shots_at_row_29() -> None:
    task = load("rucola")
    (text,) = task.fewshot_context(task.eval_docs[0], 5)
    places = [text.index(f"in_domain_train, строка {n}, ") for n in (33, 32, 31, 30, 29)]
    assert (
        places == sorted(places)
        and "Ответ: 1\n\n" in text
        and text.startswith("Твоя задача определить приемлемость текста")
    )
    assert "а не" not in text and text.endswith("\nТекст: in_domain_dev, строка 0, «так»\nОтвет:")
    assert [task.doc_to_target(doc) for doc in task.eval_docs] == ["0", "1", "0", "1"]


def test_mmlu_has_natural_order_and_a_headline_where_shots_are() -> None:
    ru, en = load("mmlu_ru"), load("mmlu_en", protocol="strict")
    doc = next(doc for doc in ru.eval_docs if doc["subject"] == "us_foreign_policy")
    question = (
        "Вопрос {0} о us_foreign_policy?\nA. ответ {0}а\nB. ответ {0}б\nC. ответ {0}в\nD. ответ "
        "{0}г"
    )
    headline = (
        "Ниже приведены вопросы с множественным выбором (с ответами) по внешней политике США.\n\n"
    )
    # the benchmark's own has none without shots
    assert ru.fewshot_context(doc, 0) == [f"{question.format(0)}\nОтвет:"]
    shots = f"{headline}{question.format(0)}\nОтвет: A\n\n{question.format(1)}\nОтвет: B\n\n"
    assert ru.fewshot_context(doc, 2) == [f"{shots}{question.format(0)}\nОтвет:"]
    (text,) = en.fewshot_context(doc, 0)
    assert text.startswith(
        "The following are multiple choice questions (with answers) about us foreign "
        "policy.\n\nQuestion 0 on"
    )
    assert text.endswith("\nD. answer 0d\nAnswer:")
    assert (
        ru.doc_to_target({"answer": 3})
        == ru.doc_to_target({"answer": "D"})
        == ru.doc_to_target({"answer": "3"})
        == "D"
    )
    raw = {key: value for key, value in doc.items() if key != "subject"}
    assert ru.process_results(raw, [(-1.0, True), (-2.0, False), (-2.0, False), (-2.0, False)])[
        "acc"
    ] == ("", 1.0)
    with pytest.raises(ValueError, match="the row's subject is None"):
        ru.fewshot_context(raw, 1)


def test_summaries() -> None:
    task = load("sum_abstractive")
    doc = task.eval_docs[0]
    text = "Новость {0}. " + " ".join(darumeru_folder.SENTENCES)
    ask = "Напиши краткую аннотацию на русском языке к следующему тексту.\nТекст: "
    shot = f"{ask}{text.format(0)}\nTL;DR: {darumeru_folder.SENTENCES[0]} Итог {{не слот}}.\n\n"
    assert task.fewshot_context(doc, 1) == [f"{shot}{ask}{text.format(0)}\nTL;DR:"]
    task = load("sum_extractive", protocol="strict")
    (text,) = task.fewshot_context(doc, 5)
    assert text.startswith(
        "Твоя задача определить наиболее важные предложения.\nТекст: Новость 0. Лиса"
    )
    assert (
        text.endswith("\nНаиболее важные предложения статьи:") and task.asked(doc).asked_shots == 0
    )
    # Equal spans of characters: the shortest sentence is "Новость 0." (10).
    assert [r.args[1] for r in requests(task, doc, [text])] == [
        f" {s[:10]}" for s in doc["src_sents"]
    ]


def requests(task: Any, doc: Any, ctx: list[str]) -> list[Any]:
    return task.construct_requests(
        doc=doc, ctx=ctx, metadata=("t", 0, 1), apply_chat_template=False, chat_template=None
    )


def test_sentences_are_cut_after_equal_numbers_of_tokens(every: dict[str, Path]) -> None:
    lead = "Наиболее важные предложения статьи:"
    for name, path in every.items():
        task, tokenizer = (
            load("sum_extractive", tokenizer=str(path), max_length=4096),
            reference(path),
        )
        doc = task.eval_docs[0]
        found = [r.args[1] for r in requests(task, doc, ["x"])]

        def count(text: str, tokenizer: Any = tokenizer) -> int:
            return len(tokenizer(lead + text, add_special_tokens=False)["input_ids"]) - len(
                tokenizer(lead, add_special_tokens=False)["input_ids"]
            )

        shortest = min(count(f" {sentence}") for sentence in doc["src_sents"])
        assert all(
            f" {sentence}".startswith(text)
            for sentence, text in zip(doc["src_sents"], found, strict=True)
        ), name
        # A token may end inside a character; the text cannot: at most the rest of that character is
        # added.
        assert all(shortest <= count(text) <= shortest + 3 for text in found), name
        if name in ("llama3", "mistral"):
            assert {count(text) for text in found} == {shortest}


def test_first_tokens_of_options(every: dict[str, Path]) -> None:
    for path in every.values():
        task, tokenizer = load("rwsd", tokenizer=str(path)), reference(path)
        ids = {
            text: tokenizer(LEAD + text, add_special_tokens=False)["input_ids"]
            for text in ("", " Да", " Нет")
        }
        for option, text in zip(
            (" Да", " Нет"),
            [r.args[1] for r in requests(task, task.eval_docs[0], ["x"])],
            strict=True,
        ):
            assert option.startswith(text) and text.strip()
            own = ids[option][len(ids[""]) :]
            shown = [
                n
                for n in range(1, len(own) + 1)
                if tokenizer.decode(ids[""] + own[:n])[len(tokenizer.decode(ids[""])) :].strip(
                    " \ufffd"
                )
            ]
            assert (
                tokenizer(LEAD + text, add_special_tokens=False)["input_ids"]
                == ids[""] + own[: shown[0]]
            )
    assert [r.args[1] for r in requests(load("rwsd", protocol="strict"), {"x": 1}, [])] == []
    whole = load("rwsd", protocol="strict")  # needs no tokenizer
    assert [r.args[1] for r in requests(whole, whole.eval_docs[0], ["x"])] == [" Да", " Нет"]


def test_copies_are_counted_in_the_models_tokens(tokenizers: dict[str, Path]) -> None:
    text = darumeru_folder.gold("cp_sent_ru", 1)
    for path in {**tokenizers, **_real()}.values():
        task, tokenizer = load("copy_sent_ru", tokenizer=str(path)), reference(path)
        (doc,) = [doc for doc in task.eval_docs if doc["outputs"] == text]
        generated = tokenizer("Ответ: " + text, add_special_tokens=False)["input_ids"][
            len(tokenizer("Ответ:", add_special_tokens=False)["input_ids"]) :
        ]
        # what generation gives back: LLaMa-3's begins with a space, Mistral's does not
        said = tokenizer.decode(generated)
        assert task.process_results(doc, [said])["score"] == 1.0
        half = tokenizer.decode(
            generated[: len(generated) // 2], clean_up_tokenization_spaces=False
        )
        found = task.process_results(doc, [half])
        assert (
            math.isclose(
                found["len"], (len(generated) // 2) / len(generated), abs_tol=2 / len(generated)
            )
            and found["lcs"] == 1.0
        )
    strict = load("copy_sent_ru", protocol="strict")
    assert strict.process_results(doc, [f" {text}\n"]) == {"len": 1.0, "lcs": 1.0, "score": 1.0}
    assert set(strict.aggregation()) == {"len", "lcs", "score"} and strict.character_limit == 1000
    (request,) = requests(strict, doc, ["x"])
    assert (
        request.args[1] == {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 128}
        and not strict.repeats_sampling
    )
    assert strict.doc_to_prediction(doc, ["я" * 1000]) == "я" * (math.ceil(1.25 * len(text)) + 16)


def test_without_a_tokenizer_one_line_says_what_it_is_needed_for() -> None:
    for name, said in (
        ("copy_sent_ru", "counting the tokens of copies"),
        ("sum_extractive", "cutting sentences"),
        ("rwsd", "the first token of Да"),
    ):
        task = load(name)
        doc = task.eval_docs[0]
        with pytest.raises(
            ValueError, match=f"darumeru_{name}: .*{said}.* needs the model's tokenizer"
        ) as error:
            task.process_results(doc, ["x"]) if name.startswith("copy") else requests(
                task, doc, ["x"]
            )
        assert "\n" not in str(error.value)
    task = load("rcb")
    doc = {**task.eval_docs[0], "inputs": {"premise": "б" * 2000, "hypothesis": ""}}
    # nothing to decide: whoever asks the model knows its length
    assert task.fewshot_context(doc, 0)[0].count("б") == 2000
    with pytest.raises(ValueError, match="measuring a prompt needs the model's tokenizer"):
        task.fewshot_context(doc, 1)
    with pytest.raises(OSError, match="its tokenizer cannot be loaded"):
        load("copy_sent_ru", tokenizer=str(Path(__file__).parent)).process_results(
            load("copy_sent_ru").eval_docs[0], ["x"]
        )
