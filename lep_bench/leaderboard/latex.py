"""The table as LaTeX: one booktabs table per block and family, ready for \\input."""

from __future__ import annotations

import re

from lep_bench.leaderboard import text
from lep_bench.leaderboard.table import Row, Table

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "−": "$-$",
    "±": r"$\pm$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "·": r"$\cdot$",
    "—": "---",
    "–": "--",
    "†": r"$\dagger$",
    "→": r"$\rightarrow$",
}
# What pdflatex sets without further packages but T2A for Cyrillic; of all else one name could stop
# the whole paper.
_SET = re.compile(r"[\x20-\x7e\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff\u0410-\u044f\u0401\u0451]")


def escape(value: str) -> str:
    """Somebody else's text as plain LaTeX text: no command, no ligature; what pdflatex cannot set
    becomes a question mark.
    """
    line = "".join(_ESCAPED.get(c) or (c if _SET.match(c) else "?") for c in text.clean(value))
    return line.replace("--", "-{}-") if "--" in value else line


def render_latex(table: Table) -> str:
    """A `table*` per block, family and part, then the notes. The comment in the first lines names
    the packages.
    """
    lines = [
        r"% \usepackage{amssymb,booktabs,graphicx}",
        r"% Cyrillic names: \usepackage[T2A,T1]{fontenc}",
    ]
    for number, grid in enumerate(text.grids(table, "±"), 1):
        caption = (
            f"{escape(table.title)}. {escape(grid.section.family)}. "
            f"{escape(text.condition(grid.block))}."
        )
        lines += [
            "",
            r"\begin{table*}[tp]",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{_word(table.suite)}-{number}}}",
        ]
        lines += [r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(grid.headers)}}}", r"\toprule"]
        lines += [" & ".join(["model", *map(escape, grid.headers)]) + r" \\", r"\midrule"]
        for n, (_, rows) in enumerate(grid.groups):
            lines += [r"\addlinespace"] if n else []
            lines += [
                " & ".join([_label(row), *map(escape, values)]) + r" \\" for row, values in rows
            ]
        lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table*}"]
    notes = [*([table.note] if table.note else []), *text.legend(table), *text.failures(table)]
    return "\n".join(
        [*lines, "", r"\noindent{\footnotesize", *(escape(note) for note in notes), r"\par}", ""]
    )


def _label(row: Row) -> str:
    marks = text.marks(row)
    return (
        rf"\texttt{{{escape(row.label)}}}"
        + (rf" \textbf{{{row.letter}}}" if row.letter else "")
        + (f" {escape(marks)}" if marks else "")
    )


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name)
