"""The numbers of a row: a task's score and means over tasks, each with its error; and which rows may be compared."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lep_bench.clustered import numbered
from lep_bench.leaderboard.cells import Chosen, Condition, Items, Lookup, averaged
from lep_bench.leaderboard.statistics import stats
from lep_bench.leaderboard.statistics.panel import Panel, Share
from lep_bench.leaderboard.table import SYMBOLS, Cell, Column
from lep_bench.results import ModelRecord, TaskResult

if TYPE_CHECKING:
    import numpy as np


@dataclass(eq=False)
class Draft:
    """The cells of one model under one condition: task -> training seed -> result."""

    record: ModelRecord
    condition: Condition
    cells: dict[str, dict[int, Chosen]] = field(default_factory=dict)

    def scored(self, task: str) -> dict[int, Chosen]:
        """The cells of a task that hold a number, by seed."""
        return {seed: c for seed, c in sorted(self.cells.get(task, {}).items()) if c.failure is None}


@dataclass(frozen=True)
class Scale:
    """A mean over some tasks as weights: mean = sum of w_t * s_t + constant. The constant cancels in every difference."""

    chance: dict[str, float]
    kind: str

    def weight(self, task: str) -> float:
        """d mean / d score."""
        own = 1.0 / (1.0 - self.chance[task]) if self.kind == "centred" else 1.0
        return own / len(self.chance)

    def mean(self, scores: dict[str, float]) -> float:
        """The suite's mean of one model's scores; every task of the mean must be there."""
        chance = self.chance if self.kind == "centred" else dict.fromkeys(self.chance, 0.0)
        return stats.mean([stats.centred(scores[task], chance[task]) for task in chance])


def cell(draft: Draft, column: Column, items: Lookup) -> Cell:
    """A model's score under a column, the mean over its training seeds."""
    asked = draft.cells.get(column.task, {})
    scored = {seed: c for seed, c in draft.scored(column.task).items() if not column.metric or column.metric in c.result.scores}
    if not scored:
        return Cell("failed" if asked else "missing")
    scores = [c.result.scores[column.metric] for c in scored.values()]
    stderr = scores[0].stderr
    if column.metric == next(iter(scored.values())).result.primary and (len(scored) > 1 or stderr is None):
        averages = usable(list(scored.values()), items)
        stderr = stats.clustered_stderr(averages.values, _groups(column.task, averages)) if averages else _given(list(scored.values()))
    elif len(scored) > 1:
        stderr = None
    values = [s.value for s in scores]
    # Of what a token holds sampling says nothing worth a place in the table.
    sampling, samplings = _sampling([(1.0, list(scored.values()), column.metric)]) if column.metric != SYMBOLS else (None, 1)
    whole = Cell("ok", stats.mean(values), stderr, stats.spread(values), len(values), sampling=sampling, samplings=samplings)
    return _marked(whole, scored.values())


def _given(cells: Sequence[Chosen]) -> float | None:
    """The standard error that the results name for a score that is no mean of its items; of several training seeds their mean:
    all were asked the same items, so averaging the seeds may not have made it smaller."""
    errors = [c.result.scores[c.result.primary].stderr for c in cells]
    return None if any(e is None for e in errors) else stats.mean([e for e in errors if e is not None])


def _sampling(parts: Iterable[tuple[float, Sequence[Chosen], str | None]]) -> tuple[float | None, int]:
    """Standard deviation over draws of sampled answers of sum(weight * score), and the number of draws.

    Tasks are drawn independently, so squares add up. Of several training seeds the typical one counts (root mean square).
    """
    squares, most = [], 1
    for weight, cells, metric in parts:
        scores = [c.result.scores[metric or c.result.primary] for c in cells]
        drawn = [s.spread for s in scores if s.spread is not None]
        if drawn:
            squares.append(weight**2 * stats.mean([sd**2 for sd in drawn]))
        most = max(most, *(s.samplings for s in scores))
    return (math.sqrt(math.fsum(squares)) if squares else None), most


def _marked(whole: Cell, used: Iterable[Chosen]) -> Cell:
    """The cell with what must stand beside its number: how many items, whether limited or of an earlier version."""
    used = list(used)
    limits = [c.result.scoring.limit for c in used if c.result.scoring.limit is not None]
    samples = min(c.result.samples for c in used)
    return replace(whole, samples=samples, limit=min(limits, default=None), stale=any(c.stale for c in used), edited=any(c.edited for c in used))


def usable(cells: Sequence[Chosen], items: Lookup) -> Items | None:
    """Items averaged over seeds; None where one has none or they were not asked the same."""
    return averaged([items(c.result) for c in cells])


def _groups(task: str, items: Items) -> np.ndarray:
    return _numbered(task, items.ids, items.groups)


@lru_cache(maxsize=256)
def _numbered(task: str, ids: tuple[str, ...], groups: tuple[str, ...]) -> np.ndarray:
    import numpy as np

    return numbered(Items(ids, groups, np.empty(0)).clusters(task))


