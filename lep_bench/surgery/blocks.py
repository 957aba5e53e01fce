"""Rows, block by block: read by id, or as sparse combinations (subtoken means) of rows that are
read by id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import sparse

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
