"""The tasks' own metric code, loaded by path: how a score that is no mean over items comes from the
items' stored values.

The metrics.py beside a task's YAML may offer, all by {task: {metric: ...}}: `AGGREGATIONS`, a
function from the list of the values to the score; `RESAMPLED`, the same for many weightings of the
values at once, f(distinct, whole, counts) -> scores: `distinct` the K different values, `whole` [K]
how often each occurs, `counts` [B, K] how often in each of B resamples; and `UNITS` = {task:
function(value)} where only whole units may be left out: an exam's grade without some of its
questions is no grade.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lep_bench.errors import TaskError
from lep_bench.files import load_module
from lep_bench.records.schema import Machine, TaskResult
from lep_bench.tasks import scan_tasks

Aggregation = Callable[[list[Any]], float]
Resampled = Callable[[Sequence[Any], "np.ndarray", "np.ndarray"], "np.ndarray"]
# distinct values; above, resampling by a function that is not vectorised takes seconds per cell
MOST_DISTINCT = 200


@dataclass(frozen=True)
class Metrics:
    """What the tasks' metrics.py files offer. `own`: the tasks that have such a file."""

    aggregations: dict[str, dict[str, Aggregation]] = field(default_factory=dict)
    resampled: dict[str, dict[str, Resampled]] = field(default_factory=dict)
    units: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    @classmethod
    def load(cls, tasks: Sequence[str], folders: Sequence[Path] = ()) -> Metrics:
        """The metrics of the named tasks, in the shipped task folders and the user's. Raises
        TaskError for a metrics.py that cannot be imported.
        """
        known = scan_tasks(folders).tasks
        files = {task: known[task].folder / "metrics.py" for task in tasks if task in known}
        existing = {file for file in files.values() if file.is_file()}
        own = frozenset(task for task, file in files.items() if file in existing)
        metrics = cls(own=own)
        for module in map(_load_metrics, sorted(existing)):
            metrics.aggregations.update(getattr(module, "AGGREGATIONS", {}))
            metrics.resampled.update(getattr(module, "RESAMPLED", {}))
            metrics.units.update(getattr(module, "UNITS", {}))
        return metrics

    def raw(self, task: str, metric: str, values: Sequence[Any]) -> StoredValues | None:
        """The stored values of a score that is no mean over items; None where its aggregation is
        not offered or cannot take them.
        """
        if metric not in self.aggregations.get(task, {}):
            return None
        try:
            keys = [tuple(v) if type(v) is list else v for v in values]
            places: dict[Hashable, int] = {key: i for i, key in enumerate(dict.fromkeys(keys))}
            codes = [places[key] for key in keys]
        except TypeError:  # not hashable: lists in lists
            return None
        return self.coded(task, metric, tuple(places), codes)

    def coded(
        self, task: str, metric: str, distinct: Sequence[Any], codes: Sequence[int]
    ) -> StoredValues | None:
        """As `raw`, from the distinct values and each item's place among them."""
        plain = self.aggregations.get(task, {}).get(metric)
        fast = self.resampled.get(task, {}).get(metric)
        if plain is None or (fast is None and len(distinct) > MOST_DISTINCT):
            return None
        return StoredValues(
            tuple(distinct), np.asarray(codes, dtype=np.intp), fast or _vectorise(plain)
        )


@dataclass(frozen=True, eq=False)
class StoredValues:
    """What a score that is no mean is computed from: K `distinct` values, `codes` [N] (each item's
    place among them).
    """

    distinct: tuple[Any, ...]
    codes: np.ndarray
    function: Resampled

    @property
    def whole(self) -> np.ndarray:
        """[K]: how many items have each value."""
        return np.bincount(self.codes, minlength=len(self.distinct)).astype(np.float64)

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """[B] scores of B resamples, counts [B, K] of the distinct values in each; not finite where
        a resample has none.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(
                self.function(self.distinct, self.whole, np.asarray(counts, dtype=np.float64)),
                dtype=np.float64,
            )

    def shares(self) -> tuple[float, np.ndarray] | None:
        """The score and [N] each item's share in it: centred jackknife pseudo-values, score + (n -
        1) (mean of the scores without one item - score without this one). Their mean is the score,
        their clustered standard error the jackknife's. None where there is no such."""
        whole, n = self.whole, len(self.codes)
        if n < 2:
            return None
        try:
            score, *without = self.scores(np.vstack([whole, whole - np.eye(len(whole))]))
        except (
            ArithmeticError,
            ValueError,
            TypeError,
            LookupError,
        ):  # values of another kind than the metric takes
            return None
        shares = score + (n - 1) * (whole @ np.array(without) / n - np.array(without))
        return (float(score), shares[self.codes]) if np.isfinite(shares).all() else None


