"""Which comparisons are planned, how they are judged together, and who is ranked with whom."""

from __future__ import annotations

import pytest
from invented_run import CHANCE, ORDER, SUITE, TASKS, Run, cell, drawn, models
from pydantic import ValidationError
from statsmodels.stats.multitest import multipletests

from lep_bench.config.schema import Mean
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import compare
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.table import Contrast, Row, Table
from lep_bench.records.schema import Machine

MODELS = {m.name: m for m in models()}


def table(*names: str, seeds: int = 1, **how: object) -> Table:
    run = Run()
    for name in names:
        for seed in range(
            seeds if MODELS[name].tuning or MODELS[name].stage == "propagation" else 1
        ):
            for task in TASKS:
                run.add(cell(MODELS[name].model_copy(update={"seed": seed}), task, **how))
    return build_table(run.results, run.samples, SUITE, ORDER)


def rows(table: Table) -> dict[str, Row]:
    return {row.model: row for row in table.rows}


@pytest.fixture(scope="module")
def whole() -> Table:
    return table(*(name for name in MODELS if name.startswith("mini-llama")))


def test_the_plan() -> None:
    some = (
        "base",
        "instruct",
        "instruct+self-calibration",
        "original/donor",
        "bpe/init",
        "bpe/instruct-init",
        "bpe/donor",
        "bpe/swap",
        "bpe/overlap",
        "bpe/conversion",
        "bpe/conversion+self-calibration",
    )
    plan = compare.plan_contrasts([MODELS[f"mini-llama/{m}"] for m in some])
    short = {(q, a.removeprefix("mini-llama/"), b.removeprefix("mini-llama/")) for q, a, b in plan}
    assert short == {
        *(
            (compare.ADAPTED, f"bpe/{m}", "instruct")
            for m in ("instruct-init", "swap", "overlap", "conversion")
        ),
        (compare.ADAPTED, "bpe/conversion+self-calibration", "instruct+self-calibration"),
        (compare.TUNED, "bpe/conversion+self-calibration", "bpe/conversion"),
        (compare.TUNED, "instruct+self-calibration", "instruct"),
        (compare.METHODS, "bpe/swap", "bpe/overlap"),
        (compare.METHODS, "bpe/swap", "bpe/conversion"),
        (compare.METHODS, "bpe/overlap", "bpe/conversion"),
        (compare.VOCABULARY, "bpe/donor", "original/donor"),
        *((compare.TRAINED, m, "base") for m in ("original/donor", "bpe/init", "bpe/donor")),
    }
    assert (
        compare.plan_contrasts([MODELS["mini-llama/bpe/swap"], MODELS["mini-mistral/instruct"]])
        == []
    )


def test_variants_of_a_tuning_have_their_own_controls() -> None:
    made = MODELS["mini-llama/bpe/conversion+self-calibration"]
    one = made.model_copy(update={"variant": "copies", "name": made.name + "@copies"})
    plain, other = (
        MODELS["mini-llama/bpe/conversion"],
        MODELS["mini-llama/instruct+self-calibration"],
    )
    assert compare.plan_contrasts([one, plain, made, other]) == [
        (compare.ADAPTED, made.name, other.name),
        (compare.TUNED, one.name, plain.name),
        (compare.TUNED, made.name, plain.name),
    ]


def test_every_finding_is_corrected_for_all_of_its_block(whole: Table) -> None:
    for block in whole.blocks:
        once: dict[tuple[str, str], Contrast] = {
            (f.model, f.difference.control): f for f in block.findings
        }
        p = [f.difference.p for f in once.values()]
        assert [f.difference.corrected for f in once.values()] == pytest.approx(
            multipletests(p, 0.05, "holm")[1].tolist()
        )
        names = {row.model for section in block.sections for row in section.rows}
        assert {name for f in block.findings for name in (f.model, f.difference.control)} <= names
        assert block.smallest is not None and 0.01 < block.smallest < 0.5
    chat = whole.blocks[0]
    assert {f.question for f in chat.findings} == {compare.ADAPTED, compare.TUNED, compare.METHODS}


def test_a_row_shows_the_finding_against_its_control(whole: Table) -> None:
    found = {
        (f.model, f.difference.control): f.difference
        for block in whole.blocks
        for f in block.findings
    }
    for row in whole.rows:
        if row.difference:
            d = found[row.model, row.difference.control]
            assert (d.value, d.p, d.corrected, d.low, d.verdict) == (
                row.difference.value,
                row.difference.p,
                row.difference.corrected,
                row.difference.low,
                row.difference.verdict,
            )
            assert d.low <= d.value <= d.high and d.stderr and d.test
    assert rows(whole)["mini-llama/bpe/instruct-init"].difference.verdict == "lower"


def test_single_tasks_have_verdicts_in_the_mean_only(whole: Table) -> None:
    row = rows(whole)["mini-llama/bpe/instruct-init"]
    assert [c.verdict for c in row.cells] == [None, "lower", "lower", "lower", "lower", None]
    assert {c.verdict for c in rows(whole)["mini-llama/instruct"].cells} == {None}


