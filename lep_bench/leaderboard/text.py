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
from lep_bench.records.schema import Noise
from lep_bench.records.text_counts import N
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


def format_number(value: float, percent: bool, digits: int, sign: bool = False) -> str:
    """`value` with a real minus sign; -0.0 is 0.0. `sign` writes the plus, too.

    Means of a few fractions often lie exactly between two printed numbers (86.25): the last bits of
    a float, which depend on the order of the arithmetic, must not decide there, so ten digits are
    taken first and halves go to the even neighbour.
    """
    exact = Decimal(f"{value:.10g}") * (100 if percent else 1)
    rounded = exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN)
    return f"{rounded or abs(rounded):{'+' if sign and rounded else ''}f}".replace("-", "−")


def format_cell(value: Cell, percent: bool, digits: int, joint: str | None) -> str:
    """`90.3 ±1.7▼`, and `90.3 ±1.7▼ (sd 0.2)` where answers were sampled several times; `joint`
    stands before the error, None leaves both out, one without a space (for narrow terminals) the
    latter.

    No error where it is exactly 0: all items agree, and what the formula gives there is no
    knowledge.
    """
    if value.value is None:
        return "failed" if value.status == "failed" else MISSING
    text = format_number(value.value, percent, digits)
    if joint is None:
        return text + SIGNS[value.verdict]
    error = f"{joint}{format_number(value.stderr, percent, digits)}" if value.stderr else ""
    space = joint[0] if joint[0].isspace() else ""
    drawn = (
        f"{space}(sd{space}{format_number(value.sampling, percent, digits)})"
        if space and value.sampling is not None
        else ""
    )
    return text + error + SIGNS[value.verdict] + drawn


def format_difference(value: Difference | None, joint: str) -> str:
    """`−3.1 ±1.2▼ A`, A being the control's letter."""
    if value is None:
        return MISSING
    error = "" if not value.stderr else joint + format_number(value.stderr, True, 1)
    space = joint[0] if joint[0].isspace() else " "
    return (
        f"{format_number(value.value, True, 1, sign=True)}{error}{SIGNS[value.verdict]}{space}"
        f"{value.letter}"
    )


def format_interval(value: Difference) -> str:
    """`[−5.4, −0.7]`, 95%; a dash where it is not known."""
    if value.low is None or value.high is None:
        return MISSING
    return (
        f"[{format_number(value.low, True, 1, sign=True)}, "
        f"{format_number(value.high, True, 1, sign=True)}]"
    )


def format_p(p: float | None) -> str:
    """`0.012`, `<0.001`."""
    return MISSING if p is None else "<0.001" if p < 0.001 else format_number(p, False, 3)


def format_rank(row: Row) -> str:
    """`1–3`: the best and the worst rank that the errors allow."""
    return (
        MISSING
        if row.rank is None
        else str(row.rank[0])
        if row.rank[0] == row.rank[1]
        else f"{row.rank[0]}–{row.rank[1]}"
    )


def group_contrasts(block: Block) -> dict[str, list[Contrast]]:
    """The block's contrasts by what they ask."""
    found: dict[str, list[Contrast]] = {}
    for one in block.findings:
        found.setdefault(one.question, []).append(one)
    return found


def count_verdicts(findings: list[Contrast]) -> str:
    """`3 higher, 12 lower, 2 undecided`."""
    each = [f.difference.verdict or "not tested" for f in findings]
    return ", ".join(
        f"{each.count(name)} {name}"
        for name in ("higher", "lower", "equal", "undecided", "not tested")
        if name in each
    )


CONTRAST_HEADERS = ("model", "compared with", "difference", "95% interval", "p", "corrected p", "")


def format_contrast(one: Contrast, joint: str) -> list[str]:
    """Its texts under `FINDING`, after the two names."""
    d = one.difference
    error = joint + format_number(d.stderr, True, 1) if d.stderr else ""
    verdict = f"{SIGNS[d.verdict]} {d.verdict}" if d.verdict else MISSING
    return [
        format_number(d.value, True, 1, sign=True) + error,
        format_interval(d),
        format_p(d.p),
        format_p(d.corrected),
        verdict,
    ]


def list_tests(block: Block) -> str:
    """Which tests the block's p-values come from."""
    return "; ".join(dict.fromkeys(f.difference.test for f in block.findings if f.difference.test))


