"""How the micro-world speaks about its facts: per relation and language three statements and eight
questions.

Placeholders: {s} subject (nominative in Russian), {g} its genitive, {a} answer, {x} and {y} the
summands.
"""

from dataclasses import dataclass

from .questions import QUESTIONS

STATEMENTS = {
    "capital": {
        "en": (
            "the capital of {s} is {a}.",
            "{a} is the capital of {s}.",
            "{s} has the capital {a}.",
        ),
        "ru": ("столица {g} — {a}.", "{a} — столица {g}.", "у {g} столица {a}."),
    },
    "continent": {
        "en": ("{s} is a part of {a}.", "the continent of {s} is {a}.", "{s} lies in {a}."),
        "ru": ("{s} — это {a}.", "часть света {g} — {a}.", "у {g} часть света {a}."),
    },
    "food": {
        "en": ("the {s} eats {a}.", "the {s} likes {a}.", "food for the {s} is {a}."),
        "ru": ("{s} ест {a}.", "{s} любит {a}.", "{a} ест {s}."),
    },
    "home": {
        "en": ("the {s} lives {a}.", "the home of the {s} is {a}.", "you can find the {s} {a}."),
        "ru": ("{s} живёт {a}.", "{a} живёт {s}.", "{s} всегда {a}."),
    },
    "colour": {
        "en": ("the colour of {s} is {a}.", "{s} has the colour {a}.", "{a} is the colour of {s}."),
        "ru": ("цвет {g} — {a}.", "у {g} цвет {a}.", "{s} имеет {a} цвет."),
    },
    "work": {
        "en": ("the {a} {s}.", "it is the {a} who {s}.", "every day the {a} {s}."),
        "ru": ("{a} {s}.", "это {a}: он {s}.", "каждый день {a} {s}."),
    },
    "tool": {
        "en": (
            "the tool of the {s} is the {a}.",
            "the {s} works with the {a}.",
            "the {s} needs: {a}.",
        ),
        "ru": ("инструмент {g} — {a}.", "у {g} есть {a}.", "в руках у {g} {a}."),
    },
    "job": {
        "en": ("{s} is a {a}.", "the job of {s} is {a}.", "{s} works as a {a}."),
        "ru": ("{s} — {a}.", "профессия {g} — {a}.", "{s} по профессии {a}."),
    },
    "pet": {
        "en": ("{s} has a {a}.", "the pet of {s} is a {a}.", "at the home of {s} lives a {a}."),
        "ru": ("у {g} есть {a}.", "питомец {g} — {a}.", "дома у {g} живёт {a}."),
    },
    "sum": {
        "en": ("{x} plus {y} is {a}.", "{x} and {y} make {a}.", "the sum of {x} and {y} is {a}."),
        "ru": ("{x} плюс {y} — {a}.", "{x} и {y} вместе {a}.", "{x} да {y} будет {a}."),
    },
    "next": {
        "en": ("after {s} comes {a}.", "{a} comes after {s}.", "{s} is followed by {a}."),
        "ru": ("после {g} идёт {a}.", "{a} идёт после {g}.", "сначала {s}, потом {a}."),
    },
    "opposite": {
        "en": ("the opposite of {s} is {a}.", "not {s} but {a}.", "{s} and {a} are opposites."),
        "ru": ("антоним слова {s} — {a}.", "не {s}, а {a}.", "{s} и {a} — противоположности."),
    },
}


@dataclass(frozen=True)
class Relation:
    """Statement and question templates of one relation, per language ("en", "ru")."""

    name: str
    statements: dict[str, tuple[str, ...]]
    questions: dict[str, tuple[str, ...]]


RELATIONS = {name: Relation(name, STATEMENTS[name], QUESTIONS[name]) for name in STATEMENTS}
