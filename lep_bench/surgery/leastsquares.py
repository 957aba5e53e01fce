"""min ||X D - Y|| over row blocks, in float64: normal equations where they are safe, else
orthogonal reduction.

The normal equations square the condition number, so their answer is taken only while the extreme
eigenvalues of X'X show that this costs nothing visible. Otherwise a second pass reduces X block by
block to a triangle (QR), carrying Q'Y along, and the minimum-norm solution is read off its singular
values, as LAPACK's gelsy and gelsd would give it: at 128k x 4096 these need four times the matrix
in memory, the reduction needs a few d x d matrices.
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
# every tenth row, for the printed scores only: D itself is fitted on all rows, as in the paper
HELD_OUT = 10
SAFE = 1e-9  # smallest / largest eigenvalue of X'X down to which normal equations give about 1e-7
# columns of X'X at a time: 44% of its products at d = 4096 lie below the diagonal and are not made
STRIP = 512
GAIN = 0.8  # share of old rows used, of new ones, below which their sums are made from the old
# up to this width all eigenvalues are computed; above, only the extreme ones (Lanczos, to a
# thousandth)
DENSE = 1024
# rows per block: 64 MiB in float64 at hidden size 4096, and the old rows they are means of up to
# four times that
SIZE = 2048
Read = Callable[[np.ndarray], torch.Tensor]  # ids [n] -> rows [n, d]


@dataclass(frozen=True)
class Blocks:
    """(ids [n], float64 rows [n, d]) block by block over `ids`; can be read any number of times."""

    ids: np.ndarray
    read: Read
    size: int = SIZE

    def __iter__(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for part in _parts(self.ids, self.size):
            yield part, self.read(part)

    def __len__(self) -> int:
        return -(-len(self.ids) // self.size)


@dataclass(frozen=True)
class Mixed:
    """Blocks of the rows `ids` of T E. T [V_new, V_old] is sparse, `old` reads rows of E by old
    ids.
    """

    ids: np.ndarray
    T: sparse.csr_matrix
    old: Read
    size: int = SIZE

    def __iter__(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        return iter(Blocks(self.ids, lambda ids: mixed_rows(self.T, self.old, ids), self.size))

    def __len__(self) -> int:
        return -(-len(self.ids) // self.size)

    def alike(self, other: Mixed) -> bool:
        """Whether both mix old rows in the same way, over the same ids."""
        return np.array_equal(self.ids, other.ids) and (
            self.T is other.T or (self.T != other.T).nnz == 0
        )

    @cached_property
    def gram(self) -> sparse.csr_matrix:
        """T'T over `ids`, [V_old, V_old]. (T E)'(T F) = E' (T'T) F runs over the old rows that are
        used at all: of LLaMa-3's 128,256, a new Russian vocabulary of the same size uses 27,842."""
        part = self.T[self.ids]
        return (part.T @ part).tocsr()

    @cached_property
    def used(self) -> np.ndarray:
        """Old ids that the rows rest on."""
        return np.flatnonzero(np.diff(self.gram.indptr))

    @cached_property
    def weights(self) -> np.ndarray:
        """[V_old] the sum of T's rows: how much of each old row is in all rows together."""
        return np.asarray(self.T[self.ids].sum(0)).ravel()


