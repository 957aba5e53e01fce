"""Pictures drawn with matplotlib: on a solid light card that is readable in print and on a dark page; equal data, equal bytes."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from lep_bench.leaderboard.pictures.plots import Mark, Panel, Picture, last
from lep_bench.leaderboard.statistics import stats

# Okabe and Ito's colours (2008), told apart by colour-blind readers; their yellow is too light for a white card.
COLOURS = {"": "#222222", "original": "#6e6e6e", "bpe": "#0072b2", "unigram": "#d55e00", "extended": "#009e73", "optimized": "#b0579a"}
FURTHER = ("#56b4e9", "#e69f00", "#8c6d31", "#4b3f8f")
SHAPES = {"swap": "s", "overlap": "^", "conversion": "o", "donor": "D", "init": "X", "instruct-init": "X", "base": "*", "instruct": "*"}
SPARE = ("v", "P", "<", ">", "p", "h", "d")
INK, FAINT = "#222222", "#d5d5d5"
LINE = 0.155  # inches of height for a line of marks
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "axes.titlesize": 9.5, "axes.labelsize": 8.5, "legend.fontsize": 8, "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": "#888888", "xtick.color": INK, "ytick.color": INK, "axes.grid": True, "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white",
    "axes.facecolor": "white", "savefig.facecolor": "white", "svg.fonttype": "path", "svg.hashsalt": "lep-bench", "axes.unicode_minus": True,
    "text.parse_math": False,  # a name with dollar signs is a name
}  # fmt: skip


def render(picture: Picture, kind: Literal["svg", "png"]) -> bytes:
    """The bytes of a picture's file; the digest of its data stands in the metadata."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure = Figure(layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        {"quality": _quality, "scores": _scores, "curves": _curves, "differences": _differences}[picture.kind](figure, picture)
        said = f"lep-bench data:{picture.digest}"
        known = {"Date": None, "Description": said, "Title": picture.alt} if kind == "svg" else {"Software": None, "Description": said}
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
        methods = [m for m in dict.fromkeys(name.split("+")[0] for name in self.names) if m not in SHAPES]
        self.shapes = {**SHAPES, **{m: SPARE[i % len(SPARE)] for i, m in enumerate(methods)}}

    def style(self, mark: Mark, filled: bool) -> dict[str, Any]:
        colour = self.colours[mark.vocabulary]
        return {"color": colour, "markerfacecolor": colour if filled else "white", "markeredgecolor": colour, "markeredgewidth": 1.1}

    def legend(self, figure: Any, shapes: bool, extra: Sequence[tuple[str, str, str]] = ()) -> None:
        """Below everything; `extra` are (shape, fill, words)."""
        from matplotlib.lines import Line2D

        entries = [
            Line2D([], [], color=self.colours[v], linewidth=4, label=v or "reference") for v in self.vocabularies if len(self.vocabularies) > 1
        ]
        names = [(self.shapes[name.split("+")[0]], INK if "+" in name else "white", name) for name in self.names] if shapes else []
        for shape, fill, words in (*names, *extra):
            entries.append(Line2D([], [], marker=shape, linestyle="", color=INK, markerfacecolor=fill, markeredgecolor=INK, label=words))
        if entries:
            columns = min(5, len(entries)) if len(entries) != 6 else 6
            figure.legend(handles=entries, loc="outside lower center", ncols=columns, frameon=False, columnspacing=1.4)


def _quality(figure: Any, picture: Picture) -> None:
    key = _Key(picture)
    for axes, panel in _grid(figure, picture.panels, min(2, len(picture.panels)), 9, 3.5, 1.1):
        for m in panel.marks:
            style = key.style(m, filled="+" in m.name)
            shape = key.shapes[m.name.split("+")[0]]
            axes.errorbar(m.at, m.value, yerr=[[m.value - m.low], [m.high - m.value]], marker=shape, markersize=5.5, linewidth=1, alpha=0.85, **style)
        front = sorted((m for m in panel.marks if m.sure), key=lambda m: (m.at, -m.value))
        # Whoever wants at least x symbols per token gets at most this quality: a staircase, no slope.
        axes.plot(
            [m.at for m in front], [m.value for m in front], drawstyle="steps-pre", linestyle=(0, (4, 3)), color="#888888", linewidth=1, zorder=1
        )
        axes.margins(x=0.08, y=0.1)
        axes.set_title(panel.title, loc="left")
        axes.set_xlabel("symbols per token")
        axes.set_ylabel(panel.label)
    key.legend(figure, shapes=True)


