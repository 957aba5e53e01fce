"""From texts to ids: pairs that share their context, and the prompts of protocol paper on real
tokenizers.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from lep_bench import files
from lep_bench.config.schema import Conversation
from lep_bench.errors import TaskError
from lep_bench.evaluate.encode import Encoder
from lep_bench.evaluate.lmeval import compile_tasks
from lep_bench.testing import pico

ROOT = Path(__file__).resolve().parents[1]
NAMES = [
    "mini-llama",
    "mini-mistral",
    "byte-level",
    "sentencepiece",
    "llama3",
    "llama3-instruct",
    "mistral",
    "openchat",
]
ARTICLE = (
    "Твоя задача определить наиболее важные предложения.\nТекст: "
    + "Лиса бежит по холму, 12 собак спят у реки. " * 40
)
CONTEXTS = [
    ARTICLE + "\nНаиболее важные предложения статьи:",
    (
        f"<|start_header_id|>user<|end_header_id|>\n\n{ARTICLE}"
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nОтвет:"
    ),
    (
        f"GPT4 Correct User: {ARTICLE}<|end_of_turn|>GPT4 Correct Assistant: Наиболее важные "
        "предложения:"
    ),
    "a  b \n",
    "東京は",
    "",
    "слово",
    "don't stop",
    "о 🦊 и",
    "x y" * 3 + "\n\n \t",
    "конец фразы",
]
TEXTS = [
    " Лиса",
    " 1",
    "1",
    ")",
    "\nда",
    " ёж 🦊",
    "'s",
    "слово за слово",
    "  два",
    " Лиса бежит по холму, а собака спит.",
    ":)",
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shipped, made here, and real ones where the benchmarks' files are at hand."""
    found = {name: files.builtin_checkpoints() / name / "instruct" for name in NAMES[:2]}
    found |= {
        kind: pico.family(tmp_path_factory.mktemp(kind), kind=kind)[1]
        for kind in ("byte-level", "sentencepiece")
    }
    real = loaded("real", ROOT / "benchmarks" / "real.py")
    if real.available():
        home = tmp_path_factory.mktemp("real")
        found |= {name: make(home / name) for name, make in real.TOKENIZERS.items()}
    return found


