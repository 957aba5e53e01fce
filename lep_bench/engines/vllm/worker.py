"""What the vLLM engine adds to vLLM's own worker. vLLM gets its import path, so that no function is
pickled.

Every process of vLLM imports this file before it loads a model, which registers `LOADER` there.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from vllm.config.load import LoadConfig
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from lep_bench.surgery.weights.checkpoint import EMBEDDINGS, HEADS, Checkpoint

LOADER = "lep-bench"
BLOCK = 8192  # rows of the head at once
COMPARED = 1024  # rows of a vocabulary matrix that are compared with the file


@register_model_loader(LOADER)
class PaddingLoader(DefaultModelLoader):
    """Reads safetensors and pads embedding and head with zero rows to the config's vocab_size."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(dataclasses.replace(load_config, load_format="safetensors"))

    def get_all_weights(
        self, model_config: Any, model: nn.Module
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) of every weight in the checkpoint."""
        rows = model_config.hf_config.vocab_size
        for name, tensor in super().get_all_weights(model_config, model):
            yield name, pad_rows(tensor, rows) if name.endswith((*EMBEDDINGS, *HEADS)) else tensor


def pad_rows(matrix: torch.Tensor, rows: int) -> torch.Tensor:
    """[V, d] -> [rows, d], padded with zeros; unchanged when it has as many rows or more."""
    if matrix.shape[0] >= rows:
        return matrix
    return torch.cat([matrix, matrix.new_zeros(rows - matrix.shape[0], matrix.shape[1])])


class WorkerExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`); each method is called with
    `collective_rpc`.
    """

    model_runner: Any

    def lep_exchange(self, folder: str, names: list[str], rows: int) -> None:
        """Copy the tensors `names` of the model in `folder` into the running one; `rows` of its
        vocabulary are real.

        In place, so that what CUDA graphs have recorded stays true. Raises ValueError for a tensor
        that vLLM holds in another form (fused, packed): it would have to load the model anew.
        """
        model = Checkpoint.open(Path(folder))
        places = {name: self._lep_place(model, name) for name in names}
        for name, (module, parameter) in places.items():
            tensor = model.read(name)
            if module is None:
                parameter.data.copy_(tensor)
            else:
                module.weight_loader(parameter, pad_rows(tensor, module.org_vocab_size))
        self.lep_pack()
        self.lep_limit_rows(rows)

    def lep_pack(self) -> None:
        """On a CPU vLLM multiplies with a packed copy of the head, made when the model is
        loaded.
        """
        for module in self._lep_vocabulary():
            module.quant_method.process_weights_after_loading(module)

    def lep_limit_rows(self, rows: int) -> None:
        """Let only the first `rows` rows of the head be scored and chosen: what stands behind them
        is padding.

        Without it padding rows enter every softmax, silently. vLLM keeps the size in several
        places, not the same ones in every version and runner; "no top_k" is stored as top_k ==
        size, so the batch must know the new one.
        """
        runner = self.model_runner
        runner.get_model().logits_processor.org_vocab_size = rows
        sampler = getattr(runner, "sampler", None)
        for owner in (
            runner,
            getattr(runner, "input_batch", None),
            getattr(sampler, "sampling_states", None),
            getattr(runner, "req_states", None),
        ):
            if owner is not None and hasattr(owner, "vocab_size"):
                owner.vocab_size = rows
        batch = getattr(runner, "input_batch", None)
        # made for the old size at its first use, then kept
        if batch is not None and getattr(batch, "allowed_token_ids_mask", None) is not None:
            batch.allowed_token_ids_mask = batch.allowed_token_ids_mask_cpu_tensor = None

    def lep_differences(self, folder: str, names: list[str]) -> str:
        """The first of `names` whose value here is not the file's, in the running number format; ""
        when all are.
        """
        model = Checkpoint.open(Path(folder))
        for name in names:
            module, parameter = self._lep_place(model, name)
            if module is None:
                expected, here = model.read(name), parameter.data
            else:
                start, end = (
                    module.shard_indices.org_vocab_start_index,
                    min(module.shard_indices.org_vocab_end_index, model.shape(name)[0]),
                )
                rows = np.unique(
                    np.linspace(
                        start, max(start, end - 1), min(COMPARED, max(0, end - start))
                    ).astype(np.int64)
                )
                expected, here = (
                    model.gather(name, rows),
                    parameter.data[torch.from_numpy(rows - start).to(parameter.device)],
                )
            if not torch.equal(expected.to(here.device, here.dtype), here):
                return name
        return ""

    def lep_watch(self, on: bool) -> None:
        """Remember the hidden states that the head is given, and how many logits it makes of
        one.
        """
        model = self.model_runner.get_model()
        if not on:
            del model.compute_logits  # the class's own again
            return
        original = model.compute_logits

        def watched(hidden: torch.Tensor, *rest: Any, **named: Any) -> Any:
            logits = original(hidden, *rest, **named)
            self._lep_seen = (hidden[-1:].clone(), 0 if logits is None else logits.shape[-1])
            return logits

        model.compute_logits = watched

    def lep_expected(self, folder: str, options: list[int]) -> tuple[int, list[float]]:
        """(logits made for the last watched hidden state, log-probabilities of `options` from it
        and the file's head).
        """
        hidden, columns = self._lep_seen
        model, processor = (
            Checkpoint.open(Path(folder)),
            self.model_runner.get_model().logits_processor,
        )
        place = model.place(model.head_name or model.embedding_name)
        rows = min(processor.org_vocab_size, place.shape[0])
        # In blocks: beside a model that fills a GPU there is no room for a second head.
        blocks = (place.rows(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK))
        logits = torch.cat(
            [
                nn.functional.linear(hidden, block.to(hidden.device, hidden.dtype))[0].double()
                for block in blocks
            ]
        )
        scale = getattr(processor, "scale", 1.0)
        return columns, torch.log_softmax(logits * scale, -1)[
            torch.tensor(options, device=logits.device)
        ].tolist()

    def lep_digest(self, rows: int) -> str:
        """SHA-256 over name and bytes of every parameter; of vocabulary matrices the first `rows`
        rows.
        """
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model_runner.get_model().named_parameters()):
            value = (
                parameter.data[:rows]
                if any(parameter is module.weight for module in self._lep_vocabulary())
                else parameter.data
            )
            digest.update(name.encode())
            digest.update(memoryview(value.cpu().contiguous().view(-1).view(torch.uint8).numpy()))
        return digest.hexdigest()

    def _lep_vocabulary(self) -> list[Any]:
        return [
            module
            for module in self.model_runner.get_model().modules()
            if isinstance(module, VocabParallelEmbedding)
        ]

    def _lep_place(self, model: Checkpoint, name: str) -> tuple[Any, nn.Parameter]:
        """(vocabulary module or None, its parameter) of a tensor's name."""
        if name in model.matrix_names().values():
            head = name == model.head_name
            module = next(
                (m for m in self._lep_vocabulary() if isinstance(m, ParallelLMHead) == head), None
            )
            if module is None:
                raise ValueError(
                    f"vLLM has no {'head' if head else 'embedding'} of its own for {name}"
                )
            return module, module.weight
        parameter = dict(self.model_runner.get_model().named_parameters()).get(name)
        # Vectors (norms) are used as they are. Matrices are fused with others or packed, and then
        # used in that form.
        if parameter is None or parameter.dim() != 1 or tuple(parameter.shape) != model.shape(name):
            raise ValueError(f"vLLM keeps {name} in another form than the checkpoint")
        return None, parameter
