"""min ||X D - Y|| over row blocks, in float64: normal equations where they are safe, else orthogonal reduction.

The normal equations square the condition number, so their answer is taken only while the smallest eigenvalue of X'X
shows that this costs nothing visible. Otherwise a second pass reduces [X Y] block by block to a triangle (QR) and the
minimum-norm solution is read off its singular values, as LAPACK's gelsy and gelsd would give it: at 128k x 4096 these
need four times the matrix in memory, the reduction needs one block and two d x d matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from lep_bench.errors import AdapterError

Block = tuple[np.ndarray, torch.Tensor]
HELD_OUT = 10  # every tenth row, for the printed R2 only: D itself is fitted on all rows, as in the paper
SAFE = 1e-9  # smallest / largest eigenvalue of X'X down to which normal equations give about 1e-7


@dataclass(frozen=True)
class Report:
    """What a fit says about itself. `condition` is of X, over the directions that were used; `residual` is
    ||XD - Y|| / ||Y||; `r2` is held out: that of a fit without every
    tenth row, on these rows (None: too few rows)."""

    method: str
    rows: int
    width: int
    rank: int
    condition: float
    residual: float
    r2: float | None

    def as_dict(self) -> dict[str, Any]:
        """Rounded to what is meaningful."""
        return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in asdict(self).items()}


class _Sums:
    """X'X, X'Y, the column sums of Y and ||Y||^2 over rows."""

    def __init__(self, width: int, out: int) -> None:
        self.xx = torch.zeros(width, width, dtype=torch.float64)
        self.xy = torch.zeros(width, out, dtype=torch.float64)
        self.y = torch.zeros(out, dtype=torch.float64)
        self.yy, self.rows = 0.0, 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.xx.addmm_(x.T, x)
        self.xy.addmm_(x.T, y)
        self.y += y.sum(0)
        self.yy += float((y * y).sum())
        self.rows += len(x)

    def squared_error(self, d: torch.Tensor) -> float:
        """||XD - Y||^2 from the sums alone; not below 0, whatever cancels."""
        return max(0.0, self.yy - 2 * float((d * self.xy).sum()) + float((d * (self.xx @ d)).sum()))


def fit(x: Iterable[Block], y: Iterable[Block]) -> tuple[torch.Tensor, Report]:
    """D [d, d'] of least ||X D - Y||, the one of minimum norm where X leaves it open, and a `Report`.

    `x` and `y` give (ids, float64 rows) block by block over the same rows and can be read twice (a list, `Blocks`).
    Raises AdapterError for generators, for blocks that do not match, and when there is no row at all.
    """
    for name, blocks in (("x", x), ("y", y)):
        if iter(blocks) is blocks:
            raise AdapterError(f"fit reads its blocks twice where it must: give {name} as a list or as the problem's own blocks, not a generator")
    train, held = _gather(x, y)
    both = _Sums(*train.xy.shape)
    both.xx, both.xy, both.yy, both.rows = train.xx + held.xx, train.xy + held.xy, train.yy + held.yy, train.rows + held.rows
    values = torch.linalg.eigvalsh(both.xx)
    if float(values[0]) > SAFE * float(values[-1]) and both.rows >= len(values):
        d = _by_cholesky(both.xx, both.xy)
        method, rank, condition = "normal equations", len(values), math.sqrt(float(values[-1] / values[0]))
        squared = both.squared_error(d)
    else:
        d, rank, condition, squared = _by_reduction(x, y)
        method = "minimum norm"
    residual = math.sqrt(squared / both.yy) if both.yy > 0 else 0.0
    return d, Report(method, both.rows, len(values), rank, condition, residual, _held_out(train, held, method))


def pairs(x: Iterable[Block], y: Iterable[Block]) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """The rows of matching blocks. Raises AdapterError where the two disagree."""
    left, right = iter(x), iter(y)
    while True:
        a, b = next(left, None), next(right, None)
        if a is None and b is None:
            return
        if a is None or b is None or len(a[1]) != len(b[1]):
            raise AdapterError("fit was given other rows of x than of y: both must go over the same rows in blocks of the same size")
        yield a[1].to(torch.float64), b[1].to(torch.float64)


def _gather(x: Iterable[Block], y: Iterable[Block]) -> tuple[_Sums, _Sums]:
    train = held = None
    row = 0
    for a, b in pairs(x, y):
        if train is None or held is None:
            train, held = _Sums(a.shape[1], b.shape[1]), _Sums(a.shape[1], b.shape[1])
        out = (torch.arange(row, row + len(a)) % HELD_OUT) == HELD_OUT - 1
        train.add(a[~out], b[~out])
        held.add(a[out], b[out])
        row += len(a)
    if train is None or held is None or not row:
        raise AdapterError("fit was given no rows: the two vocabularies share no trained token")
    if not (math.isfinite(train.yy + held.yy) and bool(torch.isfinite(train.xx + held.xx).all())):
        raise AdapterError("fit was given rows that are not finite")
    return train, held


def _by_cholesky(xx: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    return torch.cholesky_solve(xy, torch.linalg.cholesky(xx))


def _by_reduction(x: Iterable[Block], y: Iterable[Block]) -> tuple[torch.Tensor, int, float, float]:
    """(D, rank, condition, ||XD - Y||^2) from R of [X Y] = QR, built by stacking blocks under the last triangle."""
    triangle, width, rows = None, 0, 0
    for a, b in pairs(x, y):
        stack = torch.cat([a, b], dim=1)
        triangle = torch.linalg.qr(stack if triangle is None else torch.cat([triangle, stack]), mode="r").R
        width, rows = a.shape[1], rows + len(a)
    assert triangle is not None
    r, z = triangle[:, :width], triangle[:, width:]
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    rank = int((s > s[0] * max(rows, width) * torch.finfo(torch.float64).eps).sum()) if float(s[0]) > 0 else 0
    d = vh[:rank].T @ ((u[:, :rank].T @ z) / s[:rank, None])
    squared = float(((r @ d - z) ** 2).sum())
    return d, rank, float(s[0] / s[rank - 1]) if rank else 1.0, squared


def _held_out(train: _Sums, held: _Sums, method: str) -> float | None:
    if held.rows < 2 or train.rows < 2:
        return None
    if method == "normal equations" and train.rows >= len(train.xx):
        factor, failed = torch.linalg.cholesky_ex(train.xx)
        d = torch.cholesky_solve(train.xy, factor) if not int(failed) else _by_eigenvalues(train)
    else:
        d = _by_eigenvalues(train)
    spread = held.yy - float((held.y**2).sum()) / held.rows
    return 1.0 - held.squared_error(d) / spread if spread > 0 else None


def _by_eigenvalues(sums: _Sums) -> torch.Tensor:
    # Good enough for a printed score: directions below 1e-6 of the largest singular value are left out.
    values, vectors = torch.linalg.eigh(sums.xx)
    keep = values > 1e-12 * values[-1].clamp(min=1e-300)
    return vectors[:, keep] @ ((vectors[:, keep].T @ sums.xy) / values[keep, None])
