"""Contamination: planted leaks are found, coincidences are not, and what is counted is what a plain
recount gives.
"""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import contamination
from lep_bench.leaderboard.contamination import (
    COMMON,
    ContaminationReport,
    EvaluationRow,
    Index,
    Search,
    Text,
)

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "darumeru-sample"
SYLLABLES = (
    "ба",
    "ве",
    "го",
    "ду",
    "жи",
    "зу",
    "ка",
    "ле",
    "мо",
    "ну",
    "ри",
    "са",
    "ти",
    "фу",
    "хо",
    "ши",
)


def some_words(count: int, seed: object) -> list[str]:
    """Words that hardly occur twice."""
    rng = random.Random(f"words {seed}")
    return ["".join(rng.choices(SYLLABLES, k=4)) for _ in range(count)]


def row(number: int, length: int = 24, task: str = "reading") -> EvaluationRow:
    return EvaluationRow(
        task,
        number,
        f"hash-{number}",
        {"id": f"no words of the row {number}", "passage": " ".join(some_words(length, number))},
    )


def find(
    rows: list[EvaluationRow], *documents: Any, ngram: int = 13, runs_on: bool = False
) -> ContaminationReport:
    return contamination.scan(rows, [Text("planted", None, iter(documents), runs_on)], ngram)


def flagged(report: ContaminationReport) -> list[int]:
    return sorted(hit.row.doc_id for task in report.tasks for hit in task.hits)


ROWS = [row(number) for number in range(12)]
LEAK = ROWS[4].doc["passage"].split()
AROUND = some_words(400, "around")


def changed(words: list[str], every: int, first: int) -> str:
    return " ".join(
        "другое" if place >= first and (place - first) % every == 0 else word
        for place, word in enumerate(words)
    )


@pytest.mark.parametrize(
    ("documents", "leaks"),
    [
        pytest.param([" ".join(LEAK)], True, id="verbatim"),
        pytest.param(
            [" — ".join(word.title() for word in LEAK).replace("е", "ё") + "!"],
            True,
            id="case, punctuation and ё",
        ),
        pytest.param(
            [" ".join(AROUND[:200] + LEAK + AROUND[200:])], True, id="inside a longer document"
        ),
        pytest.param(["\n".join(LEAK)], True, id="across line breaks"),
        pytest.param([" ".join(AROUND), " ".join(LEAK[5:18])], True, id="13 words"),
        pytest.param([" ".join(AROUND), " ".join(LEAK[5:17])], False, id="12 words only"),
        pytest.param(
            [" ".join(LEAK[:12]), " ".join(LEAK[12:])], False, id="split across two documents"
        ),
        pytest.param(
            [" ".join(AROUND[:99] + changed(LEAK, 99, 12).split() + AROUND[99:])],
            False,
            id="one word changed",
        ),
        pytest.param(
            [" ".join(LEAK[12:] + AROUND + LEAK[:12])], False, id="far apart in one document"
        ),
        pytest.param([" ".join(AROUND)], False, id="nothing"),
        pytest.param(
            [
                {
                    "messages": [
                        {"role": "user", "content": " ".join(LEAK)},
                        {"role": "assistant", "content": "да"},
                    ]
                }
            ],
            True,
            id="chat",
        ),
        pytest.param(
            [{"url": "example", "meta": {"deep": [None, 5, " ".join(LEAK)]}}],
            True,
            id="a field of another name",
        ),
    ],
)
def test_planted_leaks(documents: list[Any], leaks: bool) -> None:
    report = find(ROWS, *documents)
    assert flagged(report) == [4] * leaks
    if leaks:
        (hit,) = report.tasks[0].hits
        assert (hit.text, hit.document, hit.row.doc_hash) == ("planted", len(documents), "hash-4")


def test_the_lines_of_plain_text_run_on_until_an_empty_one() -> None:
    wrapped = [" ".join(AROUND), " ".join(LEAK[:12]), " ".join(LEAK[12:])]
    report = find(ROWS, *wrapped, runs_on=True)
    assert flagged(report) == [4] and report.tasks[0].hits[0].document == 2
    assert flagged(find(ROWS, wrapped[1], "", wrapped[2], runs_on=True)) == []


