"""The table as text: Markdown, HTML, CSV, JSON. (`terminal` and `latex` stand on their own.)"""

from __future__ import annotations

import csv as csv_module
import dataclasses
import html as html_module
import io
import json as json_module
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lep_bench.leaderboard import health, ship
from lep_bench.leaderboard.forms import cost, text
from lep_bench.leaderboard.table import Block, Difference, Row, Table
from lep_bench.results import Noise

OPEN = 6  # contrasts up to which a list is not folded
NBSP = "\u00a0"  # keeps 90.3 ±1.7 on one line in a Markdown cell
JOINED = "\u2060–\u2060"  # and 15–18


def markdown(table: Table) -> str:
    """GitHub tables, one per block and family, with headings of level 3 and 4. Ends with a newline; empty without rows."""
    lines: list[str] = []
    block = section = None
    for grid in text.grids(table, f"{NBSP}±"):
        lines += ["", f"### {escape(text.condition(grid.block))}"] if grid.block is not block else []
        lines += ["", f"#### {escape(grid.section.family)}"] if grid.section is not section else []
        block, section = grid.block, grid.section
        rows = [(row, [value.replace("–", JOINED) for value in values]) for _, rows in grid.groups for row, values in rows]
        lines += ["", *tabled(["model", *map(escape, grid.headers)], [[_markdown_label(row), *values] for row, values in rows])]
    lines += [""] if table.failures else []
    lines += [f"- ({f.number}) {code(f.model)}, {escape(text.failed_tasks(table, f.tasks))}: failed: {escape(f.reason)}" for f in table.failures]
    for reason, rows in cost.refusals(table):
        lines += ["", f"- Not compared with their controls: {', '.join(code(row.model) for row in rows)}: {escape(reason)}."]
    lines += _notes(table)
    return "\n".join(lines).strip("\n") + "\n" if lines else ""


def tabled(heads: Sequence[str], rows: Iterable[Sequence[str]], sides: str = "lr") -> list[str]:
    """The lines of a Markdown table. `sides`: l or r for each column, the last one for all that follow."""
    marks = [":--" if sides[min(i, len(sides) - 1)] == "l" else "--:" for i in range(len(heads))]
    return [f"| {' | '.join(cells)} |" for cells in (heads, marks, *rows)]


def findings(block: Block) -> list[str]:
    """Markdown lines of the block's planned contrasts, a table for each question; long ones folded. Empty where nothing was compared."""
    lines: list[str] = []
    for question, found in text.questions(block).items():
        title = f"{escape(question)}: {text.tally(found)}"
        rows = [[code(f.model), code(f.difference.control), *text.finding(f, f"{NBSP}±")] for f in found]
        inner = tabled([*text.FINDING[:-1], "verdict"], rows, "llrrrrl")
        folded = len(found) > OPEN
        lines += ["", f"<details><summary>{title}</summary>" if folded else f"**{title}**", "", *inner, *(["", "</details>"] if folded else [])]
    return lines


def _markdown_label(row: Row) -> str:
    marks = text.marks(row)
    return code(row.label) + (f" **{row.letter}**" if row.letter else "") + (f" {escape(marks)}" if marks else "")


def _notes(table: Table) -> list[str]:
    lines = []
    for note in table.notes:
        models = "every model" if len(note.models) == table.models > 1 else ", ".join(map(code, note.models))
        lines.append(f"- {escape(note.text)}: {escape(text.failed_tasks(table, note.tasks))}; {models}")
    return ["", "Notes of the runs:", "", *lines] if lines else []


def contamination(table: Table) -> list[str]:
    """Markdown lines of the scores without the rows that stand in training texts, a table per block; empty without a scan."""
    found = table.contamination
    if found is None:
        return []
    texts = ", ".join(code(name) for name in found.texts)
    clear = [code(task) for task, _, flagged in found.tasks if not flagged]
    unread = [code(task) for task, _ in table.items if task not in {name for name, _, _ in found.tasks}]
    lines = ["### Without rows found in training text", ""]
    lines.append(f"- Scanned: {texts}, by sequences of {found.ngram} words (`lep-bench contamination`). Which model saw them is not known here.")
    lines += [f"- No row flagged: {', '.join(clear)}."] if clear else []
    lines += [f"- Not scanned: {', '.join(unread)}."] if unread else []
    if not found.flagged:
        return lines
    lines.append(f"- Score on all rows → score without the flagged ones; the last column has these in its mean. {text.MISSING}: not known.")
    heads = ["model", *map(escape, text.clean_headers(table))]
    for block in table.blocks:
        if rows := [[code(row.model), *text.clean_numbers(table, row)] for row in block.rows if any(row.clean)]:
            lines += ["", f"#### {escape(text.condition(block))}", "", *tabled(heads, rows)]
    return lines


_ACTIVE = re.compile(r"([\\`*_\[\]|~])")
_ENTITY = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def escape(value: str) -> str:
    """Somebody else's text as plain Markdown text, also inside a table: no markup, HTML, link, mention or new line."""
    line = _ACTIVE.sub(r"\\\1", text.clean(value))
    line = "".join(_ENTITY.get(c, c) for c in line)
    # GitHub makes links of bare addresses: break what it looks for.
    return re.sub(r"(?i)\bwww\.", "www&#46;", line.replace("://", "&#58;//"))


