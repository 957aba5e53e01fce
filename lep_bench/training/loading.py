"""Load an artifact as a trainable model in float32, take optimiser steps, save it as a patch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from transformers import AutoModelForCausalLM, PreTrainedModel

from lep_bench.errors import CheckpointError, TrainingDivergedError
from lep_bench.records import artifact
from lep_bench.records.artifact import Artifact, Lep
from lep_bench.surgery.weights.patch import load_tensors, tensor_digest, write_patch

IGNORED = -100  # the label of positions without a loss
CLIP = 1.0  # largest gradient norm, the usual default of trainers (the paper names none)
POINTS = 100  # most points of a recorded loss curve
# Tokens per forward pass. Their activations and logits must fit into memory, and on a CPU into the
# cache.
CHUNK = 2048


@dataclass
class Trainable:
    """A model in float32.

    start: the artifact that it was loaded from. stored: dtype and hash of each tensor in the body.
    real: rows that tokens use. The rows after them (padding) enter no softmax and are not trained.
    """

    start: Artifact
    model: PreTrainedModel
    stored: dict[str, tuple[torch.dtype, str]]
    real: int

    @property
    def embedding(self) -> nn.Parameter:
        return self.model.get_input_embeddings().weight

    @property
    def head(self) -> nn.Parameter:
        """The output matrix. In a tied model it is the embedding."""
        return self.model.get_output_embeddings().weight

    def loss(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy in nats. ids, labels [B, T]: label t is the token after token t, or
        `IGNORED`.

        The head runs only on positions with a label. Padding must be on the right, because there is
        no attention mask.
        """
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        has_label = labels != IGNORED
        return cross_entropy(
            linear(hidden[has_label], self.head[: self.real]), labels[has_label], reduction="sum"
        )

    def freeze_all_but_vocabulary(self) -> None:
        """Compute gradients for embedding and head only, never for the body's weights."""
        self.model.requires_grad_(False)
        self.embedding.requires_grad_(True)
        self.head.requires_grad_(True)