def _scores(figure: Any, picture: Picture) -> None:
    key, panels = _Key(picture), picture.panels
    columns = len(panels) if len(panels) <= 5 else 4 if len(panels) <= 8 else 6
    lines = list(dict.fromkeys((m.name, m.vocabulary) for name in key.names for panel in panels for m in panel.marks if m.name == name))
    lines.sort(key=lambda line: (key.names.index(line[0]), key.vocabularies.index(line[1])))
    places, ticks = _lines(lines)
    width, height = min(9.4, 2.4 + 1.75 * columns), LINE * max(places.values()) + 0.95
    for i, (axes, panel) in enumerate(_grid(figure, panels, columns, width, height, 0.5)):
        for m in panel.marks:
            _bar(axes, m, places[m.name, m.vocabulary], key.style(m, filled=True), "o")
        axes.set_title(textwrap.fill(panel.title, 80 // columns), loc="left")
        axes.set_xlabel(panel.label if columns < 5 else panel.label.replace(" (", "\n("))
        axes.locator_params(axis="x", nbins=3)
        _names(axes, ticks, max(places.values()), shown=i % columns == 0)
    key.legend(figure, shapes=False)


def _differences(figure: Any, picture: Picture) -> None:
    key, laid = _Key(picture), []
    for panel in picture.panels:
        lines = sorted({(m.name, m.vocabulary): 0 for m in panel.marks}, key=lambda p: (key.names.index(p[0]), key.vocabularies.index(p[1])))
        laid.append(_lines(lines))
    heights = [max(places.values()) + 2.6 for places, _ in laid]
    figure.set_size_inches(9, LINE * sum(heights) + 0.42 * len(heights) + 0.9)
    # Each panel has its own scale: differences between methods are a tenth of those from the instruct model, and would be dots.
    grid = figure.subplots(len(laid), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel, (places, ticks) in zip(grid, picture.panels, laid):
        axes.axvspan(-picture.band, picture.band, color=FAINT, zorder=0)
        axes.axvline(0, color="#888888", linewidth=0.8, zorder=1)
        for m in panel.marks:
            _bar(axes, m, places[m.name, m.vocabulary], key.style(m, m.sure in ("higher", "lower")), "s" if m.sure == "equal" else "o")
        axes.set_title(panel.title, loc="left")
        _names(axes, ticks, max(places.values()), shown=True)
    grid[-1].set_xlabel(picture.panels[-1].label)
    key.legend(figure, False, [("o", INK, "higher or lower"), ("o", "white", "undecided"), ("s", "white", f"equal within ±{picture.band:g}")])


def _curves(figure: Any, picture: Picture) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

    key = _Key(picture)
    for axes, panel in _grid(figure, picture.panels, min(2, len(picture.panels)), 9, 3.3, 0.3):
        for name, vocabulary in dict.fromkeys((m.name, m.vocabulary) for m in panel.marks):
            own = [m for m in panel.marks if (m.name, m.vocabulary) == (name, vocabulary)]
            axes.plot(*_stretches(own), color=key.colours[vocabulary], linewidth=1.4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 10k, 1M
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * (high / low) ** 0.3)  # room for the names
        _name_ends(axes, panel, key)
        axes.set_title(panel.title, loc="left")
        axes.set_xlabel("characters read")
        axes.set_ylabel(panel.label)


def _stretches(marks: Sequence[Mark]) -> tuple[list[float], list[float]]:
    """Means over stretches of equal width on the logarithmic axis, counted from its right end: that holds most points, and their noise."""
    parts: dict[int, list[Mark]] = {}
    for m in marks:
        parts.setdefault(int(12 * math.log10(marks[-1].at / max(m.at, 1.0))), []).append(m)
    return [stats.mean([m.at for m in own]) for own in parts.values()], [stats.mean([m.value for m in own]) for own in parts.values()]


def _name_ends(axes: Any, panel: Panel, key: _Key) -> None:
    """A curve's vocabulary at its end; names that would meet are moved apart."""
    ends = sorted({m.vocabulary: m for m in last(panel)}.values(), key=lambda m: m.value)
    bottom, top = (math.log(v) for v in axes.get_ylim())
    apart, place = (top - bottom) * 0.055, -math.inf
    for m in ends:
        place = max(math.log(m.value), place + apart)
        axes.annotate(m.vocabulary, (m.at, math.exp(place)), (5, 0), textcoords="offset points", color=key.colours[m.vocabulary], va="center")


def _grid(figure: Any, panels: Sequence[Panel], columns: int, width: float, height: float, beside: float) -> list[tuple[Any, Panel]]:
    """Axes and panel, row by row. In inches: the figure's `width`, each row's `height`, what all of them need `beside` that."""
    rows = -(-len(panels) // columns)
    figure.set_size_inches(width, rows * height + beside)
    found = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in found[len(panels) :]:
        axes.remove()
    return list(zip(found, panels))


def _lines(lines: Sequence[tuple[str, str]]) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """The height of every line of marks from the top, lines of one name together; and the middle of each name."""
    places: dict[tuple[str, str], float] = {}
    at = 0.0
    for i, line in enumerate(lines):
        at += 0.0 if not i else 1.0 if lines[i - 1][0] == line[0] else 1.9
        places[line] = at
    own = {name: [at for (other, _), at in places.items() if other == name] for name, _ in lines}
    return places, {name: (min(at) + max(at)) / 2 for name, at in own.items()}


def _names(axes: Any, ticks: dict[str, float], last: float, shown: bool) -> None:
    axes.set_yticks(list(ticks.values()), [name.replace(" − ", "\n− ") for name in ticks] if shown else [""] * len(ticks))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(last + 1, -1)


def _bar(axes: Any, m: Mark, place: float, style: dict[str, Any], shape: str) -> None:
    axes.errorbar(
        m.value, place, xerr=[[max(0.0, m.value - m.low)], [max(0.0, m.high - m.value)]], marker=shape, markersize=4, linewidth=1.2, **style
    )
