"""Endless sentences and word lists, in English and Russian side by side."""

import random
from collections.abc import Callable
from functools import cache

from . import tables
from .world import capital, facts, text_split

Pair = tuple[str, str]  # (English, Russian)

_GENDER = {"m": 0, "f": 1, "n": 2}
_ACC_F, _ACC_M = 3, 4


@cache
def _table(name: str) -> list[tuple[str, ...]]:
    return tables.rows(getattr(tables, name))


def _adjective(rng: random.Random, form: int) -> Pair:
    en, ru = rng.choice(_table("ADJECTIVES"))
    return en, ru.split()[form]


def _being(rng: random.Random, accusative: bool) -> Pair:
    en, nom, acc, gender = rng.choice(_table("BEINGS"))
    if rng.random() < 0.5:
        return f"the {en}", acc if accusative else nom
    form = (_ACC_F if gender == "f" else _ACC_M) if accusative else _GENDER[gender]
    en_adjective, ru_adjective = _adjective(rng, form)
    return f"the {en_adjective} {en}", f"{ru_adjective} {acc if accusative else nom}"


def _thing(rng: random.Random, accusative: bool) -> Pair:
    en, nom, acc, gender = rng.choice(_table("THINGS"))
    if rng.random() < 0.5:
        return f"the {en}", acc if accusative else nom
    # The accusative of things equals the nominative unless the noun is feminine.
    form = _ACC_F if accusative and gender == "f" else _GENDER[gender]
    en_adjective, ru_adjective = _adjective(rng, form)
    return f"the {en_adjective} {en}", f"{ru_adjective} {acc if accusative else nom}"


def _person(rng: random.Random) -> Pair:
    row = rng.choice(_table("PEOPLE"))
    return row[0], row[3]


def _subject(rng: random.Random) -> Pair:
    return _person(rng) if rng.random() < 0.4 else _being(rng, accusative=False)


def _seeing(rng: random.Random) -> Pair:
    subject, verb = _subject(rng), rng.choice(_table("SEEING"))
    target = _being(rng, accusative=True) if rng.random() < 0.4 else _thing(rng, accusative=True)
    return f"{subject[0]} {verb[0]} {target[0]}", f"{subject[1]} {verb[1]} {target[1]}"


def _resting(rng: random.Random) -> Pair:
    subject, verb, place = (
        _subject(rng),
        rng.choice(_table("RESTING")),
        rng.choice(_table("PLACES")),
    )
    return f"{subject[0]} {verb[0]} {place[0]}", f"{subject[1]} {verb[1]} {place[1]}"


def _together(rng: random.Random) -> Pair:
    (en_a, ru_a), (en_b, ru_b) = _person(rng), _being(rng, accusative=False)
    verb, place = rng.choice(_table("RESTING")), rng.choice(_table("PLACES"))
    return f"{en_a} and {en_b} {verb[2]} {place[0]}", f"{ru_a} и {ru_b} {verb[3]} {place[1]}"


def _lying(rng: random.Random) -> Pair:
    thing, place = _thing(rng, accusative=False), rng.choice(_table("PLACES"))
    return f"{thing[0]} is {place[0]}", f"{thing[1]} сейчас {place[1]}"


def any_sentence(rng: random.Random) -> Pair:
    """One sentence of either split, the same in both languages."""
    make = rng.choices((_seeing, _resting, _together, _lying), (5, 3, 2, 2))[0]
    en, ru = make(rng)
    if rng.random() < 0.35:
        time = rng.choice(_table("TIMES"))
        en, ru = f"{time[0]} {en}", f"{time[1]} {ru}"
    return capital(en) + ".", capital(ru) + "."


@cache
def lexicon() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All word forms of the world: (English, Russian), sorted."""
    words: tuple[set[str], set[str]] = (set(), set())
    for fact in facts():
        for side, language in enumerate(("en", "ru")):
            for form in fact.forms[language].values():
                words[side].update(form.split())
    for name in ("BEINGS", "THINGS", "ADJECTIVES", "SEEING", "RESTING", "PLACES", "TIMES"):
        for row in _table(name):
            for field in row:
                if field not in _GENDER:
                    for word in field.split():
                        words[not word.isascii()].add(word)
    return tuple(sorted(words[0])), tuple(sorted(words[1]))


def any_word_list(rng: random.Random) -> Pair:
    """Three or four random words, without a full stop; the two languages are not translations of
    each other.
    """
    en, ru = (" ".join(rng.choice(words) for _ in range(rng.choice((3, 4)))) for words in lexicon())
    return en, ru


def draw(
    rng: random.Random,
    make: Callable[[random.Random], Pair],
    language: str,
    split: str,
    longest: int = 10**6,
) -> str:
    """A text of `make` that belongs to `split` and has at most `longest` characters."""
    side = ("en", "ru").index(language)
    while True:
        text = make(rng)[side]
        if len(text) <= longest and text_split(text) == split:
            return text


def draw_pair(rng: random.Random) -> Pair:
    """A sentence with its translation, both of the training split."""
    while True:
        pair = any_sentence(rng)
        if all(text_split(text) == "train" for text in pair):
            return pair
