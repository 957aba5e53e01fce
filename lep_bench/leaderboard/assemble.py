"""Results into rows, rows into sections and blocks, and each row against its fair control."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from lep_bench.config.models import ORIGINAL
from lep_bench.config.schema import Suite
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import compare, measure
from lep_bench.leaderboard.cells import Chosen, Condition, Lookup, Metrics, Samples, choose_results
from lep_bench.leaderboard.contamination import StoredScan
from lep_bench.leaderboard.examine import examine_results
from lep_bench.leaderboard.measure import Draft, Panel, Scale
from lep_bench.leaderboard.table import (
    BITS,
    SYMBOLS,
    Block,
    Column,
    Contamination,
    Contrast,
    Failure,
    Note,
    Row,
    Section,
    Summary,
    Table,
    Verdict,
)
from lep_bench.records.schema import TaskResult

STAGES = ("base", "instruct", "init", "instruct-init", "donor", "propagation", "baseline", "local")
REASON = 300  # characters of a failure's first line that a page shows


@dataclass(frozen=True)
class RowPlan:
    """What every row shall hold: a cell per column, the suite's mean, further means, scores without
    flagged rows.
    """

    columns: tuple[Column, ...]
    scale: Scale
    summaries: tuple[tuple[Summary, Scale], ...]
    flagged: tuple[str, ...]
    tasks: tuple[str, ...]

    @classmethod
    def make(cls, chosen: Sequence[Chosen], suite: Suite, found: Contamination | None) -> RowPlan:
        """The plan of a suite's rows."""
        chance = suite.mean.tasks
        scales = [
            (
                one,
                Scale(
                    {task: 0.0 if one.group else chance.get(task, 0.0) for task in one.tasks},
                    "plain" if one.group else suite.mean.kind,
                ),
            )
            for one in _make_summaries(suite)
        ]
        flagged = tuple(task for task, _, _ in found.flagged) if found else ()
        return cls(
            _make_columns(chosen, suite),
            Scale(dict(chance), suite.mean.kind),
            tuple(scales),
            flagged,
            suite.tasks,
        )


def _make_summaries(suite: Suite) -> tuple[Summary, ...]:
    """Means over fewer tasks first, then the groups, each as the suite orders them."""
    means = [
        Summary(label, tuple(t for t in suite.mean.tasks if t not in left_out), False)
        for label, left_out in suite.without.items()
    ]
    return (*means, *(Summary(label, tuple(tasks), True) for label, tasks in suite.groups.items()))


def _make_columns(chosen: Sequence[Chosen], suite: Suite) -> tuple[Column, ...]:
    """Symbols per token, the suite's scores in its order, bits per byte last (also where it is not
    a primary score).
    """
    primary = {
        c.result.task: (c.result.primary, c.result.higher_is_better)
        for c in chosen
        if c.failure is None
    }
    held = {
        task: {m for c in chosen if c.result.task == task for m in c.result.scores}
        for task in suite.tasks
    }
    short = _short_names(suite.tasks)
    # What a token is worth on Russian text is the question: a task that ends in _ru goes before one
    # on English text.
    counted = next(
        iter(
            sorted(
                (t for t in suite.tasks if SYMBOLS in held[t]), key=lambda t: not t.endswith("_ru")
            )
        ),
        None,
    )
    first: list[Column] = []
    scores: list[Column] = []
    last: list[Column] = []
    for task in suite.tasks:
        metric, higher = primary.get(task, ("", True))
        if task == counted:
            first.append(Column(SYMBOLS, "symbols per token", task, SYMBOLS, False, 2, False))
        if BITS in held[task]:
            label = "bits per byte" if not last else f"{short[task]} bits per byte"
            last.append(
                Column(
                    task if metric == BITS else f"{task}.{BITS}", label, task, BITS, False, 3, False
                )
            )
        if metric != BITS:
            scores.append(
                Column(
                    task,
                    short[task],
                    task,
                    metric,
                    higher,
                    1 if higher else 3,
                    task in suite.mean.tasks,
                )
            )
    return (*first, *scores, *last)


