"""Results into rows, rows into sections and blocks, and each row against its fair control."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from lep_bench.config import ORIGINAL, Suite
from lep_bench.leaderboard import stats
from lep_bench.leaderboard.cells import Chosen, Condition, Items, Lookup, averaged
from lep_bench.leaderboard.table import Block, Cell, Column, Difference, Failure, Row, Section, Table, columns_of
from lep_bench.results import ModelRecord

STAGES = ("base", "instruct", "init", "instruct-init", "donor", "propagation", "baseline", "local")
REASON = 160  # characters of a failure's first line that a page shows


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
    """The suite's mean as weights: mean = sum of w_t * s_t + constant. The constant cancels in every difference."""

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


def assemble(chosen: Sequence[Chosen], items: Lookup, suite: Suite, order: Sequence[str]) -> Table:
    """The table of these results, one per cell. See `table.build`."""
    columns = columns_of(chosen, suite)
    scale = Scale(dict(suite.mean.tasks), suite.mean.kind)
    drafts = _drafts(chosen, suite)
    blocks, failures = [], []
    letters: list[str] = []
    for condition in sorted({d.condition for d in drafts}, key=lambda c: (c.format != "chat", c.engine, c.dtype, c.protocol, c.shots)):
        peers = {d.record.name: d for d in drafts if d.condition == condition}
        sections = []
        for family, prefix, members in _families(list(peers.values()), order):
            rows = [_row(draft, peers, columns, scale, items) for draft in members]
            rows = [_number(row, peers[row.model], suite, failures) for row in rows]
            sections.append(Section(family, prefix, tuple(_letter([replace(r, label=r.model.removeprefix(prefix)) for r in rows], letters))))
        blocks.append(Block(condition, tuple(sections)))
    counts = tuple((task, max((c.result.samples for c in chosen if c.result.task == task), default=0)) for task in suite.tasks)
    return Table(suite.name, suite.title, suite.note, columns, scale.kind, tuple(suite.mean.tasks.items()), counts, tuple(blocks), tuple(failures))


def fair_control(model: ModelRecord) -> str | None:
    """The model that differs from this one in the step under test only; None for base, untuned instruct and models without family.

    A tuned variant is compared with the instruct model tuned on the same data and steps, never with the untuned one.
    """
    if model.family is None:
        return None
    if model.stage in ("instruct-init", "propagation"):
        tuned = f"+{model.tuning}" + (f"@{model.variant}" if model.variant else "") if model.tuning else ""
        return f"{model.family}/instruct{tuned}"
    if model.stage == "instruct":
        return f"{model.family}/instruct" if model.tuning else None
    if model.stage == "donor" and model.vocabulary != ORIGINAL:
        return f"{model.family}/{ORIGINAL}/donor"
    return f"{model.family}/base" if model.stage in ("init", "donor") else None


def _drafts(chosen: Sequence[Chosen], suite: Suite) -> list[Draft]:
    """Rows to be: results grouped by model and condition.

    Running text is scored without a conversation, so its cells may carry another shot count and format than the same model's
    questions: they join the model's rows of the same engine and dtype. No difference is made of them.
    """
    drafts: dict[tuple[str, Condition], Draft] = {}
    for c in chosen:
        draft = drafts.setdefault((c.result.model.name, Condition.of(c.result)), Draft(c.result.model, Condition.of(c.result)))
        draft.cells.setdefault(c.result.task, {})[c.result.model.seed] = c
    asked = [d for d in drafts.values() if any(task in suite.mean.tasks for task in d.cells)]
    alone = []
    for draft in (d for d in drafts.values() if d not in asked):
        homes = [d for d in asked if d.record.name == draft.record.name and _machine(d.condition) == _machine(draft.condition)]
        for home in homes:
            for task, cells in draft.cells.items():
                home.cells.setdefault(task, cells)
        if not homes:
            alone.append(draft)
    return asked + alone


def _machine(condition: Condition) -> tuple[str, str]:
    return condition.engine, condition.dtype


