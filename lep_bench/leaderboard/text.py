"""How numbers and names are printed, the same in the terminal and on the page.

Scores are printed in percent with one decimal, bits per byte with three decimals, symbols per token
with two; files for machines (csv, json) hold the plain values, 0 to 1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import PurePath
from typing import Literal

from lep_bench.leaderboard.table import (
    BITS,
    SYMBOLS,
    Block,
    Cell,
    Column,
    Contrast,
    Difference,
    Row,
    Section,
    Table,
    Verdict,
)
from lep_bench.stats import ALPHA

MISSING = "—"
STALE = "†"
SIGNS: dict[Verdict | None, str] = {
    "higher": "▲",
    "lower": "▼",
    "equal": "=",
    "undecided": "·",
    None: "",
}


def number(value: float, percent: bool, digits: int, sign: bool = False) -> str:
    """`value` with a real minus sign; -0.0 is 0.0. `sign` writes the plus, too.

    Means of a few fractions often lie exactly between two printed numbers (86.25): the last bits of
    a float, which depend on the order of the arithmetic, must not decide there, so ten digits are
    taken first and halves go to the even neighbour.
    """
    exact = Decimal(f"{value:.10g}") * (100 if percent else 1)
    rounded = exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN)
    return f"{rounded or abs(rounded):{'+' if sign and rounded else ''}f}".replace("-", "−")


def cell(value: Cell, percent: bool, digits: int, joint: str | None) -> str:
    """`90.3 ±1.7▼`, and `90.3 ±1.7▼ (sd 0.2)` where answers were sampled several times; `joint`
    stands before the error, None leaves both out, one without a space (for narrow terminals) the
    latter.

    No error where it is exactly 0: all items agree, and what the formula gives there is no
    knowledge.
    """
    if value.value is None:
        return "failed" if value.status == "failed" else MISSING
    text = number(value.value, percent, digits)
    if joint is None:
        return text + SIGNS[value.verdict]
    error = f"{joint}{number(value.stderr, percent, digits)}" if value.stderr else ""
    space = joint[0] if joint[0].isspace() else ""
    drawn = (
        f"{space}(sd{space}{number(value.sampling, percent, digits)})"
        if space and value.sampling is not None
        else ""
    )
    return text + error + SIGNS[value.verdict] + drawn


def difference(value: Difference | None, joint: str) -> str:
    """`−3.1 ±1.2▼ A`, A being the control's letter."""
    if value is None:
        return MISSING
    error = "" if not value.stderr else joint + number(value.stderr, True, 1)
    space = joint[0] if joint[0].isspace() else " "
    return (
        f"{number(value.value, True, 1, sign=True)}{error}{SIGNS[value.verdict]}{space}"
        f"{value.letter}"
    )


def interval(value: Difference) -> str:
    """`[−5.4, −0.7]`, 95%; a dash where it is not known."""
    if value.low is None or value.high is None:
        return MISSING
    return f"[{number(value.low, True, 1, sign=True)}, {number(value.high, True, 1, sign=True)}]"


def p_value(p: float | None) -> str:
    """`0.012`, `<0.001`."""
    return MISSING if p is None else "<0.001" if p < 0.001 else number(p, False, 3)


def rank(row: Row) -> str:
    """`1–3`: the best and the worst rank that the errors allow."""
    return (
        MISSING
        if row.rank is None
        else str(row.rank[0])
        if row.rank[0] == row.rank[1]
        else f"{row.rank[0]}–{row.rank[1]}"
    )


def questions(block: Block) -> dict[str, list[Contrast]]:
    """The block's contrasts by what they ask."""
    found: dict[str, list[Contrast]] = {}
    for one in block.findings:
        found.setdefault(one.question, []).append(one)
    return found


def tally(findings: list[Contrast]) -> str:
    """`3 higher, 12 lower, 2 undecided`."""
    each = [f.difference.verdict or "not tested" for f in findings]
    return ", ".join(
        f"{each.count(name)} {name}"
        for name in ("higher", "lower", "equal", "undecided", "not tested")
        if name in each
    )


FINDING = ("model", "compared with", "difference", "95% interval", "p", "corrected p", "")


def finding(one: Contrast, joint: str) -> list[str]:
    """Its texts under `FINDING`, after the two names."""
    d = one.difference
    error = joint + number(d.stderr, True, 1) if d.stderr else ""
    verdict = f"{SIGNS[d.verdict]} {d.verdict}" if d.verdict else MISSING
    return [
        number(d.value, True, 1, sign=True) + error,
        interval(d),
        p_value(d.p),
        p_value(d.corrected),
        verdict,
    ]


def tests(block: Block) -> str:
    """Which tests the block's p-values come from."""
    return "; ".join(dict.fromkeys(f.difference.test for f in block.findings if f.difference.test))


