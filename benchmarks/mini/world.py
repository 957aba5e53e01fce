"""The micro-world: about 200 facts, each in English and in Russian, and the split of its questions.

Facts yes, questions no. Every fact is stated and asked about in the training text of every stage
(base, instruct, continued pre-training, calibration), so that a model can know it. But of the eight
phrasings in which a fact can be asked in one language, two are held out, chosen by a hash of fact
and language: no training text contains these questions. The same phrasings occur in training with
other facts. What is scored is therefore recall of a known fact through a question never seen, not
reasoning about unknown facts.

Texts of stories and word lists are split by a hash of the text itself (`text_split`).
"""

import hashlib
from dataclasses import dataclass
from functools import cache

from . import tables
from .relations import RELATIONS

LANGUAGES = ("en", "ru")
HELD_OUT_PHRASINGS = 2


@dataclass(frozen=True)
class Fact:
    """One fact; `forms[language]` fills the templates of `relation`, `answer[language]` is the
    scored answer.
    """

    id: str
    relation: str
    forms: dict[str, dict[str, str]]

    def answer(self, language: str) -> str:
        return self.forms[language]["a"]


def digest(*parts: object) -> int:
    """A 64-bit number that depends on `parts` only: Python's own `hash` of text differs between
    processes.
    """
    joined = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(joined.encode(), digest_size=8).digest(), "big")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fact(relation: str, key: str, en: dict[str, str], ru: dict[str, str]) -> Fact:
    return Fact(f"{relation}/{key.lower().replace(' ', '-')}", relation, {"en": en, "ru": ru})


def _simple(relation: str, en_s: str, en_a: str, ru_s: str, ru_a: str, ru_g: str = "") -> Fact:
    return _fact(relation, en_s, {"s": en_s, "a": en_a}, {"s": ru_s, "g": ru_g, "a": ru_a})


def _sums() -> list[Fact]:
    """Sums up to ten, in words, the smaller summand first."""
    numbers = tables.rows(tables.NUMBERS)
    found = []
    for x in range(1, 10):
        for y in range(x, 11 - x):
            sides = [
                {
                    "x": numbers[x - 1][side],
                    "y": numbers[y - 1][side],
                    "a": numbers[x + y - 1][side],
                }
                for side in (0, 1)
            ]
            found.append(_fact("sum", f"{x}-{y}", *sides))
    return found


def _successions(table: str) -> list[Fact]:
    """Each day or month with the one that follows it, the last with the first."""
    rows = tables.rows(table)
    return [
        _simple("next", en, rows[(i + 1) % len(rows)][0], ru, rows[(i + 1) % len(rows)][1], gen)
        for i, (en, ru, gen) in enumerate(rows)
    ]


@cache
def facts() -> tuple[Fact, ...]:
    """All facts of the world in a fixed order."""
    found: list[Fact] = []
    for en, city, continent, ru, gen, ru_city, ru_continent in tables.rows(tables.COUNTRIES):
        found.append(_simple("capital", en, city, ru, ru_city, gen))
        found.append(_simple("continent", en, continent, ru, ru_continent, gen))
    for en, food, home, ru, ru_food, ru_home in tables.rows(tables.ANIMALS):
        found.append(_simple("food", en, food, ru, ru_food))
        found.append(_simple("home", en, home, ru, ru_home))
    for en, colour, ru, gen, ru_colour in tables.rows(tables.COLOURS):
        found.append(_simple("colour", en, colour, ru, ru_colour, gen))
    for en, action, tool, ru, gen, ru_action, ru_tool in tables.rows(tables.PROFESSIONS):
        found.append(_fact("work", en, {"s": action, "a": en}, {"s": ru_action, "a": ru}))
        found.append(_simple("tool", en, tool, ru, ru_tool, gen))
    for en, job, pet, ru, gen, ru_job, ru_pet in tables.rows(tables.PEOPLE):
        found.append(_simple("job", en, job, ru, ru_job, gen))
        found.append(_simple("pet", en, pet, ru, ru_pet, gen))
    found += [
        _simple("opposite", en, en_a, ru, ru_a)
        for en, en_a, ru, ru_a in tables.rows(tables.OPPOSITES)
    ]
    return tuple(found + _sums() + _successions(tables.DAYS) + _successions(tables.MONTHS))


def statements(fact: Fact, language: str) -> tuple[str, ...]:
    """The fact as sentences, one per template."""
    templates = RELATIONS[fact.relation].statements[language]
    return tuple(capital(template.format(**fact.forms[language])) for template in templates)


def questions(fact: Fact, language: str) -> tuple[str, ...]:
    """The fact as questions, one per phrasing; the index is the phrasing's number."""
    templates = RELATIONS[fact.relation].questions[language]
    return tuple(capital(template.format(**fact.forms[language])) for template in templates)


@cache
def held_out(fact_id: str, relation: str, language: str) -> tuple[int, ...]:
    """Numbers of the phrasings in which a fact is scored and never trained, in the order in which
    they are used.
    """
    count = len(RELATIONS[relation].questions[language])
    order = sorted(
        range(count), key=lambda phrasing: digest("phrasing", fact_id, language, phrasing)
    )
    return tuple(order[:HELD_OUT_PHRASINGS])


def trained_questions(fact: Fact, language: str) -> tuple[str, ...]:
    unseen = held_out(fact.id, fact.relation, language)
    return tuple(
        text for number, text in enumerate(questions(fact, language)) if number not in unseen
    )


def scored_questions(fact: Fact, language: str) -> tuple[str, ...]:
    asked = questions(fact, language)
    return tuple(asked[number] for number in held_out(fact.id, fact.relation, language))


@cache
def answers(relation: str, language: str) -> tuple[str, ...]:
    """The distinct answers of a relation: distractors come from here. Days and months are kept
    apart.
    """
    return tuple(
        dict.fromkeys(fact.answer(language) for fact in facts() if _kind(fact) == relation)
    )


def _kind(fact: Fact) -> str:
    days = {row[0].lower() for row in tables.rows(tables.DAYS)}
    is_day = fact.relation == "next" and fact.id.split("/")[1] in days
    return "next-day" if is_day else fact.relation


def options(fact: Fact, language: str, number: int) -> tuple[tuple[str, ...], int]:
    """Four options for item `number` of a fact and the index of the right one; the order depends on
    a hash only.
    """
    right = fact.answer(language)
    others = [text for text in answers(_kind(fact), language) if text != right]
    others.sort(key=lambda text: digest("distractor", fact.id, language, number, text))
    chosen = sorted(
        [right, *others[:3]], key=lambda text: digest("order", fact.id, language, number, text)
    )
    return tuple(chosen), chosen.index(right)


def text_split(text: str) -> str:
    """The split of a story sentence or word list: "copy" and "text" (6% each) are scored only,
    "train" is the rest.
    """
    bucket = digest("text", text) % 50
    return "copy" if bucket < 3 else "text" if bucket < 6 else "train"
