"""Propagation methods beyond the paper: each against its formula, dense and token by token, and on
planted data.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pico_models import HEAD, copy, edit_tensors
from reference import Vocabulary, matrices, subtokens
from safetensors.torch import load_file

from lep_bench import plugin
from lep_bench.errors import AdapterError
from lep_bench.surgery.decompose import decompose
from lep_bench.surgery.problem import Problem
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights.checkpoint import Checkpoint
from lep_bench.testing import pico

KINDS = ("byte-level", "sentencepiece")


def posed(base, instruct, donor):
    old = Tokens.read(base)
    return Problem(
        "head",
        decompose(old, Tokens.read(donor)),
        old,
        *map(Checkpoint.open, (base, instruct, donor)),
    )


def adapted(problem, name, ids, **params):
    """The method's rows, asked for in two blocks."""
    adapter = plugin.discover_adapters().get("propagation", name).adapter
    function = adapter(problem, adapter.params(**params))
    parts = np.array_split(np.asarray(ids), 2)
    return np.concatenate([function(problem.donor_at(part), part).numpy() for part in parts])


class Dense:
    """The head's matrices of a trio: X and Y are subtoken means over the new tokens `ids`, `counts`
    their subtokens.
    """

    def __init__(self, base, instruct, donor):
        self.old, self.new = Vocabulary(base), Vocabulary(donor)
        self.rows = subtokens(self.old, self.new)
        self.ids = sorted(self.rows)
        self.base, self.instruct, self.donor = (
            matrices(folder)[HEAD] for folder in (base, instruct, donor)
        )
        self.x, self.y = (
            np.array([e[self.rows[i]].mean(0) for i in self.ids])
            for e in (self.base, self.instruct)
        )
        self.counts = np.array([[len(self.rows[i])] for i in self.ids])
        self.given = self.donor[self.ids]
        self.shared = {
            i: self.rows[i][0]
            for i in self.ids
            if self.old.spelled.get(self.rows[i][0]) == self.new.spelled[i]
        }


def least_squares(x, y):
    return np.linalg.lstsq(x, y, rcond=None)[0]


def penalised(x, y, strength):
    xx = x.T @ x
    return np.linalg.solve(xx + strength * np.linalg.eigvalsh(xx).mean() * np.eye(len(xx)), x.T @ y)


def ridge(dense, grid=(0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)):
    held = np.arange(len(dense.x)) % 10 == 9
    errors = [
        np.linalg.norm(dense.x[held] @ penalised(dense.x[~held], dense.y[~held], s) - dense.y[held])
        for s in grid
    ]
    return dense.given @ penalised(dense.x, dense.y, grid[int(np.argmin(errors))])


def procrustes(dense):
    u, _, vh = np.linalg.svd(dense.x.T @ dense.y)
    return dense.given @ (u @ vh)


def old_vocabulary(dense):
    ordinary = sorted(dense.old.spelled)
    return dense.given @ least_squares(dense.base[ordinary], dense.instruct[ordinary])


def pursued(row, anchors, k):
    """Weights [m] of textbook orthogonal matching pursuit."""
    chosen, weights, left = [], np.zeros(0), row
    for _ in range(k):
        chosen.append(int(np.abs(anchors @ left / np.linalg.norm(anchors, axis=1)).argmax()))
        weights = least_squares(anchors[chosen].T, row)
        left = row - weights @ anchors[chosen]
    result = np.zeros(len(anchors))
    result[chosen] = weights
    return result


def matching_pursuit(dense, k=5):
    new, old = list(dense.shared), list(dense.shared.values())
    made = [
        dense.instruct[dense.shared[i]]
        if i in dense.shared
        else pursued(dense.donor[i], dense.donor[new], k) @ dense.instruct[old]
        for i in dense.ids
    ]
    return np.array(made)


FORMULAS = {
    "sum-conversion": lambda dense: (
        dense.given @ least_squares(dense.counts * dense.x, dense.counts * dense.y)
    ),
    "old-vocabulary": old_vocabulary,
    "procrustes": procrustes,
    "ridge": ridge,
    "matching-pursuit": matching_pursuit,
    "difference": lambda dense: dense.given + dense.y - dense.x,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMULAS)
def test_numbers_agree_with_the_formula(trio, name, kind):
    folders = trio(kind, False, True)
    dense = Dense(*folders)
    params = {"k": 5} if name == "matching-pursuit" else {}
    np.testing.assert_allclose(
        adapted(posed(*folders), name, dense.ids, **params), FORMULAS[name](dense), atol=1e-9
    )


