"""Writing a leaderboard folder, and proving that what is committed equals what its results give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lep_bench import atomic
from lep_bench.config import Suite
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import compact, paper, render
from lep_bench.leaderboard.assemble import assemble
from lep_bench.leaderboard.cells import choose, remembering
from lep_bench.leaderboard.clean import Scan, rescored
from lep_bench.leaderboard.page import END, START, fresh, page, place
from lep_bench.leaderboard.table import Table
from lep_bench.results import Noise, Sample, TaskResult

RESULTS, PAGE, TABLE = "results.jsonl", "README.md", "table.csv"


def write(
    folder: Path,
    suite: Suite,
    results: Iterable[TaskResult],
    samples: Callable[[TaskResult], Sequence[Sample]],
    order: Sequence[str] = (),
    current: Mapping[str, str] | None = None,
    scan: Scan | None = None,
    commands: Sequence[str] = (),
    noise: Sequence[Noise] = (),
) -> Table:
    """Write `folder`/{results.jsonl, table.csv, README.md}, each whole or not at all; returns the table they show.

    Everything is rendered from the text of results.jsonl, so `check` finds the same bytes. Own prose outside the markers of an existing
    README.md stays. Raises LepBenchError when that page has no pair of markers. Arguments: see `table.build`; `commands` make the results
    again (none: a run of all models of the suite); of `noise` the entries of machines that scored something are shown.
    """
    chosen = rescored(choose(results, suite.name, suite.tasks, current), samples, scan)
    text = compact.dump(suite, order, chosen, remembering(samples), scan and scan.found, commands, noise)
    target = folder / PAGE
    existing = target.read_text(encoding="utf-8") if target.is_file() else None
    if existing is not None and place(existing, "") is None:
        raise LepBenchError(f"{target}: needs {START} and {END}, once each, where the table shall stand; add them or delete the file")
    atomic.write_text(folder / RESULTS, text)
    table = read(folder)
    atomic.write_text(folder / TABLE, render.csv(table))
    atomic.write_text(target, _placed(table, existing))
    return table


def read(folder: Path) -> Table:
    """The table that a folder's committed results give. Raises LepBenchError when they cannot be read."""
    held = compact.load(folder / RESULTS)
    return replace(assemble(held.chosen, held.lookup, held.suite, held.order, held.contamination), commands=held.commands, noise=held.noise)


def check(folder: Path) -> list[str]:
    """What in a leaderboard folder is not what its data gives, one line each; empty when all is well."""
    if (folder / paper.DATA).is_file():
        return _compare(folder / PAGE, paper.page(folder))
    if not (folder / RESULTS).is_file():
        return [f"{folder}: no {RESULTS}: not a leaderboard folder"]
    try:
        table = read(folder)
    except LepBenchError as error:
        return [str(error)]
    target = folder / PAGE
    existing = target.read_text(encoding="utf-8") if target.is_file() else None
    if existing is not None and place(existing, "") is None:
        return [f"{target}: the markers {START} and {END} are gone: delete the file and publish again"]
    return _compare(target, _placed(table, existing)) + _compare(folder / TABLE, render.csv(table))


def refresh_excerpt(readme: Path, folder: Path) -> bool:
    """Put an excerpt of a leaderboard folder between the markers of another page; False where that page has none."""
    text = _with_excerpt(readme, folder)
    if text is not None:
        atomic.write_text(readme, text)
    return text is not None


def check_excerpt(readme: Path, folder: Path) -> list[str]:
    """As `check`, for a page that `refresh_excerpt` wrote; a page without markers is fine."""
    try:
        text = _with_excerpt(readme, folder)
    except LepBenchError as error:
        return [str(error)]
    return [] if text is None else _compare(readme, text)


def _with_excerpt(readme: Path, folder: Path) -> str | None:
    if not readme.is_file() or not (folder / RESULTS).is_file():
        return None
    return place(readme.read_text(encoding="utf-8"), excerpt(read(folder)))


def excerpt(table: Table, vocabulary: str = "extended") -> str:
    """Markdown of the block asked as the instruct models are: the first family's references and one vocabulary."""
    block = next((b for b in table.blocks if any(row.stage == "instruct" for s in b.sections for row in s.rows)), None)
    if block is None:
        return "Nothing published yet.\n"
    section = block.sections[0]
    rows = tuple(row for row in section.rows if row.stage == "instruct" or row.label.startswith(f"{vocabulary}/"))
    sections = (replace(section, rows=rows),)
    return render.markdown(replace(table, blocks=(replace(block, sections=sections),), failures=()))


def _placed(table: Table, existing: str | None) -> str:
    body = page(table)
    return (place(existing, body) if existing is not None else None) or fresh(table.title, body)


def _compare(file: Path, expected: str) -> list[str]:
    try:
        found = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [f"{file}: cannot be read ({type(error).__name__})"]
    if found == expected:
        return []
    pairs = zip(found.split("\n"), expected.split("\n"))
    line = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), min(found.count("\n"), expected.count("\n")) + 1)
    return [f"{file}:{line}: differs from what the committed results give: publish again, do not edit between the markers"]
