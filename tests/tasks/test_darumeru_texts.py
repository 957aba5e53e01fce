"""Generated text: answers, summaries and copies are scored by the tasks as by the rules computed a
second time; what is refused.
"""

from __future__ import annotations

import bisect
import math
import random
from pathlib import Path
from typing import Any

import darumeru_rows
import pytest
import rules
from contract import agree, load, rows, scored, tokens

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.usefixtures("nothing_outside")

TOKENIZERS = ("mini-llama", "mini-mistral", "byte-level", "sentencepiece")
COPIES = [task for task in sorted(rules.METRICS) if "_copy_" in task]
CAPS = {
    "darumeru_copy_sent_ru": 128,
    "darumeru_copy_sent_en": 128,
    "darumeru_copy_para_ru": 1024,
    "darumeru_copy_para_en": 1024,
}

ANSWERS = [
    # gold segments, said, f1, em
    (["The Beatles"], "beatles!", 1, 1),
    (["Каспийское море", "в Каспийское"], " в Каспийское\n", 1, 1),
    (["Каспийское море"], "Каспийское", 2 / 3, 0),
    (["Каспийское море", "моря"], "море моря Каспийское", 4 / 5, 0),
    (["И. Р. Метшин"], "и р метшин", 1, 1),
    (["«Дом учёных»"], "Дом учёных", 0, 0),  # only ASCII punctuation is deleted
    (["Дом учёных — Новосибирск"], "Дом учёных - Новосибирск", 6 / 7, 0),
    (["Дом учёных"], "Дом\u00a0учёных", 1, 1),
    (["а"], "a", 0, 0),  # the English article goes, the Russian conjunction stays
    (["The"], "an", 1, 1),  # nothing is left of either
    (["Оби"], "", 0, 0),
    (["...", "Оби"], "!", 1, 1),
    (["«the» Times"], "«a» times", 1, 1),
    (["theatre"], "the atre", 0, 0),
    (["1755", "в 1755 году"], "1755\nПояснение: 1755", 1 / 2, 0),
    (["Санкт-Петербургские ведомости"], "санктпетербургские ведомости", 1, 1),
    (["раз раз два"], "раз два два", 2 / 3, 0),
]


@pytest.mark.parametrize("protocol", ["paper", "strict"])
@pytest.mark.parametrize(("segments", "said", "f1", "em"), ANSWERS)
def test_multiq(segments: list[str], said: str, f1: float, em: float, protocol: str) -> None:
    row = {
        **rows("darumeru_multiq")[0],
        "outputs": [
            {"label": "answer", "length": len(s), "offset": 0, "segment": s} for s in segments
        ],
    }
    found = agree("darumeru_multiq", [(row, [said])], protocol=protocol)
    assert found == pytest.approx({"f1": f1, "em": em, "score": (f1 + em) / 2}, abs=1e-12)


SUMMARIES = [
    # gold sentences, said, ROUGE-1 F, ROUGE-2 F
    (["Учёные видят новых пауков."], "учёный видел нового паука", 1, 1),
    # the first parse of this form is another verb
    (["Учёные нашли новых пауков."], "учёный нашёл нового паука", 3 / 4, 1 / 3),
    # a dash is no ASCII punctuation: a word
    (["Новые пауки", "в пещере"], "новый паук — в пещерах", 8 / 9, 4 / 7),
    (["Новые пауки"], "«новые» пауки", 1 / 2, 0),  # and a quotation mark stays at its word
    (["Северо-западные ветры"], "северо западный ветер", 1, 1),
    (["кот кот кот"], "кот", 1 / 2, 0),
    (["кот"], "коты", 1, 0),  # no bigram on either side
    (["кот спит"], "", 0, 0),
    (["кот спит"], " ...\n", 0, 0),
    (["кот спит дома"], "собака ест траву", 0, 0),
]


@pytest.mark.parametrize("protocol", ["paper", "strict"])
@pytest.mark.parametrize(("gold", "said", "one", "two"), SUMMARIES)
def test_rouge_over_lemmas(
    gold: list[str], said: str, one: float, two: float, protocol: str
) -> None:
    row = {**rows("darumeru_sum_abstractive")[0], "summary_sents": gold}
    found = agree("darumeru_sum_abstractive", [(row, [said])], protocol=protocol)
    assert found == pytest.approx(
        {"rouge1": one, "rouge2": two, "score": (one + two) / 2}, abs=1e-12
    )


def test_sentences_are_joined_and_order_counts_in_pairs() -> None:
    row = {
        **rows("darumeru_sum_abstractive")[0],
        "summary_sents": ["Учёные видели новых пауков", "в тёмных пещерах."],
    }
    assert agree(
        "darumeru_sum_abstractive", [(row, ["Учёный видит нового паука в тёмной пещере"])]
    )["score"] == pytest.approx(1.0)
    turned = agree(
        "darumeru_sum_abstractive", [(row, ["пещере тёмной в паука нового видит учёный"])]
    )
    assert turned == pytest.approx({"rouge1": 1.0, "rouge2": 0.0, "score": 0.5})


