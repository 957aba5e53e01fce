"""Which results a table is made of: one per model, training seed, task and way of asking, with its items' scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lep_bench.results import Sample, TaskResult


@dataclass(frozen=True)
class Condition:
    """How a model was asked. Rows that differ here are not comparable and stand in separate blocks."""

    protocol: str
    shots: int
    format: str
    engine: str
    dtype: str

    @classmethod
    def of(cls, result: TaskResult) -> Condition:
        """The condition under which a result came about."""
        s = result.scoring
        return cls(s.protocol, s.shots, s.format, result.provenance.engine, s.dtype)


@dataclass(frozen=True)
class Chosen:
    """A result that enters the table. `stale`: of a model or task version that is no longer the current one; `clean`: its
    primary score without the rows that stand in training texts (None: no such rows, or not known)."""

    result: TaskResult
    stale: bool = False
    clean: float | None = None

    @property
    def failure(self) -> str | None:
        """Why there is no number here; None where there is one."""
        result = self.result
        if result.status == "failed":
            return result.error or "no reason recorded"
        score = result.scores.get(result.primary)
        if score is None:
            return f"the result holds no score {result.primary!r}"
        return None if math.isfinite(score.value) else f"the score {result.primary!r} is {score.value}"


@dataclass(frozen=True)
class Items:
    """The primary score of every item of a cell. `ids` name the items; groups are "" where an item is its own group."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    values: tuple[float, ...]

    def clusters(self, task: str) -> list[tuple[str, ...]]:
        """What counts as one draw: the group's name (the same in every task), else the item itself."""
        return [(group,) if group else (task, item) for group, item in zip(self.groups, self.ids)]


Lookup = Callable[[TaskResult], Items | None]


def items_of(result: TaskResult, samples: Sequence[Sample]) -> Items | None:
    """The items of a cell; None where a sample has no number (or true/false) under the primary score's name.

    That is the contract with the tasks: `Sample.values[primary]` is the item's share of a score that is their mean.
    """
    values = [sample.values.get(result.primary) for sample in samples]
    if not values or not all(isinstance(v, bool | int | float) and math.isfinite(v) for v in values):
        return None
    groups = tuple("" if sample.group in ("", str(sample.doc_id), sample.doc_hash) else sample.group for sample in samples)
    return Items(tuple(f"{s.doc_id}:{s.doc_hash}" for s in samples), groups, tuple(float(v) for v in values))


def remembering(samples: Callable[[TaskResult], Sequence[Sample]]) -> Lookup:
    """`items_of` over a reader of samples; every cell is read once."""
    seen: dict[tuple[str, int, str, str], Items | None] = {}

    def lookup(result: TaskResult) -> Items | None:
        key = (result.model.name, result.model.seed, result.task, result.key)
        if key not in seen:
            seen[key] = items_of(result, samples(result))
        return seen[key]

    return lookup


def choose(results: Iterable[TaskResult], suite: str, tasks: Sequence[str], current: Mapping[str, str] | None = None) -> list[Chosen]:
    """One result per model, seed, task and condition: current before stale, scored before failed, whole before limited, newest last.

    `current` maps a model's key (its name, with `@seedN` for training seed N > 0) to the fingerprint it has now; a result with
    another one is stale. A result of another version of its task than the newest result of that task is stale, too.
    """
    wanted = sorted((r for r in results if r.suite == suite and r.task in tasks), key=lambda r: r.provenance.created)
    newest = {result.task: result.task_fingerprint for result in wanted}
    best: dict[tuple[str, int, str, Condition], tuple[tuple[bool, bool, bool], Chosen]] = {}
    for result in wanted:
        stale = newest[result.task] != result.task_fingerprint
        if current is not None:
            stale = stale or current.get(model_key(result), result.model.fingerprint) != result.model.fingerprint
        chosen = Chosen(result, stale)
        rank = (not stale, chosen.failure is None, result.scoring.limit is None)
        cell = (result.model.name, result.model.seed, result.task, Condition.of(result))
        if cell not in best or rank >= best[cell][0]:
            best[cell] = (rank, chosen)
    return [chosen for _, chosen in best.values()]


def model_key(result: TaskResult) -> str:
    """Name with the training seed, as `config.ModelSpec.key` writes it."""
    model = result.model
    return model.name if model.seed == 0 else f"{model.name}@seed{model.seed}"


def averaged(items: Sequence[Items | None]) -> Items | None:
    """The items of several seeds of one model, each value averaged; None where one is missing or the items differ."""
    first = items[0] if items else None
    if first is None or any(i is None or i.ids != first.ids for i in items):
        return None
    if len(items) == 1:
        return first
    return replace(first, values=tuple(math.fsum(v) / len(items) for v in zip(*(i.values for i in items if i))))
