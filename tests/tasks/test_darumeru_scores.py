"""Choices and exams: every score that the tasks give through their contract equals the rules
computed a second time.
"""

from __future__ import annotations

import math
import random

import darumeru_rows
import pytest
import rules
from contract import agree, gold_option, guessed, knowing, options, rows

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.usefixtures("nothing_outside")

TASKS = [task for task in sorted(rules.METRICS) if "_copy_" not in task]


@pytest.mark.parametrize("protocol", ["paper", "strict"])
@pytest.mark.parametrize(
    ("task", "kind"),
    [
        *((task, "made") for task in TASKS),
        *((f"darumeru_{name}", "real") for name in darumeru_rows.CONFIGS),
    ],
)
def test_oracle_and_flip(task: str, kind: str, protocol: str) -> None:
    name = task.removeprefix("darumeru_")
    chosen = rows(task) if kind == "made" else darumeru_rows.real(name)
    if not chosen:
        pytest.skip("no real rows")
    right = agree(task, [(row, knowing(name, row, True)) for row in chosen], protocol=protocol)
    if name == "use" and kind == "real":
        # One question of each variant, so one point of 34 (questions are sorted by number): a grade
        # of these rows means nothing.
        assert right["score"] == pytest.approx(1 / 34, abs=1e-12)
    else:
        assert all(value == pytest.approx(1.0, abs=1e-12) for value in right.values()), right
    wrong = agree(task, [(row, knowing(name, row, False)) for row in chosen], protocol=protocol)
    if name == "rucola":
        # all wrong is perfect anticorrelation
        assert wrong == pytest.approx({"acc": 0.0, "mcc": -1.0, "score": -0.5})
    elif name == "sum_extractive":
        # A row whose every sentence is gold cannot be ranked wrongly; of the first row's six
        # sentences the three others win.
        assert wrong["r_prec"] == pytest.approx(1 / 4)
    else:
        assert all(value == 0.0 for value in wrong.values()), wrong


@pytest.mark.parametrize("protocol", ["paper", "strict"])
@pytest.mark.parametrize("task", TASKS)
def test_random_answers(task: str, protocol: str) -> None:
    name, rng = task.removeprefix("darumeru_"), random.Random(20240718)
    pool = rows(task) + darumeru_rows.real(name)
    picked = [darumeru_rows.again(rng.choice(pool), n) for n in range(400)]
    if name in ("mmlu_ru", "mmlu_en"):  # all 57 subjects
        every = [subject for members in rules.CATEGORIES.values() for subject in members]
        picked = [
            {**row, "subject": every[n] if n < 57 else rng.choice(every)}
            for n, row in enumerate(picked)
        ]
    found = agree(
        task,
        [(row, guessed(name, row, rng.choice(pool), rng)) for row in picked],
        protocol=protocol,
    )
    assert 0 < found["score"] and all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize(
    "task",
    [t for t in TASKS if t not in ("darumeru_multiq", "darumeru_use", "darumeru_sum_abstractive")],
)
def test_of_equal_options_the_earlier_wins(task: str) -> None:
    name = task.removeprefix("darumeru_")
    for row in rows(task):
        if name == "sum_extractive":
            agree(task, [(row, [(-2.0, False)] * len(row["src_sents"]))])
            continue
        count, place = gold_option(name, row)
        found = agree(task, [(row, [(-2.0, False)] * count * (2 if name == "parus" else 1))])
        assert found["acc"] == (0.0 if name == "parus" else float(place == 0))
        if name != "parus" and count > 2:
            late = [(-9.0, False)] + [(-2.0, False)] * (count - 1)
            assert agree(task, [(row, late)])["acc"] == float(place == 1)


def test_parus_needs_both_orders() -> None:
    for row in rows("darumeru_parus"):
        gold = int(row["outputs"]) - 1
        for first in (0, 1):
            for second in (0, 1):
                given = [*options(2, first), *options(2, second)]
                assert agree("darumeru_parus", [(row, given)])["acc"] == float(
                    first == gold and second != gold
                )


def test_rwsd_gold_may_go_on_after_the_word() -> None:
    row = {**rows("darumeru_rwsd")[0], "outputs": "Да, относится"}
    assert agree("darumeru_rwsd", [(row, options(2, 0))])["acc"] == 1.0
    assert agree("darumeru_rwsd", [(row, options(2, 1))])["acc"] == 0.0


def test_rcb_classes_missing_from_the_predictions_count_zero() -> None:
    chosen = rows("darumeru_rcb")  # gold 1 2 3 1 3 2
    found = agree(
        "darumeru_rcb",
        [(row, options(3, place)) for row, place in zip(chosen, (0, 1, 1, 0, 1, 1), strict=True)],
    )
    assert found == pytest.approx(
        {"acc": 4 / 6, "f1_macro": (1 + 2 / 3 + 0) / 3, "score": (4 / 6 + 5 / 9) / 2}
    )
    two = [chosen[0], chosen[3]]  # gold knows one class, predictions another: both are labels
    assert agree("darumeru_rcb", [(row, options(3, n)) for n, row in enumerate(two)])[
        "f1_macro"
    ] == pytest.approx((2 / 3 + 0) / 2)


