"""Byte-pair merges: train them over any symbols (characters, or tokens of an old vocabulary), and
find the merge path of a token.

The trainer of the tokenizers library does not fit. Over old tokens its merges may make tokens that
exist already, so that text without any new token changes its ids (measured on LLaMa-3). It has no
option to forbid tokens.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence

Pair = tuple[str, str]
LEAST = 2  # a pair that occurs once is no pattern


def train_merges(
    words: Mapping[tuple[str, ...], int], count: int, forbidden: set[str]
) -> list[Pair]:
    """Up to `count` merges, most frequent pair first, ties by spelling. Each makes a new token.

    words: symbol sequences with counts. No merge makes a token in `forbidden` or a token of another
    merge. So the merges, applied after all older ones, repeat exactly what happened here, and text
    can encode to every new token. Returns fewer merges when no remaining pair occurs `LEAST` times.
    """
    forbidden = set(forbidden)
    sequences, counts = [list(word) for word in words], list(words.values())
    totals: dict[Pair, int] = defaultdict(int)
    places: dict[Pair, set[int]] = defaultdict(set)
    for number, sequence in enumerate(sequences):
        for pair in zip(sequence, sequence[1:]):
            totals[pair] += counts[number]
            places[pair].add(number)
    heap = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < count:
        negative_total, pair = heapq.heappop(heap)
        if -negative_total != totals.get(pair, 0) or -negative_total < LEAST:
            continue  # outdated: the current total has its own entry
        if "".join(pair) in forbidden:
            continue
        forbidden.add("".join(pair))
        merges.append(pair)
        changed: set[Pair] = set()
        for number in sorted(places.pop(pair)):
            changed |= _merge_in(sequences, number, counts[number], pair, totals, places)
        totals.pop(pair, None)
        for changed_pair in changed - {pair}:
            if totals[changed_pair] > 0:
                heapq.heappush(heap, (-totals[changed_pair], changed_pair))
            else:
                totals.pop(changed_pair)
                places.pop(changed_pair, None)
    return merges


def _merge_in(
    sequences: list[list[str]],
    number: int,
    count: int,
    pair: Pair,
    totals: dict[Pair, int],
    places: dict[Pair, set[int]],
) -> set[Pair]:
    """Merge `pair` in one word. Returns the pairs whose totals changed."""
    old = sequences[number]
    new = merge_pair(old, pair)
    old_pairs, new_pairs = list(zip(old, old[1:])), list(zip(new, new[1:]))
    for old_pair in old_pairs:
        totals[old_pair] -= count
    for new_pair in new_pairs:
        totals[new_pair] += count
    for new_pair in set(new_pairs):
        places[new_pair].add(number)
    for old_pair in set(old_pairs) - set(new_pairs):
        places[old_pair].discard(number)
    sequences[number] = new
    return set(old_pairs) | set(new_pairs)


def merge_pair(sequence: Sequence[str], pair: Pair) -> list[str]:
    """`sequence` with every occurrence of `pair` joined, from left to right."""
    result: list[str] = []
    i = 0
    while i < len(sequence):
        if i + 1 < len(sequence) and sequence[i] == pair[0] and sequence[i + 1] == pair[1]:
            result.append(pair[0] + pair[1])
            i += 2
        else:
            result.append(sequence[i])
            i += 1
    return result


def find_merge_path(token: str, ranks: Mapping[Pair, int]) -> set[str] | None:
    """All tokens that the merges go through from the characters of `token` to `token` itself,
    characters and `token` included. None if the merges do not make `token`.

    A vocabulary that keeps the whole path still makes the token: its merges are fewer, but in the
    same order, and take the same steps.
    """
    symbols, path = list(token), set(token)
    while len(symbols) > 1:
        best = min(zip(symbols, symbols[1:]), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            return None
        symbols = merge_pair(symbols, best)
        path.add(best[0] + best[1])
    return path
