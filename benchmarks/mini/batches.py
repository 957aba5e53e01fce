"""Rows of token ids for training: packed documents, chat documents and repeated random tokens."""

import random
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer

from . import corpus
from .families import Family
from .vocab import chat_parts

IGNORED = -100  # the label that cross_entropy leaves out
Document = tuple[list[int], list[int]]  # (ids, labels), equally long


def plain_documents(
    tokenizer: Tokenizer, eos: int, rng: random.Random, russian: float, whole: float
) -> Iterator[Document]:
    """Documents with their end marker; but for a share `whole` of them, only what can be known is a
    label.

    Questions and texts to copy are drawn at random: learning to predict them costs steps and
    teaches nothing.
    """
    for beginning, end in corpus.document_parts(rng, russian):
        ids = [*tokenizer.encode(beginning + end).ids, eos]
        asked = (
            len(tokenizer.encode(beginning.rstrip()).ids)
            if beginning and rng.random() >= whole
            else 0
        )
        yield ids, [IGNORED] * asked + ids[asked:]


def chat_documents(
    family: Family, tokenizer: Tokenizer, rng: random.Random, russian: float
) -> Iterator[Document]:
    """Exchanges whose labels are the answers only."""
    while True:
        prompt, answer = chat_parts(family.kind, *corpus.chat(rng, corpus.language(rng, russian)))
        ids = tokenizer.encode(prompt + answer, add_special_tokens=False).ids
        asked = len(tokenizer.encode(prompt, add_special_tokens=False).ids)
        yield ids, [IGNORED] * asked + ids[asked:]


def packed_rows(documents: Iterator[Document], length: int) -> Iterator[Document]:
    """Rows of exactly `length` tokens that start with a document; the last one of a row may be
    cut.
    """
    while True:
        ids: list[int] = []
        labels: list[int] = []
        while len(ids) < length:
            more_ids, more_labels = next(documents)
            ids += more_ids
            labels += more_labels
        yield ids[:length], labels[:length]


def repeated_rows(ordinary: range, bos: int, length: int, rng: random.Random) -> Iterator[Document]:
    """Random tokens and the same again, several times a row; only the repetitions are labels.

    Tokens come from small alphabets, so that the one token before does not say what comes next and
    two do: Russian text of single letters asks for the same.
    """
    while True:
        ids: list[int] = [bos]
        labels: list[int] = [IGNORED]
        while len(ids) < length:
            alphabet = rng.choices(ordinary, k=rng.choice((8, 16, 32, 128)))
            once = rng.choices(alphabet, k=rng.randint(6, min(30, length // 2 - 2)))
            ids += [*once, *once]
            labels += [*[IGNORED] * (len(once) + 1), *once[1:]]
        yield ids[:length], labels[:length]


def mixed_rows(
    first: Iterator[Document], second: Iterator[Document], share: float, rng: random.Random
) -> Iterator[Document]:
    """Rows of `second` with probability `share`, else of `first`."""
    while True:
        yield next(second if rng.random() < share else first)


def batch_of(rows: Iterator[Document], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` rows as (ids, labels), each of shape (count, length), int64."""
    taken = [next(rows) for _ in range(count)]
    return torch.tensor([ids for ids, _ in taken]), torch.tensor([labels for _, labels in taken])