def complete(draft: Draft, scale: Scale) -> list[int]:
    """Training seeds for which every task of the mean has a number."""
    return sorted(set.intersection(*(set(draft.scored(task)) for task in scale.chance))) if scale.chance else []


def _means(draft: Draft, scale: Scale, seeds: Sequence[int]) -> list[float]:
    return [scale.mean({task: _value(draft.cells[task][seed]) for task in scale.chance}) for seed in seeds]


def mean(draft: Draft, scale: Scale, items: Lookup) -> Cell:
    """A mean over tasks, then over training seeds; missing or failed unless every task of it was scored."""
    seeds = complete(draft, scale)
    if not seeds:
        failed = any(c.failure is not None for task in scale.chance for c in draft.cells.get(task, {}).values())
        return Cell("failed" if failed else "missing")
    means = _means(draft, scale, seeds)
    parts: list[stats.Part] = []
    others: list[float | None] = []  # errors of scores that are no means of items, times their weight
    for task in scale.chance:
        cells = [draft.cells[task][seed] for seed in seeds]
        found = usable(cells, items)
        if found is None:
            others.append(_weighted(scale.weight(task), _given(cells)))
        else:
            parts.append(stats.Part(scale.weight(task), found.values, _groups(task, found)))
    used = {task: [draft.cells[task][seed] for seed in seeds] for task in scale.chance}
    sampling, samplings = _sampling((scale.weight(task), cells, None) for task, cells in used.items())
    whole = Cell("ok", stats.mean(means), stats.joined(parts, others), stats.spread(means), len(seeds), sampling=sampling, samplings=samplings)
    return _marked(whole, [c for cells in used.values() for c in cells])


def _weighted(weight: float, error: float | None) -> float | None:
    return None if error is None else weight * error


def panels(drafts: Sequence[Draft], scale: Scale, items: Lookup) -> list[Panel]:
    """Rows with the whole mean, side by side with those that may be compared with them: the same version of every task, the same items
    and the same machine. Rows of stored scores that were changed by hand are in none."""
    together: dict[Hashable, list[tuple[Draft, list[int], list[Items | None]]]] = {}
    for draft in drafts:
        seeds = complete(draft, scale)
        cells = {task: [draft.cells[task][seed] for seed in seeds] for task in scale.chance}
        asked = [{_way(c.result) for c in own} for own in cells.values()]
        if not seeds or any(c.edited for own in cells.values() for c in own) or any(len(ways) > 1 for ways in asked):
            continue
        found = [usable(own, items) for own in cells.values()]
        same = tuple((*ways, i and (i.ids, i.groups)) for ways, i in zip(asked, found))
        together.setdefault(same, []).append((draft, seeds, found))
    return [_panel(rows, scale) for rows in together.values()]


def _way(result: TaskResult) -> tuple[object, ...]:
    return result.task_fingerprint, result.samples, result.scoring.limit, result.provenance.machine


def _panel(rows: Sequence[tuple[Draft, list[int], list[Items | None]]], scale: Scale) -> Panel:
    shares = []
    for place, task in enumerate(scale.chance):
        cells = [[draft.cells[task][seed] for seed in seeds] for draft, seeds, _ in rows]
        known = [found[place] for _, _, found in rows if found[place] is not None]
        scores = [[_value(c) for c in own] for own in cells]
        shares.append(Share(task, scale.weight(task), scores, known or None, [_given(own) for own in cells]))
    # The references have no training of ours behind them: their one seed limits no claim.
    trained = [len(seeds) if d.record.tuning or d.record.stage in ("donor", "propagation") else None for d, seeds, _ in rows]
    return Panel([draft.record.name for draft, _, _ in rows], shares, trained)


def clean(draft: Draft, scale: Scale, flagged: Sequence[str]) -> tuple[tuple[float, float] | None, ...]:
    """Scores beside scores without flagged rows, means over training seeds; last the suite's mean (other tasks count whole in both)."""
    if not flagged:
        return ()
    pairs: list[tuple[float, float] | None] = []
    for task in flagged:
        both = [(_value(c), c.clean) for c in draft.scored(task).values() if c.clean is not None]
        known = both and len(both) == len(draft.scored(task))
        pairs.append((stats.mean([a for a, _ in both]), stats.mean([b for _, b in both])) if known else None)
    known_tasks = all(pair is not None for task, pair in zip(flagged, pairs) if task in scale.chance)
    seeds = complete(draft, scale) if known_tasks else []
    if not seeds:
        return (*pairs, None)
    rest = [scale.mean({task: _rest(draft.cells[task][seed]) for task in scale.chance}) for seed in seeds]
    return (*pairs, (stats.mean(_means(draft, scale, seeds)), stats.mean(rest)))


def _value(c: Chosen) -> float:
    return c.result.scores[c.result.primary].value


def _rest(c: Chosen) -> float:
    return _value(c) if c.clean is None else c.clean
