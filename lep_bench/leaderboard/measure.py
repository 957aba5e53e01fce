"""Rows that answered the same items, side by side: what every test, interval and rank of a block is
computed from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from lep_bench import stats
from lep_bench.leaderboard.cells import (
    Chosen,
    Condition,
    Items,
    Lookup,
    StoredValues,
    average_items,
    describe_machine,
    measure_exchanges,
)
from lep_bench.leaderboard.table import SYMBOLS, Cell, Column, Cost, Difference, Health
from lep_bench.records.schema import ModelRecord, TaskResult
from lep_bench.records.text_counts import TextCounts
from lep_bench.stats import number_groups, small_sample_factor


@dataclass(eq=False)
class Share:
    """One task's part in the mean, for R rows: its `weight`, the score of every training seed, and
    the items (averaged over seeds; none where the score is not made of items). `errors`: of a score
    without items its standard error, None where it is not known."""

    task: str
    weight: float
    scores: list[list[float]]
    items: list[Items] | None
    errors: list[float | None]


class Panel:
    """`names` of R rows, the share of every task, and for each row how many seeds trained it (None:
    nothing of ours was trained).
    """

    def __init__(
        self,
        names: Sequence[str],
        shares: Sequence[Share],
        trained: Sequence[int | None],
        tasks: dict[str, _TaskItems] | None = None,
    ):
        self.names, self.shares, self.trained = list(names), list(shares), list(trained)
        self.place = {name: i for i, name in enumerate(names)}
        if tasks is None:
            tasks = {share.task: _TaskItems(share) for share in shares if share.items}
            _assign_strata(list(tasks.values()))
        self.tasks = tasks

    def alone(self, task: str) -> Panel:
        """The same rows in one task only, on the scale of its score."""
        share = next(s for s in self.shares if s.task == task)
        return Panel(
            self.names,
            [replace(share, weight=1.0)],
            self.trained,
            {t: held for t, held in self.tasks.items() if t == task},
        )

    @cached_property
    def means(self) -> list[list[float]]:
        """Of every row, for each training seed, the weighted sum of its scores (the mean but for a
        constant).
        """

        def seeds(row: int) -> list[float]:
            return [
                math.fsum(s.weight * x for s, x in zip(self.shares, each))
                for each in zip(*(s.scores[row] for s in self.shares))
            ]

        return [seeds(row) for row in range(len(self.names))]

    @cached_property
    def points(self) -> list[float]:
        """Every row's mean over its training seeds."""
        return [stats.mean(seeds) for seeds in self.means]

    @cached_property
    def unpaired(self) -> list[float]:
        """Of every row the variance of scores that are not made of items; nan where it is not
        known.
        """
        shares = [s for s in self.shares if not s.items]
        return [
            math.fsum(
                (s.weight * (math.nan if (e := s.errors[r]) is None else e)) ** 2 for s in shares
            )
            for r in range(len(self.names))
        ]

    @cached_property
    def floor(self) -> float:
        """The least standard error of a difference: as if two more groups of the task with the most
        weight per group differed in full, one each way. Bonett and Price (2012) widen the interval
        of a paired difference of proportions like that: where no item differs, or a single one, the
        items alone say that nothing ever will. It fades with the number of groups.
        """
        return math.sqrt(2) * max(
            (s.weight / len(self.tasks[s.task].sizes) for s in self.shares if s.items), default=0.0
        )

    def _collected(self, of_task: Callable[[_TaskItems], np.ndarray]) -> np.ndarray:
        """[any, groups of all tasks]: the weighted sum over tasks of an array [any, C] per task."""
        tasks = [self.tasks[share.task] for share in self.shares if share.items]
        parts = [
            share.weight * of_task(self.tasks[share.task]) for share in self.shares if share.items
        ]
        if len(parts) == 1:
            return parts[0]
        whole = np.zeros((len(parts[0]), 1 + max(int(task.groups.max()) for task in tasks)))
        for task, part in zip(tasks, parts):
            whole[:, task.groups] += part
        return whole

    def _between(self, a: int, b: int) -> np.ndarray:
        """[groups]: what each item group adds to the difference of two rows."""
        return self._collected(lambda task: task.between(a, b)[None])[0]

    @cached_property
    def _loads(self) -> np.ndarray:
        """[R, groups]: u_g of the formula in `stats.stderr`."""
        return self._collected(_TaskItems.loads)

    @cached_property
    def deviations(self) -> np.ndarray:
        """[RESAMPLES, R] of the resampled means from the means: see `_TaskItems.deviations`."""
        parts = [s.weight * self.tasks[s.task].deviations for s in self.shares if s.items]
        return sum(parts[1:], parts[0])

    @property
    def known(self) -> bool:
        """Whether the items say how sure the scores are: at least two groups in every task."""
        return all(len(task.sizes) > 1 for task in self.tasks.values())

    def differences(self, pairs: Sequence[tuple[str, str]]) -> list[Difference]:
        """Of every pair of names the first's mean minus the second's, with error, interval and p;
        not yet corrected, without verdict.
        """
        at = [(self.place[a], self.place[b]) for a, b in pairs]
        tests = (
            stats.paired_test([self._between(a, b) for a, b in at])
            if self.tasks
            else [(1.0, "")] * len(at)
        )
        return [self._difference(a, b, *test) for (a, b), test in zip(at, tests)]

    def error(self, a: int, b: int, paired: bool = False) -> tuple[float, float] | None:
        """The standard error of the difference of two rows and its degrees of freedom, floor
        included (without seeds those of the task with the fewest groups); None where it is not
        known. `paired`: both rows have the same training seeds, which go together."""
        apart = self.unpaired[a] + self.unpaired[b]
        if not self.known or math.isnan(apart) or not (self.tasks or apart):
            return None
        items = math.sqrt(
            apart
            + (math.fsum(((self._loads[a] - self._loads[b]) ** 2).tolist()) if self.tasks else 0.0)
        )
        each = [self.means[a], self.means[b]]
        each = [[x - y for x, y in zip(*each, strict=True)]] if paired else each
        stderr = stats.add_seed_error(items, *each)
        assert stderr is not None
        seeds = [
            (spread**2 / len(means), len(means) - 1)
            for means in each
            if (spread := stats.seed_spread(means)) is not None
        ]
        groups = min((len(task.sizes) for task in self.tasks.values()), default=10**9)
        return stderr, stats.satterthwaite_df([(items**2 + self.floor**2, groups - 1), *seeds])

    def _difference(self, a: int, b: int, p: float, test: str) -> Difference:
        value = self.points[a] - self.points[b]
        trained = [n for n in (self.trained[a], self.trained[b]) if n is not None]
        whole = Difference(self.names[b], "", value, None, min(trained, default=1))
        known = self.error(a, b)
        if known is None:
            return whole
        stderr, df = known
        several = max(len(self.means[a]), len(self.means[b])) > 1
        if several or self.unpaired[a] or self.unpaired[b]:
            # Wider by the floor, so that agreement of a few items or seeds is no certainty.
            p, low, high = stats.t_test(value, math.hypot(stderr, self.floor), df)
            test = (
                f"t over {' and '.join(dict.fromkeys(map(str, trained)))} seeds"
                if several
                else "normal, tasks without items not paired"
            )
        else:
            low, high = stats.interval(
                value, self.deviations[:, a] - self.deviations[:, b], self.floor
            )
        return Difference(
            whole.control, "", value, stderr, whole.seeds, low, high, p, None, None, test
        )

    def ranks(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Best and worst rank of each of these rows among them, jointly with 95%; empty where
        errors are not known or there is one row.

        Training seeds enter with the standard deviation that the rows share (root mean square), so
        that three seeds a row are enough to decide something; a trained row with a single seed gets
        it, too.
        """
        from scipy.special import chdtri, ndtri

        at = [self.place[name] for name in names]
        apart = np.array([self.unpaired[r] for r in at])
        if len(at) < 2 or not self.known or np.isnan(apart).any():
            return {}
        points = np.array([self.points[r] for r in at])
        scatter = self.deviations[:, at] if self.tasks else np.zeros((stats.RESAMPLES, len(at)))
        spreads = [(stats.seed_spread(self.means[r]), len(self.means[r]) - 1) for r in at]
        df = sum(n for spread, n in spreads if spread is not None)
        if df:
            pooled = math.sqrt(
                math.fsum(n * spread**2 for spread, n in spreads if spread is not None) / df
            )
            errors = np.array(
                [
                    0.0 if self.trained[r] is None else pooled / math.sqrt(len(self.means[r]))
                    for r in at
                ]
            )
            scatter = scatter + ndtri(stats.draw_uniforms(1, len(at))) * errors * np.sqrt(
                df / chdtri(df, stats.draw_uniforms(2, 1))
            )
        if apart.any():
            scatter = scatter + ndtri(stats.draw_uniforms(3, len(at))) * np.sqrt(apart)
        return dict(zip(names, stats.ranks(points, scatter, self.floor)))


class _TaskItems:
    """The items of one task by group. `sizes` [C]: items of each group; `sums` [R, C] of their
    scores; `where` [N]: each item's group; `groups` [C]: the groups' numbers in the panel, `within`
    [C]: in the stratum, which has `of`."""

    def __init__(self, share: Share):
        assert share.items
        self.share = share
        names = share.items[0].clusters(share.task)
        places = {name: i for i, name in enumerate(dict.fromkeys(names))}
        self.distinct: list[Hashable] = list(places)
        self.where = np.array([places[name] for name in names])
        self.sizes = np.bincount(self.where).astype(np.float64)
        self.sums = np.stack(
            [np.bincount(self.where, items.values, len(places)) for items in share.items]
        )
        self._exchanged: dict[tuple[int, int], np.ndarray] = {}
        self.stratum, self.of, self.within, self.groups = (
            0,
            len(places),
            np.arange(len(places)),
            np.arange(len(places)),
        )

    def between(self, a: int, b: int) -> np.ndarray:
        """[C]: what each group adds to the difference of two rows' scores.

        Of a score that is no mean an item adds half of what exchanging the two answers to it
        changes in the difference, as a sign flip does: nothing where the answers agree. Jackknife
        shares of agreed items differ, too (a label that one row alone gives changes all of F1), and
        all the same way: as evidence they would make one contested item significant.
        """
        own = self.share.items
        assert own
        count = self.sizes.sum()
        # over several seeds there is no sign flip: a t test is made
        if not len(own[a].raws) == len(own[b].raws) == 1:
            return (self.sums[a] - self.sums[b]) / count
        if (a, b) not in self._exchanged:
            parts = measure_exchanges(own[a].raws[0], own[b].raws[0])
            parts = np.where(np.isfinite(parts), parts, (own[a].values - own[b].values) / count)
            self._exchanged[a, b] = np.bincount(self.where, parts, len(self.sizes))
        return self._exchanged[a, b]

    def loads(self) -> np.ndarray:
        """[R, C]: every group's residuals, as they enter the clustered standard error."""
        count = self.sizes.sum()
        return (
            small_sample_factor(len(self.sizes))
            / count
            * (self.sums - self.sizes * (self.sums.sum(1) / count)[:, None])
        )

    @cached_property
    def deviations(self) -> np.ndarray:
        """[RESAMPLES, R]: the score of every resample of groups minus the score, times sqrt(C / (C
        - 1)), since C groups vary less about their own mean than about the one they were drawn
        from. Scores that are no means of items are computed anew."""
        drawn = stats.resampling_weights(self.stratum, self.of)
        if self.of > len(self.within):
            drawn = drawn[:, self.within]
        rows = self.share.items
        assert rows
        plain = [r for r, items in enumerate(rows) if not items.raws]
        out = np.zeros((len(drawn), len(rows)))
        count = drawn @ self.sizes.astype(np.float32)  # float32 holds whole numbers exactly
        there = count > 0
        if plain:
            sums = self.sums[plain]
            fast = np.float32 if (sums == np.rint(sums)).all() else np.float64
            totals = drawn.astype(fast, copy=False) @ sums.T.astype(fast)
            out[:, plain] = (
                totals / np.where(there, count, 1.0)[:, None] - sums.sum(1) / self.sizes.sum()
            )
        for r in (r for r, items in enumerate(rows) if items.raws):
            out[:, r] = np.mean([self._again(drawn, raw) for raw in rows[r].raws], axis=0)
        out[~there] = 0.0
        return out * small_sample_factor(len(self.sizes))

    def _again(self, drawn: np.ndarray, raw: StoredValues) -> np.ndarray:
        kinds, groups = len(raw.distinct), len(self.sizes)
        counts = np.bincount(self.where * kinds + raw.codes, minlength=groups * kinds).reshape(
            groups, kinds
        )
        scores = raw.scores(drawn @ counts.astype(np.float32))
        return np.where(np.isfinite(scores), scores - raw.scores(raw.whole[None])[0], 0.0)


def _assign_strata(tasks: Sequence[_TaskItems]) -> None:
    """Number the groups of all tasks together, and put tasks that share groups (the same fact in
    two languages) into one stratum.
    """
    numbers: dict[Hashable, int] = {}
    for task in tasks:
        task.groups = np.array([numbers.setdefault(name, len(numbers)) for name in task.distinct])
    strata: list[list[_TaskItems]] = []
    for task in tasks:
        names = set(task.distinct)
        met = [
            stratum
            for stratum in strata
            if any(not names.isdisjoint(other.distinct) for other in stratum)
        ]
        strata = [s for s in strata if s not in met] + [
            [*(t for stratum in met for t in stratum), task]
        ]
    for number, stratum in enumerate(strata):
        whole = np.unique(np.concatenate([task.groups for task in stratum]))
        for task in stratum:
            task.stratum, task.of, task.within = (
                number,
                len(whole),
                np.searchsorted(whole, task.groups),
            )


@dataclass(eq=False)
class Draft:
    """The cells of one model under one condition: task -> training seed -> result."""

    record: ModelRecord
    condition: Condition
    cells: dict[str, dict[int, Chosen]] = field(default_factory=dict)

    def scored(self, task: str) -> dict[int, Chosen]:
        """The cells of a task that hold a number, by seed."""
        return {
            seed: c for seed, c in sorted(self.cells.get(task, {}).items()) if c.failure is None
        }


@dataclass(frozen=True)
class Scale:
    """A mean over some tasks as weights: mean = sum of w_t * s_t + constant. The constant cancels
    in every difference.
    """

    chance: dict[str, float]
    kind: str

    def weight(self, task: str) -> float:
        """d mean / d score."""
        own = 1.0 / (1.0 - self.chance[task]) if self.kind == "centred" else 1.0
        return own / len(self.chance)

    def mean(self, scores: dict[str, float]) -> float:
        """The suite's mean of one model's scores; every task of the mean must be there."""
        chance = self.chance if self.kind == "centred" else dict.fromkeys(self.chance, 0.0)
        return stats.mean([centre_score(scores[task], chance[task]) for task in chance])


def centre_score(score: float, chance: float) -> float:
    """(s - c) / (1 - c): 0 is guessing, 1 is perfect, below chance is negative (not clipped)."""
    return (score - chance) / (1.0 - chance)


def measure_cell(draft: Draft, column: Column, items: Lookup) -> Cell:
    """A model's score under a column, the mean over its training seeds."""
    asked = draft.cells.get(column.task, {})
    scored = {
        seed: c
        for seed, c in draft.scored(column.task).items()
        if not column.metric or column.metric in c.result.scores
    }
    if not scored:
        return Cell("failed" if asked else "missing")
    scores = [c.result.scores[column.metric] for c in scored.values()]
    stderr = scores[0].stderr
    if column.metric == next(iter(scored.values())).result.primary and (
        len(scored) > 1 or stderr is None
    ):
        averages = average_seeds(list(scored.values()), items)
        stderr = (
            stats.stderr([averages.values], [_group_items(column.task, averages)])
            if averages
            else _reported_stderr(list(scored.values()))
        )
    elif len(scored) > 1:
        stderr = None
    values = [s.value for s in scores]
    # Of what a token holds sampling says nothing worth a place in the table.
    sampling, samplings = (
        _combine_samplings([(1.0, list(scored.values()), column.metric)])
        if column.metric != SYMBOLS
        else (None, 1)
    )
    whole = Cell(
        "ok",
        stats.mean(values),
        stderr,
        stats.seed_spread(values),
        len(values),
        sampling=sampling,
        samplings=samplings,
    )
    return _add_marks(whole, scored.values())


def _reported_stderr(cells: Sequence[Chosen]) -> float | None:
    """The standard error that the results name for a score that is no mean of its items; of several
    training seeds their mean: all were asked the same items, so averaging the seeds may not have
    made it smaller."""
    errors = [c.result.scores[c.result.primary].stderr for c in cells]
    return (
        None if any(e is None for e in errors) else stats.mean([e for e in errors if e is not None])
    )


def _combine_samplings(
    parts: Iterable[tuple[float, Sequence[Chosen], str | None]],
) -> tuple[float | None, int]:
    """Standard deviation over draws of sampled answers of sum(weight * score), and the number of
    draws.

    Tasks are drawn independently, so squares add up. Of several training seeds the typical one
    counts (root mean square).
    """
    squares, most = [], 1
    for weight, cells, metric in parts:
        scores = [c.result.scores[metric or c.result.primary] for c in cells]
        drawn = [s.spread for s in scores if s.spread is not None]
        if drawn:
            squares.append(weight**2 * stats.mean([sd**2 for sd in drawn]))
        most = max(most, *(s.samplings for s in scores))
    return (math.sqrt(math.fsum(squares)) if squares else None), most


def _add_marks(whole: Cell, used: Iterable[Chosen]) -> Cell:
    """The cell with what must stand beside its number: how many items, whether limited or of an
    earlier version.
    """
    used = list(used)
    limits = [c.result.scoring.limit for c in used if c.result.scoring.limit is not None]
    samples = min(c.result.samples for c in used)
    return replace(
        whole,
        samples=samples,
        limit=min(limits, default=None),
        stale=any(c.stale for c in used),
    )


def average_seeds(cells: Sequence[Chosen], items: Lookup) -> Items | None:
    """Items averaged over seeds; None where one has none or they were not asked the same."""
    return average_items([items(c.result) for c in cells])


def _group_items(task: str, items: Items) -> np.ndarray:
    return _number_items(task, items.ids, items.groups)


@lru_cache(maxsize=256)
def _number_items(task: str, ids: tuple[str, ...], groups: tuple[str, ...]) -> np.ndarray:
    return number_groups(Items(ids, groups, np.empty(0)).clusters(task))


def find_complete_seeds(draft: Draft, scale: Scale) -> list[int]:
    """Training seeds for which every task of the mean has a number."""
    return (
        sorted(set.intersection(*(set(draft.scored(task)) for task in scale.chance)))
        if scale.chance
        else []
    )


def _seed_means(draft: Draft, scale: Scale, seeds: Sequence[int]) -> list[float]:
    return [
        scale.mean({task: _score_value(draft.cells[task][seed]) for task in scale.chance})
        for seed in seeds
    ]


def measure_mean(draft: Draft, scale: Scale, items: Lookup) -> Cell:
    """A mean over tasks, then over training seeds; missing or failed unless every task of it was
    scored.
    """
    seeds = find_complete_seeds(draft, scale)
    if not seeds:
        failed = any(
            c.failure is not None
            for task in scale.chance
            for c in draft.cells.get(task, {}).values()
        )
        return Cell("failed" if failed else "missing")
    means = _seed_means(draft, scale, seeds)
    used = {task: [draft.cells[task][seed] for seed in seeds] for task in scale.chance}
    sampling, samplings = _combine_samplings(
        (scale.weight(task), cells, None) for task, cells in used.items()
    )
    whole = Cell(
        "ok",
        stats.mean(means),
        _mean_stderr(used, scale, items),
        stats.seed_spread(means),
        len(seeds),
        sampling=sampling,
        samplings=samplings,
    )
    return _add_marks(whole, [c for cells in used.values() for c in cells])


def _mean_stderr(used: dict[str, list[Chosen]], scale: Scale, items: Lookup) -> float | None:
    """Standard error of the mean: of tasks with items clustered, joined with the reported errors of
    scores without items, which are taken as independent. None where one of them is not known.
    """
    values: list[np.ndarray] = []
    groups: list[np.ndarray] = []
    weights: list[float] = []
    others: list[float] = []
    for task, cells in used.items():
        average, weight = average_seeds(cells, items), scale.weight(task)
        if average is not None:
            values.append(average.values)
            groups.append(_group_items(task, average))
            weights.append(weight)
        elif (reported := _reported_stderr(cells)) is not None:
            others.append(weight * reported)
        else:
            return None
    clustered = stats.stderr(values, groups, weights)
    if values and clustered is None:
        return None
    return clustered if not others else math.hypot(clustered or 0.0, *others)


def make_panels(drafts: Sequence[Draft], scale: Scale, items: Lookup) -> list[Panel]:
    """Rows with the whole mean, side by side with those that may be compared with them: the same
    version of every task, the same items and the same machine."""
    together: dict[Hashable, list[tuple[Draft, list[int], list[Items | None]]]] = {}
    for draft in drafts:
        seeds = find_complete_seeds(draft, scale)
        cells = {task: [draft.cells[task][seed] for seed in seeds] for task in scale.chance}
        asked = [{_comparison_key(c.result) for c in own} for own in cells.values()]
        if not seeds or any(len(ways) > 1 for ways in asked):
            continue
        found = [average_seeds(own, items) for own in cells.values()]
        same = tuple((*ways, i and (i.ids, i.groups)) for ways, i in zip(asked, found))
        together.setdefault(same, []).append((draft, seeds, found))
    return [_make_panel(rows, scale) for rows in together.values()]


def _comparison_key(result: TaskResult) -> tuple[object, ...]:
    return result.task_fingerprint, result.samples, result.scoring.limit, result.provenance.machine


def _make_panel(rows: Sequence[tuple[Draft, list[int], list[Items | None]]], scale: Scale) -> Panel:
    shares = []
    for place, task in enumerate(scale.chance):
        cells = [[draft.cells[task][seed] for seed in seeds] for draft, seeds, _ in rows]
        known = [items for _, _, found in rows if (items := found[place]) is not None]
        scores = [[_score_value(c) for c in own] for own in cells]
        shares.append(
            Share(
                task,
                scale.weight(task),
                scores,
                known or None,
                [_reported_stderr(own) for own in cells],
            )
        )
    # The references have no training of ours behind them: their one seed limits no claim.
    trained = [
        len(seeds) if d.record.tuning or d.record.stage in ("donor", "propagation") else None
        for d, seeds, _ in rows
    ]
    return Panel([draft.record.name for draft, _, _ in rows], shares, trained)


def measure_clean(
    draft: Draft, scale: Scale, flagged: Sequence[str]
) -> tuple[tuple[float, float] | None, ...]:
    """Scores beside scores without flagged rows, means over training seeds; last the suite's mean
    (other tasks count whole in both).
    """
    if not flagged:
        return ()
    pairs: list[tuple[float, float] | None] = []
    for task in flagged:
        both = [
            (_score_value(c), c.clean) for c in draft.scored(task).values() if c.clean is not None
        ]
        known = both and len(both) == len(draft.scored(task))
        pairs.append(
            (stats.mean([a for a, _ in both]), stats.mean([b for _, b in both])) if known else None
        )
    known_tasks = all(
        pair is not None for task, pair in zip(flagged, pairs) if task in scale.chance
    )
    seeds = find_complete_seeds(draft, scale) if known_tasks else []
    if not seeds:
        return (*pairs, None)
    rest = [
        scale.mean({task: _clean_value(draft.cells[task][seed]) for task in scale.chance})
        for seed in seeds
    ]
    return (*pairs, (stats.mean(_seed_means(draft, scale, seeds)), stats.mean(rest)))


def _score_value(c: Chosen) -> float:
    return c.result.scores[c.result.primary].value


def _clean_value(c: Chosen) -> float:
    return _score_value(c) if c.clean is None else c.clean


def sum_cost(draft: Draft, tasks: Sequence[str]) -> Cost | None:
    """The work of a row: tasks added up, of several training seeds the mean. None where nothing was
    scored.

    Cells with answers from the store are left out: the rest of their work was done, and timed, by
    another run.
    """
    scored = {task: list(draft.scored(task).values()) for task in tasks if draft.scored(task)}
    if not scored:
        return None
    counted = {
        task: cells
        for task, cells in scored.items()
        if not any(c.result.provenance.from_store for c in cells)
    }
    cells = [c.result.provenance for own in counted.values() for c in own]

    def added(name: str) -> float:
        return sum(
            stats.mean([getattr(c.result.provenance, name) for c in own])
            for own in counted.values()
        )

    timed = bool(cells) and all(p.engine_seconds for p in cells)
    return Cost(
        tasks=len(counted),
        of=len(tasks),
        tokens_in=round(added("tokens_in")),
        tokens_out=round(added("tokens_out")),
        characters=round(added("characters")),
        seconds=added("engine_seconds") if timed else None,
        memory=max((p.peak_memory for p in cells), default=0) or None,
        machine="; ".join(sorted({_describe_place(c) for own in counted.values() for c in own})),
    )


def _describe_place(c: Chosen) -> str:
    p = c.result.provenance
    threads, workers = p.hardware.get("threads"), p.hardware.get("workers")
    beside = [f"{n} thread{'s' if n > 1 else ''}" for n in (threads,) if n] + [
        f"{n} processes at a time" for n in (workers,) if n and n > 1
    ]
    return ", ".join([describe_machine(p.machine), *beside])


def find_obstacle(draft: Draft, control: Draft, tasks: Sequence[str]) -> str | None:
    """Why two rows may not be compared: a task was asked in two versions, or answered by different
    engines, versions, kinds of device or number formats, whose answers differ in their last digits
    and so in some of their choices. None where nothing stands in the way."""
    for task in tasks:
        ours, theirs = (
            {_describe_version(c) for c in d.scored(task).values()} for d in (draft, control)
        )
        if ours and theirs and len(ours | theirs) > 1:
            return f"{task} in {' and '.join(sorted(ours | theirs))}: run the older one again"
        first, second = (
            {c.result.provenance.machine for c in d.scored(task).values()} for d in (draft, control)
        )
        if first and second and len(first | second) > 1:
            return (
                f"{', '.join(sorted(map(describe_machine, first)))} against "
                f"{', '.join(sorted(map(describe_machine, second)))}"
            )
    return None


def _describe_version(c: Chosen) -> str:
    return f"version {c.result.task_version} ({c.result.task_fingerprint})"


# Counted at scoring; of results of earlier versions where each cell's samples are read, once:
# clean.examined.


def summarise_texts(draft: Draft, tasks: Sequence[str]) -> Health | None:
    """All tasks and training seeds of a row together; None where nothing was generated, or it was
    not counted.
    """
    each = [
        TextCounts(*c.health) for task in tasks for c in draft.scored(task).values() if c.health
    ]
    if not each:
        return None
    n = TextCounts(*map(sum, zip(*each)))
    return Health(
        n.texts,
        _share_of(n.stopped, n.judged),
        _share_of(n.cyrillic, n.letters),
        _share_of(n.repeated, n.sequences),
        n.invalid / n.texts,
    )


def _share_of(part: int, whole: int) -> float | None:
    return part / whole if whole else None
