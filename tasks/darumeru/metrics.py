"""Scores of the Darumeru tasks: recomputed from stored samples without lm-eval, model or tokenizer. In pure Python, `RESAMPLED` in numpy.

Rules of the benchmark's code as of July 2024, which made the published numbers. A function that takes one row gives what
is stored for it; a function that takes a list gives the task's value (lists stand for tuples after a way through JSON).
"""

import difflib
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import numpy as np

LETTERS = ("A", "B", "C", "D")
COPIED = 0.99  # a text counts as copied from this share of equal characters on
FULL_MARKS = 34  # points that one variant of the Unified State Exam gives

# The 57 subjects of MMLU, in the order in which the benchmark asks them, with the category each belongs to.
CATEGORIES = {
    "STEM": "abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics college_physics "
    "computer_security conceptual_physics electrical_engineering elementary_mathematics high_school_biology high_school_chemistry "
    "high_school_computer_science high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law "
    "jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law world_religions",
    "social sciences": "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics "
    "high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations security_studies "
    "sociology us_foreign_policy",
    "other": "anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing medical_genetics "
    "miscellaneous nutrition professional_accounting professional_medicine virology",
}
SUBJECTS = dict(sorted((subject, category) for category, names in CATEGORIES.items() for subject in names.split()))

Scores = dict[str, float]
Pair = tuple[str, str]


def choose(log_probabilities: Sequence[float], options: Sequence[str]) -> str:
    """The most probable option; a tie goes to the earlier one. Raises ValueError for what is not one number per option."""
    values = list(log_probabilities)
    if len(values) != len(options) or any(math.isnan(value) for value in values):
        raise ValueError(f"one log-probability for each of {', '.join(options)} is needed, not {values}")
    return options[values.index(max(values))]


def mean(values: Sequence[float]) -> float:
    """The plain mean over rows."""
    return sum(values) / len(values)


def parus(log_probabilities: Sequence[float], gold: str) -> Scores:
    """One PARus row from the log-probabilities of "1" and "2", as is and then with the two alternatives exchanged.

    `acc`: 1.0 only if both orders are answered rightly (the right answer of the exchanged order is the other digit), so
    guessing gives 0.25.
    """
    options = ("1", "2")
    other = options[1 - options.index(gold)]
    right = choose(log_probabilities[:2], options) == gold and choose(log_probabilities[2:], options) == other
    return {"acc": float(right), "score": float(right)}


def accuracy(pairs: Sequence[Pair]) -> float:
    """Share of (gold, prediction) pairs that agree."""
    return sum(gold == prediction for gold, prediction in pairs) / len(pairs)


def f1_macro(pairs: Sequence[Pair]) -> float:
    """Unweighted mean of F1 over every label that occurs as gold or as prediction, of (gold, prediction) pairs."""
    labels = sorted({label for pair in pairs for label in pair})
    hits = Counter(gold for gold, prediction in pairs if gold == prediction)
    said = Counter(label for pair in pairs for label in pair)  # gold and predicted together: F1 = 2 hits / (gold + predicted)
    return sum(2 * hits[label] / said[label] for label in labels) / len(labels)


def mcc(pairs: Sequence[Pair]) -> float:
    """Matthews correlation of (gold, prediction) pairs, any number of labels; 0 where one side is constant."""
    total, hits = len(pairs), sum(gold == prediction for gold, prediction in pairs)
    golds, predictions = Counter(gold for gold, _ in pairs), Counter(prediction for _, prediction in pairs)
    covariance = hits * total - sum(golds[label] * predictions[label] for label in golds)
    spread = (total**2 - sum(n**2 for n in golds.values())) * (total**2 - sum(n**2 for n in predictions.values()))
    return covariance / math.sqrt(spread) if spread else 0.0


def half_f1(pairs: Sequence[Pair]) -> float:
    """(accuracy + macro F1) / 2."""
    return (accuracy(pairs) + f1_macro(pairs)) / 2


def half_mcc(pairs: Sequence[Pair]) -> float:
    """(accuracy + Matthews correlation) / 2."""
    return (accuracy(pairs) + mcc(pairs)) / 2


def by_category(values: Sequence[tuple[str, float]]) -> float:
    """MMLU from (subject, 1.0 or 0.0): accuracy per subject, mean over a category's subjects, mean over the categories.

    Only what occurs counts; rows whose subject is not known ("") are one subject of one category of their own.
    """
    subjects: dict[str, list[float]] = {}
    for subject, right in values:
        subjects.setdefault(subject, []).append(right)
    categories: dict[str, list[float]] = {}
    for subject, rights in subjects.items():
        categories.setdefault(SUBJECTS.get(subject, ""), []).append(mean(rights))
    return mean([mean(accuracies) for accuracies in categories.values()])