def format_seeds(row: Row) -> str:
    """`3, sd 2.1`: how many training seeds, and the standard deviation of the mean over them."""
    count = max((c.seeds for c in (*row.cells, row.mean)), default=0)
    if not count:
        return MISSING
    return (
        str(count)
        if row.mean.spread is None
        else f"{count}, sd {format_number(row.mean.spread, True, 1)}"
    )


TablePart = Literal["whole", "means", "short", "tasks"]


def list_parts(table: Table) -> tuple[TablePart, ...]:
    """The tables that a block is printed as: one, or, where the suite names groups or further
    means, these first and then all tasks.

    "short" is a part for narrow terminals: the suite's mean alone.
    """
    if not table.summaries:
        return ("whole",)
    return ("means", "tasks") if select_columns(table, "tasks") else ("means",)


def select_columns(table: Table, part: TablePart) -> list[tuple[int, Column]]:
    """The single scores of a part, with their place in a row's cells."""
    if part in ("whole", "short"):
        return list(enumerate(table.columns)) if part == "whole" else []
    return [
        (i, c) for i, c in enumerate(table.columns) if (c.metric == SYMBOLS) == (part == "means")
    ]


def make_headers(table: Table, part: TablePart) -> list[str]:
    """Every column's heading but the model's."""
    single = [c.label for _, c in select_columns(table, part)]
    if part == "tasks":
        return single
    further = [s.label for s in table.summaries] if part == "means" else []
    ranked = ["rank"] if _has_ranks(table) else []
    return [*single, label_mean(table), *ranked, *further, "difference"] + (
        ["seeds"] if table.seeds > 1 else []
    )


def _has_ranks(table: Table) -> bool:
    return any(row.rank for row in table.rows)


def format_row(
    table: Table, row: Row, part: TablePart, joint: str, score_errors: bool = True
) -> list[str]:
    """A row's texts under `headers`. `score_errors=False` leaves errors to the mean alone, for
    narrow terminals.
    """
    inner = joint if score_errors else None
    # A row without any number says so once.
    texts = [
        MISSING if row.failed else format_cell(row.cells[i], c.percent, c.digits, inner)
        for i, c in select_columns(table, part)
    ]
    if part == "tasks":
        return texts
    texts += [
        format_cell(row.mean, True, 1, joint),
        *([format_rank(row)] if _has_ranks(table) else []),
    ]
    if part == "means":
        texts += [MISSING if row.failed else format_cell(c, True, 1, inner) for c in row.summaries]
    texts += ["" if row.control is None else format_difference(row.difference, joint)]
    return texts + ([format_seeds(row)] if table.seeds > 1 else [])


def make_clean_headers(table: Table) -> list[str]:
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
    return [*tasks, label_mean(table)]


def format_clean_row(table: Table, row: Row) -> list[str]:
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
            MISSING if pair is None else " → ".join(format_number(v, shown, digits) for v in pair)
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


def make_grids(table: Table, joint: str) -> Iterator[Grid]:
    """Every table of a page in order; what is printed is somebody else's text and must be
    escaped.
    """
    for block in table.blocks:
        for section in block.sections:
            for part in list_parts(table):
                groups: dict[str, list[tuple[Row, list[str]]]] = {}
                for row in section.rows:
                    groups.setdefault(find_vocabulary(row), []).append(
                        (row, format_row(table, row, part, joint))
                    )
                yield Grid(block, section, part, make_headers(table, part), list(groups.items()))


def find_vocabulary(row: Row) -> str:
    """`original` for a family's own models; "" for baselines and local models."""
    if row.stage in ("baseline", "local"):
        return ""
    return row.label.split("/")[0] if "/" in row.label else "original"


def format_marks(row: Row) -> str:
    """What must stand beside a model's name: limited, of an earlier version, number of its
    failure.
    """
    parts = [f"limit {row.limit}"] if row.limit is not None else []
    parts += [STALE] if row.stale else []
    parts += (
        [f"failed ({row.failure})" if row.failed else f"({row.failure})"]
        if row.failure is not None
        else []
    )
    return " ".join(parts)


def label_mean(table: Table) -> str:
    """The suite's name for it, else `centred mean` or `mean`."""
    return table.mean_name or ("centred mean" if table.mean_kind == "centred" else "mean")


def describe_condition(block: Block) -> str:
    """`Chat format, 0-shot: protocol greedy, engine hf, float32`."""
    c = block.condition
    how = "Chat format" if c.format == "chat" else "Plain format"
    return (
        f"{how}, {c.shots}-shot: protocol {c.protocol}, engine {c.engine}, "
        f"{c.dtype if c.dtype != 'unknown' else 'number format unknown'}"
    )


