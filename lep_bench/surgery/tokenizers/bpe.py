"""Byte-pair merges: training them over any symbols (characters, or the tokens of an old
vocabulary), and their paths.

tokenizers' own trainer knows neither: over old tokens its merges may produce tokens that exist
already, so that text without any new token changes its ids (measured on LLaMa-3), and it cannot be
told what to leave out.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence

Pair = tuple[str, str]
LEAST = 2  # a pair seen once is no pattern


def train_merges(words: Mapping[tuple[str, ...], int], wanted: int, taken: set[str]) -> list[Pair]:
    """Up to `wanted` merges, most frequent pair first (ties by spelling), each of which makes a
    token of its own.

    words: symbol sequences with counts. No merge gives a token of `taken` or one that another merge
    gives: so the merges, applied after all older ones, replay exactly what happened here, and every
    new token can be reached. Fewer merges come back when no pair is left that occurs `LEAST` times.
    """
    taken = set(taken)
    sequences, counts = [list(word) for word in words], list(words.values())
    totals: dict[Pair, int] = defaultdict(int)
    places: dict[Pair, set[int]] = defaultdict(set)
    for number, sequence in enumerate(sequences):
        for pair in zip(sequence, sequence[1:]):
            totals[pair] += counts[number]
            places[pair].add(number)
    heap = [(-count, pair) for pair, count in totals.items()]
    heapq.heapify(heap)
    found: list[Pair] = []
    while heap and len(found) < wanted:
        count, pair = heapq.heappop(heap)
        if -count != totals.get(pair, 0) or -count < LEAST:
            continue  # an entry that was overtaken: the current count has one of its own
        if "".join(pair) in taken:
            continue
        taken.add("".join(pair))
        found.append(pair)
        changed: set[Pair] = set()
        for number in sorted(places.pop(pair)):
            changed |= _merge_in(sequences, number, counts[number], pair, totals, places)
        totals.pop(pair, None)
        for other in changed - {pair}:
            if totals[other] > 0:
                heapq.heappush(heap, (-totals[other], other))
            else:
                totals.pop(other)
                places.pop(other, None)
    return found


def _merge_in(
    sequences: list[list[str]],
    number: int,
    count: int,
    pair: Pair,
    totals: dict[Pair, int],
    places: dict[Pair, set[int]],
) -> set[Pair]:
    """Merge `pair` in one word; returns the pairs whose totals changed."""
    old = sequences[number]
    new = merge_pair(old, pair)
    before, after = list(zip(old, old[1:])), list(zip(new, new[1:]))
    for other in before:
        totals[other] -= count
    for other in after:
        totals[other] += count
    kept = set(after)
    for other in kept:
        places[other].add(number)
    for other in set(before) - kept:
        places[other].discard(number)
    sequences[number] = new
    return set(before) | kept


def merge_pair(sequence: Sequence[str], pair: Pair) -> list[str]:
    """`sequence` with every occurrence of `pair` joined, from left to right."""
    result: list[str] = []
    place = 0
    while place < len(sequence):
        if (
            place + 1 < len(sequence)
            and sequence[place] == pair[0]
            and sequence[place + 1] == pair[1]
        ):
            result.append(pair[0] + pair[1])
            place += 2
        else:
            result.append(sequence[place])
            place += 1
    return result


def find_merge_path(token: str, ranks: Mapping[Pair, int]) -> set[str] | None:
    """All tokens on the way that the merges take from the characters of `token` to itself, itself
    included.

    None when they do not end there. Keeping the whole way keeps the token reachable: the remaining
    merges, fewer but in the same order, choose the same steps.
    """
    symbols, seen = list(token), set(token)
    while len(symbols) > 1:
        best = min(zip(symbols, symbols[1:]), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            return None
        symbols = merge_pair(symbols, best)
        seen.add(best[0] + best[1])
    return seen