def test_shares_and_flags_are_what_a_recount_gives() -> None:
    rng = random.Random(1)
    # few, so that rows and texts share runs of all lengths
    words = [f"сл{number}" for number in range(14)]
    rows = [
        EvaluationRow(
            "reading",
            number,
            str(number),
            {"a": " ".join(rng.choices(words, k=rng.randint(5, 30)))},
        )
        for number in range(200)
    ]
    documents = [" ".join(rng.choices(words, k=200)) for _ in range(150)]

    def grams(text: str) -> set[tuple[str, ...]]:
        parts = text.split()
        runs = [tuple(parts[place : place + 5]) for place in range(len(parts) - 4)]
        return {run for run in runs if len(set(run)) >= 5}

    everything = set().union(*map(grams, documents))
    own = [grams(one.doc["a"]) for one in rows]
    common = {run for run in set().union(*own) if sum(run in one for one in own) > COMMON}
    expected = {
        n: len((one - common) & everything) / len(one - common)
        for n, one in enumerate(own)
        if (one - common) & everything
    }
    report = find(rows, *documents, ngram=5)
    got = {hit.row.doc_id: hit.share for hit in report.tasks[0].hits}
    assert 20 < len(expected) < 200
    assert got == pytest.approx({n: share for n, share in expected.items()})
    for hit in report.tasks[0].hits:
        best = max(len(own[hit.row.doc_id] & grams(document)) for document in documents)
        assert len(own[hit.row.doc_id] & grams(documents[hit.document - 1])) == best
        assert (
            hit.words in rows[hit.row.doc_id].doc["a"] and hit.words in documents[hit.document - 1]
        )


@pytest.mark.parametrize("kind", ["grams", "whole"])
def test_wherever_a_batch_ends_the_leak_is_found(kind: str) -> None:
    fields = [["длинный", "первый", "вопрос"], ["иной", "ответ"], ["третий", "выбор"]]
    own_fields = [tuple(field) for field in fields] if kind == "whole" else [tuple(LEAK)]
    leak = LEAK if kind == "grams" else [word for field in fields for word in (*field, "и")]
    index = Index([own_fields], [0], 13)
    for before in range(0, 700, 41):
        search = Search(index, batch=1)  # the smallest that it allows
        search.feed(AROUND[:5], 0, 1)
        search.feed(some_words(before, "before"), 0, 2)
        search.feed(leak, 0, 3)
        flushed = [
            search.feed(some_words(100, f"after {number}"), 0, 4 + number) for number in range(20)
        ]
        search.flush()
        assert any(flushed)
        ((row, match, share),) = search.matches()
        assert (row, match.text, match.document, share) == (0, 0, 3, 1.0)


def test_a_row_of_short_fields_is_known_by_its_fields_together() -> None:
    inputs = {
        "premise": "Мужчина открыл вентиль.",
        "choice1": "Унитаз переполнился водой.",
        "choice2": "Вода потекла из крана.",
    }
    messages = [{"role": "user", "content": "{premise} {choice1} {choice2}"}]
    rows = [
        EvaluationRow(
            "parus",
            0,
            "h",
            {"messages": messages, "inputs": inputs, "outputs": "2", "meta": {"id": 0}},
        )
    ]
    asked = "Вот описание: «{premise}» Что следствие?\n1) {choice1}\n2) {choice2}\nОтветь цифрой."
    assert flagged(find(rows, {"prompt": asked.format(**inputs)})) == [0]
    assert flagged(find(rows, "{choice2} {premise} {choice1}".format(**inputs))) == [0], (
        "in any order"
    )
    assert (
        flagged(find(rows, asked.format(**inputs | {"choice1": "Ничего не случилось."}))) == []
    ), "one field is not there"
    more = [EvaluationRow("parus", 0, "h", {**inputs, "topic": "Хозяйство"})]
    assert flagged(find(more, asked.format(**inputs))) == [], "all but one word"
    far = [inputs["premise"], *AROUND[:60], inputs["choice1"], *AROUND[60:120], inputs["choice2"]]
    assert flagged(find(rows, " ".join(far))) == [], "in one document, but far apart"
    assert flagged(find(rows, *inputs.values())) == [], "each in a document of its own"


