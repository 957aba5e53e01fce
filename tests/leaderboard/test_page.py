"""The page as GitHub would render it: its order, its tables, its anchors, and nobody else's markup
in it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from invented_paper import MODELS, PAPER
from invented_paper import whole as paper_run
from invented_run import ORDER, SUITE, Run
from markdown_it import MarkdownIt

from lep_bench.leaderboard import page, text
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.page import render_page, render_tables
from lep_bench.leaderboard.table import Table

EVIL = "</details><script>alert(1)</script> [x](http://e.vil) | `y` ▲"
SECTIONS = [
    "Which to ship",
    "What was measured",
    "Chat format",
    "Plain format",
    "What differs",
    "How to read it",
    "Reproduce",
]


@pytest.fixture(scope="module")
def whole() -> Table:
    run = Run.whole(items=12)
    return build_table(run.results, run.samples, SUITE, ORDER)


@pytest.fixture(scope="module")
def paper() -> Table:
    run = paper_run()
    return build_table(run.results, run.samples, PAPER, [m.name for m in MODELS])


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)


def heads(html: str, level: int = 3) -> list[str]:
    return re.findall(rf"<h{level}>(.*?)</h{level}>", html)


def anchors(html: str) -> set[str]:
    return {
        re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")
        for level in (1, 2, 3, 4)
        for head in heads(html, level)
    }


def test_the_order_of_the_page(whole: Table) -> None:
    found = heads(rendered(render_page(whole)))
    places = [
        next(i for i, head in enumerate(found) if head.startswith(section)) for section in SECTIONS
    ]
    assert places == sorted(places)
    first = render_page(whole).split("### Chat format")[0]
    assert first.startswith("> **A synthetic") and len(first.splitlines()) < 45, (
        "note, ship, what was measured and the table on the first screen"
    )


def test_links_within_the_page_have_their_heading(whole: Table) -> None:
    html = rendered(render_page(whole))
    assert set(re.findall(r'href="#(.*?)"', html)) == {"how-to-read-it"} <= anchors(html)


def test_every_table_is_one(whole: Table, paper: Table) -> None:
    for table in (whole, paper):
        body = render_page(table)
        lines = body.splitlines()
        starts = sum(
            line.startswith("|") and not lines[i - 1].startswith("|")
            for i, line in enumerate(lines)
        )
        assert rendered(body).count("<table>") == starts > 5
        assert body.count("<details>") == body.count("</details>") > 0


def test_all_contrasts_stand_on_the_page_with_interval_and_verdict(whole: Table) -> None:
    body = render_page(whole).split("\n### What differs")[1].split("\n### ")[0]
    rows = [line for line in body.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(block.findings) for block in whole.blocks) > 50
    one = whole.blocks[0].findings[0]
    assert (
        f"| `{one.model}` | `{one.difference.control}` | "
        f"{' | '.join(text.format_contrast(one, page.NBSP + '±'))} |"
    ) in rows
    assert (
        "A single comparison of this kind detects a true difference of" in body
        and "Tests: " in body
        and "95% interval" in body
    )


def test_short_lists_of_contrasts_are_open(whole: Table) -> None:
    block = replace(whole.blocks[0], findings=whole.blocks[0].findings[:3])
    out = "\n".join(page.list_contrasts(block))
    assert (
        "<details>" not in out and f"**{page.escape_markdown(block.findings[0].question)}: " in out
    )
    assert page.list_contrasts(replace(block, findings=())) == []


def test_somebody_elses_words_are_only_words(whole: Table) -> None:
    block = whole.blocks[0]
    section = block.sections[0]
    row = replace(section.rows[2], model=f"mini-llama/{EVIL}", label=EVIL)
    finding = replace(block.findings[0], question=EVIL, model=EVIL)
    sections = (replace(section, family=EVIL, rows=(row,)),)
    evil = replace(
        whole,
        title=EVIL,
        note=EVIL,
        blocks=(replace(block, sections=sections, findings=(finding,) * 9),),
    )
    for out in (rendered(render_page(evil)), rendered(render_tables(evil)), page.render_html(evil)):
        assert not re.search("<(script|img|iframe)", out) and 'href="http' not in out
        assert out.count("</details>") == out.count("<details>")


def test_pictures_stand_beside_the_page(whole: Table) -> None:
    pictures = [
        SimpleNamespace(name="quality", alt="Scores [a]", caption="The *front*."),
        SimpleNamespace(name="a b", alt="x", caption="y"),
    ]
    html = rendered(render_page(whole, pictures))
    assert (
        '<img src="pictures/quality.svg" alt="Scores [a]"' in html
        and 'src="pictures/a%20b.svg"' in html
        and "The *front*." in html
    )
    assert "Pictures" not in heads(rendered(render_page(whole)))


def test_many_tasks_are_folded_few_are_not(whole: Table, paper: Table) -> None:
    assert "<details><summary>17 tasks</summary>" in render_page(
        paper
    ) and "<details><summary>5 tasks" not in render_page(whole)


def test_tables_alone_bring_their_legend(whole: Table) -> None:
    out = render_tables(whole)
    assert out.startswith("## Mini\n\n> **A synthetic") and all(
        page.escape_markdown(line) in out for line in text.make_legend(whole)
    )
    assert "Which to ship" not in out and out.endswith("\n")


def test_the_html_fragment_is_semantic(whole: Table) -> None:
    out = page.render_html(whole)
    assert (
        out.count("<caption>") == out.count("<table>") == sum(len(b.sections) for b in whole.blocks)
    )
    columns = 1 + len(text.make_headers(whole, "whole"))
    assert (
        out.count('<th scope="row">') == len(whole.rows)
        and out.count('scope="col"') == out.count("<table>") * columns
    )
    assert (
        "style" not in out
        and "<tr><th colspan" in out
        and "<li>(1) mini-llama/bpe/overlap, all tasks: failed: AdapterError" in out
    )
    assert all(
        len(re.findall(f"<{tag}[ >]", out)) == out.count(f"</{tag}>")
        for tag in ("section", "table", "tbody", "tr", "th", "td", "ul", "li")
    )