def measure_exchanges(a: StoredValues, b: StoredValues) -> np.ndarray:
    """[N]: half of what the difference of two scores, a - b, loses when the two answers to an item
    are exchanged; of a mean this is the item's difference over N. Not finite where the score is not
    known without the answers as they are."""
    places = {value: i for i, value in enumerate(dict.fromkeys((*a.distinct, *b.distinct)))}
    count = len(places)
    ours, theirs = (
        StoredValues(
            tuple(places),
            np.array([places[value] for value in raw.distinct])[raw.codes],
            raw.function,
        )
        for raw in (a, b)
    )
    pairs, of = np.unique(ours.codes * count + theirs.codes, return_inverse=True)
    change = np.eye(count)[pairs % count] - np.eye(count)[pairs // count]
    gaps = ours.scores(np.vstack([ours.whole, ours.whole + change])) - theirs.scores(
        np.vstack([theirs.whole, theirs.whole - change])
    )
    return np.where(pairs % count == pairs // count, 0.0, (gaps[0] - gaps[1:]) / 2)[of]


def _vectorise(plain: Aggregation) -> Resampled:
    def score(values: list[Any]) -> float:
        try:
            return plain(values)
        except (
            ArithmeticError,
            ValueError,
            LookupError,
        ):  # nothing left to divide, to count, to choose from
            return math.nan

    def scores(distinct: Sequence[Any], whole: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.array(
            [score([v for v, n in zip(distinct, row) for _ in range(int(n))]) for row in counts]
        )

    return scores


def _load_metrics(file: Path) -> Any:
    try:
        return load_module(file, "metrics")
    except (ImportError, SyntaxError, NameError, OSError) as error:
        raise TaskError(f"{file}: cannot be imported: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Condition:
    """How a model was asked. Rows that differ here are not comparable and stand in separate
    blocks.
    """

    protocol: str
    shots: int
    format: str
    engine: str
    dtype: str

    @classmethod
    def from_result(cls, result: TaskResult) -> Condition:
        """The condition under which a result came about."""
        s = result.scoring
        return cls(s.protocol, s.shots, s.format, result.provenance.engine, s.dtype)


@dataclass(frozen=True)
class Chosen:
    """A result that enters the table. `stale`: of a model or task version that is no longer the
    current one; `clean`: its primary score without the rows that stand in training texts (None: no
    such rows, or not known); `health`: the `TextCounts` of its texts, empty where there are none.
    """

    result: TaskResult
    stale: bool = False
    clean: float | None = None
    health: tuple[int, ...] = ()

    @property
    def failure(self) -> str | None:
        """Why there is no number here; None where there is one."""
        result = self.result
        if result.status == "failed":
            return result.error or "no reason recorded"
        score = result.scores.get(result.primary)
        if score is None:
            return f"the result holds no score {result.primary!r}"
        return (
            None if math.isfinite(score.value) else f"the score {result.primary!r} is {score.value}"
        )


@dataclass(frozen=True, eq=False)
class Items:
    """The primary score of every item of a cell: `values` [N], whose mean is the score. `ids` name
    the items; groups are "" where an item is its own group. Cells that were asked the same share
    the tuples.

    Of a score that is no mean over items (F1) the values are centred jackknife pseudo-values, and
    `raws` holds what the score is computed from, one per training seed: score of a resample = mean
    over raws of raw.scores(counts of raw.distinct).
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    values: np.ndarray
    raws: tuple[StoredValues, ...] = ()

    def clusters(self, task: str) -> tuple[int, ...]:
        """What counts as one draw, as a number within this process: the group (the same in every
        task), else the item itself.
        """
        return _number_clusters(task, self.ids, self.groups)


# numbers, since millions of names would have to be hashed again and again
_NUMBERS: dict[tuple[str, ...], int] = {}


@lru_cache(maxsize=64)  # of as many tasks: every cell of a task asks for the same
def _number_clusters(task: str, ids: tuple[str, ...], groups: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(
        [
            _NUMBERS.setdefault((group,) if group else (task, item), len(_NUMBERS))
            for group, item in zip(groups, ids)
        ]
    )


class ScoredSample(Protocol):
    """What a table needs of a `results.Sample`; of `gold` and generated texts only where they were
    not counted at scoring.
    """

    doc_id: int
    doc_hash: str
    group: str
    gold: str
    values: dict[str, Any]


Lookup = Callable[[TaskResult], Items | None]
Samples = Callable[[TaskResult], Sequence[ScoredSample]]
# (doc ids, hashes, groups) -> ids and groups of Items
Asked = dict[tuple[tuple[Any, ...], ...], tuple[tuple[str, ...], tuple[str, ...]]]
# a score and what its items give, at most so far apart: published items have five digits
TOLERANCE = 1e-5


def read_items(
    result: TaskResult, samples: Sequence[ScoredSample], metrics: Metrics, asked: Asked
) -> Items | None:
    """The items of a cell; None where they do not give the score: no values under its name, or an
    aggregation that nobody offers. Ids and groups are kept in `asked` for the next cell that was
    asked the same.

    That is the contract with the tasks: `Sample.values[primary]` is the item's share of a score
    that is their mean, or what the task's entry in AGGREGATIONS consumes.
    """
    stored = [s.values.get(result.primary) for s in samples]
    raw = metrics.raw(result.task, result.primary, stored)
    values = shares = None
    if raw is not None:
        shares = raw.shares()
        values = shares and shares[1]
    elif stored and set(map(type, stored)) <= {bool, int, float}:
        values = np.array(stored, dtype=np.float64)
    if (
        values is None
        or not np.isfinite(values).all()
        or not abs(values.mean() - result.scores[result.primary].value) <= TOLERANCE
    ):
        return None
    key = (
        tuple([s.doc_id for s in samples]),
        tuple([s.doc_hash for s in samples]),
        tuple([s.group for s in samples]),
    )
    if key not in asked:
        # A group of that very number that other items have, too, is a group.
        alone = {group for group, count in Counter(key[2]).items() if count == 1}
        groups = tuple(
            [
                ""
                if group in ("", doc_hash) or (group == str(doc_id) and group in alone)
                else group
                for doc_id, doc_hash, group in zip(*key)
            ]
        )
        asked[key] = tuple([f"{doc_id}:{doc_hash}" for doc_id, doc_hash in zip(*key[:2])]), groups
    return Items(*asked[key], values, () if raw is None else (raw,))


def choose_results(results: Iterable[TaskResult], suite: str, tasks: Sequence[str]) -> list[Chosen]:
    """One result per model, seed, task and condition: current before stale, scored before failed,
    whole before limited, newest last.

    Stale is a result of another version of its task than the newest result of that task.
    """
    wanted = sorted(
        (r for r in results if r.suite == suite and r.task in tasks),
        key=lambda r: (r.provenance.created, r.key),
    )
    newest = {result.task: result.task_fingerprint for result in wanted}
    best: dict[tuple[str, int, str, Condition], tuple[tuple[bool, bool, bool], Chosen]] = {}
    for result in wanted:
        chosen = Chosen(result, stale=newest[result.task] != result.task_fingerprint)
        rank = (not chosen.stale, chosen.failure is None, result.scoring.limit is None)
        cell = (result.model.name, result.model.seed, result.task, Condition.from_result(result))
        if cell not in best or rank >= best[cell][0]:
            best[cell] = (rank, chosen)
    return [chosen for _, chosen in best.values()]


def format_model_key(result: TaskResult) -> str:
    """Name with the training seed, as `config.ModelSpec.key` writes it."""
    model = result.model
    return model.name if model.seed == 0 else f"{model.name}@seed{model.seed}"


def average_items(items: Sequence[Items | None]) -> Items | None:
    """The items of several seeds of one model, each value averaged; None where one is missing or
    the items differ.
    """
    first = items[0] if items else None
    if first is None or any(i is None or i.ids != first.ids for i in items):
        return None
    if len(items) == 1:
        return first
    whole = [i for i in items if i]
    return replace(
        first,
        values=sum((i.values for i in whole), np.zeros(len(first.ids))) / len(whole),
        raws=tuple(raw for i in whole for raw in i.raws),
    )


NOT_RECORDED = "(not recorded)"


def describe_machine(machine: Machine) -> str:
    """`engine hf 5.19.0 on cpu in float32`."""
    return (
        f"engine {machine.engine} {machine.version or '(version not recorded)'} on "
        f"{machine.device or NOT_RECORDED} in {machine.dtype}"
    )
