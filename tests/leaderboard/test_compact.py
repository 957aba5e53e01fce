"""The committed file: scores that are no means keep what they are computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from invented_paper import MODELS, PAPER, cell, whole

from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import examine, snapshot
from lep_bench.leaderboard.cells import Metrics, choose_results
from lep_bench.records.schema import CHANGED

ORDER = [m.name for m in MODELS]


@pytest.fixture(scope="module")
def text() -> str:
    run = whole()
    chosen, items = examine.examine_results(
        choose_results(run.results, "paper", PAPER.tasks), run.samples, Metrics.load(PAPER.tasks)
    )
    return snapshot.render_snapshot(snapshot.Snapshot(PAPER, ORDER, chosen, items))


def test_items_of_every_kind_come_back(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.jsonl").write_text(text, encoding="utf-8")
    held = snapshot.read_snapshot(tmp_path / "r.jsonl")
    run = whole()
    chosen, lookup = examine.examine_results(
        choose_results(run.results, "paper", PAPER.tasks), run.samples, Metrics.load(PAPER.tasks)
    )
    before = {(c.result.model.name, c.result.task): lookup(c.result) for c in chosen}
    assert len(held.chosen) == len(before)
    resampled = 0
    for c in held.chosen:
        ours, first = held.lookup(c.result), before[c.result.model.name, c.result.task]
        assert (ours is None) == (first is None)
        if ours is None or first is None:
            continue
        assert ours.ids == first.ids and ours.groups == first.groups
        assert ours.values == pytest.approx(first.values, rel=1e-4)
        for a, b in zip(ours.raws, first.raws, strict=True):
            counts = np.random.default_rng(0).multinomial(60, a.whole / 60, 20)
            assert (a.codes == b.codes).all() and (ours.values == first.values).all()
            assert (a.scores(counts) == b.scores(counts)).all()
            resampled += 1
    assert resampled > 30
    again = snapshot.render_snapshot(held)
    assert again == text


def test_cells_that_contradict_their_samples_fail(tmp_path: Path) -> None:
    result, samples = cell(MODELS[1], "darumeru_parus")
    other = result.model_copy(
        update={"scores": {"score": result.scores["score"].model_copy(update={"value": 0.99})}}
    )
    chosen, items = examine.examine_results(
        choose_results([other], "paper", PAPER.tasks), lambda r: samples, Metrics.load(PAPER.tasks)
    )
    assert CHANGED in chosen[0].failure and items(chosen[0].result) is None
    (tmp_path / "r.jsonl").write_text(
        snapshot.render_snapshot(snapshot.Snapshot(PAPER, ORDER, chosen, items)), encoding="utf-8"
    )
    (read,) = snapshot.read_snapshot(tmp_path / "r.jsonl").chosen
    assert read.failure == chosen[0].failure and not read.result.scores


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"codes":[0,', '"codes":['),
        ('"values":"', '"values":"2'),
        ('"values":"', '"values":"x'),
        ('"codes":[0,', '"codes":["a",'),
    ],
)
def test_damaged_items_name_their_line(tmp_path: Path, text: str, old: str, new: str) -> None:
    (tmp_path / "r.jsonl").write_text(text.replace(old, new, 1), encoding="utf-8")
    number = 1 + next(i for i, line in enumerate(text.split("\n")) if old in line)
    with pytest.raises(
        LepBenchError, match=rf"r\.jsonl:{number}: cannot be read \(ValueError: .*publish it again"
    ):
        snapshot.read_snapshot(tmp_path / "r.jsonl")
