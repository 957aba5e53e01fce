"""Write the data files of tasks/mini: scored questions, texts to copy and Russian text that
training never contains.

    python -m benchmarks.mini.taskdata
"""

import json
import random
from pathlib import Path

from . import corpus, stories
from .world import LANGUAGES, facts, options, scored_questions

FOLDER = Path(__file__).resolve().parents[2] / "tasks" / "mini" / "data"
ITEMS = 300
# characters: in the families' own tokens longer than mini-mistral's window
_TEXT_LENGTHS = (150, 250)


def fact_rows(language: str) -> list[dict[str, object]]:
    """300 questions: every fact once, then a second phrasing of the first 100 facts of a shuffled
    order.
    """
    order = list(facts())
    random.Random(f"facts {language}").shuffle(order)
    asked = [(fact, number) for number in (0, 1) for fact in order][:ITEMS]
    rows: list[dict[str, object]] = []
    for fact, number in asked:
        choices, gold = options(fact, language, number)
        question = scored_questions(fact, language)[number]
        rows.append(
            {
                "id": f"{fact.id}#{number}",
                "group": fact.id,
                "query": corpus.question_prompt(question, language),
                "choices": list(choices),
                "gold": gold,
            }
        )
    return rows


def copy_rows(language: str) -> list[dict[str, object]]:
    """300 texts of at most 40 characters: 150 sentences, 150 lists of four random words.

    Lists have four words because training lists have at most four: no training list can contain a
    scored one.
    """
    rng = random.Random(f"copy task {language}")
    texts: dict[str, None] = {}
    while len(texts) < ITEMS // 2:
        texts[stories.draw(rng, stories.any_sentence, language, "copy", corpus.COPY_LENGTH)] = None
    while len(texts) < ITEMS:
        text = stories.draw(rng, stories.any_word_list, language, "copy", corpus.COPY_LENGTH)
        if len(text.split()) == 4:
            texts[text] = None
    return [
        {
            "id": f"copy-{number}",
            "group": f"copy-{language}-{number}",
            "query": corpus.copy_prompt(text, language),
            "answer": text,
        }
        for number, text in enumerate(texts)
    ]


def text_rows() -> list[dict[str, object]]:
    """300 Russian stories of 150 to 250 characters, made of sentences that training never
    contains.
    """
    rng = random.Random("text task")
    rows: list[dict[str, object]] = []
    while len(rows) < ITEMS:
        text = stories.draw(rng, stories.any_sentence, "ru", "text")
        length = rng.randint(*_TEXT_LENGTHS)
        while True:
            longer = f"{text} {stories.draw(rng, stories.any_sentence, 'ru', 'text')}"
            if len(longer) > length:
                break
            text = longer
        if len(text) >= _TEXT_LENGTHS[0]:
            rows.append({"id": f"text-{len(rows)}", "group": f"text-{len(rows)}", "text": text})
    return rows


def write(folder: Path = FOLDER) -> None:
    """Write facts_LANGUAGE.jsonl, copy_LANGUAGE.jsonl and text_ru.jsonl to `folder`; the bytes
    depend on nothing else.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"text_ru": text_rows()}
    for language in LANGUAGES:
        files[f"facts_{language}"] = fact_rows(language)
        files[f"copy_{language}"] = copy_rows(language)
    for name, rows in files.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_bytes("".join(lines).encode())


if __name__ == "__main__":
    write()