def _families(drafts: Sequence[Draft], order: Sequence[str]) -> list[tuple[str, str, list[Draft]]]:
    """(heading, common prefix of the names, drafts in order) per family, then baselines, then local models."""
    place = {name: i for i, name in enumerate(order)}
    end = len(place)

    def first(same: Sequence[Draft]) -> int:
        return min(place.get(d.record.name, end) for d in same)

    groups: dict[str, list[Draft]] = {}
    for draft in drafts:
        groups.setdefault(draft.record.family or draft.record.name.split("/")[0], []).append(draft)

    def position(draft: Draft) -> tuple[int, int, str, int, int, str]:
        model = draft.record
        own = [d for d in drafts if (d.record.family, d.record.vocabulary) == (model.family, model.vocabulary)]
        rank = 4
        if model.stage in ("base", "instruct"):
            rank = 0 if model.stage == "base" else 2 if model.tuning else 1
        elif model.vocabulary == ORIGINAL:
            rank = 3
        return rank, first(own), model.vocabulary or "", place.get(model.name, end), STAGES.index(model.stage), model.name

    def family_position(name: str) -> tuple[int, int, str]:
        return int(not any(d.record.family for d in groups[name])), first(groups[name]), name

    return [(name, f"{name}/", sorted(groups[name], key=position)) for name in sorted(groups, key=family_position)]


def _row(draft: Draft, peers: dict[str, Draft], columns: Sequence[Column], scale: Scale, items: Lookup) -> Row:
    model = draft.record
    cells = tuple(_cell(draft, column, items) for column in columns)
    control = fair_control(model)
    difference = _difference(draft, peers[control], scale, items) if control in peers else None
    return Row(model.name, model.name, model.stage, "", cells, _mean(draft, scale, items), control, difference, None)


def _cell(draft: Draft, column: Column, items: Lookup) -> Cell:
    asked = draft.cells.get(column.task, {})
    scored = {seed: c for seed, c in draft.scored(column.task).items() if not column.metric or column.metric in c.result.scores}
    if not scored:
        return Cell("failed" if asked else "missing")
    scores = [c.result.scores[column.metric] for c in scored.values()]
    stderr = scores[0].stderr
    if column.metric == next(iter(scored.values())).result.primary and (len(scored) > 1 or stderr is None):
        averages = _usable(list(scored.values()), items)
        stderr = stats.clustered_stderr(averages.values, averages.clusters(column.task)) if averages else None
    elif len(scored) > 1:
        stderr = None
    values = [s.value for s in scores]
    return _marked(Cell("ok", stats.mean(values), stderr, stats.spread(values), len(values)), scored.values())


def _marked(cell: Cell, used: Iterable[Chosen]) -> Cell:
    """The cell with what must stand beside its number: how many items, whether limited or of an earlier version."""
    used = list(used)
    limits = [c.result.scoring.limit for c in used if c.result.scoring.limit is not None]
    samples = min(c.result.samples for c in used)
    return replace(cell, samples=samples, limit=min(limits, default=None), stale=any(c.stale for c in used))


def _usable(cells: Sequence[Chosen], items: Lookup) -> Items | None:
    """Items averaged over seeds, only where the score really is their mean: other metrics get no error from them."""
    each = [items(c.result) for c in cells]
    for found, cell in zip(each, cells):
        if found is None or abs(stats.mean(found.values) - cell.result.scores[cell.result.primary].value) > 1e-5:
            return None
    return averaged(each)


def _complete(draft: Draft, scale: Scale) -> list[int]:
    """Training seeds for which every task of the mean has a number."""
    return sorted(set.intersection(*(set(draft.scored(task)) for task in scale.chance))) if scale.chance else []


def _means(draft: Draft, scale: Scale, seeds: Sequence[int]) -> list[float]:
    def score(task: str, seed: int) -> float:
        result = draft.cells[task][seed].result
        return result.scores[result.primary].value

    return [scale.mean({task: score(task, seed) for task in scale.chance}) for seed in seeds]


