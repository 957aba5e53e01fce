"""LaTeX that compiles, whatever a name holds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from invented_run import ORDER, SUITE, TASKS, Run, cell, result

from lep_bench.leaderboard import layouts
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.latex import escape, render_latex
from lep_bench.leaderboard.table import Table
from lep_bench.records.schema import ModelRecord

EVIL = "mini-llama/x_y&z%w#v$u{t}~s^r\\input{/etc/passwd}`--<b>|ё\u202e\u4e2d\n\n\\end{document}"


@pytest.fixture(scope="module")
def table() -> Table:
    run = Run.whole(items=12)
    evil = ModelRecord(
        name=EVIL,
        family="mini-llama",
        stage="propagation",
        vocabulary="bpe",
        propagation="x",
        fingerprint="0",
    )
    for task in TASKS[:-1]:
        run.add(cell(evil, task, items=12))
    run.add((result(evil, TASKS[-1], status="failed", error=EVIL), []))
    return build_table(
        run.results, run.samples, SUITE.model_copy(update={"title": "50% & more_"}), ORDER
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a_b&c%d#e$f", r"a\_b\&c\%d\#e\$f"),
        ("{x}~^", r"\{x\}\textasciitilde{}\textasciicircum{}"),
        ("\\input{a}", r"\textbackslash{}input\{a\}"),
        ("a--b---c", "a-{}-b-{}--c"),
        ("−3.1 ±1.2▼ A", r"$-$3.1 $\pm$1.2$\blacktriangledown$ A"),
        ("3–5 — †", r"3--5 --- $\dagger$"),
        ("Ёж é \u4e2d\u202e\x00", "Ёж é ?"),
        ("a\nb", "a b"),
    ],
)
def test_escapes(value: str, expected: str) -> None:
    assert escape(value) == expected


def test_tables_have_rules_captions_and_all_rows(table: Table) -> None:
    out = render_latex(table)
    assert (
        out.count(r"\toprule")
        == out.count(r"\bottomrule")
        == out.count(r"\caption{")
        == sum(len(b.sections) for b in table.blocks)
    )
    assert (
        out.count(r"\texttt{") == len(table.rows)
        and r"\caption{50\% \& more\_. mini-llama. Asked as chat" in out
    )
    widths = {line.count(" & ") for line in out.splitlines() if line.endswith(r"\\")}
    assert (
        len(widths) == 1 and r"\textbackslash{}input\{/etc/passwd\}" in out and r"\input" not in out
    )
    assert "LETTER" not in out and r"\textbf{A}" in out


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_takes_it(table: Table, tmp_path: Path) -> None:
    # Without Cyrillic fonts: what needs them is said in the file's head.
    body = "".join(
        render_latex(layouts.arrange_table(table, layout)) for layout in layouts.CAPTIONS
    ).replace("ё", "e")
    document = (
        f"\\documentclass{{article}}\n\\usepackage{{amssymb,booktabs,graphicx}}\n\\begin{{document}}\n"
        f"{body}\\end{{document}}\n"
    )
    (tmp_path / "t.tex").write_text(document, encoding="utf-8")
    made = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stdout.decode(errors="replace")[-1500:]