@pytest.mark.parametrize("protocol", ["paper", "strict"])
def test_r_precision(protocol: str) -> None:
    row = rows("darumeru_sum_extractive")[0]  # gold 0, 2, 4 of six
    for sums, share in (
        ([-1, -9, -2, -9, -3, -9], 1),
        ([-1, -2, -3, -4, -5, -6], 2 / 3),
        ([-9, -1, -8, -2, -7.0, -3], 0),
        ([-5] * 6, 2 / 3),
    ):
        found = agree(
            "darumeru_sum_extractive", [(row, [(float(s), False) for s in sums])], protocol=protocol
        )
        assert found == pytest.approx({"r_prec": share, "score": share}, abs=1e-12)


def test_a_row_without_gold_sentences_is_never_nan() -> None:
    row = {**rows("darumeru_sum_extractive")[0], "extractive_summary": []}
    try:
        found = scored(load("darumeru_sum_extractive"), [(row, [(-1.0, False)] * 6)])
    except ValueError as error:
        assert "extractive_summary" in str(error) and "\n" not in str(error)
    else:
        assert math.isfinite(found["score"])


def lead(folder: Path) -> str:
    """What a model of this tokenizer writes before the first word: the space that the other kind
    has in its first token.
    """
    return "" if tokens(folder).own_space else " "


