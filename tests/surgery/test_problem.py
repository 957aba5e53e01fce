"""Which rows an adapter may learn from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from lep_bench.surgery.decompose import KEPT, NEW, decompose
from lep_bench.surgery.problem import Problem
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights.checkpoint import Checkpoint


def ids_of(blocks) -> set[int]:
    """The ids that blocks go over."""
    return {int(number) for ids, _ in blocks for number in ids}


@pytest.mark.parametrize("role", [0, 1], ids=["base", "instruct"])
def test_untrained_rows_are_not_learned_from(trio: Callable, tmp_path: Path, role: int) -> None:
    """An all-zero row teaches nothing. Neither does a new row that is the mean of such rows."""
    folders = list(trio("byte-level"))
    old, new = Tokens.read(folders[0]), Tokens.read(folders[2])
    taken = decompose(old, new)
    uses = (taken.T.toarray() > 0) & np.isin(taken.kinds, (KEPT, NEW))[:, None]
    untrained = int(max(taken.overlap[:, 1], key=lambda number: uses[:, number].sum()))
    resting = set(np.flatnonzero(uses[:, untrained]).tolist())
    assert len(resting) > 1, "a new token that averages that row is needed"
    shutil.copytree(folders[role], tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][untrained] = 0
    save_file(tensors, file, metadata={"format": "pt"})

    def problem(*models: Path) -> Problem:
        return Problem("embedding", taken, old, *(Checkpoint.open(model) for model in models))

    whole = problem(*folders)
    folders[role] = tmp_path / "model"
    left = problem(*folders)
    for name in ("base_blocks", "instruct_blocks"):
        assert ids_of(getattr(whole, name)()) - ids_of(getattr(left, name)()) == {untrained}
    assert ids_of(whole.donor_blocks()) - ids_of(left.donor_blocks()) == resting
    assert untrained in whole.overlap[:, 1] and untrained not in left.overlap[:, 1]
    assert len(whole.overlap) == len(left.overlap) + 1


def test_specials_are_not_learned_from(trio: Callable) -> None:
    folders = trio("byte-level")
    old, new = Tokens.read(folders[0]), Tokens.read(folders[2])
    models = [Checkpoint.open(folder) for folder in folders]
    problem = Problem("embedding", decompose(old, new), old, *models)
    assert not ids_of(problem.base_blocks()) & set(old.specials.values())
    assert not ids_of(problem.donor_blocks()) & set(new.specials.values())
