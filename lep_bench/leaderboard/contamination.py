"""Contamination: which evaluation rows stand in training texts, and the scores without them.

A row is found where a text has 13 of its normalised words in a row, as GPT-3's authors looked for
them (arXiv 2005.14165, appendix C). A row without a field of 13 words is found where a text has all
of its fields close together. Both are exact: hashes only propose places, which are then compared
word by word.

Rows are few and are indexed. Texts are long and stream past in batches, so memory is the index and
one batch. Words are numbered, and 0 stands for every word that no row has. A run of words is hashed
as the sum of its words' random weights times random odd factors of their places, modulo 2**64, so
that one pass over an array hashes all lengths.

`lep-bench contamination` writes a report to OUT/SUITE/contamination.json. `read_scan` reads it for
the leaderboard, and `score_clean` recomputes a score without the flagged rows.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import unicodedata
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, repeat
from pathlib import Path
from typing import Any

import numpy as np

from lep_bench import corpora, stats
from lep_bench.errors import LepBenchError
from lep_bench.files import file_digest
from lep_bench.leaderboard.cells import TOLERANCE, Metrics, ScoredSample
from lep_bench.leaderboard.table import Contamination
from lep_bench.records.schema import TaskResult

SCHEMA_VERSION = 2
READABLE = (1, 2)  # version 1 also listed near-duplicates, which never entered a score

NGRAM = 13  # words, as in GPT-3's appendix C
# What an exact match needs besides, or it says nothing about a row:
COMMON = 10  # words that more rows of a task share are the task's wording, not a row's own text
DISTINCT = 5  # different words (numbers aside): "yes yes yes ..." and "1 2 3 ..." are in any text
# Rows without a field of NGRAM words are looked for by their longest field, the others around it:
ANCHOR = 3  # words that this field must have: one or two occur in every document
REACH = 50  # words to both sides: the wording of a chat stands between the fields

LONGEST = 1 << 20  # characters of a document that are split into words at once
BATCH = 1 << 18  # words

_WORD, _SPACE = re.compile(r"[^\W_]+"), re.compile(r"\s")
# stress marks, soft hyphen, zero width
_INSIDE_WORDS = ("\u0301", "\u0300", "\u00ad", "\u200b", "\u2060", "\ufeff")
# fields without text of the row; messages: the templates that its inputs are put into
_NO_TEXT = {"id", "idx", "meta", "group", "messages"}
_ROLES = {"role", "from"}  # of a chat's messages
_LANGUAGES = ("_ru", "_en")

Watch = Callable[[str, int, int], None]  # text, documents of it so far, words of it so far
Field = tuple[str, ...]  # as words


@dataclass(frozen=True)
class EvaluationRow:
    """An evaluation row. `doc_hash` is that of `Sample.doc_hash`."""

    task: str
    doc_id: int
    doc_hash: str
    doc: Any


@dataclass(frozen=True)
class Text:
    """A training text: `digest` is the sha256 of its content (None if unknown), `documents` are
    strings, or rows whose strings all count. `runs_on`: plain text, which may break a line
    anywhere; an empty line ends a passage.
    """

    name: str
    digest: str | None
    documents: Iterator[str | dict[str, Any]]
    runs_on: bool = False


@dataclass(frozen=True)
class Hit:
    """A flagged row: the share of its n-grams that stand in the texts, and the document that has
    most of them. `document` counts from 1: the line or row. `words` show the place.
    """

    row: EvaluationRow
    share: float
    text: str
    document: int
    words: str

    def record(self) -> dict[str, Any]:
        """The hit as JSON."""
        return {
            "doc_id": self.row.doc_id,
            "doc_hash": self.row.doc_hash,
            "share": round(self.share, 4),
            "text": self.text,
            "document": self.document,
            "words": self.words,
        }


@dataclass(frozen=True)
class TaskReport:
    """The flagged rows of one task, largest share first, and its rows that are too short to say."""

    task: str
    rows: int
    too_short: tuple[EvaluationRow, ...]
    hits: tuple[Hit, ...]

    def record(self) -> dict[str, Any]:
        """The report as JSON. Two rows of the same content have one hash."""
        flagged = dict.fromkeys(hit.row.doc_hash for hit in self.hits)
        too_short = dict.fromkeys(row.doc_hash for row in self.too_short)
        return {
            "rows": self.rows,
            "flagged": list(flagged),
            "too_short": list(too_short),
            "hits": [hit.record() for hit in self.hits],
        }


@dataclass(frozen=True)
class ContaminationReport:
    """A whole scan. `texts`: name, digest, documents and words of each."""

    ngram: int
    texts: tuple[dict[str, Any], ...]
    tasks: tuple[TaskReport, ...]

    def record(self) -> dict[str, Any]:
        """The report as JSON, which `read_scan` reads."""
        return {
            "schema_version": SCHEMA_VERSION,
            "texts": list(self.texts),
            "ngram": self.ngram,
            "tasks": {task.task: task.record() for task in self.tasks},
        }


def split_words(text: str) -> list[str]:
    """Normalised words: lower case, е for ё, letters and digits of any script, without stress marks
    and soft hyphens.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        for mark in _INSIDE_WORDS:
            text = text.replace(mark, "")
    return _WORD.findall(text.lower().replace("ё", "е"))


