"""Every cell's samples, read once: its items, whether it is as the run wrote it, and its score
without the rows that stand in training texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from lep_bench import stats
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard.cells import (
    TOLERANCE,
    Asked,
    Chosen,
    Items,
    Lookup,
    Metrics,
    Samples,
    ScoredSample,
    read_items,
)
from lep_bench.leaderboard.contamination import StoredScan, score_clean
from lep_bench.records.schema import CHANGED, TaskResult, fail_result
from lep_bench.records.text_counts import count_texts


def examine_results(
    chosen: Iterable[Chosen], samples: Samples, metrics: Metrics, scan: StoredScan | None = None
) -> tuple[list[Chosen], Lookup]:
    """The same cells with what their samples say, and their items.

    A cell counts as failed, with that reason, where its samples are missing, damaged, of another
    number or changed since the run wrote them, and where its score is not what its samples give.
    """
    found: dict[int, Items | None] = {}
    asked: Asked = {}
    cells = []
    for c, read in _ahead(chosen, samples):
        c, items = (c, None) if read is None else _one(c, read, metrics, scan, asked)
        found[id(c.result)] = items
        cells.append(c)
    # By identity: two results of one cell may be equal. `cells` keeps
    # the results alive.
    return cells, lambda result, _held=cells: found[id(result)]


def _ahead(
    chosen: Iterable[Chosen], samples: Samples
) -> Iterator[tuple[Chosen, Future[Sequence[ScoredSample]] | None]]:
    """Every cell with its samples to come (none for a failed one), a few of them already: files are
    read and hashed beside the work.
    """
    waiting: deque[tuple[Chosen, Future[Sequence[ScoredSample]] | None]] = deque()
    with ThreadPoolExecutor(2) as pool:
        for c in chosen:
            waiting.append((c, pool.submit(samples, c.result) if c.failure is None else None))
            if len(waiting) > 4:
                yield waiting.popleft()
        yield from waiting


def _one(
    c: Chosen,
    reading: Future[Sequence[ScoredSample]],
    metrics: Metrics,
    scan: StoredScan | None,
    asked: Asked,
) -> tuple[Chosen, Items | None]:
    result = c.result
    c = replace(c, health=result.health or ())
    try:
        read = reading.result()
    except LepBenchError as error:
        return replace(c, result=fail_result(result, str(error))), None
    # of an earlier version: counted now
    if result.health is None and (result.provenance.tokens_out or result.provenance.from_store):
        c = replace(c, health=count_texts(read) or ())
    items = read_items(result, read, metrics, asked)
    clean = (
        score_clean(result, read, metrics, scan) if scan and result.task in scan.flagged else None
    )
    if items is None and _contradicted(result, read, metrics):
        where = f"{result.model.name}/{result.task}@{result.key}"
        reason = f"{where}: {CHANGED}: its samples give another score; delete it and run again"
        return replace(c, result=fail_result(result, reason)), None
    return replace(c, clean=clean), items


def _contradicted(result: TaskResult, samples: Sequence[ScoredSample], metrics: Metrics) -> bool:
    """Whether the samples give another score. Only where it is known how: of a task without a
    metrics.py the score may be any function of its numbers, and of sampled answers each item's
    value is a mean over samplings, of which only a mean over items is the score."""
    stored = [s.values.get(result.primary) for s in samples]
    aggregate = metrics.aggregations.get(result.task, {}).get(result.primary)
    if aggregate is None and (
        result.task not in metrics.own or not all(isinstance(v, bool | int | float) for v in stored)
    ):
        return False
    if aggregate is not None and result.scores[result.primary].samplings > 1:
        return False
    try:
        return (
            not abs(float((aggregate or _mean)(stored)) - result.scores[result.primary].value)
            <= TOLERANCE
        )
    except (ArithmeticError, ValueError, TypeError, LookupError):
        return False  # values of another kind than this version of the task takes


def _mean(values: list[Any]) -> float:
    return stats.mean([float(v) for v in values])
