"""Which rows are compared with which, named before any number is seen, and what the comparisons of
a block say.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from lep_bench import stats
from lep_bench.config.models import ORIGINAL
from lep_bench.config.schema import Suite
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import measure
from lep_bench.leaderboard.cells import Condition, Items, Lookup
from lep_bench.leaderboard.measure import Draft, Panel, Scale
from lep_bench.leaderboard.table import Contrast, Difference, Verdict
from lep_bench.records.schema import ModelRecord, TaskResult

ADAPTED = "What does the adapted model gain or lose compared with the instruct model, tuned alike?"
TUNED = "What does tuning change?"
METHODS = "Which propagation method is better, for the same vocabulary and tuning?"
VOCABULARY = "What does the new vocabulary change, for the same training text?"
TRAINED = "What changes compared with the base model?"
QUESTIONS = (ADAPTED, TUNED, METHODS, VOCABULARY, TRAINED)
POWER_FACTOR = (
    1.959964 + 0.841621
)  # standard errors that a single comparison finds with a power of 80%


def find_control(model: ModelRecord) -> str | None:
    """The model that differs from this one in the step under test only; None for base, untuned
    instruct and models without family.

    A tuned variant is compared with the instruct model tuned on the same data and steps, never with
    the untuned one.
    """
    if model.family is None:
        return None
    if model.stage in ("instruct-init", "propagation"):
        return f"{model.family}/instruct{_tuning_suffix(model)}"
    if model.stage == "instruct":
        return f"{model.family}/instruct" if model.tuning else None
    if model.stage == "donor" and model.vocabulary != ORIGINAL:
        return f"{model.family}/{ORIGINAL}/donor"
    return f"{model.family}/base" if model.stage in ("init", "donor") else None


def _tuning_suffix(model: ModelRecord) -> str:
    return (
        (f"+{model.tuning}" + (f"@{model.variant}" if model.variant else ""))
        if model.tuning
        else ""
    )


def plan_contrasts(models: Sequence[ModelRecord]) -> list[tuple[str, str, str]]:
    """(question, model, control) of every planned comparison among these models, question by
    question.
    """
    names = {model.name for model in models}
    found: list[tuple[str, str, str | None]] = []
    for m in models:
        fair = find_control(m)
        if m.stage in ("instruct-init", "propagation"):
            found.append((ADAPTED, m.name, fair))
        if m.tuning and m.family:
            found.append((TUNED, m.name, m.name.removesuffix(_tuning_suffix(m))))
        if m.stage == "donor" and m.vocabulary != ORIGINAL:
            found.append((VOCABULARY, m.name, fair))
        if m.stage in ("init", "donor") and m.family:
            found.append((TRAINED, m.name, f"{m.family}/base"))
    alike: dict[tuple[str | None, ...], list[ModelRecord]] = {}
    for m in models:
        if m.stage == "propagation":
            alike.setdefault((m.family, m.vocabulary, m.tuning, m.variant), []).append(m)
    found += [
        (METHODS, a.name, b.name) for same in alike.values() for a, b in combinations(same, 2)
    ]
    return sorted(
        ((q, a, b) for q, a, b in found if b in names and b != a),
        key=lambda one: QUESTIONS.index(one[0]),
    )


def judge_difference(
    value: float, low: float | None, high: float | None, corrected: float | None, delta: float
) -> Verdict | None:
    """`equal` where the whole interval lies within ±delta, else what the corrected test says, else
    `undecided`; None where nothing is known.
    """
    if low is None or high is None or corrected is None:
        return None
    if -delta <= low and high <= delta:
        return "equal"
    if corrected > stats.ALPHA or not value:
        return "undecided"
    return "higher" if value > 0 else "lower"


def correct_differences(differences: Sequence[Difference], delta: float) -> list[Difference]:
    """The differences with p corrected for all of them (Holm) and a verdict each."""
    corrected = stats.holm([d.p for d in differences])
    return [
        replace(d, corrected=p, verdict=judge_difference(d.value, d.low, d.high, p, delta))
        for d, p in zip(differences, corrected)
    ]


def test_contrasts(
    models: Sequence[ModelRecord], panels: Sequence[Panel], delta: float
) -> tuple[Contrast, ...]:
    """Every planned comparison of rows that may be compared, judged together."""
    plan = [
        (one, panel)
        for one in plan_contrasts(models)
        for panel in panels
        if one[1] in panel.place and one[2] in panel.place
    ]
    made: dict[tuple[str, str], Difference] = {}
    for panel in panels:
        pairs = list(dict.fromkeys((a, b) for (_, a, b), own in plan if own is panel))
        made |= zip(pairs, panel.differences(pairs))
    # A pair that answers two questions (original/donor, base) is one comparison.
    made = dict(zip(made, correct_differences(list(made.values()), delta)))
    return tuple(Contrast(question, a, made[a, b]) for (question, a, b), _ in plan)


def judge_tasks(
    models: Sequence[ModelRecord], panels: Sequence[Panel], delta: float
) -> dict[tuple[str, str], Verdict | None]:
    """What every task of the mean says of a model against its fair control, by (model, task),
    corrected for all of them.
    """
    where, all_ = [], []
    for panel in panels:
        pairs = [
            (m.name, c)
            for m in models
            if (c := find_control(m)) in panel.place and m.name in panel.place and c is not None
        ]
        for share in panel.shares:
            all_ += panel.alone(share.task).differences(pairs)
            where += [(name, share.task) for name, _ in pairs]
    return {place: d.verdict for place, d in zip(where, correct_differences(all_, delta))}


def smallest_difference(found: Sequence[Contrast]) -> float | None:
    """The difference that a single comparison would have found with a power of 80%, 5% level: the
    median over the comparisons.
    """
    errors = [
        d.stderr
        for d in {(f.model, f.difference.control): f.difference for f in found}.values()
        if d.stderr
    ]
    return POWER_FACTOR * statistics.median(errors) if errors else None


NOW_SUFFIX = " (now)"


@dataclass(frozen=True)
class ComparedTask:
    """One task (or the mean): both scores, the first minus the second, and of right/wrong items how
    many both, only the first, only the second and neither answered rightly. A task's p is corrected
    for the number of tasks."""

    task: str
    a: float
    b: float
    difference: Difference
    right: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Comparison:
    """All that is said of models `a` and `b`, asked alike. `mean` is None where tasks of it are
    `missing`; `smallest`: the difference of the mean that this suite would have found with a power
    of 80%; `seeds`: the smaller number of training seeds; `limit`: so many items only were asked.
    """

    condition: Condition
    a: str
    b: str
    lines: tuple[ComparedTask, ...]
    mean: ComparedTask | None
    missing: tuple[str, ...]
    smallest: float | None
    seeds: int
    limit: int | None = None


def compare_models(a: Draft, b: Draft, suite: Suite, items: Lookup) -> Comparison:
    """Raises LepBenchError naming what of the two may not be compared, or that they have no task of
    the mean in common.
    """
    tasks = [task for task in suite.mean.tasks if a.scored(task) and b.scored(task)]
    missing = tuple(task for task in suite.mean.tasks if task not in tasks)
    if not tasks:
        raise LepBenchError(
            f"{a.record.name} and {b.record.name} have no scored task of suite {suite.name}"
            "'s mean in common: run both first"
        )
    chance = {task: suite.mean.tasks[task] for task in tasks}
    panel = make_paired_panel(a, b, Scale(chance, suite.mean.kind), items)
    pair = [(a.record.name, b.record.name)]
    judged = correct_differences(
        [panel.alone(task).differences(pair)[0] for task in tasks], suite.mean.delta
    )
    lines = tuple(_compare_task(panel, task, difference) for task, difference in zip(tasks, judged))
    whole = correct_differences(panel.differences(pair), suite.mean.delta)[0]
    cells = [measure.measure_mean(draft, Scale(chance, suite.mean.kind), items) for draft in (a, b)]
    mean = (
        None
        if missing
        else ComparedTask("mean", cells[0].value or 0.0, cells[1].value or 0.0, whole)
    )
    smallest = POWER_FACTOR * whole.stderr if whole.stderr and not missing else None
    return Comparison(
        a.condition, *pair[0], lines, mean, missing, smallest, whole.seeds, cells[0].limit
    )


def make_paired_panel(a: Draft, b: Draft, scale: Scale, items: Lookup) -> Panel:
    """The two rows side by side. Raises LepBenchError that says in one line why they may not be
    compared.
    """
    found = measure.make_panels([a, b], scale, items)
    if len(found) == 1 and len(found[0].names) == 2:
        return found[0]
    raise LepBenchError(
        f"{a.record.name} and {b.record.name} cannot be compared: "
        f"{_explain_obstacle(a, b, list(scale.chance), items)}"
    )


def _explain_obstacle(a: Draft, b: Draft, tasks: Sequence[str], items: Lookup) -> str:
    if refused := measure.find_obstacle(a, b, tasks):
        return (
            f"{refused}: run one again with the other's settings"
            if " against " in refused
            else refused
        )
    for task in tasks:
        ours, theirs = ([c.result for c in d.scored(task).values()] for d in (a, b))
        counts = {(r.samples, r.scoring.limit) for r in (*ours, *theirs)}
        if len(counts) > 1:
            said = [
                f"{n} items" + (f" (--limit {limit})" if limit else "")
                for n, limit in sorted(counts, key=repr)
            ]
            return f"{task} with {' and '.join(said)}: run both with the same --limit"
        known = [items(r) for r in (*ours, *theirs)]
        if len({i and (i.ids, i.groups) for i in known}) > 1:
            return f"{task}: they were not given the same items: run the older one again"
    return "no training seed has a score for every task"


def _compare_task(panel: Panel, task: str, difference: Difference) -> ComparedTask:
    share = next(share for share in panel.shares if share.task == task)
    score = [sum(seeds) / len(seeds) for seeds in share.scores]
    right = _count_right(*share.items) if share.items else None
    return ComparedTask(task, score[0], score[1], difference, right)


def _count_right(a: Items, b: Items) -> tuple[int, int, int, int] | None:
    """None where an item is not right or wrong but something in between."""
    if a.raws or any(((i.values != 0) & (i.values != 1)).any() for i in (a, b)):
        return None
    both, first, second = int((a.values * b.values).sum()), int(a.values.sum()), int(b.values.sum())
    return both, first - both, second - both, len(a.values) - first - second + both


def _is_unchanged(panel: Panel) -> bool:
    """Whether no item's score differs between the two rows; those of a kept baseline have five
    digits.
    """
    known = [share.items for share in panel.shares if share.items]
    return len(known) == len(panel.shares) and all(
        np.allclose(a.values, b.values, rtol=1e-4, atol=1e-9) for a, b in known
    )


@dataclass(frozen=True)
class GateResult:
    """A model now against its baseline: `bound` is the lower end of the difference's one-sided
    interval, at its `level` (Holm).
    """

    model: str
    baseline: float
    now: float
    difference: Difference
    level: float
    bound: float


def gate_models(
    pairs: Sequence[tuple[Draft, Draft]],
    suite: Suite,
    lookups: tuple[Lookup, Lookup],
    max_drop: float,
) -> list[GateResult]:
    """Of (baseline, now) of every model whether the mean dropped by less than `max_drop`, in the
    order given: `bound` > -max_drop.

    The bounds are one-sided 95% ones by Student's t, corrected for the number of models as Holm
    (1979) does: the one that is surest to pass must pass at 5% / n, the next at 5% / (n - 1), ...;
    after one that does not, all others fail at its level. They are widened by `Panel.floor`, save
    where no score of an item changed: such a model passes. Training seeds that both sides have go
    together. Raises LepBenchError for what cannot be compared.
    """
    from scipy.special import stdtr, stdtrit

    scale = Scale(dict(suite.mean.tasks), suite.mean.kind)
    found: list[tuple[float, GateResult, float, float]] = []
    for old, new in pairs:
        known = {id(c.result) for cells in new.cells.values() for c in cells.values()}

        def find_items(result: TaskResult, known: set[int] = known) -> Items | None:
            return lookups[id(result) in known](result)

        named = Draft(
            new.record.model_copy(update={"name": new.record.name + NOW_SUFFIX}),
            new.condition,
            new.cells,
        )
        panel = make_paired_panel(named, old, scale, find_items)
        difference = panel.differences([(named.record.name, old.record.name)])[0]
        both = panel.place[named.record.name], panel.place[old.record.name]
        error = panel.error(
            *both,
            paired=measure.find_complete_seeds(old, scale)
            == measure.find_complete_seeds(new, scale),
        )
        if error is None:
            raise LepBenchError(
                f"{old.record.name}: its scores have no known error: fewer than two groups "
                "of items, or no items"
            )
        stderr, df = error
        values = [
            measure.measure_mean(draft, scale, find_items).value or 0.0 for draft in (old, new)
        ]
        stderr = 0.0 if _is_unchanged(panel) else math.hypot(stderr, panel.floor)
        above = difference.value + max_drop
        p = float(stdtr(min(df, 1e9), -above / stderr)) if stderr else float(above <= 0)
        found.append(
            (p, GateResult(old.record.name, values[0], values[1], difference, 0.0, 0.0), stderr, df)
        )
    order = sorted(range(len(found)), key=lambda i: found[i][0])
    out = [gated for _, gated, _, _ in found]
    level = stopped = 0.0
    for step, i in enumerate(order):
        p, gated, stderr, df = found[i]
        level = stopped or stats.ALPHA / (len(found) - step)
        stopped = level if p > level else 0.0
        bound = gated.difference.value - float(stdtrit(min(df, 1e9), 1 - level)) * stderr
        out[i] = replace(gated, level=level, bound=bound)
    return out
