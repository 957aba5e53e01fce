"""The published page of a suite: what it measures, how to read it, the tables, what they cost. The same results, the same bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from lep_bench.errors import many
from lep_bench.leaderboard import health, ship
from lep_bench.leaderboard.forms import cost, render, text
from lep_bench.leaderboard.forms.render import code, escape, tabled
from lep_bench.leaderboard.table import BITS, SYMBOLS, Table

if TYPE_CHECKING:
    from lep_bench.leaderboard.pictures.plots import Picture

LONG = 8  # tasks up to which the list of what was measured is not folded
START = "<!-- lep-bench:table -->"
END = "<!-- /lep-bench:table -->"


def page(table: Table, pictures: Sequence[Picture] = ()) -> str:
    """The generated part of a page, from the note to the last table; no marker, ends with a newline.

    `pictures` stand beside the page in pictures/NAME.svg."""
    lines = [f"> **{escape(table.note)}**", ""] if table.note else []
    families = [f for f in table.families if f not in ("baselines", "local")]
    lines += [f"{many(table.models, 'model')} in {many(len(families), 'family')}, {many(len(table.items), 'task')}, {_engines(table)}.", ""]
    lines += [*_ship(table), "", *_measured(table), ""]
    lines += [f"{text.sign_remark(table)} More: [how to read it](#how-to-read-it).", ""] if text.sign_remark(table) else []
    lines += [render.markdown(table).rstrip("\n"), ""]
    shown = [line for one in pictures for line in (f"![{escape(one.alt)}](pictures/{quote(one.name)}.svg)", "", escape(one.caption), "")]
    lines += ["### Pictures", "", *shown] if shown else []
    for part in (_differs(table), render.contamination(table), _cost(table), _health(table)):
        lines += [*part, ""] if part else []
    lines += ["### How to read it", "", *_reading(table), ""]
    first = f"{'' if table.commands else 'every model and score from nothing; '}what is cached is not computed again"
    lines += [
        "### Make it again",
        "",
        "```",
        *(f"{text.clean(command)}{'' if number else f'    # {first}'}" for number, command in enumerate(table.made_by)),
        "lep-bench leaderboard --check    # this page equals what results.jsonl gives",
        "```",
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def tables(table: Table) -> str:
    """The tables alone with what must stand beside them, to be pasted into a page of one's own."""
    lines = [f"## {escape(table.title)}", ""] + ([f"> **{escape(table.note)}**", ""] if table.note else [])
    return "\n".join([*lines, render.markdown(table), *(f"- {escape(line)}" for line in text.legend(table)), ""])


def _ship(table: Table) -> list[str]:
    lines = ["### Which to ship", ""]
    for family, sentences in ship.lines(table, code, escape):
        lines += [f"- **{family}**"] if family else []
        lines += [f"{'  ' if family else ''}- {sentence}" for sentence in sentences]
    return [*lines, "", f"<sub>{ship.RULE}</sub>"]


def _differs(table: Table) -> list[str]:
    """Every planned contrast with its interval, corrected p and verdict."""
    lines = ["### What differs", ""]
    lines.append("- Comparisons of the mean that were planned before the numbers, each over the same items; only within a heading.")
    lines.append("- 95% interval; p, and p corrected by Holm over the comparisons of a heading.")
    lines[-1] += f" Equal: the interval lies within ±{text.number(table.delta, True, 1)}."
    for block in (block for block in table.blocks if block.findings):
        lines += ["", f"#### {escape(text.condition(block))}: differences", ""]
        lines += [f"- {said}" for said in (text.smallest(block), text.tests(block) and f"Tests: {escape(text.tests(block))}.") if said]
        lines += render.findings(block)
    return lines if any(block.findings for block in table.blocks) else []


def _health(table: Table) -> list[str]:
    lines = ["### What the texts look like", "", *(f"- {line}" for line in health.REMARKS)]
    for block in table.blocks:
        if rows := [[code(row.model), *health.numbers(row)] for row in block.rows if row.health]:
            lines += ["", f"#### {escape(text.condition(block))}: texts", "", *tabled(["model", *health.HEADERS], rows)]
    return lines if any(row.health for row in table.rows) else []


def _engines(table: Table) -> str:
    how = dict.fromkeys(f"engine {escape(b.condition.engine)} in {escape(b.condition.dtype)}" for b in table.blocks)
    return "; ".join(how) or "nothing scored yet"


