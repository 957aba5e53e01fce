"""What the texts behind a row look like: ended in time, written in Cyrillic where the reference is,
repeating themselves, broken.
"""

from __future__ import annotations

from collections.abc import Sequence

from lep_bench.leaderboard.measure import Draft
from lep_bench.leaderboard.table import Health, Row
from lep_bench.leaderboard.text import MISSING, number
from lep_bench.records.text_counts import N, TextCounts

HEADERS = (
    "texts",
    "stopped in time",
    "Cyrillic letters",
    f"repeated {N}-word sequences",
    "invalid UTF-8",
)
REMARKS = (
    (
        "Of the texts that a model wrote itself (greedy, or the first of several samplings), in "
        "percent; tasks with options have none."
    ),
    (
        "stopped in time: ended before the limit of new tokens; results of earlier versions do "
        "not know it."
    ),
    (
        "Cyrillic letters: of all letters, where the reference answer is Russian. Latin names "
        "keep it below 100."
    ),
    (
        f"repeated: sequences of {N} words that had occurred before in the same text; invalid: "
        "texts with bytes that are no UTF-8."
    ),
)


# Counted at scoring; of results of earlier versions where each cell's samples are read, once:
# clean.examined.


def summarise_texts(draft: Draft, tasks: Sequence[str]) -> Health | None:
    """All tasks and training seeds of a row together; None where nothing was generated, or it was
    not counted.
    """
    each = [
        TextCounts(*c.health) for task in tasks for c in draft.scored(task).values() if c.health
    ]
    if not each:
        return None
    n = TextCounts(*map(sum, zip(*each)))
    return Health(
        n.texts,
        _share(n.stopped, n.judged),
        _share(n.cyrillic, n.letters),
        _share(n.repeated, n.sequences),
        n.invalid / n.texts,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def numbers(row: Row) -> list[str]:
    """A row's texts under `HEADERS`."""
    h = row.health
    if h is None:
        return [MISSING] * len(HEADERS)
    return [
        f"{h.texts:,}",
        *(
            MISSING if share is None else number(share, True, 1)
            for share in (h.stopped, h.cyrillic, h.repeated, h.invalid)
        ),
    ]


FIELDS = ("texts", "stopped", "cyrillic", "repeated", "invalid")


def fields(row: Row) -> list[float | None]:
    """A row's plain values under `FIELDS`."""
    return [row.health and getattr(row.health, name) for name in FIELDS]
