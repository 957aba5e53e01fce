"""Contamination: which evaluation rows stand in the texts that a model was trained on.

Exact: a row's 13-grams of normalised words (`words`) within its fields, as GPT-3's authors looked
for them (arXiv 2005.14165, appendix C). Near: half of its shingles of 4 words in one window of a
text. `overlap` has the rules.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lep_bench import corpora
from lep_bench.errors import LepBenchError
from lep_bench.files import file_digest

SCHEMA_VERSION = 1
NGRAM = 13
LONGEST = 1 << 20  # characters of a document that are looked at together
_WORD, _SPACE = re.compile(r"[^\W_]+"), re.compile(r"\s")
# stress marks, soft hyphen, zero width
_INSIDE_WORDS = ("\u0301", "\u0300", "\u00ad", "\u200b", "\u2060", "\ufeff")
# of a row; messages: the templates that its inputs are put into
_NO_TEXT = {"id", "idx", "meta", "group", "messages"}
_ROLES = {"role", "from"}  # of a chat's messages
_LANGUAGES = ("_ru", "_en")

Watch = Callable[[str, int, int], None]  # text, documents of it so far, words of it so far


@dataclass(frozen=True)
class EvaluationRow:
    """An evaluation row. `doc_hash` is that of `Sample.doc_hash`."""

    task: str
    doc_id: int
    doc_hash: str
    doc: Any


@dataclass(frozen=True)
class Text:
    """A text to look through: `digest` of its content (None where nobody knows it), its documents
    (text, or a row whose strings all count); `runs_on`: plain text, which may be broken into lines
    anywhere; an empty line ends a passage."""

    name: str
    digest: str | None
    documents: Iterator[str | dict[str, Any]]
    runs_on: bool = False


@dataclass(frozen=True)
class Hit:
    """A row that was found: exact or near, its share in the texts, and one place. `document` counts
    from 1: the line or row.
    """

    row: EvaluationRow
    near: bool
    share: float
    text: str
    document: int
    words: str

    def record(self) -> dict[str, Any]:
        own = {
            "doc_id": self.row.doc_id,
            "doc_hash": self.row.doc_hash,
            "kind": "near" if self.near else "exact",
        }
        return {
            **own,
            "share": round(self.share, 4),
            "text": self.text,
            "document": self.document,
            "words": self.words,
        }


@dataclass(frozen=True)
class TaskReport:
    """What was found of a task. `hits` are sorted, the largest share first; near ones are those
    that are not exact too.
    """

    task: str
    rows: int
    too_short: tuple[EvaluationRow, ...]
    hits: tuple[Hit, ...]

    def of(self, near: bool) -> list[Hit]:
        return [hit for hit in self.hits if hit.near == near]

    def record(self) -> dict[str, Any]:
        exact, near = ([hit.row.doc_hash for hit in self.of(kind)] for kind in (False, True))
        hashes = {
            "flagged": exact,
            "near": near,
            "too_short": [row.doc_hash for row in self.too_short],
        }
        unique = {name: list(dict.fromkeys(found)) for name, found in hashes.items()}
        return {"rows": self.rows, **unique, "hits": [hit.record() for hit in self.hits]}


@dataclass(frozen=True)
class ContaminationReport:
    """All of a scan. `texts`: name, digest, documents and words of each."""

    ngram: int
    texts: tuple[dict[str, Any], ...]
    tasks: tuple[TaskReport, ...]

    def record(self) -> dict[str, Any]:
        tasks = {one.task: one.record() for one in self.tasks}
        return {
            "schema_version": SCHEMA_VERSION,
            "texts": list(self.texts),
            "ngram": self.ngram,
            "tasks": tasks,
        }


def words(text: str) -> list[str]:
    """Normalised words: lower case, е for ё, letters and digits of any script; stress marks and
    soft hyphens left out.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        for mark in _INSIDE_WORDS:
            text = text.replace(mark, "")
    return _WORD.findall(text.lower().replace("ё", "е"))


def strings(
    value: Any, skipped: frozenset[str] | set[str] = frozenset(), name: str = ""
) -> Iterator[tuple[str, str]]:
    """(field, text) of every string in a row, however deep; entries of a list have the list's
    field.
    """
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in skipped:
                yield from strings(inner, skipped, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner, skipped, name)


def fields(row: EvaluationRow) -> list[tuple[str, tuple[str, ...]]]:
    """(field, words) of what a model must not have seen of a row: all its texts, not ids, not the
    prompt's template, and in a task of one language not the fields of the other (question_en in
    darumeru_mmlu_ru)."""
    # no slots: they are the text
    filled = isinstance(row.doc, dict) and "messages" in row.doc and not row.doc.get("inputs")
    skipped = _NO_TEXT - {"messages"} | _ROLES if filled else _NO_TEXT
    other = tuple(
        end for end in _LANGUAGES if row.task.endswith(_LANGUAGES) and not row.task.endswith(end)
    )
    # Interned: rows have the same words again and again.
    found = [
        (name, tuple(map(sys.intern, words(text))))
        for name, text in strings(row.doc, skipped)
        if not (other and name.endswith(other))
    ]
    # one letter or digit: an answer's label
    return [(name, field) for name, field in found if len("".join(field)) > 1]


