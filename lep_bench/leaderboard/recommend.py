"""Which variant to ship: the one line that a table is made for, with the rule that was fixed before
the numbers were seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lep_bench.leaderboard import text
from lep_bench.leaderboard.table import Block, Difference, Row, Section, Table

RULE = (
    "The rule was fixed before any number was seen. Quality first: the highest mean of the family. "
    "Cheaper Russian: the highest mean among adapted variants that need fewer tokens per "
    "Russian text than instruct, compared with the instruct model tuned alike. Tied: rows "
    "whose ranks (95%, all rows jointly) overlap. Rows that are stale or not scored "
    "on every task of the mean are left out."
)
NAMED = 4  # tied rows that are named; the rank column has all


@dataclass(frozen=True)
class Advice:
    """What the rule gives for a family under one condition. `saved`: the share of instruct's tokens
    that `cheaper` does not need; `of`: how many variants it was chosen from; `gap` says in words
    what is missing where there is no choice."""

    block: Block
    section: Section
    best: Row | None = None
    best_tied: tuple[Row, ...] = ()
    cheaper: Row | None = None
    tied: tuple[Row, ...] = ()
    of: int = 0
    saved: float = 0.0
    gap: str = ""


def recommend_models(table: Table) -> list[Advice]:
    """One per family and condition under which instruct models or adapted ones were asked."""
    return [
        _recommend(table, block, section)
        for block in table.blocks
        for section in block.sections
        if any(row.stage in ("instruct", "propagation") for row in section.rows)
    ]


def _recommend(table: Table, block: Block, section: Section) -> Advice:
    rows = [row for row in section.rows if row.mean.value is not None and not row.stale]
    if not rows:
        return Advice(block, section, gap="no model was scored on every task of the mean")
    best = pick_highest(rows)
    chosen = Advice(block, section, best, _find_ties(best, rows))
    instruct = next((row for row in rows if row.label == "instruct"), None)
    adapted = [row for row in rows if row.stage == "propagation"]
    if instruct is None or not adapted:
        missing = "the instruct model" if instruct is None else "no adapted variant"
        return replace(
            chosen,
            gap=f"{missing} was {'not ' if instruct is None else ''}scored on every task of the "
            "mean",
        )
    if table.symbols_per_token(instruct) is None:
        return replace(chosen, gap="symbols per token were not measured")
    fewer = [row for row in adapted if (table.relative_tokens(row, instruct) or 1) < 1]
    if not fewer:
        return replace(chosen, gap="no adapted variant needs fewer tokens than instruct")
    pick = pick_highest(fewer)
    return replace(
        chosen,
        cheaper=pick,
        tied=_find_ties(pick, fewer),
        of=len(fewer),
        saved=1 - (table.relative_tokens(pick, instruct) or 1),
    )


def pick_highest(rows: Sequence[Row]) -> Row:
    """The row of the highest mean; all of them must have one."""
    # Ten digits, as they are printed from: the last bits of a float choose nothing, the order of
    # the table does.
    return max(rows, key=lambda row: float(f"{row.mean.value:.10g}"))


def _find_ties(pick: Row, rows: Sequence[Row]) -> tuple[Row, ...]:
    """The others that may rank as high as the pick: wider than a comparison of pairs, and good for
    a pick that was selected.
    """
    if pick.rank is None:
        return ()
    worst = pick.rank[1]
    return tuple(
        row for row in rows if row is not pick and row.rank is not None and row.rank[0] <= worst
    )


def recommendation_lines(
    table: Table, name: Callable[[str], str], plain: Callable[[str], str] = str
) -> list[tuple[str, list[str]]]:
    """Per family its name and the sentences of its advice; `name` and `plain` write model names and
    other people's words as the page wants them. Without any family one entry says so."""
    given = recommend_models(table)
    decided = [advice.section.family for advice in given if advice.best]
    # A few cells asked in another way as well are no second opinion.
    given = [advice for advice in given if advice.best or advice.section.family not in decided]
    found = []
    for advice in given:
        several = decided.count(advice.section.family) > 1
        condition = text.describe_condition(advice.block)
        how = f" ({plain(condition[0].lower() + condition[1:])})" if several else ""
        found.append(
            (plain(advice.section.family) + how, _write_sentences(table, advice, name, plain))
        )
    if found:
        return found
    why = (
        "only models without a family were scored" if table.rows else "nothing has been scored yet"
    )
    return [("", [f"Nothing to ship: {why}."])]


