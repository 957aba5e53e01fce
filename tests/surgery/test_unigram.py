"""Unigram vocabularies: whole words even from a tiny lexicon, exact size, every piece reachable, no
randomness.
"""

from __future__ import annotations

import math

import pytest
from tokenizers import Tokenizer, models

from lep_bench.surgery.tokenizers import unigram

WORDS = {
    "▁столица": 40,
    "▁страна": 30,
    "▁река": 25,
    "▁гора": 20,
    "▁столицы": 12,
    "▁реки": 10,
    "▁стол": 4,
    "▁x": 3,
}
LETTERS = {letter for word in WORDS for letter in word}


def test_whole_words_of_a_tiny_lexicon_are_proposed() -> None:
    pieces = unigram.train_unigram(WORDS, len(LETTERS) + 6, LETTERS)
    assert {"▁столица", "▁страна", "▁река", "▁гора"} <= set(pieces)


@pytest.mark.parametrize("more", [1, 4, 8])
def test_size_is_exact_and_every_piece_encodes_to_itself(more: int) -> None:
    size = len(LETTERS) + more
    pieces = unigram.train_unigram(WORDS, size, LETTERS)
    assert len(pieces) == size and LETTERS <= set(pieces)
    assert all(math.isfinite(score) and score < 0 for score in pieces.values())
    tokenizer = Tokenizer(models.Unigram(list(pieces.items())))
    assert all(tokenizer.encode(piece).tokens == [piece] for piece in pieces)


def test_the_order_of_the_words_does_not_matter() -> None:
    again = dict(sorted(WORDS.items(), reverse=True))
    size = len(LETTERS) + 5
    assert list(unigram.train_unigram(WORDS, size, LETTERS)) == list(
        unigram.train_unigram(again, size, LETTERS)
    )


def test_characters_that_are_not_required_end_a_piece() -> None:
    pieces = unigram.train_unigram({"абвабв": 9, "аб🙂вг": 9}, 8, set("абвг"))
    assert all(set(piece) <= set("абвг") for piece in pieces)


def test_more_pieces_than_the_words_hold_give_fewer() -> None:
    assert len(unigram.train_unigram({"ab": 3}, 50, {"a", "b"})) == 3
