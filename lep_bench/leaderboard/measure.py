"""The numbers of a row: a task's score, a mean over tasks, the difference from a control, each with its error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from lep_bench.leaderboard import stats
from lep_bench.leaderboard.cells import Chosen, Condition, Items, Lookup, averaged
from lep_bench.leaderboard.table import SYMBOLS, Cell, Column, Difference
from lep_bench.results import ModelRecord


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
        stderr = stats.clustered_stderr(averages.values, averages.clusters(column.task)) if averages else _given(list(scored.values()))
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
    return replace(whole, samples=samples, limit=min(limits, default=None), stale=any(c.stale for c in used))


def usable(cells: Sequence[Chosen], items: Lookup) -> Items | None:
    """Items averaged over seeds, only where the score really is their mean: other metrics get no error from them."""
    each = [items(c.result) for c in cells]
    for found, c in zip(each, cells):
        if found is None or abs(stats.mean(found.values) - _value(c)) > 1e-5:
            return None
    return averaged(each)


def _complete(draft: Draft, scale: Scale) -> list[int]:
    """Training seeds for which every task of the mean has a number."""
    return sorted(set.intersection(*(set(draft.scored(task)) for task in scale.chance))) if scale.chance else []


def _means(draft: Draft, scale: Scale, seeds: Sequence[int]) -> list[float]:
    return [scale.mean({task: _value(draft.cells[task][seed]) for task in scale.chance}) for seed in seeds]


def mean(draft: Draft, scale: Scale, items: Lookup) -> Cell:
    """A mean over tasks, then over training seeds; missing or failed unless every task of it was scored."""
    seeds = _complete(draft, scale)
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
            parts.append(stats.Part(scale.weight(task), found.values, found.clusters(task)))
    used = {task: [draft.cells[task][seed] for seed in seeds] for task in scale.chance}
    sampling, samplings = _sampling((scale.weight(task), cells, None) for task, cells in used.items())
    whole = Cell("ok", stats.mean(means), stats.joined(parts, others), stats.spread(means), len(seeds), sampling=sampling, samplings=samplings)
    return _marked(whole, [c for cells in used.values() for c in cells])


def _weighted(weight: float, error: float | None) -> float | None:
    return None if error is None else weight * error


def difference(draft: Draft, control: Draft, scale: Scale, items: Lookup) -> Difference | None:
    """None unless both have the whole mean, on the same version of every task and the same items."""
    a_seeds, b_seeds = _complete(draft, scale), _complete(control, scale)
    if not a_seeds or not b_seeds:
        return None
    parts: list[stats.Part] = []
    others: list[float | None] = []
    for task in scale.chance:
        a, b = [draft.cells[task][s] for s in a_seeds], [control.cells[task][s] for s in b_seeds]
        if len({(c.result.task_fingerprint, c.result.samples, c.result.scoring.limit) for c in (*a, *b)}) > 1:
            return None
        ours, theirs = usable(a, items), usable(b, items)
        if ours is None or theirs is None:
            # No items to pair: as if the two were independent, which errs on the wide side.
            others += [_weighted(scale.weight(task), _given(a)), _weighted(scale.weight(task), _given(b))]
        elif ours.ids != theirs.ids or ours.groups != theirs.groups:
            return None
        else:
            gaps = [x - y for x, y in zip(ours.values, theirs.values)]
            parts.append(stats.Part(scale.weight(task), gaps, ours.clusters(task)))
    a_means, b_means = _means(draft, scale, a_seeds), _means(control, scale, b_seeds)
    stderr = stats.with_seeds(stats.joined(parts, others), a_means, b_means)
    # The references have no training of ours behind them: their one seed limits no claim.
    trained = [len(s) for d, s in ((draft, a_seeds), (control, b_seeds)) if d.record.tuning or d.record.stage in ("donor", "propagation")]
    return Difference(control.record.name, "", stats.mean(a_means) - stats.mean(b_means), stderr, min(trained, default=1))


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
    seeds = _complete(draft, scale) if known_tasks else []
    if not seeds:
        return (*pairs, None)
    rest = [scale.mean({task: _rest(draft.cells[task][seed]) for task in scale.chance}) for seed in seeds]
    return (*pairs, (stats.mean(_means(draft, scale, seeds)), stats.mean(rest)))


def _value(c: Chosen) -> float:
    return c.result.scores[c.result.primary].value


def _rest(c: Chosen) -> float:
    return _value(c) if c.clean is None else c.clean
