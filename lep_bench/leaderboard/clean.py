"""Scores without the rows that stand in training texts, recomputed from stored samples by the tasks' own metric code.

`lep-bench contamination` writes what it found to OUT/SUITE/contamination.json; here its flagged rows are left out. A task whose score is
no mean over items offers `AGGREGATIONS = {task: {metric: function(values)}}` in the metrics.py beside its YAML, and `UNITS = {task:
function(value)}` where only whole units may be left out: an exam's grade without some of its questions is no grade.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lep_bench import taskfiles
from lep_bench.errors import LepBenchError, TaskError
from lep_bench.fingerprint import digest
from lep_bench.leaderboard import stats
from lep_bench.leaderboard.cells import Chosen
from lep_bench.leaderboard.table import Contamination
from lep_bench.results import Sample, TaskResult

VERSION = 1
Aggregation = Callable[[list[Any]], float]
Unit = Callable[[Any], Any]


@dataclass(frozen=True)
class Scan:
    """The scan: what it found in numbers, the hashes of each task's flagged rows, and how those tasks' scores come about."""

    found: Contamination
    flagged: dict[str, frozenset[str]]
    aggregations: dict[str, dict[str, Aggregation]]
    units: dict[str, Unit]


def read(file: Path, tasks: Sequence[str], folders: Sequence[Path] = ()) -> Scan | None:
    """The scan in `file`, of the named tasks; None where there is no such file. `folders`: the user's task folders.

    Raises LepBenchError for a file that cannot be read, TaskError for a metrics.py that cannot be imported.
    """
    if not file.is_file():
        return None
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["schema_version"] != VERSION:
            raise ValueError(f"schema version {held['schema_version']} instead of {VERSION}")
        rows = {task: (int(one["rows"]), frozenset(map(str, one["flagged"]))) for task, one in held["tasks"].items() if task in tasks}
        counts = tuple((task, rows[task][0], len(rows[task][1])) for task in tasks if task in rows)
        found = Contamination(tuple(str(text["name"]) for text in held["texts"]), int(held["ngram"]), counts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise LepBenchError(f"{file}: not a contamination scan ({why}): make it again with lep-bench contamination, or delete it") from error
    flagged = {task: hashes for task, (_, hashes) in rows.items() if hashes}
    return Scan(found, flagged, *_metrics(list(flagged), folders))


def rescored(chosen: Sequence[Chosen], samples: Callable[[TaskResult], Sequence[Sample]], scan: Scan | None) -> list[Chosen]:
    """The same cells, those of tasks with flagged rows with their score without these."""
    if scan is None:
        return list(chosen)

    def one(c: Chosen) -> Chosen:
        wanted = c.failure is None and c.result.task in scan.flagged
        return replace(c, clean=score(c.result, samples(c.result), scan)) if wanted else c

    return [one(c) for c in chosen]


def score(result: TaskResult, samples: Sequence[Sample], scan: Scan) -> float | None:
    """The primary score over the rows that are not flagged; None where it cannot be known.

    That is so where recomputing the whole score does not give the stored one (1e-5), where no row is left, and where a full
    result has not the number of rows that were scanned or not all the flagged ones: then the scan was of other rows.
    """
    metric, flagged = result.primary, scan.flagged[result.task]
    scanned = next(rows for task, rows, _ in scan.found.tasks if task == result.task)
    aggregate = scan.aggregations.get(result.task, {}).get(metric, _mean)
    unit_of = scan.units.get(result.task)
    other_rows = result.scoring.limit is None and (len(samples) != scanned or not flagged <= {s.doc_hash for s in samples})
    if other_rows or any(metric not in s.values for s in samples):
        return None
    try:
        units = [unit_of(s.values[metric]) if unit_of else s.doc_hash for s in samples]
        gone = {unit for s, unit in zip(samples, units) if s.doc_hash in flagged}
        whole = float(aggregate([s.values[metric] for s in samples]))
        if not abs(whole - result.scores[metric].value) <= 1e-5:
            return None
        value = float(aggregate([s.values[metric] for s, unit in zip(samples, units) if unit not in gone]))
    except (ArithmeticError, ValueError, TypeError, LookupError):
        return None  # e.g. a score of classes of which one is gone
    return value if math.isfinite(value) else None


def _mean(values: list[Any]) -> float:
    return stats.mean([float(v) for v in values])


def _metrics(tasks: Sequence[str], folders: Sequence[Path]) -> tuple[dict[str, dict[str, Aggregation]], dict[str, Unit]]:
    aggregations: dict[str, dict[str, Aggregation]] = {}
    units: dict[str, Unit] = {}
    known = taskfiles.scan(folders).tasks if tasks else {}
    for file in dict.fromkeys(known[task].folder / "metrics.py" for task in tasks if task in known):
        if file.is_file():
            module = _module(file)
            aggregations |= getattr(module, "AGGREGATIONS", {})
            units |= getattr(module, "UNITS", {})
    return aggregations, units


def _module(file: Path) -> Any:
    """metrics.py under a name of its own: task folders must never become importable names."""
    name = f"_lep_bench_metrics_{digest(str(file.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError, OSError) as error:
        raise TaskError(f"{file}: cannot be imported: {type(error).__name__}: {error}") from error
    return module