def pieces(rows: Sequence[EvaluationRow], common: int) -> list[list[tuple[str, ...]]]:
    """The fields of every row of one task, each once, without what belongs to the task: the words
    that a field begins or ends with in all rows ("Question: ... Answer:"), and whole fields that
    more than `common` rows share (a subject's name)."""
    found = [fields(row) for row in rows]
    for name in sorted({name for own in found for name, _ in own}):
        same = [field for own in found for key, field in own if key == name]
        if len(same) > common:
            head = len(os.path.commonprefix(same))
            tail = len(os.path.commonprefix([field[head:][::-1] for field in same]))
            found = [
                [
                    (key, field[head : len(field) - tail] if key == name else field)
                    for key, field in own
                ]
                for own in found
            ]
    own_fields = [list(dict.fromkeys(field for _, field in own if field)) for own in found]
    sharing = Counter(field for own in own_fields for field in own)
    return [[field for field in own if sharing[field] <= common] for own in own_fields]


def texts(corpus: corpora.Corpus) -> list[Text]:
    """The files and Hub datasets that `corpora` reads, as texts; of every file the first words are
    read at once.

    Raises LepBenchError for a file that is not there, cannot be read as what its name says, or
    holds no text.
    """
    found = []
    for part in corpora.parts(corpus):
        if isinstance(part, Path) and not any(
            found for row in corpora.rows(part, "") for found in _words_of(row)
        ):
            raise LepBenchError(f"{part}: there is no text in it")
        digest = file_digest(part) if isinstance(part, Path) else None
        # A field "" is in no table: all columns are read.
        found.append(
            Text(str(part), digest, corpora.rows(part, ""), runs_on=not corpora.has_fields(part))
        )
    return found


def _words_of(document: str | dict[str, Any]) -> Iterator[list[str]]:
    """The words of a document, part by part: a corpus in one line has more of them than fit into
    memory.
    """
    text = (
        document
        if isinstance(document, str)
        else "\n".join(text for _, text in strings(document, _ROLES))
    )
    begin = 0
    while begin < len(text):
        space = _SPACE.search(text, begin + LONGEST)
        end = space.start() if space else len(text)
        yield words(text[begin:end])
        begin = end


def scan(
    rows: Sequence[EvaluationRow],
    looked_through: Sequence[Text],
    ngram: int = NGRAM,
    watch: Watch = lambda name, documents, words: None,
) -> ContaminationReport:
    """Look for `rows` in the texts, which are read once, in order. `watch` hears of every batch of
    words.

    Raises LepBenchError without rows, for a text without words, and what `corpora.rows` raises.
    """
    from lep_bench.leaderboard import overlap

    rows = sorted(rows, key=lambda row: row.task)
    tasks = [list(own) for _, own in groupby(rows, key=lambda row: row.task)]
    if not tasks:
        raise LepBenchError("there are no evaluation rows to look for")
    numbers = [number for number, own in enumerate(tasks) for _ in own]
    index = overlap.Index(
        [own for task in tasks for own in pieces(task, overlap.COMMON)], numbers, ngram
    )
    scanned, counts = overlap.OverlapScan(index), []
    for number, text in enumerate(looked_through):
        documents = total = 0
        goes_on = False
        for place, document in enumerate(text.documents, 1):
            before = total
            for found in filter(None, _words_of(document)):
                documents, total = documents + (total == before), total + len(found)
                if scanned.feed(found, number, place, goes_on):
                    watch(text.name, documents, total)
                goes_on = True
            goes_on = text.runs_on and total > before
        if not total:
            raise LepBenchError(f"{text.name}: there is no text in it")
        counts.append(
            {"name": text.name, "sha256": text.digest, "documents": documents, "words": total}
        )
        watch(text.name, documents, total)
    scanned.flush()
    return ContaminationReport(
        ngram,
        tuple(counts),
        tuple(_reports(rows, index, scanned, [text.name for text in looked_through])),
    )


def _reports(
    rows: Sequence[EvaluationRow], index: Any, scanned: Any, names: Sequence[str]
) -> Iterator[TaskReport]:
    shares, silent = scanned.shares(), set(index.silent)
    hits = {}
    # exact ones take the place of near ones
    for row, found in [*scanned.near.items(), *scanned.exact.items()]:
        near = row not in shares
        hits[row] = Hit(
            rows[row],
            near,
            found.share if near else shares[row],
            names[found.text],
            found.document,
            found.words,
        )
    for task, own in groupby(range(len(rows)), key=lambda number: rows[number].task):
        numbers = list(own)
        ordered = sorted(
            (hits[number] for number in numbers if number in hits),
            key=lambda hit: (hit.near, -hit.share, hit.row.doc_id),
        )
        yield TaskReport(
            task,
            len(numbers),
            tuple(rows[number] for number in numbers if number in silent),
            tuple(ordered),
        )