def find_strings(
    value: Any, skipped: frozenset[str] | set[str] = frozenset(), name: str = ""
) -> Iterator[tuple[str, str]]:
    """(field, text) of every string in a row, however deep. Entries of a list have the list's
    field.
    """
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in skipped:
                yield from find_strings(inner, skipped, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from find_strings(inner, skipped, name)


def list_fields(row: EvaluationRow) -> list[tuple[str, Field]]:
    """(name, words) of the fields that a model must not have seen: all texts of the row but ids,
    the prompt's template and, in a task of one language, the fields of the other (question_en in
    darumeru_mmlu_ru).
    """
    # Messages without slots are the text itself.
    filled = isinstance(row.doc, dict) and "messages" in row.doc and not row.doc.get("inputs")
    skipped = _NO_TEXT - {"messages"} | _ROLES if filled else _NO_TEXT
    other = tuple(
        end for end in _LANGUAGES if row.task.endswith(_LANGUAGES) and not row.task.endswith(end)
    )
    fields = []
    for name, text in find_strings(row.doc, skipped):
        # Interned: rows have the same words again and again.
        field = tuple(map(sys.intern, split_words(text)))
        # One letter or digit is an answer's label.
        if len("".join(field)) > 1 and not (other and name.endswith(other)):
            fields.append((name, field))
    return fields


def list_own_fields(rows: Sequence[EvaluationRow]) -> list[list[Field]]:
    """The fields of every row of one task, each once, without the task's wording: the words that a
    field begins or ends with in all rows ("Question: ... Answer:"), and whole fields that more than
    `COMMON` rows share (a subject's name).
    """
    fields = [list_fields(row) for row in rows]
    for name in sorted({name for own in fields for name, _ in own}):
        same = [field for own in fields for key, field in own if key == name]
        if len(same) <= COMMON:
            continue
        head = len(os.path.commonprefix(same))
        tail = len(os.path.commonprefix([field[head:][::-1] for field in same]))
        fields = [
            [(key, field[head : len(field) - tail] if key == name else field) for key, field in own]
            for own in fields
        ]
    unique = [list(dict.fromkeys(field for _, field in own if field)) for own in fields]
    sharing = Counter(field for own in unique for field in own)
    return [[field for field in own if sharing[field] <= COMMON] for own in unique]


def open_texts(corpus: corpora.Corpus) -> list[Text]:
    """The files and Hub datasets of a corpus. The first words of every file are read at once.

    Raises LepBenchError for a file that does not exist, cannot be read as what its name says, or
    holds no text.
    """
    texts = []
    for part in corpora.parts(corpus):
        digest = None
        if isinstance(part, Path):
            if not any(any(_split_document(row)) for row in corpora.rows(part, "")):
                raise LepBenchError(f"{part}: there is no text in it")
            digest = file_digest(part)
        # No table has a column "", so all columns are read.
        documents = corpora.rows(part, "")
        texts.append(Text(str(part), digest, documents, runs_on=not corpora.has_fields(part)))
    return texts


def _split_document(document: str | dict[str, Any]) -> Iterator[list[str]]:
    """The words of a document, part by part: a corpus in one line has more of them than fit into
    memory.
    """
    if not isinstance(document, str):
        document = "\n".join(text for _, text in find_strings(document, _ROLES))
    begin = 0
    while begin < len(document):
        space = _SPACE.search(document, begin + LONGEST)
        end = space.start() if space else len(document)
        yield split_words(document[begin:end])
        begin = end


def scan(
    rows: Sequence[EvaluationRow],
    texts: Sequence[Text],
    ngram: int = NGRAM,
    watch: Watch = lambda name, documents, words: None,
) -> ContaminationReport:
    """Look for `rows` in the texts, which are read once, in order. `watch` is called after every
    batch of words.

    Raises LepBenchError without rows, for a text without words, and what `corpora.rows` raises.
    """
    rows = sorted(rows, key=lambda row: row.task)
    tasks = [list(own) for _, own in groupby(rows, key=lambda row: row.task)]
    if not tasks:
        raise LepBenchError("there are no evaluation rows to look for")
    fields = [own for task in tasks for own in list_own_fields(task)]
    numbers = [number for number, own in enumerate(tasks) for _ in own]
    index = Index(fields, numbers, ngram)
    search, counts = Search(index), []
    for number, text in enumerate(texts):
        documents, total = _search_text(search, number, text, watch)
        if not total:
            raise LepBenchError(f"{text.name}: there is no text in it")
        counts.append(
            {"name": text.name, "sha256": text.digest, "documents": documents, "words": total}
        )
        watch(text.name, documents, total)
    search.flush()
    hits = {
        row: Hit(rows[row], share, texts[match.text].name, match.document, match.words)
        for row, match, share in search.matches()
    }
    reports, first = [], 0
    for own in tasks:
        span = range(first, first := first + len(own))
        too_short = tuple(rows[row] for row in index.too_short if row in span)
        flagged = sorted(
            (hits[row] for row in span if row in hits), key=lambda hit: (-hit.share, hit.row.doc_id)
        )
        reports.append(TaskReport(own[0].task, len(own), too_short, tuple(flagged)))
    return ContaminationReport(ngram, tuple(counts), tuple(reports))


def _search_text(search: Search, number: int, text: Text, watch: Watch) -> tuple[int, int]:
    """Feed a text to the search. Returns its documents and its words."""
    documents = total = 0
    goes_on = False
    for place, document in enumerate(text.documents, 1):
        before = total
        for words in filter(None, _split_document(document)):
            documents, total = documents + (total == before), total + len(words)
            if search.feed(words, number, place, goes_on):
                watch(text.name, documents, total)
            goes_on = True
        goes_on = text.runs_on and total > before
    return documents, total


class WordRuns:
    """Runs of `length` words, sorted by hash: `owners` has each one's row, `at` its place in the
    index's `flat`.
    """

    def __init__(self, length: int, hashes: np.ndarray, owners: np.ndarray, at: np.ndarray) -> None:
        order = np.argsort(hashes, kind="stable")
        self.length = length
        self.keys, self.owners, self.at = hashes[order], owners[order], at[order]
        # A table of the hashes' first bits, at most one in eight set: few other words get past it.
        bits = max(16, (8 * len(order)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._taken = np.zeros(1 << bits, dtype=bool)
        self._taken[self.keys >> self._shift] = True

    def find(
        self, hashes: np.ndarray, ids: np.ndarray, flat: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(positions in `ids`, runs with the same words there), one pair for every owner."""
        likely = np.flatnonzero(self._taken[hashes >> self._shift])
        low = np.searchsorted(self.keys, hashes[likely])
        counts = np.searchsorted(self.keys, hashes[likely], side="right") - low
        where = np.repeat(likely, counts)
        runs = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(len(where))
        span = np.arange(self.length)
        same = (ids[where[:, None] + span] == flat[self.at[runs][:, None] + span]).all(axis=1)
        return where[same], runs[same]


class Index:
    """The rows to look for: `rows[i]` is a row's fields, `tasks[i]` its task's number.

    A row with a field of `n` words is found by its runs of `n` words (`grams`), another by all its
    fields together (`whole`: row -> fields). Rows in `too_short` cannot be told from other text.
    """

    def __init__(self, rows: Sequence[Sequence[Field]], tasks: Sequence[int], n: int) -> None:
        self.n, self.rows = n, rows
        self.numbers: dict[str, int] = {}
        flat, owner, room = array("i"), array("i"), array("i")
        for number, fields in enumerate(rows):
            for field in fields:
                flat.extend(self.numbers.setdefault(word, len(self.numbers) + 1) for word in field)
                owner.extend(repeat(number, len(field)))
                room.extend(range(len(field), 0, -1))
        self.flat, self._owner, self._room = (
            np.array(part, dtype=np.int32) for part in (flat, owner, room)
        )
        self._tasks = np.array(tasks, dtype=np.int32)
        self._counts = np.array([False, *(not word.isnumeric() for word in self.numbers)])
        random = np.random.default_rng(0)
        self._factors = random.integers(0, 1 << 64, n, dtype=np.uint64) | np.uint64(1)
        self._weights = random.integers(0, 1 << 64, len(self.numbers) + 1, dtype=np.uint64)
        self.grams = self._grams()
        self.sizes = np.bincount(self.grams.owners, minlength=len(rows))
        without = np.flatnonzero(self.sizes == 0).tolist()
        self.whole = {row: short for row in without if (short := self._short_fields(row))}
        self.too_short = [row for row in without if row not in self.whole]
        self.anchors = self._anchors()

    def hash_runs(self, ids: np.ndarray, lengths: set[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(length, hash of the run that begins at each position), shortest length first."""
        weights = self._weights[ids]
        total = np.zeros(len(ids), dtype=np.uint64)
        for place in range(max(lengths)):
            left = max(0, len(ids) - place)
            total = total[:left] + weights[place : place + left] * self._factors[place]
            if place + 1 in lengths:
                yield place + 1, total

    def _grams(self) -> WordRuns:
        """The runs of n words within the rows' fields, each once per row, without those of too few
        different words and those that more than `COMMON` rows of a task share.
        """
        ((_, hashes),) = self.hash_runs(self.flat, {self.n})
        at = np.flatnonzero(self._room >= self.n)
        parts = np.array_split(at, len(at) // BATCH + 1)
        at = np.concatenate([part[self._count_distinct(part) >= DISTINCT] for part in parts])
        at = at[np.lexsort((hashes[at], self._owner[at]))]
        at = at[_differ_from_previous(self._owner[at], hashes[at])]
        tasks = self._tasks[self._owner[at]]
        order = np.lexsort((hashes[at], tasks))
        begins = np.flatnonzero(_differ_from_previous(tasks[order], hashes[at][order]))
        sharing = np.diff(np.append(begins, len(order)))
        at = at[order[np.repeat(sharing, sharing) <= COMMON]]
        return WordRuns(self.n, hashes[at], self._owner[at], at)

    def _count_distinct(self, at: np.ndarray) -> np.ndarray:
        """The number of different words, numbers aside, in the runs that begin at `at`."""
        runs = self.flat[at[:, None] + np.arange(self.n)]
        runs = np.sort(np.where(self._counts[runs], runs, 0), axis=1)
        return (np.diff(runs, axis=1) != 0).sum(axis=1) + (runs[:, 0] != 0)

    def _short_fields(self, row: int) -> list[Field]:
        """The fields of a row without runs of n words; none where they are too short."""
        short = [field for field in self.rows[row] if len(field) < self.n]
        distinct = {word for field in short for word in field if not word.isnumeric()}
        return short if len(distinct) >= DISTINCT and max(map(len, short)) >= ANCHOR else []

    def _anchors(self) -> dict[int, WordRuns]:
        """The longest field of every row in `whole`, by length."""
        chosen: dict[int, list[tuple[int, int]]] = {}
        begins = np.searchsorted(self._owner, np.arange(len(self.rows)))
        for row, fields in self.whole.items():
            anchor = max(fields, key=len)
            before = self.rows[row][: self.rows[row].index(anchor)]
            chosen.setdefault(len(anchor), []).append((row, begins[row] + sum(map(len, before))))
        anchors = {}
        for length, hashes in self.hash_runs(self.flat, set(chosen)) if chosen else ():
            owners, at = np.array(chosen[length]).T
            anchors[length] = WordRuns(length, hashes[at], owners, at)
        return anchors


def _differ_from_previous(*keys: np.ndarray) -> np.ndarray:
    """Whether each entry of sorted keys differs from the one before; the first always does."""
    differs = np.ones(len(keys[0]), dtype=bool)
    differs[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return differs


@dataclass(frozen=True)
class RowMatch:
    """The place with the most of a row: the text's number, the document, and words that show it."""

    text: int
    document: int
    words: str


class Search:
    """A search of a stream of words for the rows of an index."""

    def __init__(self, index: Index, batch: int = BATCH) -> None:
        self.index = index
        self._matches: dict[int, RowMatch] = {}
        self._most: dict[int, int] = {}
        self._covered = np.zeros(len(index.grams.keys), dtype=bool)
        longest = max([0, *(sum(map(len, fields)) for fields in index.whole.values())])
        self._kept = 2 * (index.n + REACH + longest)  # words that a batch hands on
        self._batch = max(batch, 2 * self._kept)
        self._words: list[str] = []
        self._starts: list[int] = []  # of documents in _words; _names has their (text, document)
        self._names: list[tuple[int, int]] = []
        # where a document does not go on from the one before: no run of words crosses it
        self._begins: list[int] = []

    def feed(self, words: list[str], text: int, document: int, goes_on: bool = False) -> bool:
        """Add the next document, or a part of it. Returns whether a batch was full and has been
        searched.
        """
        if not goes_on:
            self._words.append("")
            self._begins.append(len(self._words))
        if self._names[-1:] != [(text, document)]:  # else the next part of the same one
            self._starts.append(len(self._words))
            self._names.append((text, document))
        self._words += words
        return len(self._words) >= self._batch and self.flush()

    def flush(self) -> bool:
        """Search what has been fed. Its last words stay, for runs that go on in the next batch."""
        numbers = map(self.index.numbers.get, self._words, repeat(0))
        ids = np.fromiter(numbers, dtype=np.int32, count=len(self._words))
        for length, hashes in self.index.hash_runs(ids, {self.index.n, *self.index.anchors}):
            if length == self.index.n:
                self._find_grams(ids, hashes)
            else:
                self._find_whole(ids, hashes, self.index.anchors[length])
        cut = max(0, len(self._words) - self._kept)
        first = max(0, bisect_right(self._starts, cut) - 1)
        self._words, self._names = self._words[cut:], self._names[first:]
        self._starts = [max(0, start - cut) for start in self._starts[first:]]
        self._begins = [0, *(begin - cut for begin in self._begins if begin > cut)]
        return True

    def matches(self) -> Iterator[tuple[int, RowMatch, float]]:
        """(row, place, share of its runs that stand in the texts, all texts together). The share of
        a row that was found by its fields is 1.
        """
        grams, rows = self.index.grams, len(self.index.rows)
        covered = np.bincount(grams.owners, weights=self._covered, minlength=rows)
        for row, match in self._matches.items():
            size = self.index.sizes[row]
            yield row, match, float(covered[row] / size) if size else 1.0

    def _find_grams(self, ids: np.ndarray, hashes: np.ndarray) -> None:
        where, runs = self.index.grams.find(hashes, ids, self.index.flat)
        if not len(where):
            return
        self._covered[runs] = True
        rows = self.index.grams.owners[runs]
        documents = np.searchsorted(self._starts, where, side="right")
        order = np.lexsort((where, documents, rows))
        changes = _differ_from_previous(rows[order], documents[order])
        for part in np.split(order, np.flatnonzero(changes)[1:]):
            row, count = int(rows[part[0]]), len(np.unique(runs[part]))
            if count > self._most.get(row, 0):
                self._most[row] = count
                self._matches[row] = self._describe(int(where[part[0]]), self.index.n)

    def _find_whole(self, ids: np.ndarray, hashes: np.ndarray, anchors: WordRuns) -> None:
        where, runs = anchors.find(hashes, ids, self.index.flat)
        for position, row in zip(where.tolist(), anchors.owners[runs].tolist()):
            if row in self._matches:
                continue
            begin, end = self._surroundings(position, anchors.length)
            around = f" {' '.join(self._words[begin:end])} "
            if all(f" {' '.join(field)} " in around for field in self.index.whole[row]):
                self._matches[row] = self._describe(position, anchors.length)

    def _surroundings(self, position: int, length: int) -> tuple[int, int]:
        """`REACH` words to both sides, within the document."""
        here = bisect_right(self._begins, position)
        end = self._begins[here] - 1 if here < len(self._begins) else len(self._words)
        return max(self._begins[here - 1], position - REACH), min(end, position + length + REACH)

    def _describe(self, position: int, length: int) -> RowMatch:
        text, document = self._names[max(0, bisect_right(self._starts, position) - 1)]
        words = " ".join(self._words[position : position + length]).strip()
        return RowMatch(text, document, words)


@dataclass(frozen=True)
class StoredScan:
    """A scan as the leaderboard needs it: its counts, and the hashes of each task's flagged
    rows.
    """

    summary: Contamination
    flagged: dict[str, frozenset[str]]


def read_scan(file: Path, tasks: Sequence[str]) -> StoredScan | None:
    """The scan in `file`, of the named tasks; None where there is no such file. Raises
    LepBenchError for a file that cannot be read.
    """
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["schema_version"] not in READABLE:
            raise ValueError(f"schema version {content['schema_version']}, known are {READABLE}")
        rows = {
            task: (int(one["rows"]), frozenset(map(str, one["flagged"])))
            for task, one in content["tasks"].items()
            if task in tasks
        }
        counts = tuple((task, rows[task][0], len(rows[task][1])) for task in tasks if task in rows)
        names = tuple(str(text["name"]) for text in content["texts"])
        summary = Contamination(names, int(content["ngram"]), counts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise LepBenchError(
            f"{file}: not a contamination scan ({why}): make it again with lep-bench "
            "contamination, or delete it"
        ) from error
    return StoredScan(summary, {task: hashes for task, (_, hashes) in rows.items() if hashes})


def score_clean(
    result: TaskResult, samples: Sequence[ScoredSample], metrics: Metrics, scan: StoredScan
) -> float | None:
    """The primary score over the rows that are not flagged, by the task's own metric code; None
    where it cannot be known.

    That is so where recomputing the whole score does not give the stored one, where no row is left,
    and where a full result has another number of rows than were scanned or lacks a flagged one:
    then the scan was of other rows.
    """
    metric, flagged = result.primary, scan.flagged[result.task]
    scanned = next(rows for task, rows, _ in scan.summary.tasks if task == result.task)
    aggregate = metrics.aggregations.get(result.task, {}).get(metric, _mean)
    unit_of = metrics.units.get(result.task)
    other_rows = result.scoring.limit is None and (
        len(samples) != scanned or not flagged <= {s.doc_hash for s in samples}
    )
    if other_rows or any(metric not in s.values for s in samples):
        return None
    try:
        units = [unit_of(s.values[metric]) if unit_of else s.doc_hash for s in samples]
        gone = {unit for s, unit in zip(samples, units) if s.doc_hash in flagged}
        whole = float(aggregate([s.values[metric] for s in samples]))
        if not abs(whole - result.scores[metric].value) <= TOLERANCE:
            return None
        left = [s.values[metric] for s, unit in zip(samples, units) if unit not in gone]
        value = float(aggregate(left))
    except (ArithmeticError, ValueError, TypeError, LookupError):
        return None  # e.g. a score of classes of which one is gone
    return value if math.isfinite(value) else None


def _mean(values: list[Any]) -> float:
    return stats.mean([float(v) for v in values])
