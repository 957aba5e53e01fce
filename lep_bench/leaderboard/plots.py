"""The pictures of a leaderboard: what stands in each, as data; `draw` writes them, `stale` says
which no longer show their results.

Pictures of two matplotlib versions differ in their bytes, so each SVG carries a digest of the data
it shows.
"""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lep_bench import stats
from lep_bench.errors import LepBenchError
from lep_bench.files import digest, write_bytes, write_text
from lep_bench.leaderboard.table import BITS, SYMBOLS, Block, Cell, Contrast, Row, Section, Table
from lep_bench.leaderboard.text import clean_text, label_mean
from lep_bench.records.artifact import Lep

FOLDER = "pictures"
REVISION = 1  # of the drawing: raised, all published pictures are drawn again
WIDE = 1.959964  # standard errors in half a 95% interval


@dataclass(frozen=True)
class Mark:
    """One drawn value with its 95% interval (low = high = value where unknown). `vocabulary` gives
    its colour ("": a reference), `name` its line or shape; `at` is the place on the other axis:
    symbols per token, characters read. `sure`: corrected verdict."""

    name: str
    vocabulary: str
    value: float
    low: float
    high: float
    at: float = 0.0
    sure: str = ""


@dataclass(frozen=True)
class PlotPanel:
    """One pair of axes. `label` says what the values are."""

    title: str
    label: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Picture:
    """`name` is the file's stem; `alt` says in words what is to be seen, `caption` how to read it.
    `band`: ±delta, in points.
    """

    name: str
    kind: Literal["quality", "scores", "curves", "differences"]
    alt: str
    caption: str
    panels: tuple[PlotPanel, ...]
    band: float = 0.0

    @cached_property
    def digest(self) -> str:
        """Hash of all that is drawn: six significant digits, so that the last bits of a float
        decide nothing.
        """
        return digest([REVISION, _round_floats(asdict(self))])


def plan_pictures(table: Table, curves: Sequence[Curve] = ()) -> tuple[Picture, ...]:
    """The pictures that a table and its curves give, in the order of a page; nothing is drawn."""
    named = [(block, section) for block in table.blocks for section in block.sections]
    found = [
        _plan_quality(table),
        *(_plan_scores(table, block, section) for block, section in named),
    ]
    found += [_plan_differences(table, family) for family in table.families]
    found.append(_plan_curves(table, curves))
    return tuple(picture for picture in found if picture is not None)


def draw_pictures(table: Table, folder: Path, curves: Sequence[Curve] = ()) -> tuple[Picture, ...]:
    """Write `folder`/pictures/NAME.svg and NAME.png of every picture, each file whole or not at
    all; pictures of an earlier table that are planned no more are removed. Those that show their
    data already are not drawn again."""

    pictures = plan_pictures(table, curves)
    for picture in pictures:
        if explain_stale(picture, folder):
            for kind in ("png", "svg"):  # the SVG last: it vouches for both
                write_bytes(
                    folder / FOLDER / f"{picture.name}.{kind}", render_picture(picture, kind)
                )
    for file in _list_obsolete(pictures, folder):
        file.unlink()
    return pictures


def find_stale(table: Table, folder: Path, curves: Sequence[Curve] = ()) -> list[str]:
    """What in `folder`/pictures does not show this table, a line each; empty when all is well."""
    pictures = plan_pictures(table, curves)
    found = [
        f"{folder / FOLDER / picture.name}.svg: {why}: publish again"
        for picture in pictures
        if (why := explain_stale(picture, folder))
    ]
    return found + [
        f"{file}: no picture of this table: publish again"
        for file in _list_obsolete(pictures, folder)
    ]


def explain_stale(picture: Picture, folder: Path) -> str:
    """Why the files of a picture do not show it; empty where they do."""
    file = folder / FOLDER / f"{picture.name}.svg"
    if not file.is_file() or not file.with_suffix(".png").is_file():
        return "is missing" if not file.is_file() else "its PNG is missing"
    known = re.search(r"data:([0-9a-f]{16})", file.read_text(encoding="utf-8", errors="replace"))
    return (
        ""
        if known and known[1] == picture.digest
        else "shows other data than the committed results"
    )


