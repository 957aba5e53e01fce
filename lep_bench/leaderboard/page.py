"""The table as text: Markdown, HTML, CSV, JSON. (`terminal` and `latex` stand on their own.)"""

from __future__ import annotations

import html as html_module
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from lep_bench.errors import count_noun
from lep_bench.leaderboard import recommend, text
from lep_bench.leaderboard.cells import describe_machine
from lep_bench.leaderboard.table import BITS, SYMBOLS, Block, Row, Table

if TYPE_CHECKING:
    from lep_bench.leaderboard.plots import Picture


OPEN = 6  # contrasts up to which a list is not folded
NBSP = "\u00a0"  # keeps 90.3 ±1.7 on one line in a Markdown cell
JOINED = "\u2060–\u2060"  # and 15–18


def render_markdown(table: Table) -> str:
    """GitHub tables, one per block and family, with headings of level 3 and 4. Ends with a newline;
    empty without rows.
    """
    lines: list[str] = []
    block = section = None
    for grid in text.make_grids(table, f"{NBSP}±"):
        lines += (
            ["", f"### {escape_markdown(text.describe_condition(grid.block))}"]
            if grid.block is not block
            else []
        )
        lines += (
            ["", f"#### {escape_markdown(grid.section.family)}"]
            if grid.section is not section
            else []
        )
        block, section = grid.block, grid.section
        cells = [
            [_markdown_label(row), *(value.replace("–", JOINED) for value in values)]
            for _, group in grid.groups
            for row, values in group
        ]
        lines += ["", *format_table(["model", *map(escape_markdown, grid.headers)], cells)]
    lines += [""] if table.failures else []
    lines += [
        (
            f"- ({f.number}) {format_code(f.model)}, "
            f"{escape_markdown(text.name_tasks(table, f.tasks))}"
            f": failed: {escape_markdown(f.reason)}"
        )
        for f in table.failures
    ]
    for reason, rows in text.list_refusals(table):
        lines += [
            "",
            (
                "- Not compared with their controls: "
                f"{', '.join(format_code(row.model) for row in rows)}: {escape_markdown(reason)}."
            ),
        ]
    lines += _list_notes(table)
    return "\n".join(lines).strip("\n") + "\n" if lines else ""


def format_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], sides: str = "lr"
) -> list[str]:
    """The lines of a Markdown table. `sides`: l or r for each column, the last one for all that
    follow.
    """
    marks = [":--" if sides[min(i, len(sides) - 1)] == "l" else "--:" for i in range(len(heads))]
    return [f"| {' | '.join(cells)} |" for cells in (heads, marks, *rows)]


def list_contrasts(block: Block) -> list[str]:
    """Markdown lines of the block's planned contrasts, a table for each question; long ones folded.
    Empty where nothing was compared.
    """
    lines: list[str] = []
    for question, found in text.group_contrasts(block).items():
        title = f"{escape_markdown(question)}: {text.count_verdicts(found)}"
        rows = [
            [
                format_code(f.model),
                format_code(f.difference.control),
                *text.format_contrast(f, f"{NBSP}±"),
            ]
            for f in found
        ]
        inner = format_table([*text.CONTRAST_HEADERS[:-1], "verdict"], rows, "llrrrrl")
        folded = len(found) > OPEN
        lines += [
            "",
            f"<details><summary>{title}</summary>" if folded else f"**{title}**",
            "",
            *inner,
            *(["", "</details>"] if folded else []),
        ]
    return lines


def _markdown_label(row: Row) -> str:
    marks = text.format_marks(row)
    return (
        format_code(row.label)
        + (f" **{row.letter}**" if row.letter else "")
        + (f" {escape_markdown(marks)}" if marks else "")
    )


def _list_notes(table: Table) -> list[str]:
    lines = []
    for note in table.notes:
        models = (
            "every model"
            if len(note.models) == table.models > 1
            else ", ".join(map(format_code, note.models))
        )
        lines.append(
            f"- {escape_markdown(note.text)}: "
            f"{escape_markdown(text.name_tasks(table, note.tasks))}; {models}"
        )
    return ["", "Notes of the runs:", "", *lines] if lines else []