def cut(text: str, folder: Path, cap: int) -> tuple[str, str]:
    """`text`, without its first words where need be, and the longest beginning of it that has
    exactly `cap` tokens, as a model writes it.
    """
    count, space = tokens(folder).count, lead(folder)
    while True:
        about = bisect.bisect(range(len(text)), cap, key=lambda n: count(space + text[:n]))
        fitting = [n for n in range(about - 20, about + 20) if count(space + text[:n]) == cap]
        if fitting:
            return text, space + text[: fitting[-1]]
        text = text.split(" ", 1)[1]  # the limit falls within a character of two tokens


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("task", COPIES)
def test_copies(task: str, kind: str, tokenizers: dict[str, Path]) -> None:
    folder, cap = tokenizers[kind], CAPS[task]
    *short, long = rows(task)
    text, beginning = cut(long["inputs"]["text"], folder, cap)
    assert tokens(folder).count(text) > cap + 40
    long = darumeru_rows.row("copy", {"text": text}, text, id=99)
    oracle = [(row, [lead(folder) + row["inputs"]["text"]]) for row in short] + [
        (long, [beginning])
    ]
    right = agree(task, oracle, folder)
    # The limit of new tokens cuts the last one: its length is as expected, and a right beginning is
    # a right copy.
    assert right["len"] == right["lcs"] == right["score"] == 1.0
    assert right["symbols_per_token"] > 0.5
    assert set(agree(task, [(row, [""]) for row in short], folder).values()) == {0.0}
    blank = scored(
        load(task, protocol="paper", tokenizer=str(folder)), [(row, [" \n"]) for row in short]
    )
    # whether white space is an empty output is not written
    assert blank["lcs"] == 0.0 <= blank["len"] < 0.1
    assert agree(task, [(row, ["Слон 2 + 2 = 5"]) for row in short], folder)["lcs"] == 0.0
    whole = agree(task, [(long, [lead(folder) + text])], folder)
    assert whole["lcs"] == 1.0 and whole["len"] == pytest.approx(
        cap / tokens(folder).count(lead(folder) + text)
    )
    for row in short:
        said, length = (
            row["inputs"]["text"],
            tokens(folder).count(lead(folder) + row["inputs"]["text"]),
        )
        twice = agree(task, [(row, [f"{lead(folder)}{said} {said}"])], folder)
        assert twice["lcs"] == 0.0 and twice["len"] < 0.6
        half = agree(task, [(row, [lead(folder) + said[: len(said) // 2]])], folder)
        assert (
            half["lcs"] == 1.0
            and half["len"] < 0.8
            and half["len"] * length == pytest.approx(round(half["len"] * length))
        )


@pytest.mark.parametrize("task", ["darumeru_copy_para_ru", "darumeru_copy_sent_en"])
def test_a_copy_may_hold_one_wrong_character_in_a_hundred(
    task: str, tokenizers: dict[str, Path]
) -> None:
    text = (" ".join(darumeru_rows.RU) * 2)[:198].strip().ljust(198, "я")
    row = darumeru_rows.row("copy", {"text": text}, text, id=1)
    # 198 / 200 is 0.99; white space at the ends is not counted
    for extra, share in (("##", 1.0), ("###", 0.0), ("##\n", 1.0)):
        assert agree(task, [(row, [text + extra])], tokenizers["mini-llama"])["lcs"] == share
    assert (
        agree(task, [(row, [text[:100] + "#" + text[101:]])], tokenizers["mini-llama"])["lcs"]
        == 1.0
    )


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("task", COPIES)
def test_random_copies(task: str, kind: str, tokenizers: dict[str, Path]) -> None:
    rng, pool = random.Random(17), rows(task)[:-1]
    answered = []
    for n in range(120):
        row = darumeru_rows.again(rng.choice(pool), n)
        text, place = row["inputs"]["text"], rng.randrange(1, 40)
        said = [
            text,
            f" {text}",
            f"  {text}\n\n",
            text[:-place],
            text[place:],
            text[:place] + "ъ" + text[place:],
            f"{text} {text[:place]}",
            rng.choice(pool)["inputs"]["text"],
            text.lower(),
            "Вот текст:" + text,
            text.replace(" ", "  "),
            "",
        ]
        answered.append((row, [rng.choice(said)]))
    found = agree(task, answered, tokenizers[kind])
    assert 0 < found["len"] < 1 and 0 < found["lcs"] < 1


@pytest.mark.parametrize("task", COPIES)
def test_strict_copies_are_counted_in_characters_of_the_reference(task: str) -> None:
    rng, short, found = random.Random(5), rows(task)[:-1], []
    strict = load(task, protocol="strict")  # needs no tokenizer
    for n in range(30):
        row = darumeru_rows.again(rng.choice(short), n)
        text, place = row["inputs"]["text"], rng.randrange(1, 40)
        said = (
            text,
            f" {text}\n",
            text[:-place],
            text[place:],
            text[:place] + "ъ" + text[place + 1 :],
            text.lower(),
            text[::-1],
            "Слон",
            "",
            " \n",
        )
        found.append((row, [rng.choice(said)]))
    for answered in (
        found,
        [(row, [row["inputs"]["text"]]) for row in short],
        [(row, [""]) for row in short],
    ):
        assert scored(strict, answered) == pytest.approx(
            rules.strict_copies(task, answered), abs=1e-9
        )
    oracle = scored(strict, [(row, [row["inputs"]["text"]]) for row in rows(task)])
    assert set(oracle.values()) == {1.0} and set(
        scored(strict, [(row, [""]) for row in rows(task)]).values()
    ) == {0.0}
    half = scored(
        strict, [(row, [row["inputs"]["text"][: len(row["inputs"]["text"]) // 2]]) for row in short]
    )
    assert half["lcs"] < 0.51  # a right beginning is not a right copy here


@pytest.mark.parametrize(
    "task", [*COPIES, "darumeru_multiq", "darumeru_use", "darumeru_sum_abstractive"]
)
def test_only_strict_cuts_what_was_said_and_at_characters(
    task: str, tokenizers: dict[str, Path]
) -> None:
    row = rows(task)[0]
    strict, paper = (
        load(task, protocol=protocol, tokenizer=str(tokenizers["mini-llama"]))
        for protocol in ("strict", "paper")
    )
    assert paper.character_limit is None
    known = row["outputs"][0]["segment"] if "multiq" in task else "лиса"
    said = f"{known} лиса " * (strict.character_limit // 6)
    assert scored(strict, [(row, [said])]) == scored(
        strict, [(row, [said[: strict.character_limit]])]
    )
    if "copy" in task or "multiq" in task:
        assert agree(task, [(row, [said + "конец"])], tokenizers["mini-llama"]) != scored(
            paper, [(row, [said[: strict.character_limit]])]
        )


def test_the_tokenizer_may_be_the_pretrained_model(tokenizers: dict[str, Path]) -> None:
    answered = [(row, [row["inputs"]["text"][:30]]) for row in rows("darumeru_copy_sent_ru")]
    one, two = (str(tokenizers[name]) for name in ("mini-llama", "mini-mistral"))
    # and paper is the protocol where none is named
    found = scored(load("darumeru_copy_sent_ru", pretrained=one), answered)
    assert (
        found
        == agree("darumeru_copy_sent_ru", answered, Path(one))
        != agree("darumeru_copy_sent_ru", answered, Path(two))
    )
    assert scored(load("darumeru_copy_sent_ru", pretrained=two, tokenizer=one), answered) == found


@pytest.mark.parametrize("task", COPIES)
def test_without_a_tokenizer_token_metrics_say_what_to_give(task: str) -> None:
    row = rows(task)[0]
    with pytest.raises(ValueError, match="tokenizer") as error:
        load(task, protocol="paper").process_results(row, [" " + row["inputs"]["text"]])
    assert (
        task in str(error.value) and "metadata" in str(error.value) and "\n" not in str(error.value)
    )


@pytest.mark.parametrize("task", sorted(rules.METRICS))
def test_another_protocol_is_refused(task: str) -> None:
    with pytest.raises(ValueError, match="nonsense") as error:
        load(task, protocol="nonsense")
    assert all(word in str(error.value) for word in ("paper", "strict")) and "\n" not in str(
        error.value
    )


def test_all_seventeen_are_found_by_their_tag() -> None:
    from lm_eval.tasks import TaskManager

    from lep_bench import files

    found: dict[str, Any] = TaskManager(
        include_path=str(files.shipped_folder("tasks")), include_defaults=False
    ).load(["darumeru"])["tasks"]
    assert set(found) == set(rules.METRICS)
