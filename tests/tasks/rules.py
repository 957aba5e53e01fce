"""The scores of Darumeru's 17 data sets, computed a second time from the written rules: what the
tasks are held against.

Nothing here knows lm-eval or the tasks. A row is a raw data set row, an answer is what a model gave
for it: options as (log-probability, greedy) in listed order, PARus four of them (as is, then
exchanged); extractive one per sentence; generation [text]. `scores` takes pairs of both and gives
every metric, 0 to 1 but for mcc and symbols_per_token.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Answered = Sequence[tuple[dict[str, Any], list[Any]]]

LETTERS, DIGITS = "ABCD", "123"
METRICS = {
    "darumeru_rummlu": {"acc"},
    "darumeru_mmlu_ru": {"acc"},
    "darumeru_mmlu_en": {"acc"},
    "darumeru_multiq": {"f1", "em"},
    "darumeru_parus": {"acc"},
    "darumeru_rcb": {"acc", "f1_macro"},
    "darumeru_rwsd": {"acc"},
    "darumeru_use": {"grade_norm"},
    "darumeru_ruopenbookqa": {"acc", "f1_macro"},
    "darumeru_ruworldtree": {"acc", "f1_macro"},
    "darumeru_rucola": {"acc", "mcc"},
    "darumeru_sum_abstractive": {"rouge1", "rouge2"},
    "darumeru_sum_extractive": {"r_prec"},
    **{
        f"darumeru_copy_{unit}_{language}": {"len", "lcs", "symbols_per_token"}
        for unit in ("sent", "para")
        for language in ("en", "ru")
    },
}
# The one number of each task is the mean of these.
LEADING = {
    task: ({"len"} if "copy_sent" in task else {"lcs"} if "copy_para" in task else names)
    for task, names in METRICS.items()
}

CATEGORIES = {
    "STEM": """abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics college_physics
        computer_security conceptual_physics electrical_engineering elementary_mathematics high_school_biology high_school_chemistry
        high_school_computer_science high_school_mathematics high_school_physics high_school_statistics machine_learning""".split(),
    "OTH": """anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing medical_genetics
        miscellaneous nutrition professional_accounting professional_medicine virology""".split(),
    "SOC": """econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_microeconomics
        high_school_psychology human_sexuality professional_psychology public_relations security_studies sociology us_foreign_policy""".split(),
    "HUM": """formal_logic high_school_european_history high_school_us_history high_school_world_history international_law jurisprudence
        logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law world_religions""".split(),
}


@dataclass(frozen=True)
class Tokens:
    """A tokenizer as the copy rules need it: how many tokens a text has without special ones."""

    count: Callable[[str], int]
    own_space: bool  # it puts a space in front by itself

    @classmethod
    def of(cls, folder: Path) -> Tokens:
        """From a tokenizer.json, read by the tokenizers library itself."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        one = tokenizer.encode("1", add_special_tokens=False).tokens
        return cls(
            lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids),
            len(one) > 1 or len(one[0]) > 1,
        )


def scores(task: str, answered: Answered, tokens: Tokens | None = None) -> dict[str, float]:
    """Every metric of `task` and its `score` under the paper's protocol. `tokens`: for the copy
    tasks only.
    """
    name = task.removeprefix("darumeru_")
    if name.startswith("copy"):
        assert tokens is not None
        found = _copy(answered, tokens, 128 if "sent" in name else 1024)
    elif name in ("mmlu_ru", "mmlu_en"):
        found = {
            "acc": _categories(
                [
                    (row["subject"], LETTERS[row["answer"]] == LETTERS[best(given)])
                    for row, given in answered
                ]
            )
        }
    else:
        found = _RULES[name](answered)
    assert set(found) == METRICS[task]
    return {**found, "score": mean(found[metric] for metric in LEADING[task])}


def mean(values: Iterable[float]) -> float:
    listed = [float(value) for value in values]
    return math.fsum(listed) / len(listed)


def best(given: Sequence[tuple[float, bool]]) -> int:
    """The likeliest option; of equal ones the earlier."""
    place = 0
    for n in range(1, len(given)):
        if given[n][0] > given[place][0]:
            place = n
    return place


def accuracy(pairs: Sequence[tuple[str, str]]) -> float:
    return mean(gold == said for gold, said in pairs)


def macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """Mean over the labels that occur among gold answers or predictions; one that was never right
    counts 0.
    """
    values = []
    for label in sorted({label for pair in pairs for label in pair}):
        both = sum(gold == label == said for gold, said in pairs)
        either = sum(gold == label for gold, _ in pairs) + sum(said == label for _, said in pairs)
        values.append(2 * both / either)
    return mean(values)


def matthews(pairs: Sequence[tuple[str, str]]) -> float:
    """Of two labels; 0 where gold or predictions know one label only."""
    tp, tn, fp, fn = (
        sum(pair == cell for pair in pairs)
        for cell in (("1", "1"), ("0", "0"), ("0", "1"), ("1", "0"))
    )
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(below) if below else 0.0


def _lettered(answered: Answered) -> dict[str, float]:
    pairs = [(row["outputs"], LETTERS[best(given)]) for row, given in answered]
    return {"acc": accuracy(pairs), "f1_macro": macro_f1(pairs)}


def _rcb(answered: Answered) -> dict[str, float]:
    pairs = [(row["outputs"], DIGITS[best(given)]) for row, given in answered]
    return {"acc": accuracy(pairs), "f1_macro": macro_f1(pairs)}


def _rucola(answered: Answered) -> dict[str, float]:
    pairs = [(str(row["label"]), "01"[best(given)]) for row, given in answered]
    return {"acc": accuracy(pairs), "mcc": matthews(pairs)}


def _rwsd(answered: Answered) -> dict[str, float]:
    return {
        "acc": mean(
            row["outputs"].startswith(("Да", "Нет")[best(given)]) for row, given in answered
        )
    }


def _parus(answered: Answered) -> dict[str, float]:
    items = {}
    for row, given in answered:
        assert row["meta"]["id"] not in items, "one row per id"
        gold = int(row["outputs"]) - 1
        items[row["meta"]["id"]] = best(given[:2]) == gold and best(given[2:]) == 1 - gold
    return {"acc": mean(items.values())}


def _categories(rights: Sequence[tuple[str, bool]]) -> float:
    """Rows make subjects, subjects make categories, categories make the score; each level a plain
    mean over what is there.
    """
    subjects: dict[str, list[bool]] = {}
    for subject, right in rights:
        subjects.setdefault(subject, []).append(right)
    means = {subject: mean(values) for subject, values in subjects.items()}
    groups = [
        [means[subject] for subject in members if subject in means]
        for members in CATEGORIES.values()
    ]
    assert sum(map(len, groups)) == len(means), "a subject without a category"
    return mean(mean(group) for group in groups if group)


ASCII_PUNCTUATION = {chr(n) for n in range(33, 127) if not chr(n).isalnum()}


def _normalised(text: str) -> list[str]:
    """SQuAD's words: articles go where they stand alone, and a word ends at whatever is no letter,
    digit or underscore.
    """
    kept = "".join(c for c in text.lower() if c not in ASCII_PUNCTUATION)
    made, word = [], ""
    for c in kept + " ":
        if c.isalnum() or c == "_":
            word += c
        else:
            made.append((" " if word in ("a", "an", "the") else word) + c)
            word = ""
    return "".join(made).split()


def _squad(gold: str, said: str) -> tuple[float, float]:
    one, two = _normalised(gold), _normalised(said)
    if not one or not two:
        return float(one == two), float(one == two)
    common = sum((Counter(one) & Counter(two)).values())
    return 2 * common / (len(one) + len(two)), float(one == two)


def _multiq(answered: Answered) -> dict[str, float]:
    f1, em = [], []
    for row, (said,) in answered:
        found = [_squad(gold["segment"], said) for gold in row["outputs"]]
        f1.append(max(f for f, _ in found))
        em.append(max(e for _, e in found))
    return {"f1": mean(f1), "em": mean(em)}


def use_points(row: dict[str, Any], said: str) -> int:
    """Points of one exam question."""
    gold, said = row["outputs"].split(","), said.strip()
    parts = [part.strip() for part in said.split(",")]
    kind = row["meta"]["type"]
    if kind == "matching":
        return sum(one == two for one, two in zip(gold, parts)) if len(gold) == len(parts) else 0
    if kind == "text":
        return int(
            "".join(c for c in said if (c.isalnum() and not c.isdecimal()) or c == "_").lower()
            in gold
        )
    shared = len(set(gold) & set(parts))
    if row["meta"]["id_task"] == "16":
        parts += ["-1"] * (len(gold) - len(parts))
        return max(0, len(set(gold) & set(parts)) - len(parts) + len(gold))
    return int(shared == len(set(gold)) == len(set(parts)))