def _write_sentences(
    table: Table, advice: Advice, name: Callable[[str], str], plain: Callable[[str], str]
) -> list[str]:
    if advice.best is None:
        return [f"No choice: {advice.gap}."]
    mean = plain(text.label_mean(table))
    said = [
        (
            f"Quality first: {name(advice.best.model)} ({mean} {_mean(advice.best)})"
            f"{_name_ties(advice.best, advice.best_tied, name)}."
        )
    ]
    pick = advice.cheaper
    if pick is None:
        return [*said, f"Cheaper Russian: no choice: {advice.gap}."]
    less = (
        f"{text.format_number(advice.saved, True, 0)}% fewer tokens per Russian text than instruct"
    )
    said.append(
        f"Cheaper Russian: {name(pick.model)} ({mean} {_mean(pick)}, {less})"
        f"{_name_ties(pick, advice.tied, name)}."
    )
    return [
        *said,
        _describe_difference(table, advice, pick, name, plain),
        _list_caveats(advice, pick),
    ]


def _mean(row: Row) -> str:
    return text.format_cell(row.mean, True, 1, None)


def _name_ties(pick: Row, tied: Sequence[Row], name: Callable[[str], str]) -> str:
    if pick.rank is None:
        return ", ties unknown"
    if not tied:
        return ", ahead of all others (95%)"
    more = f" and {len(tied) - NAMED} more" if len(tied) > NAMED else ""
    return (
        ", statistically indistinguishable from "
        f"{', '.join(name(row.model) for row in tied[:NAMED])}{more}"
    )


def _describe_difference(
    table: Table, advice: Advice, pick: Row, name: Callable[[str], str], plain: Callable[[str], str]
) -> str:
    d = pick.difference
    if d is None:
        why = (
            f"not comparable: {plain(pick.refused)}"
            if pick.refused
            else "its control was not scored on the same items of every task"
        )
        return (
            f"Not compared with {name(pick.control or 'instruct')} ({why}), so its cost in "
            "quality is unknown."
        )
    p = text.format_p(d.corrected)
    said = (
        ""
        if d.corrected is None
        else f", corrected p {p.replace('<', '< ') if p[0] == '<' else f'= {p}'}"
    )
    numbers = f"{text.format_number(d.value, True, 1, sign=True)} {text.format_interval(d)}{said}"
    alike = ", tuned alike" if "+" in pick.label else ""
    return (
        f"Compared with {name(d.control)}{alike}: {numbers}: "
        f"{_explain_verdict(table, advice.block, d)}."
    )


def _explain_verdict(table: Table, block: Block, d: Difference) -> str:
    equal = f"±{text.format_number(table.delta, True, 1)}"
    found = (
        ""
        if block.smallest is None
        else (
            "; such a comparison mostly finds differences from "
            f"{text.format_number(block.smallest, True, 1)} on"
        )
    )
    return {
        "higher": "higher, and cheaper: ship it",
        "lower": "lower; that is the price of the saving",
        "equal": f"equal within {equal}, and cheaper: ship it",
        "undecided": f"undecided: the data show neither a loss nor equality within {equal}{found}",
        None: "not tested, so undecided",
    }[d.verdict]


def _list_caveats(advice: Advice, pick: Row) -> str:
    said = (
        [
            (
                f"It is the best of {advice.of} variants, picked by this same mean, so "
                "expect slightly less elsewhere"
            )
        ]
        if advice.of > 1
        else []
    )
    limited = min((row.limit for row in advice.section.rows if row.limit is not None), default=None)
    said += (
        [f"Only {limited} items per task were scored for some rows, too few to decide by"]
        if limited is not None
        else []
    )
    seeds = pick.difference.seeds if pick.difference else max(pick.mean.seeds, 1)
    said.append(
        "One training seed: this says something about the checkpoint, not about the method"
        if seeds == 1
        else f"{seeds} training seeds"
    )
    return ". ".join(said) + "."
