"""Byte-pair merges: what they make, what they may not make, and that encoding replays the
training.
"""

from __future__ import annotations

import random

from tokenizers import Tokenizer, models

from lep_bench.surgery.tokenizers import bpe

WORDS = {"abab": 5, "abc": 4, "bcbc": 3, "abcd": 2, "ccd": 2}


def split(words: dict[str, int]) -> dict[tuple[str, ...], int]:
    return {tuple(word): count for word, count in words.items()}


def test_the_most_frequent_pair_comes_first_and_ties_go_by_spelling() -> None:
    # ab: 2*5 + 4 + 2 = 16, then abc: 4 + 2 = 6, against abab: 5 and bc (in bcbc only): 6; "ab" <
    # "b".
    assert bpe.train_merges(split(WORDS), 3, set()) == [("a", "b"), ("ab", "c"), ("b", "c")]


def test_no_merge_gives_a_taken_token_or_the_same_token_twice() -> None:
    found = bpe.train_merges(split(WORDS), 50, {"ab"})
    made = ["".join(pair) for pair in found]
    assert "ab" not in made
    assert len(set(made)) == len(made)


def test_too_little_text_gives_fewer_merges() -> None:
    assert bpe.train_merges({("x", "y"): 1}, 5, set()) == []
    assert bpe.train_merges({("x", "y"): 2}, 5, set()) == [("x", "y")]


def test_encoding_replays_the_training_and_reaches_every_token() -> None:
    rng = random.Random(3)
    words = {
        "".join(rng.choices("abcde", weights=(8, 4, 3, 2, 1), k=rng.randint(2, 9))): rng.randint(
            1, 9
        )
        for _ in range(300)
    }
    found = bpe.train_merges(split(words), 60, set())
    tokens = ["a", "b", "c", "d", "e", *map("".join, found)]
    model = models.BPE({token: number for number, token in enumerate(tokens)}, found)
    used = {token.value for word in words for token in model.tokenize(word)}
    for token in tokens:
        assert [t.value for t in model.tokenize(token)] == [token], (
            f"{token} does not encode to itself"
        )
    assert len(used) > 0.8 * len(tokens)
    assert Tokenizer(model).get_vocab_size() == 65


def test_path_holds_every_step_and_only_merges_that_are_taken() -> None:
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("a", "bc"): 2}
    assert bpe.find_merge_path("abc", ranks) == {"a", "b", "c", "bc", "abc"}
    assert bpe.find_merge_path("ac", ranks) is None
