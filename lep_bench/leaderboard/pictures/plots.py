"""The pictures of a leaderboard: what stands in each, as data; `draw` writes them, `stale` says which no longer show their results.

Pictures of two matplotlib versions differ in their bytes, so each SVG carries a digest of the data it shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lep_bench import atomic
from lep_bench.fingerprint import digest
from lep_bench.leaderboard.forms import text
from lep_bench.leaderboard.pictures.curves import Curve
from lep_bench.leaderboard.statistics import stats
from lep_bench.leaderboard.table import BITS, SYMBOLS, Block, Cell, Finding, Row, Section, Table

FOLDER = "pictures"
REVISION = 1  # of the drawing: raised, all published pictures are drawn again
WIDE = 1.959964  # standard errors in half a 95% interval


@dataclass(frozen=True)
class Mark:
    """One drawn value with its 95% interval (low = high = value where unknown). `vocabulary` gives its colour ("": a reference),
    `name` its line or shape; `at` is the place on the other axis: symbols per token, characters read. `sure`: corrected verdict."""

    name: str
    vocabulary: str
    value: float
    low: float
    high: float
    at: float = 0.0
    sure: str = ""


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `label` says what the values are."""

    title: str
    label: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Picture:
    """`name` is the file's stem; `alt` says in words what is to be seen, `caption` how to read it. `band`: ±delta, in points."""

    name: str
    kind: Literal["quality", "scores", "curves", "differences"]
    alt: str
    caption: str
    panels: tuple[Panel, ...]
    band: float = 0.0

    @cached_property
    def digest(self) -> str:
        """Hash of all that is drawn: six significant digits, so that the last bits of a float decide nothing."""
        return digest([REVISION, _plain(asdict(self))])


def planned(table: Table, curves: Sequence[Curve] = ()) -> tuple[Picture, ...]:
    """The pictures that a table and its curves give, in the order of a page; nothing is drawn."""
    named = [(block, section) for block in table.blocks for section in block.sections]
    found = [_quality(table), *(_scores(table, block, section) for block, section in named)]
    found += [_differences(table, family) for family in table.families]
    found.append(_curves(table, curves))
    return tuple(picture for picture in found if picture is not None)


def draw(table: Table, folder: Path, curves: Sequence[Curve] = ()) -> tuple[Picture, ...]:
    """Write `folder`/pictures/NAME.svg and NAME.png of every picture, each file whole or not at all; pictures of an earlier
    table that are planned no more are removed. Those that show their data already are not drawn again."""
    from lep_bench.leaderboard.pictures import drawing

    pictures = planned(table, curves)
    for picture in pictures:
        if why_stale(picture, folder):
            for kind in ("png", "svg"):  # the SVG last: it vouches for both
                atomic.write_bytes(folder / FOLDER / f"{picture.name}.{kind}", drawing.render(picture, kind))
    for file in _left_over(pictures, folder):
        file.unlink()
    return pictures


def stale(table: Table, folder: Path, curves: Sequence[Curve] = ()) -> list[str]:
    """What in `folder`/pictures does not show this table, a line each; empty when all is well."""
    pictures = planned(table, curves)
    found = [f"{folder / FOLDER / picture.name}.svg: {why}: publish again" for picture in pictures if (why := why_stale(picture, folder))]
    return found + [f"{file}: no picture of this table: publish again" for file in _left_over(pictures, folder)]


def why_stale(picture: Picture, folder: Path) -> str:
    """Why the files of a picture do not show it; empty where they do."""
    file = folder / FOLDER / f"{picture.name}.svg"
    if not file.is_file() or not file.with_suffix(".png").is_file():
        return "is missing" if not file.is_file() else "its PNG is missing"
    known = re.search(r"data:([0-9a-f]{16})", file.read_text(encoding="utf-8", errors="replace"))
    return "" if known and known[1] == picture.digest else "shows other data than the committed results"


