"""The rows and columns of a table as the paper's Tables 1 to 4 have them (leaderboards/paper):
arranged, never computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lep_bench.leaderboard import recommend, text
from lep_bench.leaderboard.table import SYMBOLS, Block, Row, Section, Table

CAPTIONS = {
    "full": "",
    "paper1": "Instruct models and the best adapted one of each family, beside baselines",
    "paper2": "Foundation models and donors, by vocabulary",
    "paper3": "Instruct models: propagation without tuning",
    "paper4": "Instruct models: propagation and tuning, with the original vocabulary tuned alike",
}
BEST = (
    "The adapted row is the one of the highest mean: chosen by these very numbers, so a little "
    "too good; its control stands beside it."
)


def arrange_table(table: Table, layout: str) -> Table:
    """The rows of a layout in the order of the table, with the columns of groups where the suite
    has them; "full": the table itself.

    Differences and signs stay as they were computed, over the whole table; ranks among other rows
    would mislead and are left out.
    """
    if layout == "full":
        return table
    kept = _columns(table)
    groups = [i for i, one in enumerate(table.summaries) if one.group]

    def row(one: Row) -> Row:
        cells, means = tuple(one.cells[i] for i in kept), tuple(one.summaries[i] for i in groups)
        return replace(one, cells=cells, summaries=means, rank=None)

    blocks = []
    for block in table.blocks:
        chosen = [(section, _rows(section, layout)) for section in block.sections]
        sections = tuple(
            replace(section, rows=tuple(map(row, rows))) for section, rows in chosen if rows
        )
        names = {one.model for section in sections for one in section.rows}
        findings = tuple(f for f in block.findings if {f.model, f.difference.control} <= names)
        if sections:
            blocks.append(replace(block, sections=sections, findings=findings))
    shown = {one.model for block in blocks for one in block.rows}
    note = " ".join(
        filter(None, [table.note, BEST if layout == "paper1" and _adapted(blocks) else ""])
    )
    return replace(
        table,
        title=f"{table.title}: {CAPTIONS[layout]}",
        note=note,
        blocks=tuple(blocks),
        columns=tuple(table.columns[i] for i in kept),
        summaries=tuple(table.summaries[i] for i in groups),
        failures=tuple(f for f in table.failures if f.model in shown),
        contamination=None,
        partial=True,
    )


def _columns(table: Table) -> list[int]:
    grouped = any(one.group for one in table.summaries)
    return [i for i, column in enumerate(table.columns) if column.metric == SYMBOLS or not grouped]


def _rows(section: Section, layout: str) -> list[Row]:
    rows = section.rows
    if layout == "paper2":
        return [row for row in rows if row.stage in ("base", "donor")]
    if layout == "paper3":
        return [
            row for row in rows if row.stage in ("instruct", "propagation") and "+" not in row.label
        ]
    if layout == "paper4":
        tuned = {
            row.label.split("+")[0]
            for row in rows
            if row.stage == "propagation" and "+" in row.label
        }
        return [
            row
            for row in rows
            if row.stage == "instruct"
            or (row.stage == "propagation" and row.label.split("+")[0] in tuned)
        ]
    scored = [row for row in rows if row.stage == "propagation" and row.mean.value is not None]
    best = recommend.highest(scored) if scored else None
    kept = {best.model, best.control} if best else set()
    return [
        row
        for row in rows
        if row.label == "instruct" or row.stage in ("baseline", "local") or row.model in kept
    ]


def _adapted(blocks: Sequence[Block]) -> bool:
    return any(
        text.vocabulary(row) not in ("", "original") for block in blocks for row in block.rows
    )
