"""Orthogonal matching pursuit over a fixed set of anchors, a block of rows at a time, in float64.

Everything after the first products happens in inner products with the anchors (Rubinstein,
Zibulevsky and Elad 2008, "Efficient implementation of the K-SVD algorithm using batch orthogonal
matching pursuit"): per row, one more column of a Cholesky factor of the Gram matrix for every
anchor picked.
"""

from __future__ import annotations

import torch

from lep_bench.errors import AdapterError

SIZE = 1 << 25  # numbers in the factors of the rows taken at once: 256 MiB
INDEPENDENT = 1e-5  # sine of the least angle between an anchor and those picked before it


class Anchors:
    """m anchors [m, d] and their Gram matrix: 8 m (m + 2 d) bytes at the most, of which 8 m (m + d)
    stay.

    Raises AdapterError when there is none.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        if not len(rows):
            raise AdapterError(
                "the two vocabularies share no trained token to combine: choose a method that "
                "needs none, such as conversion"
            )
        self.norms = rows.norm(dim=1).clamp(min=1e-30)  # an all-zero anchor is never picked
        self.unit = rows / self.norms[:, None]
        self.gram = self.unit @ self.unit.T

    def combine(self, rows: torch.Tensor, values: torch.Tensor, k: int) -> torch.Tensor:
        """[n, d'] what weighted sums of at most k anchors (k is cut to d and m), found for the rows
        [n, d], make of values [m, d'].

        Each next anchor is the one that has most in common with what is left of the row; then all
        weights are fitted anew. Where nothing is left, or only what the picked anchors span
        already, the remaining weights are 0.
        """
        k = min(k, *self.unit.shape)
        made = [rows.new_empty(0, values.shape[1])]
        for part in rows.split(max(1, SIZE // (k * len(self.unit)))) if len(rows) else ():
            picked, weights = self._pursue(part, k)
            made.append(((weights / self.norms[picked])[:, None] @ values[picked])[:, 0])
        return torch.cat(made)

    def _pursue(self, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        at = torch.arange(len(rows), device=rows.device)
        left = rows @ self.unit.T  # [n, m]: what is left of each row, times the anchors
        # [n, s]: the s-th orthonormal direction, times the anchors
        factor = left.new_zeros(len(rows), k, len(self.unit))
        picked, parts = at.new_zeros(len(rows), k), left.new_zeros(len(rows), k)
        least = 1e-12 * rows.norm(dim=1)
        for step in range(k):
            best = left.abs().argmax(1)
            fresh = self.gram[best] - (factor[at, :step, best][:, None] @ factor[:, :step])[:, 0]
            sine = fresh[at, best].clamp(min=0).sqrt()
            usable = (sine > INDEPENDENT) & (left[at, best].abs() > least)
            scale = torch.where(usable, 1 / sine, 0.0)
            factor[:, step] = fresh * scale[:, None]
            picked[:, step], parts[:, step] = best, left[at, best] * scale
            left = left - parts[:, step, None] * factor[:, step]
        triangle = factor.gather(2, picked[:, None].expand(-1, k, -1))
        triangle.diagonal(dim1=1, dim2=2)[parts == 0] = 1.0
        return picked, torch.linalg.solve_triangular(triangle, parts[:, :, None], upper=True)[
            :, :, 0
        ]
