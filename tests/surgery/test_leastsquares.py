"""The blockwise solver against numpy's lstsq on the whole matrix, well and badly conditioned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lep_bench.errors import AdapterError
from lep_bench.surgery import leastsquares


def blocks(matrix, size=37):
    return [(np.arange(i, min(i + size, len(matrix))), torch.from_numpy(matrix[i : i + size])) for i in range(0, len(matrix), size)]


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
    assert all(value is None or np.isfinite(value) for value in report.as_dict().values() if not isinstance(value, str))


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
