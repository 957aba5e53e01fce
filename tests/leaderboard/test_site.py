"""The page as a file: whole, self-contained, of bounded size, and nobody's name becomes markup.
tests/browser opens it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from invented_page import EVIL, SWAP, run, write
from invented_run import SUITE, TASKS, Run, cell, models

from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import browse, plots, site
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.table import Table
from lep_bench.records.schema import Sample, TaskResult


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inner: dict[str, list[str]] = {"script": [], "style": []}
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self.open = tag

    def handle_data(self, data: str) -> None:
        if self.open in self.inner:
            self.inner[self.open].append(data)

    def handle_endtag(self, tag: str) -> None:
        self.open = ""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table]:
    folder = tmp_path_factory.mktemp("page")
    return folder / site.SITE_FILE, write(folder)


@pytest.fixture(scope="module")
def page(made: tuple[Path, Table]) -> Page:
    return Page(made[0].read_text(encoding="utf-8"))


def data(page: Page) -> dict:
    return json.loads(page.inner["script"][0])


def test_names_and_answers_stay_text(page: Page, made: tuple[Path, Table]) -> None:
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert all(
        a["src"].startswith("data:image/svg+xml;base64,")
        for tag, a in page.elements
        if tag == "img"
    )
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert f"local/{EVIL}" in data(page)["names"].values()
    assert EVIL not in made[0].read_text(encoding="utf-8")


def test_nothing_is_fetched_and_only_these_scripts_run(page: Page) -> None:
    policy = next(
        a["content"]
        for tag, a in page.elements
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:") and "unsafe" not in policy
    for content in (page.inner["style"][0], *page.inner["script"][1:]):
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy
    outside = [
        a
        for _, a in page.elements
        for name in ("src", "href", "action", "data")
        if not (a.get(name) or "#").startswith(("#", "data:"))
    ]
    assert outside == []


def test_the_library_is_bundled_with_its_licence_and_version(page: Page) -> None:
    version = re.search(r"tablesort v([\d.]+)", page.inner["script"][1])[1]
    licence = (site.ASSETS / "tablesort.LICENSE").read_text(encoding="utf-8")
    assert (
        f"tablesort {version}" in licence
        and "Permission is hereby granted, free of charge" in licence
    )
    assert f"tablesort {version}" in (site.ASSETS / "page.html").read_text(encoding="utf-8")


def test_every_row_can_be_opened_and_says_what_is_known(
    page: Page, made: tuple[Path, Table]
) -> None:
    rows = [a["data-row"] for tag, a in page.elements if tag == "tr" and "data-row" in a]
    opened = data(page)["models"]
    assert rows == list(opened) == browse.name_rows(made[1]) and len(rows) == 58
    parts = {part["title"]: part for part in opened[f"0:{SWAP}"]}
    assert ["donor", "mini-llama/bpe/donor", "r1", "d1"] in parts["Lineage"]["lines"]
    assert ["r2", "0.994696"] in parts["Fit of the head"]["lines"] and [
        "norms new donor",
        "1.96663",
    ] in parts["Fit of the head"]["lines"]
    assert any(
        line[0] == "facts ru" and re.fullmatch(r"\[[\d.]+, [\d.]+\]", line[2])
        for line in parts["Scores"]["lines"]
    )
    assert any(
        "NaN in 17" in value
        for part in opened["0:mini-llama/bpe/overlap"]
        for line in part["lines"]
        for value in line
    )


def test_no_path_of_this_machine_is_shown(made: tuple[Path, Table]) -> None:
    assert "secret" not in made[0].read_text(encoding="utf-8")


def test_items_where_models_differ_come_first_and_texts_are_kept_once(
    page: Page, made: tuple[Path, Table]
) -> None:
    tasks = {task["task"]: task for task in data(page)["tasks"]}
    assert list(tasks) == list(TASKS) and all(
        len(task["items"]) == 20 and task["of"] == 30 for task in tasks.values()
    )
    whole = run()
    cells = {
        f"0:{r.model.name}": r
        for r in whole.results
        if r.task == TASKS[0] and r.status == "ok" and r.scoring.format == "chat"
    }
    task = tasks[TASKS[0]]
    name = f"0:{SWAP}"
    held = {s.doc_id: s for s in whole.samples(cells[name])}
    for place, (number, gold, question) in enumerate(task["items"]):
        assert task["models"][name]["scores"][place] == held[number].values["acc"]
        assert task["strings"][task["models"][name]["answers"][place]] == f"{EVIL} {number}"
        assert task["strings"][question] == f"user: {EVIL} {number}?\n— one\n— two" and task[
            "strings"
        ][gold] in ("x", EVIL)
    shares = [
        [m["scores"][place] for m in task["models"].values() if m["scores"][place] is not None]
        for place in range(20)
    ]
    spread = [round(sum(own) / len(own) * (1 - sum(own) / len(own)), 9) for own in shares]
    assert spread == sorted(spread, reverse=True) and spread[0] > spread[-1], (
        "items that all answer alike come last"
    )
    assert len(set(task["strings"])) == len(task["strings"])
    assert all(question == -1 for _, _, question in tasks[TASKS[1]]["items"])


def few(items: int) -> Run:
    """Six models."""
    made = Run()
    for model in models()[:6]:
        for task in TASKS:
            made.add(cell(model, task, items=items))
    return made


def test_the_page_grows_with_samples_shown_not_with_samples_stored(tmp_path: Path) -> None:
    sizes = []
    for items in (40, 400):
        write(tmp_path / str(items), few(items), most=20)
        sizes.append((tmp_path / str(items) / site.SITE_FILE).stat().st_size)
    assert sizes[1] < 1.05 * sizes[0] < 2_000_000
    write(tmp_path / "none", few(12), most=0)
    assert (
        data(Page((tmp_path / "none" / site.SITE_FILE).read_text(encoding="utf-8")))["tasks"] == []
    )


def test_pictures_that_are_drawn_already_are_taken(tmp_path: Path) -> None:
    made = few(6)
    table = build_table(made.results, made.samples, SUITE, ())
    pictures = plots.draw_pictures(table, tmp_path)
    file = tmp_path / "pictures" / f"{pictures[0].name}.svg"
    file.write_text(
        file.read_text(encoding="utf-8").replace("</svg>", "<!-- this one --></svg>"),
        encoding="utf-8",
    )
    page = site.write_site(
        tmp_path / "page", table, made.results, made.samples, drawn=tmp_path
    ).read_text(encoding="utf-8")
    assert base64.b64encode(file.read_bytes()).decode() in page and page.count(
        "data:image/svg"
    ) == len(pictures)


def sample(values: dict, **fields: object) -> Sample:
    return Sample(
        **{
            "doc_id": 0,
            "doc_hash": "h",
            "group": "0",
            "gold": "да",
            "prediction": "да",
            "values": values,
            "prompt_ids": "p",
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("values", "primary", "answer", "score"),
    [
        ({"acc": 1.0}, "acc", "нет", 1.0),
        ({"rouge": 0.25}, "rouge", "да", 0.25),
        ({"f1": ["да", "нет"]}, "f1", "нет", 0.0),
        ({"f1": ["да", "да"]}, "f1", " да\n", 1.0),
        ({"bits_per_byte": [30.0, 60]}, "bits_per_byte", "", 0.5),
        ({}, "acc", "да", 1.0),
    ],
)
def test_scores_of_single_items(values: dict, primary: str, answer: str, score: float) -> None:
    assert browse._score_item(sample(values, prediction=answer), primary) == score


def test_long_texts_and_broken_characters_are_shown_cut(tmp_path: Path) -> None:
    only, model = Run(), models()[1]
    result, samples = cell(model, TASKS[2], items=2)
    long = sample(
        {"exact_match": 0.0, "text": "ы" * 5000}, prediction="\ud800 \u2028", doc_hash="a"
    )
    only.add((result, [long, samples[1].model_copy(update={"doc_hash": "b"})]))
    write(tmp_path, only)
    (task,) = data(Page((tmp_path / site.SITE_FILE).read_text(encoding="utf-8")))["tasks"]
    own = task["models"][f"0:{model.name}"]
    assert "\ud800 \u2028" in task["strings"] and sorted(
        task["strings"][i] for i in own["texts"] if i >= 0
    ) == ["ы" * 1000 + " […]"]


def test_running_text_stands_with_the_rows_of_its_engine() -> None:
    made = run(items=6)
    table = build_table(made.results, made.samples, SUITE, ())
    own = [
        r.model_copy(update={"scoring": r.scoring.model_copy(update={"format": "plain"})})
        for r in made.results
        if r.task == TASKS[4]
    ]
    texts = {
        id(new): made.samples(old)
        for new, old in zip(own, (r for r in made.results if r.task == TASKS[4]))
    }
    (task,) = browse.collect_answers(table, own, lambda r: texts[id(r)], 5, lambda result, rows: {})
    assert f"0:{SWAP}" in task.models and not task.graded and task.asked == ""


def test_samples_that_cannot_be_read_leave_one_model_out() -> None:
    made = few(6)
    table = build_table(made.results, made.samples, SUITE, ())
    lost = made.results[0].model.name

    def samples(result: TaskResult) -> list[Sample]:
        if result.model.name == lost:
            raise LepBenchError("the samples are missing")
        return made.samples(result)

    found = browse.collect_answers(table, made.results, samples, 5, lambda result, rows: {})
    assert len(found) == len(TASKS) and all(
        len(task.models) == 5 and f"1:{lost}" not in task.models for task in found
    )


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(LepBenchError, match="choose another name"):
        write(tmp_path / "file", few(3))
