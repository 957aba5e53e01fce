"""What the vLLM engine asks of vLLM's own worker; named to vLLM by its import path, so that no function is pickled."""

from __future__ import annotations

from typing import Any


class WorkerExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`); each method is called with `collective_rpc`."""

    model_runner: Any

    def lep_limit_rows(self, rows: int) -> None:
        """Let only the first `rows` rows of the head be scored and chosen: what stands behind them is padding.

        Without it padding rows enter every softmax, silently. vLLM keeps the size in several places, not the same ones in
        every version and runner; "no top_k" is stored as top_k == size, so the batch must know the new one.
        """
        model = self.model_runner.get_model()
        model.logits_processor.org_vocab_size = rows
        batch = getattr(self.model_runner, "input_batch", None)
        for owner in (self.model_runner, batch):
            if hasattr(owner, "vocab_size"):
                owner.vocab_size = rows
