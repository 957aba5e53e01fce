"""A Unigram vocabulary by expectation maximisation and pruning (T. Kudo, 2018, arXiv 1804.10959,
section 3.2).

The UnigramTrainer of the tokenizers library does not fit. It takes its first pieces from a list of
distinct words, so it never proposes a whole word of a small lexicon, and its sums depend on the
number of threads. Here the frequency in the text decides which pieces are proposed, and the same
words always give the same vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

LONGEST = 16  # characters of a piece, as in sentencepiece
SEEDS = 10  # proposed pieces per requested piece
SHRINK = 0.75  # share that survives one round of pruning
ROUNDS_OF_EM = 2
# Longer words are cut into stretches of this many characters, whose probabilities do not underflow.
STRETCH = 32


def train_unigram(words: Mapping[str, int], size: int, required: set[str]) -> dict[str, float]:
    """`size` pieces with their natural log-probabilities, best first. Every character of `required`
    is a piece.

    words: texts with counts. A stretch ends at a character outside `required`; the caller spells
    these in bytes. Returns fewer than `size` pieces if the words do not have as many.
    """
    # Imported here because it takes 0.1 s, and every reader of a tokenizer imports this module.
    from scipy.special import digamma

    stretches = _stretches(words, required)
    counts = np.array(list(stretches.values()), dtype=np.float64)
    seeds = _seeds(stretches, max(SEEDS * size, 10_000))
    pieces = sorted(required) + [piece for piece, _ in seeds]
    single = len(required)  # the first `single` pieces are never pruned
    frequencies = np.array([1.0] * single + [float(score) for _, score in seeds])
    weights = frequencies / frequencies.sum()
    lattice = _Lattice(list(stretches), pieces)
    while True:
        for _ in range(ROUNDS_OF_EM):
            expected = lattice.expected(weights, counts)
            keep = expected >= 0.5
            keep[:single] = True
            # Size matters more than use: unused pieces stay if there is nothing better.
            if keep.sum() < size:
                keep[:] = True
            expected = np.maximum(expected, 0.5)
            pieces, lattice = [p for p, k in zip(pieces, keep) if k], lattice.restrict(keep)
            weights = np.exp(digamma(expected[keep]) - digamma(expected[keep].sum()))
        if len(pieces) <= size:
            break
        keep = _choose_survivors(pieces, weights, lattice.expected(weights, counts), single, size)
        pieces, weights, lattice = (
            [p for p, k in zip(pieces, keep) if k],
            weights[keep],
            lattice.restrict(keep),
        )
    return _make_reachable(pieces, np.log(weights / weights.sum()))


def _stretches(words: Mapping[str, int], required: set[str]) -> dict[str, int]:
    stretches: dict[str, int] = defaultdict(int)
    for word, count in words.items():
        masked = "".join(c if c in required else "\0" for c in word)
        for part in filter(None, masked.split("\0")):
            for start in range(0, len(part), STRETCH):
                stretches[part[start : start + STRETCH]] += count
    # Sorted, because float sums depend on the order, which would else be that of the text.
    return dict(sorted(stretches.items()))


def _seeds(stretches: Mapping[str, int], limit: int) -> list[tuple[str, int]]:
    """(substring, count x length) of at least two characters, best first. A substring that occurs
    only inside a longer one is left out.
    """
    counts: dict[str, int] = defaultdict(int)
    for text, count in stretches.items():
        for start in range(len(text) - 1):
            for end in range(start + 2, min(start + LONGEST, len(text)) + 1):
                counts[text[start:end]] += count
    inner = {
        part
        for text, count in counts.items()
        for part in (text[1:], text[:-1])
        if counts.get(part) == count
    }
    seeds = [
        (text, count * len(text))
        for text, count in counts.items()
        if count >= 2 and text not in inner
    ]
    return sorted(seeds, key=lambda seed: (-seed[1], seed[0]))[:limit]


def _choose_survivors(
    pieces: Sequence[str], weights: np.ndarray, expected: np.ndarray, single: int, size: int
) -> np.ndarray:
    """Mask [pieces] of the pieces to keep: those whose removal would cost most likelihood (expected
    count x gain over the best spelling of the piece in other pieces).
    """
    gain = np.log(weights) - _Lattice(pieces, pieces).best(np.log(weights), whole=False)
    gain[:single] = 0.0  # infinite: nothing else spells a single character
    loss = expected * gain
    loss[:single] = np.inf
    keep = max(size, round(SHRINK * len(pieces)))
    order = np.lexsort((np.arange(len(pieces)), -loss))
    mask = np.zeros(len(pieces), dtype=bool)
    mask[order[:keep]] = True
    return mask


def _make_reachable(pieces: Sequence[str], scores: np.ndarray) -> dict[str, float]:
    """Raise the score of every piece that would lose to its own parts, so that every piece encodes
    to itself.
    """
    lattice = _Lattice(pieces, pieces)
    # A raised score may raise that of a longer piece, never that of a shorter one.
    for _ in range(LONGEST):
        parts = lattice.best(scores, whole=False)
        loses = scores <= parts
        if not loses.any():
            break
        scores = np.where(loses, parts + 1e-4, scores)
    order = np.lexsort((np.array(pieces), -scores))
    return {pieces[i]: float(scores[i]) for i in order}


class _Lattice:
    """All ways to spell texts in pieces, as edges (text, start, end, piece) ordered by end."""

    def __init__(self, texts: Sequence[str], pieces: Sequence[str]) -> None:
        index = {piece: number for number, piece in enumerate(pieces)}
        longest = max(map(len, pieces))
        edges = [
            (end, number, start, index[text[start:end]])
            for number, text in enumerate(texts)
            for start in range(len(text))
            for end in range(start + 1, min(start + longest, len(text)) + 1)
            if text[start:end] in index
        ]
        table = np.array(edges, dtype=np.int32).reshape(-1, 4)
        self._set(
            table[np.argsort(table[:, 0], kind="stable")],
            np.array([len(t) for t in texts]),
            len(pieces),
        )

    def _set(self, table: np.ndarray, lengths: np.ndarray, pieces: int) -> None:
        self.table, self.lengths, self.pieces = table, lengths, pieces
        bounds = np.searchsorted(table[:, 0], np.arange(1, int(lengths.max()) + 2))
        self.steps = [table[a:b] for a, b in zip(bounds, bounds[1:])]  # edges that end at 1, 2, ...

    def restrict(self, keep: np.ndarray) -> _Lattice:
        """The lattice with only the pieces in the mask `keep`, renumbered."""
        number = np.cumsum(keep) - 1
        table = self.table[keep[self.table[:, 3]]].copy()
        table[:, 3] = number[table[:, 3]]
        result = object.__new__(_Lattice)
        result._set(table, self.lengths, int(keep.sum()))
        return result

    def expected(self, weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """[pieces] expected uses of every piece, for texts that occur `counts` [texts] times and
        pieces of probability `weights` [pieces].
        """
        texts, longest = len(self.lengths), int(self.lengths.max())
        forward, backward = np.zeros((longest + 1, texts)), np.zeros((longest + 1, texts))
        forward[0] = 1.0
        for end, edges in enumerate(self.steps, 1):
            _, text, start, piece = edges.T
            forward[end] = np.bincount(text, forward[start, text] * weights[piece], texts)
        backward[self.lengths, np.arange(texts)] = 1.0
        result = np.zeros(self.pieces)
        scale = counts / forward[self.lengths, np.arange(texts)]
        for end in range(longest, 0, -1):
            _, text, start, piece = self.steps[end - 1].T
            through = backward[end, text] * weights[piece]
            np.add.at(backward, (start, text), through)
            result += np.bincount(piece, through * forward[start, text] * scale[text], self.pieces)
        return result

    def best(self, scores: np.ndarray, whole: bool) -> np.ndarray:
        """[texts] score of the best spelling of every text. Without `whole` a spelling has at least
        two pieces, and -inf means that there is none.
        """
        texts = len(self.lengths)
        top = np.full((int(self.lengths.max()) + 1, texts), -np.inf)
        top[0] = 0.0
        for end, edges in enumerate(self.steps, 1):
            if not whole:
                edges = edges[(edges[:, 2] > 0) | (self.lengths[edges[:, 1]] != end)]
            _, text, start, piece = edges.T
            np.maximum.at(top[end], text, top[start, text] + scores[piece])
        return top[self.lengths, np.arange(texts)]
