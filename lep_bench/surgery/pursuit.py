"""Orthogonal matching pursuit over a fixed set of anchors, a block of rows at a time, in float64.

Source: Rubinstein, Zibulevsky and Elad 2008, "Efficient implementation of the K-SVD algorithm using
batch orthogonal matching pursuit". After the first products, a row is known only by its inner
products with the anchors. Each anchor that a row picks adds one column to the row's Cholesky factor
of the Gram matrix.
"""

from __future__ import annotations

import torch

from lep_bench.errors import AdapterError

SIZE = 1 << 25  # numbers in the factors of one block of rows: 256 MiB
# Sine of the smallest angle allowed between an anchor and the span of the anchors picked before it.
INDEPENDENT = 1e-5


class Anchors:
    """m anchors [m, d] and their Gram matrix [m, m].

    They take 8 m (m + d) bytes, and 8 m (m + 2 d) while they are built. Raises AdapterError for no
    anchors.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        if not len(rows):
            raise AdapterError(
                "the two vocabularies share no trained token to combine: choose a method that "
                "needs no shared tokens, such as conversion"
            )
        self.norms = rows.norm(dim=1).clamp(min=1e-30)  # an all-zero anchor is never picked
        self.unit = rows / self.norms[:, None]
        self.gram = self.unit @ self.unit.T

    def combine(self, rows: torch.Tensor, values: torch.Tensor, k: int) -> torch.Tensor:
        """Approximate each row [n, d] by at most k anchors, and return the same weighted sums of
        `values` [m, d'], as [n, d'].

        k is at most min(d, m). Each step picks the anchor with the largest inner product with the
        row's residual, then refits all weights. Once the residual is zero, or the picked anchors
        span the next one, the remaining weights are 0.
        """
        k = min(k, *self.unit.shape)
        combined = [rows.new_empty(0, values.shape[1])]
        for block in rows.split(max(1, SIZE // (k * len(self.unit)))) if len(rows) else ():
            picked, weights = self._pursue(block, k)
            combined.append(((weights / self.norms[picked])[:, None] @ values[picked])[:, 0])
        return torch.cat(combined)

    def _pursue(self, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids of the picked anchors [n, k], their weights [n, k]), for anchors of norm 1."""
        at = torch.arange(len(rows), device=rows.device)
        residual = rows @ self.unit.T  # [n, m]: inner products of each row's residual and anchors
        # [n, k, m]: inner products of each row's orthonormal directions and the anchors
        factor = residual.new_zeros(len(rows), k, len(self.unit))
        picked, parts = at.new_zeros(len(rows), k), residual.new_zeros(len(rows), k)
        negligible = 1e-12 * rows.norm(dim=1)
        for step in range(k):
            best = residual.abs().argmax(1)
            direction = (
                self.gram[best] - (factor[at, :step, best][:, None] @ factor[:, :step])[:, 0]
            )
            sine = direction[at, best].clamp(min=0).sqrt()
            usable = (sine > INDEPENDENT) & (residual[at, best].abs() > negligible)
            scale = torch.where(usable, 1 / sine, 0.0)
            factor[:, step] = direction * scale[:, None]
            picked[:, step], parts[:, step] = best, residual[at, best] * scale
            residual = residual - parts[:, step, None] * factor[:, step]
        triangle = factor.gather(2, picked[:, None].expand(-1, k, -1))
        triangle.diagonal(dim1=1, dim2=2)[parts == 0] = 1.0
        weights = torch.linalg.solve_triangular(triangle, parts[:, :, None], upper=True)
        return picked, weights[:, :, 0]
