"""What the page says of one model when it is opened: scores with intervals, contrasts, health,
cost, lineage, method, fit, training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lep_bench.leaderboard import cost, health, text
from lep_bench.leaderboard.plots import WIDE
from lep_bench.leaderboard.table import Block, Cell, Row, Table
from lep_bench.records.artifact import Lep
from lep_bench.records.schema import TaskResult


@dataclass(frozen=True)
class DetailTable:
    """A titled table; without `head` each line is a name and what belongs to it."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def list_details(
    table: Table, block: Block, row: Row, lep: Lep | None, result: TaskResult | None
) -> list[DetailTable]:
    """The parts of a row, empty ones left out."""
    parts = [
        DetailTable(
            "Scores",
            ("score", "value", "95% interval", "items", "against its control"),
            tuple(_scores(table, row)),
        ),
        DetailTable(
            "Planned comparisons",
            ("", *text.FINDING[1:-1], "verdict"),
            tuple(_findings(block, row)),
        ),
        DetailTable("Standing", (), tuple(_standing(table, row))),
        DetailTable(
            "Generated texts",
            (),
            tuple(zip(health.HEADERS, health.numbers(row))) if row.health else (),
        ),
        DetailTable("Cost", (), _cost(table, row)),
        *(_lineage(lep) if lep else _unknown(result)),
    ]
    return [part for part in parts if part.lines]


def _scores(table: Table, row: Row) -> list[tuple[str, ...]]:
    columns = [(c.label, c.percent, c.digits, cell) for c, cell in zip(table.columns, row.cells)]
    columns += [
        (text.mean_label(table), True, 1, row.mean),
        *((s.label, True, 1, cell) for s, cell in zip(table.summaries, row.summaries)),
    ]
    lines = []
    for label, percent, digits, cell in columns:
        value = text.cell(replace(cell, verdict=None), percent, digits, None)
        lines.append(
            (
                label,
                value,
                _interval(cell, percent, digits),
                f"{cell.samples or ''}",
                _verdict(cell),
            )
        )
    return lines


def _interval(cell: Cell, percent: bool, digits: int) -> str:
    if cell.value is None or not cell.stderr:
        return text.MISSING
    half = WIDE * cell.stderr
    return (
        f"[{text.number(cell.value - half, percent, digits)}, "
        f"{text.number(cell.value + half, percent, digits)}]"
    )


def _verdict(cell: Cell) -> str:
    return f"{text.SIGNS[cell.verdict]} {cell.verdict}" if cell.verdict else ""


def _findings(block: Block, row: Row) -> list[tuple[str, ...]]:
    own = [f for f in block.findings if f.model == row.model]
    return [(f.question, f.difference.control, *text.finding(f, " ±")) for f in own]


def _standing(table: Table, row: Row) -> list[tuple[str, str]]:
    facts = [("stage", row.stage), ("training seeds", text.seeds(row))]
    facts += (
        [("rank", f"{text.rank(row)}: the places that the errors allow (95%, all rows jointly)")]
        if row.rank
        else []
    )
    if row.control:
        d = row.difference
        facts.append(("fair control", row.control))
        facts.append(
            (
                "difference of the mean",
                f"{text.difference(d, ' ±')} {text.interval(d)}"
                if d
                else row.refused or "not compared",
            )
        )
        facts += [("test", d.test)] if d and d.test else []
    facts += [("marks", text.marks(row))] if text.marks(row) else []
    return facts + [
        ("failed", f"{', '.join(f.tasks)}: {f.reason}")
        for f in table.failures
        if f.number == row.failure
    ]


def _cost(table: Table, row: Row) -> tuple[tuple[str, str], ...]:
    if row.cost is None or not row.cost.tasks:
        return ()
    pairs = list(zip(cost.headers(table), cost.numbers(table, row)))[-len(cost.HEADERS) :]
    return (
        *pairs,
        ("measured on", row.cost.machine),
        *([("tasks counted", partly)] if (partly := cost.partly(row)) else []),
    )


def _lineage(lep: Lep) -> list[DetailTable]:
    way = [(p.role, text.parent(p.name), p.revision or "", p.digest) for p in lep.parents]
    method = [
        ("method", lep.adapter or lep.stage),
        *_flat(lep.params),
        ("row policy", lep.row_policy),
        ("training seed", str(lep.seed)),
    ]
    method += [
        ("vocabulary", f"{lep.vocabulary_size:,} entries"),
        *((f"rows {kind}", f"{n:,}") for kind, n in lep.rows.items()),
    ]
    method += [("fingerprint", lep.fingerprint), *(("note", note) for note in lep.notes)]
    fits = [
        DetailTable(f"Fit of the {matrix}", (), tuple(_flat(report)))
        for matrix, report in lep.fit.items()
    ]
    training = DetailTable(
        "Training", (), tuple(_flat({k: v for k, v in lep.training.items() if k != "loss"}))
    )
    return [
        DetailTable("Lineage", ("role", "model", "revision", "hash"), tuple(way)),
        DetailTable("How it was made", (), tuple(method)),
        *fits,
        training,
    ]


def _unknown(result: TaskResult | None) -> list[DetailTable]:
    """What the result itself says where the artifact is not in --out, or there is none: a
    checkpoint as it is.
    """
    if result is None:
        return []
    lines = [
        *(("from", text.parent(name)) for name in result.model.lineage),
        ("fingerprint", result.model.fingerprint),
    ]
    return [DetailTable("Lineage", (), tuple(lines))]


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested values as lines: `norms new donor`, `2.41`."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{before}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            lines += _flat(value, f"{name} ")
        else:
            lines.append((name, text.short(value)))
    return lines
