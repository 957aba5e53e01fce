"""Which variant to ship: the rule on tables made by hand, and what it says when something is
missing.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from lep_bench.leaderboard import recommend
from lep_bench.leaderboard.cells import Condition
from lep_bench.leaderboard.table import (
    SYMBOLS,
    Block,
    Cell,
    Column,
    Difference,
    Row,
    Section,
    Table,
)

COLUMN = Column(SYMBOLS, "symbols per token", "text", SYMBOLS, False, 2, False)
LOSS = Difference(
    "f/instruct+t", "A", -0.02, 0.004, 1, -0.028, -0.012, 0.0004, 0.0008, "lower", "sign flips"
)


def row(
    label: str,
    mean: float | None,
    symbols: float | None = 3.0,
    rank: tuple[int, int] | None = None,
    **more: object,
) -> Row:
    stage = (
        "instruct"
        if label.split("+")[0] == "instruct"
        else "instruct-init"
        if label.endswith("init")
        else "propagation"
    )
    cell = Cell("ok", mean, 0.01, seeds=1) if mean is not None else Cell("missing")
    first = Cell("ok", symbols, seeds=1) if symbols else Cell()
    known: dict[str, object] = {"control": "f/instruct+t", "difference": None, **more}
    return Row(f"f/{label}", label, stage, "", (first,), cell, failure=None, rank=rank, **known)


def table(*rows: Row, stage: str | None = None, smallest: float | None = 0.03) -> Table:
    rows = tuple(replace(one, stage=stage) for one in rows) if stage else rows
    block = Block(
        Condition("greedy", 0, "chat", "hf", "float32"), (Section("f", "f/", rows),), (), smallest
    )
    return Table(
        "s",
        "S",
        "",
        (COLUMN,),
        "plain",
        (("text", 0.0),),
        (("text", 9),),
        (block,) if rows else (),
        (),
    )


WHOLE = (
    row("instruct", 0.90, 2.0, (1, 2)),
    row("instruct+t", 0.89, 2.0, (1, 2)),
    row("a/init", 0.95, 4.0, None),
    row("a/swap", 0.86, 2.5, (4, 5)),
    row("a/swap+t", 0.87, 2.5, (3, 4), difference=LOSS),
    row("b/swap", 0.80, 4.0, (6, 6)),
    row("c/swap+t", 0.88, 1.9, (3, 3)),  # better, but needs more tokens than instruct
)


def said(given: Table) -> str:
    ((_, sentences),) = recommend.recommendation_lines(given, lambda name: f"<{name}>")
    return " ".join(sentences)


def test_the_rule() -> None:
    (advice,) = recommend.recommend_models(table(*WHOLE[:2], *WHOLE[3:]))
    assert advice.best is WHOLE[0] and advice.best_tied == (WHOLE[1],)
    assert advice.cheaper is WHOLE[4] and advice.tied == (WHOLE[3],) and advice.of == 3
    assert advice.saved == pytest.approx(0.2)
    out = said(table(*WHOLE[:2], *WHOLE[3:]))
    assert (
        "Quality first: <f/instruct> (mean 90.0), statistically indistinguishable from <f/instruct+t>."
        in out
    )
    assert (
        "Cheaper Russian: <f/a/swap+t> (mean 87.0, 20% fewer tokens per Russian text than "
        "instruct), statistically indistinguishable from <f/a/swap>."
    ) in out
    assert (
        "Compared with <f/instruct+t>, tuned alike: −2.0 [−2.8, −1.2], corrected p < 0.001: lower; "
        "that is the price of the saving."
    ) in out
    assert "the best of 3 variants, picked by this same mean" in out and "One training seed" in out


def test_untrained_stand_ins_are_never_shipped() -> None:
    (advice,) = recommend.recommend_models(table(WHOLE[0], WHOLE[2]))
    assert advice.cheaper is None and "no adapted variant was scored on every task" in advice.gap


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("higher", "higher, and cheaper: ship it"),
        ("equal", "equal within ±1.0, and cheaper: ship it"),
        (
            "undecided",
            (
                "undecided: the data show neither a loss nor equality within ±1.0; such a comparison "
                "mostly finds differences from 3.0 on"
            ),
        ),
        ("lower", "that is the price"),
        (None, "not tested, so undecided"),
    ],
)
def test_how_sure(verdict: str | None, says: str) -> None:
    out = said(
        table(
            WHOLE[0],
            row(
                "a/swap+t",
                0.87,
                2.5,
                (2, 2),
                difference=replace(LOSS, verdict=verdict, corrected=0.25),
            ),
        )
    )
    assert says in out and "corrected p = 0.250" in out
    assert ("ship it" in out) == (verdict in ("higher", "equal"))


def test_several_seeds_are_said() -> None:
    out = said(table(WHOLE[0], row("a/swap", 0.87, 2.5, difference=replace(LOSS, seeds=3))))
    assert "3 training seeds." in out and "One training seed" not in out and "ties unknown" in out


def test_one_variant_is_not_selected() -> None:
    assert "picked by this same mean" not in said(table(WHOLE[0], WHOLE[4]))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ((row("a/swap", 0.8),), "the instruct model was not scored on every task"),
        (
            (row("instruct", None), row("a/swap", 0.8)),
            "the instruct model was not scored on every task",
        ),
        ((row("instruct", 0.9, 2.0),), "no adapted variant was scored on every task"),
        (
            (row("instruct", 0.9, 2.0), row("a/swap", None)),
            "no adapted variant was scored on every task",
        ),
        ((row("instruct", 0.9, None), row("a/swap", 0.8)), "symbols per token were not measured"),
        (
            (row("instruct", 0.9, 4.0), row("a/swap", 0.8, 3.0)),
            "no adapted variant needs fewer tokens than instruct",
        ),
        (
            (row("instruct", None), row("a/swap", None)),
            "No choice: no model was scored on every task",
        ),
        (
            (row("instruct", 0.9, 2.0), row("a/swap", 0.8, 3.0)),
            "its control was not scored on the same items",
        ),
        (
            (row("instruct", 0.9, 2.0), row("a/swap", 0.8, 3.0, refused="cpu against gpu")),
            "not comparable: cpu against gpu",
        ),
    ],
)
def test_what_is_missing_is_said(rows: tuple[Row, ...], says: str) -> None:
    assert says in said(table(*rows))


def test_stale_rows_are_left_out() -> None:
    for mark in ({"stale": True},):
        (advice,) = recommend.recommend_models(
            table(
                WHOLE[0], replace(WHOLE[4], cells=(replace(WHOLE[4].cells[0], **mark),)), WHOLE[5]
            )
        )
        assert advice.cheaper is WHOLE[5]


def test_limited_rows_are_no_ground_to_decide_on() -> None:
    limited = replace(WHOLE[4], cells=(replace(WHOLE[4].cells[0], limit=20),))
    assert "Only 20 items per task were scored for some rows" in said(table(WHOLE[0], limited))


def test_only_baselines_and_nothing_at_all() -> None:
    assert "only models without a family were scored" in said(
        table(row("x", 0.9), stage="baseline")
    )
    assert "nothing has been scored yet" in said(table())


def test_a_family_is_advised_once_unless_it_was_scored_in_several_ways() -> None:
    one = table(WHOLE[0], WHOLE[4])
    few = replace(
        one.blocks[0],
        condition=Condition("greedy", 0, "chat", "vllm", "float32"),
        sections=table(row("a/swap", None)).blocks[0].sections,
    )
    assert [
        family
        for family, _ in recommend.recommendation_lines(
            replace(one, blocks=(few, *one.blocks)), str
        )
    ] == ["f"]
    other = replace(one.blocks[0], condition=few.condition)
    heads = [
        family
        for family, _ in recommend.recommendation_lines(
            replace(one, blocks=(*one.blocks, other)), str
        )
    ]
    assert (
        heads[0].startswith("f (chat format, 0-shot: protocol greedy, engine hf")
        and "engine vllm" in heads[1]
    )


def test_long_ties_are_cut() -> None:
    many = [row(f"v{n}/swap", 0.8, 3.0, (2, 9)) for n in range(7)]
    assert (
        "statistically indistinguishable from <f/v1/swap>, <f/v2/swap>, <f/v3/swap>, <f/v4/swap> and 2 more."
        in said(table(WHOLE[0], *many))
    )
