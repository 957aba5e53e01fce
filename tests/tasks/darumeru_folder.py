"""A folder that holds rows for all 17 Darumeru tasks, in the Hub's layout, made for the tests (the
real copies, summaries and MMLU rows are not the project's to ship)."""

from __future__ import annotations

import csv
import json
import string
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

TASKS = {
    "rummlu": "rummlu",
    "multiq": "multiq",
    "parus": "parus",
    "rcb": "rcb",
    "rwsd": "rwsd",
    "use": "use",
    "ruopenbookqa": "ruopenbookqa",
    "ruworldtree": "ruworldtree",
    "copy_sent_en": "cp_sent_en",
    "copy_para_en": "cp_para_en",
    "copy_sent_ru": "cp_sent_ru",
    "copy_para_ru": "cp_para_ru",
}
GOLD = {"rcb": "2", "rwsd": "Да", "parus": "1", "use": "1,3"}
SENTENCES = [
    "Лиса бежит по холму.",
    "Собака спит у реки, потому что устала за день.",
    "Холм зелёный.",
    "Река течёт к морю мимо леса.",
]
TEMPLATES = {
    "parus": 'Дано: "{premise}" 1. {choice1} 2. {choice2} Что следствие?',
    "rcb": "Ситуация: {premise} Гипотеза: {hypothesis}",
    "rwsd": "Прочти: {text} Относится ли {span2_text} к {span1_text}?",
    "use": "{task}\n{text}\n{choices}",
    "multiq": "Текст 1: {support_text}\nТекст 2: {text}\nВопрос: {question}",
}
OPTIONS = "{question}\nA) {option_a}\nB) {option_b}\nC) {option_c}\nD) {option_d}"


def gold(config: str, n: int) -> Any:
    """The right answer of row n."""
    if config == "multiq":
        return [
            {"label": "passage", "length": 4, "offset": 0, "segment": "река"},
            {"label": "passage", "length": 4, "offset": 9, "segment": "холм"},
        ]
    return f"Текст {n}: {SENTENCES[n % 4]}" if config.startswith("cp_") else GOLD.get(config, "B")


def row(config: str, n: int, shot: bool = False) -> dict[str, Any]:
    """One row of a config of RefalMachine/darumeru; a shot has its answer in the last message."""
    template = (
        "Повтори текст: {text}" if config.startswith("cp_") else TEMPLATES.get(config, OPTIONS)
    )
    named = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    inputs = {name: f"{name} {n}" for name in named} | {"unused": "нет"}
    answer = gold(config, n)
    if config.startswith("cp_"):
        inputs["text"] = answer
    text = answer[0]["segment"] if isinstance(answer, list) else answer
    return {
        "messages": [
            {"role": "user", "content": template},
            {"role": "bot", "content": f"Ответ: {text}" if shot else "Ответ:"},
        ],
        "inputs": inputs,
        "outputs": answer,
        "meta": {"id": n, "variant": n % 2, "id_task": "1", "type": "multiple_choice"},
    }


def mmlu_row(subject: str, n: int) -> dict[str, Any]:
    """One row of a subject of NLPCoreTeam/mmlu_ru."""
    return {
        "question_ru": f"Вопрос {n} о {subject}?",
        "choices_ru": [f"ответ {n}{letter}" for letter in "абвг"],
        "question_en": f"Question {n} on {subject}?",
        "choices_en": [f"answer {n}{letter}" for letter in "abcd"],
        "answer": n % 4,
    }


def treeway_row(n: int) -> dict[str, Any]:
    """One article with its summaries."""
    return {
        "src_sents": [f"Новость {n}.", *SENTENCES],
        "summary_sents": [SENTENCES[n % 4], "Итог {не слот}."],
        "extractive_summary": [1, 3],
    }


def build(folder: Path, subjects: list[str], tests: int = 2) -> Path:
    """Write everything under folder/ORG/NAME: JSON Lines, Parquet as the Hub converts it, RuCoLA's
    CSV files.
    """
    for config in TASKS.values():
        for split, count in (("test", tests), ("prompt", 6)):
            _lines(
                folder / "RefalMachine" / "darumeru" / "data" / config / f"{split}.jsonl",
                [row(config, n, split == "prompt") for n in range(count)],
            )
    for subject in subjects:
        for split, count in (("test", tests), ("dev", 5)):
            _parquet(
                folder / "NLPCoreTeam" / "mmlu_ru" / subject / split / "0000.parquet",
                [mmlu_row(subject, n) for n in range(count)],
            )
    for split, count in (("test", 501), ("prompt", 5)):
        _parquet(
            folder / "dichspace" / "daru_treeway_eval" / "default" / split / "0000.parquet",
            [treeway_row(n) for n in range(count)],
        )
    for name, count in (("in_domain_train", 40), ("in_domain_dev", 2), ("out_of_domain_dev", 2)):
        file = folder / "RussianNLP" / "rucola" / "data" / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8", newline="") as text:
            table = csv.writer(text)
            table.writerow(["id", "sentence", "acceptable", "error_type", "detailed_source"])
            table.writerows(
                [n, f"{name}, строка {n}, «так»", n % 2, "0", "x"] for n in range(count)
            )
    return folder


def _lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def _parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
