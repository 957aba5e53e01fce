"""min ||X D - Y|| over row blocks, in float64: normal equations where they are safe, else
orthogonal reduction.

The normal equations square the condition number. Their answer counts only while the extreme
eigenvalues of X'X show that this costs no visible accuracy. Otherwise a second pass reduces X block
by block to a triangle (QR) and carries Q'Y along. The singular values of the triangle give the
minimum-norm solution, the same as LAPACK's gelsy and gelsd. At 128k x 4096 those need four times
the matrix in memory; the reduction needs a few d x d matrices.

`Blocks` and `MixedBlocks` are the rows to fit: read by id, or subtoken means of rows read by id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from lep_bench.errors import AdapterError

Block = tuple[np.ndarray, torch.Tensor]
Read = Callable[[np.ndarray], torch.Tensor]  # ids [n] -> rows [n, d]

# Rows per block: 64 MiB in float64 at hidden size 4096. The old rows that they average take up to
# four times that.
BLOCK_ROWS = 2048
# Every tenth row is held out for the reported scores only. D itself is fitted on all rows, as in
# the paper.
HELD_OUT = 10
# Smallest / largest eigenvalue of X'X above which the normal equations are accurate to about 1e-7.
SAFE = 1e-9
# Columns of X'X per product. At d = 4096 this skips the 44% of the products below the diagonal.
STRIP = 512
# Old rows / new rows below which the sums are computed from the old rows.
GAIN = 0.8
# Up to this width all eigenvalues are computed. Above it, Lanczos gives the extreme ones to 0.1%.
DENSE = 1024


@dataclass(frozen=True)
class Blocks:
    """(ids [n], float64 rows [n, d]) block by block over `ids`. Can be iterated any number of
    times.
    """

    ids: np.ndarray
    read: Read
    size: int = BLOCK_ROWS

    def __iter__(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for part in _split_ids(self.ids, self.size):
            yield part, self.read(part)

    def __len__(self) -> int:
        return -(-len(self.ids) // self.size)


@dataclass(frozen=True)
class MixedBlocks:
    """Blocks of the rows `ids` of T E, with T [V_new, V_old] sparse and E [V_old, d] dense.

    `read_old` reads rows of E by old ids.
    """

    ids: np.ndarray
    T: sparse.csr_matrix
    read_old: Read
    size: int = BLOCK_ROWS

    def __iter__(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        return iter(Blocks(self.ids, lambda ids: mixed_rows(self.T, self.read_old, ids), self.size))

    def __len__(self) -> int:
        return -(-len(self.ids) // self.size)

    def has_same_weights(self, other: MixedBlocks) -> bool:
        """Whether both average the same old ids with the same weights, over the same new ids."""
        return np.array_equal(self.ids, other.ids) and (
            self.T is other.T or (self.T != other.T).nnz == 0
        )

    @cached_property
    def gram(self) -> sparse.csr_matrix:
        """G = T'T [V_old, V_old] over the rows `ids` of T.

        (T E)'(T F) = E' G F needs only the old rows that T uses. A new Russian vocabulary of
        LLaMa-3's size uses 27,842 of its 128,256.
        """
        T_ids = self.T[self.ids]
        return (T_ids.T @ T_ids).tocsr()

    @cached_property
    def old_ids(self) -> np.ndarray:
        """Old ids that T uses."""
        return np.flatnonzero(np.diff(self.gram.indptr))

    @cached_property
    def column_sums(self) -> np.ndarray:
        """[V_old] sum of T's rows: the total weight of each old row."""
        return np.asarray(self.T[self.ids].sum(0)).ravel()