def test_sums_count_repeated_subtokens(trio, tmp_path):
    """A subtoken that a token has twice weighs twice: T has only shares, from which the number
    cannot be told.
    """
    base, instruct, _ = trio("byte-level")
    folders = base, instruct, pico.donor(tmp_path / "donor", base, size=400)
    dense, problem = Dense(*folders), posed(*folders)
    assert any(len(set(row)) < len(row) for row in dense.rows.values())
    assert problem.decomposition.lengths[dense.ids].tolist() == dense.counts[:, 0].tolist()
    np.testing.assert_allclose(
        adapted(problem, "sum-conversion", dense.ids), FORMULAS["sum-conversion"](dense), atol=1e-9
    )


def with_instruct_head(trio, tmp_path, change):
    """A byte-level problem whose instruct head is `change` of the base's."""
    base, instruct, donor = trio("byte-level")
    spoiled = copy(instruct, tmp_path / "instruct")
    edit_tensors(
        spoiled, **{HEAD.replace(".", "__"): change(load_file(base / "model.safetensors")[HEAD])}
    )
    return posed(base, spoiled, donor)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_procrustes_recovers_a_planted_rotation_and_never_changes_a_norm(trio, tmp_path):
    rotation = torch.linalg.qr(noise(1, 16, 16)).Q
    problem = with_instruct_head(trio, tmp_path / "planted", lambda head: head @ rotation)
    ids = np.arange(problem.rows)
    np.testing.assert_allclose(
        adapted(problem, "procrustes", ids),
        problem.donor_at(ids).numpy() @ rotation.double().numpy(),
        atol=1e-6,
    )
    assert problem.report["held_out_residual"] < 1e-6
    problem = with_instruct_head(trio, tmp_path / "noise", lambda head: noise(2, *head.shape))
    norms = [
        np.linalg.norm(rows, axis=1)
        for rows in (adapted(problem, "procrustes", ids), problem.donor_at(ids).numpy())
    ]
    np.testing.assert_allclose(*norms, rtol=1e-12)


def test_ridge_picks_by_held_out_rows_and_reports_the_pick(trio, tmp_path):
    ids = np.arange(200)
    planted = with_instruct_head(trio, tmp_path / "planted", lambda head: head @ noise(3, 16, 16))
    close = {
        name: adapted(planted, name, ids, **params)
        for name, params in (("conversion", {}), ("ridge", {}))
    }
    assert (
        planted.report["ridge"] in (0.0, 1e-6)
        and max(planted.report["held_out_residuals"].values()) > 0.1
    )
    np.testing.assert_allclose(close["ridge"], close["conversion"], atol=1e-4)
    np.testing.assert_allclose(
        adapted(planted, "ridge", ids, grid=(0.0,)), close["conversion"], atol=1e-9
    )
    # Where base rows say nothing about instruct rows, the less is carried over the better.
    unrelated = with_instruct_head(trio, tmp_path / "noise", lambda head: noise(4, *head.shape))
    made = adapted(unrelated, "ridge", ids, grid=(0.0, 1.0, 1e6))
    assert unrelated.report["ridge"] == 1e6 and np.abs(made).max() < 1e-4
    with pytest.raises(ValueError, match="grid"):
        adapted(planted, "ridge", ids, grid=(-1.0,))


def test_matching_pursuit_keeps_to_its_anchors(trio):
    folders = trio("byte-level")
    dense, problem = Dense(*folders), posed(*folders)
    shared = np.array(list(dense.shared))
    whole = adapted(problem, "matching-pursuit", shared, k=5, anchors=3)
    # shared tokens, anchors or not
    np.testing.assert_array_equal(whole, dense.instruct[list(dense.shared.values())])
    assert problem.report["anchors"] == 3 and problem.report["shared"] == len(shared)
    fresh = [i for i in dense.ids if i not in dense.shared]
    ends = [
        problem.overlap[0, 1],
        problem.overlap[(len(shared) - 1) // 2, 1],
        problem.overlap[-1, 1],
    ]
    made = adapted(problem, "matching-pursuit", fresh, k=5, anchors=3)
    spanned = least_squares(dense.instruct[ends].T, made.T)
    np.testing.assert_allclose((dense.instruct[ends].T @ spanned).T, made, atol=1e-9)


def test_matching_pursuit_without_a_shared_token_says_so(trio):
    problem = posed(*trio("byte-level"))
    lone = dataclasses.replace(problem.decomposition, overlap=np.zeros((0, 2), dtype=np.int64))
    problem = Problem("head", lone, problem.old, problem.base, problem.instruct, problem.donor)
    with pytest.raises(AdapterError, match="share no trained token"):
        adapted(problem, "matching-pursuit", [0, 1])
