"""The table as text: terminal (rich), Markdown, CSV, JSON."""

from __future__ import annotations

import csv as csv_module
import dataclasses
import io
import json as json_module
import re
from typing import TYPE_CHECKING, Any

from lep_bench.leaderboard import cost, text
from lep_bench.leaderboard.table import BITS, Block, Cell, Failure, Row, Section, Table

if TYPE_CHECKING:
    from rich.console import Console

COSTS = 24  # rows up to which the terminal shows what they cost
NBSP = "\u00a0"  # keeps 90.3 ±1.7 on one line in a Markdown cell


def terminal(table: Table, console: Console) -> None:
    """Print the table; readable from about 100 columns, complete from about 140 (single tasks lose their errors first)."""
    from rich.text import Text

    console.print(Text(f"{text.clean(table.title)}: {count(table.models, 'model')}, {count(len(table.items), 'task')}", style="bold"))
    if table.note:
        console.print(Text(text.clean(table.note), style="yellow"))
    if not table.blocks:
        console.print("Nothing has been scored yet.")
        return
    layouts = [_Layout.fit(table, part, console.width) for part in text.parts(table)]
    if len(layouts) > 1 and not layouts[0].fits:
        layouts[0] = _Layout.fit(table, "short", console.width)
    widest = max(_width_across(table, block, "tasks") for block in table.blocks)
    turned = [layout for layout in layouts if layout.part == "tasks" and not layout.fits and widest <= console.width]
    for block in table.blocks:
        console.print()
        console.print(Text(text.condition(block), style="bold cyan"))
        shown = [layout.table(table, block) for layout in layouts if layout.fits or layout.part != "tasks"]
        shown += [_across(table, block, layout.part) for layout in layouts if layout in turned]
        for i, one in enumerate(shown):
            if i:
                console.print()
            console.print(one)
    if len(table.rows) <= COSTS and any(row.cost for row in table.rows):
        console.print()
        console.print(cost.terminal(table))
    console.print()
    for line in _legend(table, [layout for layout in layouts if layout not in turned]):
        console.print(Text(f" {line}", style="dim"))
    same: dict[tuple[tuple[str, ...], str], list[Failure]] = {}
    for failure in table.failures:
        same.setdefault((failure.tasks, failure.reason), []).append(failure)
    for (tasks, reason), failures in same.items():
        numbers = "".join(f"({number})" for number in dict.fromkeys(failure.number for failure in failures))
        models = ", ".join(text.clean(failure.model) for failure in failures[:3]) + (f" and {len(failures) - 3} more" if failures[3:] else "")
        console.print(Text(f" {numbers} {models}, {failed_tasks(table, tasks)}: failed: {text.clean(reason)}", style="red"))