def seeds(row: Row) -> str:
    """`3, sd 2.1`: how many training seeds, and the standard deviation of the mean over them."""
    count = max((c.seeds for c in (*row.cells, row.mean)), default=0)
    if not count:
        return MISSING
    return (
        str(count) if row.mean.spread is None else f"{count}, sd {number(row.mean.spread, True, 1)}"
    )


TablePart = Literal["whole", "means", "short", "tasks"]


def parts(table: Table) -> tuple[TablePart, ...]:
    """The tables that a block is printed as: one, or, where the suite names groups or further
    means, these first and then all tasks.

    "short" is a part for narrow terminals: the suite's mean alone.
    """
    if not table.summaries:
        return ("whole",)
    return ("means", "tasks") if columns(table, "tasks") else ("means",)


def columns(table: Table, part: TablePart) -> list[tuple[int, Column]]:
    """The single scores of a part, with their place in a row's cells."""
    if part in ("whole", "short"):
        return list(enumerate(table.columns)) if part == "whole" else []
    return [
        (i, c) for i, c in enumerate(table.columns) if (c.metric == SYMBOLS) == (part == "means")
    ]


def headers(table: Table, part: TablePart) -> list[str]:
    """Every column's heading but the model's."""
    single = [c.label for _, c in columns(table, part)]
    if part == "tasks":
        return single
    further = [s.label for s in table.summaries] if part == "means" else []
    ranked = ["rank"] if _ranked(table) else []
    return [*single, mean_label(table), *ranked, *further, "difference"] + (
        ["seeds"] if table.seeds > 1 else []
    )


def _ranked(table: Table) -> bool:
    return any(row.rank for row in table.rows)


def numbers(
    table: Table, row: Row, part: TablePart, joint: str, score_errors: bool = True
) -> list[str]:
    """A row's texts under `headers`. `score_errors=False` leaves errors to the mean alone, for
    narrow terminals.
    """
    inner = joint if score_errors else None
    # A row without any number says so once.
    texts = [
        MISSING if row.failed else cell(row.cells[i], c.percent, c.digits, inner)
        for i, c in columns(table, part)
    ]
    if part == "tasks":
        return texts
    texts += [cell(row.mean, True, 1, joint), *([rank(row)] if _ranked(table) else [])]
    if part == "means":
        texts += [MISSING if row.failed else cell(c, True, 1, inner) for c in row.summaries]
    texts += ["" if row.control is None else difference(row.difference, joint)]
    return texts + ([seeds(row)] if table.seeds > 1 else [])


def clean_headers(table: Table) -> list[str]:
    """Headings of the scores without flagged rows: the task and how many of its rows were flagged,
    then the mean.
    """
    if table.contamination is None:
        return []
    short = {c.task: c.label for c in table.columns if c.metric not in (SYMBOLS, BITS)}
    tasks = [
        f"{short.get(task, task)} ({flagged} of {rows})"
        for task, rows, flagged in table.contamination.flagged
    ]
    return [*tasks, mean_label(table)]


def clean_numbers(table: Table, row: Row) -> list[str]:
    """`64.0 → 63.1`: the score, and the score without the flagged rows."""
    percent = {c.task: c for c in table.columns if c.metric not in (SYMBOLS, BITS)}
    flagged = (
        []
        if table.contamination is None
        else [percent.get(task) for task, _, _ in table.contamination.flagged]
    )
    texts = []
    for pair, column in zip(row.clean, [*flagged, None]):
        shown, digits = (column.percent, column.digits) if column else (True, 1)
        texts.append(
            MISSING if pair is None else " → ".join(number(v, shown, digits) for v in pair)
        )
    return texts


@dataclass(frozen=True)
class Grid:
    """One printed table: a part of a section's columns, its rows by vocabulary ("" outside of
    families).
    """

    block: Block
    section: Section
    part: TablePart
    headers: list[str]
    groups: list[tuple[str, list[tuple[Row, list[str]]]]]


def grids(table: Table, joint: str) -> Iterator[Grid]:
    """Every table of a page in order; what is printed is somebody else's text and must be
    escaped.
    """
    for block in table.blocks:
        for section in block.sections:
            for part in parts(table):
                groups: dict[str, list[tuple[Row, list[str]]]] = {}
                for row in section.rows:
                    groups.setdefault(vocabulary(row), []).append(
                        (row, numbers(table, row, part, joint))
                    )
                yield Grid(block, section, part, headers(table, part), list(groups.items()))


def vocabulary(row: Row) -> str:
    """`original` for a family's own models; "" for baselines and local models."""
    if row.stage in ("baseline", "local"):
        return ""
    return row.label.split("/")[0] if "/" in row.label else "original"


def marks(row: Row) -> str:
    """What must stand beside a model's name: limited, edited, of an earlier version, number of its
    failure.
    """
    parts = [f"limit {row.limit}"] if row.limit is not None else []
    parts += [STALE] if row.stale else []
    parts += ["edited"] if row.edited else []
    parts += (
        [f"failed ({row.failure})" if row.failed else f"({row.failure})"]
        if row.failure is not None
        else []
    )
    return " ".join(parts)