def test_what_is_too_short_is_said() -> None:
    texts = (
        "Кто первый?",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14",
        "да да да да да да да да да да да да да да",
        "Кто был там самым первым?",
    )
    rows = [
        EvaluationRow("short", number, str(number), {"question": text})
        for number, text in enumerate(texts)
    ]
    report = find(rows, *texts)
    assert [one.doc_id for one in report.tasks[0].too_short] == [0, 1, 2]
    assert flagged(report) == [3]


def test_the_wording_of_a_task_is_no_leak() -> None:
    wording = some_words(20, "wording")

    def rows(count: int) -> list[EvaluationRow]:
        return [
            EvaluationRow(
                "use", n, str(n), {"task": " ".join(wording), "text": " ".join(some_words(15, n))}
            )
            for n in range(count)
        ]

    assert flagged(find(rows(11), " ".join(wording))) == []
    assert flagged(find(rows(10), " ".join(wording))) == list(range(10)), (
        "a passage that some rows share"
    )
    inside = [
        EvaluationRow("use", n, str(n), {"query": f"Вопрос: {' '.join(some_words(6, n))}\nОтвет:"})
        for n in range(11)
    ]
    assert flagged(find(inside, " ".join(some_words(6, 3)))) == [3], (
        "the question, without the words that all rows have"
    )


def test_fields_that_count() -> None:
    doc = {
        "question_ru": "Что это?",
        "question_en": "What is it?",
        "choices_ru": ["Дом", "Ёж"],
        "choices_en": ["a house"],
        "answer": 1,
    }
    doc |= {"id": "not this", "label": "B"}
    words = {
        task: [field for _, field in contamination.list_fields(EvaluationRow(task, 0, "h", doc))]
        for task in ("mmlu_ru", "mmlu_en", "mmlu")
    }
    assert words["mmlu_ru"] == [("что", "это"), ("дом",), ("еж",)]
    assert words["mmlu_en"] == [("what", "is", "it"), ("a", "house")]
    assert len(words["mmlu"]) == 5
    filled = EvaluationRow(
        "t",
        0,
        "h",
        {
            "messages": [{"role": "user", "content": "Без слотов."}],
            "inputs": {},
            "outputs": "2",
            "meta": {"id": "x"},
        },
    )
    assert contamination.list_fields(filled) == [("messages.content", ("без", "слотов"))]


def test_normalised_words() -> None:
    text = "«Ёлка», — сказал\tО'Генри: за\u0301мок_3,5% Й\u0418\u0306…"
    assert contamination.split_words(text) == [
        "елка",
        "сказал",
        "о",
        "генри",
        "замок",
        "3",
        "5",
        "йй",
    ]
    assert contamination.split_words("пере\u00adнос Straße ÉTÉ 北京") == [
        "перенос",
        "straße",
        "été",
        "北京",
    ]