def _use(answered: Answered) -> dict[str, float]:
    variants: dict[Any, int] = {}
    for row, (said,) in answered:
        variant = row["meta"]["variant"]
        variants[variant] = variants.get(variant, 0) + use_points(row, said)
    return {"grade_norm": mean(points / 34 for points in variants.values())}


@cache
def _analyzer() -> Any:
    import pymorphy3

    return pymorphy3.MorphAnalyzer(lang="ru")


@cache
def _lemma(word: str) -> str:
    return _analyzer().parse(word)[0].normal_form


def lemmas(text: str) -> list[str]:
    return [
        _lemma(word)
        for word in "".join(" " if c in ASCII_PUNCTUATION else c for c in text.lower()).split()
    ]


def rouge_f(gold: str, said: str, n: int) -> float:
    """ROUGE-n F over lemmas; 0 where either side has no n-gram."""
    one, two = (
        [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        for words in (lemmas(gold), lemmas(said))
    )
    common = sum((Counter(one) & Counter(two)).values())
    return 2 * common / (len(one) + len(two)) if common else 0.0


def _abstractive(answered: Answered) -> dict[str, float]:
    pairs = [(" ".join(row["summary_sents"]), said) for row, (said,) in answered]
    return {f"rouge{n}": mean(rouge_f(gold, said, n) for gold, said in pairs) for n in (1, 2)}


def _extractive(answered: Answered) -> dict[str, float]:
    values = []
    for row, given in answered:
        assert len(given) == len(row["src_sents"])
        gold = set(row["extractive_summary"])
        ranked = sorted(range(len(given)), key=lambda n: (-given[n][0], n))
        values.append(
            len(gold.intersection(ranked[: len(row["extractive_summary"])]))
            / len(row["extractive_summary"])
        )
    return {"r_prec": mean(values)}


def matched(gold: str, said: str) -> float:
    """Characters in matching blocks of both, per character of what was said (the paper-time
    denominator).
    """
    one, two = gold.strip(), said.strip()
    blocks = difflib.SequenceMatcher(None, one, two, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(two) if two else 0.0


def _copy(answered: Answered, tokens: Tokens, cap: int) -> dict[str, float]:
    lengths, copies, symbols = [], [], []
    for row, (said,) in answered:
        text = row["inputs"]["text"]
        s = min(cap, tokens.count(text if tokens.own_space else " " + text))
        p = tokens.count(said) if said else 0
        lengths.append(min(p / s, s / p) if p else 0.0)
        copies.append(matched(text, said) >= 0.99)
        symbols.append(len(said) / (1 + p))
    return {"len": mean(lengths), "lcs": mean(copies), "symbols_per_token": mean(symbols)}


def longest_common_subsequence(one: str, two: str) -> int:
    """Its length, by the table of the textbook."""
    above = [0] * (len(two) + 1)
    for c in one:
        row = [0]
        for n, d in enumerate(two):
            row.append(above[n] + 1 if c == d else max(above[n + 1], row[n]))
        above = row
    return above[-1]


def strict_copies(task: str, answered: Answered) -> dict[str, float]:
    """The copy tasks under the strict protocol, in characters alone, for answers that no limit
    cuts.
    """
    lengths, copies = [], []
    for row, (said,) in answered:
        one, two = row["inputs"]["text"].strip(), said.strip()
        share = longest_common_subsequence(one, two) / len(one)
        copies.append(float(share >= 0.99) if "para" in task else share)
        lengths.append(min(len(one), len(two)) / max(len(one), len(two)))
    return {"len": mean(lengths), "lcs": mean(copies), "score": mean(copies)}


_RULES: dict[str, Callable[[Answered], dict[str, float]]] = {
    "rummlu": lambda answered: {"acc": _lettered(answered)["acc"]},
    "multiq": _multiq,
    "parus": _parus,
    "rcb": _rcb,
    "rwsd": _rwsd,
    "use": _use,
    "ruopenbookqa": _lettered,
    "ruworldtree": _lettered,
    "rucola": _rucola,
    "sum_abstractive": _abstractive,
    "sum_extractive": _extractive,
}