def mean_label(table: Table) -> str:
    """The suite's name for it, else `centred mean` or `mean`."""
    return table.mean_name or ("centred mean" if table.mean_kind == "centred" else "mean")


def condition(block: Block) -> str:
    """`Asked as chat, 0-shot: protocol greedy, engine hf, float32`."""
    c = block.condition
    how = "Asked as chat" if c.format == "chat" else "Asked in plain form"
    return (
        f"{how}, {c.shots}-shot: protocol {c.protocol}, engine {c.engine}, "
        f"{c.dtype if c.dtype != 'unknown' else 'number format unknown'}"
    )


def clean(text: str) -> str:
    """One line without control or direction-changing characters: names and reasons are somebody
    else's.
    """
    return " ".join(
        "".join(
            " " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in text
        ).split()
    )


def seed_remark(table: Table) -> str:
    """What the number of training seeds allows to be claimed."""
    if table.seeds > 1:
        return (
            f"Up to {table.seeds} training seeds: a trained model's row is the mean over its "
            "seeds, sd their standard deviation; "
            "the error of its difference includes the seeds."
        )
    return (
        "One seed: this checkpoint only. The errors are over items; what another training run "
        "would give is not measured."
    )


def sign_remark(table: Table) -> str | None:
    """What the signs beside numbers say, and how sure they are; None where there are none."""
    if not any(c.verdict for row in table.rows for c in row.cells) and not any(
        r.difference and r.difference.verdict for r in table.rows
    ):
        return None
    equal = f"±{number(table.delta, True, 1)}"
    return (
        f"▲ higher, ▼ lower, = equal (the 95% interval lies within {equal}), · undecided: "
        "the mean, and each single score, against the row "
        "whose letter stands beside the difference; higher and lower where p, corrected by "
        f"Holm over a block's comparisons, is at most {ALPHA:g}."
    )


def mark_remarks(table: Table) -> list[str]:
    """What the marks beside models' names say, those that there are."""
    lines = (
        [f"{STALE} of an earlier version of the task."]
        if any(row.stale for row in table.rows)
        else []
    )
    if any(row.edited for row in table.rows):
        lines.append(
            "edited: result or samples are not as they were written: shown, but not compared, "
            "and no number to cite."
        )
    if any(row.limit is not None for row in table.rows):
        lines.append("limit N: asked only N items per task; no number to cite.")
    return lines


def failed_tasks(table: Table, tasks: tuple[str, ...]) -> str:
    """`all tasks`, or their names."""
    return "all tasks" if len(tasks) == len(table.items) else ", ".join(tasks)


def failures(table: Table) -> list[str]:
    """A line per failure, numbered as the rows are marked."""
    return [
        f"({f.number}) {clean(f.model)}, {failed_tasks(table, f.tasks)}: failed: {clean(f.reason)}"
        for f in table.failures
    ]


def parent(name: str) -> str:
    """A parent's name; of a path on this machine the last part: pages and cards are published."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def short(value: object) -> str:
    """A parameter or measured value: `12,000`, `0.0321`, `a, b`; of more than twelve values how
    many.
    """
    if isinstance(value, list | tuple):
        return f"{len(value)} values" if len(value) > 12 else ", ".join(map(short, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


RANK_REMARK = (
    "rank: by the mean among these rows, from the best to the worst place that the errors allow "
    "(95%, all rows jointly)."
)


def legend(table: Table) -> list[str]:
    """What must stand below the tables wherever they are shown."""
    lines = ["Scores in percent, ± one standard error over items (none where all agree)."]
    lines += (
        ["Fewer bits per byte are better."] if any(c.metric == BITS for c in table.columns) else []
    )
    lines += [remark] if (remark := sign_remark(table)) else []
    lines += [RANK_REMARK] if _ranked(table) else []
    return [*lines, *mark_remarks(table), seed_remark(table)]


def smallest(block: Block) -> str | None:
    """The smallest difference of the mean that the suite could have found, in words."""
    if block.smallest is None:
        return None
    size = number(block.smallest, True, 1)
    return (
        f"A single comparison of this kind finds a true difference of {size} points of the mean "
        "in four cases of five, smaller ones less often."
    )


def sampling_remark(table: Table) -> str:
    """What sd beside a score says."""
    return (
        "(sd x): such a task samples its answers; the score is the mean over "
        f"{table.samplings} seeds of sampling, x the standard "
        "deviation over them (of a mean: of its tasks' together)."
    )


def controls() -> list[tuple[str, str]]:
    """Which model is compared with which, as (row, its control); `contrasts.fair_control` is the
    rule.
    """
    return [
        ("instruct-init and every propagation", "instruct"),
        ("the same with a tuning", "instruct with the same tuning"),
        ("instruct with a tuning", "instruct"),
        ("init", "base"),
        ("donor", "original/donor (same text, old vocabulary)"),
        ("original/donor", "base"),
    ]