def test_every_kind_of_file(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": " ".join(LEAK)}]}
    (tmp_path / "a.txt").write_text("\n".join([" ".join(AROUND), "", *LEAK]), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(
        json.dumps({"text": "да"}) + "\n" + json.dumps(chat) + "\n", encoding="utf-8"
    )
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(" ".join(LEAK).encode()))
    parquet.write_table(
        pyarrow.table({"text": ["нет", None], "prompt": [None, " ".join(LEAK)]}),
        tmp_path / "d.parquet",
    )
    for name, document in (("a.txt", 3), ("b.jsonl", 2), ("c.txt.gz", 1), ("d.parquet", 2)):
        report = contamination.scan(ROWS, contamination.open_texts(str(tmp_path / name)))
        (hit,) = report.tasks[0].hits
        assert (hit.text, hit.document, hit.share) == (str(tmp_path / name), document, 1.0)
    report = contamination.scan(ROWS, contamination.open_texts(str(tmp_path)))
    assert [Path(text["name"]).name for text in report.texts] == [
        "a.txt",
        "b.jsonl",
        "c.txt.gz",
        "d.parquet",
    ]
    assert [(text["documents"], text["words"]) for text in report.texts] == [
        (25, 424),
        (2, 25),
        (1, 24),
        (2, 25),
    ]
    assert len({text["sha256"] for text in report.texts}) == 4


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "empty.txt: there is no text in it"),
        ("marks.txt", b"\n --- \n", "marks.txt: there is no text in it"),
        ("numbers.jsonl", b'{"a": 1}\n', "numbers.jsonl: there is no text in it"),
        ("binary.txt", b"\x89PNG\r\n\xff\xfe", "binary.txt is no UTF-8 text"),
        ("broken.jsonl", b'{"text": \n', "broken.jsonl:1: a JSON object"),
        ("broken.parquet", b"PAR1", "broken.parquet is no Parquet file"),
    ],
)
def test_a_file_that_is_no_text_is_refused_before_the_scan(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LepBenchError, match=says) as caught:
        contamination.open_texts(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_without_rows_or_words_there_is_one_clear_line() -> None:
    with pytest.raises(LepBenchError, match="no evaluation rows"):
        find([], "текст")
    with pytest.raises(LepBenchError, match="planted: there is no text in it"):
        find(ROWS, "", "...")


def test_the_record_is_what_the_leaderboard_reads() -> None:
    twice = [
        *ROWS,
        EvaluationRow("copy", 0, "other", {"text": " ".join(LEAK)}),
        EvaluationRow("copy", 1, "other", {"text": " ".join(LEAK)}),
    ]
    record = find(twice, " ".join(LEAK), ROWS[7].doc["id"]).record()
    assert json.loads(json.dumps(record)) == record
    assert (record["schema_version"], record["ngram"]) == (2, 13)
    assert list(record["tasks"]) == ["copy", "reading"]
    assert record["texts"] == [{"name": "planted", "sha256": None, "documents": 2, "words": 30}]
    reading = record["tasks"]["reading"]
    assert (reading["rows"], reading["flagged"], reading["too_short"]) == (12, ["hash-4"], [])
    assert record["tasks"]["copy"]["flagged"] == ["other"]
    assert reading["hits"][0] == {
        "doc_id": 4,
        "doc_hash": "hash-4",
        "share": 1.0,
        "text": "planted",
        "document": 1,
        "words": " ".join(LEAK[:13]),
    }


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample rows are not here")
def test_real_rows() -> None:
    """Every sample row that is long enough is found in its own prompt, and no question in the
    prompts of the few-shot rows.
    """
    rows, shots = [], []
    for folder in sorted(SAMPLE.iterdir()):
        lines = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
        rows += [
            EvaluationRow(f"darumeru_{folder.name}", n, f"{folder.name}-{n}", json.loads(line))
            for n, line in enumerate(lines)
        ]
        shots += [
            {"messages": json.loads(line)["messages"]}
            for line in (folder / "prompt.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    asked = [
        {
            "content": [
                message["content"].format(**one.doc["inputs"]) for message in one.doc["messages"]
            ]
        }
        for one in rows
    ]
    report = find(rows, *asked)
    assert sum(task.rows for task in report.tasks) == len(rows) == 96
    for task in report.tasks:
        assert len(task.hits) + len(task.too_short) == task.rows, task.task
    assert sum(len(task.too_short) for task in report.tasks) == 0
    hits = [hit for task in find(rows, *shots).tasks for hit in task.hits]
    assert {hit.row.doc_hash for hit in hits} == {"multiq-0", "multiq-6", "multiq-8"}, (
        "one few-shot row has the passage of three test rows"
    )
    assert all(hit.share < 0.5 for hit in hits)


def test_a_corpus_in_one_line_is_looked_through_part_by_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = " ".join(AROUND + LEAK + AROUND)
    expected = find(ROWS, "Раз.", whole, whole).record()
    for longest in (1, 50, 333):
        monkeypatch.setattr(contamination, "LONGEST", longest)
        assert find(ROWS, "Раз.", whole, whole).record() == expected
        assert flagged(find(ROWS, " ".join(LEAK[:12]), " ".join(LEAK[12:]))) == [], (
            "two documents stay two"
        )
        assert flagged(find(ROWS, {"a": " ".join(AROUND), "b": " ".join(LEAK)})) == [4]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": " ".join(LEAK)}) + "\n", encoding="utf-8-sig"
    )
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(" ".join(LEAK).encode("utf-8-sig")))
    for name in ("a.jsonl", "b.txt.gz"):
        assert flagged(
            contamination.scan(ROWS, contamination.open_texts(str(tmp_path / name)))
        ) == [4]
