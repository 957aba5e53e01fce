"""The table in the terminal, as wide as it is: whole where it fits, else the single tasks lose
their errors, then their columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lep_bench.errors import count_noun
from lep_bench.leaderboard import cells, recommend, text
from lep_bench.leaderboard.table import Block, Failure, Row, Section, Table
from lep_bench.leaderboard.text import name_tasks

if TYPE_CHECKING:
    from rich.console import Console


COSTS = 24  # rows up to which the terminal shows what they cost and what their texts look like
WIDE = 120  # columns from which a name stands beside all that its model cost on one line


def show_table(table: Table, console: Console) -> None:
    """Print the table; readable from about 100 columns, complete from about 160 (single tasks lose
    their errors first).
    """
    from rich.padding import Padding
    from rich.text import Text

    console.print(
        Text(
            f"{text.clean_text(table.title)}: {count_noun(table.models, 'model')}, "
            f"{count_noun(len(table.items), 'task')}",
            style="bold",
        )
    )
    if table.note:
        console.print(Text(text.clean_text(table.note), style="yellow"))
    if not table.blocks:
        console.print("Nothing has been scored yet.")
        return
    layouts, whole = (
        [_Layout.fit(table, part, console.width) for part in text.list_parts(table)],
        table,
    )
    if not layouts[0].fits:
        table = _simplify(table)
        layouts = [_Layout.fit(table, part, console.width) for part in text.list_parts(table)]
    if not layouts[0].fits:
        layouts[0] = _Layout.fit(table, "short", console.width)
    widest = max(_measure_transposed(table, block, "tasks") for block in table.blocks)
    turned = [
        layout
        for layout in layouts
        if layout.part == "tasks" and not layout.fits and widest <= console.width
    ]
    console.print()
    for block in table.blocks:
        console.print(Text(text.describe_condition(block), style="bold cyan"))
        shown = [
            layout.table(table, block)
            for layout in layouts
            if layout.fits or layout.part != "tasks"
        ]
        shown += [_transpose(table, block, layout.part) for layout in layouts if layout in turned]
        for one in [*shown, *_count_contrasts(block)]:
            console.print(one)
            console.print()
    costs, elsewhere = _make_costs(table, console)
    for one in costs:
        console.print(one)
        console.print()
    for family, sentences in (
        []
        if table.partial
        else recommend.recommendation_lines(whole, text.clean_text, text.clean_text)
    ):
        console.print(Text(f"Ship {family}".strip(), style="bold green"))
        for sentence in sentences:
            console.print(Padding(Text(sentence), (0, 0, 0, 2)))
    console.print()
    for line in _make_legend(
        table, [layout for layout in layouts if layout not in turned], elsewhere
    ):
        console.print(Text(f" {line}", style="dim"))
    _show_failures(table, console)


def _show_failures(table: Table, console: Console) -> None:
    from rich.text import Text

    same: dict[tuple[tuple[str, ...], str], list[Failure]] = {}
    for failure in table.failures:
        same.setdefault((failure.tasks, failure.reason), []).append(failure)
    for (tasks, reason), failures in same.items():
        numbers = "".join(
            f"({number})" for number in dict.fromkeys(failure.number for failure in failures)
        )
        models = ", ".join(text.clean_text(failure.model) for failure in failures[:3]) + (
            f" and {len(failures) - 3} more" if failures[3:] else ""
        )
        console.print(
            Text(
                f" {numbers} {models}, {name_tasks(table, tasks)}: failed: "
                f"{text.clean_text(reason)}",
                style="red",
            )
        )


def make_grid(gap: int = 2) -> Any:
    """An empty `rich.table.Table` as all of ours look: a line below the heads, `gap` spaces between
    columns.
    """
    from rich import box
    from rich.table import Table as RichTable

    # SIMPLE_HEAD draws its column dividers as one space: the gap is that and the padding.
    return RichTable(
        box=box.SIMPLE_HEAD,
        padding=(0, gap - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )


def _make_plain_grid(*headers: str) -> Any:
    """A table of a first column that folds and numbers that do not."""
    from rich.text import Text

    out = make_grid()
    out.add_column(Text(headers[0]), overflow="fold", vertical="bottom", min_width=16)
    for header in headers[1:]:
        out.add_column(
            Text(header.replace(" ", "\n")), justify="right", no_wrap=True, vertical="bottom"
        )
    return out


def _count_contrasts(block: Block) -> list[Any]:
    """How many of the planned contrasts went which way; the page has each."""
    from rich.text import Text

    found = text.group_contrasts(block)
    if not found:
        return []
    out = _make_plain_grid(
        "comparisons (README.md lists each)", "higher", "lower", "equal", "undecided"
    )
    for question, findings in found.items():
        counts = [
            sum(f.difference.verdict == verdict for f in findings)
            for verdict in ("higher", "lower", "equal", "undecided")
        ]
        out.add_row(
            Text(text.clean_text(question)), *(str(n) if n else text.MISSING for n in counts)
        )
    return [out, *([Text(f" {said}", style="dim")] if (said := text.describe_power(block)) else [])]


def _make_costs(table: Table, console: Console) -> tuple[list[Any], list[str]]:
    """What the models cost and what their texts look like, where that is not too long and not too
    wide; what of it only the files have.
    """
    spent = [
        (row, [*text.format_cost(table, row), text.count_timed(row)])
        for row in table.rows
        if row.cost
    ]
    looks = [(row, text.format_health(row)) for row in table.rows if row.health]
    partly = [""] if any(numbers[-1] for _, numbers in spent) else []
    found, elsewhere = [], []
    parts = (
        ("cost of", [*text.make_cost_headers(table), *partly], spent, "seconds, tokens and memory"),
        ("texts of, in percent", text.HEALTH_HEADERS, looks, "what the texts look like"),
    )
    for name, heads, rows, what in parts:
        columns = zip(*(numbers for _, numbers in rows))
        width = 16 + sum(
            max(len(word) for word in [*head.split(), *column]) + 2
            for head, column in zip(heads, columns)
        )
        if rows and len(table.rows) <= COSTS and width <= console.width:
            found.append(_list_rows(table, name, heads, rows, console.width < WIDE))
        elif rows:
            elsewhere.append(what)
    return found, elsewhere


def _simplify(table: Table) -> Table:
    """Without ranks and the signs of single scores, for narrow terminals: the other forms have
    them.
    """
    replace = dataclasses.replace

    def section(one: Section) -> Section:
        rows = (
            replace(row, rank=None, cells=tuple(replace(cell, verdict=None) for cell in row.cells))
            for row in one.rows
        )
        return replace(one, rows=tuple(rows))

    return replace(
        table,
        blocks=tuple(
            replace(block, sections=tuple(map(section, block.sections))) for block in table.blocks
        ),
    )


def _list_rows(
    table: Table, name: str, heads: Sequence[str], rows: list[tuple[Row, list[str]]], folded: bool
) -> Any:
    """Rows with numbers of their own, under their blocks (where there are several) and families."""
    from rich.text import Text

    out, wanted = (
        _make_plain_grid(name, *map(text.clean_text, heads)),
        {id(row): numbers for row, numbers in rows},
    )
    for c, section in [
        (block.condition, section) for block in table.blocks for section in block.sections
    ]:
        shown = [row for row in section.rows if id(row) in wanted]
        how = (
            f" as {c.format}, {c.shots}-shot, {c.engine}, {c.dtype}"
            if len(table.blocks) > 1
            else ""
        )
        if shown:
            out.add_row(Text.assemble((text.clean_text(section.family), "bold"), (how, "dim")))
        for row in shown:
            label = text.clean_text(row.label)
            out.add_row(
                Text("  " + (label.replace("+", "\n    +", 1) if folded else label)),
                *wanted[id(row)][: len(heads)],
            )
    return out


def _format_numbers(
    table: Table, row: Row, part: text.TablePart, joint: str, score_errors: bool
) -> list[str]:
    """`text.numbers`; where a column has signs, numbers without one get a space in its place, so
    that digits line up.
    """
    texts = text.format_row(table, row, part, joint, score_errors)
    for place, (i, _) in enumerate(text.select_columns(table, part)):
        if (
            row.cells[i].verdict is None
            and texts[place][-1:] != ")"
            and any(other.cells[i].verdict for other in table.rows)
        ):
            texts[place] += " "
    return texts


@dataclasses.dataclass(frozen=True)
class _Layout:
    """One set of column widths for all blocks, so that they line up: the richest one that the
    terminal holds, if one `fits` (names may fold at 16 columns)."""

    part: text.TablePart
    fits: bool
    score_errors: bool
    joint: str
    gap: int
    label: int
    widths: tuple[int, ...]

    @classmethod
    def fit(cls, table: Table, part: text.TablePart, width: int) -> _Layout:
        from rich.cells import cell_len

        label = max(cell_len(_label(row).plain) for row in table.rows) + 2
        for score_errors, joint, gap in (
            (True, " ±", 3),
            (True, " ±", 2),
            (True, "±", 1),
            (False, " ±", 2),
            (False, "±", 1),
        ):
            widths = [
                max(cell_len(word) for word in header.split())
                for header in text.make_headers(table, part)
            ]
            for row in table.rows:
                widths = [
                    max(w, cell_len(t))
                    for w, t in zip(widths, _format_numbers(table, row, part, joint, score_errors))
                ]
            if label + sum(widths) + gap * len(widths) <= width:
                break
        # Where even the last layout is too wide the names fold; numbers never do.
        label = max(16, min(label, width - sum(widths) - gap * len(widths)))
        return cls(
            part,
            label + sum(widths) + gap * len(widths) <= width,
            score_errors,
            joint,
            gap,
            label,
            tuple(widths),
        )

    def table(self, table: Table, block: Block) -> Any:
        from rich.text import Text

        out = make_grid(self.gap)
        out.add_column("model", width=self.label, overflow="fold", vertical="bottom")
        for header, width in zip(text.make_headers(table, self.part), self.widths):
            # Text: a bracket in the name of a mean is no markup.
            out.add_column(
                Text(text.clean_text(header)),
                width=width,
                justify="right",
                no_wrap=header.count(" ") == 0,
                vertical="bottom",
            )
        for i, section in enumerate(block.sections):
            if i:
                out.add_row()
            out.add_row(Text(text.clean_text(section.family), style="bold"))
            previous = None
            for row in section.rows:
                values = [
                    Text(t, style=_style(t))
                    for t in _format_numbers(table, row, self.part, self.joint, self.score_errors)
                ]
                # A vocabulary's rows stand together; a thin space of style, not of lines, sets the
                # groups apart.
                group = row.label.split("/")[0] if "/" in row.label else ""
                label = Text("  ") + _label(row, fold=self.label - 2)
                label.stylize("bold" if group != previous and group else "none", 2, 2 + len(group))
                out.add_row(label, *values)
                previous = group
        return out


def _transpose(table: Table, block: Block, part: text.TablePart) -> Any:
    """A few models over many tasks: a line for each task."""
    from rich.text import Text

    out = make_grid(3)
    out.add_column("")
    for row in block.rows:
        out.add_column(_label(row), justify="right", no_wrap=True)
    values = [text.format_row(table, row, part, " ±", True) for row in block.rows]
    for header, *line in zip(text.make_headers(table, part), *values, strict=True):
        out.add_row(
            Text(text.clean_text(header)), *(Text(value, style=_style(value)) for value in line)
        )
    return out


def _measure_transposed(table: Table, block: Block, part: text.TablePart) -> int:
    from rich.cells import cell_len

    columns = [
        [_label(row).plain, *text.format_row(table, row, part, " ±", True)] for row in block.rows
    ]
    return sum(
        max(map(cell_len, column)) + 3 for column in [text.make_headers(table, part), *columns]
    )


def _label(row: Row, fold: int = 1000) -> Any:
    """Name, letter and marks; a name longer than `fold` columns breaks before its tuning, then
    after its vocabulary.
    """
    from rich.text import Text

    name = text.clean_text(row.label)
    extra = len(row.letter) + 1 if row.letter else 0
    if len(name) + extra > fold:
        head, plus, tuning = name.partition("+")
        head = (
            head.replace("/", "/\n    ", 1) if len(head) + (0 if plus else extra) > fold else head
        )
        # The letter stays beside the tuning; later lines do not have the two columns before the
        # first.
        name = head + (
            f"\n{' ' * max(2, min(4, fold + 2 - len(tuning) - 1 - extra))}+{tuning}" if plus else ""
        )
    label = Text(name)
    if row.letter:
        label.append(f" {row.letter}", style="bold cyan")
    marks = text.format_marks(row)
    if marks:
        label.append(f" {marks}", style="red" if row.failed else "yellow")
    return label


def _style(value: str) -> str:
    return "red" if value.strip() == "failed" else "dim" if value.strip() == text.MISSING else ""


def _make_legend(table: Table, layouts: list[_Layout], elsewhere: list[str]) -> list[str]:
    lines = [*text.make_legend(table), "Compare numbers within a block only."]
    if table.samplings > 1 and any(layout.joint[0].isspace() for layout in layouts):
        lines.append(text.explain_sampling(table))
    if any(row.difference for row in table.rows):
        lines.append(
            "difference: the mean minus that of the row with that letter, paired over items. It is"
        )
        lines.append(
            "  for propagation the instruct model, tuned alike if tuned; for init and "
            "original/donor the base;"
        )
        lines.append("  for the other donors original/donor: the same text, the old vocabulary.")
    lines += [
        (
            f"Not compared with their controls: {count_noun(len(rows), 'row')}: "
            f"{text.clean_text(reason)}."
        )
        for reason, rows in text.list_refusals(table)
    ]
    lines += [
        text.describe_noise(
            n, *map(text.clean_text, (cells.describe_machine(n.machine), n.model, n.task))
        )
        for n in table.noise
    ]
    if elsewhere:
        lines.append(f"In README.md and table.csv, per model: {'; '.join(elsewhere)}.")
    short = layouts[:1] != [] and layouts[0].part == "short"
    if short or not all(layout.fits for layout in layouts if layout.part == "tasks"):
        groups = "the groups and " if short and table.summaries else ""
        lines.append(
            f"This terminal is too narrow for {groups}the {len(table.items)} single tasks; "
            "README.md and table.csv have them."
        )
    elif not all(layout.score_errors for layout in layouts):
        lines.append(
            "This terminal is too narrow for the errors of single tasks; table.csv has them."
        )
    if table.contamination and table.contamination.flagged:
        lines.append(
            "Some rows were found in scanned training texts: README.md has the scores without them."
        )
    return lines
