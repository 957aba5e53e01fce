"""How numbers and names are printed, the same in the terminal and on the page.

Scores are printed in percent with one decimal, bits per byte with three decimals, symbols per token with two; files for machines
(csv, json) hold the plain values, 0 to 1.
"""

from __future__ import annotations

import unicodedata
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

from lep_bench.leaderboard.table import BITS, SYMBOLS, Block, Cell, Column, Difference, Row, Table

MISSING = "—"
STALE = "†"


def number(value: float, percent: bool, digits: int, sign: bool = False) -> str:
    """`value` with a real minus sign; -0.0 is 0.0. `sign` writes the plus, too.

    Means of a few fractions often lie exactly between two printed numbers (86.25): the last bits of a float, which depend on the
    order of the arithmetic, must not decide there, so ten digits are taken first and halves go to the even neighbour.
    """
    exact = Decimal(f"{value:.10g}") * (100 if percent else 1)
    rounded = exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN)
    return f"{rounded or abs(rounded):{'+' if sign and rounded else ''}f}".replace("-", "−")


def cell(value: Cell, percent: bool, digits: int, joint: str | None) -> str:
    """`90.3 ±1.7`, and `90.3 ±1.7 (sd 0.2)` where answers were sampled several times; `joint` stands before the error,
    None leaves both out, one without a space (for narrow terminals) the latter.

    No error where it is exactly 0: all items agree, and what the formula gives there is no knowledge.
    """
    if value.value is None:
        return "failed" if value.status == "failed" else MISSING
    text = number(value.value, percent, digits)
    if joint is None:
        return text
    error = f"{joint}{number(value.stderr, percent, digits)}" if value.stderr else ""
    space = joint[0] if joint[0].isspace() else ""
    drawn = f"{space}(sd{space}{number(value.sampling, percent, digits)})" if space and value.sampling is not None else ""
    return text + error + drawn


def difference(value: Difference | None, joint: str) -> str:
    """`−3.1 ±1.2 A`, A being the control's letter."""
    if value is None:
        return MISSING
    error = "" if not value.stderr else joint + number(value.stderr, True, 1)
    space = joint[0] if joint[0].isspace() else " "
    return f"{number(value.value, True, 1, sign=True)}{error}{space}{value.letter}"


def seeds(row: Row) -> str:
    """`3, sd 2.1`: how many training seeds, and the standard deviation of the mean over them."""
    count = max((c.seeds for c in (*row.cells, row.mean)), default=0)
    if not count:
        return MISSING
    return str(count) if row.mean.spread is None else f"{count}, sd {number(row.mean.spread, True, 1)}"


Part = Literal["whole", "means", "short", "tasks"]


def parts(table: Table) -> tuple[Part, ...]:
    """The tables that a block is printed as: one, or, where the suite names groups or further means, these first and then all tasks.

    "short" is a part for narrow terminals: the suite's mean alone.
    """
    return ("means", "tasks") if table.summaries else ("whole",)


def columns(table: Table, part: Part) -> list[tuple[int, Column]]:
    """The single scores of a part, with their place in a row's cells."""
    if part in ("whole", "short"):
        return list(enumerate(table.columns)) if part == "whole" else []
    return [(i, c) for i, c in enumerate(table.columns) if (c.metric == SYMBOLS) == (part == "means")]


def headers(table: Table, part: Part) -> list[str]:
    """Every column's heading but the model's."""
    single = [c.label for _, c in columns(table, part)]
    if part == "tasks":
        return single
    further = [s.label for s in table.summaries] if part == "means" else []
    return [*single, mean_label(table), *further, "difference"] + (["seeds"] if table.seeds > 1 else [])


def numbers(table: Table, row: Row, part: Part, joint: str, score_errors: bool = True) -> list[str]:
    """A row's texts under `headers`. `score_errors=False` leaves errors to the mean alone, for narrow terminals."""
    inner = joint if score_errors else None
    # A row without any number says so once.
    texts = [MISSING if row.failed else cell(row.cells[i], c.percent, c.digits, inner) for i, c in columns(table, part)]
    if part == "tasks":
        return texts
    texts.append(cell(row.mean, True, 1, joint))
    if part == "means":
        texts += [MISSING if row.failed else cell(c, True, 1, inner) for c in row.summaries]
    texts += ["" if row.control is None else difference(row.difference, joint)]
    return texts + ([seeds(row)] if table.seeds > 1 else [])


def clean_headers(table: Table) -> list[str]:
    """Headings of the scores without flagged rows: the task and how many of its rows were flagged, then the mean."""
    if table.contamination is None:
        return []
    short = {c.task: c.label for c in table.columns if c.metric not in (SYMBOLS, BITS)}
    tasks = [f"{short.get(task, task)} ({flagged} of {rows})" for task, rows, flagged in table.contamination.flagged]
    return [*tasks, mean_label(table)]


def clean_numbers(table: Table, row: Row) -> list[str]:
    """`64.0 → 63.1`: the score, and the score without the flagged rows."""
    percent = {c.task: c for c in table.columns if c.metric not in (SYMBOLS, BITS)}
    flagged = [] if table.contamination is None else [percent.get(task) for task, _, _ in table.contamination.flagged]
    texts = []
    for pair, column in zip(row.clean, [*flagged, None]):
        shown, digits = (column.percent, column.digits) if column else (True, 1)
        texts.append(MISSING if pair is None else " → ".join(number(v, shown, digits) for v in pair))
    return texts


def marks(row: Row) -> str:
    """What must stand beside a model's name: limited, of an earlier version, number of its failure."""
    parts = [f"limit {row.limit}"] if row.limit is not None else []
    parts += [STALE] if row.stale else []
    parts += [f"failed ({row.failure})" if row.failed else f"({row.failure})"] if row.failure is not None else []
    return " ".join(parts)


def mean_label(table: Table) -> str:
    """The suite's name for it, else `centred mean` or `mean`."""
    return table.mean_name or ("centred mean" if table.mean_kind == "centred" else "mean")


def condition(block: Block) -> str:
    """`Asked as chat, 0-shot: protocol greedy, engine hf, float32`."""
    c = block.condition
    how = "Asked as chat" if c.format == "chat" else "Asked in plain form"
    return f"{how}, {c.shots}-shot: protocol {c.protocol}, engine {c.engine}, {c.dtype if c.dtype != 'unknown' else 'number format unknown'}"


def clean(text: str) -> str:
    """One line without control or direction-changing characters: names and reasons are somebody else's."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in text).split())


def seed_remark(table: Table) -> str:
    """What the number of training seeds allows to be claimed."""
    if table.seeds > 1:
        return (
            f"Up to {table.seeds} training seeds: a trained model's row is the mean over its seeds, sd their standard deviation; "
            "the error of its difference includes the seeds."
        )
    return "One seed: this checkpoint only. The errors are over items; what another training run would give is not measured."


def sampling_remark(table: Table) -> str:
    """What sd beside a score says."""
    return (
        f"(sd x): such a task samples its answers; the score is the mean over {table.samplings} seeds of sampling, x the standard "
        "deviation over them (of a mean: of its tasks' together)."
    )


def controls() -> list[tuple[str, str]]:
    """Which model is compared with which, as (row, its control); `assemble.fair_control` is the rule."""
    return [
        ("instruct-init and every propagation", "instruct"),
        ("the same with a tuning", "instruct with the same tuning"),
        ("instruct with a tuning", "instruct"),
        ("init", "base"),
        ("donor", "original/donor (same text, old vocabulary)"),
        ("original/donor", "base"),
    ]