def _left_over(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Files of ours (they carry a digest) that no picture has."""
    files = sorted((folder / FOLDER).glob("*.svg")) if (folder / FOLDER).is_dir() else []
    old = [f for f in files if f.stem not in {p.name for p in pictures} and b"lep-bench data:" in f.read_bytes()]
    return [f for svg in old for f in (svg, svg.with_suffix(".png")) if f.is_file()]


def parted(row: Row) -> tuple[str, str]:
    """(vocabulary, method with tuning) of a row, the vocabulary "" for what has none: references, baselines, local models."""
    own = row.stage in ("init", "instruct-init", "donor", "propagation") and "/" in row.label
    vocabulary, method = row.label.split("/", 1) if own else ("", row.label)
    return vocabulary, method


def _quality(table: Table) -> Picture | None:
    """The mean against symbols per token, a panel per block and family."""
    place = next((i for i, c in enumerate(table.columns) if c.metric == SYMBOLS), None)
    panels = []
    for block, section in ((b, s) for b in table.blocks for s in b.sections if place is not None):
        rows = [r for r in section.rows if r.mean.value is not None and place is not None and r.cells[place].value is not None]
        if len(rows) > 1:
            marks = [_mark(row, row.mean, 100, row.cells[place].value or 0.0) for row in rows]
            front = [m for m in marks if not any((o.at > m.at and o.value >= m.value) or (o.at >= m.at and o.value > m.value) for o in marks)]
            shown = tuple(replace(m, sure="front" if m in front else "") for m in marks)
            panels.append(Panel(_title(block, section), f"{text.mean_label(table)}, %", shown))
    if not panels:
        return None
    best = "; ".join(f"{p.title}: {', '.join(_full(m) for m in p.marks if m.sure)}" for p in panels)
    caption = (
        f"Quality ({text.mean_label(table)}, 95% intervals over items) against symbols per token. Dashed: the Pareto front, where no other "
        f"model of the panel is better in one and as good in the other (by the values: where intervals overlap it may run otherwise). On it: {best}."
    )
    count = sum(len(p.marks) for p in panels)
    alt = f"Quality against symbols per token, {count} models in {len(panels)} panels; the caption names those on the front."
    return Picture("quality", "quality", alt, caption, tuple(panels))


def _scores(table: Table, block: Block, section: Section) -> Picture | None:
    """Every score of a family's models, a panel per task."""
    panels = []
    for i, column in enumerate(table.columns):
        rows = [row for row in section.rows if row.cells[i].value is not None]
        if column.metric != SYMBOLS and rows:
            unit = ", %" if column.percent else " (lower is better)" if column.metric == BITS else ""
            marks = tuple(_mark(row, row.cells[i], 100 if column.percent else 1) for row in rows)
            panels.append(Panel(column.label, f"{column.metric.replace('_', ' ')}{unit}", marks))
    if not panels or len(section.rows) < 2:
        return None
    what = f"Scores per task of {_title(block, section)}"
    alt = f"{what}: {', '.join(p.title for p in panels)}, with 95% intervals, of {len(section.rows)} models; the figures are in the table."
    return Picture(_stem("scores", table, block, section), "scores", alt, f"{what}, 95% intervals over items.", tuple(panels))


def _differences(table: Table, family: str) -> Picture | None:
    """The planned contrasts of a family, a panel per question."""
    delta, questions = 100 * table.delta, dict[str, list[Mark]]()
    for block in table.blocks:
        rows = {row.model: row for s in block.sections if s.family == family for row in s.rows}
        for finding in block.findings:
            if finding.model in rows:
                questions.setdefault(finding.question, []).append(_contrast(finding, rows[finding.model], family))
    marks = [m for own in questions.values() for m in own]
    if not marks:
        return None
    counts = {v: sum(m.sure == v for m in marks) for v in ("higher", "lower", "equal", "undecided")}
    said = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
    caption = (
        f"Paired differences of the {text.mean_label(table)} in {family}, 95% intervals; filled: higher or lower after correction "
        f"over the block's contrasts; square: equal, the interval lies within the grey ±{delta:g} points; hollow: undecided. Each panel has "
        "its own scale."
    )
    panels = tuple(Panel(q, f"difference of the {text.mean_label(table)}, points", tuple(own)) for q, own in questions.items())
    name = f"differences-{_slug(family)}"
    return Picture(name, "differences", f"Forest plot of {len(marks)} planned comparisons in {family}: {said}.", caption, panels, delta)


def _contrast(finding: Finding, row: Row, family: str) -> Mark:
    d, (vocabulary, method) = finding.difference, parted(row)
    control = d.control.removeprefix(f"{family}/").removeprefix(f"{vocabulary}/" if vocabulary else "")
    low, high = (d.value if d.low is None else d.low), (d.value if d.high is None else d.high)
    return Mark(f"{method} − {control}", vocabulary, 100 * d.value, 100 * low, 100 * high, sure=d.verdict or "undecided")


def _curves(table: Table, curves: Sequence[Curve]) -> Picture | None:
    """The losses of the donors of the table's families, a panel each."""
    panels = []
    for family in table.families:
        own = [c for c in curves if c.model.startswith(f"{family}/") and c.points]
        marks = [Mark(f"seed {c.seed}", c.model.removeprefix(f"{family}/").split("/")[0], bits, bits, bits, at) for c in own for at, bits in c.points]
        if marks:
            panels.append(Panel(family, "bits per character", tuple(marks)))
    if not panels:
        return None
    ends = "; ".join(f"{p.title}: {', '.join(f'{m.vocabulary} {m.value:.2f}' for m in last(p))}" for p in panels)
    caption = (
        "Continued pre-training of the donors: bits per character of the training text, as it is read (one pass). Per character, "
        "not per token: so vocabularies compare. Logarithmic axes; each point is the mean of its stretch."
    )
    return Picture(
        "curves", "curves", f"Training curves falling with the characters read. Bits per character at the end: {ends}.", caption, tuple(panels)
    )


def last(panel: Panel) -> list[Mark]:
    """Where each curve of a panel ends: the mean of its last tenth."""
    own: dict[tuple[str, str], list[Mark]] = {}
    for m in panel.marks:
        own.setdefault((m.vocabulary, m.name), []).append(m)
    return [replace(o[-1], value=stats.mean([m.value for m in o[-max(1, len(o) // 10) :]])) for o in own.values()]


def _mark(row: Row, cell: Cell, factor: float, at: float = 0.0) -> Mark:
    vocabulary, method = parted(row)
    value, half = factor * (cell.value or 0.0), factor * WIDE * (cell.stderr or 0.0)
    return Mark(method, vocabulary, value, value - half, value + half, at)


def _full(mark: Mark) -> str:
    return f"{mark.vocabulary}/{mark.name}" if mark.vocabulary else mark.name


def _title(block: Block, section: Section) -> str:
    c = block.condition
    return f"{text.clean(section.family)}, {'chat' if c.format == 'chat' else 'plain form'}, {c.shots}-shot"


def _stem(kind: str, table: Table, block: Block, section: Section) -> str:
    """A file's stem: the format is added, and where that is not enough the number of the block."""
    same = [b for b in table.blocks if any(s.family == section.family for s in b.sections)]
    alike = [b for b in same if b.condition.format == block.condition.format]
    number = f"-{alike.index(block) + 1}" if alike.index(block) else ""
    return f"{kind}-{_slug(section.family)}-{block.condition.format}{number}"


def _slug(name: str) -> str:
    """A family's name as part of a file name; one that had to be changed gets a hash, so that no two meet."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")
    return safe if safe == name else f"{safe or 'family'}-{digest(name)[:6]}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return f"{round(value, 9) + 0.0:.6g}" if isinstance(value, float) else value
