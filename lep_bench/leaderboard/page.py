"""The table as text: Markdown, HTML, CSV, JSON. (`terminal` and `latex` stand on their own.)"""

from __future__ import annotations

import csv as csv_module
import dataclasses
import html as html_module
import io
import json as json_module
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lep_bench.errors import count_noun
from lep_bench.leaderboard import cost, health, recommend, text
from lep_bench.leaderboard.table import BITS, SYMBOLS, Block, Difference, Row, Table
from lep_bench.records.schema import Noise

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
    for grid in text.grids(table, f"{NBSP}±"):
        lines += (
            ["", f"### {escape(text.condition(grid.block))}"] if grid.block is not block else []
        )
        lines += ["", f"#### {escape(grid.section.family)}"] if grid.section is not section else []
        block, section = grid.block, grid.section
        rows = [
            (row, [value.replace("–", JOINED) for value in values])
            for _, rows in grid.groups
            for row, values in rows
        ]
        lines += [
            "",
            *format_table(
                ["model", *map(escape, grid.headers)],
                [[_markdown_label(row), *values] for row, values in rows],
            ),
        ]
    lines += [""] if table.failures else []
    lines += [
        (
            f"- ({f.number}) {format_code(f.model)}, {escape(text.failed_tasks(table, f.tasks))}"
            f": failed: {escape(f.reason)}"
        )
        for f in table.failures
    ]
    for reason, rows in cost.refusals(table):
        lines += [
            "",
            (
                "- Not compared with their controls: "
                f"{', '.join(format_code(row.model) for row in rows)}: {escape(reason)}."
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
    for question, found in text.questions(block).items():
        title = f"{escape(question)}: {text.tally(found)}"
        rows = [
            [format_code(f.model), format_code(f.difference.control), *text.finding(f, f"{NBSP}±")]
            for f in found
        ]
        inner = format_table([*text.FINDING[:-1], "verdict"], rows, "llrrrrl")
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
    marks = text.marks(row)
    return (
        format_code(row.label)
        + (f" **{row.letter}**" if row.letter else "")
        + (f" {escape(marks)}" if marks else "")
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
            f"- {escape(note.text)}: {escape(text.failed_tasks(table, note.tasks))}; {models}"
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
        "contamination`). Which model saw them is not known here."
    )
    lines += [f"- No row flagged: {', '.join(clear)}."] if clear else []
    lines += [f"- Not scanned: {', '.join(unread)}."] if unread else []
    if not found.flagged:
        return lines
    lines.append(
        "- Score on all rows → score without the flagged ones; the last column has these in "
        f"its mean. {text.MISSING}: not known."
    )
    heads = ["model", *map(escape, text.clean_headers(table))]
    for block in table.blocks:
        if rows := [
            [format_code(row.model), *text.clean_numbers(table, row)]
            for row in block.rows
            if any(row.clean)
        ]:
            lines += ["", f"#### {escape(text.condition(block))}", "", *format_table(heads, rows)]
    return lines


_ACTIVE = re.compile(r"([\\`*_\[\]|~])")
_ENTITY = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def escape(value: str) -> str:
    """Somebody else's text as plain Markdown text, also inside a table: no markup, HTML, link,
    mention or new line.
    """
    line = _ACTIVE.sub(r"\\\1", text.clean(value))
    line = "".join(_ENTITY.get(c, c) for c in line)
    # GitHub makes links of bare addresses: break what it looks for.
    return re.sub(r"(?i)\bwww\.", "www&#46;", line.replace("://", "&#58;//"))


def format_code(value: str) -> str:
    """A name as a code span that it cannot leave: backticks become quotes, the pipe is escaped as
    GitHub's tables want it.
    """
    return "`" + text.clean(value).replace("`", "'").replace("\\", "/").replace("|", "\\|") + "`"


def render_html(table: Table) -> str:
    """A fragment for any page: semantic tables with captions and scopes, everything escaped, no
    script and no style.
    """

    def tagged(name: str, value: str, more: str = "") -> str:
        return f"<{name}{more}>{html_module.escape(value)}</{name}>"

    def named(row: Row) -> str:
        parts = [tagged("code", text.clean(row.label))] + [tagged("b", row.letter)] * bool(
            row.letter
        )
        marks = text.marks(row)
        return f'<th scope="row">{" ".join(parts + [tagged("small", marks)] * bool(marks))}</th>'

    lines = ['<section class="lep-leaderboard">', tagged("h2", text.clean(table.title))]
    lines += [tagged("p", text.clean(table.note), ' class="note"')] if table.note else []
    for grid in text.grids(table, f"{NBSP}±"):
        caption = f"{text.clean(grid.section.family)}. {text.condition(grid.block)}"
        heads = "".join(
            tagged("th", text.clean(head), ' scope="col"') for head in ("model", *grid.headers)
        )
        lines += ["<table>", tagged("caption", caption), f"<thead><tr>{heads}</tr></thead>"]
        for vocabulary, rows in grid.groups:
            across = f' colspan="{len(grid.headers) + 1}" scope="rowgroup"'
            lines += [
                "<tbody>",
                *(
                    [f"<tr>{tagged('th', text.clean(vocabulary), across)}</tr>"]
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
    notes = (*text.legend(table), *text.failures(table))
    lines += ['<ul class="legend">', *(tagged("li", line) for line in notes), "</ul>", "</section>"]
    return "\n".join(lines) + "\n"


def render_csv(table: Table) -> str:
    """One line per row, plain values 0 to 1 with six significant digits; empty where there is no
    number.
    """
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    head = [
        "model",
        "family",
        "stage",
        "format",
        "shots",
        "protocol",
        "engine",
        "dtype",
        "limit",
        "stale",
        "edited",
        "failed",
        "training_seeds",
    ]
    sampled = ("_sampling_sd",) if table.samplings > 1 else ()
    parts = ("", "_stderr", "_seed_sd", *sampled)
    head += [c.key + part for c in table.columns for part in (*parts, "_verdict")]
    head += [
        name + part for name in ("mean", *(s.label for s in table.summaries)) for part in parts
    ]
    writer.writerow([*head, "rank_best", "rank_worst", *DIFFERENCE, *cost.FIELDS, *health.FIELDS])
    for block in table.blocks:
        how = block.condition
        for section in block.sections:
            for row in section.rows:
                kind = [
                    row.model,
                    section.family,
                    row.stage,
                    how.format,
                    how.shots,
                    how.protocol,
                    how.engine,
                    how.dtype,
                ]
                failed = "all" if row.failed else "some" if row.failure else ""
                state = [
                    row.limit,
                    int(row.stale),
                    int(row.edited),
                    failed,
                    max(x.seeds for x in (*row.cells, row.mean)),
                ]
                values: list[object] = []
                for i, c in enumerate((*row.cells, row.mean, *row.summaries)):
                    values += [
                        _plain(v)
                        for v in (c.value, c.stderr, c.spread, *([c.sampling] if sampled else []))
                    ]
                    values += [c.verdict] if i < len(row.cells) else []
                spent = [*cost.fields(table, row), *map(_plain, health.fields(row))]
                writer.writerow(
                    [
                        _harmless(v)
                        for v in (
                            *kind,
                            *state,
                            *values,
                            *(row.rank or ("", "")),
                            *_difference(row),
                            *spent,
                        )
                    ]
                )
    return out.getvalue()


DIFFERENCE = (
    "control",
    *(
        f"difference{part}"
        for part in ("", "_stderr", "_low", "_high", "_p", "_p_corrected", "_verdict", "_test")
    ),
)


def _difference(row: Row) -> list[object]:
    d = row.difference or Difference("", "", 0, None, 0)
    numbers = [d.value if row.difference else None, d.stderr, d.low, d.high]
    # A p of 1e-12 is none of 0: significant digits, as a test gives them.
    return [
        row.control,
        *map(_plain, numbers),
        *("" if p is None else f"{p:.6g}" for p in (d.p, d.corrected)),
        d.verdict,
        d.test,
    ]


def _plain(value: float | None) -> str:
    # Nine decimals first: what cancels in a difference leaves 1e-17 on one machine and 0 on
    # another.
    return "" if value is None else f"{round(value, 9) + 0.0:.6g}"


def _harmless(value: object) -> str:
    """A spreadsheet must not take a name for a formula."""
    line = "" if value is None else str(value)
    is_number = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", line)
    return "'" + line if line[:1] in ("=", "+", "-", "@", "\t", "\r") and not is_number else line


def render_json(table: Table) -> str:
    """The table as JSON, plain values 0 to 1, nine decimals, with the sentences of `ship` where it
    is whole. Ends with a newline.
    """

    def plain(value: Any, name: str = "") -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {
                f.name: plain(getattr(value, f.name), f.name) for f in dataclasses.fields(value)
            }
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        if isinstance(value, Noise):
            return value.model_dump(mode="json")
        if isinstance(value, float):
            return float(f"{value:.6g}") if name in ("p", "corrected") else round(value, 9) + 0.0
        return value

    advice = [
        {"family": family, "advice": sentences}
        for family, sentences in recommend.recommendation_lines(table, str)
    ]
    return (
        json_module.dumps(
            plain(table) | ({} if table.partial else {"ship": advice}),
            ensure_ascii=False,
            indent=1,
            allow_nan=False,
        )
        + "\n"
    )


LONG = 8  # tasks up to which the list of what was measured is not folded
START = "<!-- lep-bench:table -->"
END = "<!-- /lep-bench:table -->"


def render_page(table: Table, pictures: Sequence[Picture] = ()) -> str:
    """The generated part of a page, from the note to the last table; no marker, ends with a
    newline.

    `pictures` stand beside the page in pictures/NAME.svg."""
    lines = [f"> **{escape(table.note)}**", ""] if table.note else []
    families = [f for f in table.families if f not in ("baselines", "local")]
    lines += [
        (
            f"{count_noun(table.models, 'model')} in {count_noun(len(families), 'family')}, "
            f"{count_noun(len(table.items), 'task')}, {_engines(table)}."
        ),
        "",
    ]
    lines += [*_ship(table), "", *_measured(table), ""]
    lines += (
        [f"{text.sign_remark(table)} More: [how to read it](#how-to-read-it).", ""]
        if text.sign_remark(table)
        else []
    )
    lines += [render_markdown(table).rstrip("\n"), ""]
    shown = [
        line
        for one in pictures
        for line in (
            f"![{escape(one.alt)}](pictures/{quote(one.name)}.svg)",
            "",
            escape(one.caption),
            "",
        )
    ]
    lines += ["### Pictures", "", *shown] if shown else []
    for part in (_differs(table), describe_contamination(table), _cost(table), _health(table)):
        lines += [*part, ""] if part else []
    lines += ["### How to read it", "", *_reading(table), ""]
    first = (
        f"{'' if table.commands else 'every model and score from nothing; '}what is cached is "
        "not computed again"
    )
    lines += [
        "### Make it again",
        "",
        "```",
        *(
            f"{text.clean(command)}{'' if number else f'    # {first}'}"
            for number, command in enumerate(table.made_by)
        ),
        "lep-bench leaderboard --check    # this page equals what results.jsonl gives",
        "```",
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def render_tables(table: Table) -> str:
    """The tables alone with what must stand beside them, to be pasted into a page of one's own."""
    lines = [f"## {escape(table.title)}", ""] + (
        [f"> **{escape(table.note)}**", ""] if table.note else []
    )
    return "\n".join(
        [*lines, render_markdown(table), *(f"- {escape(line)}" for line in text.legend(table)), ""]
    )


def _ship(table: Table) -> list[str]:
    lines = ["### Which to ship", ""]
    for family, sentences in recommend.recommendation_lines(table, format_code, escape):
        lines += [f"- **{family}**"] if family else []
        lines += [f"{'  ' if family else ''}- {sentence}" for sentence in sentences]
    return [*lines, "", f"<sub>{recommend.RULE}</sub>"]


def _differs(table: Table) -> list[str]:
    """Every planned contrast with its interval, corrected p and verdict."""
    lines = ["### What differs", ""]
    lines.append(
        "- Comparisons of the mean that were planned before the numbers, each over the same "
        "items; only within a heading."
    )
    lines.append("- 95% interval; p, and p corrected by Holm over the comparisons of a heading.")
    lines[-1] += f" Equal: the interval lies within ±{text.number(table.delta, True, 1)}."
    for block in (block for block in table.blocks if block.findings):
        lines += ["", f"#### {escape(text.condition(block))}: differences", ""]
        lines += [
            f"- {said}"
            for said in (
                text.smallest(block),
                text.tests(block) and f"Tests: {escape(text.tests(block))}.",
            )
            if said
        ]
        lines += list_contrasts(block)
    return lines if any(block.findings for block in table.blocks) else []


def _health(table: Table) -> list[str]:
    lines = ["### What the texts look like", "", *(f"- {line}" for line in health.REMARKS)]
    for block in table.blocks:
        if rows := [
            [format_code(row.model), *health.numbers(row)] for row in block.rows if row.health
        ]:
            lines += [
                "",
                f"#### {escape(text.condition(block))}: texts",
                "",
                *format_table(["model", *health.HEADERS], rows),
            ]
    return lines if any(row.health for row in table.rows) else []


def _engines(table: Table) -> str:
    how = dict.fromkeys(
        f"engine {escape(b.condition.engine)} in {escape(b.condition.dtype)}" for b in table.blocks
    )
    return "; ".join(how) or "nothing scored yet"


def _measured(table: Table) -> list[str]:
    chance = dict(table.mean_tasks)
    items = dict(table.items)
    shown = {c.task: c for c in table.columns if c.metric != SYMBOLS}
    groups = {task: s.label for s in table.summaries if s.group for task in s.tasks}
    rows = []
    for task, column in shown.items():
        metric = escape(column.metric.replace("_", " ") or text.MISSING) + (
            " (lower is better)" if column.metric == BITS else ""
        )
        inside = "no"
        if task in chance:
            inside = (
                f"yes, guessing gives {chance[task]:g}" if table.mean_kind == "centred" else "yes"
            )
        group = [escape(groups.get(task, text.MISSING))] if groups else []
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


def _reading(table: Table) -> list[str]:
    lines = []
    mean = escape(text.mean_label(table))
    symbols = next((c for c in table.columns if c.metric == SYMBOLS), None)
    lines.append(
        "- Scores are in percent, ± one standard error over items, clustered by item group; "
        "none where all items agree."
    )
    if table.samplings > 1:
        lines.append(f"- {text.sampling_remark(table)}")
    if symbols:
        is_text = any(c.task == symbols.task and c.metric == BITS for c in table.columns)
        what = "the held-out Russian text" if is_text else "the model's answers"
        lines.append(
            f"- *symbols per token*: characters per token of {what} in "
            f"{format_code(symbols.task)}; more is cheaper."
        )
    if table.mean_kind == "centred":
        lines.append(
            f"- *{mean}*: the mean of (s − c) / (1 − c) over the tasks of the mean, c being "
            "what guessing gives; not clipped."
        )
    else:
        lines.append(
            f"- *{mean}*: the plain mean over the {len(table.mean_tasks)} tasks of the mean."
        )
    lines[-1] += " It is printed only where all of them were scored."
    lines += _summaries(table)
    lines += [f"- {text.RANK_REMARK}"] if any(row.rank for row in table.rows) else []
    lines.append(
        "- *difference*: of the mean, against the row whose letter follows, the fair control. "
        "Its error is paired: both models"
    )
    lines.append(
        "  answered the same items, and one item group counts as one draw. What is compared "
        "with what:"
    )
    lines += [f"  - {row}: with {control}" for row, control in text.controls()]
    if table.unpaired:
        names = ", ".join(format_code(task) for task in table.unpaired)
        lines.append(
            f"- Scores that are no means over items: {names}. Their errors come from a "
            "jackknife; in a difference those of both"
        )
        lines.append(
            "  rows count as independent, which makes its error too wide rather than too narrow."
        )
    lines.append(
        "- Tables under different headings were asked in different ways. No number may be "
        "compared across such headings."
    )
    lines.append(f"- {text.seed_remark(table)}")
    lines.append(f"- {text.MISSING}: not scored. A failed row gives its reason below the tables.")
    lines += [f"- {line}" for line in text.mark_remarks(table)]
    return lines


def _summaries(table: Table) -> list[str]:
    lines = []
    for one in (s for s in table.summaries if not s.group):
        rest = [format_code(task) for task, _ in table.mean_tasks if task not in one.tasks]
        lines.append(
            f"- *{escape(one.label)}*: the same over {count_noun(len(one.tasks), 'task')}, without "
            f"{', '.join(rest)}."
        )
    groups = ", ".join(f"*{escape(s.label)}*" for s in table.summaries if s.group)
    if groups:
        lines.append(
            f"- {groups}: plain means over the tasks of a group (last column above), printed "
            "only where all of them were scored."
        )
    return lines


def _cost(table: Table) -> list[str]:
    """Quality against cost, a table per block; the noise floor of the machines."""
    blocks = [
        (block, cost.machines(block))
        for block in table.blocks
        if any(row.cost for row in block.rows)
    ]
    lines = (
        ["### What it cost", "", *(f"- {escape(line)}" for line in cost.remarks(table))]
        if blocks
        else []
    )
    lines += [
        (
            "- "
            f"{cost.noise(n, escape(cost.named(n.machine)), format_code(n.model), format_code(n.task))}"
        )
        for n in table.noise
    ]
    heads = ["model", *map(escape, cost.headers(table))]
    for block, machines in blocks:
        lines += ["", f"#### {escape(text.condition(block))}: cost", ""]
        for machine, rows in machines:
            alone = (
                ""
                if len(machines) == 1
                else ": " + ", ".join(format_code(row.model) for row in rows)
            )
            lines.append(f"Measured with {escape(machine)}{alone}.")
        names = {
            row.model: " ".join(
                filter(None, [format_code(row.model), escape(text.marks(row)), cost.partly(row)])
            )
            for row in block.rows
        }
        rows = [[names[row.model], *cost.numbers(table, row)] for row in block.rows if row.cost]
        lines += [*([""] if machines else []), *format_table(heads, rows)]
    return lines


def fresh(title: str, body: str) -> str:
    """A new page around a generated body."""
    return f"# {escape(title)}\n\n{START}\n{body}{END}\n"


def place(existing: str, body: str) -> str | None:
    """`existing` with what stands between its markers replaced; None unless each is a line of its
    own, exactly once, in order.

    Whole lines only: a command on the page may hold a marker, being the name of somebody's folder.
    """
    parts = re.split(f"^({START}|{END})$", existing, flags=re.MULTILINE)
    return f"{parts[0]}{START}\n{body}{END}{parts[4]}" if parts[1::2] == [START, END] else None
