"""An artifact as a trainable model in float32, and a trained model as a patch."""

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

IGNORED = -100  # the label that has no loss


@dataclass
class Trainable:
    """A model in float32. `stored` has per tensor the dtype and hash it has in the body, `real`
    counts the rows that tokens use: rows behind them (padding) never enter a softmax and are not
    trained."""

    start: Artifact
    model: PreTrainedModel
    stored: dict[str, tuple[torch.dtype, str]]
    real: int

    @property
    def embedding(self) -> nn.Parameter:
        return self.model.get_input_embeddings().weight

    @property
    def head(self) -> nn.Parameter:
        """The output matrix: the very embedding where the model ties them."""
        return self.model.get_output_embeddings().weight

    def loss(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy in nats. ids, labels [B, T]: label t belongs to what follows token
        t; `IGNORED` has none.

        The head sees only the positions that have a label. Padding must stand on the right: no mask
        is used.
        """
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        wanted = labels != IGNORED
        return cross_entropy(
            linear(hidden[wanted], self.head[: self.real]), labels[wanted], reduction="sum"
        )

    def freeze_all_but_vocabulary(self) -> None:
        """Only the embedding and the head get gradients; no gradient of a body's weight is ever
        computed.
        """
        self.model.requires_grad_(False)
        self.embedding.requires_grad_(True)
        self.head.requires_grad_(True)


def load_trainable(start: Artifact, device: str = "cpu") -> Trainable:
    """Load body and patch. Raises CheckpointError when one of them is damaged or the patch does not
    fit.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            start.body, dtype="auto", local_files_only=True
        )
    except Exception as error:  # transformers and safetensors raise anything from OSError to KeyError on damaged folders
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
    # The body's pad id is another token in the new vocabulary: left in place, torch would never
    # train that token's row.
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
            f"{start.folder}: its patch has a tensor {name}, the body {start.body} has none"
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
    """Write every tensor that differs from the body's, in the body's dtype, with the start's
    tokenizer and configs.

    Raises TrainingDivergedError when a tensor is not finite: a diverged training must not look like
    a model.
    """
    start = trained.start
    # padding of ours is the mean row; a foreign checkpoint's stays as it came
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
    """The ids that end a text: generation_config.json's, else config.json's `eos_token_id` (one or
    several).
    """
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        found = (
            json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            if file.is_file()
            else None
        )
        if found is not None:
            return set(found) if isinstance(found, list) else {found}
    return set()


# norm at which gradients are cut: the usual default of trainers, which the paper does not change
CLIP = 1.0
POINTS = 100  # of a recorded loss curve
# Tokens that go through the network at once: their activations and logits must fit memory, and on a
# CPU the cache.
CHUNK = 2048


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained."""
    return torch.optim.AdamW(
        [p for p in parameters if p.requires_grad], lr=0.0, weight_decay=weight_decay, fused=True
    )


def learning_rate(step: int, steps: int, peak: float, warmup: int, schedule: str) -> float:
    """Learning rate of `step` (from 0) of `steps`: linear warm-up, then constant or a cosine that
    ends at 0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak if schedule == "constant" else peak * 0.5 * (1 + math.cos(math.pi * done))


def take_step(
    model: Trainable,
    optimizer_: torch.optim.Optimizer,
    ids: torch.Tensor,
    labels: torch.Tensor,
    learning_rate: float,
) -> float:
    """One optimiser step on ids and labels [B, T] (see `Trainable.loss`); returns the mean loss per
    label in nats.

    The batch goes through in stretches of `CHUNK` tokens, whose gradients add up to those of the
    whole.
    """
    for group in optimizer_.param_groups:
        group["lr"] = learning_rate
    optimizer_.zero_grad(set_to_none=True)
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
        [p for group in optimizer_.param_groups for p in group["params"]], CLIP
    )
    optimizer_.step()
    return total


def summarise_losses(losses: Sequence[float]) -> dict[str, Any]:
    """For lep.json: steps, first loss, last loss (mean of the last tenth), and at most `POINTS`
    points [step, mean].
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
