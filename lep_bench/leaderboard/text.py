"""How numbers and names are printed, the same in the terminal and on the page.

Scores are printed in percent with one decimal, bits per byte with three decimals, symbols per token with two; files for machines
(csv, json) hold the plain values, 0 to 1.
"""

from __future__ import annotations

import unicodedata
from decimal import ROUND_HALF_EVEN, Decimal

from lep_bench.leaderboard.table import Block, Cell, Column, Difference, Row, Table

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
    """`90.3 ±1.7`; `joint` stands before the error, None leaves the error out.

    No error where it is exactly 0: all items agree, and what the formula gives there is no knowledge.
    """
    if value.value is None:
        return "failed" if value.status == "failed" else MISSING
    text = number(value.value, percent, digits)
    return text if joint is None or not value.stderr else f"{text}{joint}{number(value.stderr, percent, digits)}"


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


def headers(table: Table) -> list[str]:
    """Every column's heading but the model's."""
    return [c.label for c in table.columns] + [mean_label(table), "difference"] + (["seeds"] if table.seeds > 1 else [])


def numbers(table: Table, row: Row, joint: str, score_errors: bool = True) -> list[str]:
    """A row's texts under `headers`. `score_errors=False` leaves the error out of single tasks, for narrow terminals."""

    def score(value: Cell, column: Column) -> str:
        return cell(value, column.percent, column.digits, joint if score_errors else None)

    # A row without any number says so once.
    texts = [MISSING if row.failed else score(c, column) for c, column in zip(row.cells, table.columns)]
    texts += [cell(row.mean, True, 1, joint), "" if row.control is None else difference(row.difference, joint)]
    return texts + ([seeds(row)] if table.seeds > 1 else [])


def marks(row: Row) -> str:
    """What must stand beside a model's name: limited, of an earlier version, number of its failure."""
    parts = [f"limit {row.limit}"] if row.limit is not None else []
    parts += [STALE] if row.stale else []
    parts += [f"failed ({row.failure})" if row.failed else f"({row.failure})"] if row.failure is not None else []
    return " ".join(parts)


def mean_label(table: Table) -> str:
    """`centred mean`, or `mean`."""
    return "centred mean" if table.mean_kind == "centred" else "mean"


def condition(block: Block) -> str:
    """`Asked as chat, 0-shot: protocol greedy, engine hf, float32`."""
    c = block.condition
    how = "Asked as chat" if c.format == "chat" else "Asked in plain form"
    return f"{how}, {c.shots}-shot: protocol {c.protocol}, engine {c.engine}, {c.dtype}"


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
