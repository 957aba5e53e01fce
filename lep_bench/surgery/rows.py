"""New matrices, row block by row block: subtoken means, or what a propagation adapter makes of the donor's rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lep_bench.errors import AdapterError, CheckpointError, LepBenchError
from lep_bench.plugin import Adapter, Params
from lep_bench.surgery import patch
from lep_bench.surgery.assembly import Assembled
from lep_bench.surgery.blocks import SIZE, mixed_rows
from lep_bench.surgery.checkpoint import Checkpoint
from lep_bench.surgery.decomposition import Decomposition
from lep_bench.surgery.problem import Problem

Rows = Callable[[np.ndarray], torch.Tensor]  # new ids [n] -> float64 rows [n, d]


def mean_rows(taken: Decomposition, body: Checkpoint, name: str) -> Rows:
    """T E of one matrix: every new row the mean of its old subtokens' rows (paper, section 3.2)."""
    return lambda ids: mixed_rows(taken.T, lambda old: body.gather(name, old), ids)


def adapted_rows(problem: Problem, adapter: Adapter, params: Params) -> Rows:
    """The adapter's rows by new ids, every block of them checked. All an adapter may do wrong ends as AdapterError.

    What it fits, it fits here. Mean norms before and after, by kind of token, go into the problem's report.
    """
    where = f"propagation adapter {adapter.name!r} ({problem.matrix})"
    function = _guarded(where, lambda: adapter(problem, params))
    if not callable(function):
        raise AdapterError(f"{where} gave {type(function).__name__}: it must return a function of (donor rows, ids)")
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])

    def rows(ids: np.ndarray) -> torch.Tensor:
        given = problem.donor_at(ids)
        made = _guarded(where, lambda: function(given, ids))
        if not isinstance(made, torch.Tensor) or made.dtype != torch.float64:
            kind = str(made.dtype) if isinstance(made, torch.Tensor) else type(made).__name__
            raise AdapterError(f"{where} gave {kind}: a float64 tensor is expected")
        if made.shape != (len(ids), problem.width):
            expected = (len(ids), problem.width)
            raise AdapterError(f"{where} gave rows of shape {tuple(made.shape)} for {len(ids)} donor rows: {expected} is expected")
        before, after = given.norm(dim=1).cpu().numpy(), made.norm(dim=1).cpu().numpy()
        for kind in np.unique(problem.kinds[ids]).tolist():
            here = problem.kinds[ids] == kind
            so_far = sums[kind]
            so_far[:] = [so_far[0] + float(before[here].sum()), so_far[1] + float(after[here].sum()), so_far[2] + int(here.sum())]
        problem.report["norms"] = {
            kind: {"donor": float(f"{b / n:.6g}"), "adapted": float(f"{a / n:.6g}")} for kind, (b, a, n) in sorted(sums.items()) if np.isfinite(a)
        }
        return made

    return rows


def matrix(
    rows: Rows, count: int, assembled: Assembled, body: Checkpoint, name: str, who: str, error: type[LepBenchError] = CheckpointError
) -> patch.Stream:
    """[padded, d] in the body's dtype, made while it is written: `count` rows by ids, then the body's own rows of its special
    and added tokens in their places, then the mean row as padding. A row that is not finite in that dtype raises `error`, which names `who`."""
    dtype, size = body.dtype(name), assembled.size
    new, own = np.array(assembled.body_rows, dtype=np.int64).reshape(-1, 2).T

    def blocks() -> Iterator[torch.Tensor]:
        total = torch.zeros(body.width, dtype=torch.float64)
        for start in range(0, size, SIZE):
            stop = min(start + SIZE, size)
            block = torch.zeros(stop - start, body.width, dtype=dtype)
            ids = np.arange(start, min(stop, count))
            if len(ids):
                block[: len(ids)] = rows(ids).to("cpu", dtype)
            here = (new >= start) & (new < stop)
            if here.any():
                block[torch.from_numpy(new[here] - start)] = body.gather(name, own[here])
            sums = block.sum(0, dtype=torch.float64)  # finite where every value is: no sum of such numbers leaves float64
            if not bool(torch.isfinite(sums).all()):
                bad = (~torch.isfinite(block).all(1)).nonzero().flatten().tolist()
                what = f"with NaN or values too large for {patch.dtype_name(dtype)}, the first at id {start + bad[0]}"
                raise error(f"{who} gave {len(bad)} rows of {len(block)} {what}")
            total += sums
            yield block
        padding = patch.padded_size(size) - size
        if padding:
            yield (total / size).to(dtype).expand(padding, -1).contiguous()

    return patch.Stream(dtype, (patch.padded_size(size), body.width), blocks)


def _guarded(where: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except CheckpointError:  # a parent is damaged: no adapter's fault
        raise
    except LepBenchError as error:
        raise AdapterError(f"{where}: {error}") from error
    except Exception as error:  # running an adapter: whatever it raises is its failure, not ours
        raise AdapterError(f"{where} raised {type(error).__name__}: {error}") from error
