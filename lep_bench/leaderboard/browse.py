"""Stored answers for the page's sample browser: the same items of a task for every model, those
first where models differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lep_bench.errors import LepBenchError
from lep_bench.leaderboard.cells import Condition
from lep_bench.leaderboard.table import BITS, SYMBOLS, Block, Column, Table
from lep_bench.records.schema import Sample, TaskResult
from lep_bench.stats import mean

MAX_ANSWER = 1_000  # characters of an answer, gold or raw text that the page shows
MAX_QUESTION = 4_000  # of a question: of a longer one the end, where what is asked stands
ELLIPSIS = " […]"
# result, row numbers -> (row, its hash) -> text
Questions = Callable[[TaskResult, Sequence[int]], Mapping[tuple[int, str], str]]


@dataclass(frozen=True)
class ModelAnswers:
    """One model's: per item the score (None: not asked), and the places of answer and whole text in
    the task's `strings` (-1: none).
    """

    scores: tuple[float | None, ...]
    answers: tuple[int, ...]
    texts: tuple[int, ...]


@dataclass(frozen=True)
class TaskAnswers:
    """A task's items on the page: (row, gold, question) and every model's answers, by the row's
    name on the page.

    `of`: items in all. `graded`: scores run from 0 (wrong) to 1 (right); else they are bits per
    byte. `asked`: of whom the questions are."""

    task: str
    label: str
    of: int
    graded: bool
    asked: str
    items: tuple[tuple[int, int, int], ...]
    strings: tuple[str, ...]
    models: dict[str, ModelAnswers]


class _Strings:
    """Texts kept once."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def __call__(self, text: str | None) -> int:
        return -1 if text is None else self.places.setdefault(text, len(self.places))


@dataclass(frozen=True)
class _Item:
    gold: str
    score: float | None
    answer: str
    text: str | None


def collect_answers(
    table: Table,
    results: Sequence[TaskResult],
    samples: Callable[[TaskResult], Sequence[Sample]],
    most: int,
    questions: Questions,
) -> list[TaskAnswers]:
    """Per task of the table at most `most` items. Of several training seeds the first is shown."""
    found = []
    for column in {c.task: c for c in table.columns if c.metric != SYMBOLS}.values():
        cells: dict[str, TaskResult] = {}
        for result in sorted(
            (r for r in results if r.task == column.task and r.status == "ok"),
            key=lambda r: -r.model.seed,
        ):
            cells |= {place: result for place in _find_rows(table, result)}
        # the order of the page
        cells = {name: cells[name] for name in name_rows(table) if name in cells}
        if cells and most:
            found.append(_collect_task(column, cells, samples, most, questions))
    return [one for one in found if one.items]


def name_rows(table: Table) -> list[str]:
    """What a row is called within the page: the number of its block and its model."""
    return [
        name_row(number, row.model)
        for number, block in enumerate(table.blocks)
        for row in block.rows
    ]


def name_row(block: int, model: str) -> str:
    """See `row_names`."""
    return f"{block}:{model}"


def _find_rows(table: Table, result: TaskResult) -> list[str]:
    """The rows that a result stands in: of its own condition, else (running text, asked without
    conversation) of its engine and dtype.
    """
    own = Condition.from_result(result)

    def rows(fits: Callable[[Block], bool]) -> list[str]:
        held = [
            (n, b)
            for n, b in enumerate(table.blocks)
            if fits(b) and any(r.model == result.model.name for r in b.rows)
        ]
        return [name_row(n, result.model.name) for n, _ in held]

    alike = rows(lambda b: b.condition == own)
    return alike or rows(
        lambda b: (b.condition.engine, b.condition.dtype) == (own.engine, own.dtype)
    )


def _collect_task(
    column: Column,
    cells: Mapping[str, TaskResult],
    samples: Callable[[TaskResult], Sequence[Sample]],
    most: int,
    questions: Questions,
) -> TaskAnswers:
    read = {
        name: {
            (s.doc_id, s.doc_hash): _make_item(s, result.primary)
            for s in _read_samples(samples, result)
        }
        for name, result in cells.items()
    }
    read = {name: items for name, items in read.items() if items}
    keys = list(dict.fromkeys(key for items in read.values() for key in items))
    chosen = sorted(
        keys,
        key=lambda key: (
            -_variance([items[key].score for items in read.values() if key in items]),
            key,
        ),
    )[:most]
    strings, asked, texts = _Strings(), "", dict[tuple[int, str], str]()
    if chosen:
        first = min(cells.values(), key=lambda r: r.scoring.format != "chat")
        texts = dict(questions(first, sorted({number for number, _ in chosen})))
        asked = (
            f"{first.model.name} ({first.scoring.format}, {first.scoring.shots}-shot)"
            if texts
            else ""
        )
    golds = {
        key: next(items[key].gold for items in read.values() if key in items) for key in chosen
    }
    shown = tuple(
        (key[0], strings(golds[key]), strings(_cut_start(texts[key]) if key in texts else None))
        for key in chosen
    )
    models = {
        name: _collect_model([items.get(key) for key in chosen], strings)
        for name, items in read.items()
    }
    return TaskAnswers(
        column.task,
        column.label,
        len(keys),
        column.metric != BITS,
        asked,
        shown,
        tuple(strings.places),
        models,
    )


def _read_samples(
    samples: Callable[[TaskResult], Sequence[Sample]], result: TaskResult
) -> Sequence[Sample]:
    try:
        return samples(result)
    except LepBenchError:  # missing, damaged or changed: the table says so
        return ()


def _collect_model(items: Sequence[_Item | None], strings: _Strings) -> ModelAnswers:
    return ModelAnswers(
        tuple(
            None if item is None or item.score is None else float(f"{item.score:.4g}")
            for item in items
        ),
        tuple(strings(item.answer if item else None) for item in items),
        tuple(strings(item.text if item else None) for item in items),
    )


def _make_item(sample: Sample, primary: str) -> _Item:
    text, answer = sample.values.get("text"), sample.prediction
    raw = text if isinstance(text, str) and text != answer else None
    return _Item(
        _cut_end(sample.gold),
        _score_item(sample, primary),
        _cut_end(answer),
        None if raw is None else _cut_end(raw),
    )


def _score_item(sample: Sample, primary: str) -> float | None:
    """The item's own score; of a score that is no number per item (F1, exam grades) whether the
    answer is the reference, word for word.
    """
    value = sample.values.get(primary)
    if isinstance(value, bool | int | float):
        return float(value)
    if primary == BITS:
        if isinstance(value, list | tuple) and len(value) == 2 and value[1]:
            return float(value[0] / value[1])
        return None
    return float(sample.prediction.strip() == sample.gold.strip())


def _variance(scores: Sequence[float | None]) -> float:
    known = [s for s in scores if s is not None]
    middle = mean(known) if known else 0.0
    return round(mean([(s - middle) ** 2 for s in known]), 9) if known else 0.0


def _cut_end(text: str) -> str:
    return text if len(text) <= MAX_ANSWER else text[:MAX_ANSWER] + ELLIPSIS


def _cut_start(text: str) -> str:
    return text if len(text) <= MAX_QUESTION else ELLIPSIS.strip() + " " + text[-MAX_QUESTION:]