def loaded(name: str, file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Counting:
    """The tokenizer itself, which also counts the characters that it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.characters = tokenizer, 0

    def __call__(self, texts: list[str], **rest: Any) -> Any:
        self.characters += sum(map(len, texts))
        return self.tokenizer(texts, **rest)


@pytest.mark.parametrize("name", NAMES)
def test_a_shared_context_is_read_once_and_gives_the_same_ids(
    name: str, tokenizers: dict[str, Path]
) -> None:
    if name not in tokenizers:
        pytest.skip("no real tokenizers here: python benchmarks/real.py --tokenizers")
    encoder = Encoder(tokenizers[name])
    pairs = [(context, text) for context in CONTEXTS for text in TEXTS]
    for (context, text), found in zip(pairs, encoder.encode_pairs(pairs), strict=True):
        kept = context.rstrip()
        (alone,), (whole,) = encoder.encode([kept]), encoder.encode([context + text])
        if kept:
            assert found == (alone, whole[len(alone) :]), (context[-20:], text)
        else:
            assert found == ((encoder.prefix,), encoder.encode_plain([context + text])[0])
    encoder.tokenizer = Counting(encoder.tokenizer)
    encoder.encode_pairs([(CONTEXTS[0], f" Предложение {n}.") for n in range(30)])
    assert encoder.tokenizer.characters < 6 * len(CONTEXTS[0])  # not thirty times


def _first(messages: list[tuple[str, str]], name: str) -> str:
    """The formats' rules, written again: messages as (role, text), the last one open."""
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    form = {
        "llama3_no_system": {
            "user": (head.format("user"), "<|eot_id|>"),
            "assistant": (head.format("assistant"), "<|eot_id|>"),
        },
        "openchat_3.5_1210": {
            "user": ("GPT4 Correct User: ", "<|end_of_turn|>"),
            "assistant": ("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        },
        "non_instruct_simple": {"user": ("", "\n"), "assistant": ("", "\n\n")},
    }[name]
    return (
        "".join(form[role][0] + text + form[role][1] for role, text in messages[:-1])
        + form["assistant"][0]
        + messages[-1][1]
    )


@pytest.mark.parametrize(
    ("tokenizer", "name", "shots"),
    [
        ("llama3-instruct", "llama3_no_system", 0),
        ("openchat", "openchat_3.5_1210", 0),
        ("llama3", "non_instruct_simple", 5),
        ("mistral", "non_instruct_simple", 5),
        ("byte-level", "llama3_no_system", 0),
        ("sentencepiece", "openchat_3.5_1210", 0),
        ("byte-level", "non_instruct_simple", 5),
        ("sentencepiece", "non_instruct_simple", 5),
    ],
)
def test_prompts_of_protocol_paper_are_bos_and_the_listed_format(
    tokenizer: str,
    name: str,
    shots: int,
    tokenizers: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if tokenizer not in tokenizers:
        pytest.skip("no real tokenizers here: python benchmarks/real.py --tokenizers")
    rows = loaded("darumeru_folder", ROOT / "tests" / "tasks" / "darumeru_folder.py")
    monkeypatch.setenv("LEP_BENCH_DATA", str(rows.build(tmp_path, [])))
    conversation = Conversation(format="plain" if shots else "chat", shots=shots)
    told = {"protocol": "paper", "conversation": name, "max_length": 4096}
    rcb, use = compile_tasks(
        ["darumeru_rcb", "darumeru_use"], tokenizers[tokenizer], conversation, metadata=told
    )
    question = "Ситуация: premise {0} Гипотеза: hypothesis {0}"
    before = [
        message
        for n in range(shots - 1, -1, -1)
        for message in (("user", question.format(n)), ("assistant", "Ответ: 2"))
    ]
    text = _first([*before, ("user", question.format(1)), ("assistant", "Ответ:")], name)
    encoder = rcb.encoder
    wanted = encoder.tokenizer(encoder.tokenizer.bos_token + text, add_special_tokens=False)[
        "input_ids"
    ]
    assert (
        rcb.items[1].prompts[0].text == text
        and list(rcb.ids[3][0]) == wanted
        and wanted.count(encoder.bos) == 1
    )
    for number, (context, option) in enumerate(rcb.ids[3:6], 1):
        whole = encoder.tokenizer(
            f"{encoder.tokenizer.bos_token}{text} {number}", add_special_tokens=False
        )["input_ids"]
        assert [*context, *option] == whole
    stops = {
        "llama3_no_system": ["<|eot_id|>"],
        "openchat_3.5_1210": ["<|end_of_turn|>"],
        "non_instruct_simple": ["\n", "\n\n"],
    }[name]
    settings = {
        "until": stops,
        "do_sample": True,
        "temperature": 0.1,
        "top_p": 0.9,
        "top_k": 40,
        "max_gen_toks": 64,
    }
    assert use.requests[0].args[1] == settings and use.ids[0][0].count(encoder.bos) == 1
    assert [item.shots for item in use.items] == [shots] * 2


def test_protocol_paper_writes_bos_where_the_tokenizer_sets_none(
    tokenizers: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The formats begin with BOS as text. Strict takes the tokenizer's word, as lm-eval does."""
    rows = loaded("darumeru_folder", ROOT / "tests" / "tasks" / "darumeru_folder.py")
    monkeypatch.setenv("LEP_BENCH_DATA", str(rows.build(tmp_path / "rows", [])))
    folder = tmp_path / "bare"
    folder.mkdir()
    for file in tokenizers["byte-level"].glob("*.json"):
        made = json.loads(file.read_text(encoding="utf-8"))
        if file.name == "tokenizer.json":
            made["post_processor"] = None
        (folder / file.name).write_text(json.dumps(made), encoding="utf-8")
    plain = Conversation(format="plain", shots=2)
    for protocol, count in (("paper", 1), ("strict", 0)):
        told = {"protocol": protocol, "conversation": "non_instruct_simple", "max_length": 4096}
        for compiled in compile_tasks(
            ["darumeru_rcb", "darumeru_use"], folder, plain, metadata=told
        ):
            assert not compiled.encoder.adds_bos
            assert {context.count(compiled.encoder.bos) for context, _ in compiled.ids} == {count}


def test_a_row_whose_answer_cannot_be_read_is_named(
    tokenizers: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = loaded("darumeru_folder", ROOT / "tests" / "tasks" / "darumeru_folder.py")
    folder = rows.build(tmp_path, [])
    file = folder / "RefalMachine" / "darumeru" / "data" / "multiq" / "test.jsonl"
    broken = [
        {**json.loads(line), **({"outputs": [{"label": "x"}]} if n else {})}
        for n, line in enumerate(file.read_text(encoding="utf-8").splitlines())
    ]
    file.write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in broken), encoding="utf-8"
    )
    monkeypatch.setenv("LEP_BENCH_DATA", str(folder))
    with pytest.raises(TaskError, match=r"darumeru_multiq: .*test\.jsonl:2: .*\{segment: text\}"):
        compile_tasks(
            ["darumeru_multiq"],
            tokenizers["byte-level"],
            Conversation(format="chat"),
            metadata={"protocol": "strict", "max_length": 4096},
        )


def test_a_gold_answer_that_is_no_option_is_found_first(
    tokenizers: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = loaded("darumeru_folder", ROOT / "tests" / "tasks" / "darumeru_folder.py").build(
        tmp_path, []
    )
    file = folder / "RefalMachine" / "darumeru" / "data" / "rcb" / "test.jsonl"
    file.write_text(
        file.read_text(encoding="utf-8").replace('"outputs": "2"', '"outputs": "7"'),
        encoding="utf-8",
    )
    monkeypatch.setenv("LEP_BENCH_DATA", str(folder))
    settings = {"protocol": "strict", "max_length": 4096}
    with pytest.raises(TaskError, match="answer '7' is none of 1, 2, 3"):
        compile_tasks(
            ["darumeru_rcb"],
            tokenizers["byte-level"],
            Conversation(format="chat"),
            metadata=settings,
        )
    with pytest.raises(TaskError, match="every row exceeds prompt_characters 5"):
        compile_tasks(
            ["darumeru_rwsd"],
            tokenizers["byte-level"],
            Conversation(format="chat"),
            metadata={**settings, "prompt_characters": 5},
        )
