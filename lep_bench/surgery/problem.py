"""The input of a propagation adapter: rows of base, instruct and donor, block by block, and a
least-squares fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse

from lep_bench.errors import AdapterError, CheckpointError
from lep_bench.surgery import leastsquares
from lep_bench.surgery.decompose import KEPT, NEW, Decomposition
from lep_bench.surgery.leastsquares import BLOCK_ROWS, Blocks, MixedBlocks, mixed_rows
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights.checkpoint import Checkpoint

Which = Literal["base", "instruct"]


@dataclass
class Problem:
    """One matrix (embedding or head) of one propagation.

    Shapes: V_new is the size of the donor's tokenizer, V_old that of the base's, d the hidden size.
    matrix: ``embedding`` or ``head``. T [V_new, V_old] sparse, kinds [V_new] and overlap [n, 2] of
    (new id, old id) are those of `Decomposition`.

    The block iterators skip rows that an adapter must not learn from: special tokens, padding,
    holes, and rows that average an untrained (all-zero) row. `donor_blocks` and `mixed` share their
    new ids; `base_blocks` and `instruct_blocks` share their old ids. All rows are float64 on
    `device`. `report` goes into lep.json, `warnings` into its notes.
    """

    matrix: str
    decomposition: Decomposition
    old: Tokens
    base: Checkpoint
    instruct: Checkpoint
    donor: Checkpoint
    device: torch.device = torch.device("cpu")
    report: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """V_new."""
        return int(self.T.shape[0])

    @property
    def width(self) -> int:
        """The hidden size d."""
        return self.base.width

    @property
    def T(self) -> sparse.csr_matrix:
        return self.decomposition.T

    @property
    def kinds(self) -> np.ndarray:
        return self.decomposition.kinds

    @cached_property
    def overlap(self) -> np.ndarray:
        """[n, 2] (new id, old id) of the trained ordinary tokens that both vocabularies have."""
        pairs = self.decomposition.overlap
        return pairs[np.isin(pairs[:, 1], self._old_ids)]

    def base_at(self, ids: np.ndarray) -> torch.Tensor:
        """[n, d] float64 base rows of old ids."""
        return self._read_rows(self.base, ids)

    def instruct_at(self, ids: np.ndarray) -> torch.Tensor:
        """[n, d] float64 instruct rows of old ids. Ids that only the instruct tokenizer has work
        too.
        """
        return self._read_rows(self.instruct, ids)

    def donor_at(self, ids: np.ndarray) -> torch.Tensor:
        """[n, d] float64 donor rows of new ids."""
        return self._read_rows(self.donor, ids)

    def mixed_at(self, which: Which, ids: np.ndarray) -> torch.Tensor:
        """[n, d] float64 rows of T E_base or T E_instruct for new ids: means of old subtokens."""
        return mixed_rows(
            self.T, lambda old: self._read_rows(self._model(which), old), np.asarray(ids)
        )

    def base_blocks(self, size: int = BLOCK_ROWS) -> Blocks:
        """Base rows of the old vocabulary's trained ordinary tokens."""
        return Blocks(self._old_ids, self.base_at, size)

    def instruct_blocks(self, size: int = BLOCK_ROWS) -> Blocks:
        """Instruct rows of the same old ids as `base_blocks`."""
        return Blocks(self._old_ids, self.instruct_at, size)

    def donor_blocks(self, size: int = BLOCK_ROWS) -> Blocks:
        """Donor rows of the new vocabulary's ordinary tokens."""
        return Blocks(self._new_ids, self.donor_at, size)

    def mixed(
        self, which: Which, size: int = BLOCK_ROWS, scale: np.ndarray | None = None
    ) -> MixedBlocks:
        """Rows of T E_base or T E_instruct for the same new ids as `donor_blocks`, each multiplied
        by its entry of `scale` [V_new].
        """
        model = self._model(which)
        T = self.T if scale is None else sparse.csr_matrix(self.T.multiply(scale[:, None]))
        return MixedBlocks(self._new_ids, T, lambda old: self._read_rows(model, old), size)

    def rows_at(self, which: Which, ids: np.ndarray, size: int = BLOCK_ROWS) -> Blocks:
        """Base or instruct rows of the old ids `ids`, as blocks for `fit`."""
        model = self._model(which)
        return Blocks(np.asarray(ids), lambda part: self._read_rows(model, part), size)

    def fit(self, x: Iterable[leastsquares.Block], y: Iterable[leastsquares.Block]) -> torch.Tensor:
        """D [d, d] that minimises ||X D - Y||, of minimum norm if it is not unique.

        The fit's `leastsquares.Report` goes into `report`. If the rows of X do not span all d
        directions, D maps the other directions to zero. Then `report` and `warnings` say how many
        these are and which share of the donor rows' norm they lose. Raises AdapterError for rank 0,
        and as `leastsquares.fit` does.
        """
        d, report = leastsquares.fit(x, y)
        self.report.update(report.as_dict())
        if report.rank == 0:
            raise AdapterError(
                f"the fit has rank 0: all {report.rows} rows of the {self.matrix} that it learns "
                "from are zero; use swap"
            )
        if report.basis is not None:
            lost = total = 0.0
            for _, rows in self.donor_blocks():
                squared = float((rows * rows).sum())
                total += squared
                lost += squared - float(((rows @ report.basis.T) ** 2).sum())
            share = math.sqrt(max(0.0, lost) / total) if total else 0.0
            self.report["discarded"] = {
                "directions": report.width - report.rank,
                "donor_norm_share": float(f"{share:.4g}"),
            }
            self.warnings.append(
                f"{self.matrix}: propagation loses {share:.1%} of the donor rows' norm, because "
                f"the {report.rows:,} rows of the fit have rank {report.rank} of {report.width} "
                "and the minimum-norm map drops all other directions"
            )
        return d

    def products(
        self, x: Iterable[leastsquares.Block], y: Iterable[leastsquares.Block]
    ) -> leastsquares.Products:
        """X'X and X'Y over all rows, and over every tenth row (see `leastsquares.solve`)."""
        return leastsquares.sum_products(x, y)

    @cached_property
    def _old_ids(self) -> np.ndarray:
        """Old ids to learn from: ordinary tokens with non-zero rows in base and instruct."""
        ids = np.array(
            [n for n in range(self.old.size) if self.old.bytes_of(n) is not None], dtype=np.int64
        )
        trained = np.ones(len(ids), dtype=bool)
        for start in range(0, len(ids), BLOCK_ROWS):
            part = ids[start : start + BLOCK_ROWS]
            for model in (self.base, self.instruct):
                rows = model.gather(model.matrix_names()[self.matrix], part)
                trained[start : start + BLOCK_ROWS] &= (rows != 0).any(1).numpy()
        return ids[trained]

    @cached_property
    def _new_ids(self) -> np.ndarray:
        """New ordinary ids whose old subtokens are all in `_old_ids`."""
        is_untrained = np.ones(self.T.shape[1])
        is_untrained[self._old_ids] = 0.0
        has_subtokens = np.diff(self.T.indptr) > 0
        is_ordinary = np.isin(self.kinds, (KEPT, NEW))
        return np.flatnonzero(is_ordinary & has_subtokens & (self.T @ is_untrained == 0))

    def _model(self, which: Which) -> Checkpoint:
        return {"base": self.base, "instruct": self.instruct}[which]

    def _read_rows(self, model: Checkpoint, ids: np.ndarray) -> torch.Tensor:
        name = model.matrix_names()[self.matrix]
        rows = model.gather(name, np.asarray(ids)).to(self.device).to(torch.float64)
        # One sum shows whether all values are finite: finite bf16 or fp32 values cannot overflow
        # float64.
        if not bool(torch.isfinite(rows.sum())):
            bad = (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist()
            if bad:
                raise CheckpointError(
                    f"{model.folder}: {len(bad)} rows of {name} hold NaN or infinity, the first at "
                    f"id {np.asarray(ids)[bad[0]]}: the checkpoint is damaged"
                )
        return rows
