"""Which rows are compared with which, named before any number is seen, and what the comparisons of a block say."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from lep_bench.config import ORIGINAL
from lep_bench.leaderboard.statistics import inference
from lep_bench.leaderboard.statistics.panel import Panel
from lep_bench.leaderboard.table import Difference, Finding, Verdict
from lep_bench.results import ModelRecord

ADAPTED = "What does the adapted model lose or gain against the instruct model, tuned alike?"
TUNED = "What does the tuning change?"
METHODS = "Which propagation is better, with the same vocabulary and tuning?"
VOCABULARY = "What does the new vocabulary change, with the same training text?"
TRAINED = "What changes against the base model?"
QUESTIONS = (ADAPTED, TUNED, METHODS, VOCABULARY, TRAINED)
FOUND = 1.959964 + 0.841621  # standard errors that a single comparison finds with a power of 80%


def fair_control(model: ModelRecord) -> str | None:
    """The model that differs from this one in the step under test only; None for base, untuned instruct and models without family.

    A tuned variant is compared with the instruct model tuned on the same data and steps, never with the untuned one.
    """
    if model.family is None:
        return None
    if model.stage in ("instruct-init", "propagation"):
        return f"{model.family}/instruct{_tuning(model)}"
    if model.stage == "instruct":
        return f"{model.family}/instruct" if model.tuning else None
    if model.stage == "donor" and model.vocabulary != ORIGINAL:
        return f"{model.family}/{ORIGINAL}/donor"
    return f"{model.family}/base" if model.stage in ("init", "donor") else None


def _tuning(model: ModelRecord) -> str:
    return (f"+{model.tuning}" + (f"@{model.variant}" if model.variant else "")) if model.tuning else ""


def planned(models: Sequence[ModelRecord]) -> list[tuple[str, str, str]]:
    """(question, model, control) of every planned comparison among these models, question by question."""
    names = {model.name for model in models}
    found: list[tuple[str, str, str | None]] = []
    for m in models:
        fair = fair_control(m)
        if m.stage in ("instruct-init", "propagation"):
            found.append((ADAPTED, m.name, fair))
        if m.tuning and m.family:
            found.append((TUNED, m.name, m.name.removesuffix(_tuning(m))))
        if m.stage == "donor" and m.vocabulary != ORIGINAL:
            found.append((VOCABULARY, m.name, fair))
        if m.stage in ("init", "donor") and m.family:
            found.append((TRAINED, m.name, f"{m.family}/base"))
    alike: dict[tuple[str | None, ...], list[ModelRecord]] = {}
    for m in models:
        if m.stage == "propagation":
            alike.setdefault((m.family, m.vocabulary, m.tuning, m.variant), []).append(m)
    found += [(METHODS, a.name, b.name) for same in alike.values() for a, b in combinations(same, 2)]
    return sorted(((q, a, b) for q, a, b in found if b in names and b != a), key=lambda one: QUESTIONS.index(one[0]))


def judged(differences: Sequence[Difference], delta: float) -> list[Difference]:
    """The differences with p corrected for all of them (Holm) and a verdict each."""
    corrected = inference.holm([d.p for d in differences])
    return [replace(d, corrected=p, verdict=inference.verdict(d.value, d.low, d.high, p, delta)) for d, p in zip(differences, corrected)]


def findings(models: Sequence[ModelRecord], panels: Sequence[Panel], delta: float) -> tuple[Finding, ...]:
    """Every planned comparison of rows that may be compared, judged together."""
    plan = [(one, panel) for one in planned(models) for panel in panels if one[1] in panel.place and one[2] in panel.place]
    made: dict[tuple[str, str], Difference] = {}
    for panel in panels:
        pairs = list(dict.fromkeys((a, b) for (_, a, b), own in plan if own is panel))
        made |= zip(pairs, panel.differences(pairs))
    # A pair that answers two questions (original/donor, base) is one comparison.
    made = dict(zip(made, judged(list(made.values()), delta)))
    return tuple(Finding(question, a, made[a, b]) for (question, a, b), _ in plan)


def verdicts(models: Sequence[ModelRecord], panels: Sequence[Panel], delta: float) -> dict[tuple[str, str], Verdict | None]:
    """What every task of the mean says of a model against its fair control, by (model, task), corrected for all of them."""
    where, all_ = [], []
    for panel in panels:
        pairs = [(m.name, c) for m in models if (c := fair_control(m)) in panel.place and m.name in panel.place and c is not None]
        for share in panel.shares:
            all_ += panel.alone(share.task).differences(pairs)
            where += [(name, share.task) for name, _ in pairs]
    return {place: d.verdict for place, d in zip(where, judged(all_, delta))}


def smallest(found: Sequence[Finding]) -> float | None:
    """The difference that a single comparison would have found with a power of 80%, 5% level: the median over the comparisons."""
    errors = [d.stderr for d in {(f.model, f.difference.control): f.difference for f in found}.values() if d.stderr]
    return FOUND * statistics.median(errors) if errors else None
