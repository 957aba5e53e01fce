"""LaTeX that compiles, whatever a name holds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from invented_run import ORDER, SUITE, TASKS, Run, cell, result

from lep_bench.leaderboard import forms
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.forms import render_latex
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


def test_every_row_stands_in_a_table_and_names_stay_text(table: Table) -> None:
    out = render_latex(table)
    sections = sum(len(b.sections) for b in table.blocks)
    assert out.count(r"\toprule") == out.count(r"\bottomrule") == sections
    lines = [line for line in out.splitlines() if line.endswith(r"\\")]
    assert len(lines) == len(table.rows) + sections
    assert len({line.count(" & ") for line in lines}) == 1
    commands = [line for line in out.splitlines() if not line.startswith("%")]
    assert r"\textbackslash" in out and not any(r"\input" in line for line in commands)
    assert r"50\%" not in out and "% 50% & more_. mini-llama. " in out


def test_signs_are_set_by_pdflatex(table: Table) -> None:
    out = "\n".join(line for line in render_latex(table).splitlines() if not line.startswith("%"))
    assert r"$\blacktriangledown$" in out and "$-$" in out
    assert not {"▲", "▼", "−"} & set(out)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_takes_it(table: Table, tmp_path: Path) -> None:
    # Without Cyrillic fonts: what needs them is said in the file's head.
    body = "".join(
        render_latex(forms.arrange_table(table, layout)) for layout in forms.CAPTIONS
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