@dataclasses.dataclass(frozen=True)
class _Layout:
    """One set of column widths for all blocks, so that they line up: the richest one that the terminal holds, if one `fits`."""

    part: text.Part
    fits: bool
    score_errors: bool
    joint: str
    gap: int
    label: int
    widths: tuple[int, ...]

    @classmethod
    def fit(cls, table: Table, part: text.Part, width: int) -> _Layout:
        from rich.cells import cell_len

        label = max(cell_len(_label(row).plain) for row in table.rows) + 2
        for score_errors, joint, gap in ((True, " ±", 3), (True, " ±", 2), (True, "±", 1), (False, " ±", 2), (False, "±", 1)):
            widths = [max(cell_len(word) for word in header.split()) for header in text.headers(table, part)]
            for row in table.rows:
                widths = [max(w, cell_len(t)) for w, t in zip(widths, text.numbers(table, row, part, joint, score_errors))]
            if label + sum(widths) + gap * len(widths) <= width:
                break
        # Where even the last layout is too wide the names fold; numbers never do.
        label = max(16, min(label, width - sum(widths) - gap * len(widths)))
        return cls(part, label + sum(widths) + gap * len(widths) <= width, score_errors, joint, gap, label, tuple(widths))

    def table(self, table: Table, block: Block) -> Any:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        # SIMPLE_HEAD draws its column dividers as one space: the gap is that and the padding.
        out = RichTable(box=box.SIMPLE_HEAD, padding=(0, self.gap - 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
        out.add_column("model", width=self.label, overflow="fold", vertical="bottom")
        for header, width in zip(text.headers(table, self.part), self.widths):
            # Text: a bracket in the name of a mean is no markup.
            out.add_column(Text(text.clean(header)), width=width, justify="right", no_wrap=header.count(" ") == 0, vertical="bottom")
        for i, section in enumerate(block.sections):
            if i:
                out.add_row()
            out.add_row(Text(text.clean(section.family), style="bold"))
            previous = None
            for row in section.rows:
                values = [Text(t, style=_style(t)) for t in text.numbers(table, row, self.part, self.joint, self.score_errors)]
                # A vocabulary's rows stand together; a thin space of style, not of lines, sets the groups apart.
                group = row.label.split("/")[0] if "/" in row.label else ""
                label = Text("  ") + _label(row, fold=self.label - 2)
                label.stylize("bold" if group != previous and group else "none", 2, 2 + len(group))
                out.add_row(label, *values)
                previous = group
        return out


def _across(table: Table, block: Block, part: text.Part) -> Any:
    """A few models over many tasks: a line for each task."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    out = RichTable(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    out.add_column("")
    rows = [row for section in block.sections for row in section.rows]
    for row in rows:
        out.add_column(_label(row), justify="right", no_wrap=True)
    values = [text.numbers(table, row, part, " ±", True) for row in rows]
    for header, *line in zip(text.headers(table, part), *values, strict=True):
        out.add_row(Text(text.clean(header)), *(Text(value, style=_style(value)) for value in line))
    return out


def _width_across(table: Table, block: Block, part: text.Part) -> int:
    from rich.cells import cell_len

    columns = [[_label(row).plain, *text.numbers(table, row, part, " ±", True)] for section in block.sections for row in section.rows]
    return sum(max(map(cell_len, column)) + 3 for column in [text.headers(table, part), *columns])


def _label(row: Row, fold: int = 1000) -> Any:
    """Name, letter and marks; a name longer than `fold` columns breaks before its tuning."""
    from rich.text import Text

    name = text.clean(row.label)
    extra = len(row.letter) + 1 if row.letter else 0
    label = Text(name.replace("+", "\n    +", 1) if len(name) + extra > fold else name)
    if row.letter:
        label.append(f" {row.letter}", style="bold cyan")
    marks = text.marks(row)
    if marks:
        label.append(f" {marks}", style="red" if row.failed else "yellow")
    return label


def _style(value: str) -> str:
    return "red" if value == "failed" else "dim" if value == text.MISSING else ""


def _legend(table: Table, layouts: list[_Layout]) -> list[str]:
    lines = ["Scores in percent, ± standard error over items (none where all agree). Compare within a block only."]
    if any(c.metric == BITS for c in table.columns):
        lines.append("Fewer bits per byte are better.")
    if table.samplings > 1 and any(layout.joint[0].isspace() for layout in layouts):
        lines.append(text.sampling_remark(table))
    if any(row.difference for row in table.rows):
        lines.append("difference: of the mean, paired over items, against the row with that letter, which is")
        lines.append("  for propagation the instruct model, tuned alike if tuned; for init and original/donor the base;")
        lines.append("  for the other donors original/donor: the same text, the old vocabulary.")
    lines.append(text.seed_remark(table))
    lines += [f"Not compared with their controls: {count(len(rows), 'row')}: {text.clean(reason)}." for reason, rows in cost.refusals(table)]
    lines += [cost.noise(n, *map(text.clean, (cost.named(n.machine), n.model, n.task))) for n in table.noise]
    if len(table.rows) > COSTS:
        lines.append("Seconds, tokens and memory per model: README.md, table.csv.")
    if not all(layout.fits for layout in layouts if layout.part == "tasks"):
        groups = "the groups and " if layouts[0].part == "short" else ""
        lines.append(f"This terminal is too narrow for {groups}the {len(table.items)} single tasks; README.md and table.csv have them.")
    elif not all(layout.score_errors for layout in layouts):
        lines.append("This terminal is too narrow for the errors of single tasks; table.csv has them.")
    if table.contamination and table.contamination.flagged:
        lines.append("Some rows stand in scanned training texts: README.md has the scores without them.")
    if any(row.stale for row in table.rows):
        lines.append(f"{text.STALE} of an earlier version of the model or the task: the same command scores it again.")
    if any(row.limit is not None for row in table.rows):
        lines.append("limit N: asked only N items per task; no published number.")
    return lines


def failed_tasks(table: Table, tasks: tuple[str, ...]) -> str:
    """`all tasks`, or their names."""
    return "all tasks" if len(tasks) == len(table.items) else ", ".join(tasks)


def count(n: int, noun: str) -> str:
    """`1 model`, `2 models`, `2 families`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{n} {noun if n == 1 else plural}"


def markdown(table: Table) -> str:
    """GitHub tables, one per block and family, with headings of level 3 and 4. Ends with a newline; empty without rows."""
    lines: list[str] = []
    for block in table.blocks:
        lines += [f"### {escape(text.condition(block))}", ""]
        for section in block.sections:
            lines += [f"#### {escape(section.family)}", ""]
            for part in text.parts(table):
                lines += [*_markdown_section(table, section, part), ""]
    lines += [f"- ({f.number}) {code(f.model)}, {escape(failed_tasks(table, f.tasks))}: failed: {escape(f.reason)}" for f in table.failures]
    for reason, rows in cost.refusals(table):
        lines += ["", f"- Not compared with their controls: {', '.join(code(row.model) for row in rows)}: {escape(reason)}."]
    lines += _notes(table)
    return "\n".join(lines).rstrip("\n") + "\n" if lines else ""


def _markdown_section(table: Table, section: Section, part: text.Part) -> list[str]:
    heads = [escape(h) for h in text.headers(table, part)]
    lines = ["| model | " + " | ".join(heads) + " |", "| :-- |" + " --: |" * len(heads)]
    for row in section.rows:
        values = text.numbers(table, row, part, f"{NBSP}±")
        lines.append(f"| {_markdown_label(row, row.label)} | " + " | ".join(values) + " |")
    return lines


def _markdown_label(row: Row, name: str) -> str:
    marks = text.marks(row)
    return code(name) + (f" **{row.letter}**" if row.letter else "") + (f" {escape(marks)}" if marks else "")


def _notes(table: Table) -> list[str]:
    lines = []
    for note in table.notes:
        models = "every model" if len(note.models) == table.models > 1 else ", ".join(map(code, note.models))
        lines.append(f"- {escape(note.text)}: {escape(failed_tasks(table, note.tasks))}; {models}")
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
    heads = [escape(h) for h in text.clean_headers(table)]
    for block in table.blocks:
        rows = [row for section in block.sections for row in section.rows if any(row.clean)]
        if rows:
            lines += ["", f"#### {escape(text.condition(block))}", "", "| model | " + " | ".join(heads) + " |", "| :-- |" + " --: |" * len(heads)]
            lines += [f"| {code(row.model)} | " + " | ".join(text.clean_numbers(table, row)) + " |" for row in rows]
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


def csv(table: Table) -> str:
    """One line per row, plain values 0 to 1 with six significant digits; empty where there is no number."""
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    head = ["model", "family", "stage", "format", "shots", "protocol", "engine", "dtype", "limit", "stale", "failed", "training_seeds"]
    names = [c.key for c in table.columns] + ["mean"] + [s.label for s in table.summaries]
    sampled = ("_sampling_sd",) if table.samplings > 1 else ()
    parts = ("", "_stderr", "_seed_sd", *sampled)
    writer.writerow([*head, *(f"{n}{part}" for n in names for part in parts), "control", "difference", "difference_stderr", *cost.FIELDS])
    for block in table.blocks:
        how = block.condition
        for section in block.sections:
            for row in section.rows:
                kind = [row.model, section.family, row.stage, how.format, how.shots, how.protocol, how.engine, how.dtype]
                failed = "all" if row.failed else "some" if row.failure else ""
                state = [row.limit, int(row.stale), failed, max(x.seeds for x in (*row.cells, row.mean))]
                cells = (*row.cells, row.mean, *row.summaries)
                values = [_plain(v) for c in cells for v in (c.value, c.stderr, c.spread, *([c.sampling] if sampled else []))]
                d = row.difference
                gap = [row.control, _plain(d.value if d else None), _plain(d.stderr if d else None)]
                writer.writerow([_harmless(v) for v in (*kind, *state, *values, *gap, *cost.fields(row))])
    return out.getvalue()


def _plain(value: float | None) -> str:
    # Nine decimals first: what cancels in a difference leaves 1e-17 on one machine and 0 on another.
    return "" if value is None else f"{round(value, 9) + 0.0:.6g}"


def _harmless(value: object) -> str:
    """A spreadsheet must not take a name for a formula."""
    line = "" if value is None else str(value)
    is_number = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", line)
    return "'" + line if line[:1] in ("=", "+", "-", "@", "\t") and not is_number else line


def json(table: Table) -> str:
    """The whole table as JSON, plain values 0 to 1, nine decimals. Ends with a newline."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        return round(value, 9) + 0.0 if isinstance(value, float) else value

    return json_module.dumps(plain(table), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


__all__ = ["Cell", "code", "contamination", "count", "csv", "escape", "json", "markdown", "terminal"]
