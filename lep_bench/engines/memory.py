"""Batches that shrink when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lep_bench.engines.base import batches
from lep_bench.errors import LepBenchError


@dataclass
class Budget:
    """Tokens in one batch. What did not fit once is not tried again: the budget stays small for the engine's life."""

    tokens: int

    def each(self, lengths: Sequence[int], do: Callable[[list[int]], None]) -> None:
        """`do(indices)` for batches of `lengths` that keep to the budget; when memory runs out it is halved and the rest goes on.

        `do` may be called again for what it was given before it ran out. Raises LepBenchError when one sequence alone is too much.
        """
        waiting = batches(lengths, self.tokens)
        while waiting:
            try:
                do(waiting[0])
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if len(waiting[0]) == 1:
                    size = lengths[waiting[0][0]]
                    raise LepBenchError(
                        f"engine hf: out of memory for one sequence of {size} tokens: free some, use --dtype bfloat16 or a machine with more"
                    ) from error
            else:
                waiting.pop(0)
                continue
            # Only here: while an error is handled, its traceback keeps the tensors of the failed batch.
            self.tokens = max(1, lengths[waiting[0][0]] * len(waiting[0]) // 2)
            gc.collect()
            import torch  # not above: whether vLLM is installed is asked by commands that must start fast

            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            left = [i for batch in waiting for i in batch]
            waiting = [[left[k] for k in batch] for batch in batches([lengths[i] for i in left], self.tokens)]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, of the machine or of the GPU."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