def test_rucola_one_sided_predictions_have_no_correlation() -> None:
    chosen = rows("darumeru_rucola")
    for place in (0, 1):
        found = agree("darumeru_rucola", [(row, options(2, place)) for row in chosen])
        assert found == pytest.approx({"acc": 0.5, "mcc": 0.0, "score": 0.25})
    places = (1, 1, 1, 0, 0, 0)  # gold 1 1 0 0 0 1
    found = agree(
        "darumeru_rucola",
        [(row, options(2, place)) for row, place in zip(chosen, places, strict=True)],
    )
    assert found["mcc"] == pytest.approx(1 / 3)


def test_mmlu_is_a_mean_of_means() -> None:
    for task in ("darumeru_mmlu_ru", "darumeru_mmlu_en"):
        right = {"anatomy", "astronomy", "formal_logic"}
        found = agree(
            task, [(row, knowing(task[9:], row, row["subject"] in right)) for row in rows(task)]
        )
        # STEM: astronomy of two; other: anatomy of two; humanities: formal_logic of two; social
        # sciences: none of two.
        assert found["acc"] == pytest.approx(3 / 8)


USE = [
    # type, id_task, gold, said, points
    ("matching", "8", "7,2,5,1,9", "7,2,5,1,9", 5),
    ("matching", "8", "7,2,5,1,9", " 7, 2,5 ,1,8\n", 4),
    ("matching", "8", "7,2,5,1,9", "7,2,5,1", 0),
    ("matching", "8", "7,2,5,1,9", "7,2,5,1,9,9", 0),
    ("matching", "8", "7,2,5,1,9", "72519", 0),
    ("matching", "16", "3,1", "1,3", 0),
    ("text", "6", "свободная,вольная", "Вольная.", 1),
    ("text", "6", "свободная,вольная", " 12) «Свободная»!\n", 1),
    ("text", "6", "свободная,вольная", "свободная,вольная", 0),
    ("text", "6", "свободная,вольная", "свободная или вольная", 0),
    ("text", "7", "какбудто", "как + будто", 1),
    ("text", "7", "бокобок", "бок_о_бок", 0),
    ("text", "7", "бок_о_бок", "бок_о_бок", 1),
    ("text", "7", "Двести", "Двести", 0),  # what was said is put in lower case, the key is not
    ("text", "16", "двести", "двести", 1),
    ("text", "7", "двести", "", 0),
    ("multiple_choice_based_on_text", "16", "2,5", "5,2", 2),
    ("multiple_choice_based_on_text", "16", "2,5", "2", 1),
    ("multiple_choice_based_on_text", "16", "2,5", "2,4", 1),
    ("multiple_choice_based_on_text", "16", "2,5", "2,5,4", 1),
    ("multiple_choice_based_on_text", "16", "2,5", "2,5,5", 1),
    ("multiple_choice_based_on_text", "16", "2,5", "1,2,3,4,5", 0),
    ("multiple_choice_based_on_text", "16", "2,5", "2,2,2,2,2", 0),
    ("multiple_choice_based_on_text", "16", "2,5", "", 0),
    ("multiple_choice_independent_options", "9", "1,3", "3, 1", 1),
    ("multiple_choice_independent_options", "9", "1,3", "1,3,1", 1),  # sets are compared
    ("multiple_choice_independent_options", "9", "1,3", "1,3,5", 0),
    ("multiple_choice_independent_options", "9", "1,3", "1", 0),
    ("multiple_choice_independent_options", "9", "1,3", "13", 0),
    ("multiple_choice_independent_options", "9", "1,3", "1,3.", 0),
    # parts of the key keep their spaces
    ("multiple_choice_independent_options", "9", "1, 3", "1,3", 0),
    ("multiple_choice_independent_options", "9", "4", "4\nПояснение: потому что", 0),
]


@pytest.mark.parametrize(("kind", "number", "gold", "said", "points"), USE)
def test_use_points(kind: str, number: str, gold: str, said: str, points: int) -> None:
    row = darumeru_rows.row(
        "use",
        {"task": "", "text": "", "choices": ""},
        gold,
        id=1,
        variant=3,
        id_task=number,
        type=kind,
        score=1,
    )
    assert rules.use_points(row, said) == points
    assert agree("darumeru_use", [(row, [said])])["grade_norm"] == pytest.approx(
        points / 34, abs=1e-12
    )


def test_use_grades_are_averaged_over_variants() -> None:
    chosen = rows("darumeru_use")
    answered = [(row, knowing("use", row, row["meta"]["variant"] == 17)) for row in chosen]
    assert agree("darumeru_use", answered)["grade_norm"] == pytest.approx(0.5)
    assert agree("darumeru_use", answered[:2] + answered[26:])["grade_norm"] == pytest.approx(0.5)
