"""The page in a browser: sorted, filtered, opened, browsed, with mouse and keyboard, on large and
small, light and dark screens.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from invented_page import EVIL, SWAP, run
from invented_run import TASKS

SHOWN = "tr[data-row]:not([hidden])"


def numbers(page: Any, heading: str) -> list[list[float | None]]:
    """The sort values of the first table's column, per family."""
    return page.evaluate(
        """heading => {
            const table = document.querySelector(".wide table"), cells = [...table.tHead.rows[0].cells];
            const place = cells.findIndex(cell => cell.textContent === heading);
            return [...table.tBodies].map(body => [...body.rows].filter(row => row.dataset.row)
                .map(row => row.cells[place].dataset.sort === undefined ? null : parseFloat(row.cells[place].dataset.sort)));
        }""",
        heading,
    )


def heads(page: Any, heading: str) -> Any:
    return page.locator(".wide").first.locator("thead th").filter(has_text=heading).first


def test_the_table_is_the_tables(visit: Callable[..., Any], site: tuple[Path, Any]) -> None:
    page, table = visit(), site[1]
    names = page.evaluate(
        "[...document.querySelectorAll('tr[data-row]')].map(row => "
        "row.querySelector('.open').textContent)"
    )
    assert names == [row.label for row in table.rows]
    assert page.locator("#count").text_content() == f"{len(table.rows)} rows"
    assert page.title() == f"{table.title} leaderboard"


def test_a_click_sorts_within_families_missing_last(visit: Callable[..., Any]) -> None:
    page = visit()
    before = numbers(page, "centred mean")
    heads(page, "centred mean").click()
    best_first = numbers(page, "centred mean")
    assert best_first != before and any(None in own for own in before)
    for own, unsorted in zip(best_first, before):
        known = sorted((v for v in unsorted if v is not None), reverse=True)
        assert own == known + [None] * (len(own) - len(known))
    assert heads(page, "centred mean").get_attribute("aria-sort") == "descending"
    heads(page, "centred mean").click()
    for own, down in zip(numbers(page, "centred mean"), best_first):
        known = [v for v in down if v is not None][::-1]
        assert own == known + [None] * (len(own) - len(known))
    heads(page, "bits per byte").click()  # fewer are better: these first
    assert all(
        own == sorted(own)
        for own in (
            [v for v in family if v is not None] for family in numbers(page, "bits per byte")
        )
    )
    heads(page, "relative tokens").click()
    assert all(
        own == sorted(own)
        for own in (
            [v for v in family if v is not None] for family in numbers(page, "relative tokens")
        )
    )
    assert heads(page, "bits per byte").get_attribute("aria-sort") is None
    assert "ascending" in page.locator("#count").text_content()


def test_filters_hide_rows_and_empty_families(
    visit: Callable[..., Any], site: tuple[Path, Any]
) -> None:
    page, rows = visit(), site[1].rows
    page.fill("#words", "EXTENDED conversion")
    wanted = [row.label for row in rows if "extended" in row.model and "conversion" in row.model]
    assert page.locator(f"{SHOWN} .open").all_text_contents() == wanted != []
    assert page.locator("#count").text_content() == f"{len(wanted)} of {len(rows)} rows"
    page.select_option("#family", "mini-mistral")
    assert page.locator(SHOWN).count() == sum(
        "mini-mistral" in row.model and "extended/conversion" in row.model for row in rows
    )
    assert page.locator("tr.family:not([hidden])").all_text_contents() == ["mini-mistral"]
    page.fill("#words", "")
    page.select_option("#stage", "donor")
    assert page.locator(SHOWN).count() == sum(
        "mini-mistral" in row.model and row.stage == "donor" for row in rows
    )
    page.fill("#words", "nothing of this name")
    assert page.locator(SHOWN).count() == 0


def test_single_tasks_can_be_hidden(visit: Callable[..., Any]) -> None:
    page = visit()
    assert heads(page, "facts ru").is_visible()
    page.uncheck("#tasks")
    assert not heads(page, "facts ru").is_visible() and heads(page, "centred mean").is_visible()


