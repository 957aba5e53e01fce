"""What the scores cost, on which machine, and how far that machine's answers can be trusted to the
last digit.
"""

from __future__ import annotations

from collections.abc import Sequence

from lep_bench import stats
from lep_bench.leaderboard import recommend
from lep_bench.leaderboard.cells import Chosen
from lep_bench.leaderboard.measure import Draft
from lep_bench.leaderboard.table import Block, Cost, Row, Table
from lep_bench.leaderboard.text import MISSING, cell, columns, mean_label, number
from lep_bench.records.schema import Machine, Noise

UNKNOWN = "(not recorded)"


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
        machine="; ".join(sorted({_where(c) for own in counted.values() for c in own})),
    )


def _where(c: Chosen) -> str:
    p = c.result.provenance
    threads, workers = p.hardware.get("threads"), p.hardware.get("workers")
    beside = [f"{n} thread{'s' if n > 1 else ''}" for n in (threads,) if n] + [
        f"{n} processes at a time" for n in (workers,) if n and n > 1
    ]
    return ", ".join([named(p.machine), *beside])


def named(machine: Machine) -> str:
    """`engine hf 5.19.0 on cpu in float32`."""
    return (
        f"engine {machine.engine} {machine.version or '(version not recorded)'} on "
        f"{machine.device or UNKNOWN} in {machine.dtype}"
    )


def refusal(draft: Draft, control: Draft, tasks: Sequence[str]) -> str | None:
    """Why two rows may not be compared: a score or its samples were changed after the run, a task
    was asked in two versions, or answered by different engines, versions, kinds of device or number
    formats, whose answers differ in their last digits and so in some of their choices. None where
    nothing stands in the way."""
    for task in tasks:
        for d in (draft, control):
            if any(c.edited for c in d.scored(task).values()):
                return (
                    f"{task} of {d.record.name} was edited after the run: put result and samples "
                    "back, or delete the result and run again"
                )
        ours, theirs = ({_version(c) for c in d.scored(task).values()} for d in (draft, control))
        if ours and theirs and len(ours | theirs) > 1:
            return (
                f"{task} in {' and '.join(sorted(ours | theirs))}: run again what is of the "
                "older one"
            )
        ours, theirs = (
            {c.result.provenance.machine for c in d.scored(task).values()} for d in (draft, control)
        )
        if ours and theirs and len(ours | theirs) > 1:
            return (
                f"{', '.join(sorted(map(named, ours)))} against "
                f"{', '.join(sorted(map(named, theirs)))}"
            )
    return None


def _version(c: Chosen) -> str:
    return f"version {c.result.task_version} ({c.result.task_fingerprint})"


def refusals(table: Table) -> list[tuple[str, list[Row]]]:
    """Each reason why a difference is refused, with the rows concerned."""
    found: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.refused:
            found.setdefault(row.refused, []).append(row)
    return list(found.items())


def noise(measured: Noise, where: str, model: str, task: str) -> str:
    """What was measured of the noise floor, in words; machine, model and task as the page writes
    them.
    """
    flips = (
        f"{measured.flipped} answer{'s' if measured.flipped > 1 else ''} flipped"
        if measured.flipped
        else "no answer flipped"
    )
    return (
        f"Noise floor, {where}: {model} answered {measured.items} items of {task} twice, in "
        "other batches: "
        f"{flips}, log-probabilities differ by {measured.largest:.1g} at most."
    )


HEADERS = (
    "relative tokens",
    "tokens in",
    "tokens out",
    "seconds",
    "characters per second",
    "peak memory",
)


def headers(table: Table) -> list[str]:
    """Headings after the model's name: quality, then cost."""
    return [mean_label(table), *(c.label for _, c in columns(table, "means")), *HEADERS]


def relative(table: Table, row: Row) -> float | None:
    """Tokens that a row needs for the Russian text for which its family's instruct model (where
    that was not asked so: the base) needs one; from the symbols per token."""
    rows = next(
        section.rows
        for block in table.blocks
        for section in block.sections
        if any(one is row for one in section.rows)
    )
    label = "instruct" if any(one.label == "instruct" for one in rows) else "base"
    return recommend.relative(table, row, next((one for one in rows if one.label == label), None))


def numbers(table: Table, row: Row) -> list[str]:
    """A row's texts under `headers`."""
    quality = [
        cell(row.mean, True, 1, None),
        *(cell(row.cells[i], c.percent, c.digits, None) for i, c in columns(table, "means")),
    ]
    less = relative(table, row)
    quality.append(MISSING if less is None else number(less, False, 2))
    spent = row.cost
    if spent is None or not spent.tasks:
        return [*quality, *([MISSING] * (len(HEADERS) - 1))]
    texts = [f"{spent.tokens_in:,}", f"{spent.tokens_out:,}", MISSING, MISSING, MISSING]
    if spent.seconds:
        texts[2:4] = (
            f"{spent.seconds:,.1f}",
            f"{float(f'{spent.characters / spent.seconds:.3g}'):,.0f}",
        )
    if spent.memory:
        texts[4] = f"{spent.memory / 2**30:.2f} GiB"
    return [*quality, *texts]


def partly(row: Row) -> str:
    """What stands beside a name whose cells do not all count."""
    return (
        f"{row.cost.tasks} of {row.cost.of} tasks"
        if row.cost and row.cost.tasks < row.cost.of
        else ""
    )


def machines(block: Block) -> list[tuple[str, list[Row]]]:
    """What the rows of a block were measured on."""
    found: dict[str, list[Row]] = {}
    for row in block.rows:
        if row.cost and row.cost.tasks:
            found.setdefault(row.cost.machine, []).append(row)
    return list(found.items())


FIELDS = (
    "relative_tokens",
    "tasks_counted",
    "tokens_in",
    "tokens_out",
    "characters",
    "seconds",
    "peak_memory_bytes",
    "measured_with",
)


def fields(table: Table, row: Row) -> list[object]:
    """A row's plain values under `FIELDS`."""
    c, less = row.cost, relative(table, row)
    first = "" if less is None else f"{less:.6g}"
    if c is None or not c.tasks:
        return [first, 0, *[""] * (len(FIELDS) - 2)]
    return [
        first,
        c.tasks,
        c.tokens_in,
        c.tokens_out,
        c.characters,
        "" if c.seconds is None else f"{c.seconds:.6g}",
        c.memory,
        c.machine,
    ]


def remarks(table: Table) -> list[str]:
    """How to read these numbers."""
    return [*REMARKS, *([PARTLY] if any(map(partly, table.rows)) else [])]


REMARKS = (
    (
        "relative tokens: for the same Russian text, against the instruct model (base models: the "
        "base) of the family, by symbols per token."
    ),
    "seconds: in which the engine answered; prompts were ready and the model loaded.",
    "tokens in: as read, padding and what several questions share counted once; characters: "
    "of the questions, a prompt once per "
    "option. Where tokens hold more characters there are fewer to read: between vocabularies "
    "characters per second compare, tokens do not.",
    (
        "peak memory: on a GPU what torch held there, else the whole process, libraries (some 0.5 "
        "GiB) and other loaded models included."
    ),
)
PARTLY = (
    "N of M tasks: the others failed, were not asked or were answered from the store of an "
    "earlier run; they are in none of these numbers."
)
