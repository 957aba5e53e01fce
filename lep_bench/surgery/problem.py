"""What a propagation adapter is given: rows of base, instruct and donor, block by block, and a least-squares fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse

from lep_bench.errors import CheckpointError
from lep_bench.surgery import leastsquares
from lep_bench.surgery.checkpoint import Checkpoint
from lep_bench.surgery.decomposition import KEPT, NEW, Decomposition
from lep_bench.surgery.tokens import Tokens

SIZE = 4096  # rows per block: 128 MiB in float64 at hidden size 4096
Which = Literal["base", "instruct"]


@dataclass(frozen=True)
class Blocks:
    """(ids [n], float64 rows [n, d]) block by block over `ids`; can be read any number of times."""

    ids: np.ndarray
    read: Callable[[np.ndarray], torch.Tensor]
    size: int = SIZE

    def __iter__(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for start in range(0, len(self.ids), self.size):
            part = self.ids[start : start + self.size]
            yield part, self.read(part)

    def __len__(self) -> int:
        return -(-len(self.ids) // self.size)


@dataclass
class Problem:
    """One matrix of one LEP. V_new: rows of the donor's tokenizer; V_old: of the base's; d: hidden size.

    matrix: ``embedding`` or ``head``. T [V_new, V_old] sparse, kinds [V_new], overlap [n, 2] of (new id, old id): see
    `Decomposition`. The block iterators leave out what must not be learned from: special tokens, padding, holes, and
    rows that rest on untrained (all-zero) rows. Over the new vocabulary `donor_blocks` and `mixed` go over the same
    ids; over the old one `base_blocks` and `instruct_blocks` do.
    """

    matrix: str
    decomposition: Decomposition
    old: Tokens
    base: Checkpoint
    instruct: Checkpoint
    donor: Checkpoint
    report: dict[str, Any] = field(default_factory=dict)

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
        """[n, 2] (new id, old id) of the tokens that both vocabularies have, trained ordinary ones only."""
        pairs = self.decomposition.overlap
        return pairs[np.isin(pairs[:, 1], self._old_ids)]

    def base_at(self, ids: np.ndarray) -> torch.Tensor:
        """[n, d] float64 base rows of old ids."""
        return self._at(self.base, ids)

    def instruct_at(self, ids: np.ndarray) -> torch.Tensor:
        """[n, d] float64 instruct rows of old ids (or of ids that only the instruct tokenizer has)."""
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

    def mixed(self, which: Which, size: int = SIZE) -> Blocks:
        """T E_base or T E_instruct over the same new ids as `donor_blocks`."""
        return Blocks(self._new_ids, lambda ids: self.mixed_at(which, ids), size)

    def rows_at(self, which: Which, ids: np.ndarray, size: int = SIZE) -> Blocks:
        """Base or instruct rows of the old `ids`, as blocks for `fit`."""
        model = self._model(which)
        return Blocks(np.asarray(ids), lambda part: self._at(model, part), size)

    def fit(self, x: Iterable[leastsquares.Block], y: Iterable[leastsquares.Block]) -> torch.Tensor:
        """D [d, d] of least ||X D - Y|| (minimum norm where it is not unique); goes into `report`, and so into lep.json."""
        d, report = leastsquares.fit(x, y)
        self.report.update(report.as_dict())
        return d

    @cached_property
    def _old_ids(self) -> np.ndarray:
        """Old ids that have something to teach: ordinary, and not all-zero in base or instruct."""
        ids = np.array([n for n in range(self.old.size) if self.old.bytes_of(n) is not None], dtype=np.int64)
        trained = np.ones(len(ids), dtype=bool)
        for start in range(0, len(ids), SIZE):
            part = ids[start : start + SIZE]
            for model in (self.base, self.instruct):
                trained[start : start + SIZE] &= (self._at(model, part) != 0).any(1).numpy()
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
        rows = model.gather(model.matrix_names()[self.matrix], np.asarray(ids)).to(torch.float64)
        bad = (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist()
        if bad:
            where = f"{model.folder}: {len(bad)} rows of {model.matrix_names()[self.matrix]}"
            raise CheckpointError(f"{where} hold NaN or infinity, the first at id {np.asarray(ids)[bad[0]]}: the checkpoint is damaged")
        return rows


def mixed_rows(T: sparse.csr_matrix, read: Callable[[np.ndarray], torch.Tensor], ids: np.ndarray) -> torch.Tensor:
    """[n, d] float64 rows `ids` of T E, reading only the rows of E that they touch (`read`: old ids -> rows)."""
    part = T[ids]
    touched = np.unique(part.indices)
    inner = sparse.csr_matrix((part.data, np.searchsorted(touched, part.indices), part.indptr), shape=(len(ids), len(touched)))
    return torch.from_numpy(np.ascontiguousarray(inner @ read(touched).to(torch.float64).numpy()))
