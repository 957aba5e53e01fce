"""The paper's figures and ours side by side, each pair with a status.

A figure is *reproduced* where the 95% interval of measured - quoted lies within ±delta (the
suite's), it *differs* where that interval lies wholly outside, else it is *inconclusive*. So each
verdict errs with at most 2.5%, and none depends on which other rows were measured. The interval is
±(z * sqrt(SE_m^2 + SE_q^2) + half of the last printed digit). SE_m is the measured figure's error:
over items (clustered, see `stats`), and over training seeds where there are several. The paper
prints no errors. SE_q therefore joins, task by task as independent, what a run on the paper's
number of rows n_q would have if its items spread as those measured here,

    SE_q^2 = sum over tasks of (SE_t / k)^2 * n_t / n_q  +  (spread over draws of sampled
        answers)^2: the paper drew once

k tasks in the figure's mean, n_t rows measured (n_q = n_t where the paper's number is not known).
Where all items of a task agree and SE_t is 0, the binomial p (1 - p) / n_q stands for it, p being
the printed figure. Both runs asked the same rows, so their errors are not independent; how much
they share cannot be known without the paper's answers, and taking nothing for it errs on the wide
side. Symbols per token are no share of 1: there ±delta is a share of the quoted figure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

from lep_bench import hub
from lep_bench.config.load import Configs
from lep_bench.config.models import ModelSpec
from lep_bench.config.schema import Baseline, Family, Suite
from lep_bench.errors import LepBenchError, count_noun
from lep_bench.leaderboard import measure, paper, published
from lep_bench.leaderboard.cells import Chosen, Condition, Lookup, choose_results
from lep_bench.leaderboard.measure import Draft, Scale
from lep_bench.leaderboard.paper import FIGURES, Counterpart, Quoted
from lep_bench.leaderboard.table import SYMBOLS, Cell, Column
from lep_bench.leaderboard.text import MISSING, number
from lep_bench.pipeline.plan import choose_scoring
from lep_bench.records.schema import CHANGED, ModelRecord, TaskResult

REPRODUCED, DIFFERS, INCONCLUSIVE = "reproduced", "differs", "inconclusive"
OTHER, REFUSED, NOT_RUN, CANNOT = "other donor", "refused", "not run", "cannot be built"
STATUSES = {
    REPRODUCED: "the 95% interval of measured − quoted lies within ±delta",
    DIFFERS: "that interval lies wholly outside ±delta",
    INCONCLUSIVE: "neither: the errors are too large to say",
    OTHER: "measured, but made of other checkpoints than the paper's: no verdict",
    REFUSED: "measured, but asked in another way than the paper asked",
    NOT_RUN: "can be built, was not measured",
    CANNOT: "what the paper made it of is not public, and nothing that goes by its name was measured",
}
SUITE, RESULTS = "paper", "results.jsonl"
OVERVIEW = ("table", "row", "in lep-bench", "checkpoint", "status", "notes")
BESIDE = ("table", "in lep-bench", "figure", "quoted", "measured", "difference, 95%", "status")
Z = NormalDist().inv_cdf(0.975)
HALF_DIGIT = 0.0005  # scores are printed with three decimals, symbols per token with two
# how often sampled answers are drawn makes a number surer, not another one
FREE = ("samplings", "seed")


@dataclass(frozen=True)
class Figure:
    """One quoted number and what was measured of it. `error` and `quoted_error` are standard
    errors; `low`, `high` bound the difference.
    """

    name: str
    quoted: float
    status: str
    why: str = ""
    measured: float | None = None
    error: float | None = None
    quoted_error: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def difference(self) -> float | None:
        """Measured - quoted."""
        return None if self.measured is None else self.measured - self.quoted


@dataclass(frozen=True)
class LedgerEntry:
    """A quoted row and its counterpart here. `made_of`: the checkpoints that the measured model
    came from, empty where nothing was measured; `doubts`: what nobody could check about them."""

    row: Quoted
    here: Counterpart
    made_of: tuple[str, ...]
    condition: Condition | None
    figures: tuple[Figure, ...]
    doubts: tuple[str, ...]

    @property
    def status(self) -> str:
        """The figures' common status, else how many have which."""
        found = Counter(figure.status for figure in self.figures)
        return (
            next(iter(found))
            if len(found) == 1
            else ", ".join(f"{found[s]} {s}" for s in STATUSES if found[s])
        )

    @property
    def why(self) -> str:
        """The figures' reasons, each once."""
        return "; ".join(dict.fromkeys(figure.why for figure in self.figures if figure.why))

    @property
    def checkpoint(self) -> str:
        """The donor, or the model itself where it has none: of what was measured, else the paper's;
        empty where that is not known.
        """
        return next(reversed(self.made_of or self.here.made_of), "")

    def as_json(self) -> dict[str, Any]:
        """For machines: whole, with the differences and the row's status written out."""
        figures = {
            f.name: {
                **{k: v for k, v in vars(f).items() if k != "name"},
                "difference": f.difference,
            }
            for f in self.figures
        }
        return {
            **{name: value for name, value in vars(self.row).items() if name != "scores"},
            "lep_bench": self.here.model or None,
            "status": self.status,
            "why": self.why,
            "doubts": self.doubts,
            "paper_made_of": self.here.made_of,
            "made_of": self.made_of,
            "condition": None if self.condition is None else vars(self.condition),
            "figures": figures,
        }