def test_a_model_opens_with_its_lineage_and_closes(visit: Callable[..., Any]) -> None:
    page = visit()
    button = page.locator(f'tr[data-row="0:{SWAP}"] .open')
    button.click()
    dialog = page.locator("#model")
    assert dialog.is_visible() and page.locator("#model-h").text_content() == SWAP
    text = dialog.text_content()
    assert all(
        part in text
        for part in (
            "Lineage",
            "d1",
            "Fit of the head",
            "0.994696",
            "fair control",
            "mini-llama/instruct",
        )
    )
    assert EVIL in text, "the note of lep.json, as text"
    page.keyboard.press("Escape")
    assert (
        not dialog.is_visible()
        and page.evaluate("document.activeElement.textContent") == "bpe/swap"
    )


def test_a_link_opens_a_model_and_nonsense_opens_nothing(visit: Callable[..., Any]) -> None:
    assert visit(f"model={quote('0:' + SWAP, safe='')}").locator("#model-h").text_content() == SWAP
    for fragment in ("model=constructor", "model=%", "model=0:no-such-model"):
        assert not visit(fragment).locator("#model").is_visible()


def test_evil_names_are_shown_as_they_are(visit: Callable[..., Any]) -> None:
    page = visit()
    button = page.locator(".open").filter(has_text="<img src=x onerror")
    assert button.text_content() == EVIL
    button.click()
    assert page.locator("#model-h").text_content() == f"local/{EVIL}"
    page.get_by_role("button", name="Its answers").click()
    assert not page.locator("#model").is_visible()
    assert page.locator("#items").text_content().count(EVIL) >= 20
    assert (
        page.evaluate("document.querySelectorAll('img:not([src^=\"data:\"]), [onerror]').length")
        == 0
    )


def test_two_models_side_by_side(visit: Callable[..., Any]) -> None:
    page, whole = visit(), run()
    a, b = f"0:{SWAP}", "0:mini-llama/instruct"
    page.select_option("#a", a)
    page.select_option("#b", b)
    assert (
        page.locator("#items > li").count() == 20
        and page.locator("#items > li").first.locator(".pair > div").count() == 2
    )
    held = {
        r.model.name: {s.doc_id: s.values["acc"] for s in whole.samples(r)}
        for r in whole.results
        if r.task == TASKS[0] and r.status == "ok"
    }
    ours, theirs = held[SWAP], held["mini-llama/instruct"]
    rows = [
        int(text.split()[1].rstrip(","))
        for text in page.locator("#items > li > p:first-child").all_text_contents()
    ]
    tests = {
        "right": lambda i: ours[i] == 1,
        "wrong": lambda i: ours[i] < 1,
        "differs": lambda i: ours[i] != theirs[i],
        "better": lambda i: ours[i] > theirs[i],
        "worse": lambda i: ours[i] < theirs[i],
    }
    for name, fits in tests.items():
        page.select_option("#show", name)
        shown = [
            int(text.split()[1].rstrip(","))
            for text in page.locator("#items > li > p:first-child").all_text_contents()
        ]
        assert shown == [i for i in rows if fits(i)], name
        assert (
            page.locator("#about")
            .text_content()
            .startswith(f"{len(shown)} of 20 items on this page")
        )
    page.select_option("#show", "all")
    first = page.locator("#items > li").first
    assert (
        f"user: {EVIL} {rows[0]}?" in first.text_content()
        and f"{EVIL} {rows[0]}" in first.locator(".pair > div").first.text_content()
    )
    assert first.locator(".pair > div").first.locator(".verdict").text_content() == (
        "✓ right" if ours[rows[0]] else "✗ wrong"
    )
    page.select_option("#task", TASKS[4])
    assert "bits per byte" in page.locator("#items .verdict").first.text_content()
    assert page.locator("#show option").all_text_contents() == [
        "all",
        "A and B differ",
        "A better than B",
        "B better than A",
    ]
    assert (
        "lep-bench prompts" in page.locator("#about").text_content()
        and page.locator("#a").input_value() == a
    )


