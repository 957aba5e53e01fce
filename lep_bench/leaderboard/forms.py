"""The table as data for other programs (CSV, JSON, LaTeX), and its rows arranged as in the paper's
Tables 1 to 4. Nothing is computed here.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lep_bench.leaderboard import recommend, text
from lep_bench.leaderboard.table import SYMBOLS, Block, Row, Section, Table
from lep_bench.records.schema import Noise

JSON_SCHEMA_VERSION = 1
# what pdflatex cannot set as it stands
LATEX_SIGNS = str.maketrans({"−": "$-$", "▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$"})
CAPTIONS = {
    "full": "",
    "paper1": "Instruct models and the best adapted one of each family, beside baselines",
    "paper2": "Foundation models and donors, by vocabulary",
    "paper3": "Instruct models: propagation without tuning",
    "paper4": "Instruct models: propagation and tuning, with the original vocabulary tuned alike",
}
BEST = (
    "The adapted row is the one with the highest mean. It was picked by these same numbers, so "
    "they flatter it slightly; its control is shown next to it."
)


def arrange_table(table: Table, layout: str) -> Table:
    """The rows of a layout in the order of the table, with the columns of groups where the suite
    has them; "full": the table itself.

    Differences and signs stay as they were computed, over the whole table; ranks among other rows
    would mislead and are left out.
    """
    if layout == "full":
        return table
    kept = _arrange_columns(table)
    groups = [i for i, one in enumerate(table.summaries) if one.group]

    def row(one: Row) -> Row:
        cells, means = tuple(one.cells[i] for i in kept), tuple(one.summaries[i] for i in groups)
        return replace(one, cells=cells, summaries=means, rank=None)

    blocks = []
    for block in table.blocks:
        chosen = [(section, _arrange_rows(section, layout)) for section in block.sections]
        sections = tuple(
            replace(section, rows=tuple(map(row, rows))) for section, rows in chosen if rows
        )
        names = {one.model for section in sections for one in section.rows}
        findings = tuple(f for f in block.findings if {f.model, f.difference.control} <= names)
        if sections:
            blocks.append(replace(block, sections=sections, findings=findings))
    shown = {one.model for block in blocks for one in block.rows}
    note = " ".join(
        filter(None, [table.note, BEST if layout == "paper1" and _has_adapted(blocks) else ""])
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


def _arrange_columns(table: Table) -> list[int]:
    grouped = any(one.group for one in table.summaries)
    return [i for i, column in enumerate(table.columns) if column.metric == SYMBOLS or not grouped]


def _arrange_rows(section: Section, layout: str) -> list[Row]:
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
    best = recommend.pick_highest(scored) if scored else None
    kept = {best.model, best.control} if best else set()
    return [
        row
        for row in rows
        if row.label == "instruct" or row.stage in ("baseline", "local") or row.model in kept
    ]


def _has_adapted(blocks: Sequence[Block]) -> bool:
    return any(
        text.find_vocabulary(row) not in ("", "original") for block in blocks for row in block.rows
    )


def render_csv(table: Table) -> str:
    """One line per row, the columns of `Table.to_frame`, numbers with six significant digits; empty
    where there is no number.
    """
    rows = table.to_rows()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(list(rows[0]) if rows else table.row_names())
    for row in rows:
        writer.writerow([_to_csv(name, value) for name, value in row.items()])
    return out.getvalue()


def _to_csv(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        # Nine decimals first: what cancels in a difference leaves 1e-17 on one machine and 0 on
        # another. A p of 1e-12 is not 0, however.
        exact = value if name.endswith(("_p", "_p_corrected")) else round(value, 9) + 0.0
        return f"{exact:.6g}"
    text = str(value)
    # A spreadsheet must not take a name for a formula.
    is_number = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", text)
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not is_number else text


def render_json(table: Table) -> str:
    """The table as JSON: every field of `Table`, numbers from 0 to 1 with nine decimals, and the
    recommendations of a whole table. Ends with a newline.
    """

    def to_plain(value: Any, name: str = "") -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            own = [field.name for field in dataclasses.fields(value)]
            return {name: to_plain(getattr(value, name), name) for name in own}
        if isinstance(value, tuple):
            return [to_plain(v) for v in value]
        if isinstance(value, Noise):
            return value.model_dump(mode="json")
        if isinstance(value, float):
            return float(f"{value:.6g}") if name in ("p", "corrected") else round(value, 9) + 0.0
        return value

    data = {"schema_version": JSON_SCHEMA_VERSION, **to_plain(table)}
    if not table.partial:
        data["ship"] = [
            {"family": family, "advice": sentences}
            for family, sentences in recommend.recommendation_lines(table, str)
        ]
    return json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def render_latex(table: Table) -> str:
    """A `tabular` per block and family by `DataFrame.to_latex`, each below a comment that says what
    it shows; the notes are comments at the end. Names with other letters than Latin and Cyrillic
    ones need LuaLaTeX.
    """
    import pandas as pd

    lines = [
        r"% \usepackage{amssymb,booktabs}",
        r"% Cyrillic names: \usepackage[T2A,T1]{fontenc}",
    ]
    for grid in text.make_grids(table, " ±"):
        rows = [
            [
                " ".join(filter(None, [row.label, row.letter, text.format_marks(row)])),
                *values,
            ]
            for _, group in grid.groups
            for row, values in group
        ]
        cells = [[text.clean_text(value) for value in row] for row in rows]
        frame = pd.DataFrame(cells, columns=["model", *map(text.clean_text, grid.headers)])
        title = f"{table.title}. {grid.section.family}. {text.describe_condition(grid.block)}"
        tabular = frame.to_latex(
            index=False, escape=True, column_format="l" + "r" * len(grid.headers)
        )
        lines += ["", f"% {text.clean_text(title)}", tabular.rstrip("\n").translate(LATEX_SIGNS)]
    notes = [table.note, *text.make_legend(table), *text.list_failures(table)]
    return "\n".join([*lines, "", *(f"% {text.clean_text(note)}" for note in notes if note), ""])