def squad(prediction: str, golds: Sequence[str]) -> Scores:
    """MultiQ: SQuAD's F1 over bags of words and exact match, each the best over the accepted answers."""
    f1, em = max(_bag_f1(prediction, gold) for gold in golds), max(float(_normal(prediction) == _normal(gold)) for gold in golds)
    return {"f1": f1, "em": em, "score": (f1 + em) / 2}


def _normal(text: str) -> str:
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _bag_f1(prediction: str, gold: str) -> float:
    said, right = _normal(prediction).split(), _normal(gold).split()
    if not said or not right:
        return float(said == right)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right))


def exam_points(prediction: str, gold: str, kind: str, number: str) -> int:
    """Points of one task of the Unified State Exam. `kind`: the row's type, `number`: its id_task.

    Parts of the prediction are stripped, parts of the gold answer are not.
    """
    answers, said = gold.split(","), [part.strip() for part in prediction.strip().split(",")]
    if kind == "matching":
        return sum(a == b for a, b in zip(answers, said, strict=True)) if len(answers) == len(said) else 0
    if kind == "text":
        return int(re.sub(r"[\d+\W]", "", prediction).lower() in answers)
    if number == "16":
        said += ["-1"] * (len(answers) - len(said))
        return max(0, len(set(answers) & set(said)) - len(said) + len(answers))
    return int(len(set(answers) & set(said)) == len(set(answers)) == len(set(said)))


def grade(values: Sequence[tuple[float, object]]) -> float:
    """The exam's grade from (points, variant): points of a variant over full marks, mean over the variants that occur."""
    variants: dict[object, float] = {}
    for points, variant in values:
        variants[variant] = variants.get(variant, 0.0) + points
    return mean([points / FULL_MARKS for points in variants.values()])


def r_precision(log_probabilities: Sequence[float], gold: Sequence[int]) -> float:
    """Share of the gold sentences among the R most probable, R = their number; ties go to the earlier sentence."""
    order = sorted(range(len(log_probabilities)), key=lambda i: -log_probabilities[i])
    return len(set(order[: len(gold)]) & set(gold)) / len(gold)


def copy_tokens(reference: str, prediction: str, limit: int, count_reference: Callable[[str], int], count: Callable[[str], int]) -> Scores:
    """Copying, protocol `paper`: lengths in tokens, the reference's capped at `limit` (what may be generated).

    `len`: the smaller length over the larger. `lcs`: 1.0 if difflib's matching blocks hold 99% of the PREDICTION (an output
    that is a correct prefix counts), else 0.0. `symbols_per_token`: characters of the output over 1 + its tokens.
    An empty output has 0 everywhere.
    """
    said, read = prediction.strip(), reference.strip()
    if not said:
        return {"len": 0.0, "lcs": 0.0, "symbols_per_token": 0.0}
    expected, made = min(count_reference(reference), limit), count(prediction)
    ratio = min(made / expected, expected / made) if made and expected else 0.0
    return {"len": ratio, "lcs": float(matching(read, said) / len(said) >= COPIED), "symbols_per_token": len(prediction) / (1 + made)}


def matching(a: str, b: str) -> int:
    """Characters in difflib's matching blocks (Ratcliff and Obershelp; not a longest common subsequence), autojunk off."""
    if a in b or b in a:  # the longest block is the whole shorter text; difflib needs a second for that at 4,000 characters
        return min(len(a), len(b))
    return sum(block.size for block in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks())


def copy_characters(reference: str, prediction: str) -> Scores:
    """Copying, protocol `strict`, without any tokenizer: `len`, the smaller length over the larger, and `lcs`, the longest
    common subsequence over the length of the reference. White space around either text does not count."""
    read, said = reference.strip(), prediction.strip()
    if not said or not read:
        return {"len": 0.0, "lcs": 0.0}
    return {"len": min(len(read) / len(said), len(said) / len(read)), "lcs": subsequence(read, said) / len(read)}


def subsequence(a: str, b: str) -> int:
    """Length of the longest common subsequence of characters, bit-parallel (Hyyrö 2004): 4,000 characters in milliseconds."""
    places: dict[str, int] = {}
    for i, letter in enumerate(a):
        places[letter] = places.get(letter, 0) | 1 << i
    full = row = (1 << len(a)) - 1
    for letter in b:
        met = row & places.get(letter, 0)
        row = ((row + met) | (row - met)) & full
    return len(a) - row.bit_count()


