"""`lep-bench gate`: what passes, what does not, and input that is none."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboard"))
from invented_run import SUITE, TASKS, Run, cell, models

from lep_bench.cli.compare import show_gate
from lep_bench.leaderboard import compare
from lep_bench.leaderboard.assemble import make_drafts
from lep_bench.leaderboard.cells import Lookup, Metrics, choose_results
from lep_bench.leaderboard.examine import examine_results
from lep_bench.leaderboard.measure import Draft
from lep_bench.leaderboard.table import Difference
from lep_bench.records.schema import Score
from lep_bench.records.store import Store

MODELS = {m.name: m for m in models()}
A, B = "mini-llama/bpe/swap", "mini-llama/bpe/overlap"


def write(
    out: Path, name: str, wrong: int = 0, right: int = 0, items: int = 600, **fields: object
) -> None:
    """A model's cells; of every task `wrong` right answers made wrong, from the first on, and
    `right` wrong ones made right, from the last on.
    """
    for task in TASKS[:4]:
        result, samples = cell(MODELS[name], task, items=items)
        for order, count, before in ((samples, wrong, 1.0), (samples[::-1], right, 0.0)):
            for s in [s for s in order if s.values[result.primary] == before][:count]:
                s.values[result.primary] = 1.0 - before
        values = [s.values[result.primary] for s in samples]
        scores = {result.primary: Score(value=sum(values) / len(values))}
        Store(out).write(result.model_copy(update={"scores": scores, **fields}), samples)


@pytest.fixture
def baseline(cli: Callable, tmp_path: Path) -> Path:
    for name in (A, B):
        write(tmp_path / "before", name)
    answer = cli("gate", tmp_path / "b.json", "--write", "--out", tmp_path / "before")
    assert answer.code == 0 and "2 models, 8 cells" in answer.out
    return tmp_path / "b.json"


def test_unchanged_answers_pass(cli: Callable, baseline: Path, tmp_path: Path) -> None:
    answer = cli("gate", baseline, "--out", tmp_path / "before", "--max-drop", "0")
    assert (
        answer.code == 0
        and "all 2 pass" in answer.out
        and len(re.findall(r" 0\.00 +0\.00  passes", answer.out)) == 2
    )


@pytest.mark.parametrize(
    ("wrong", "right", "drop", "passes"),
    [
        (1, 0, 0.02, True),
        (1, 0, 0.002, False),
        (30, 0, 0.01, False),
        (30, 0, 0.15, True),
        (10, 10, 0.03, True),
        (0, 30, 0.01, True),
    ],
)
def test_a_drop_that_cannot_be_excluded_fails(
    cli: Callable, baseline: Path, tmp_path: Path, wrong: int, right: int, drop: float, passes: bool
) -> None:
    write(tmp_path / "now", A, wrong, right)
    write(tmp_path / "now", B)
    answer = cli("gate", baseline, "--out", tmp_path / "now", "--max-drop", drop)
    assert answer.code == (0 if passes else 1), answer.out
    lines = [line for line in answer.out.splitlines() if line.startswith(f"{A}: ")]
    if passes:
        assert not lines
    else:
        assert (
            len(lines) == 1
            and f"dropped by {100 * drop:g} points or more" in lines[0]
            and "1 of 2 models do not pass" in answer.err
        )
        assert ("may have" in lines[0]) == (wrong == 1)


def test_models_left_out_do_not_count(cli: Callable, baseline: Path, tmp_path: Path) -> None:
    write(tmp_path / "now", A, 100)
    write(tmp_path / "now", B)
    assert cli("gate", baseline, "--out", tmp_path / "now", "--models", B).code == 0


def test_a_published_folder_is_a_baseline(cli: Callable, tmp_path: Path, baseline: Path) -> None:
    from lep_bench.config.load import Configs
    from lep_bench.leaderboard import publish

    store = Store(tmp_path / "before")
    publish.write_leaderboard(
        tmp_path / "page", Configs.of().suite("mini"), store.read_all("mini"), store.skim
    )
    assert cli("gate", tmp_path / "page" / "results.jsonl", "--out", tmp_path / "before").code == 0


def test_unusable_input(cli: Callable, baseline: Path, tmp_path: Path) -> None:
    def fails(*arguments: object, said: str) -> None:
        answer = cli("gate", *arguments)
        assert (
            answer.code == 2 and said in answer.err and len(answer.err.strip().splitlines()) == 1
        ), answer

    before = tmp_path / "before"
    fails(tmp_path / "no.json", "--out", before, said="--write")
    (tmp_path / "damaged.json").write_text(baseline.read_text()[:3000])
    fails(tmp_path / "damaged.json", "--out", before, said="damaged.json:")
    write(tmp_path / "one", A)
    fails(baseline, "--out", tmp_path / "one", said=f"{B} has no score now")
    write(tmp_path / "other", A, task_fingerprint="v2")
    fails(
        baseline,
        "--out",
        tmp_path / "other",
        "--models",
        A,
        said="run the older one again",
    )
    write(tmp_path / "fewer", A, items=300)
    fails(baseline, "--out", tmp_path / "fewer", "--models", A, said="300 items and 600 items")
    fails(baseline, "--out", before, "--models", "nobody", said="unknown model 'nobody'")


def test_unchanged_fractions_pass(cli: Callable, tmp_path: Path) -> None:
    """A kept baseline has five digits of each item's score."""
    for task in TASKS[:4]:
        result, samples = cell(MODELS[A], task)
        for s in samples:
            s.values[result.primary] = 1 / (3 + s.doc_id)
        values = [s.values[result.primary] for s in samples]
        Store(tmp_path).write(
            result.model_copy(
                update={"scores": {result.primary: Score(value=sum(values) / len(values))}}
            ),
            samples,
        )
    assert cli("gate", tmp_path / "b.json", "--write", "--out", tmp_path).code == 0
    answer = cli("gate", tmp_path / "b.json", "--out", tmp_path, "--max-drop", "0")
    assert answer.code == 0, answer.out