def _measured(table: Table) -> list[str]:
    chance = dict(table.mean_tasks)
    items = dict(table.items)
    shown = {c.task: c for c in table.columns if c.metric != SYMBOLS}
    groups = {task: s.label for s in table.summaries if s.group for task in s.tasks}
    rows = []
    for task, column in shown.items():
        metric = escape(column.metric.replace("_", " ") or text.MISSING) + (" (lower is better)" if column.metric == BITS else "")
        inside = "no"
        if task in chance:
            inside = f"yes, guessing gives {chance[task]:g}" if table.mean_kind == "centred" else "yes"
        group = [escape(groups.get(task, text.MISSING))] if groups else []
        rows.append([code(task), metric, f"{items.get(task) or text.MISSING}", inside, *group])
    lines = tabled(["task", "score", "items", "in the mean", *(["group"] if groups else [])], rows, "llrl")
    head = ["### What was measured", ""]
    if len(shown) <= LONG:
        return [*head, *lines]
    return [*head, f"<details><summary>{many(len(shown), 'task')}</summary>", "", *lines, "", "</details>"]


def _reading(table: Table) -> list[str]:
    lines = []
    mean = escape(text.mean_label(table))
    symbols = next((c for c in table.columns if c.metric == SYMBOLS), None)
    lines.append("- Scores are in percent, ± one standard error over items, clustered by item group; none where all items agree.")
    if table.samplings > 1:
        lines.append(f"- {text.sampling_remark(table)}")
    if symbols:
        is_text = any(c.task == symbols.task and c.metric == BITS for c in table.columns)
        what = "the held-out Russian text" if is_text else "the model's answers"
        lines.append(f"- *symbols per token*: characters per token of {what} in {code(symbols.task)}; more is cheaper.")
    if table.mean_kind == "centred":
        lines.append(f"- *{mean}*: the mean of (s − c) / (1 − c) over the tasks of the mean, c being what guessing gives; not clipped.")
    else:
        lines.append(f"- *{mean}*: the plain mean over the {len(table.mean_tasks)} tasks of the mean.")
    lines[-1] += " It is printed only where all of them were scored."
    lines += _summaries(table)
    lines += [f"- {text.RANK_REMARK}"] if any(row.rank for row in table.rows) else []
    lines.append("- *difference*: of the mean, against the row whose letter follows, the fair control. Its error is paired: both models")
    lines.append("  answered the same items, and one item group counts as one draw. What is compared with what:")
    lines += [f"  - {row}: with {control}" for row, control in text.controls()]
    if table.unpaired:
        names = ", ".join(code(task) for task in table.unpaired)
        lines.append(f"- Scores that are no means over items: {names}. Their errors come from a jackknife; in a difference those of both")
        lines.append("  rows count as independent, which makes its error too wide rather than too narrow.")
    lines.append("- Tables under different headings were asked in different ways. No number may be compared across such headings.")
    lines.append(f"- {text.seed_remark(table)}")
    lines.append(f"- {text.MISSING}: not scored. A failed row gives its reason below the tables.")
    lines += [f"- {line}" for line in text.mark_remarks(table)]
    return lines


def _summaries(table: Table) -> list[str]:
    lines = []
    for one in (s for s in table.summaries if not s.group):
        rest = [code(task) for task, _ in table.mean_tasks if task not in one.tasks]
        lines.append(f"- *{escape(one.label)}*: the same over {many(len(one.tasks), 'task')}, without {', '.join(rest)}.")
    groups = ", ".join(f"*{escape(s.label)}*" for s in table.summaries if s.group)
    if groups:
        lines.append(f"- {groups}: plain means over the tasks of a group (last column above), printed only where all of them were scored.")
    return lines


def _cost(table: Table) -> list[str]:
    """Quality against cost, a table per block; the noise floor of the machines."""
    blocks = [(block, cost.machines(block)) for block in table.blocks if any(row.cost for row in block.rows)]
    lines = ["### What it cost", "", *(f"- {escape(line)}" for line in cost.remarks(table))] if blocks else []
    lines += [f"- {cost.noise(n, escape(cost.named(n.machine)), code(n.model), code(n.task))}" for n in table.noise]
    heads = ["model", *map(escape, cost.headers(table))]
    for block, machines in blocks:
        lines += ["", f"#### {escape(text.condition(block))}: cost", ""]
        for machine, rows in machines:
            alone = "" if len(machines) == 1 else ": " + ", ".join(code(row.model) for row in rows)
            lines.append(f"Measured with {escape(machine)}{alone}.")
        names = {row.model: " ".join(filter(None, [code(row.model), escape(text.marks(row)), cost.partly(row)])) for row in block.rows}
        rows = [[names[row.model], *cost.numbers(table, row)] for row in block.rows if row.cost]
        lines += [*([""] if machines else []), *tabled(heads, rows)]
    return lines


def fresh(title: str, body: str) -> str:
    """A new page around a generated body."""
    return f"# {escape(title)}\n\n{START}\n{body}{END}\n"


def place(existing: str, body: str) -> str | None:
    """`existing` with what stands between its markers replaced; None unless each is a line of its own, exactly once, in order.

    Whole lines only: a command on the page may hold a marker, being the name of somebody's folder."""
    parts = re.split(f"^({START}|{END})$", existing, flags=re.MULTILINE)
    return f"{parts[0]}{START}\n{body}{END}{parts[4]}" if parts[1::2] == [START, END] else None