def test_ranks_hold_the_order_and_name_ties(whole: Table) -> None:
    for block in whole.blocks:
        for section in block.sections:
            n = len(section.rows)
            for row in section.rows:
                place = 1 + sum(other.mean.value > row.mean.value for other in section.rows)
                assert 1 <= row.rank[0] <= place <= row.rank[1] <= n
    assert rows(whole)["mini-llama/bpe/instruct-init"].rank[0] > 10


def test_the_same_answers_are_equal_only_with_enough_items() -> None:
    """Two names of one model: 60 items, in 20 groups, cannot say that they never differ."""
    for items, said in ((60, "undecided"), (1500, "equal")):
        run = Run()
        for task in TASKS:
            result, samples = cell(MODELS["mini-llama/instruct"], task, items=items)
            run.add((result, samples))
            run.add((result.model_copy(update={"model": MODELS["mini-llama/bpe/swap"]}), samples))
        d = rows(build_table(run.results, run.samples, SUITE, ORDER))[
            "mini-llama/bpe/swap"
        ].difference
        assert (d.value, d.stderr, d.p, d.corrected, d.verdict) == (0.0, 0.0, 1.0, 1.0, said)


def test_several_seeds_are_a_t_test_and_one_is_of_the_items() -> None:
    names = (
        "mini-llama/instruct",
        "mini-llama/instruct+self-calibration",
        "mini-llama/bpe/conversion+self-calibration",
    )
    many = rows(table(*names, seeds=3))[names[2]].difference
    assert many.test == "t over 3 seeds" and many.seeds == 3 and many.low < many.value < many.high
    single = rows(table(*names))[names[2]].difference
    assert single.seeds == 1 and "t over" not in single.test


def test_other_machines_and_changed_results_are_in_no_finding() -> None:
    names = ["mini-llama/instruct", "mini-llama/bpe/swap", "mini-llama/bpe/overlap"]
    run = Run()
    for name in names:
        for task in TASKS:
            result, samples = cell(MODELS[name], task)
            if name == names[1]:
                provenance = result.provenance.model_copy(update={"engine_version": "9"})
                assert provenance.machine != result.provenance.machine and isinstance(
                    provenance.machine, Machine
                )
                result = result.model_copy(update={"provenance": provenance})
            run.add((result, samples))
    made = build_table(run.results, run.samples, SUITE, ORDER)
    assert [(f.model, f.difference.control) for f in made.blocks[0].findings] == [
        (names[2], names[0])
    ]
    assert (
        rows(made)[names[1]].rank is None
        and rows(made)[names[0]].rank is not None
        and rows(made)[names[1]].refused
    )


def test_delta_is_the_suites() -> None:
    wide = SUITE.model_copy(update={"mean": SUITE.mean.model_copy(update={"delta": 0.5})})
    run = Run()
    for name in ("mini-llama/bpe/swap", "mini-llama/bpe/overlap"):
        for task in TASKS:
            run.add(cell(MODELS[name], task))
    made = build_table(run.results, run.samples, wide, ORDER)
    assert made.delta == 0.5 and made.blocks[0].findings[0].difference.verdict == "equal"
    assert len(CHANCE) == 4


def test_lower_is_better_is_in_no_mean() -> None:
    run = Run()
    result, samples = cell(MODELS["mini-llama/instruct"], "mini_copy_ru")
    run.add((result.model_copy(update={"higher_is_better": False}), samples))
    with pytest.raises(
        LepBenchError, match="mini_copy_ru lower scores are better: take it out of the suite's mean"
    ):
        build_table(run.results, run.samples, SUITE, ORDER)


@pytest.mark.parametrize("chance", [25, 1.0, -0.1])
def test_chance_is_a_share(chance: float) -> None:
    with pytest.raises(ValidationError):
        Mean(kind="centred", tasks={"t": chance})


def test_the_order_of_results_changes_nothing() -> None:
    run = Run.whole(seeds=2)
    turned = build_table(
        sorted(run.results, key=lambda r: drawn(r.model.name, r.task, r.model.seed)),
        run.samples,
        SUITE,
        ORDER,
    )
    assert repr(turned) == repr(build_table(run.results, run.samples, SUITE, ORDER))


def test_running_text_asked_in_two_ways_does_not_depend_on_when() -> None:
    """A published page knows no dates."""
    donor, found = MODELS["mini-llama/original/donor"], []
    for dates in (("2025-01", "2025-02"), ("2025-02", "2025-01")):
        run = Run()
        for task in TASKS[:4]:
            run.add(cell(donor, task))
        for shots, date in zip((1, 2), dates):
            result, samples = cell(donor, TASKS[4], items=30 * shots, created=date)
            run.add(
                (
                    result.model_copy(
                        update={"scoring": result.scoring.model_copy(update={"shots": shots})}
                    ),
                    samples,
                )
            )
        found.append(
            rows(build_table(run.results, run.samples, SUITE, ORDER))[donor.name].cells[-1]
        )
    assert found[0] == found[1] and found[0].samples == 30
