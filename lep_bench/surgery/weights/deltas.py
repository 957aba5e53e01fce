"""What LoRA training does to tensors, applied to one tensor at a time; float32 or finer, rounded
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lep_bench.errors import CheckpointError
from lep_bench.surgery.weights import patch, shards
from lep_bench.surgery.weights.checkpoint import Checkpoint
from lep_bench.surgery.weights.shards import TensorPlace


@dataclass(frozen=True)
class LowRank:
    """W + scaling B A, A [r, in], B [out, r]; W is [out, in], or [in, out] if `turned` (embeddings,
    GPT-2's Conv1D).

    With `magnitude` [out] (DoRA, arXiv 2402.09353) the weights of every output are then scaled to
    that norm.
    """

    A: TensorPlace
    B: TensorPlace
    scaling: float
    turned: bool
    magnitude: TensorPlace | None = None

    def merged(self, weight: torch.Tensor, ids: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """`weight` (the whole tensor, or its rows `ids`) changed, in its dtype."""
        exact = torch.promote_types(weight.dtype, torch.float32)
        A, B = self.A.read().to(exact), self.B.read().to(exact)
        left, right = (A.T, B.T) if self.turned else (B, A)
        # Contiguous, so that LoRA tied over embedding and head gives the same bits in both.
        result = torch.addmm(
            weight.to(exact), left[ids].contiguous(), right.contiguous(), alpha=self.scaling
        )
        if self.magnitude is not None:
            norms, wanted = (
                torch.linalg.vector_norm(result, dim=0 if self.turned else 1),
                self.magnitude.read().to(exact),
            )
            result *= wanted / norms if self.turned else (wanted[ids] / norms)[:, None]
        return result.to(weight.dtype)


@dataclass(frozen=True)
class FullDelta:
    """W + scaling (plus - minus): a tensor trained in full against the base's own, or the bias of
    LoRA's B (no `minus`).
    """

    plus: TensorPlace
    minus: TensorPlace | None
    scaling: float = 1.0

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` changed, in its dtype; the base's own tensor becomes the trained one."""
        plus = self.plus.read()
        # A float32 base that was trained in bfloat16 was rounded before, which is no training.
        minus = 0.0 if self.minus is None else self.minus.read().to(plus.dtype).to(torch.float64)
        return (weight.to(torch.float64) + self.scaling * (plus.to(torch.float64) - minus)).to(
            weight.dtype
        )


Delta = LowRank | FullDelta


def merge_deltas(body: Checkpoint, deltas: Mapping[str, Delta]) -> dict[str, patch.Stream]:
    """The changed tensors of `body` by name, each made when it is written. Raises CheckpointError
    then for one that is not finite.
    """

    def blocks(name: str) -> Iterator[torch.Tensor]:
        merged = deltas[name].merged(body.read(name))
        if not torch.isfinite(merged).all():
            kind = patch.dtype_name(merged.dtype)
            raise CheckpointError(
                f"{body.folder}: {name} with the donor's LoRA has NaN or values too large "
                f"for {kind}: is the adapter damaged?"
            )
        yield merged

    return {
        name: patch.Stream(body.dtype(name), body.shape(name), partial(blocks, name))
        for name in deltas
    }


@dataclass(frozen=True)
class EditedPlace(TensorPlace):
    """A matrix on disk with LoRA on it, or with the rows `ids` trained apart: what is read is
    already changed.
    """

    lora: LowRank | None = None
    ids: tuple[int, ...] = ()
    trained: TensorPlace | None = None

    def gather(self, ids: np.ndarray) -> torch.Tensor:
        wanted = np.asarray(ids, dtype=np.int64)
        rows = super().gather(wanted)
        if self.lora is not None:
            rows = self.lora.merged(rows, wanted)
        if self.trained is not None:
            own = np.full(self.shape[0], -1)
            own[list(self.ids)] = np.arange(len(self.ids))
            hit = own[wanted] >= 0
            rows[torch.from_numpy(hit)] = self.trained.gather(own[wanted[hit]]).to(rows.dtype)
        return rows

    def chunks(self) -> Iterator[bytes]:
        step = max(1, shards.CHUNK // max(1, self.row_bytes))
        for start in range(0, self.shape[0], step):
            yield bytes(patch.raw_bytes(self.rows(start, min(start + step, self.shape[0]))))

    def read(self) -> torch.Tensor:
        return self.rows(0, self.shape[0])
