"""The Python API: frames of what was scored, light to import, refusing in one line."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import lep_bench
import lep_bench.pipeline
from lep_bench.errors import LepBenchError
from lep_bench.records import frame
from lep_bench.records.store import Store

sys.path.insert(0, str(Path(__file__).parent / "leaderboard"))
from invented_run import cell, models

SWAP, OVERLAP = "mini-llama/bpe/swap", "mini-llama/bpe/overlap"
TASKS = ("mini_facts_ru", "mini_facts_en", "mini_copy_ru", "mini_copy_en", "mini_text_ru")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, five tasks, one cell that failed."""
    folder = tmp_path_factory.mktemp("out")
    store = Store(folder)
    by_name = {model.name: model for model in models()}
    for name in (SWAP, OVERLAP):
        for task in TASKS:
            result, samples = cell(by_name[name], task)
            if (name, task) == (OVERLAP, "mini_text_ru"):
                failed = {"status": "failed", "error": "no memory", "scores": {}, "samples": 0}
                result, samples = result.model_copy(update=failed), []
            store.write(result, samples)
    return folder


def test_results_hold_every_score_with_fixed_columns(out: Path) -> None:
    found = lep_bench.results(out)
    assert list(found.columns) == list(frame.RESULTS)
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == frame.RESULTS
    stored = {(r.model.name, r.task): r for r in Store(out).read_all("mini")}
    scored = found[found.status == "ok"]
    assert len(scored) == sum(len(r.scores) for r in stored.values())
    for row in scored.itertuples():
        score = stored[row.model, row.task].scores[row.metric]
        assert row.score == score.value
        assert row.stderr == score.stderr or (score.stderr is None and pd.isna(row.stderr))


def test_a_failed_cell_is_there_with_its_reason(out: Path) -> None:
    found = lep_bench.results(out)
    (row,) = found[found.status == "failed"].itertuples()
    assert (row.model, row.task, row.reason) == (OVERLAP, "mini_text_ru", "no memory")
    assert pd.isna(row.score) and pd.isna(row.stderr)


def test_a_result_of_an_older_task_version_is_stale(tmp_path: Path) -> None:
    store, (first, second) = Store(tmp_path), models()[:2]
    old, samples = cell(first, TASKS[0])
    store.write(old.model_copy(update={"task_fingerprint": "of-old"}), samples)
    new, samples = cell(second, TASKS[0], created="2026")
    store.write(new, samples)
    found = lep_bench.results(tmp_path).set_index("model").stale
    assert found[first.name] and not found[second.name]


def test_samples_average_to_the_score(out: Path) -> None:
    items = lep_bench.samples(out, model=SWAP, task="mini_facts_ru")
    assert {name: str(dtype) for name, dtype in items.dtypes.items()} == frame.SAMPLES
    results = lep_bench.results(out)
    (score,) = results[(results.model == SWAP) & (results.task == "mini_facts_ru")].score
    assert items.score.mean() == pytest.approx(score)
    assert len(lep_bench.samples(out)) == 9 * 60  # of a failed cell there are none


def test_compare_has_a_row_per_task_and_the_mean(out: Path) -> None:
    found = lep_bench.compare(SWAP, OVERLAP, out=out)
    assert list(found.task) == [*TASKS[:4], "mean"]
    columns = ["task", "a", "b", "difference", "low", "high", "p", "p_holm", "verdict"]
    assert list(found.columns[:9]) == columns
    tasks = found[found.task != "mean"]
    assert (tasks.a - tasks.b).to_numpy() == pytest.approx(tasks.difference.to_numpy())
    assert (tasks.p_holm >= tasks.p).all()


def test_check_has_a_row_per_finding(tmp_path: Path) -> None:
    assert lep_bench.check("builtin:mini-llama/base").empty
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(LepBenchError):
        lep_bench.check(tmp_path)


def test_old_results_without_seals_are_read(tmp_path: Path) -> None:
    result, samples = cell(models()[1], TASKS[0])
    store = Store(tmp_path)
    store.write(result, samples)
    (file,) = (tmp_path / "mini" / "results").rglob("*.json")
    data = json.loads(file.read_text())
    for later in ("seal", "samples_digest", "health"):
        data.pop(later)
    file.write_text(json.dumps(data))
    assert list(lep_bench.results(tmp_path).status) == ["ok"]


def test_results_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    Store(tmp_path).write(*cell(models()[1], TASKS[0]))
    (file,) = (tmp_path / "mini" / "results").rglob("*.json")
    file.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(LepBenchError, match="newer lep-bench.*update lep-bench") as error:
        lep_bench.results(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_results_or_with_several_suites_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LepBenchError, match="no results in"):
        lep_bench.results(tmp_path)
    with pytest.raises(LepBenchError, match="no results of suite mini"):
        lep_bench.results(tmp_path, "mini")
    result, samples = cell(models()[1], TASKS[0])
    for suite in ("mini", "other"):
        Store(tmp_path).write(result.model_copy(update={"suite": suite}), samples)
    with pytest.raises(LepBenchError, match="several suites: name one of mini, other"):
        lep_bench.results(tmp_path)
    assert len(lep_bench.results(tmp_path, "other")) == 1


@pytest.mark.parametrize("kind", ["model", "task"])
def test_samples_of_what_was_not_scored(out: Path, kind: str) -> None:
    with pytest.raises(LepBenchError, match=f"{kind} .*unknown"):
        lep_bench.samples(out, **{kind: "unknown"})


def test_importing_the_package_is_light() -> None:
    script = "import sys, lep_bench; assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_module_takes_the_name_of_a_function() -> None:
    modules = {found.name for found in pkgutil.iter_modules(lep_bench.__path__)}
    assert not modules & set(lep_bench.__all__)
    for found in pkgutil.walk_packages(lep_bench.pipeline.__path__, "lep_bench.pipeline."):
        importlib.import_module(found.name)
    assert all(callable(getattr(lep_bench, name)) for name in lep_bench.__all__)


def test_types_are_shipped() -> None:
    assert (Path(lep_bench.__file__).parent / "py.typed").is_file()
