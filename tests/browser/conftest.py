"""A headless Chromium of this machine, where there is one, and a page to open in it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "leaderboard"))  # invented_run, invented_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Skips where there is no browser; nothing is downloaded."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install -e .[test])"
    )
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no {' or '.join(NAMES[:2])} on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # Chromium refuses to run as root with it
        alone = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        opened = started.chromium.launch(executable_path=found, args=alone)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The page's file and the table it shows."""
    from invented_page import write

    folder = tmp_path_factory.mktemp("site")
    return folder / "index.html", write(folder)


@pytest.fixture
def visit(browser: Any, site: tuple[Path, Any]) -> Iterator[Callable[..., Any]]:
    """Open the page (`fragment` after #) with the settings of a browser context. What must never
    happen fails the test at its end: an error, a message on the console, a dialog, or any request
    beside the file and what it carries inside."""
    wrong: list[str] = []
    contexts = []

    def open_(fragment: str = "", **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on(
            "dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        page.on(
            "request",
            lambda request: (
                wrong.append(f"request: {request.url[:80]}")
                if not _inside(request.url, site[0])
                else None
            ),
        )
        page.goto(site[0].as_uri() + (f"#{fragment}" if fragment else ""))
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


def _inside(url: str, file: Path) -> bool:
    return url.startswith("data:") or url.split("#")[0] == file.as_uri()