def focus(page: Any) -> str:
    return page.evaluate("document.activeElement.id || document.activeElement.textContent")


def test_everything_works_with_the_keyboard_alone(visit: Callable[..., Any]) -> None:
    page = visit()
    page.keyboard.press("Tab")
    assert focus(page) == "Skip to the table" and page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    seen = []
    while "centred mean" not in seen and len(seen) < 30:
        page.keyboard.press("Tab")
        seen.append(focus(page).strip())
        outlined = "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        assert page.evaluate(outlined), f"no visible focus on {seen[-1]}"
    assert seen[:4] == ["words", "family", "stage", "tasks"]
    page.keyboard.press("Enter")
    assert heads(page, "centred mean").get_attribute("aria-sort") == "descending"
    page.keyboard.press("Space")
    assert heads(page, "centred mean").get_attribute("aria-sort") == "ascending"
    page.focus("#words")
    page.keyboard.type("bpe/swap")
    while focus(page) != "bpe/swap":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#model").is_visible() and focus(page) == "model-h"
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || "
            "document.getElementById('model').contains(document.activeElement)"
        )
    page.keyboard.press("Escape")
    assert focus(page) == "bpe/swap"
    page.focus("#b")
    page.keyboard.press("ArrowDown")
    assert page.locator("#b").input_value() != ""


def test_what_a_screen_reader_hears(visit: Callable[..., Any]) -> None:
    page = visit()
    missing = page.evaluate(
        """() => [...document.querySelectorAll("input, select, img, dialog, section, table, [role=region]")].filter(node =>
            !(node.labels?.length || node.alt || node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") || node.caption))
            .map(node => node.outerHTML.slice(0, 80))"""
    )
    assert missing == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.evaluate(
        "[...document.querySelectorAll('.wide thead th')].every(cell => cell.scope === 'col')"
    )
    levels = page.evaluate(
        "[...document.querySelectorAll('main h1, main h2, main h3, h1')].map(node => "
        "+node.tagName[1])"
    )
    assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:]))


def shot(page: Any) -> tuple[float, float]:
    """Mean brightness (0 to 1) of what is on the screen, and how much it varies."""
    from matplotlib.image import imread

    pixels = imread(io.BytesIO(page.screenshot()))[..., :3].mean(axis=2)
    return float(pixels.mean()), float(pixels.std())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_screens(visit: Callable[..., Any], scheme: str, width: int) -> None:
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 800})
    for place in ("ship", "table", "samples"):
        page.evaluate("place => document.getElementById(place).scrollIntoView()", place)
        mean, varies = shot(page)
        assert varies > 0.03, f"{place} is blank"
        assert mean > 0.8 if scheme == "light" else mean < 0.3, place
    assert page.evaluate("document.documentElement.scrollWidth") <= width, (
        "the page scrolls sideways"
    )
    page.locator("figure img").first.scroll_into_view_if_needed()
    assert page.evaluate(
        "[...document.images].every(image => image.complete && image.naturalWidth > 300)"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(visit: Callable[..., Any], scheme: str) -> None:
    """WCAG's contrast of 4.5 for the page's own colours, each on the background and on cards."""
    page = visit(color_scheme=scheme)

    def light(name: str) -> float:
        value = page.evaluate(
            "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()", name
        ).lstrip("#")
        parts = [int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for behind in ("--bg", "--card"):
        for ink in ("--ink", "--soft", "--link", "--good", "--bad"):
            dark, bright = sorted((light(ink), light(behind)))
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {behind}"


def test_without_scripts_the_table_can_be_read(
    visit: Callable[..., Any], site: tuple[Path, Any]
) -> None:
    page = visit(java_script_enabled=False)
    assert (
        page.locator("tr[data-row]").count() == len(site[1].rows)
        and page.locator("noscript").first.is_visible()
    )