# The same for many weightings of the values at once, for bootstrap and jackknife: of K distinct `values`, `whole` [K] says how often each
# occurs and `counts` [B, K] how often in each of B resamples; [B] scores, of which some are not finite where nothing is left.


def _sums(keys: Sequence[Hashable], counts: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """[B, L]: counts (times weights) added up by key, the L keys in order of appearance."""
    places = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    member = np.zeros((len(keys), len(places)))
    member[np.arange(len(keys)), [places[key] for key in keys]] = 1.0 if weights is None else weights
    return counts @ member


def _labels(pairs: Sequence[Pair], counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[B, L] each: hits, golds and predictions per label."""
    golds, predictions = zip(*pairs)
    names = sorted({*golds, *predictions})
    none = np.zeros((len(counts), len(names)))  # one column per label, whether or not this side has it: all sides in the same order
    hits = _sums([*names, *golds], np.hstack([none, counts * np.array([a == b for a, b in pairs])]))
    return hits, _sums([*names, *golds], np.hstack([none, counts])), _sums([*names, *predictions], np.hstack([none, counts]))


def accuracies(pairs: Sequence[Pair], whole: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`accuracy` of each resample."""
    return counts @ np.array([gold == prediction for gold, prediction in pairs], dtype=float) / counts.sum(1)


def f1_macros(pairs: Sequence[Pair], whole: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`f1_macro` of each resample."""
    hits, golds, predictions = _labels(pairs, counts)
    said = golds + predictions
    return (2 * hits / np.where(said > 0, said, 1)).sum(1) / (said > 0).sum(1)


def mccs(pairs: Sequence[Pair], whole: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`mcc` of each resample."""
    hits, golds, predictions = _labels(pairs, counts)
    total = counts.sum(1)
    covariance = hits.sum(1) * total - (golds * predictions).sum(1)
    spread = (total**2 - (golds**2).sum(1)) * (total**2 - (predictions**2).sum(1))
    return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)


def halves(other: Callable[..., np.ndarray], pairs: Sequence[Pair], whole: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(accuracy + the other score) / 2 of each resample."""
    return (accuracies(pairs, whole, counts) + other(pairs, whole, counts)) / 2


def by_categories(values: Sequence[tuple[str, float]], whole: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`by_category` of each resample."""
    subjects = [subject for subject, _ in values]
    rows, right = _sums(subjects, counts), _sums(subjects, counts, [value for _, value in values])
    there = (rows > 0).astype(float)
    categories = [SUBJECTS.get(subject, "") for subject in dict.fromkeys(subjects)]
    held, total = _sums(categories, there), _sums(categories, right / np.where(rows > 0, rows, 1))
    return (total / np.where(held > 0, held, 1)).sum(1) / (held > 0).sum(1)


def grades(values: Sequence[tuple[float, object]], whole: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`grade` of each resample. A variant of which half the rows were drawn counts half, one that was drawn twice counts twice."""
    variants = [variant for _, variant in values]
    drawn = _sums(variants, counts) / _sums(variants, whole[None])
    return counts @ np.array([points for points, _ in values], dtype=float) / FULL_MARKS / drawn.sum(1)


# Scores that are no means over rows, per task and metric: what the leaderboard recomputes from stored values.
_F1 = {"f1_macro": f1_macro, "score": half_f1}
_BY_CATEGORY = {"acc": by_category, "score": by_category}
AGGREGATIONS = {
    "darumeru_rcb": _F1,
    "darumeru_ruopenbookqa": _F1,
    "darumeru_ruworldtree": _F1,
    "darumeru_rucola": {"mcc": mcc, "score": half_mcc},
    "darumeru_mmlu_ru": _BY_CATEGORY,
    "darumeru_mmlu_en": _BY_CATEGORY,
    "darumeru_use": {"grade_norm": grade, "score": grade},
}
# A grade is of whole variants: where rows are left out, their variants go as a whole. Of (points, variant), the variant.
UNITS = {"darumeru_use": lambda value: value[1]}
_MANY = {
    half_f1: partial(halves, f1_macros), half_mcc: partial(halves, mccs), f1_macro: f1_macros, mcc: mccs, by_category: by_categories, grade: grades,
}  # fmt: skip
RESAMPLED = {task: {metric: _MANY[function] for metric, function in own.items()} for task, own in AGGREGATIONS.items()}
