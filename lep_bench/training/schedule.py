"""What both kinds of training share: optimiser, learning rate over steps, one step, the loss curve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lep_bench.training.loading import IGNORED, Trainable

CLIP = 1.0  # norm at which gradients are cut: the usual default of trainers, which the paper does not change
POINTS = 100  # of a recorded loss curve
# Tokens that go through the network at once: their activations and logits must fit memory, and on a CPU the cache.
CHUNK = 2048


def optimizer(parameters: Iterable[torch.nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained."""
    return torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=0.0, weight_decay=weight_decay, fused=True)


def rate(step: int, steps: int, peak: float, warmup: int, schedule: str) -> float:
    """Learning rate of `step` (from 0) of `steps`: linear warm-up, then constant or a cosine that ends at 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak if schedule == "constant" else peak * 0.5 * (1 + math.cos(math.pi * done))


def take_step(model: Trainable, optimizer_: torch.optim.Optimizer, ids: torch.Tensor, labels: torch.Tensor, learning_rate: float) -> float:
    """One optimiser step on ids and labels [B, T] (see `Trainable.loss`); returns the mean loss per label in nats.

    The batch goes through in stretches of `CHUNK` tokens, whose gradients add up to those of the whole.
    """
    for group in optimizer_.param_groups:
        group["lr"] = learning_rate
    optimizer_.zero_grad(set_to_none=True)
    count, total = int((labels != IGNORED).sum()), 0.0
    rows = max(1, CHUNK // ids.shape[1])
    device = model.embedding.device
    for start in range(0, ids.shape[0], rows):
        loss = model.loss(ids[start : start + rows].to(device), labels[start : start + rows].to(device)) / count
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer_.param_groups for p in group["params"]], CLIP)
    optimizer_.step()
    return total


def record(losses: Sequence[float]) -> dict[str, Any]:
    """For lep.json: steps, first loss, last loss (mean of the last tenth), and at most `POINTS` points [step, mean]."""
    width = max(1, -(-len(losses) // POINTS))
    parts = [losses[start : start + width] for start in range(0, len(losses), width)]
    last = losses[-max(1, len(losses) // 10) :]
    curve = [[min((i + 1) * width, len(losses)), round(sum(part) / len(part), 4)] for i, part in enumerate(parts)]
    return {"steps": len(losses), "first_loss": round(losses[0], 4), "last_loss": round(sum(last) / len(last), 4), "loss": curve}
