"""What a propagation adapter is given: rows of base, instruct and donor, block by block, and a
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
from lep_bench.surgery.leastsquares import SIZE, Blocks, Mixed, mixed_rows
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights.checkpoint import Checkpoint

Which = Literal["base", "instruct"]


@dataclass
class Problem:
    """One matrix of one LEP. V_new: rows of the donor's tokenizer; V_old: of the base's; d: hidden
    size.

    matrix: ``embedding`` or ``head``. T [V_new, V_old] sparse, kinds [V_new], overlap [n, 2] of
    (new id, old id): see `Decomposition`. The block iterators leave out what must not be learned
    from: special tokens, padding, holes, and rows that rest on untrained (all-zero) rows. Over the
    new vocabulary `donor_blocks` and `mixed` go over the same ids; over the old one `base_blocks`
    and `instruct_blocks` do. All rows are float64 on `device`.
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
        return self.T.shape[0]

    @property
    def width(self) -> int:
        return self.base.width

    @property
    def T(self) -> sparse.csr_matrix:
        return self.decomposition.T

    @property
    def kinds(self) -> np.ndarray:
        return self.decomposition.kinds

    @cached_property
    def overlap(self) -> np.ndarray:
        """[n, 2] (new id, old id) of the tokens that both vocabularies have, trained ordinary ones
        only.
        """
        pairs = self.decomposition.overlap
        return pairs[np.isin(pairs[:, 1], self._old_ids)]

    def base_at(self, ids: np.ndarray) -> torch.Tensor:
        """[n, d] float64 base rows of old ids."""
        return self._at(self.base, ids)

    def instruct_at(self, ids: np.ndarray) -> torch.Tensor:
        """[n, d] float64 instruct rows of old ids (or of ids that only the instruct tokenizer
        has).
        """
        return self._at(self.instruct, ids)

    def donor_at(self, ids: np.ndarray) -> torch.Tensor:
        """[n, d] float64 donor rows of new ids."""
        return self._at(self.donor, ids)

    def mixed_at(self, which: Which, ids: np.ndarray) -> torch.Tensor:
        """[n, d] float64 rows `ids` of T E_base or T E_instruct: subtoken means."""
        return mixed_rows(self.T, lambda old: self._at(self._model(which), old), np.asarray(ids))

    def base_blocks(self, size: int = SIZE) -> Blocks:
        """Base rows over the old vocabulary's trained ordinary tokens."""
        return Blocks(self._old_ids, self.base_at, size)

    def instruct_blocks(self, size: int = SIZE) -> Blocks:
        """Instruct rows over the same old ids as `base_blocks`."""
        return Blocks(self._old_ids, self.instruct_at, size)

    def donor_blocks(self, size: int = SIZE) -> Blocks:
        """Donor rows over the new vocabulary's ordinary tokens."""
        return Blocks(self._new_ids, self.donor_at, size)

    def mixed(self, which: Which, size: int = SIZE, scale: np.ndarray | None = None) -> Mixed:
        """T E_base or T E_instruct over the same new ids as `donor_blocks`; `scale` [V_new]
        multiplies the rows.
        """
        model = self._model(which)
        T = self.T if scale is None else sparse.csr_matrix(self.T.multiply(scale[:, None]))
        return Mixed(self._new_ids, T, lambda old: self._at(model, old), size)

    def rows_at(self, which: Which, ids: np.ndarray, size: int = SIZE) -> Blocks:
        """Base or instruct rows of the old `ids`, as blocks for `fit`."""
        model = self._model(which)
        return Blocks(np.asarray(ids), lambda part: self._at(model, part), size)

    def fit(self, x: Iterable[leastsquares.Block], y: Iterable[leastsquares.Block]) -> torch.Tensor:
        """D [d, d] of least ||X D - Y|| (minimum norm where it is not unique); goes into `report`,
        and so into lep.json.

        Where the rows do not span the space, D drops the directions they know nothing of: how many,
        and how much of the donor's rows lies there, is reported with a warning. Raises AdapterError
        for rank 0.
        """
        d, report = leastsquares.fit(x, y)
        self.report.update(report.as_dict())
        if report.rank == 0:
            raise AdapterError(
                f"the fit has rank 0: all {report.rows} rows of the {self.matrix} to learn "
                "from are zero; use swap"
            )
        if report.basis is not None:
            lost = total = 0.0
            for _, rows in self.donor_blocks():
                whole = float((rows * rows).sum())
                total += whole
                lost += whole - float(((rows @ report.basis.T) ** 2).sum())
            share = math.sqrt(max(0.0, lost) / total) if total else 0.0
            self.report["discarded"] = {
                "directions": report.width - report.rank,
                "donor_norm_share": float(f"{share:.4g}"),
            }
            self.warnings.append(
                f"{self.matrix}: the fit rests on {report.rows:,} rows of rank {report.rank} "
                f"in {report.width} directions; of minimum norm, "
                f"it drops the others, and with them {share:.1%} of the donor rows' norm"
            )
        return d

    def products(
        self, x: Iterable[leastsquares.Block], y: Iterable[leastsquares.Block]
    ) -> leastsquares.Products:
        """X'X and X'Y, nine rows of ten and every tenth apart (see `leastsquares.solve`)."""
        return leastsquares.products(x, y)

    @cached_property
    def _old_ids(self) -> np.ndarray:
        """Old ids that have something to teach: ordinary, and not all-zero in base or instruct."""
        ids = np.array(
            [n for n in range(self.old.size) if self.old.bytes_of(n) is not None], dtype=np.int64
        )
        trained = np.ones(len(ids), dtype=bool)
        for start in range(0, len(ids), SIZE):
            part = ids[start : start + SIZE]
            for model in (self.base, self.instruct):
                trained[start : start + SIZE] &= (
                    (model.gather(model.matrix_names()[self.matrix], part) != 0).any(1).numpy()
                )
        return ids[trained]

    @cached_property
    def _new_ids(self) -> np.ndarray:
        """New ordinary ids all of whose old subtokens are in `_old_ids`."""
        weak = np.ones(self.T.shape[1])
        weak[self._old_ids] = 0.0
        filled = np.diff(self.T.indptr) > 0
        return np.flatnonzero(np.isin(self.kinds, (KEPT, NEW)) & filled & (self.T @ weak == 0))

    def _model(self, which: Which) -> Checkpoint:
        return {"base": self.base, "instruct": self.instruct}[which]

    def _at(self, model: Checkpoint, ids: np.ndarray) -> torch.Tensor:
        name = model.matrix_names()[self.matrix]
        rows = model.gather(name, np.asarray(ids)).to(self.device).to(torch.float64)
        # One sum tells whether all is finite (a sum of finite bf16 or fp32 values cannot overflow
        # float64).
        if not bool(torch.isfinite(rows.sum())):
            bad = (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist()
            if bad:
                where = f"{model.folder}: {len(bad)} rows of {name}"
                raise CheckpointError(
                    f"{where} hold NaN or infinity, the first at id "
                    f"{np.asarray(ids)[bad[0]]}: the checkpoint is damaged"
                )
        return rows