def iterate_old_rows(
    x: MixedBlocks, y: MixedBlocks
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(old ids, rows of E, G E, F and G F) block by block over the old ids that T uses, for
    x = T E, y = T F and G = T'T.

    In a vocabulary that keeps its tokens, most old tokens are part of no new token. There G has a 1
    on its diagonal and nothing else, so G E equals E and is not computed.
    """
    is_identity = (np.diff(x.gram.indptr) == 1) & (x.gram.diagonal() == 1.0)
    for ids in _split_ids(x.old_ids[is_identity[x.old_ids]], x.size):
        E, F = x.read_old(ids), y.read_old(ids)
        yield ids, E, E, F, F
    for ids in _split_ids(x.old_ids[~is_identity[x.old_ids]], x.size):
        yield (
            ids,
            x.read_old(ids),
            mixed_rows(x.gram, x.read_old, ids),
            y.read_old(ids),
            mixed_rows(x.gram, y.read_old, ids),
        )


def mixed_rows(T: sparse.csr_matrix, read: Read, ids: np.ndarray) -> torch.Tensor:
    """[n, d] float64 rows `ids` of T E. `read` gives rows of E by old ids; only those that the
    result needs are read.
    """
    T_ids = T[ids]
    old_ids, positions = np.unique(T_ids.indices, return_inverse=True)
    rows = read(old_ids).to(torch.float64)
    index, offsets, weights = (
        torch.from_numpy(array).to(rows.device)
        for array in (positions, T_ids.indptr[:-1].astype(np.int64), T_ids.data)
    )
    return torch.nn.functional.embedding_bag(
        index, rows, offsets, mode="sum", per_sample_weights=weights
    )


def _split_ids(ids: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


@dataclass(frozen=True)
class Report:
    """How well a fit did.

    rank: directions of X that the fit uses, those with a singular value above `rcond` times the
    largest. condition: largest / smallest of these singular values. residual: ||XD - Y|| / ||Y||.
    held_out_residual, r2: scores on every tenth row of a fit without these rows; None with too few
    rows. basis [rank, d]: orthonormal rows that span the used directions, None for all directions.
    D maps everything orthogonal to them to zero.
    """

    method: str
    rows: int
    width: int
    rank: int
    rcond: float
    condition: float
    residual: float
    held_out_residual: float | None
    r2: float | None
    basis: torch.Tensor | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """All fields but `basis`, numbers rounded to six digits, for lep.json."""
        values = {
            item.name: getattr(self, item.name) for item in fields(self) if item.name != "basis"
        }
        return {
            key: float(f"{value:.6g}") if isinstance(value, float) else value
            for key, value in values.items()
        }


class Sums:
    """float64 sums over `rows` rows: xx = X'X [d, d], xy = X'Y [d, d'], y = column sums of Y [d'],
    yy = ||Y||^2.
    """

    def __init__(self, width: int, out_width: int, device: torch.device) -> None:
        self.xx = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.xy = torch.zeros(width, out_width, dtype=torch.float64, device=device)
        self.y = torch.zeros(out_width, dtype=torch.float64, device=device)
        self.yy, self.rows = 0.0, 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add a block of rows x [n, d], y [n, d'].

        X'X grows on and above the diagonal only. Call `mirror` after the last block.
        """
        self._accumulate(x, x, y, y)
        self.y += y.sum(0)
        self.rows += len(x)

    def add_mixed(self, x: MixedBlocks, y: MixedBlocks) -> Sums:
        """Add all rows of X = T E and Y = T F, computed from E and F.

        With G = T'T the sums are X'X = E'(G E), X'Y = E'(G F), and T's column sums times F.
        """
        for ids, E, GE, F, GF in iterate_old_rows(x, y):
            self._accumulate(E, GE, F, GF)
            self.y += torch.from_numpy(x.column_sums[ids]).to(F) @ F
        self.rows += len(x.ids)
        return self

    def _accumulate(
        self, E: torch.Tensor, GE: torch.Tensor, F: torch.Tensor, GF: torch.Tensor
    ) -> None:
        for start in range(0, E.shape[1], STRIP):
            self.xx[start : start + STRIP, start:].addmm_(
                E[:, start : start + STRIP].T, GE[:, start:]
            )
        self.xy.addmm_(E.T, GF)
        self.yy += float(torch.dot(F.reshape(-1), GF.reshape(-1)))

    def mirror(self) -> Sums:
        """Copy the upper half of X'X into the lower half, in place, after the last row."""
        for start in range(STRIP, len(self.xx), STRIP):
            self.xx[start : start + STRIP, :start] = self.xx[:start, start : start + STRIP].T
        return self

    def merge(self, other: Sums, sign: int = 1) -> Sums:
        """Add the sums of other rows (sign 1) or subtract them (sign -1), in place."""
        self.xx.add_(other.xx, alpha=sign)
        self.xy.add_(other.xy, alpha=sign)
        self.y.add_(other.y, alpha=sign)
        self.yy += sign * other.yy
        self.rows += sign * other.rows
        return self

    def squared_error(self, d: torch.Tensor) -> float:
        """||XD - Y||^2, computed from the sums. Rounding cannot make it negative."""
        return max(0.0, self.yy - 2 * float((d * self.xy).sum()) + float((d * (self.xx @ d)).sum()))


@dataclass(frozen=True)
class Products:
    """Sums over all rows and over every tenth row (`held`), for choosing parameters on held-out
    rows.
    """

    all: Sums
    held: Sums

    @cached_property
    def train(self) -> Sums:
        """Sums over the other nine rows of ten, as new matrices."""
        width, out_width = self.all.xy.shape
        train = Sums(width, out_width, self.all.xx.device)
        return train.merge(self.all).merge(self.held, -1)


def fit(x: Iterable[Block], y: Iterable[Block]) -> tuple[torch.Tensor, Report]:
    """D [d, d'] that minimises ||X D - Y||, and a `Report`. If X does not determine D, the D of
    minimum norm.

    `x` and `y` iterate over (ids, float64 rows [n, d]) of the same rows, and may be iterated twice:
    a list, `Blocks` or `MixedBlocks`. Raises AdapterError for generators, for blocks that do not
    match, and for no rows at all.
    """
    products = sum_products(x, y)
    total, held = products.all, products.held
    width = len(total.xx)
    factor, failed = torch.linalg.cholesky_ex(total.xx)
    smallest, largest = (
        (0.0, 1.0) if int(failed) or total.rows < width else _extreme_eigenvalues(total.xx, factor)
    )
    if smallest > SAFE * largest:
        d = torch.cholesky_solve(total.xy, factor)
        method, rank, condition, basis, rcond = (
            "normal equations",
            width,
            math.sqrt(largest / smallest),
            None,
            math.sqrt(SAFE),
        )
        # At the minimum D'X'XD = D'X'Y.
        squared = max(0.0, total.yy - float((d * total.xy).sum()))
        del factor
    else:
        del factor
        method = "minimum norm"
        d, rank, rcond, condition, squared, basis = _solve_by_reduction(x, y)
    residual = math.sqrt(squared / total.yy) if total.yy > 0 else 0.0
    rows = total.rows
    # In place: at d = 4096 every sum takes 270 MB.
    held_out_residual, r2 = _score_held_out(total.merge(held, -1), held, method)
    return d, Report(
        method, rows, width, rank, rcond, condition, residual, held_out_residual, r2, basis
    )


def sum_products(x: Iterable[Block], y: Iterable[Block]) -> Products:
    """X'X and X'Y over the rows of `x` and `y` (see `fit`), with every tenth row summed separately
    too. One pass.
    """
    for name, blocks in (("x", x), ("y", y)):
        if iter(blocks) is blocks:
            raise AdapterError(
                f"fit may have to read its blocks twice: give {name} as a list or as the "
                "problem's own blocks, not a generator"
            )
    if (
        isinstance(x, MixedBlocks)
        and isinstance(y, MixedBlocks)
        and x.has_same_weights(y)
        and len(x.old_ids) < GAIN * len(x.ids)
    ):
        return _sum_from_old_rows(x, y)
    total = held = None
    row = 0
    for a, b in pair_blocks(x, y):
        if total is None or held is None:
            total, held = (Sums(a.shape[1], b.shape[1], a.device) for _ in range(2))
        total.add(a, b)
        first = (HELD_OUT - 1 - row) % HELD_OUT
        held.add(a[first::HELD_OUT].contiguous(), b[first::HELD_OUT].contiguous())
        row += len(a)
    if total is None or held is None or not row:
        raise AdapterError(
            "fit was given no rows (rank 0): there is no trained token to learn from; use swap"
        )
    return _finish_products(total, held)


def _sum_from_old_rows(x: MixedBlocks, y: MixedBlocks) -> Products:
    """`sum_products`, computed from the old rows that T uses."""
    e, f = x.read_old(x.old_ids[:1]), y.read_old(x.old_ids[:1])
    total, held = (Sums(e.shape[1], f.shape[1], e.device) for _ in range(2))
    tenth = slice(HELD_OUT - 1, None, HELD_OUT)
    return _finish_products(
        total.add_mixed(x, y),
        held.add_mixed(replace(x, ids=x.ids[tenth]), replace(y, ids=y.ids[tenth])),
    )


def _finish_products(total: Sums, held: Sums) -> Products:
    if not math.isfinite(total.yy + float(total.xx.diagonal().sum())):
        raise AdapterError("fit was given rows that are not finite")
    return Products(total.mirror(), held.mirror())


def solve(sums: Sums, ridge: float = 0.0) -> torch.Tensor:
    """D [d, d'] that minimises ||X D - Y||^2 + ridge ||D||^2, computed from the sums.

    For a singular X'X the result is the D of minimum norm, accurate to about 1e-6.
    """
    xx = (
        sums.xx
        if not ridge
        else sums.xx + ridge * torch.eye(len(sums.xx), dtype=torch.float64, device=sums.xx.device)
    )
    factor, failed = torch.linalg.cholesky_ex(xx)
    return (
        _solve_by_eigenvalues(xx, sums.xy)
        if int(failed) or (sums.rows < len(xx) and not ridge)
        else torch.cholesky_solve(sums.xy, factor)
    )


def pair_blocks(
    x: Iterable[Block], y: Iterable[Block]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(x rows [n, d], y rows [n, d']) of matching blocks. Raises AdapterError if blocks do not
    match.
    """
    left, right = iter(x), iter(y)
    while True:
        a, b = next(left, None), next(right, None)
        if a is None and b is None:
            return
        if a is None or b is None or len(a[1]) != len(b[1]):
            raise AdapterError(
                "fit was given other rows of x than of y: both must go over the same rows in "
                "blocks of "
                "the same size"
            )
        yield a[1].to(torch.float64), b[1].to(torch.float64)


def _extreme_eigenvalues(xx: torch.Tensor, factor: torch.Tensor) -> tuple[float, float]:
    """Smallest and largest eigenvalue of xx = X'X, which has the Cholesky factor `factor`."""
    if len(xx) <= DENSE:
        values = torch.linalg.eigvalsh(xx)
        return float(values[0]), float(values[-1])

    def largest(multiply: Callable[[torch.Tensor], torch.Tensor]) -> float:
        def apply(v: np.ndarray) -> np.ndarray:
            return multiply(torch.from_numpy(v.reshape(-1, 1)).to(xx.device)).cpu().numpy().ravel()

        operator = LinearOperator(xx.shape, matvec=apply, dtype=np.float64)
        start = np.random.default_rng(0).normal(size=len(xx))
        return float(
            eigsh(operator, k=1, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)[0]
        )

    return 1.0 / largest(lambda v: torch.cholesky_solve(v, factor)), largest(lambda v: xx @ v)


def _solve_by_reduction(
    x: Iterable[Block], y: Iterable[Block]
) -> tuple[torch.Tensor, int, float, float, float, torch.Tensor | None]:
    """(D, rank, rcond, condition, ||XD - Y||^2, basis) from R of X = QR and z = Q'Y. Each block is
    stacked under the last triangle and reduced again.
    """
    r = z = None
    rows, rest = 0, 0.0
    for a, b in pair_blocks(x, y):
        rows += len(a)
        a, b = (a, b) if r is None or z is None else (torch.cat([r, a]), torch.cat([z, b]))
        reflectors, tau = torch.geqrf(a)
        height = min(a.shape)
        b = torch.ormqr(reflectors[:, :height], tau, b, left=True, transpose=True)
        r, z = reflectors[:height].triu(), b[:height].clone()
        rest += float((b[height:] ** 2).sum())
        del a, b, reflectors
    assert r is not None and z is not None
    width = r.shape[1]
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    rcond = max(rows, width) * torch.finfo(torch.float64).eps
    rank = int((s > s[0] * rcond).sum()) if float(s[0]) > 0 else 0
    d = vh[:rank].T @ ((u[:, :rank].T @ z) / s[:rank, None])
    squared = rest + float(((r @ d - z) ** 2).sum())
    return (
        d,
        rank,
        rcond,
        float(s[0] / s[rank - 1]) if rank else 1.0,
        squared,
        None if rank == width else vh[:rank],
    )


def _score_held_out(train: Sums, held: Sums, method: str) -> tuple[float | None, float | None]:
    """(||XD - Y|| / ||Y||, R2) on the held-out rows, with D fitted on the others."""
    if held.rows < 2 or train.rows < 2:
        return None, None
    d = solve(train) if method == "normal equations" else _solve_by_eigenvalues(train.xx, train.xy)
    squared, spread = held.squared_error(d), held.yy - float((held.y**2).sum()) / held.rows
    return (math.sqrt(squared / held.yy) if held.yy > 0 else None), (
        1.0 - squared / spread if spread > 0 else None
    )


def _solve_by_eigenvalues(xx: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    # Accurate enough for a reported score: it drops directions below 1e-6 of the largest singular
    # value.
    values, vectors = torch.linalg.eigh(xx)
    keep = values > 1e-12 * values[-1].clamp(min=1e-300)
    return vectors[:, keep] @ ((vectors[:, keep].T @ xy) / values[keep, None])