def _mean(draft: Draft, scale: Scale, items: Lookup) -> Cell:
    seeds = _complete(draft, scale)
    if not seeds:
        failed = any(c.failure is not None for task in scale.chance for c in draft.cells.get(task, {}).values())
        return Cell("failed" if failed else "missing")
    means = _means(draft, scale, seeds)
    parts: list[stats.Part] | None = []
    for task in scale.chance:
        found = _usable([draft.cells[task][seed] for seed in seeds], items)
        parts = None if found is None or parts is None else [*parts, stats.Part(scale.weight(task), found.values, found.clusters(task))]
    used = [draft.cells[task][seed] for task in scale.chance for seed in seeds]
    stderr = stats.combined_stderr(parts) if parts else None
    return _marked(Cell("ok", stats.mean(means), stderr, stats.spread(means), len(seeds)), used)


def _difference(draft: Draft, control: Draft, scale: Scale, items: Lookup) -> Difference | None:
    """None unless both have the whole mean, on the same version of every task and the same items."""
    a_seeds, b_seeds = _complete(draft, scale), _complete(control, scale)
    if not a_seeds or not b_seeds:
        return None
    parts: list[stats.Part] | None = []
    for task in scale.chance:
        a, b = [draft.cells[task][s] for s in a_seeds], [control.cells[task][s] for s in b_seeds]
        if len({(c.result.task_fingerprint, c.result.samples, c.result.scoring.limit) for c in (*a, *b)}) > 1:
            return None
        ours, theirs = _usable(a, items), _usable(b, items)
        if ours is None or theirs is None:
            parts = None
        elif ours.ids != theirs.ids or ours.groups != theirs.groups:
            return None
        elif parts is not None:
            gaps = [x - y for x, y in zip(ours.values, theirs.values)]
            parts.append(stats.Part(scale.weight(task), gaps, ours.clusters(task)))
    a_means, b_means = _means(draft, scale, a_seeds), _means(control, scale, b_seeds)
    stderr = stats.with_seeds(stats.combined_stderr(parts) if parts else None, a_means, b_means)
    # The references have no training of ours behind them: their one seed limits no claim.
    trained = [len(s) for d, s in ((draft, a_seeds), (control, b_seeds)) if d.record.tuning or d.record.stage in ("donor", "propagation")]
    return Difference(control.record.name, "", stats.mean(a_means) - stats.mean(b_means), stderr, min(trained, default=1))


def _number(row: Row, draft: Draft, suite: Suite, failures: list[Failure]) -> Row:
    """Put the row's failures into the list; the same reason for several tasks or seeds is said once."""
    reasons: dict[str, list[str]] = {}
    for task in suite.tasks:
        for cell in draft.cells.get(task, {}).values():
            if cell.failure is not None:
                lines = [line for line in cell.failure.strip().splitlines() if line.strip()] or ["no reason recorded"]
                text = lines[0] if len(lines[0]) <= REASON else lines[0][: REASON - 3] + "..."
                reasons.setdefault(text, []).append(task)
    if not reasons:
        return row
    number = max((f.number for f in failures), default=0) + 1
    failures += [Failure(number, row.model, tuple(dict.fromkeys(tasks)), reason) for reason, tasks in reasons.items()]
    return replace(row, failure=number)


def _letter(rows: Sequence[Row], used: list[str]) -> list[Row]:
    """Give a letter to every row that another one is compared with, and write it beside the difference."""
    names = dict.fromkeys(row.model for row in rows if any(r.difference and r.difference.control == row.model for r in rows))
    letters = {}
    for name in names:
        count = len(used)
        letters[name] = ("" if count < 26 else chr(ord("A") + count // 26 - 1)) + chr(ord("A") + count % 26)
        used.append(letters[name])
    lettered = [replace(row, letter=letters.get(row.model, "")) for row in rows]
    return [replace(r, difference=replace(r.difference, letter=letters[r.difference.control])) if r.difference else r for r in lettered]
