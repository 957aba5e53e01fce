"""The texts of the built-in world, in a fixed order. `benchmarks/mini/texts.py` wrote them."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from itertools import islice
from typing import Any

from lep_bench import files
from lep_bench.errors import LepBenchError


def vocabulary_texts() -> Iterator[str]:
    """Texts for training new vocabularies: 6,000 documents and the lexicon, half Russian."""
    return _rows("vocabulary")


def pretraining_texts() -> Iterator[str]:
    """Documents for continued pre-training, 80% Russian. They have 2,000,000 characters, twice as
    many as the shipped families read.
    """
    return _rows("pretraining")


def calibration_prompts(n: int) -> list[str]:
    """The first `n` user messages that the original instruct model answers, half Russian. Raises
    LepBenchError for more than 13,531.
    """
    return _first(n, "calibration", "calibration prompts", "answers")


def copy_prompts(n: int) -> list[tuple[str, str]]:
    """The first `n` copy exercises (user message, expected answer), half Russian. Raises
    LepBenchError for more than 10,000.
    """
    return [(message, answer) for message, answer in _first(n, "copies", "texts to copy", "copies")]


def _rows(name: str) -> Iterator[Any]:
    with lzma.open(files.builtin_texts() / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _first(n: int, name: str, what: str, parameter: str) -> list[Any]:
    rows = list(islice(_rows(name), n))
    if len(rows) < n:
        raise LepBenchError(
            f"corpus: the built-in world has {len(rows):,} {what}, calibration asks for "
            f"{n:,}: lower `{parameter}`"
        )
    return rows
