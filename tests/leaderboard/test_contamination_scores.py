"""Scores without the rows that stand in training texts, recomputed from samples."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from invented_paper import BY_NAME, MODELS, PAPER, cell, grade, pairs_f1
from invented_run import Made, Run

from lep_bench import files
from lep_bench.errors import LepBenchError, TaskError
from lep_bench.leaderboard import publish
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.cells import Metrics
from lep_bench.leaderboard.contamination import read_scan, score_clean
from lep_bench.leaderboard.page import render_page
from lep_bench.leaderboard.table import Row, Table

ORDER = [m.name for m in MODELS]
NAMES = ("llama3-8b/instruct", "llama3-8b/extended/conversion", "llama3-8b/base")
FLAGGED = {
    "darumeru_parus": [1, 2, 30],
    "darumeru_rcb": [0, 7],
    "darumeru_use": [21, 22, 23],
    "darumeru_multiq": [],
}


def written(
    folder: Path, flagged: dict[str, list[int]] = FLAGGED, scanned: int = 60, **changes: Any
) -> Path:
    tasks = {
        task: {"rows": scanned, "flagged": [f"{task}-{i}" for i in rows], "hits": []}
        for task, rows in flagged.items()
    }
    texts = [{"name": "corpus|a.jsonl", "sha256": "0", "documents": 3, "words": 70}]
    file = folder / "contamination.json"
    file.write_text(
        json.dumps({"schema_version": 2, "texts": texts, "ngram": 13, "tasks": tasks, **changes}),
        encoding="utf-8",
    )
    return file


def scanned(file: Path, *cells: Made) -> tuple[Table, Run]:
    run = Run()
    for one in cells or [cell(BY_NAME[name], task) for name in NAMES for task in PAPER.tasks]:
        run.add(one)
    return build_table(
        run.results, run.samples, PAPER, ORDER, scan=read_scan(file, PAPER.tasks)
    ), run


def row(table: Table, model: str) -> Row:
    (found,) = [r for r in table.rows if r.model == model]
    return found


def values(model: str, task: str, without: list[int]) -> list[Any]:
    return [s.values["score"] for s in cell(BY_NAME[model], task)[1] if s.doc_id not in without]


def test_scores_without_flagged_rows(tmp_path: Path) -> None:
    """Means, a score of (gold, prediction) pairs and a grade, each against its definition; the mean
    has them in.
    """
    table, _ = scanned(written(tmp_path))
    assert table.contamination is not None and [t for t, _, _ in table.contamination.flagged] == [
        "darumeru_parus",
        "darumeru_rcb",
        "darumeru_use",
    ]
    for name in NAMES:
        parus, rcb, use, mean = row(table, name).clean
        own = {task: cell(BY_NAME[name], task)[0].scores["score"].value for task in PAPER.tasks}
        expected = {
            "darumeru_parus": statistics.fmean(values(name, "darumeru_parus", [1, 2, 30])),
            "darumeru_rcb": pairs_f1(values(name, "darumeru_rcb", [0, 7])),
            # rows 20 to 39 are one variant: all of it goes
            "darumeru_use": grade(values(name, "darumeru_use", list(range(20, 40)))),
        }
        for pair, (task, value) in zip((parus, rcb, use), expected.items()):
            assert pair == pytest.approx((own[task], value))
        assert mean == pytest.approx(
            (statistics.fmean(own.values()), statistics.fmean((own | expected).values()))
        )
    assert row(table, NAMES[0]).clean != row(table, NAMES[1]).clean


def test_the_page_shows_them(tmp_path: Path) -> None:
    out = render_page(scanned(written(tmp_path))[0])
    section = out.split("### Without rows found in training text")[1].split("### Cost")[0]
    assert (
        "Scanned: `corpus\\|a.jsonl`, by sequences of 13 words" in section
        and "No row flagged: `darumeru_multiq`." in section
    )
    assert "Not scanned: `darumeru_rummlu`," in section
    assert "| model | parus (3 of 60) | rcb (2 of 60) | use (3 of 60) | Micro-Avg |" in section
    assert section.count("-shot: protocol") == 2
    (line,) = [line for line in section.splitlines() if "llama3-8b/instruct" in line]
    parus = values("llama3-8b/instruct", "darumeru_parus", [])
    rest = values("llama3-8b/instruct", "darumeru_parus", [1, 2, 30])
    assert line.startswith(
        f"| `llama3-8b/instruct` | {100 * statistics.fmean(parus):.1f} → "
        f"{100 * statistics.fmean(rest):.1f} | "
    )


def test_nothing_flagged_and_no_scan(tmp_path: Path) -> None:
    table, run = scanned(written(tmp_path, {"darumeru_parus": []}))
    assert "- No row flagged: `darumeru_parus`." in render_page(table) and "→" not in render_page(
        table
    )
    assert read_scan(tmp_path / "nothing.json", PAPER.tasks) is None
    assert "Without rows found" not in render_page(
        build_table(run.results, run.samples, PAPER, ORDER)
    )


def test_what_cannot_be_known_is_not_shown(tmp_path: Path) -> None:
    """Rows of another version, a stored score that its samples do not give, no row left: no number,
    and none in the mean.
    """
    name = NAMES[0]
    others = [cell(BY_NAME[name], task) for task in PAPER.tasks if task != "darumeru_parus"]
    result, samples = cell(BY_NAME[name], "darumeru_parus")
    renamed = [s.model_copy(update={"doc_hash": f"new-{s.doc_id}"}) for s in samples]
    edited = result.model_copy(
        update={"scores": {"score": result.scores["score"].model_copy(update={"value": 0.5})}}
    )
    file = written(tmp_path, {"darumeru_parus": [1, 2]})
    for changed in ((result, renamed), (edited, samples)):
        assert row(scanned(file, *others, changed)[0], name).clean == (None, None)
    for other in (
        written(tmp_path, {"darumeru_parus": [1, 60]}),
        written(tmp_path, {"darumeru_parus": [1, 2]}, scanned=61),
    ):
        assert row(scanned(other, *others, (result, samples))[0], name).clean == (None, None), (
            "a scan of partly other rows"
        )
    everything = written(tmp_path, {"darumeru_parus": list(range(60))})
    assert row(scanned(everything, *others, (result, samples))[0], name).clean == (None, None)
    assert (
        "→"
        not in render_page(scanned(everything, *others, (result, samples))[0])
        .split("### Without")[1]
        .split("- Score on all")[0]
    )


def test_a_limited_result_may_hold_none_of_the_flagged_rows(tmp_path: Path) -> None:
    name = NAMES[0]
    cells = [cell(BY_NAME[name], task, limit=10) for task in PAPER.tasks]
    found = row(scanned(written(tmp_path, {"darumeru_parus": [30]}), *cells)[0], name).clean
    assert found[0] is not None and found[0][0] == found[0][1]


def test_the_committed_file_keeps_them(tmp_path: Path) -> None:
    table, run = scanned(file := written(tmp_path))
    publish.write_leaderboard(
        tmp_path / "board",
        PAPER,
        run.results,
        run.samples,
        ORDER,
        scan=read_scan(file, PAPER.tasks),
    )
    assert publish.check_leaderboard(tmp_path / "board") == []
    assert render_page(publish.read_leaderboard(tmp_path / "board")) == render_page(table)


def test_a_scan_of_the_earlier_form_is_read(tmp_path: Path) -> None:
    """Version 1 also listed near-duplicates. Its flagged rows mean the same."""
    new = read_scan(written(tmp_path), PAPER.tasks)
    old = json.loads((tmp_path / "contamination.json").read_text(encoding="utf-8"))
    for task in old["tasks"].values():
        task["near"] = ["a near one"]
    (tmp_path / "contamination.json").write_text(json.dumps(old | {"schema_version": 1}))
    assert new is not None and read_scan(tmp_path / "contamination.json", PAPER.tasks) == new


@pytest.mark.parametrize(
    "broken",
    [
        "[]",
        "{",
        '{"schema_version": 3}',
        '{"schema_version": 1, "texts": [], "ngram": 13, "tasks": {"darumeru_parus": 1}}',
    ],
)
def test_a_damaged_scan_is_one_clear_line(tmp_path: Path, broken: str) -> None:
    (tmp_path / "contamination.json").write_text(broken)
    with pytest.raises(
        LepBenchError,
        match=r"contamination\.json: not a contamination scan .*lep-bench contamination",
    ) as error:
        read_scan(tmp_path / "contamination.json", PAPER.tasks)
    assert "\n" not in str(error.value)


def test_every_task_is_recomputed_by_its_own_aggregation() -> None:
    from lm_eval.tasks import TaskManager

    metrics = Metrics.load(PAPER.tasks)
    tasks = TaskManager(
        include_path=str(files.shipped_folder("tasks")), include_defaults=False
    ).load(list(PAPER.tasks))["tasks"]
    for name, task in tasks.items():
        own = {
            metric: function.__name__
            for metric, function in task.aggregation().items()
            if function.__name__ != "mean"
        }
        assert {
            metric: function.__name__
            for metric, function in metrics.aggregations.get(name, {}).items()
        } == own, name


def test_metrics_of_a_users_task(tmp_path: Path) -> None:
    """AGGREGATIONS beside the YAML is used; a metrics.py that cannot be imported names itself."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.yaml").write_text("task: mine\nmetadata: {version: 1}\n")
    (folder / "metrics.py").write_text("AGGREGATIONS = {'mine': {'score': max}}\n")
    metrics = Metrics.load(["mine"], [folder])
    result, samples = cell(BY_NAME[NAMES[0]], "darumeru_parus", items=3)
    samples = [
        s.model_copy(update={"doc_hash": f"mine-{i}", "values": {"score": 0.1 * (i if i else 0.5)}})
        for i, s in enumerate(samples)
    ]
    mine = result.model_copy(
        update={
            "task": "mine",
            "scores": {"score": result.scores["score"].model_copy(update={"value": 0.2})},
        }
    )
    for flagged, rest in ((1, 0.2), (2, 0.1)):
        scan = read_scan(written(tmp_path, {"mine": [flagged]}, scanned=3), ["mine"])
        assert scan is not None and score_clean(mine, samples, metrics, scan) == pytest.approx(rest)
    (folder / "metrics.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(TaskError, match=r"metrics\.py: cannot be imported: ModuleNotFoundError"):
        Metrics.load(["mine"], [folder])