def code(value: str) -> str:
    """A name as a code span that it cannot leave: backticks become quotes, the pipe is escaped as GitHub's tables want it."""
    return "`" + text.clean(value).replace("`", "'").replace("\\", "/").replace("|", "\\|") + "`"


def html(table: Table) -> str:
    """A fragment for any page: semantic tables with captions and scopes, everything escaped, no script and no style."""

    def tagged(name: str, value: str, more: str = "") -> str:
        return f"<{name}{more}>{html_module.escape(value)}</{name}>"

    def named(row: Row) -> str:
        parts = [tagged("code", text.clean(row.label))] + [tagged("b", row.letter)] * bool(row.letter)
        marks = text.marks(row)
        return f'<th scope="row">{" ".join(parts + [tagged("small", marks)] * bool(marks))}</th>'

    lines = ['<section class="lep-leaderboard">', tagged("h2", text.clean(table.title))]
    lines += [tagged("p", text.clean(table.note), ' class="note"')] if table.note else []
    for grid in text.grids(table, f"{NBSP}±"):
        caption = f"{text.clean(grid.section.family)}. {text.condition(grid.block)}"
        heads = "".join(tagged("th", text.clean(head), ' scope="col"') for head in ("model", *grid.headers))
        lines += ["<table>", tagged("caption", caption), f"<thead><tr>{heads}</tr></thead>"]
        for vocabulary, rows in grid.groups:
            across = f' colspan="{len(grid.headers) + 1}" scope="rowgroup"'
            lines += ["<tbody>", *([f"<tr>{tagged('th', text.clean(vocabulary), across)}</tr>"] if vocabulary else [])]
            lines += [f"<tr>{named(row)}{''.join(tagged('td', value) for value in values)}</tr>" for row, values in rows]
            lines.append("</tbody>")
        lines.append("</table>")
    notes = (*text.legend(table), *text.failures(table))
    lines += ['<ul class="legend">', *(tagged("li", line) for line in notes), "</ul>", "</section>"]
    return "\n".join(lines) + "\n"


def csv(table: Table) -> str:
    """One line per row, plain values 0 to 1 with six significant digits; empty where there is no number."""
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    head = ["model", "family", "stage", "format", "shots", "protocol", "engine", "dtype", "limit", "stale", "edited", "failed", "training_seeds"]
    sampled = ("_sampling_sd",) if table.samplings > 1 else ()
    parts = ("", "_stderr", "_seed_sd", *sampled)
    head += [c.key + part for c in table.columns for part in (*parts, "_verdict")]
    head += [name + part for name in ("mean", *(s.label for s in table.summaries)) for part in parts]
    writer.writerow([*head, "rank_best", "rank_worst", *DIFFERENCE, *cost.FIELDS, *health.FIELDS])
    for block in table.blocks:
        how = block.condition
        for section in block.sections:
            for row in section.rows:
                kind = [row.model, section.family, row.stage, how.format, how.shots, how.protocol, how.engine, how.dtype]
                failed = "all" if row.failed else "some" if row.failure else ""
                state = [row.limit, int(row.stale), int(row.edited), failed, max(x.seeds for x in (*row.cells, row.mean))]
                values: list[object] = []
                for i, c in enumerate((*row.cells, row.mean, *row.summaries)):
                    values += [_plain(v) for v in (c.value, c.stderr, c.spread, *([c.sampling] if sampled else []))]
                    values += [c.verdict] if i < len(row.cells) else []
                spent = [*cost.fields(table, row), *map(_plain, health.fields(row))]
                writer.writerow([_harmless(v) for v in (*kind, *state, *values, *(row.rank or ("", "")), *_difference(row), *spent)])
    return out.getvalue()


DIFFERENCE = ("control", *(f"difference{part}" for part in ("", "_stderr", "_low", "_high", "_p", "_p_corrected", "_verdict", "_test")))


def _difference(row: Row) -> list[object]:
    d = row.difference or Difference("", "", 0, None, 0)
    numbers = [d.value if row.difference else None, d.stderr, d.low, d.high]
    # A p of 1e-12 is none of 0: significant digits, as a test gives them.
    return [row.control, *map(_plain, numbers), *("" if p is None else f"{p:.6g}" for p in (d.p, d.corrected)), d.verdict, d.test]


def _plain(value: float | None) -> str:
    # Nine decimals first: what cancels in a difference leaves 1e-17 on one machine and 0 on another.
    return "" if value is None else f"{round(value, 9) + 0.0:.6g}"


def _harmless(value: object) -> str:
    """A spreadsheet must not take a name for a formula."""
    line = "" if value is None else str(value)
    is_number = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", line)
    return "'" + line if line[:1] in ("=", "+", "-", "@", "\t", "\r") and not is_number else line


def json(table: Table) -> str:
    """The table as JSON, plain values 0 to 1, nine decimals, with the sentences of `ship` where it is whole. Ends with a newline."""

    def plain(value: Any, name: str = "") -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        if isinstance(value, Noise):
            return value.model_dump(mode="json")
        if isinstance(value, float):
            return float(f"{value:.6g}") if name in ("p", "corrected") else round(value, 9) + 0.0
        return value

    advice = [{"family": family, "advice": sentences} for family, sentences in ship.lines(table, str)]
    return json_module.dumps(plain(table) | ({} if table.partial else {"ship": advice}), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