def clean_text(text: str) -> str:
    """One line without control or direction-changing characters: names and reasons are somebody
    else's.
    """
    return " ".join(
        "".join(
            " " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in text
        ).split()
    )


def explain_seeds(table: Table) -> str:
    """What the number of training seeds allows to be claimed."""
    if table.seeds > 1:
        return (
            f"Up to {table.seeds} training seeds: a trained model's row is the mean over its "
            "seeds, sd their standard deviation; "
            "the error of its difference includes the seeds."
        )
    return (
        "One training seed: the numbers describe this checkpoint only. Errors are over items; how "
        "much another training run would differ was not measured."
    )


def explain_signs(table: Table) -> str | None:
    """What the signs beside numbers say, and how sure they are; None where there are none."""
    if not any(c.verdict for row in table.rows for c in row.cells) and not any(
        r.difference and r.difference.verdict for r in table.rows
    ):
        return None
    equal = f"±{format_number(table.delta, True, 1)}"
    return (
        f"▲ higher, ▼ lower, = equal (the 95% interval lies within {equal}), · undecided: "
        "the mean, and each single score, compared with the row whose letter follows the "
        "difference. Higher and lower require that p, corrected by Holm over the comparisons of a "
        f"block, is at most {ALPHA:g}."
    )


def explain_marks(table: Table) -> list[str]:
    """What the marks beside models' names say, those that there are."""
    lines = (
        [f"{STALE} scored with an earlier version of the task."]
        if any(row.stale for row in table.rows)
        else []
    )
    if any(row.limit is not None for row in table.rows):
        lines.append("limit N: scored on only N items per task; do not cite.")
    return lines


def name_tasks(table: Table, tasks: tuple[str, ...]) -> str:
    """`all tasks`, or their names."""
    return "all tasks" if len(tasks) == len(table.items) else ", ".join(tasks)


def list_failures(table: Table) -> list[str]:
    """A line per failure, numbered as the rows are marked."""
    return [
        (
            f"({f.number}) {clean_text(f.model)}, {name_tasks(table, f.tasks)}: failed: "
            f"{clean_text(f.reason)}"
        )
        for f in table.failures
    ]


def shorten_parent(name: str) -> str:
    """A parent's name; of a path on this machine the last part: pages and cards are published."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def format_value(value: object) -> str:
    """A parameter or measured value: `12,000`, `0.0321`, `a, b`; of more than twelve values how
    many.
    """
    if isinstance(value, list | tuple):
        return f"{len(value)} values" if len(value) > 12 else ", ".join(map(format_value, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


RANKS_EXPLAINED = (
    "rank: by the mean among these rows, from the best to the worst rank that the errors allow "
    "(95%, all rows jointly)."
)


def make_legend(table: Table) -> list[str]:
    """What must stand below the tables wherever they are shown."""
    lines = ["Scores in percent, ± one standard error over items (none where all items agree)."]
    lines += (
        ["Fewer bits per byte are better."] if any(c.metric == BITS for c in table.columns) else []
    )
    lines += [remark] if (remark := explain_signs(table)) else []
    lines += [RANKS_EXPLAINED] if _has_ranks(table) else []
    return [*lines, *explain_marks(table), explain_seeds(table)]


def describe_power(block: Block) -> str | None:
    """The smallest difference of the mean that the suite could have found, in words."""
    if block.smallest is None:
        return None
    size = format_number(block.smallest, True, 1)
    return (
        f"A single comparison of this kind detects a true difference of {size} points of the mean "
        "with a power of 80%; smaller ones are often missed."
    )


def explain_sampling(table: Table) -> str:
    """What sd beside a score says."""
    return (
        "(sd x): this task samples its answers; the score is the mean over "
        f"{table.samplings} sampling seeds, and x is the standard deviation over them (for a "
        "mean: of its tasks together)."
    )


def list_controls() -> list[tuple[str, str]]:
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


def list_refusals(table: Table) -> list[tuple[str, list[Row]]]:
    """Each reason why a difference is refused, with the rows concerned."""
    found: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.refused:
            found.setdefault(row.refused, []).append(row)
    return list(found.items())


def describe_noise(measured: Noise, where: str, model: str, task: str) -> str:
    """What was measured of the noise floor, in words; machine, model and task as the page writes
    them.
    """
    flips = (
        f"{measured.flipped} answer{'s' if measured.flipped > 1 else ''} flipped"
        if measured.flipped
        else "no answer flipped"
    )
    return (
        f"Noise floor, {where}: {model} answered {measured.items} items of {task} twice, in "
        "different batches: "
        f"{flips}, log-probabilities differed by at most {measured.largest:.1g}."
    )


COST_HEADERS = (
    "relative tokens",
    "tokens in",
    "tokens out",
    "seconds",
    "characters per second",
    "peak memory",
)


def make_cost_headers(table: Table) -> list[str]:
    """Headings after the model's name: quality, then cost."""
    return [label_mean(table), *(c.label for _, c in select_columns(table, "means")), *COST_HEADERS]