def describe_contamination(table: Table) -> list[str]:
    """Markdown lines of the scores without the rows that stand in training texts, a table per
    block; empty without a scan.
    """
    found = table.contamination
    if found is None:
        return []
    texts = ", ".join(format_code(name) for name in found.texts)
    clear = [format_code(task) for task, _, flagged in found.tasks if not flagged]
    unread = [
        format_code(task)
        for task, _ in table.items
        if task not in {name for name, _, _ in found.tasks}
    ]
    lines = ["### Without rows found in training text", ""]
    lines.append(
        f"- Scanned: {texts}, by sequences of {found.ngram} words (`lep-bench "
        "contamination`). Which models were trained on them is unknown."
    )
    lines += [f"- No row flagged: {', '.join(clear)}."] if clear else []
    lines += [f"- Not scanned: {', '.join(unread)}."] if unread else []
    if not found.flagged:
        return lines
    lines.append(
        "- Score on all rows → score without the flagged rows; the last column is the mean of "
        f"these. {text.MISSING}: unknown."
    )
    heads = ["model", *map(escape_markdown, text.make_clean_headers(table))]
    for block in table.blocks:
        if rows := [
            [format_code(row.model), *text.format_clean_row(table, row)]
            for row in block.rows
            if any(row.clean)
        ]:
            lines += [
                "",
                f"#### {escape_markdown(text.describe_condition(block))}",
                "",
                *format_table(heads, rows),
            ]
    return lines


_ACTIVE = re.compile(r"([\\`*_\[\]|~])")
_ENTITY = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def escape_markdown(value: str) -> str:
    """Somebody else's text as plain Markdown text, also inside a table: no markup, HTML, link,
    mention or new line.
    """
    line = _ACTIVE.sub(r"\\\1", text.clean_text(value))
    line = "".join(_ENTITY.get(c, c) for c in line)
    # GitHub makes links of bare addresses: break what it looks for.
    return re.sub(r"(?i)\bwww\.", "www&#46;", line.replace("://", "&#58;//"))


def format_code(value: str) -> str:
    """A name as a code span that it cannot leave: backticks become quotes, the pipe is escaped as
    GitHub's tables want it.
    """
    return (
        "`" + text.clean_text(value).replace("`", "'").replace("\\", "/").replace("|", "\\|") + "`"
    )


def render_html(table: Table) -> str:
    """A fragment for any page: semantic tables with captions and scopes, everything escaped, no
    script and no style.
    """

    def tagged(name: str, value: str, more: str = "") -> str:
        return f"<{name}{more}>{html_module.escape(value)}</{name}>"

    def named(row: Row) -> str:
        parts = [tagged("code", text.clean_text(row.label))] + [tagged("b", row.letter)] * bool(
            row.letter
        )
        marks = text.format_marks(row)
        return f'<th scope="row">{" ".join(parts + [tagged("small", marks)] * bool(marks))}</th>'

    lines = ['<section class="lep-leaderboard">', tagged("h2", text.clean_text(table.title))]
    lines += [tagged("p", text.clean_text(table.note), ' class="note"')] if table.note else []
    for grid in text.make_grids(table, f"{NBSP}±"):
        caption = f"{text.clean_text(grid.section.family)}. {text.describe_condition(grid.block)}"
        heads = "".join(
            tagged("th", text.clean_text(head), ' scope="col"') for head in ("model", *grid.headers)
        )
        lines += ["<table>", tagged("caption", caption), f"<thead><tr>{heads}</tr></thead>"]
        for vocabulary, rows in grid.groups:
            across = f' colspan="{len(grid.headers) + 1}" scope="rowgroup"'
            lines += [
                "<tbody>",
                *(
                    [f"<tr>{tagged('th', text.clean_text(vocabulary), across)}</tr>"]
                    if vocabulary
                    else []
                ),
            ]
            lines += [
                f"<tr>{named(row)}{''.join(tagged('td', value) for value in values)}</tr>"
                for row, values in rows
            ]
            lines.append("</tbody>")
        lines.append("</table>")
    notes = (*text.make_legend(table), *text.list_failures(table))
    lines += ['<ul class="legend">', *(tagged("li", line) for line in notes), "</ul>", "</section>"]
    return "\n".join(lines) + "\n"


LONG = 8  # tasks up to which the list of what was measured is not folded
START = "<!-- lep-bench:table -->"
END = "<!-- /lep-bench:table -->"


