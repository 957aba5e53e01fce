"""The shipped propagation methods as files: short, documented, from the plugin door only, and
right.
"""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest
import torch

from lep_bench import files, plugin
from lep_bench.surgery.decompose import decompose
from lep_bench.surgery.problem import Problem
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights.checkpoint import Checkpoint
from lep_bench.testing import pico
from lep_bench.testing.pico import family

FILES = sorted((files.shipped_folder("adapters") / "propagation").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_one_short_file_that_cites_its_source(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    # what a function needs it imports itself: listing adapters must stay fast
    top = ast.parse(text).body
    assert not [n for n in top if isinstance(n, ast.Import)]
    assert {n.module for n in top if isinstance(n, ast.ImportFrom)} <= {
        "lep_bench.plugin",
        "pydantic",
    }
    (adapter,) = plugin.load_adapters(file)
    assert adapter.name == file.stem.replace("_", "-")
    assert "arXiv" in adapter.doc or re.search(r"\b19\d\d, \"", adapter.doc)
    if adapter.name in ("swap", "overlap", "conversion"):
        assert "arXiv 2412.21140" in adapter.doc


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    root = tmp_path_factory.mktemp("problem")
    base, instruct = family(root, kind="sentencepiece", padded=True)
    donor = pico.donor(root / "donor", base)
    old = Tokens.read(base)
    return Problem(
        "head",
        decompose(old, Tokens.read(donor)),
        old,
        *map(Checkpoint.open, (base, instruct, donor)),
    )


def adapted(name, problem):
    adapter = plugin.discover_adapters().get("propagation", name).adapter
    ids = np.arange(problem.rows)
    return adapter(problem, adapter.params())(problem.donor_at(ids), ids)


def test_swap_changes_nothing(problem):
    assert torch.equal(adapted("swap", problem), problem.donor_at(np.arange(problem.rows)))


@pytest.mark.parametrize("name", ["overlap", "conversion"])
def test_least_squares_over_the_right_rows(problem, name):
    if name == "overlap":
        x, y = (rows(problem.overlap[:, 1]) for rows in (problem.base_at, problem.instruct_at))
    else:
        ordinary = np.flatnonzero(np.isin(problem.kinds, ("kept", "new")))
        whole = np.arange(problem.T.shape[1])
        x, y = (
            torch.from_numpy(problem.T[ordinary] @ rows(whole).numpy())
            for rows in (problem.base_at, problem.instruct_at)
        )
    d = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
    expected = problem.donor_at(np.arange(problem.rows)).numpy() @ d
    np.testing.assert_allclose(adapted(name, problem).numpy(), expected, atol=1e-9)
    assert problem.report["rows"] == len(x) and problem.report["rank"] == problem.width


def test_blocks_leave_out_what_teaches_nothing(problem):
    """Specials, padding and rows that rest on untrained ones are in no fit; blocks can be read
    twice and match.
    """
    specials = set(problem.old.specials.values())
    old = np.concatenate([ids for ids, _ in problem.base_blocks(50)])
    assert not specials & set(old.tolist()) and len(old) == problem.old.size - len(specials)
    blocks = problem.mixed("base", 50)
    assert (
        [ids.tolist() for ids, _ in blocks]
        == [ids.tolist() for ids, _ in problem.donor_blocks(50)]
        == [ids.tolist() for ids, _ in blocks]
    )
    assert len(blocks) == len(list(blocks))


def test_untrained_rows_stay_out(problem, monkeypatch):
    dead = int(problem.overlap[5, 1])
    fresh = Problem(
        "head", problem.decomposition, problem.old, problem.base, problem.instruct, problem.donor
    )
    gather = Checkpoint.gather

    def with_a_dead_row(self, name, ids):
        rows = gather(self, name, ids).clone()
        rows[torch.from_numpy(np.asarray(ids) == dead)] = 0
        return rows

    monkeypatch.setattr(Checkpoint, "gather", with_a_dead_row)
    assert dead not in fresh.overlap[:, 1] and len(fresh.overlap) == len(problem.overlap) - 1
    touching = np.flatnonzero(problem.T[:, [dead]].toarray().ravel())
    assert len(touching) and not set(touching) & {
        int(i) for ids, _ in fresh.mixed("base") for i in ids
    }
