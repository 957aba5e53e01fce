"""Errors of scores and differences, seeds included. Values are on the scale of the score (0 to 1); see `lep_bench.clustered`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lep_bench.clustered import Part, clustered_stderr, combined_stderr

__all__ = ["Part", "centred", "clustered_stderr", "combined_stderr", "joined", "mean", "spread", "with_seeds"]


def joined(parts: Sequence[Part], others: Sequence[float | None]) -> float | None:
    """Standard error of a sum of item means (`parts`) and of scores that are none, whose errors `others` are taken as independent
    (already weighted). None where one of them is not known or nothing is given."""
    known = [error for error in others if error is not None]
    items = combined_stderr(parts) if parts else None
    if len(known) < len(others) or (parts and items is None) or not (parts or known):
        return None
    return items if items is not None and not known else math.hypot(items or 0.0, *known)


def mean(values: Sequence[float]) -> float:
    """Exactly rounded arithmetic mean."""
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1) over training seeds; None with fewer than two."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def with_seeds(items: float | None, *seeds: Sequence[float]) -> float | None:
    """Item error and seed error of a difference joined: sqrt(SE_items^2 + sum over models of sd^2 / k), k seeds each.

    `seeds` holds each model's score per seed; models with one seed add nothing (their seed error is unknown). The
    seed-by-item part of the variance is in both terms, so the result errs on the wide side.
    """
    if items is None:
        return None
    return math.sqrt(items**2 + math.fsum((spread(scores) or 0.0) ** 2 / len(scores) for scores in seeds))


def centred(score: float, chance: float) -> float:
    """(s - c) / (1 - c): 0 is guessing, 1 is perfect, below chance is negative (not clipped)."""
    return (score - chance) / (1.0 - chance)