def load_trainable(start: Artifact, device: str = "cpu") -> Trainable:
    """Load body and patch in float32. Raises CheckpointError if one of them is damaged or the patch
    does not fit.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            start.body, dtype="auto", local_files_only=True
        )
    except Exception as error:  # somebody else's package: damaged folders may raise anything
        raise CheckpointError(
            f"{start.body} cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    stored = {name: (p.dtype, tensor_digest(p)) for name, p in model.named_parameters()}
    model = model.float()
    for name, tensor in load_tensors(start).items():
        _replace(model, name, tensor.float(), start)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = embedding.weight.shape[0]
    if head.weight.shape[0] != rows:
        raise CheckpointError(
            f"{start.folder}: the embedding has {rows} rows, the head {head.weight.shape[0]}"
        )
    embedding.num_embeddings = head.out_features = model.config.vocab_size = rows
    # The body's pad id is another token in the new vocabulary. If it stayed, torch would not train
    # that token's row.
    embedding.padding_idx = None
    real = start.lep.vocabulary_size or artifact.count_entries(start.folder)
    if real > rows:
        raise CheckpointError(f"{start.folder}: {real} tokens, but only {rows} rows")
    return Trainable(start, model.to(device), stored, real)


def _replace(model: PreTrainedModel, name: str, tensor: torch.Tensor, start: Artifact) -> None:
    module_name, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(module_name)
        old = getattr(module, leaf)
    except AttributeError:
        raise CheckpointError(
            f"{start.folder}: the patch has a tensor {name} that the body {start.body} lacks"
        ) from None
    vocabulary = (model.get_input_embeddings(), model.get_output_embeddings())
    if old.shape[1:] != tensor.shape[1:] or (
        old.shape != tensor.shape and module not in vocabulary
    ):
        raise CheckpointError(
            f"{start.folder}: tensor {name} has shape {list(tensor.shape)}, the body's has "
            f"{list(old.shape)}"
        )
    setattr(module, leaf, nn.Parameter(tensor))
    if model.config.tie_word_embeddings and module in vocabulary:
        for part in vocabulary:
            part.weight = getattr(module, leaf)


@torch.no_grad()
def save_trained(trained: Trainable, out: Path, lep: Lep) -> Artifact:
    """Write a patch with every tensor that differs from the body's, in the body's dtype, and the
    start's tokenizer and configs.

    Raises TrainingDivergedError if a tensor is not finite, so that a diverged training never looks
    like a model.
    """
    start = trained.start
    # Our padding is the mean row. The padding of somebody else's checkpoint stays unchanged.
    if start.lep.kind == "patch":
        for matrix in (trained.embedding, trained.head):
            matrix[trained.real :] = matrix[: trained.real].double().mean(0).to(matrix.dtype)
    changed = {}
    for name, parameter in trained.model.named_parameters():
        dtype, digest = trained.stored[name]
        tensor = parameter.detach().to("cpu", dtype)
        if not torch.isfinite(tensor).all():
            raise TrainingDivergedError(
                f"{lep.model}: tensor {name} is not finite after training: lower the learning rate"
            )
        if tensor_digest(tensor) != digest:
            changed[name] = tensor
    lep = lep.model_copy(
        update={"vocabulary_size": trained.real, "rows": lep.rows or start.lep.rows}
    )
    return write_patch(out, changed, lep=lep, tokenizer_from=start.folder, config_from=start.folder)


def end_ids(folder: Path) -> set[int]:
    """The ids that end a text: `eos_token_id` in generation_config.json, else in config.json."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        value = (
            json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            if file.is_file()
            else None
        )
        if value is not None:
            return set(value) if isinstance(value, list) else {value}
    return set()


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients. `take_step` sets the learning rate."""
    return torch.optim.AdamW(
        [p for p in parameters if p.requires_grad], lr=0.0, weight_decay=weight_decay, fused=True
    )


def learning_rate(step: int, steps: int, peak: float, warmup: int, schedule: str) -> float:
    """Learning rate of `step` (from 0) of `steps`: linear over `warmup` steps, then `peak` or a
    cosine from `peak` to 0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak if schedule == "constant" else peak * 0.5 * (1 + math.cos(math.pi * progress))


def take_step(
    model: Trainable,
    optimizer: torch.optim.Optimizer,
    ids: torch.Tensor,
    labels: torch.Tensor,
    learning_rate: float,
) -> float:
    """Take one optimiser step on ids and labels [B, T] (see `Trainable.loss`). Returns the mean
    loss per label in nats.

    The batch runs in chunks of about `CHUNK` tokens, whose gradients add up to those of the batch.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    count, total = int((labels != IGNORED).sum()), 0.0
    rows = max(1, CHUNK // ids.shape[1])
    device = model.embedding.device
    for start in range(0, ids.shape[0], rows):
        loss = (
            model.loss(
                ids[start : start + rows].to(device), labels[start : start + rows].to(device)
            )
            / count
        )
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(
        [p for group in optimizer.param_groups for p in group["params"]], CLIP
    )
    optimizer.step()
    return total


def summarise_losses(losses: Sequence[float]) -> dict[str, Any]:
    """For lep.json: steps, first loss, last loss (mean of the last tenth), and the loss curve as at
    most `POINTS` pairs [step, mean loss].
    """
    width = max(1, -(-len(losses) // POINTS))
    parts = [losses[start : start + width] for start in range(0, len(losses), width)]
    last = losses[-max(1, len(losses) // 10) :]
    curve = [
        [min((i + 1) * width, len(losses)), round(sum(part) / len(part), 4)]
        for i, part in enumerate(parts)
    ]
    return {
        "steps": len(losses),
        "first_loss": round(losses[0], 4),
        "last_loss": round(sum(last) / len(last), 4),
        "loss": curve,
    }