def _list_obsolete(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Files of ours (they carry a digest) that no picture has."""
    files = sorted((folder / FOLDER).glob("*.svg")) if (folder / FOLDER).is_dir() else []
    old = [
        f
        for f in files
        if f.stem not in {p.name for p in pictures} and b"lep-bench data:" in f.read_bytes()
    ]
    return [f for svg in old for f in (svg, svg.with_suffix(".png")) if f.is_file()]


def split_label(row: Row) -> tuple[str, str]:
    """(vocabulary, method with tuning) of a row, the vocabulary "" for what has none: references,
    baselines, local models.
    """
    own = row.stage in ("init", "instruct-init", "donor", "propagation") and "/" in row.label
    vocabulary, method = row.label.split("/", 1) if own else ("", row.label)
    return vocabulary, method


def _plan_quality(table: Table) -> Picture | None:
    """The mean against symbols per token, a panel per block and family."""
    panels = []
    for block, section in ((b, s) for b in table.blocks for s in b.sections):
        marks = [
            _make_mark(row, row.mean, 100, symbols)
            for row in section.rows
            if row.mean.value is not None and (symbols := table.symbols_per_token(row)) is not None
        ]
        if len(marks) > 1:
            front = [
                m
                for m in marks
                if not any(
                    (o.at > m.at and o.value >= m.value) or (o.at >= m.at and o.value > m.value)
                    for o in marks
                )
            ]
            shown = tuple(replace(m, sure="front" if m in front else "") for m in marks)
            panels.append(PlotPanel(_title(block, section), f"{label_mean(table)}, %", shown))
    if not panels:
        return None
    best = "; ".join(
        f"{p.title}: {', '.join(_name_mark(m) for m in p.marks if m.sure)}" for p in panels
    )
    caption = (
        f"Quality ({label_mean(table)}, 95% intervals over items) against symbols per token. "
        "Dashed: the Pareto front, where no other model of the panel is better in one and as good "
        "in the other (by point estimates: where intervals overlap, the front is uncertain). On "
        f"it: {best}."
    )
    count = sum(len(p.marks) for p in panels)
    alt = (
        f"Quality against symbols per token, {count} models in {len(panels)} panels; the caption "
        "names those on the front."
    )
    return Picture("quality", "quality", alt, caption, tuple(panels))


def _plan_scores(table: Table, block: Block, section: Section) -> Picture | None:
    """Every score of a family's models, a panel per task."""
    panels = []
    for i, column in enumerate(table.columns):
        rows = [row for row in section.rows if row.cells[i].value is not None]
        if column.metric != SYMBOLS and rows:
            unit = (
                ", %" if column.percent else " (lower is better)" if column.metric == BITS else ""
            )
            marks = tuple(
                _make_mark(row, row.cells[i], 100 if column.percent else 1) for row in rows
            )
            panels.append(
                PlotPanel(column.label, f"{column.metric.replace('_', ' ')}{unit}", marks)
            )
    if not panels or len(section.rows) < 2:
        return None
    what = f"Scores per task of {_title(block, section)}"
    alt = (
        f"{what}: {', '.join(p.title for p in panels)}, with 95% intervals, of "
        f"{len(section.rows)} models; the figures are in the table."
    )
    return Picture(
        _stem("scores", table, block, section),
        "scores",
        alt,
        f"{what}, 95% intervals over items.",
        tuple(panels),
    )


def _plan_differences(table: Table, family: str) -> Picture | None:
    """The planned contrasts of a family, a panel per question."""
    delta, questions = 100 * table.delta, dict[str, list[Mark]]()
    for block in table.blocks:
        rows = {row.model: row for s in block.sections if s.family == family for row in s.rows}
        for finding in block.findings:
            if finding.model in rows:
                questions.setdefault(finding.question, []).append(
                    _mark_contrast(finding, rows[finding.model], family)
                )
    marks = [m for own in questions.values() for m in own]
    if not marks:
        return None
    counts = {v: sum(m.sure == v for m in marks) for v in ("higher", "lower", "equal", "undecided")}
    said = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
    caption = (
        f"Paired differences of the {label_mean(table)} in {family}, 95% intervals; "
        "filled: higher or lower after correction for the comparisons of the block; square: "
        "equal, the interval lies within the grey ±"
        f"{delta:g} points; hollow: undecided. Each panel has "
        "its own scale."
    )
    panels = tuple(
        PlotPanel(q, f"difference of the {label_mean(table)}, points", tuple(own))
        for q, own in questions.items()
    )
    name = f"differences-{_slug(family)}"
    return Picture(
        name,
        "differences",
        f"Forest plot of {len(marks)} planned comparisons in {family}: {said}.",
        caption,
        panels,
        delta,
    )


def _mark_contrast(finding: Contrast, row: Row, family: str) -> Mark:
    d, (vocabulary, method) = finding.difference, split_label(row)
    control = d.control.removeprefix(f"{family}/").removeprefix(
        f"{vocabulary}/" if vocabulary else ""
    )
    low, high = (d.value if d.low is None else d.low), (d.value if d.high is None else d.high)
    return Mark(
        f"{method} − {control}",
        vocabulary,
        100 * d.value,
        100 * low,
        100 * high,
        sure=d.verdict or "undecided",
    )


def _plan_curves(table: Table, curves: Sequence[Curve]) -> Picture | None:
    """The losses of the donors of the table's families, a panel each."""
    panels = []
    for family in table.families:
        own = [c for c in curves if c.model.startswith(f"{family}/") and c.points]
        marks = [
            Mark(
                f"seed {c.seed}",
                c.model.removeprefix(f"{family}/").split("/")[0],
                bits,
                bits,
                bits,
                at,
            )
            for c in own
            for at, bits in c.points
        ]
        if marks:
            panels.append(PlotPanel(family, "bits per character", tuple(marks)))
    if not panels:
        return None
    ends = "; ".join(
        f"{p.title}: {', '.join(f'{m.vocabulary} {m.value:.2f}' for m in find_ends(p))}"
        for p in panels
    )
    caption = (
        "Continued pre-training of the donors: bits per character of the training text as it is "
        "read (one pass). Counting per character rather than per token makes vocabularies "
        "comparable. Logarithmic axes; each point is a mean over a stretch of text."
    )
    return Picture(
        "curves",
        "curves",
        f"Training curves falling with the characters read. Bits per character at the end: {ends}.",
        caption,
        tuple(panels),
    )


def find_ends(panel: PlotPanel) -> list[Mark]:
    """Where each curve of a panel ends: the mean of its last tenth."""
    own: dict[tuple[str, str], list[Mark]] = {}
    for m in panel.marks:
        own.setdefault((m.vocabulary, m.name), []).append(m)
    return [
        replace(o[-1], value=stats.mean([m.value for m in o[-max(1, len(o) // 10) :]]))
        for o in own.values()
    ]


def _make_mark(row: Row, cell: Cell, factor: float, at: float = 0.0) -> Mark:
    vocabulary, method = split_label(row)
    value, half = factor * (cell.value or 0.0), factor * WIDE * (cell.stderr or 0.0)
    return Mark(method, vocabulary, value, value - half, value + half, at)


def _name_mark(mark: Mark) -> str:
    return f"{mark.vocabulary}/{mark.name}" if mark.vocabulary else mark.name


def _title(block: Block, section: Section) -> str:
    c = block.condition
    return (
        f"{clean_text(section.family)}, {'chat' if c.format == 'chat' else 'plain'}, {c.shots}-shot"
    )


def _stem(kind: str, table: Table, block: Block, section: Section) -> str:
    """A file's stem: the format is added, and where that is not enough the number of the block."""
    same = [b for b in table.blocks if any(s.family == section.family for s in b.sections)]
    alike = [b for b in same if b.condition.format == block.condition.format]
    number = f"-{alike.index(block) + 1}" if alike.index(block) else ""
    return f"{kind}-{_slug(section.family)}-{block.condition.format}{number}"


def _slug(name: str) -> str:
    """A family's name as part of a file name; one that had to be changed gets a hash, so that no
    two meet.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")
    return safe if safe == name else f"{safe or 'family'}-{digest(name)[:6]}"


def _round_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_floats(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_round_floats(part) for part in value]
    return f"{round(value, 9) + 0.0:.6g}" if isinstance(value, float) else value


# Okabe and Ito's colours (2008), told apart by colour-blind readers; their yellow is too light for
# a white card.
COLOURS = {
    "": "#222222",
    "original": "#6e6e6e",
    "bpe": "#0072b2",
    "unigram": "#d55e00",
    "extended": "#009e73",
    "optimized": "#b0579a",
}
FURTHER = ("#56b4e9", "#e69f00", "#8c6d31", "#4b3f8f")
SHAPES = {
    "swap": "s",
    "overlap": "^",
    "conversion": "o",
    "donor": "D",
    "init": "X",
    "instruct-init": "X",
    "base": "*",
    "instruct": "*",
}
SPARE = ("v", "P", "<", ">", "p", "h", "d")
INK, FAINT = "#222222", "#d5d5d5"
LINE = 0.155  # inches of height for a line of marks
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 8.5,
    "legend.fontsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "lep-bench",
    "axes.unicode_minus": True,
    "text.parse_math": False,  # a name with dollar signs is a name
}


def render_picture(picture: Picture, kind: Literal["svg", "png"]) -> bytes:
    """The bytes of a picture's file; the digest of its data stands in the metadata."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure = Figure(layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
        {
            "quality": _draw_quality,
            "scores": _draw_scores,
            "curves": _draw_curves,
            "differences": _draw_differences,
        }[picture.kind](figure, picture)
        said = f"lep-bench data:{picture.digest}"
        known = (
            {"Date": None, "Description": said, "Title": picture.alt}
            if kind == "svg"
            else {"Software": None, "Description": said}
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata=known)
    return buffer.getvalue()


class _Key:
    """Which colour and shape means what, in order of appearance."""

    def __init__(self, picture: Picture) -> None:
        marks = [m for panel in picture.panels for m in panel.marks]
        self.vocabularies = list(dict.fromkeys(m.vocabulary for m in marks))
        self.names = list(dict.fromkeys(m.name for m in marks))
        unknown = [v for v in self.vocabularies if v not in COLOURS]
        self.colours = {**COLOURS, **{v: FURTHER[i % len(FURTHER)] for i, v in enumerate(unknown)}}
        methods = [
            m for m in dict.fromkeys(name.split("+")[0] for name in self.names) if m not in SHAPES
        ]
        self.shapes = {**SHAPES, **{m: SPARE[i % len(SPARE)] for i, m in enumerate(methods)}}

    def style(self, mark: Mark, filled: bool) -> dict[str, Any]:
        colour = self.colours[mark.vocabulary]
        return {
            "color": colour,
            "markerfacecolor": colour if filled else "white",
            "markeredgecolor": colour,
            "markeredgewidth": 1.1,
        }

    def legend(self, figure: Any, shapes: bool, extra: Sequence[tuple[str, str, str]] = ()) -> None:
        """Below everything; `extra` are (shape, fill, words)."""
        from matplotlib.lines import Line2D

        entries = [
            Line2D([], [], color=self.colours[v], linewidth=4, label=v or "reference")
            for v in self.vocabularies
            if len(self.vocabularies) > 1
        ]
        names = (
            [
                (self.shapes[name.split("+")[0]], INK if "+" in name else "white", name)
                for name in self.names
            ]
            if shapes
            else []
        )
        for shape, fill, words in (*names, *extra):
            entries.append(
                Line2D(
                    [],
                    [],
                    marker=shape,
                    linestyle="",
                    color=INK,
                    markerfacecolor=fill,
                    markeredgecolor=INK,
                    label=words,
                )
            )
        if entries:
            columns = min(5, len(entries)) if len(entries) != 6 else 6
            figure.legend(
                handles=entries,
                loc="outside lower center",
                ncols=columns,
                frameon=False,
                columnspacing=1.4,
            )


def _draw_quality(figure: Any, picture: Picture) -> None:
    key = _Key(picture)
    for axes, panel in _make_axes(figure, picture.panels, min(2, len(picture.panels)), 9, 3.5, 1.1):
        for m in panel.marks:
            style = key.style(m, filled="+" in m.name)
            shape = key.shapes[m.name.split("+")[0]]
            axes.errorbar(
                m.at,
                m.value,
                yerr=[[m.value - m.low], [m.high - m.value]],
                marker=shape,
                markersize=5.5,
                linewidth=1,
                alpha=0.85,
                **style,
            )
        front = sorted((m for m in panel.marks if m.sure), key=lambda m: (m.at, -m.value))
        # Whoever wants at least x symbols per token gets at most this quality: a staircase, no
        # slope.
        axes.plot(
            [m.at for m in front],
            [m.value for m in front],
            drawstyle="steps-pre",
            linestyle=(0, (4, 3)),
            color="#888888",
            linewidth=1,
            zorder=1,
        )
        axes.margins(x=0.08, y=0.1)
        axes.set_title(panel.title, loc="left")
        axes.set_xlabel("symbols per token")
        axes.set_ylabel(panel.label)
    key.legend(figure, shapes=True)


def _draw_scores(figure: Any, picture: Picture) -> None:
    key, panels = _Key(picture), picture.panels
    columns = len(panels) if len(panels) <= 5 else 4 if len(panels) <= 8 else 6
    lines = list(
        dict.fromkeys(
            (m.name, m.vocabulary)
            for name in key.names
            for panel in panels
            for m in panel.marks
            if m.name == name
        )
    )
    lines.sort(key=lambda line: (key.names.index(line[0]), key.vocabularies.index(line[1])))
    places, ticks = _place_lines(lines)
    width, height = min(9.4, 2.4 + 1.75 * columns), LINE * max(places.values()) + 0.95
    for i, (axes, panel) in enumerate(_make_axes(figure, panels, columns, width, height, 0.5)):
        for m in panel.marks:
            _draw_interval(axes, m, places[m.name, m.vocabulary], key.style(m, filled=True), "o")
        axes.set_title(textwrap.fill(panel.title, 80 // columns), loc="left")
        axes.set_xlabel(panel.label if columns < 5 else panel.label.replace(" (", "\n("))
        axes.locator_params(axis="x", nbins=3)
        _label_lines(axes, ticks, max(places.values()), shown=i % columns == 0)
    key.legend(figure, shapes=False)


def _draw_differences(figure: Any, picture: Picture) -> None:
    key, laid = _Key(picture), []
    for panel in picture.panels:
        lines = sorted(
            {(m.name, m.vocabulary): 0 for m in panel.marks},
            key=lambda p: (key.names.index(p[0]), key.vocabularies.index(p[1])),
        )
        laid.append(_place_lines(lines))
    heights = [max(places.values()) + 2.6 for places, _ in laid]
    figure.set_size_inches(9, LINE * sum(heights) + 0.42 * len(heights) + 0.9)
    # Each panel has its own scale: differences between methods are a tenth of those from the
    # instruct model, and would be dots.
    grid = figure.subplots(len(laid), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel, (places, ticks) in zip(grid, picture.panels, laid):
        axes.axvspan(-picture.band, picture.band, color=FAINT, zorder=0)
        axes.axvline(0, color="#888888", linewidth=0.8, zorder=1)
        for m in panel.marks:
            _draw_interval(
                axes,
                m,
                places[m.name, m.vocabulary],
                key.style(m, m.sure in ("higher", "lower")),
                "s" if m.sure == "equal" else "o",
            )
        axes.set_title(panel.title, loc="left")
        _label_lines(axes, ticks, max(places.values()), shown=True)
    grid[-1].set_xlabel(picture.panels[-1].label)
    key.legend(
        figure,
        False,
        [
            ("o", INK, "higher or lower"),
            ("o", "white", "undecided"),
            ("s", "white", f"equal within ±{picture.band:g}"),
        ],
    )


def _draw_curves(figure: Any, picture: Picture) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

    key = _Key(picture)
    for axes, panel in _make_axes(figure, picture.panels, min(2, len(picture.panels)), 9, 3.3, 0.3):
        for name, vocabulary in dict.fromkeys((m.name, m.vocabulary) for m in panel.marks):
            own = [m for m in panel.marks if (m.name, m.vocabulary) == (name, vocabulary)]
            axes.plot(*_average_stretches(own), color=key.colours[vocabulary], linewidth=1.4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 10k, 1M
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * (high / low) ** 0.3)  # room for the names
        _label_ends(axes, panel, key)
        axes.set_title(panel.title, loc="left")
        axes.set_xlabel("characters read")
        axes.set_ylabel(panel.label)


def _average_stretches(marks: Sequence[Mark]) -> tuple[list[float], list[float]]:
    """Means over stretches of equal width on the logarithmic axis, counted from its right end: that
    holds most points, and their noise.
    """
    parts: dict[int, list[Mark]] = {}
    for m in marks:
        parts.setdefault(int(12 * math.log10(marks[-1].at / max(m.at, 1.0))), []).append(m)
    return [stats.mean([m.at for m in own]) for own in parts.values()], [
        stats.mean([m.value for m in own]) for own in parts.values()
    ]


def _label_ends(axes: Any, panel: PlotPanel, key: _Key) -> None:
    """A curve's vocabulary at its end; names that would meet are moved apart."""
    ends = sorted({m.vocabulary: m for m in find_ends(panel)}.values(), key=lambda m: m.value)
    bottom, top = (math.log(v) for v in axes.get_ylim())
    apart, place = (top - bottom) * 0.055, -math.inf
    for m in ends:
        place = max(math.log(m.value), place + apart)
        axes.annotate(
            m.vocabulary,
            (m.at, math.exp(place)),
            (5, 0),
            textcoords="offset points",
            color=key.colours[m.vocabulary],
            va="center",
        )


def _make_axes(
    figure: Any,
    panels: Sequence[PlotPanel],
    columns: int,
    width: float,
    height: float,
    beside: float,
) -> list[tuple[Any, PlotPanel]]:
    """Axes and panel, row by row. In inches: the figure's `width`, each row's `height`, what all of
    them need `beside` that.
    """
    rows = -(-len(panels) // columns)
    figure.set_size_inches(width, rows * height + beside)
    found = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in found[len(panels) :]:
        axes.remove()
    return list(zip(found, panels))


def _place_lines(
    lines: Sequence[tuple[str, str]],
) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """The height of every line of marks from the top, lines of one name together; and the middle of
    each name.
    """
    places: dict[tuple[str, str], float] = {}
    at = 0.0
    for i, line in enumerate(lines):
        at += 0.0 if not i else 1.0 if lines[i - 1][0] == line[0] else 1.9
        places[line] = at
    own = {name: [at for (other, _), at in places.items() if other == name] for name, _ in lines}
    return places, {name: (min(at) + max(at)) / 2 for name, at in own.items()}


def _label_lines(axes: Any, ticks: dict[str, float], last: float, shown: bool) -> None:
    axes.set_yticks(
        list(ticks.values()),
        [name.replace(" − ", "\n− ") for name in ticks] if shown else [""] * len(ticks),
    )
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(last + 1, -1)


def _draw_interval(axes: Any, m: Mark, place: float, style: dict[str, Any], shape: str) -> None:
    axes.errorbar(
        m.value,
        place,
        xerr=[[max(0.0, m.value - m.low)], [max(0.0, m.high - m.value)]],
        marker=shape,
        markersize=4,
        linewidth=1.2,
        **style,
    )


CURVES_FILE = "curves.csv"
CURVES_HEADER = ("model", "seed", "characters", "bits_per_character")


@dataclass(frozen=True)
class Curve:
    """One donor's training: (characters read, bits per character of the training text, mean since
    the point before).

    Nats per token times tokens per character over ln 2: the same text in other tokens gives numbers
    that compare.
    """

    model: str
    seed: int
    points: tuple[tuple[int, float], ...]


def make_curves(artifacts: Iterable[Lep]) -> tuple[Curve, ...]:
    """The curves of those artifacts that were pre-trained, by name and seed."""
    found = {}
    for lep in artifacts:
        t = lep.training
        if lep.stage == "donor" and t.get("loss") and t.get("steps") and t.get("characters"):
            bits = t["tokens"] / t["characters"] / math.log(2)
            points = tuple(
                (round(step * t["characters"] / t["steps"]), round(loss * bits, 4))
                for step, loss in t["loss"]
            )
            found[lep.model, lep.seed] = Curve(lep.model, lep.seed, points)
    return tuple(found[key] for key in sorted(found))


def write_curves(folder: Path, curves: Iterable[Curve]) -> None:
    """Write `folder`/curves.csv; nothing where there are no curves, so that a run without artifacts
    keeps what was published.
    """
    rows = [(c.model, c.seed, *point) for c in curves for point in c.points]
    if rows:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([CURVES_HEADER, *rows])
        write_text(folder / CURVES_FILE, out.getvalue())


def read_curves(folder: Path) -> tuple[Curve, ...]:
    """What `write` left; empty where there is no such file. Raises LepBenchError naming the line
    that cannot be read.
    """
    file, points = folder / CURVES_FILE, dict[tuple[str, int], list[tuple[int, float]]]()
    if not file.is_file():
        return ()
    number = 0
    try:
        with file.open(encoding="utf-8", newline="") as text:
            for number, row in enumerate(csv.reader(text), 1):
                if number == 1 and tuple(row) != CURVES_HEADER:
                    raise ValueError(f"the first line is not {','.join(CURVES_HEADER)}")
                if number > 1:
                    model, seed, characters, bits = row
                    if not math.isfinite(float(bits)):
                        raise ValueError(f"{bits} is no number of bits")
                    points.setdefault((model, int(seed)), []).append((int(characters), float(bits)))
    except (OSError, ValueError, csv.Error) as error:
        raise LepBenchError(f"{file}:{number}: cannot be read ({error}): publish again") from error
    return tuple(Curve(model, seed, tuple(own)) for (model, seed), own in points.items())