def render_page(table: Table, pictures: Sequence[Picture] = ()) -> str:
    """The generated part of a page, from the note to the last table; no marker, ends with a
    newline.

    `pictures` stand beside the page in pictures/NAME.svg."""
    lines = [f"> **{escape_markdown(table.note)}**", ""] if table.note else []
    families = [f for f in table.families if f not in ("baselines", "local")]
    lines += [
        (
            f"{count_noun(table.models, 'model')} in {count_noun(len(families), 'family')}, "
            f"{count_noun(len(table.items), 'task')}, {_list_engines(table)}."
        ),
        "",
    ]
    lines += [*_render_advice(table), "", *_render_tasks(table), ""]
    lines += (
        [f"{text.explain_signs(table)} More: [how to read it](#how-to-read-it).", ""]
        if text.explain_signs(table)
        else []
    )
    lines += [render_markdown(table).rstrip("\n"), ""]
    shown = [
        line
        for one in pictures
        for line in (
            f"![{escape_markdown(one.alt)}](pictures/{quote(one.name)}.svg)",
            "",
            escape_markdown(one.caption),
            "",
        )
    ]
    lines += ["### Pictures", "", *shown] if shown else []
    for part in (
        _render_contrasts(table),
        describe_contamination(table),
        _render_cost(table),
        _render_health(table),
    ):
        lines += [*part, ""] if part else []
    lines += ["### How to read it", "", *_render_legend(table), ""]
    first = f"{'' if table.commands else 'builds and scores every model; '}cached parts are reused"
    lines += [
        "### Reproduce",
        "",
        "```",
        *(
            f"{text.clean_text(command)}{'' if number else f'    # {first}'}"
            for number, command in enumerate(table.made_by)
        ),
        "lep-bench leaderboard --check    # verifies this page against results.jsonl",
        "```",
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def render_tables(table: Table) -> str:
    """The tables alone with what must stand beside them, to be pasted into a page of one's own."""
    lines = [f"## {escape_markdown(table.title)}", ""] + (
        [f"> **{escape_markdown(table.note)}**", ""] if table.note else []
    )
    return "\n".join(
        [
            *lines,
            render_markdown(table),
            *(f"- {escape_markdown(line)}" for line in text.make_legend(table)),
            "",
        ]
    )


def _render_advice(table: Table) -> list[str]:
    lines = ["### Which to ship", ""]
    for family, sentences in recommend.recommendation_lines(table, format_code, escape_markdown):
        lines += [f"- **{family}**"] if family else []
        lines += [f"{'  ' if family else ''}- {sentence}" for sentence in sentences]
    return [*lines, "", f"<sub>{recommend.RULE}</sub>"]


def _render_contrasts(table: Table) -> list[str]:
    """Every planned contrast with its interval, corrected p and verdict."""
    lines = ["### What differs", ""]
    lines.append(
        "- These comparisons of the mean were planned before any number was seen. Both models "
        "answered the same items; no comparison crosses a heading."
    )
    lines.append(
        "- Each has a 95% interval, p, and p corrected by Holm over the comparisons of its heading."
    )
    lines[-1] += f" Equal: the interval lies within ±{text.format_number(table.delta, True, 1)}."
    for block in (block for block in table.blocks if block.findings):
        lines += ["", f"#### {escape_markdown(text.describe_condition(block))}: differences", ""]
        lines += [
            f"- {said}"
            for said in (
                text.describe_power(block),
                text.list_tests(block) and f"Tests: {escape_markdown(text.list_tests(block))}.",
            )
            if said
        ]
        lines += list_contrasts(block)
    return lines if any(block.findings for block in table.blocks) else []


def _render_health(table: Table) -> list[str]:
    lines = ["### Generated texts", "", *(f"- {line}" for line in text.HEALTH_REMARKS)]
    for block in table.blocks:
        if rows := [
            [format_code(row.model), *text.format_health(row)] for row in block.rows if row.health
        ]:
            lines += [
                "",
                f"#### {escape_markdown(text.describe_condition(block))}: texts",
                "",
                *format_table(["model", *text.HEALTH_HEADERS], rows),
            ]
    return lines if any(row.health for row in table.rows) else []


def _list_engines(table: Table) -> str:
    how = dict.fromkeys(
        f"engine {escape_markdown(b.condition.engine)} in {escape_markdown(b.condition.dtype)}"
        for b in table.blocks
    )
    return "; ".join(how) or "nothing scored yet"


def _render_tasks(table: Table) -> list[str]:
    chance = dict(table.mean_tasks)
    items = dict(table.items)
    shown = {c.task: c for c in table.columns if c.metric != SYMBOLS}
    groups = {task: s.label for s in table.summaries if s.group for task in s.tasks}
    rows = []
    for task, column in shown.items():
        metric = escape_markdown(column.metric.replace("_", " ") or text.MISSING) + (
            " (lower is better)" if column.metric == BITS else ""
        )
        inside = "no"
        if task in chance:
            inside = f"yes, chance {chance[task]:g}" if table.mean_kind == "centred" else "yes"
        group = [escape_markdown(groups.get(task, text.MISSING))] if groups else []
        rows.append(
            [format_code(task), metric, f"{items.get(task) or text.MISSING}", inside, *group]
        )
    lines = format_table(
        ["task", "score", "items", "in the mean", *(["group"] if groups else [])], rows, "llrl"
    )
    head = ["### What was measured", ""]
    if len(shown) <= LONG:
        return [*head, *lines]
    return [
        *head,
        f"<details><summary>{count_noun(len(shown), 'task')}</summary>",
        "",
        *lines,
        "",
        "</details>",
    ]


def _render_legend(table: Table) -> list[str]:
    lines = []
    mean = escape_markdown(text.label_mean(table))
    symbols = next((c for c in table.columns if c.metric == SYMBOLS), None)
    lines.append(
        "- Scores are in percent, ± one standard error over items, clustered by item group. "
        "There is no error where all items agree."
    )
    if table.samplings > 1:
        lines.append(f"- {text.explain_sampling(table)}")
    if symbols:
        is_text = any(c.task == symbols.task and c.metric == BITS for c in table.columns)
        what = "the held-out Russian text" if is_text else "the model's answers"
        lines.append(
            f"- *symbols per token*: characters per token of {what} in "
            f"{format_code(symbols.task)}; more is cheaper."
        )
    if table.mean_kind == "centred":
        lines.append(
            f"- *{mean}*: the mean of (s − c) / (1 − c) over the tasks of the mean, where c "
            "is the score of guessing; negative values are kept."
        )
    else:
        lines.append(
            f"- *{mean}*: the plain mean over the {len(table.mean_tasks)} tasks of the mean."
        )
    lines[-1] += " It is shown only where all of them were scored."
    lines += _explain_summaries(table)
    lines += [f"- {text.RANKS_EXPLAINED}"] if any(row.rank for row in table.rows) else []
    lines.append(
        "- *difference*: the mean minus that of the row whose letter follows, the fair control. "
        "Its error is paired: both models"
    )
    lines.append("  answered the same items, and an item group counts as one draw. The controls:")
    lines += [f"  - {row}: {control}" for row, control in text.list_controls()]
    if table.unpaired:
        names = ", ".join(format_code(task) for task in table.unpaired)
        lines.append(
            f"- Scores that are not means over items: {names}. Their errors come from a "
            "jackknife. In a difference the errors of both"
        )
        lines.append(
            "  rows count as independent, which makes its error too wide rather than too narrow."
        )
    lines.append(
        "- Tables under different headings come from different ways of prompting. Never "
        "compare numbers across headings."
    )
    lines.append(f"- {text.explain_seeds(table)}")
    lines.append(
        f"- {text.MISSING}: not scored. The reason for a failed row stands below the tables."
    )
    lines += [f"- {line}" for line in text.explain_marks(table)]
    return lines


def _explain_summaries(table: Table) -> list[str]:
    lines = []
    for one in (s for s in table.summaries if not s.group):
        rest = [format_code(task) for task, _ in table.mean_tasks if task not in one.tasks]
        lines.append(
            f"- *{escape_markdown(one.label)}*: the same over "
            f"{count_noun(len(one.tasks), 'task')}, without "
            f"{', '.join(rest)}."
        )
    groups = ", ".join(f"*{escape_markdown(s.label)}*" for s in table.summaries if s.group)
    if groups:
        lines.append(
            f"- {groups}: plain means over the tasks of a group (last column above), shown "
            "only where all of them were scored."
        )
    return lines


def _render_cost(table: Table) -> list[str]:
    """Quality against cost, a table per block; the noise floor of the machines."""
    blocks = [
        (block, text.group_machines(block))
        for block in table.blocks
        if any(row.cost for row in block.rows)
    ]
    lines = (
        [
            "### Cost",
            "",
            *(f"- {escape_markdown(line)}" for line in text.explain_cost(table)),
        ]
        if blocks
        else []
    )
    for noise in table.noise:
        machine = escape_markdown(describe_machine(noise.machine))
        model, task = format_code(noise.model), format_code(noise.task)
        lines.append(f"- {text.describe_noise(noise, machine, model, task)}")
    heads = ["model", *map(escape_markdown, text.make_cost_headers(table))]
    for block, machines in blocks:
        lines += ["", f"#### {escape_markdown(text.describe_condition(block))}: cost", ""]
        for machine, rows in machines:
            alone = (
                ""
                if len(machines) == 1
                else ": " + ", ".join(format_code(row.model) for row in rows)
            )
            lines.append(f"Measured with {escape_markdown(machine)}{alone}.")
        names = {
            row.model: " ".join(
                filter(
                    None,
                    [
                        format_code(row.model),
                        escape_markdown(text.format_marks(row)),
                        text.count_timed(row),
                    ],
                )
            )
            for row in block.rows
        }
        cells = [
            [names[row.model], *text.format_cost(table, row)] for row in block.rows if row.cost
        ]
        lines += [*([""] if machines else []), *format_table(heads, cells)]
    return lines


def make_page(title: str, body: str) -> str:
    """A new page around a generated body."""
    return f"# {escape_markdown(title)}\n\n{START}\n{body}{END}\n"


def replace_generated(existing: str, body: str) -> str | None:
    """`existing` with what stands between its markers replaced; None unless each is a line of its
    own, exactly once, in order.

    Whole lines only: a command on the page may hold a marker, being the name of somebody's folder.
    """
    parts = re.split(f"^({START}|{END})$", existing, flags=re.MULTILINE)
    return f"{parts[0]}{START}\n{body}{END}{parts[4]}" if parts[1::2] == [START, END] else None