def sorted_out(results: Iterable[TaskResult], suite: Suite, folder: Path) -> list[Chosen]:
    """The results of the quoted rows' models, one per cell: chosen apart by way of asking and
    lineage, so that none that gets no verdict hides one that does."""
    names = {here.model for here in paper.counterparts(folder).values()}
    groups: dict[tuple[str, tuple[str, ...]], list[TaskResult]] = {}
    newest: dict[str, str] = {}  # task: its fingerprint, over all groups
    for result in sorted(results, key=lambda r: r.provenance.created):
        newest[result.task] = result.task_fingerprint
        if result.model.name in names:
            groups.setdefault((refusal(result, suite), result.model.lineage), []).append(result)
    found = [c for group in groups.values() for c in choose_results(group, suite.name, suite.tasks)]
    return [replace(c, stale=newest[c.result.task] != c.result.task_fingerprint) for c in found]


def refusal(result: TaskResult, suite: Suite) -> str:
    """In which way a result was asked otherwise than the suite asks that model; empty where it was
    not.
    """
    model, asked = result.model, result.scoring
    expected = choose_scoring(suite, _spec(model), _family(model.family) if model.family else None)[
        1
    ]
    wrong = [
        (name, getattr(asked, name), getattr(expected, name))
        for name in type(asked).model_fields
        if name not in FREE
    ]
    return ", ".join(
        f"{name} {a if a or a == 0 else 'none'} instead of {b if b or b == 0 else 'none'}"
        for name, a, b in wrong
        if a != b
    )


def list_entries(
    folder: Path, suite: Suite, chosen: Sequence[Chosen], items: Lookup
) -> list[LedgerEntry]:
    """Every quoted row of `folder` beside what was measured. Raises LepBenchError for data files
    that do not fit together.
    """
    here = paper.counterparts(folder)
    names = {counterpart.model for counterpart in here.values()}
    measured = _Measured.of(
        [c for c in chosen if c.result.model.name in names], suite, paper.items(folder), items
    )
    found = []
    for row in paper.quoted(folder):
        if row.key not in here:
            raise LepBenchError(
                f"{folder / paper.MODELS}: no line for the quoted row {row.name()}: add one"
            )
        found.append(measured.beside(row, here[row.key]))
    return found


def committed(folder: Path) -> list[LedgerEntry]:
    """`entries` from the folder's results.jsonl; nothing measured where there is none."""
    file, suite = folder / RESULTS, Configs.of().suite(SUITE)
    held = (
        published.load_results(file)
        if file.is_file()
        else published.Published(suite, (), (), lambda result: None)
    )
    return list_entries(folder, suite, held.chosen, held.lookup)


def verdict(low: float, high: float, delta: float) -> str:
    """What an interval of a difference says: within ±delta, wholly outside, or neither. A bound of
    ±delta is within.
    """
    if -delta <= low and high <= delta:
        return REPRODUCED
    return DIFFERS if low > delta or high < -delta else INCONCLUSIVE