def joined(
    x: Mixed, y: Mixed
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(old ids, rows of E, of G E, of F, of G F) block by block over the old rows that T uses, with
    G = T'T. Most rows of a vocabulary that keeps its tokens stand in no new token: there G is 1 on
    its diagonal, and G E is E."""
    own = x.gram.diagonal()
    alone = (np.diff(x.gram.indptr) == 1) & (own == 1.0)
    for ids in _parts(x.used[alone[x.used]], x.size):
        e, f = x.old(ids), y.old(ids)
        yield ids, e, e, f, f
    for ids in _parts(x.used[~alone[x.used]], x.size):
        yield (
            ids,
            x.old(ids),
            mixed_rows(x.gram, x.old, ids),
            y.old(ids),
            mixed_rows(x.gram, y.old, ids),
        )


def mixed_rows(T: sparse.csr_matrix, read: Read, ids: np.ndarray) -> torch.Tensor:
    """[n, d] float64 rows `ids` of T E, reading only the rows of E that they touch (`read`: old ids
    -> rows).
    """
    part = T[ids]
    touched, inner = np.unique(part.indices, return_inverse=True)
    rows = read(touched).to(torch.float64)
    index, bounds, weights = (
        torch.from_numpy(array).to(rows.device)
        for array in (inner, part.indptr[:-1].astype(np.int64), part.data)
    )
    return torch.nn.functional.embedding_bag(
        index, rows, bounds, mode="sum", per_sample_weights=weights
    )


def _parts(ids: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


@dataclass(frozen=True)
class Report:
    """What a fit says about itself. `condition` is of X, over the directions that were used: those
    with a singular value above `rcond` times the largest. `residual` is ||XD - Y|| / ||Y||.
    `held_out_residual` and `r2` are those of a fit without every tenth row, on these rows (None:
    too few). `basis` [rank, d]: orthonormal rows that span what X tells about, None where that is
    everything; D drops what is orthogonal to it."""

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
        """Rounded to what is meaningful."""
        values = {
            item.name: getattr(self, item.name) for item in fields(self) if item.name != "basis"
        }
        return {
            key: float(f"{value:.6g}") if isinstance(value, float) else value
            for key, value in values.items()
        }


class Sums:
    """Over `rows` rows: xx = X'X [d, d], xy = X'Y [d, d'], y = column sums of Y [d'], yy = ||Y||^2;
    float64.
    """

    def __init__(self, width: int, out: int, device: torch.device) -> None:
        self.xx = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.xy = torch.zeros(width, out, dtype=torch.float64, device=device)
        self.y = torch.zeros(out, dtype=torch.float64, device=device)
        self.yy, self.rows = 0.0, 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """The sums of a block of rows. Of X'X only the blocks on and above the diagonal grow:
        `mirror` fills in the others.
        """
        self._add(x, x, y, y)
        self.y += y.sum(0)
        self.rows += len(x)

    def add_mixed(self, x: Mixed, y: Mixed) -> Sums:
        """The sums of X = T E and Y = T F from E and F: with G = T'T they are E'(G E), E'(G F), T's
        column sums times F.
        """
        for ids, e, ge, f, gf in joined(x, y):
            self._add(e, ge, f, gf)
            self.y += torch.from_numpy(x.weights[ids]).to(f) @ f
        self.rows += len(x.ids)
        return self

    def _add(self, e: torch.Tensor, ge: torch.Tensor, f: torch.Tensor, gf: torch.Tensor) -> None:
        for start in range(0, e.shape[1], STRIP):
            self.xx[start : start + STRIP, start:].addmm_(
                e[:, start : start + STRIP].T, ge[:, start:]
            )
        self.xy.addmm_(e.T, gf)
        self.yy += float(torch.dot(f.reshape(-1), gf.reshape(-1)))

    def mirror(self) -> Sums:
        """The lower half of X'X from the upper one, in place, when all rows have been added."""
        for start in range(STRIP, len(self.xx), STRIP):
            self.xx[start : start + STRIP, :start] = self.xx[:start, start : start + STRIP].T
        return self

    def merge(self, other: Sums, sign: int = 1) -> Sums:
        """Add (or take away) the sums of other rows, in place."""
        self.xx.add_(other.xx, alpha=sign)
        self.xy.add_(other.xy, alpha=sign)
        self.y.add_(other.y, alpha=sign)
        self.yy += sign * other.yy
        self.rows += sign * other.rows
        return self

    def squared_error(self, d: torch.Tensor) -> float:
        """||XD - Y||^2 from the sums alone; not below 0, whatever cancels."""
        return max(0.0, self.yy - 2 * float((d * self.xy).sum()) + float((d * (self.xx @ d)).sum()))


@dataclass(frozen=True)
class Products:
    """The sums over all rows, and over every tenth (`held`), to pick parameters by."""

    all: Sums
    held: Sums

    @cached_property
    def train(self) -> Sums:
        """Over the other nine of ten, as new matrices."""
        others = Sums(*self.all.xy.shape, self.all.xx.device)
        return others.merge(self.all).merge(self.held, -1)


def fit(x: Iterable[Block], y: Iterable[Block]) -> tuple[torch.Tensor, Report]:
    """D [d, d'] of least ||X D - Y||, the one of minimum norm where X leaves it open, and a
    `Report`.

    `x` and `y` give (ids, float64 rows) block by block over the same rows and can be read twice (a
    list, `Blocks`, `Mixed`). Raises AdapterError for generators, for blocks that do not match, and
    when there is no row at all.
    """
    given = products(x, y)
    both, held = given.all, given.held
    width = len(both.xx)
    factor, failed = torch.linalg.cholesky_ex(both.xx)
    smallest, largest = (
        (0.0, 1.0) if int(failed) or both.rows < width else _extremes(both.xx, factor)
    )
    if smallest > SAFE * largest:
        d = torch.cholesky_solve(both.xy, factor)
        method, rank, condition, basis, rcond = (
            "normal equations",
            width,
            math.sqrt(largest / smallest),
            None,
            math.sqrt(SAFE),
        )
        squared = max(0.0, both.yy - float((d * both.xy).sum()))  # at the least: D'X'XD = D'X'Y
        del factor
    else:
        del factor
        method = "minimum norm"
        d, rank, rcond, condition, squared, basis = _by_reduction(x, y)
    residual = math.sqrt(squared / both.yy) if both.yy > 0 else 0.0
    rows = both.rows
    # in place: at d = 4096 every sum is 270 MB
    left, r2 = _held_out(both.merge(held, -1), held, method)
    return d, Report(method, rows, width, rank, rcond, condition, residual, left, r2, basis)


def products(x: Iterable[Block], y: Iterable[Block]) -> Products:
    """X'X and X'Y over the rows of `x` and `y` (as in `fit`), every tenth row apart. One pass."""
    for name, blocks in (("x", x), ("y", y)):
        if iter(blocks) is blocks:
            raise AdapterError(
                f"fit reads its blocks twice where it must: give {name} as a list or as the "
                "problem's own blocks, not a generator"
            )
    if (
        isinstance(x, Mixed)
        and isinstance(y, Mixed)
        and x.alike(y)
        and len(x.used) < GAIN * len(x.ids)
    ):
        return _of_mixed(x, y)
    every = held = None
    row = 0
    for a, b in pairs(x, y):
        if every is None or held is None:
            every, held = (Sums(a.shape[1], b.shape[1], a.device) for _ in range(2))
        every.add(a, b)
        first = (HELD_OUT - 1 - row) % HELD_OUT
        held.add(a[first::HELD_OUT].contiguous(), b[first::HELD_OUT].contiguous())
        row += len(a)
    if every is None or held is None or not row:
        raise AdapterError(
            "fit was given no rows (rank 0): there is no trained token to learn from; use swap"
        )
    return _finite(every, held)


def _of_mixed(x: Mixed, y: Mixed) -> Products:
    """`products` over the old rows that T uses, which are fewer than T's rows."""
    one, two = x.old(x.used[:1]), y.old(x.used[:1])
    every, held = (Sums(one.shape[1], two.shape[1], one.device) for _ in range(2))
    tenth = slice(HELD_OUT - 1, None, HELD_OUT)
    return _finite(
        every.add_mixed(x, y),
        held.add_mixed(replace(x, ids=x.ids[tenth]), replace(y, ids=y.ids[tenth])),
    )


def _finite(every: Sums, held: Sums) -> Products:
    if not math.isfinite(every.yy + float(every.xx.diagonal().sum())):
        raise AdapterError("fit was given rows that are not finite")
    return Products(every.mirror(), held.mirror())


def solve(sums: Sums, ridge: float = 0.0) -> torch.Tensor:
    """D of least ||X D - Y||^2 + ridge ||D||^2 from the sums alone (where they are singular:
    minimum norm, to about 1e-6).
    """
    xx = (
        sums.xx
        if not ridge
        else sums.xx + ridge * torch.eye(len(sums.xx), dtype=torch.float64, device=sums.xx.device)
    )
    factor, failed = torch.linalg.cholesky_ex(xx)
    return (
        _by_eigenvalues(xx, sums.xy)
        if int(failed) or (sums.rows < len(xx) and not ridge)
        else torch.cholesky_solve(sums.xy, factor)
    )


def pairs(x: Iterable[Block], y: Iterable[Block]) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """The rows of matching blocks. Raises AdapterError where the two disagree."""
    left, right = iter(x), iter(y)
    while True:
        a, b = next(left, None), next(right, None)
        if a is None and b is None:
            return
        if a is None or b is None or len(a[1]) != len(b[1]):
            raise AdapterError(
                "fit was given other rows of x than of y: both must go over the same rows in "
                "blocks of the same size"
            )
        yield a[1].to(torch.float64), b[1].to(torch.float64)


def _extremes(xx: torch.Tensor, factor: torch.Tensor) -> tuple[float, float]:
    """Smallest and largest eigenvalue of X'X, whose Cholesky factor is given."""
    if len(xx) <= DENSE:
        values = torch.linalg.eigvalsh(xx)
        return float(values[0]), float(values[-1])

    def top(multiply) -> float:
        def apply(v: np.ndarray) -> np.ndarray:
            return multiply(torch.from_numpy(v.reshape(-1, 1)).to(xx.device)).cpu().numpy().ravel()

        operator = LinearOperator(xx.shape, matvec=apply, dtype=np.float64)
        start = np.random.default_rng(0).normal(size=len(xx))
        return float(
            eigsh(operator, k=1, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)[0]
        )

    return 1.0 / top(lambda v: torch.cholesky_solve(v, factor)), top(lambda v: xx @ v)


def _by_reduction(
    x: Iterable[Block], y: Iterable[Block]
) -> tuple[torch.Tensor, int, float, float, float, torch.Tensor | None]:
    """(D, rank, rcond, condition, ||XD - Y||^2, basis) from X = QR and Q'Y, built by stacking
    blocks under the last triangle.
    """
    r = z = None
    rows, rest = 0, 0.0
    for a, b in pairs(x, y):
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


def _held_out(train: Sums, held: Sums, method: str) -> tuple[float | None, float | None]:
    if held.rows < 2 or train.rows < 2:
        return None, None
    d = solve(train) if method == "normal equations" else _by_eigenvalues(train.xx, train.xy)
    squared, spread = held.squared_error(d), held.yy - float((held.y**2).sum()) / held.rows
    return (math.sqrt(squared / held.yy) if held.yy > 0 else None), (
        1.0 - squared / spread if spread > 0 else None
    )


def _by_eigenvalues(xx: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    # Good enough for a printed score: directions below 1e-6 of the largest singular value are left
    # out.
    values, vectors = torch.linalg.eigh(xx)
    keep = values > 1e-12 * values[-1].clamp(min=1e-300)
    return vectors[:, keep] @ ((vectors[:, keep].T @ xy) / values[keep, None])
