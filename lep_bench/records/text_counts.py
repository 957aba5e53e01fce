"""What generated texts look like, in counts that add up over tasks and seeds: ended, in the
reference's script, repeating, broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

N = 4  # words of a sequence; degenerate loops repeat whole phrases, good Russian rarely four words
_LETTERS, _CYRILLIC = re.compile(r"[^\W\d_]+"), re.compile("[\u0400-\u052f]+")


class GeneratedText(Protocol):
    """What the counts need of a sample: the reference, and `values` with text and stopped."""

    @property
    def gold(self) -> str: ...

    @property
    def values(self) -> dict[str, Any]: ...


class TextCounts(NamedTuple):
    """`judged`: texts of which it is known whether they `stopped` before the limit; `letters` and
    `cyrillic`: of texts whose reference is Russian; `sequences` of N words, `repeated` those that
    occurred before in the same text; `invalid`: texts with U+FFFD, which is what bytes become that
    are no UTF-8."""

    texts: int = 0
    judged: int = 0
    stopped: int = 0
    letters: int = 0
    cyrillic: int = 0
    sequences: int = 0
    repeated: int = 0
    invalid: int = 0


def count_texts(samples: Iterable[GeneratedText]) -> TextCounts | None:
    """Of the first sampling's texts; None where nothing was generated."""
    found = [
        (text, sample) for sample in samples if isinstance(text := sample.values.get("text"), str)
    ]
    if not found:
        return None
    ended = [sample.values["stopped"] for _, sample in found if "stopped" in sample.values]
    russian = "\n".join(text for text, sample in found if is_russian(sample.gold))
    sequences = repeated = 0
    for text, _ in found:
        words = text.split()
        own = max(len(words) - N + 1, 0)
        sequences += own
        if len(words) - len(set(words)) >= N:  # else no N words in a row can have been there before
            repeated += own - len(set(zip(*(words[n:] for n in range(N)))))
    invalid = sum("\ufffd" in text for text, _ in found)
    return TextCounts(
        len(found),
        len(ended),
        sum(map(bool, ended)),
        _count_letters(_LETTERS, russian),
        _count_letters(_CYRILLIC, russian),
        sequences,
        repeated,
        invalid,
    )


def is_russian(text: str) -> bool:
    """More than half of its letters are Cyrillic."""
    return 2 * _count_letters(_CYRILLIC, text) > _count_letters(_LETTERS, text)


def _count_letters(pattern: re.Pattern[str], text: str) -> int:
    return sum(map(len, pattern.findall(text)))