@dataclass(frozen=True)
class _Measured:
    """What was measured: per model its usable cells, apart by engine and lineage, and per task why
    cells were refused. `rows`: how many the paper asked, by task."""

    suite: Suite
    rows: dict[str, int]
    items: Lookup
    drafts: dict[str, list[Draft]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, chosen: Sequence[Chosen], suite: Suite, rows: dict[str, int], items: Lookup
    ) -> _Measured:
        new = cls(suite, rows, items)
        drafts: dict[tuple[str, Condition, tuple[str, ...]], Draft] = {}
        for c in chosen:
            result, model = c.result, c.result.model
            if why := _unusable(c, suite):
                new.refused.setdefault(model.name, {})[result.task] = why
                continue
            key = (model.name, Condition.of(result), model.lineage)
            if key not in drafts:
                drafts[key] = Draft(model, Condition.of(result))
                new.drafts.setdefault(model.name, []).append(drafts[key])
            drafts[key].cells.setdefault(result.task, {})[model.seed] = c
        return new

    def beside(self, row: Quoted, here: Counterpart) -> LedgerEntry:
        """The entry of a quoted row: of several drafts the one from the paper's checkpoints, then
        the one with the most tasks.
        """

        def rank(draft: Draft) -> tuple[bool, int, str]:
            return (
                _other(draft, here) == "",
                sum(bool(draft.scored(task)) for task in self.suite.tasks),
                repr(draft.condition),
            )

        draft = max(self.drafts.get(here.model, []), key=rank, default=None)
        figures = tuple(
            self.figure(name, value, here, draft)
            for name, value in row.scores.items()
            if value is not None
        )
        doubts = _doubts(here.model) if here.model else ()
        return LedgerEntry(
            row,
            here,
            draft.record.lineage if draft else (),
            draft and draft.condition,
            figures,
            doubts,
        )

    def figure(self, name: str, quoted: float, here: Counterpart, draft: Draft | None) -> Figure:
        """A quoted number beside what the draft says of it."""
        symbols, tasks = name == SYMBOLS, self.tasks(name)
        if draft is None:
            cell = Cell()
        elif symbols:
            cell = measure.measure_cell(
                draft, Column(SYMBOLS, "", tasks[0], SYMBOLS, False, 2, False), self.items
            )
        else:
            cell = measure.measure_mean(draft, _plain(tasks), self.items)
        if draft is None or cell.value is None:
            return Figure(name, quoted, *self.absent(name, tasks, here, draft))
        quoted_error = cell.stderr if symbols else self.quoted_error(draft, tasks, quoted, cell)
        # Several training seeds: their error joins that of the items.
        error = (
            None
            if cell.stderr is None
            else math.hypot(cell.stderr, (cell.spread or 0.0) / math.sqrt(cell.seeds))
        )
        if other := _other(draft, here):
            return Figure(name, quoted, OTHER, other, cell.value, error)
        if error is None or quoted_error is None:
            return Figure(
                name,
                quoted,
                INCONCLUSIVE,
                "no error of the measured figure is known",
                cell.value,
                error,
            )
        half = Z * math.hypot(error, quoted_error) + HALF_DIGIT * (10 if symbols else 1)
        # Nine digits: the last bits of a float shall not decide at a bound.
        low, high = round(cell.value - quoted - half, 9), round(cell.value - quoted + half, 9)
        status = verdict(low, high, self.suite.mean.delta * (quoted if symbols else 1.0))
        return Figure(name, quoted, status, "", cell.value, error, quoted_error, low, high)

    def tasks(self, name: str) -> tuple[str, ...]:
        """The tasks that a figure is the mean of."""
        if name == SYMBOLS:
            return tuple(task for task in self.suite.tasks if task.endswith("copy_sent_ru"))
        return (
            tuple(self.suite.mean.tasks)
            if name == "micro_avg"
            else self.suite.groups[FIGURES[name]]
        )

    def absent(
        self, name: str, tasks: Sequence[str], here: Counterpart, draft: Draft | None
    ) -> tuple[str, str]:
        """Status and reason of a figure that has no measured number."""
        refused = self.refused.get(here.model, {})
        if reasons := dict.fromkeys(refused[task] for task in tasks if task in refused):
            return REFUSED, "; ".join(reasons)
        if draft is None:
            return (CANNOT, here.why) if here.why else (NOT_RUN, "")
        failed = [
            f"{task}: {c.failure}"
            for task in tasks
            for c in draft.cells.get(task, {}).values()
            if c.failure is not None
        ]
        there = sum(bool(draft.scored(task)) for task in tasks)
        missing = (
            "not counted"
            if there == len(tasks)
            else f"{there} of {count_noun(len(tasks), 'task')} scored"
        )
        return NOT_RUN, "; ".join([f"{FIGURES[name]}: {missing}", *failed])

    def quoted_error(
        self, draft: Draft, tasks: Sequence[str], quoted: float, cell: Cell
    ) -> float | None:
        """The standard error that the printed figure must have had (SE_q above); None where a
        task's own is not known.
        """
        p = min(max(quoted, HALF_DIGIT), 1.0 - HALF_DIGIT)
        squares = [] if cell.sampling is None else [cell.sampling**2]
        for task in tasks:
            one = measure.measure_mean(draft, _plain([task]), self.items)
            if one.stderr is None:
                return None
            theirs = self.rows.get(task, one.samples)
            squares.append(
                (one.stderr**2 * one.samples if one.stderr else p * (1.0 - p))
                / theirs
                / len(tasks) ** 2
            )
        return math.sqrt(math.fsum(squares))


