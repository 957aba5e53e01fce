"""Which results a table is made of: one per model, training seed, task and way of asking, with its items' scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from lep_bench.results import TaskResult

if TYPE_CHECKING:
    import numpy as np

    from lep_bench.leaderboard.metrics import Metrics, Raw


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
    primary score without the rows that stand in training texts (None: no such rows, or not known); `edited`: result or samples
    are not as they were written, or the score is not what the samples give: shown, but no difference is computed with it;
    `health`: the `generated.Counts` of its texts, empty where there are none."""

    result: TaskResult
    stale: bool = False
    clean: float | None = None
    edited: bool = False
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
        return None if math.isfinite(score.value) else f"the score {result.primary!r} is {score.value}"


@dataclass(frozen=True, eq=False)
class Items:
    """The primary score of every item of a cell: `values` [N], whose mean is the score. `ids` name the items; groups are "" where an
    item is its own group. Cells that were asked the same share the tuples.

    Of a score that is no mean over items (F1) the values are centred jackknife pseudo-values, and `raws` holds what the score is
    computed from, one per training seed: score of a resample = mean over raws of raw.scores(counts of raw.distinct).
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    values: np.ndarray
    raws: tuple[Raw, ...] = ()

    def clusters(self, task: str) -> tuple[int, ...]:
        """What counts as one draw, as a number within this process: the group (the same in every task), else the item itself."""
        return _clusters(task, self.ids, self.groups)


_NUMBERS: dict[tuple[str, ...], int] = {}  # numbers, since millions of names would have to be hashed again and again


@lru_cache(maxsize=64)  # of as many tasks: every cell of a task asks for the same
def _clusters(task: str, ids: tuple[str, ...], groups: tuple[str, ...]) -> tuple[int, ...]:
    return tuple([_NUMBERS.setdefault((group,) if group else (task, item), len(_NUMBERS)) for group, item in zip(groups, ids)])


class Answered(Protocol):
    """What a table needs of a `results.Sample`; of `gold` and generated texts only where they were not counted at scoring."""

    doc_id: int
    doc_hash: str
    group: str
    gold: str
    values: dict[str, Any]


Lookup = Callable[[TaskResult], Items | None]
Samples = Callable[[TaskResult], Sequence[Answered]]
Asked = dict[tuple[tuple[Any, ...], ...], tuple[tuple[str, ...], tuple[str, ...]]]  # (doc ids, hashes, groups) -> ids and groups of Items
CLOSE = 1e-5  # a score and what its items give, at most so far apart: published items have five digits


def items_of(result: TaskResult, samples: Sequence[Answered], metrics: Metrics, asked: Asked) -> Items | None:
    """The items of a cell; None where they do not give the score: no values under its name, or an aggregation that nobody offers.
    Ids and groups are kept in `asked` for the next cell that was asked the same.

    That is the contract with the tasks: `Sample.values[primary]` is the item's share of a score that is their mean, or what the
    task's entry in AGGREGATIONS consumes.
    """
    import numpy as np

    stored = [s.values.get(result.primary) for s in samples]
    raw = metrics.raw(result.task, result.primary, stored)
    values = shares = None
    if raw is not None:
        shares = raw.shares()
        values = shares and shares[1]
    elif stored and set(map(type, stored)) <= {bool, int, float}:
        values = np.array(stored, dtype=np.float64)
    if values is None or not np.isfinite(values).all() or not abs(values.mean() - result.scores[result.primary].value) <= CLOSE:
        return None
    key = tuple([s.doc_id for s in samples]), tuple([s.doc_hash for s in samples]), tuple([s.group for s in samples])
    if key not in asked:
        # A group of that very number that other items have, too, is a group.
        alone = {group for group, count in Counter(key[2]).items() if count == 1}
        groups = tuple([
            "" if group in ("", doc_hash) or (group == str(doc_id) and group in alone) else group for doc_id, doc_hash, group in zip(*key)
        ])  # fmt: skip
        asked[key] = tuple([f"{doc_id}:{doc_hash}" for doc_id, doc_hash in zip(*key[:2])]), groups
    return Items(*asked[key], values, () if raw is None else (raw,))


def choose(results: Iterable[TaskResult], suite: str, tasks: Sequence[str]) -> list[Chosen]:
    """One result per model, seed, task and condition: current before stale, scored before failed, whole before limited, newest last.

    Stale is a result of another version of its task than the newest result of that task.
    """
    wanted = sorted((r for r in results if r.suite == suite and r.task in tasks), key=lambda r: (r.provenance.created, r.key))
    newest = {result.task: result.task_fingerprint for result in wanted}
    best: dict[tuple[str, int, str, Condition], tuple[tuple[bool, bool, bool], Chosen]] = {}
    for result in wanted:
        chosen = Chosen(result, stale=newest[result.task] != result.task_fingerprint)
        rank = (not chosen.stale, chosen.failure is None, result.scoring.limit is None)
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
    whole = [i for i in items if i]
    return replace(first, values=sum(i.values for i in whole) / len(whole), raws=tuple(raw for i in whole for raw in i.raws))
