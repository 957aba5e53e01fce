"""Every cell's samples, read once: its items, whether it is as the run wrote it, and its score
without rows found in training texts.

`lep-bench contamination` writes what it found to OUT/SUITE/contamination.json; here its flagged
rows are left out and the score is recomputed from the stored samples by the tasks' own metric code
(see `metrics`).
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lep_bench import stats
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard.cells import (
    CLOSE,
    Answered,
    Asked,
    Chosen,
    Items,
    Lookup,
    Metrics,
    Samples,
    read_items,
)
from lep_bench.leaderboard.table import Contamination
from lep_bench.records.schema import EditedError, TaskResult, is_sealed
from lep_bench.records.text_counts import count_texts

VERSION = 1


@dataclass(frozen=True)
class StoredScan:
    """The scan: what it found in numbers, and the hashes of each task's flagged rows."""

    found: Contamination
    flagged: dict[str, frozenset[str]]


def read_scan(file: Path, tasks: Sequence[str]) -> StoredScan | None:
    """The scan in `file`, of the named tasks; None where there is no such file. Raises
    LepBenchError for a file that cannot be read.
    """
    if not file.is_file():
        return None
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["schema_version"] != VERSION:
            raise ValueError(f"schema version {held['schema_version']} instead of {VERSION}")
        rows = {
            task: (int(one["rows"]), frozenset(map(str, one["flagged"])))
            for task, one in held["tasks"].items()
            if task in tasks
        }
        counts = tuple((task, rows[task][0], len(rows[task][1])) for task in tasks if task in rows)
        found = Contamination(
            tuple(str(text["name"]) for text in held["texts"]), int(held["ngram"]), counts
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise LepBenchError(
            f"{file}: not a contamination scan ({why}): make it again with lep-bench "
            "contamination, or delete it"
        ) from error
    flagged = {task: hashes for task, (_, hashes) in rows.items() if hashes}
    return StoredScan(found, flagged)


def examine_results(
    chosen: Iterable[Chosen], samples: Samples, metrics: Metrics, scan: StoredScan | None = None
) -> tuple[list[Chosen], Lookup]:
    """The same cells with what their samples say, and their items.

    A cell whose samples are missing, damaged or of another number counts as failed, with that
    reason; one that was changed since the run wrote it, or whose score is not what its samples
    give, is marked as edited, and has no items.
    """
    found: dict[int, Items | None] = {}
    asked: Asked = {}
    cells = []
    for c, read in _ahead(chosen, samples):
        c, items = (c, None) if read is None else _one(c, read, metrics, scan, asked)
        found[id(c.result)] = items
        cells.append(c)
    # By identity: two results of one cell may differ in nothing but what was edited. `cells` keeps
    # the results alive.
    return cells, lambda result, _held=cells: found[id(result)]


def _ahead(
    chosen: Iterable[Chosen], samples: Samples
) -> Iterator[tuple[Chosen, Future[Sequence[Answered]] | None]]:
    """Every cell with its samples to come (none for a failed one), a few of them already: files are
    read and hashed beside the work.
    """
    waiting: deque[tuple[Chosen, Future[Sequence[Answered]] | None]] = deque()
    with ThreadPoolExecutor(2) as pool:
        for c in chosen:
            waiting.append((c, pool.submit(samples, c.result) if c.failure is None else None))
            if len(waiting) > 4:
                yield waiting.popleft()
        yield from waiting


def _one(
    c: Chosen,
    reading: Future[Sequence[Answered]],
    metrics: Metrics,
    scan: StoredScan | None,
    asked: Asked,
) -> tuple[Chosen, Items | None]:
    result = c.result
    c = replace(c, health=result.health or ())
    if not is_sealed(result):
        return replace(c, edited=True), None
    try:
        read = reading.result()
    except EditedError:
        return replace(c, edited=True), None
    except LepBenchError as error:
        return replace(
            c,
            result=result.model_copy(
                update={"status": "failed", "error": str(error), "scores": {}}
            ),
        ), None
    # of an earlier version: counted now
    if result.health is None and (result.provenance.tokens_out or result.provenance.from_store):
        c = replace(c, health=count_texts(read) or ())
    items = read_items(result, read, metrics, asked)
    clean = (
        score_clean(result, read, metrics, scan) if scan and result.task in scan.flagged else None
    )
    if items is None and _contradicted(result, read, metrics):
        return replace(c, edited=True), None
    return replace(c, clean=clean), items


def _contradicted(result: TaskResult, samples: Sequence[Answered], metrics: Metrics) -> bool:
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
            <= CLOSE
        )
    except (ArithmeticError, ValueError, TypeError, LookupError):
        return False  # values of another kind than this version of the task takes


def score_clean(
    result: TaskResult, samples: Sequence[Answered], metrics: Metrics, scan: StoredScan
) -> float | None:
    """The primary score over the rows that are not flagged; None where it cannot be known.

    That is so where recomputing the whole score does not give the stored one, where no row is left,
    and where a full result has not the number of rows that were scanned or not all the flagged
    ones: then the scan was of other rows.
    """
    metric, flagged = result.primary, scan.flagged[result.task]
    scanned = next(rows for task, rows, _ in scan.found.tasks if task == result.task)
    aggregate = metrics.aggregations.get(result.task, {}).get(metric, _mean)
    unit_of = metrics.units.get(result.task)
    other_rows = result.scoring.limit is None and (
        len(samples) != scanned or not flagged <= {s.doc_hash for s in samples}
    )
    if other_rows or any(metric not in s.values for s in samples):
        return None
    try:
        units = [unit_of(s.values[metric]) if unit_of else s.doc_hash for s in samples]
        gone = {unit for s, unit in zip(samples, units) if s.doc_hash in flagged}
        whole = float(aggregate([s.values[metric] for s in samples]))
        if not abs(whole - result.scores[metric].value) <= CLOSE:
            return None
        value = float(
            aggregate([s.values[metric] for s, unit in zip(samples, units) if unit not in gone])
        )
    except (ArithmeticError, ValueError, TypeError, LookupError):
        return None  # e.g. a score of classes of which one is gone
    return value if math.isfinite(value) else None


def _mean(values: list[Any]) -> float:
    return stats.mean([float(v) for v in values])
