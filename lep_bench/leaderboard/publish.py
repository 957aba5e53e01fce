"""A leaderboard folder: written from a snapshot of results, read, and checked against its own
results.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lep_bench.config.schema import Suite
from lep_bench.errors import LepBenchError
from lep_bench.files import write_text
from lep_bench.leaderboard import forms, page, plots
from lep_bench.leaderboard.assemble import assemble_table
from lep_bench.leaderboard.cells import Metrics, Samples, choose_results
from lep_bench.leaderboard.contamination import StoredScan
from lep_bench.leaderboard.examine import examine_results
from lep_bench.leaderboard.page import END, START, make_page, render_page
from lep_bench.leaderboard.plots import Curve
from lep_bench.leaderboard.snapshot import Snapshot, read_snapshot, render_snapshot
from lep_bench.leaderboard.table import Table
from lep_bench.leaderboard.text import explain_signs
from lep_bench.records.schema import CHANGED, Noise, TaskResult

RESULTS, PAGE, TABLE = "results.jsonl", "README.md", "table.csv"


def make_snapshot(
    suite: Suite,
    results: Iterable[TaskResult],
    samples: Samples,
    order: Sequence[str] = (),
    scan: StoredScan | None = None,
    commands: Sequence[str] = (),
    noise: Sequence[Noise] = (),
    folders: Sequence[Path] = (),
) -> str:
    """The text of results.jsonl. Arguments: see `assemble.build_table`.

    `commands` reproduce the results (none: a run of all models of the suite). Of `noise` the
    entries of machines that scored something are kept.
    """
    chosen, items = examine_results(
        choose_results(results, suite.name, suite.tasks),
        samples,
        Metrics.load(suite.tasks, folders),
        scan,
    )
    found = scan.summary if scan else None
    return render_snapshot(Snapshot(suite, order, chosen, items, found, tuple(commands), noise))


def write_leaderboard(
    folder: Path,
    suite: Suite,
    results: Iterable[TaskResult],
    samples: Samples,
    order: Sequence[str] = (),
    scan: StoredScan | None = None,
    commands: Sequence[str] = (),
    noise: Sequence[Noise] = (),
    folders: Sequence[Path] = (),
    curves: Iterable[Curve] | None = None,
) -> Table:
    """`make_snapshot` and `write_pages` in one."""
    snapshot = make_snapshot(suite, results, samples, order, scan, commands, noise, folders)
    return write_pages(folder, snapshot, curves)


def write_pages(
    folder: Path, snapshot: str, curves: Iterable[Curve] | None = None, table: Table | None = None
) -> Table:
    """Write `folder`/{results.jsonl, table.csv, README.md}, each whole or not at all; returns the
    table that they show.

    With `curves`, those of the donors' training (there may be none), also curves.csv and the
    pictures, which take seconds. `table`: what an earlier call returned for the same snapshot.

    Everything is rendered from the snapshot, so `check_leaderboard` finds the same bytes. Own prose
    outside the markers of an existing README.md stays. Raises LepBenchError when that page lacks
    its pair of markers.
    """
    existing = read_existing(folder / PAGE)
    write_text(folder / RESULTS, snapshot)
    table = table or read_leaderboard(folder)
    if curves is not None or (folder / plots.FOLDER).is_dir():
        plots.write_curves(folder, curves or ())
        plots.draw_pictures(table, folder, plots.read_curves(folder))
    write_text(folder / TABLE, forms.render_csv(table))
    write_text(folder / PAGE, _render_whole_page(table, folder, existing))
    return table


def read_existing(file: Path) -> str | None:
    """A page to be refreshed; None where there is none. Raises LepBenchError without its markers:
    it is somebody's own.
    """
    existing = _read_text(file) if file.is_file() else None
    if existing is not None and page.replace_generated(existing, "") is None:
        raise LepBenchError(
            f"{file}: needs the lines {START} and {END}, once each, where the table belongs; "
            "add them or delete the file"
        )
    return existing


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LepBenchError(
            f"{file}: not UTF-8 text ({error}): save it as UTF-8, or delete it and publish again"
        ) from error


def read_leaderboard(folder: Path) -> Table:
    """The table that a folder's committed results give. Raises LepBenchError when they cannot be
    read.
    """
    held = read_snapshot(folder / RESULTS)
    return replace(
        assemble_table(held.chosen, held.lookup, held.suite, held.order, held.contamination),
        commands=held.commands,
        noise=tuple(held.noise),
    )


def list_changed(table: Table) -> tuple[str, ...]:
    """A reason for every result that is left out because it was changed by hand."""
    return tuple(f.reason for f in table.failures if CHANGED in f.reason)


def check_leaderboard(folder: Path) -> list[str]:
    """What in a leaderboard folder is not what its data gives, one line each; empty when all is
    well.
    """
    if not (folder / RESULTS).is_file():
        return [f"{folder}: no {RESULTS}: not a leaderboard folder"]
    file = folder / PAGE
    try:
        table, lines = read_leaderboard(folder), plots.read_curves(folder)
        existing = read_existing(file)
    except LepBenchError as error:
        return [str(error)]
    drawn = plots.find_stale(table, folder, lines) if (folder / plots.FOLDER).is_dir() else []
    changed = [f"{folder}: {reason}" for reason in list_changed(table)]
    return (
        changed
        + _find_mismatch(file, _render_whole_page(table, folder, existing))
        + _find_mismatch(folder / TABLE, forms.render_csv(table))
        + drawn
    )


def refresh_excerpt(readme: Path, folder: Path) -> bool:
    """Put an excerpt of a leaderboard folder between the markers of another page; False where that
    page has none.
    """
    text = _insert_excerpt(readme, folder)
    if text is not None:
        write_text(readme, text)
    return text is not None


def check_excerpt(readme: Path, folder: Path) -> list[str]:
    """As `check`, for a page that `refresh_excerpt` wrote; a page without markers is fine."""
    try:
        text = _insert_excerpt(readme, folder)
    except LepBenchError as error:
        return [str(error)]
    return [] if text is None else _find_mismatch(readme, text)


def _insert_excerpt(readme: Path, folder: Path) -> str | None:
    if not readme.is_file() or not (folder / RESULTS).is_file():
        return None
    return page.replace_generated(_read_text(readme), render_excerpt(read_leaderboard(folder)))


def render_excerpt(table: Table, vocabulary: str = "extended") -> str:
    """Markdown of the block asked as the instruct models are: the first family's references and one
    vocabulary.
    """
    block = next((b for b in table.blocks if any(row.stage == "instruct" for row in b.rows)), None)
    if block is None:
        return "Nothing published yet.\n"
    section = block.sections[0]
    chosen = (
        row
        for row in section.rows
        if row.stage == "instruct" or row.label.startswith(f"{vocabulary}/")
    )
    # ranks are among rows that are not here
    sections = (replace(section, rows=tuple(replace(row, rank=None) for row in chosen)),)
    shown = replace(table, blocks=(replace(block, sections=sections),), failures=())
    return page.render_markdown(shown) + (
        f"\n{remark}\n" if (remark := explain_signs(shown)) else ""
    )


def _render_whole_page(table: Table, folder: Path, existing: str | None) -> str:
    """The whole page, with the pictures that the folder holds."""
    body = render_page(
        table,
        plots.plan_pictures(table, plots.read_curves(folder))
        if (folder / plots.FOLDER).is_dir()
        else (),
    )
    return (page.replace_generated(existing, body) if existing is not None else None) or make_page(
        table.title, body
    )


def _find_mismatch(file: Path, expected: str) -> list[str]:
    if not file.exists():
        return [f"{file}: is missing: publish again"]
    try:
        found = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [f"{file}: cannot be read ({type(error).__name__})"]
    if found == expected:
        return []
    pairs = zip(found.split("\n"), expected.split("\n"))
    line = next(
        (i for i, (a, b) in enumerate(pairs, 1) if a != b),
        min(found.count("\n"), expected.count("\n")) + 1,
    )
    return [
        (
            f"{file}:{line}: differs from what its results render to: publish again, and do "
            "not edit between the markers"
        )
    ]