def test_means_are_printed_as_in_the_leaderboard(capsys: pytest.CaptureFixture[str]) -> None:
    """100 * 0.2875 is a little less than 28.75, and a kept score has 12 digits: the last bits of a
    float must not decide.
    """
    show_gate(
        [compare.GateResult(A, 0.287499999999, 0.2875, Difference(A, "", 0.0, 0.0, 1), 0.05, 0.0)],
        0.01,
    )
    assert re.search(r"swap +28\.8 +28\.8 +0\.00 +0\.00  passes", capsys.readouterr().out)


def test_a_folder_or_another_file_is_no_baseline(
    cli: Callable, baseline: Path, tmp_path: Path
) -> None:
    out = tmp_path / "before"
    noise = tmp_path / "noise.json"
    noise.write_text("[\n]\n", encoding="utf-8")
    cases = {
        out: "is a folder: name a file",
        tmp_path / "none.json": "no such file",
        noise: "a results.jsonl of a leaderboard is expected",
    }
    for file, said in cases.items():
        answer = cli("gate", file, "--out", out)
        assert answer.code == 2 and said in answer.err and answer.err.count("\n") == 1, answer.err
    assert "is a folder: name a file" in cli("gate", out, "--write", "--out", out).err


def seeded(wrong: int = 0) -> tuple[list[Draft], Lookup]:
    """A model of three training seeds, and its items; of every task and seed `wrong` right answers
    made wrong.
    """
    run = Run()
    for seed in range(3):
        for task in TASKS[:4]:
            result, samples = cell(MODELS[A].model_copy(update={"seed": seed}), task, items=300)
            for s in [s for s in samples if s.values[result.primary] == 1.0][:wrong]:
                s.values[result.primary] = 0.0
            values = [s.values[result.primary] for s in samples]
            run.add(
                (
                    result.model_copy(
                        update={"scores": {result.primary: Score(value=sum(values) / len(values))}}
                    ),
                    samples,
                )
            )
    chosen, items = examine_results(
        choose_results(run.results, SUITE.name, TASKS), run.samples, Metrics.load(TASKS)
    )
    return make_drafts(chosen, SUITE), items


def test_seeds_of_both_sides_go_together() -> None:
    """How far the seeds lie apart says nothing about a change that all of them show alike."""
    (before, old), (now, new), (lost, other) = seeded(), seeded(), seeded(1)
    (same,) = compare.gate_models([(before[0], now[0])], SUITE, (old, new), 0.001)
    assert same.bound == pytest.approx(0, abs=1e-12)
    (less,) = compare.gate_models([(before[0], lost[0])], SUITE, (old, other), 0.02)
    assert (
        less.difference.value == pytest.approx(-(2 / 0.75 + 2) / 4 / 300)
        and -0.02 < less.bound < less.difference.value
    )


def test_after_one_that_fails_no_other_passes() -> None:
    """Of 20 models alike none can be shown to pass at 5% / 20, though the last one's bound at 5%
    would do.
    """
    (before, old), (now, new) = seeded(), seeded(4)
    pairs = [(before[0], now[0])] * 20
    single = compare.gate_models(pairs[:1], SUITE, (old, new), 0.1)[0]
    drop = -single.bound + 0.0005
    assert compare.gate_models(pairs[:1], SUITE, (old, new), drop)[0].bound > -drop
    many = compare.gate_models(pairs, SUITE, (old, new), drop)
    assert {g.level for g in many} == {0.05 / 20} and all(g.bound < -drop for g in many)


def test_levels_grow_as_holm_says_and_bounds_are_one_sided() -> None:
    """Of three models that pass, one passes at 5% / 3, the next at 5% / 2, the last at 5%."""
    (before, old), (now, new) = seeded(), seeded(4)
    found = compare.gate_models([(before[0], now[0])] * 3, SUITE, (old, new), 0.5)
    assert sorted(g.level for g in found) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    far = {round(0.05 / g.level): g.difference.value - g.bound for g in found}
    # Quantiles of the normal distribution: 1.645 at 95%, 2.128 at 98.33%.
    assert far[1] / far[3] == pytest.approx(1.645 / 2.128, rel=0.02)