def format_cost(table: Table, row: Row) -> list[str]:
    """A row's texts under `headers`."""
    quality = [
        format_cell(row.mean, True, 1, None),
        *(
            format_cell(row.cells[i], c.percent, c.digits, None)
            for i, c in select_columns(table, "means")
        ),
    ]
    less = table.relative_tokens(row)
    quality.append(MISSING if less is None else format_number(less, False, 2))
    spent = row.cost
    if spent is None or not spent.tasks:
        return [*quality, *([MISSING] * (len(COST_HEADERS) - 1))]
    texts = [f"{spent.tokens_in:,}", f"{spent.tokens_out:,}", MISSING, MISSING, MISSING]
    if spent.seconds:
        texts[2:4] = (
            f"{spent.seconds:,.1f}",
            f"{float(f'{spent.characters / spent.seconds:.3g}'):,.0f}",
        )
    if spent.memory:
        texts[4] = f"{spent.memory / 2**30:.2f} GiB"
    return [*quality, *texts]


def count_timed(row: Row) -> str:
    """What stands beside a name whose cells do not all count."""
    return (
        f"{row.cost.tasks} of {row.cost.of} tasks"
        if row.cost and row.cost.tasks < row.cost.of
        else ""
    )


def group_machines(block: Block) -> list[tuple[str, list[Row]]]:
    """What the rows of a block were measured on."""
    found: dict[str, list[Row]] = {}
    for row in block.rows:
        if row.cost and row.cost.tasks:
            found.setdefault(row.cost.machine, []).append(row)
    return list(found.items())


def explain_cost(table: Table) -> list[str]:
    """How to read these numbers."""
    return [*COST_REMARKS, *([PARTIAL_COST] if any(map(count_timed, table.rows)) else [])]


COST_REMARKS = (
    (
        "relative tokens: tokens needed for the same Russian text, relative to the instruct "
        "model of the family (base models: to the base), from symbols per token."
    ),
    (
        "seconds: time that the engine spent answering, without loading the model and preparing "
        "prompts."
    ),
    (
        "tokens in: tokens really read, without padding; text that several questions share counts "
        "once. characters: length of the questions, a prompt once per option. Longer tokens are "
        "fewer tokens, so compare vocabularies by characters per second, not by tokens."
    ),
    (
        "peak memory: on a GPU what torch allocated there, otherwise the whole process, "
        "including libraries (about 0.5 GiB) and other loaded models."
    ),
)
PARTIAL_COST = (
    "N of M tasks: the other tasks failed, were not run or were answered from the cache of an "
    "earlier run; these numbers exclude them."
)

HEALTH_HEADERS = (
    "texts",
    "stopped in time",
    "Cyrillic letters",
    f"repeated {N}-word sequences",
    "invalid UTF-8",
)
HEALTH_REMARKS = (
    (
        "Texts that a model wrote itself (greedy, or the first of several samples), in "
        "percent; multiple-choice tasks have none."
    ),
    (
        "stopped in time: ended before the limit on new tokens; results of earlier versions "
        "did not record it."
    ),
    (
        "Cyrillic letters: share of all letters where the reference answer is Russian. Latin "
        "names keep it below 100."
    ),
    (
        f"repeated: sequences of {N} words that occurred earlier in the same text; invalid: "
        "texts with bytes that are not valid UTF-8."
    ),
)


def format_health(row: Row) -> list[str]:
    """A row's texts under `HEADERS`."""
    h = row.health
    if h is None:
        return [MISSING] * len(HEALTH_HEADERS)
    return [
        f"{h.texts:,}",
        *(
            MISSING if share is None else format_number(share, True, 1)
            for share in (h.stopped, h.cyrillic, h.repeated, h.invalid)
        ),
    ]
