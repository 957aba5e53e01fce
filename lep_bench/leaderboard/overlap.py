"""Where passages of a few rows occur in a stream of words: exactly, and nearly (MinHash of
datasketch).

Rows are few and are indexed; texts are long and stream past in batches, so memory is the index and
one batch, however long the texts are. Words are numbered, 0 is every word of no row. A run of words
is hashed as the sum of its words' random weights times random odd factors of their places, modulo
2**64: all lengths of a batch are hashed in one pass over an array. What a hash finds is compared
word by word, so an exact hit is exact.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

Pieces = Sequence[tuple[str, ...]]  # the fields of a row, as words

# rows of a task: a run of words that more of them share is the task's wording, and tells nothing
# about a row
COMMON = 10
TELLING = 5  # different words, numbers apart: a run or row with fewer stands in any text
# words: a row without a run of n words is looked for by its longest field, if that has so many
ANCHOR = 3
# words before and after the anchor in which the row's other fields are looked for: a chat's wording
# lies between
REACH = 50
# share of such a row's words whose fields stand there: a near hit; with all of them it is an exact
# one
WHOLE = 0.8
# words; with one word in 12 changed two thirds of a row's shingles are left (of 5 words 58%)
SHINGLE = 4
NEAR = 0.5  # share of a row's shingles that make a near hit
NEAR_SHINGLES = 8  # a row with fewer has no near hits: half of them would be a common phrase
SHORTEST = 16  # words: the smallest window class
# LSH: 99.7% of rows with half of their shingles in a window become candidates, and are then counted
BANDS, BAND = 20, 2
BATCH = 1 << 18  # words


@dataclass(frozen=True)
class RowMatch:
    """A row in a text: share of its runs (exact) or shingles (near) there, the text's number, the
    document, words that show it.
    """

    share: float
    text: int
    document: int
    words: str


class Runs:
    """Runs of `length` words, sorted by hash: whose each is (`owners`) and where it stands in the
    index's `flat` (`at`).
    """

    def __init__(self, length: int, hashes: np.ndarray, owners: np.ndarray, at: np.ndarray) -> None:
        order = np.argsort(hashes, kind="stable")
        self.length, self.keys, self.owners, self.at = (
            length,
            hashes[order],
            owners[order],
            at[order],
        )
        # at most one place in eight is taken: few words pass for nothing
        bits = max(16, (8 * len(order)).bit_length())
        self.shift = np.uint64(64 - bits)
        self.taken = np.zeros(1 << bits, dtype=bool)
        self.taken[self.keys >> self.shift] = True

    def known(self, hashes: np.ndarray) -> np.ndarray:
        """Positions in `hashes` of those that are a run's, ascending."""
        maybe = np.flatnonzero(self.taken[hashes >> self.shift])
        low = np.searchsorted(self.keys, hashes[maybe])
        return (
            maybe[self.keys[np.minimum(low, len(self.keys) - 1)] == hashes[maybe]]
            if len(self.keys)
            else maybe
        )

    def find(
        self, hashes: np.ndarray, ids: np.ndarray, flat: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(positions in `ids`, runs that stand there): the same words, one pair for every owner."""
        known = self.known(hashes)
        low = np.searchsorted(self.keys, hashes[known])
        counts = np.searchsorted(self.keys, hashes[known], side="right") - low
        where = np.repeat(known, counts)
        runs = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(len(where))
        span = np.arange(self.length)
        same = (ids[where[:, None] + span] == flat[self.at[runs][:, None] + span]).all(axis=1)
        return where[same], runs[same]


class Index:
    """The rows to look for. `rows[i]` is a row's fields, `tasks[i]` its task's number.

    A row with a field of `n` words is known by its runs of `n` words (`grams`); another by its
    fields together (`whole`: row -> fields); `silent` rows are too short to tell. Runs that more
    than `COMMON` rows of a task share do not count.
    """

    def __init__(self, rows: Sequence[Pieces], tasks: Sequence[int], n: int) -> None:
        self.n, self.rows = n, rows
        self.numbers: dict[str, int] = {}
        flat, owner, room = array("i"), array("i"), array("i")
        for number, pieces in enumerate(rows):
            for piece in pieces:
                flat.extend(self.numbers.setdefault(word, len(self.numbers) + 1) for word in piece)
                owner.extend(repeat(number, len(piece)))
                room.extend(range(len(piece), 0, -1))
        self.flat, self._owner, self._room = (
            np.array(part, dtype=np.int32) for part in (flat, owner, room)
        )
        self._tasks = np.array(tasks, dtype=np.int32)
        self._counts = np.array([False, *(not word.isnumeric() for word in self.numbers)])
        random = np.random.default_rng(0)  # fixed: what MinHash finds must not depend on the day
        self._factors = random.integers(0, 1 << 64, max(n, SHINGLE), dtype=np.uint64) | np.uint64(1)
        self._weights = random.integers(0, 1 << 64, len(self.numbers) + 1, dtype=np.uint64)
        own = dict(self.hashes(self.flat, {n, SHINGLE}))
        self.grams = self._own_runs(n, own[n], telling=True)
        self.sizes = np.bincount(self.grams.owners, minlength=len(rows))
        self.whole = {
            row: kept
            for row in np.flatnonzero(self.sizes == 0).tolist()
            if (kept := self._short(rows[row]))
        }
        self.silent = [
            row for row in np.flatnonzero(self.sizes == 0).tolist() if row not in self.whole
        ]
        self.anchors = self._anchors()
        self.shingles = self._own_runs(SHINGLE, own[SHINGLE], telling=False)
        self.near = Near(self)

    def hashes(self, ids: np.ndarray, lengths: set[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(length, hash of the run that begins at each position) for every length, shortest
        first.
        """
        weights = self._weights[ids]
        total = np.zeros(len(ids), dtype=np.uint64)
        for place in range(max(lengths)):
            left = max(0, len(ids) - place)
            total = total[:left] + weights[place : place + left] * self._factors[place]
            if place + 1 in lengths:
                yield place + 1, total

    def _own_runs(self, length: int, hashes: np.ndarray, telling: bool) -> Runs:
        """The rows' runs of that length within their fields, each once per row, without common ones
        (and silent ones).
        """
        at = np.flatnonzero(self._room >= length)
        if telling:
            parts = np.array_split(at, len(at) // BATCH + 1)
            at = np.concatenate([part[self._different(part, length) >= TELLING] for part in parts])
        at = at[np.lexsort((hashes[at], self._owner[at]))]
        at = at[_changes(self._owner[at], hashes[at])]
        tasks = self._tasks[self._owner[at]]
        order = np.lexsort((hashes[at], tasks))
        begins = np.flatnonzero(_changes(tasks[order], hashes[at][order]))
        sharing = np.diff(np.append(begins, len(order)))
        at = at[order[np.repeat(sharing, sharing) <= COMMON]]
        return Runs(length, hashes[at], self._owner[at], at)

    def _different(self, at: np.ndarray, length: int) -> np.ndarray:
        runs = self.flat[at[:, None] + np.arange(length)]
        runs = np.sort(np.where(self._counts[runs], runs, 0), axis=1)
        return (np.diff(runs, axis=1) != 0).sum(axis=1) + (runs[:, 0] != 0)

    def _short(self, pieces: Pieces) -> list[tuple[str, ...]]:
        kept = [piece for piece in pieces if len(piece) < self.n]  # longer ones are all common
        different = {word for piece in kept for word in piece if not word.isnumeric()}
        return kept if len(different) >= TELLING and max(map(len, kept)) >= ANCHOR else []

    def _anchors(self) -> dict[int, Runs]:
        chosen: dict[int, list[tuple[int, int]]] = {}
        begins = np.searchsorted(self._owner, np.arange(len(self.rows)))
        for row, kept in self.whole.items():
            anchor = max(kept, key=len)
            before = self.rows[row][: self.rows[row].index(anchor)]
            chosen.setdefault(len(anchor), []).append((row, begins[row] + sum(map(len, before))))
        runs = {}
        for length, hashes in self.hashes(self.flat, set(chosen)) if chosen else ():
            owners, at = np.array(chosen[length]).T
            runs[length] = Runs(length, hashes[at], owners, at)
        return runs


def _changes(*keys: np.ndarray) -> np.ndarray:
    """Whether each entry of sorted keys differs from the one before."""
    found = np.ones(len(keys[0]), dtype=bool)
    found[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return found


class Near:
    """MinHash LSH of the rows' shingles, one per class of lengths: rows of (c/2, c] words belong to
    windows of 1.5 c.

    A window's set is those of its shingles that some row has: the rest says only that the text goes
    on, and without it the window's Jaccard similarity with a row is about the share of the row's
    shingles that are there.
    """

    def __init__(self, index: Index) -> None:
        from datasketch import MinHash, MinHashLSH

        self._empty = MinHash(num_perm=BANDS * BAND, hashfunc=int)
        order = np.lexsort((index.shingles.keys, index.shingles.owners))
        self._hashes = index.shingles.keys[order]
        self._ends = np.searchsorted(index.shingles.owners[order], np.arange(len(index.rows) + 1))
        self.classes: dict[int, Any] = {}
        # shingles that a window of the class must have before it is looked at
        self.least: dict[int, int] = {}
        silent = set(index.silent)
        for row, pieces in enumerate(index.rows):
            count = len(self.of(row))
            if count < NEAR_SHINGLES or row in silent:
                continue
            size = 1 << (max(SHORTEST, sum(map(len, pieces))) - 1).bit_length()
            lsh = self.classes.setdefault(
                size, MinHashLSH(num_perm=BANDS * BAND, params=(BANDS, BAND))
            )
            lsh.insert(row, self._sketch(self.of(row)))
            self.least[size] = min(self.least.get(size, count), math.ceil(NEAR * count))

    def of(self, row: int) -> np.ndarray:
        """The row's shingles, as sorted hashes."""
        return self._hashes[self._ends[row] : self._ends[row + 1]]

    def rows(self, size: int, shingles: np.ndarray) -> list[tuple[int, float]]:
        """(row, share of its shingles) of the class's rows that have at least `NEAR` of them among
        `shingles`.
        """
        candidates = self.classes[size].query(self._sketch(shingles))
        shares = [
            (row, float(np.isin(self.of(row), shingles, assume_unique=True).mean()))
            for row in candidates
        ]
        return [(row, share) for row, share in shares if share >= NEAR]

    def _sketch(self, hashes: np.ndarray) -> Any:
        sketch = self._empty.copy()
        sketch.update_batch((hashes >> np.uint64(32)).tolist())
        return sketch


class OverlapScan:
    """A stream of words held against an index. `exact` and `near`: row -> where most of it was
    found.
    """

    def __init__(self, index: Index, batch: int = BATCH) -> None:
        self.index = index
        self.exact: dict[int, RowMatch] = {}
        self.near: dict[int, RowMatch] = {}
        self._most: dict[int, int] = {}
        self._covered = np.zeros(len(index.grams.keys), dtype=bool)
        longest = max([0, *(sum(map(len, kept)) for kept in index.whole.values())])
        # words that a batch hands on
        self._kept = max(2 * (index.n + REACH + longest), 3 * max([0, *index.near.classes]) // 2)
        self._batch = max(batch, 2 * self._kept)
        self._lengths = {index.n, SHINGLE, *index.anchors}
        self._words: list[str] = []
        self._starts: list[int] = []  # of documents in _words; _names has their (text, document)
        self._names: list[tuple[int, int]] = []
        # where a document does not go on from the one before: no run of words crosses it
        self._begins: list[int] = []

    def feed(self, words: list[str], text: int, document: int, goes_on: bool = False) -> bool:
        """The next document, or part of one. Returns whether a batch was full and has been looked
        through.
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
        """Look through what has been fed; its last words stay for runs that go on in the next
        batch.
        """
        ids = np.fromiter(
            map(self.index.numbers.get, self._words, repeat(0)),
            dtype=np.int32,
            count=len(self._words),
        )
        for length, hashes in self.index.hashes(ids, self._lengths):
            if length == self.index.n:
                self._find_grams(ids, hashes)
            if length in self.index.anchors:
                self._find_whole(ids, hashes, self.index.anchors[length])
            if length == SHINGLE:
                self._find_near(hashes)
        cut = max(0, len(self._words) - self._kept)
        first = max(0, bisect_right(self._starts, cut) - 1)
        self._words, self._names = self._words[cut:], self._names[first:]
        self._starts = [max(0, start - cut) for start in self._starts[first:]]
        self._begins = [0, *(begin - cut for begin in self._begins if begin > cut)]
        return True

    def _find_grams(self, ids: np.ndarray, hashes: np.ndarray) -> None:
        where, runs = self.index.grams.find(hashes, ids, self.index.flat)
        self._covered[runs] = True
        rows, documents = (
            self.index.grams.owners[runs],
            np.searchsorted(self._starts, where, side="right"),
        )
        order = np.lexsort((where, documents, rows))
        for part in (
            np.split(order, np.flatnonzero(_changes(rows[order], documents[order]))[1:])
            if len(order)
            else ()
        ):
            row, count = int(rows[part[0]]), len(np.unique(runs[part]))
            if count > self._most.get(row, 0):
                self._most[row] = count
                self.exact[row] = self._found(0.0, int(where[part[0]]), self.index.n)

    def _find_whole(self, ids: np.ndarray, hashes: np.ndarray, anchors: Runs) -> None:
        where, runs = anchors.find(hashes, ids, self.index.flat)
        for position, row in zip(where.tolist(), anchors.owners[runs].tolist()):
            begin, end = self._around(position, anchors.length)
            text = f" {' '.join(self._words[begin:end])} "
            pieces = self.index.whole[row]
            share = sum(len(piece) for piece in pieces if f" {' '.join(piece)} " in text) / sum(
                map(len, pieces)
            )
            if share >= WHOLE:
                hits = self.near if share < 1 else self.exact
                if row not in hits or share > hits[row].share:
                    hits[row] = self._found(share, position, anchors.length)

    def _around(self, position: int, length: int) -> tuple[int, int]:
        """`REACH` words to both sides, within the document."""
        here = bisect_right(self._begins, position)
        end = self._begins[here] - 1 if here < len(self._begins) else len(self._words)
        return max(self._begins[here - 1], position - REACH), min(end, position + length + REACH)

    def _find_near(self, hashes: np.ndarray) -> None:
        known = self.index.shingles.known(hashes)
        for size, least in self.index.near.least.items():
            begins = np.arange(0, len(hashes), size // 2)
            low, high = (
                np.searchsorted(known, begins),
                np.searchsorted(known, begins + size + size // 2),
            )
            for number in np.flatnonzero(high - low >= least).tolist():
                inside = known[low[number] : high[number]]
                pieces = np.split(
                    inside,
                    np.flatnonzero(np.diff(np.searchsorted(self._begins, inside, side="right")))
                    + 1,
                )
                for piece in pieces:
                    self._look(size, least, piece, np.unique(hashes[piece]))

    def _look(self, size: int, least: int, where: np.ndarray, shingles: np.ndarray) -> None:
        if len(shingles) < least:
            return
        for row, share in self.index.near.rows(size, shingles):
            if row not in self.near or share > self.near[row].share:
                self.near[row] = self._found(share, int(where[0]), self.index.n)

    def _found(self, share: float, position: int, length: int) -> RowMatch:
        text, document = self._names[max(0, bisect_right(self._starts, position) - 1)]
        return RowMatch(
            share, text, document, " ".join(self._words[position : position + length]).strip()
        )

    def shares(self) -> dict[int, float]:
        """Of every exact row the share of its runs that stand in the texts, all texts together."""
        covered = np.bincount(
            self.index.grams.owners, weights=self._covered, minlength=len(self.index.rows)
        )
        return {
            row: float(covered[row] / self.index.sizes[row])
            if self.index.sizes[row]
            else found.share
            for row, found in self.exact.items()
        }