def _short_names(tasks: Sequence[str]) -> dict[str, str]:
    """Task names without the word they all begin with, in words: mini_facts_ru -> facts ru."""
    heads = {task.split("_")[0] for task in tasks}
    cut = len(heads) == 1 and len(tasks) > 1 and all("_" in task for task in tasks)
    return {task: (task.split("_", 1)[1] if cut else task).replace("_", " ") for task in tasks}


@dataclass(frozen=True)
class BlockComparisons:
    """What the comparisons of a block say: of the means, of single tasks (model, task), and who may
    be ranked together.
    """

    panels: tuple[Panel, ...]
    findings: tuple[Contrast, ...]
    tasks: dict[tuple[str, str], Verdict | None]

    @classmethod
    def make(
        cls, drafts: Sequence[Draft], plan: RowPlan, items: Lookup, delta: float
    ) -> BlockComparisons:
        """All comparisons among the rows of a block."""
        panels, models = (
            tuple(measure.make_panels(drafts, plan.scale, items)),
            [draft.record for draft in drafts],
        )
        return cls(
            panels,
            compare.test_contrasts(models, panels, delta),
            compare.judge_tasks(models, panels, delta),
        )

    def ranks(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Ranks of the rows among these that may be compared: where there are several such sets, of
        the largest.
        """
        sets = [(panel, [name for name in names if name in panel.place]) for panel in self.panels]
        panel, ranked = max(sets, key=lambda one: len(one[1]), default=(None, []))
        return panel.ranks(ranked) if panel else {}


def build_table(
    results: Iterable[TaskResult],
    samples: Samples,
    suite: Suite,
    order: Sequence[str] = (),
    scan: StoredScan | None = None,
    folders: Sequence[Path] = (),
) -> Table:
    """The table of a suite from its cells.

    `samples` reads the items of a cell (once; what it raises as LepBenchError is why the cell
    failed); `order` lists model names as the plan derives them; `scan` is what was found of the
    rows in training texts; `folders` are the user's task folders. What is not there is missing,
    what failed says so. Raises TaskError for a task's metrics.py that cannot be imported.
    """
    chosen, lookup = examine_results(
        choose_results(results, suite.name, suite.tasks),
        samples,
        Metrics.load(suite.tasks, folders),
        scan,
    )
    return assemble_table(chosen, lookup, suite, order, scan.summary if scan else None)


def assemble_table(
    chosen: Sequence[Chosen],
    items: Lookup,
    suite: Suite,
    order: Sequence[str],
    found: Contamination | None = None,
) -> Table:
    """The table of these results, one per cell; `found` is what a scan of training texts found. See
    `build`.
    """
    plan = RowPlan.make(chosen, suite, found)
    drafts = make_drafts(chosen, suite)
    blocks: list[Block] = []
    failures: list[Failure] = []
    letters: list[str] = []
    for condition in sorted(
        {d.condition for d in drafts},
        key=lambda c: (c.format != "chat", c.engine, c.dtype, c.protocol, c.shots),
    ):
        peers = {d.record.name: d for d in drafts if d.condition == condition}
        families = _group_families(list(peers.values()), order)
        said = BlockComparisons.make(
            [draft for _, _, members in families for draft in members],
            plan,
            items,
            suite.mean.delta,
        )
        sections = []
        for family, prefix, members in families:
            ranks = said.ranks([draft.record.name for draft in members])
            rows = [
                replace(
                    _make_row(draft, peers, plan, items, said), rank=ranks.get(draft.record.name)
                )
                for draft in members
            ]
            rows = [_number_failures(row, peers[row.model], suite, failures) for row in rows]
            sections.append(
                Section(
                    family,
                    prefix,
                    tuple(
                        _assign_letters(
                            [replace(r, label=r.model.removeprefix(prefix)) for r in rows], letters
                        )
                    ),
                )
            )
        blocks.append(
            Block(
                condition,
                tuple(sections),
                said.findings,
                compare.smallest_difference(said.findings),
            )
        )
    counts = tuple(
        (task, max((c.result.samples for c in chosen if c.result.task == task), default=0))
        for task in suite.tasks
    )
    return Table(
        suite.name,
        suite.title,
        suite.note,
        plan.columns,
        suite.mean.kind,
        tuple(suite.mean.tasks.items()),
        counts,
        tuple(blocks),
        tuple(failures),
        suite.mean.name,
        _make_summaries(suite),
        found,
        _find_unpaired(chosen, items, suite),
        _collect_notes(drafts, suite),
        delta=suite.mean.delta,
    )


def _find_unpaired(chosen: Sequence[Chosen], items: Lookup, suite: Suite) -> tuple[str, ...]:
    """Tasks of the mean whose score is no mean of its items."""
    scored = {
        task: [c for c in chosen if c.result.task == task and c.failure is None]
        for task in suite.mean.tasks
    }
    return tuple(
        task
        for task, cells in scored.items()
        if any(measure.average_seeds([c], items) is None for c in cells)
    )


def _collect_notes(drafts: Sequence[Draft], suite: Suite) -> tuple[Note, ...]:
    """What the results say beside their numbers, each once with its models and tasks."""
    tasks: dict[tuple[str, str], dict[str, None]] = {}
    for draft in drafts:
        for task in (t for t in suite.tasks if t in draft.cells):
            for note in dict.fromkeys(
                n for c in draft.cells[task].values() for n in c.result.provenance.notes
            ):
                tasks.setdefault((note, draft.record.name), {})[task] = None
    models: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (note, model), found in tasks.items():
        models.setdefault((note, tuple(found)), []).append(model)
    return tuple(
        Note(note, found, tuple(sorted(set(names)))) for (note, found), names in models.items()
    )


def make_drafts(chosen: Sequence[Chosen], suite: Suite) -> list[Draft]:
    """Rows to be: results grouped by model and condition.

    Running text is scored without a conversation, so its cells may carry another shot count and
    format than the same model's questions: they join the model's rows of the same engine and dtype.
    No difference is made of them. Raises LepBenchError for a task of the mean that is better the
    lower it is: a mean cannot say so, its best row would be the worst.
    """
    for task in dict.fromkeys(
        c.result.task for c in chosen if c.failure is None and not c.result.higher_is_better
    ):
        if task in suite.mean.tasks:
            raise LepBenchError(
                f"suite {suite.name}: of {task} lower scores are better: take it out of the "
                "suite's mean, it keeps its column"
            )
    drafts: dict[tuple[str, Condition], Draft] = {}
    for c in chosen:
        draft = drafts.setdefault(
            (c.result.model.name, Condition.from_result(c.result)),
            Draft(c.result.model, Condition.from_result(c.result)),
        )
        draft.cells.setdefault(c.result.task, {})[c.result.model.seed] = c
    asked = [d for d in drafts.values() if any(task in suite.mean.tasks for task in d.cells)]
    alone = []
    for draft in sorted(
        (d for d in drafts.values() if d not in asked), key=lambda d: astuple(d.condition)
    ):
        homes = [
            d
            for d in asked
            if d.record.name == draft.record.name
            and _machine(d.condition) == _machine(draft.condition)
        ]
        for home in homes:
            for task, cells in draft.cells.items():
                home.cells.setdefault(task, cells)
        if not homes:
            alone.append(draft)
    return asked + alone


def _machine(condition: Condition) -> tuple[str, str]:
    return condition.engine, condition.dtype


def _group_families(
    drafts: Sequence[Draft], order: Sequence[str]
) -> list[tuple[str, str, list[Draft]]]:
    """(heading, common prefix of the names, drafts in order) per family, then baselines, then local
    models.
    """
    place = {name: i for i, name in enumerate(order)}
    end = len(place)

    def first(same: Sequence[Draft]) -> int:
        return min(place.get(d.record.name, end) for d in same)

    groups: dict[str, list[Draft]] = {}
    for draft in drafts:
        groups.setdefault(draft.record.family or draft.record.name.split("/")[0], []).append(draft)

    def position(draft: Draft) -> tuple[int, int, str, int, int, str]:
        model = draft.record
        own = [
            d
            for d in drafts
            if (d.record.family, d.record.vocabulary) == (model.family, model.vocabulary)
        ]
        rank = 4
        if model.stage in ("base", "instruct"):
            rank = 0 if model.stage == "base" else 2 if model.tuning else 1
        elif model.vocabulary == ORIGINAL:
            rank = 3
        return (
            rank,
            first(own),
            model.vocabulary or "",
            place.get(model.name, end),
            STAGES.index(model.stage),
            model.name,
        )

    def family_position(name: str) -> tuple[int, int, str]:
        return int(not any(d.record.family for d in groups[name])), first(groups[name]), name

    return [
        (name, f"{name}/", sorted(groups[name], key=position))
        for name in sorted(groups, key=family_position)
    ]


def _make_row(
    draft: Draft, peers: dict[str, Draft], plan: RowPlan, items: Lookup, said: BlockComparisons
) -> Row:
    model = draft.record
    keys = [measure.measure_cell(draft, column, items) for column in plan.columns]
    cells = tuple(
        replace(cell, verdict=said.tasks.get((model.name, c.key))) if c.in_mean else cell
        for cell, c in zip(keys, plan.columns)
    )
    control = compare.find_control(model)
    refused = (
        measure.find_obstacle(draft, peers[control], tuple(plan.scale.chance))
        if control in peers
        else None
    )
    difference = next(
        (
            f.difference
            for f in said.findings
            if (f.model, f.difference.control) == (model.name, control)
        ),
        None,
    )
    means = tuple(measure.measure_mean(draft, scale, items) for _, scale in plan.summaries)
    rest = measure.measure_clean(draft, plan.scale, plan.flagged)
    mean, spent = (
        measure.measure_mean(draft, plan.scale, items),
        measure.sum_cost(draft, plan.tasks),
    )
    return Row(
        model.name,
        model.name,
        model.stage,
        "",
        cells,
        mean,
        control,
        difference,
        None,
        means,
        rest,
        spent,
        refused,
        health=measure.summarise_texts(draft, plan.tasks),
    )


def _number_failures(row: Row, draft: Draft, suite: Suite, failures: list[Failure]) -> Row:
    """Put the row's failures into the list; the same reason for several tasks or seeds is said
    once.
    """
    reasons: dict[str, list[str]] = {}
    for task in suite.tasks:
        for cell in draft.cells.get(task, {}).values():
            if cell.failure is not None:
                lines = [line for line in cell.failure.strip().splitlines() if line.strip()] or [
                    "no reason recorded"
                ]
                line = lines[0].removeprefix(f"{task}: ")  # the task stands beside it
                text = line if len(line) <= REASON else line[: REASON - 3] + "..."
                reasons.setdefault(text, []).append(task)
    if not reasons:
        return row
    number = max((f.number for f in failures), default=0) + 1
    failures += [
        Failure(number, row.model, tuple(dict.fromkeys(tasks)), reason)
        for reason, tasks in reasons.items()
    ]
    return replace(row, failure=number)


def _assign_letters(rows: Sequence[Row], used: list[str]) -> list[Row]:
    """Give a letter to every row that another one is compared with, and write it beside the
    difference.
    """
    names = dict.fromkeys(
        row.model
        for row in rows
        if any(r.difference and r.difference.control == row.model for r in rows)
    )
    letters = {}
    for name in names:
        count = len(used)
        letters[name] = ("" if count < 26 else chr(ord("A") + count // 26 - 1)) + chr(
            ord("A") + count % 26
        )
        used.append(letters[name])
    lettered = [replace(row, letter=letters.get(row.model, "")) for row in rows]
    return [
        replace(r, difference=replace(r.difference, letter=letters[r.difference.control]))
        if r.difference
        else r
        for r in lettered
    ]
