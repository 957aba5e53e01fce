"""The blockwise solver against numpy's lstsq on the whole matrix, well and badly conditioned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from lep_bench.errors import AdapterError
from lep_bench.surgery import leastsquares
from lep_bench.surgery.leastsquares import MixedBlocks


def blocks(matrix, size=37):
    return [
        (np.arange(i, min(i + size, len(matrix))), torch.from_numpy(matrix[i : i + size]))
        for i in range(0, len(matrix), size)
    ]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def with_condition(rows, width, condition):
    u, _, vt = np.linalg.svd(random(rows, width), full_matrices=False)
    return u * np.geomspace(1, 1 / condition, min(rows, width)) @ vt


@pytest.mark.parametrize("condition", [10, 1e4, 1e6, 1e9])
def test_equal_to_lstsq_on_all_rows(condition):
    x = with_condition(500, 24, condition)
    y = x @ random(24, 24, seed=1) + 1e-3 * random(500, 24, seed=2)
    d, report = leastsquares.fit(blocks(x), blocks(y))
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    # What matters and is well determined is X D; D itself is as sharp as the condition allows.
    np.testing.assert_allclose(x @ d.numpy(), x @ expected, atol=1e-8)
    assert np.abs(d.numpy() - expected).max() < 1e-11 * condition * np.abs(expected).max()
    assert report.method == ("normal equations" if condition <= 1e4 else "minimum norm")
    assert report.rank == 24 and report.rows == 500 and abs(report.condition / condition - 1) < 0.01
    residual = np.linalg.norm(x @ expected - y) / np.linalg.norm(y)
    assert abs(report.residual - residual) < 1e-6


@pytest.mark.parametrize(("rows", "rank"), [(12, 12), (300, 7)])
def test_rank_deficient_takes_the_minimum_norm(rows, rank):
    x = random(rows, rank) @ random(rank, 24, seed=3) if rank != rows else random(rows, 24)
    y = random(rows, 24, seed=4)
    d, report = leastsquares.fit(blocks(x), blocks(y))
    np.testing.assert_allclose(d.numpy(), np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-9)
    assert (report.method, report.rank) == ("minimum norm", rank)
    assert all(
        value is None or np.isfinite(value)
        for value in report.as_dict().values()
        if not isinstance(value, str)
    )


def test_held_out_score_is_that_of_a_fit_without_every_tenth_row():
    x, noise = random(400, 16), random(400, 16, seed=5)
    y = x @ random(16, 16, seed=6) + 2 * noise
    _, report = leastsquares.fit(blocks(x), blocks(y))
    held = np.arange(400) % 10 == 9
    d = np.linalg.lstsq(x[~held], y[~held], rcond=None)[0]
    expected = 1 - ((x[held] @ d - y[held]) ** 2).sum() / ((y[held] - y[held].mean(0)) ** 2).sum()
    assert abs(report.r2 - expected) < 1e-9


def test_blocks_of_any_size_give_the_same():
    x, y = random(300, 16), random(300, 16, seed=1)
    first, _ = leastsquares.fit(blocks(x, 300), blocks(y, 300))
    second, _ = leastsquares.fit(blocks(x, 7), blocks(y, 7))
    np.testing.assert_allclose(first.numpy(), second.numpy(), atol=1e-12)


def test_zero_rows_are_no_reason_to_break():
    d, report = leastsquares.fit(blocks(np.zeros((20, 8))), blocks(random(20, 8)))
    assert report.rank == 0 and not d.any()


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        ([], [], "no rows"),
        (blocks(random(10, 4)), blocks(random(9, 4)), "other rows of x than of y"),
        (blocks(random(40, 4)), blocks(random(37, 4)), "other rows of x than of y"),
        (blocks(random(10, 4) * np.nan), blocks(random(10, 4)), "not finite"),
        ((b for b in blocks(random(10, 4))), blocks(random(10, 4)), "give x as a list"),
    ],
)
def test_unusable_input_is_named(x, y, match):
    with pytest.raises(AdapterError, match=match):
        leastsquares.fit(x, y)


@pytest.mark.parametrize("old", [60, 700, 5000])
def test_means_of_few_old_rows_give_the_sums_of_all_new_rows(old, monkeypatch):
    T = sparse.random(3000, old, 3.0 / old, random_state=0, format="csr")
    ids = np.flatnonzero(np.diff(T.indptr))
    e, f = (torch.from_numpy(random(old, 24, seed=seed)) for seed in (1, 2))
    x, y = (
        MixedBlocks(ids, sparse.csr_matrix(T), lambda rows, m=m: m[torch.from_numpy(rows)], 256)
        for m in (e, f)
    )
    few, monkeypatched = leastsquares.sum_products(x, y), []
    monkeypatch.setattr(leastsquares, "_sum_from_old_rows", lambda *_: monkeypatched.append(1))
    # the short way was taken where there are fewer old rows
    assert bool(leastsquares.sum_products(x, y) is None) == (old < 3000)
    assert len(monkeypatched) == (old < 3000)
    every = leastsquares.sum_products(list(x), list(y))
    for part in ("all", "held", "train"):
        one, two = getattr(few, part), getattr(every, part)
        for name in ("xx", "xy", "y"):
            torch.testing.assert_close(
                getattr(one, name), getattr(two, name), rtol=1e-12, atol=1e-10
            )
        assert one.rows == two.rows and abs(one.yy / two.yy - 1) < 1e-12


def test_means_that_are_mixed_otherwise_are_taken_row_by_row():
    T = sparse.random(300, 40, 0.1, random_state=0, format="csr")
    ids = np.flatnonzero(np.diff(T.indptr))
    e = torch.from_numpy(random(40, 8))
    x, y = (
        MixedBlocks(ids, T * scale, lambda rows: e[torch.from_numpy(rows)]) for scale in (1.0, 2.0)
    )
    d, report = leastsquares.fit(x, y)
    torch.testing.assert_close(d, 2 * torch.eye(8, dtype=torch.float64))
    assert report.rows == len(ids) and report.residual < 1e-6


def with_singular_values(values, rows=400):
    """[rows, d] with exactly these singular values along the axes, the smallest last."""
    u = np.linalg.qr(random(rows, len(values)))[0]
    return u * np.array(values)


# The solver keeps singular values above max(rows, d) * eps = 400 * 2.2e-16 = 8.9e-14 of the
# largest.
@pytest.mark.parametrize(
    ("least", "rank"), [(1e-10, 8), (1e-12, 8), (2e-13, 8), (2e-14, 7), (1e-16, 7)]
)
def test_directions_are_kept_down_to_rounding_and_no_further(least, rank):
    """Rows that determine a direction, however faintly, must be learned from. Rounding must not be.

    With Y = X the right answer is known: 1 along every direction that is kept, 0 along the others.
    """
    x = with_singular_values([1.0] * 7 + [least])
    d, report = leastsquares.fit(blocks(x), blocks(x))
    assert (report.method, report.rank) == ("minimum norm", rank)
    expected = np.diag([1.0] * 7 + [float(rank == 8)])
    np.testing.assert_allclose(np.diag(d.numpy()), np.diag(expected), atol=0.05)
    assert report.rcond == pytest.approx(400 * np.finfo(np.float64).eps)
    assert report.basis is None if rank == 8 else tuple(report.basis.shape) == (7, 8)
