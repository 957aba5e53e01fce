"""Published folders: whole, the same bytes from the same cells, and checkable from what is
committed alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from invented_run import ORDER, SUITE, TASKS, Run, cell, models

from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import publish
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.forms import render_csv
from lep_bench.leaderboard.page import END, START, render_markdown
from lep_bench.leaderboard.plots import Curve
from lep_bench.records.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = Run.whole(items=12)
    publish.write_leaderboard(tmp_path / "mini", SUITE, run.results, run.samples, ORDER)
    return tmp_path / "mini"


def test_written_folders_pass(folder: Path) -> None:
    assert sorted(f.name for f in folder.iterdir()) == ["README.md", "results.jsonl", "table.csv"]
    assert publish.check_leaderboard(folder) == []


def test_the_committed_file_alone_gives_the_whole_table(folder: Path) -> None:
    run = Run.whole(items=12)
    direct = build_table(run.results, run.samples, SUITE, ORDER)
    assert render_markdown(publish.read_leaderboard(folder)) == render_markdown(direct)
    assert render_csv(publish.read_leaderboard(folder)) == render_csv(direct)


def test_the_same_cells_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    run = Run.whole(items=12)
    for i, result in enumerate(run.results):
        noise = {
            "created": f"2026-01-01T00:00:{i % 60:02d}",
            "seconds": float(i),
            "git_commit": "abc",
            "packages": {},
        }
        noisy = result.provenance.model_copy(update=noise)
        run.results[i] = result.model_copy(update={"provenance": noisy})
        run._samples[id(run.results[i])] = run.samples(result)
    publish.write_leaderboard(
        tmp_path / "again", SUITE, list(reversed(run.results)), run.samples, ORDER
    )
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_edits_are_found(folder: Path) -> None:
    page = folder / "README.md"
    page.write_text(
        page.read_text(encoding="utf-8").replace("| `bpe/swap` | 3.40", "| `bpe/swap` | 9.99"),
        encoding="utf-8",
    )
    (found,) = publish.check_leaderboard(folder)
    assert found.startswith(f"{page}:") and "differs" in found
    (folder / "table.csv").unlink()
    assert len(publish.check_leaderboard(folder)) == 2


def test_pictures_are_drawn_checked_and_kept_when_refreshed(tmp_path: Path) -> None:
    run, folder = Run(), tmp_path / "mini"
    for model in (
        m
        for m in models()
        if m.name in ("mini-llama/instruct", "mini-llama/bpe/swap", "mini-llama/bpe/donor")
    ):
        for task in TASKS[:2]:
            run.add(cell(model, task, items=12))
    page = folder / "README.md"
    trained = [Curve("mini-llama/bpe/donor", 0, ((1000, 3.0), (2000, 2.0)))]
    publish.write_leaderboard(folder, SUITE, run.results, run.samples, ORDER, curves=trained)
    shown = re.findall(r"!\[.*\]\((pictures/[^)]+)\)", page.read_text(encoding="utf-8"))
    assert (
        shown
        and all((folder / name).is_file() for name in shown)
        and "pictures/curves.svg" in shown
    )
    assert publish.check_leaderboard(folder) == []
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    # artifacts gone: the curves that were published stay
    publish.write_leaderboard(folder, SUITE, run.results, run.samples, ORDER, curves=[])
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before
    (folder / shown[0]).unlink()
    assert any(shown[0] in line for line in publish.check_leaderboard(folder))
    publish.write_leaderboard(folder, SUITE, run.results, run.samples, ORDER)
    assert publish.check_leaderboard(folder) == []
    (folder / "curves.csv").write_text("model\n", encoding="utf-8")
    assert "curves.csv:1" in publish.check_leaderboard(folder)[0]


def test_changed_results_are_found(folder: Path) -> None:
    file = folder / "results.jsonl"
    file.write_text(
        file.read_text(encoding="utf-8").replace('"value":3.4}', '"value":3.5}', 1),
        encoding="utf-8",
    )
    assert len(publish.check_leaderboard(folder)) == 2


def test_own_prose_stays(folder: Path) -> None:
    page = folder / "README.md"
    text = page.read_text(encoding="utf-8")
    page.write_text("Before.\n" + text + "\nAfter.\n", encoding="utf-8")
    assert publish.check_leaderboard(folder) == []
    run = Run()
    run.add(cell(models()[1], TASKS[0]))
    publish.write_leaderboard(folder, SUITE, run.results, run.samples, ORDER)
    text = page.read_text(encoding="utf-8")
    assert (
        text.startswith("Before.\n")
        and text.endswith("\nAfter.\n")
        and "1 model in 1 family" in text
    )
    assert publish.check_leaderboard(folder) == []


@pytest.mark.parametrize(
    "text", ["no markers", f"{START}\nonly", f"{END}\n{START}", f"{START}\n{END}\n{START}\n{END}"]
)
def test_a_page_without_its_markers_is_refused(folder: Path, text: str) -> None:
    (folder / "README.md").write_text(text, encoding="utf-8")
    before = (folder / "results.jsonl").read_bytes()
    with pytest.raises(LepBenchError, match=r"README\.md: needs"):
        publish.write_leaderboard(folder, SUITE, [], lambda result: [], ORDER)
    assert (folder / "results.jsonl").read_bytes() == before
    assert "README.md: needs" in publish.check_leaderboard(folder)[0]


def test_a_page_that_is_no_text_or_missing_is_named(folder: Path) -> None:
    page = folder / "README.md"
    page.write_bytes(b"\xff\xfe")
    assert "README.md: not UTF-8" in publish.check_leaderboard(folder)[0]
    with pytest.raises(LepBenchError, match=r"README\.md: not UTF-8"):
        publish.write_leaderboard(folder, SUITE, [], lambda result: [], ORDER)
    page.unlink()
    assert publish.check_leaderboard(folder) == [f"{page}: is missing: publish again"]


def test_a_marker_inside_a_line_is_no_marker(folder: Path) -> None:
    """A page names the folder of a model in its last command, and folders may be called
    anything.
    """
    run = Run.whole(items=12)
    for _ in range(2):
        publish.write_leaderboard(
            folder,
            SUITE,
            run.results,
            run.samples,
            ORDER,
            commands=[f"lep-bench run --models './{START} {END}'"],
        )
    assert (folder / "README.md").read_text(encoding="utf-8").count(
        START
    ) == 2 and publish.check_leaderboard(folder) == []


def test_damaged_files_name_their_line(folder: Path) -> None:
    file = folder / "results.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    for broken, number in (
        ([*lines[:7], lines[7][:-9]], 8),
        ([], 0),
        (["{}", *lines[1:]], 1),
        (["[]"], 1),
    ):
        file.write_text("\n".join(broken), encoding="utf-8")
        (found,) = publish.check_leaderboard(folder)
        assert found.startswith(f"{file}:{number}" if number else f"{file}:"), found
    file.unlink()
    assert "not a leaderboard folder" in publish.check_leaderboard(folder)[0]


def test_results_are_small(tmp_path: Path) -> None:
    """57 models x 5 tasks x 300 items: well under 2 MB."""
    run = Run.whole(items=300)
    publish.write_leaderboard(tmp_path, SUITE, run.results, run.samples, ORDER)
    assert (tmp_path / "results.jsonl").stat().st_size < 1_200_000
    assert publish.check_leaderboard(tmp_path) == []


def test_a_line_ends_where_the_file_says_so(tmp_path: Path) -> None:
    """U+2028 and U+0085 in somebody's text end no line of a JSON Lines file."""
    run = Run.whole(items=12)
    result = run.results[0]
    noted = result.model_copy(
        update={"provenance": result.provenance.model_copy(update={"notes": ("a\u2028b\x85c",)})}
    )
    run.results[0], run._samples[id(noted)] = noted, run.samples(result)
    publish.write_leaderboard(tmp_path / "mini", SUITE, run.results, run.samples, ORDER)
    assert publish.check_leaderboard(tmp_path / "mini") == []
    store = Store(tmp_path / "runs")
    samples = [
        one.model_copy(update={"prediction": "Да.\u2028Нет.\x85\u2029"})
        for one in run.samples(noted)
    ]
    store.write(noted, samples)
    assert store.read_samples(noted) == samples
