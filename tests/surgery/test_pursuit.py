"""Orthogonal matching pursuit: planted combinations, and what degenerate anchors do."""

from __future__ import annotations

import torch

from lep_bench.surgery import pursuit
from lep_bench.surgery.pursuit import Anchors


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(seed=0):
    """40 anchors in 256 dimensions, 50 rows of 3 anchors each, and what their weights make of other
    values.
    """
    anchors, values = (
        noise(seed, 40, 256) * torch.linspace(0.1, 9.0, 40)[:, None],
        noise(seed + 1, 40, 7),
    )
    weights = torch.zeros(50, 40, dtype=torch.float64)
    for row, number in enumerate(
        torch.randint(40, (50,), generator=torch.Generator().manual_seed(seed)).tolist()
    ):
        weights[row, [number, (number + 7) % 40, (number + 11) % 40]] = (
            1 / anchors.norm(dim=1)[[number, number - 33, number - 29]]
        )
    weights[:, ::2] *= -1
    return anchors, values, weights


def test_planted_combinations_are_found_with_exactly_as_many_anchors_and_with_more():
    anchors, values, weights = planted()
    for k in (3, 10, 1000):
        made = Anchors(anchors).combine(weights @ anchors, values, k)
        torch.testing.assert_close(made, weights @ values, atol=1e-10, rtol=0)
    assert not torch.allclose(
        Anchors(anchors).combine(weights @ anchors, values, 2), weights @ values, atol=1e-3
    )


def test_as_many_anchors_as_dimensions_make_any_row():
    anchors, rows = noise(5, 30, 12), noise(6, 9, 12)
    torch.testing.assert_close(Anchors(anchors).combine(rows, anchors, 64), rows, atol=1e-8, rtol=0)


def test_rows_do_not_depend_on_the_block(monkeypatch):
    anchors, values, rows = noise(7, 60, 24), noise(8, 60, 24), noise(9, 33, 24)
    whole = Anchors(anchors).combine(rows, values, 8)
    monkeypatch.setattr(pursuit, "SIZE", 4 * 8 * 60)  # four rows at a time
    torch.testing.assert_close(Anchors(anchors).combine(rows, values, 8), whole, atol=1e-12, rtol=0)
    assert Anchors(anchors).combine(rows[:0], values, 8).shape == (0, 24)


def test_equal_and_zero_anchors_and_zero_rows_are_harmless():
    anchors, values = noise(10, 20, 12), noise(11, 20, 5)
    anchors[3], values[3] = 2 * anchors[4], 2 * values[4]
    anchors[5] = anchors[4] + 1e-9 * anchors[6]
    values[5] = values[4]
    anchors[9] = 0
    rows = torch.cat(
        [anchors[[4]] + anchors[[7]], torch.zeros(1, 12, dtype=torch.float64), anchors[[9]]]
    )
    made = Anchors(anchors).combine(rows, values, 12)
    torch.testing.assert_close(made[0], values[4] + values[7], atol=1e-6, rtol=0)
    assert not made[1:].any()
