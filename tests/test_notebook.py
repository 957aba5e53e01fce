"""The notebook in docs/ runs from its first to its last cell."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lep_bench.records.store import Store

sys.path.insert(0, str(Path(__file__).parent / "leaderboard"))
from invented_run import TASKS, cell, models

ROOT = Path(__file__).resolve().parent.parent
NEEDED = "the notebook needs nbclient, nbformat and ipykernel: pip install 'lep-bench[test]'"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason=NEEDED)
    nbformat = pytest.importorskip("nbformat", reason=NEEDED)
    pytest.importorskip("ipykernel", reason=NEEDED)
    for model in models()[:8]:
        for task in TASKS:
            Store(tmp_path).write(*cell(model, task))
    monkeypatch.setenv("LEP_BENCH_OUT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # none are committed
    done = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [cell.outputs for cell in done.cells if cell.cell_type == "code"]
    assert all(shown[:1]) and len(shown) == 6