def _plain(tasks: Sequence[str]) -> Scale:
    return Scale(dict.fromkeys(tasks, 0.0), "plain")


def _unusable(c: Chosen, suite: Suite) -> str:
    if wrong := refusal(c.result, suite):
        return f"asked otherwise: {wrong}"
    if c.stale:
        return f"{c.result.task} was asked in an earlier version"
    return f"{c.result.task}: result or samples were edited" if CHANGED in (c.failure or "") else ""


def _other(draft: Draft, here: Counterpart) -> str:
    """Why the measured model is not the paper's row although it goes by its name; empty where it
    is.
    """
    used = [hub.parse_reference(parent)[0] for parent in draft.record.lineage]
    if not here.made_of:
        return here.why
    missing = [parent for parent in here.made_of if parent not in used]
    return (
        (
            f"made of {', '.join(used) or 'checkpoints that the result does not name'}, without "
            f"{', '.join(missing)}"
        )
        if missing
        else ""
    )


@cache
def _family(name: str) -> Family | None:
    return Configs.of().family(name) if name in Configs.of().names("families") else None


@cache
def _baseline(name: str) -> Baseline:
    return Configs.of().baseline(name)


def _spec(model: ModelRecord) -> ModelSpec:
    if model.stage != "baseline":
        return ModelSpec(
            model.name, model.stage, model.family, model.vocabulary, model.propagation, model.tuning
        )
    given = _baseline(model.name.removeprefix("baselines/"))
    return ModelSpec(
        model.name,
        "baseline",
        location=given.model,
        format=given.format,
        conversation=given.conversation,
    )


def _doubts(model: str) -> tuple[str, ...]:
    """What the configs say that nobody could check about the model's checkpoints."""
    head, _, rest = model.partition("/")
    if head == "baselines":
        return tuple(filter(None, (_baseline(rest).unverified, _baseline(rest).notes)))
    family = _family(head)
    return tuple(
        said
        for part, said in (family.unverified if family else {}).items()
        if part == "instruct" and not rest.endswith(("base", "donor"))
    )


def tally(found: Sequence[LedgerEntry]) -> dict[str, int]:
    """How many figures have each status, in the order of `STATUSES`."""
    counts = Counter(figure.status for entry in found for figure in entry.figures)
    return {status: counts[status] for status in STATUSES}


def overview(found: Sequence[LedgerEntry]) -> tuple[list[tuple[str, ...]], list[str]]:
    """A line per row under `OVERVIEW`, and the notes that its last column numbers."""
    notes: dict[str, int] = {}
    rows = []
    for e in found:
        said = [
            notes.setdefault(note, len(notes) + 1)
            for note in dict.fromkeys([*filter(None, [e.why]), *e.doubts])
        ]
        rows.append(
            (
                e.row.table,
                e.row.label,
                e.here.model or MISSING,
                e.checkpoint or MISSING,
                e.status,
                ", ".join(map(str, said)),
            )
        )
    return rows, list(notes)


def beside(found: Sequence[LedgerEntry]) -> list[tuple[str, ...]]:
    """A line per measured figure under `BESIDE`: ± standard error after what was measured, half the
    interval after the difference.
    """
    rows = []
    for e in found:
        for f in (f for f in e.figures if f.measured is not None and f.difference is not None):
            digits = 2 if f.name == SYMBOLS else 3
            measured = number(f.measured, False, digits) + (
                f" ±{number(f.error, False, digits)}" if f.error else ""
            )
            half = (
                ""
                if f.low is None or f.high is None
                else f" ±{number((f.high - f.low) / 2, False, digits)}"
            )
            difference = number(f.difference, False, digits, sign=True) + half
            rows.append(
                (
                    e.row.table,
                    e.here.model,
                    FIGURES[f.name],
                    number(f.quoted, False, digits),
                    measured,
                    difference,
                    f.status,
                )
            )
    return rows
