"""The guide does what it says: its code runs, its reference is what the code says, its links lead
somewhere.

A block of bash or Python runs in one folder, page after page in the order of mkdocs.yml. `title="FILE"`
writes a block to FILE. A block that needs a GPU, a network or hours stands behind
`<!-- no-run: REASON -->`: then its commands are only parsed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
GUIDE = DOCS / "guide"
BLOCK = re.compile(
    r"(?:<!-- no-run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w+)(?P<options>[^\n]*)\n"
    r"(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    place: str
    language: str
    title: str
    code: str
    runs: bool


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) == len(re.findall(r"^```", text, re.MULTILINE)) / 2, (
        f"{page}: a block has no language, or does not end"
    )
    blocks = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        title = re.search(r'title="([^"]+)"', match["options"])
        blocks.append(
            Block(
                f"{page.relative_to(ROOT)}:{line}",
                match["language"],
                title[1] if title else "",
                match["code"],
                match["reason"] is None,
            )
        )
    return blocks


def list_pages() -> list[Path]:
    """The pages of the guide that people wrote, in the order of the navigation."""

    def walk(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for part in entry.values() if isinstance(entry, dict) else entry:
                yield from walk(part)

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = [DOCS / name for name in walk(navigation)]
    return [page for page in pages if page.parent == GUIDE]


def load_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run the guide in."""
    return tmp_path_factory.mktemp("guide")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `lep-bench` is this checkout."""
    programs = tmp_path_factory.mktemp("bin")
    program = programs / "lep-bench"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lep_bench "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


@pytest.mark.slow
def test_the_code_of_the_guide_runs(place: Path, environment: dict[str, str]) -> None:
    pages = list_pages()
    assert pages
    for block in [block for page in pages for block in read_blocks(page)]:
        if block.title:
            (place / block.title).parent.mkdir(parents=True, exist_ok=True)
            (place / block.title).write_text(block.code, encoding="utf-8")
        elif block.runs and block.language in ("bash", "python"):
            command = ["bash", "-euo", "pipefail", "-c"]
            if block.language == "python":
                command = [sys.executable, "-c"]
            done = subprocess.run(
                [*command, block.code],
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, f"{block.place}\n{done.stdout}\n{done.stderr}"


def list_commands() -> list[tuple[str, str]]:
    """Where each `lep-bench ...` of the README and the guide stands, and the command."""
    commands = []
    pages = [*GUIDE.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for block in [block for page in pages for block in read_blocks(page)]:
        code = block.code.replace("\\\n", " ")
        for line in code.splitlines():
            command = line.strip().removeprefix("$ ")
            if command.startswith("lep-bench "):
                commands.append((block.place, command))
    return commands


@pytest.mark.parametrize(("page", "line"), list_commands())
def test_every_command_exists_with_its_options(page: str, line: str) -> None:
    import typer

    from lep_bench.cli import app

    command: Any = typer.main.get_command(app)
    words = shlex.split(re.split(r" [>|;&] ?", line)[0], comments=True)[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"{page}: {line}"
        command = command.commands[name]
    if "-h" not in words and words != ["COMMAND"] and "..." not in words:
        command.make_context(line, words)  # raises for unknown options and missing arguments


def test_the_reference_is_what_the_code_says() -> None:
    stale = load_reference().find_stale()
    assert not stale, f"run python docs/reference.py: {stale}"


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [p for p in GUIDE.rglob("*.md") if p.relative_to(DOCS).as_posix() not in listed]
    assert not missing


PAGES = [p for p in (*ROOT.glob("*.md"), *DOCS.rglob("*.md")) if p.name != "CHANGELOG.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_yaml_of_the_guide_has_keys_that_exist() -> None:
    from lep_bench.config.schema import Project

    blocks = [b for page in list_pages() for b in read_blocks(page) if b.language == "yaml"]
    assert blocks
    for block in blocks:
        Project.model_validate(yaml.safe_load(block.code))


def read_tree() -> set[str]:
    """The files and folders of lep_bench/ in the tree of ARCHITECTURE.md, folders with a slash."""
    text = (DOCS / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = re.search(r"```text\nlep_bench/\n(.*?)```", text, re.DOTALL)
    assert block
    paths, folders = set(), []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        name, _, meaning = line.strip().partition(" ")
        assert meaning.strip(), f"{name} has no description"
        path = "/".join([*(folder.rstrip("/") for folder in folders[:depth]), name])
        folders[depth:] = [name]
        paths.add(path)
    return paths


def test_the_map_has_a_line_for_every_file_of_the_package() -> None:
    tree, package = read_tree(), ROOT / "lep_bench"
    files = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    # a folder of data, such as templates/, may have one line for all of its files
    whole = {
        p for p in tree if p.endswith("/") and not any(q != p and q.startswith(p) for q in tree)
    }
    missing = {f for f in files - tree if not any(f.startswith(folder) for folder in whole)}
    assert not missing, "docs/ARCHITECTURE.md has no line for these"
    gone = {path for path in tree if not (package / path).exists()}
    assert not gone, "docs/ARCHITECTURE.md names these"


def test_the_map_names_only_what_exists() -> None:
    text = (DOCS / "ARCHITECTURE.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:[\w-]+/)+[\w.-]*)`", text))
    places = (ROOT, ROOT / "lep_bench")
    assert names
    gone = [name for name in names if not any((place / name).exists() for place in places)]
    assert not gone


def test_the_map_names_functions_that_exist() -> None:
    text = (DOCS / "ARCHITECTURE.md").read_text(encoding="utf-8")
    # **`pipeline/plan.py`** (`make_plan`), and hub.checkpoint_digest in a table
    places = re.findall(r"`([\w/]+\.py)`\*\* \(((?:`[\w.]+`(?:, )?)+)\)", text)
    names = [(file, name) for file, listed in places for name in re.findall(r"[\w.]+", listed)]
    for dotted in re.findall(r"\| `([a-z]+\.[\w.]+)` \|", text):
        module, name = re.match(r"((?:[a-z]+\.)+)(.+)", dotted).groups()  # type: ignore[union-attr]
        names.append((f"{module[:-1].replace('.', '/')}.py", name))
    assert len(names) > 8
    for file, name in names:
        code = (ROOT / "lep_bench" / file).read_text(encoding="utf-8")
        assert re.search(rf"(def|class) {name.split('.')[-1]}\b", code), f"{file}: {name}"
