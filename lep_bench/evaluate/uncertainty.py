"""Standard errors of a task's metrics, clustered by group: items about one fact are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lep_bench.clustered import clustered_stderr

BLOCKS = 40  # groups are put into at most so many blocks where every omission costs a whole aggregation


def stderr(values: Sequence[Any], groups: Sequence[str], aggregate: Callable[[list[Any]], Any]) -> float | None:
    """Standard error of `aggregate(values)`; values i belongs to the cluster groups[i]. None where there is none to give.

    Means: cluster-robust, see `lep_bench.clustered`. Ratios of sums (bits per byte): jackknife over clusters. Anything else (F1): jackknife over
    at most `BLOCKS` blocks of clusters.
    """
    cluster, count = _numbered(groups)
    if count < 2:
        return None
    whole = float(aggregate(list(values)))
    table = _numbers(values)
    if table is not None and table.shape[1] == 1 and math.isclose(whole, table.mean(), rel_tol=1e-9, abs_tol=1e-12):
        return clustered_stderr(table[:, 0].tolist(), groups)
    try:
        if table is not None and table.shape[1] == 2:
            totals = table.sum(0)
            if math.isclose(whole, float(aggregate([tuple(totals)])), rel_tol=1e-9):
                parts = np.stack([np.bincount(cluster, table[:, column], count) for column in (0, 1)], 1)
                return _jackknife(np.array([float(aggregate([tuple(row)])) for row in totals - parts]))
        block = cluster % min(count, BLOCKS)
        left = [[value for value, b in zip(values, block, strict=True) if b != out] for out in range(min(count, BLOCKS))]
        return _jackknife(np.array([float(aggregate(rest)) for rest in left]))
    except (ArithmeticError, ValueError, TypeError, IndexError, KeyError):
        return None  # an aggregation that cannot do without the omitted items has no standard error


def _jackknife(estimates: np.ndarray) -> float | None:
    n = len(estimates)
    error = float(np.sqrt((n - 1) / n * np.square(estimates - estimates.mean()).sum()))
    return error if math.isfinite(error) else None


def _numbered(groups: Sequence[str]) -> tuple[np.ndarray, int]:
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    return np.array([names[group] for group in groups], dtype=np.int64), len(names)


def _numbers(values: Sequence[Any]) -> np.ndarray | None:
    """[n, 1] for numbers, [n, 2] for pairs of numbers, else None."""
    rows = [value if isinstance(value, (tuple, list)) else (value,) for value in values]
    widths = {len(row) for row in rows}
    if widths not in ({1}, {2}) or not all(isinstance(part, (int, float, np.number, np.bool_)) for row in rows for part in row):
        return None
    return np.array(rows, dtype=np.float64)
