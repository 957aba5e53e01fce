"""Continued pre-training of embedding and head on the frozen body (arXiv 2412.21140)."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lep_bench.config.schema import Pretraining
from lep_bench.errors import TrainingDivergedError
from lep_bench.records.artifact import Artifact, Lep
from lep_bench.training import data, loading
from lep_bench.training.loading import IGNORED, Trainable, load_trainable, save_trained

Progress = Callable[[int, int, float], None]  # steps done, total steps, loss of the last step


def pretrain(
    start: Artifact,
    out: Path,
    corpus: Iterator[str],
    settings: Pretraining,
    *,
    lep: Lep,
    seed: int = 0,
    progress: Progress = lambda done, steps, loss: None,
    device: str = "cpu",
) -> Artifact:
    """Train embedding and head of `start` in one pass over the first `settings.characters`
    characters of `corpus`, and write the donor as a patch.

    The body is frozen. Seed 0 keeps the blocks in the order of the text; any other seed shuffles
    them. Training runs in float32; the patch has the body's dtype. `lep` must name the parent
    "body". `lep.training` gets characters, documents, tokens, steps, flops, the loss curve (nats
    per token), last_bits_per_character (comparable between vocabularies) and seconds. Raises
    LepBenchError if the corpus is too short, TrainingDivergedError if the loss or a tensor is not
    finite.
    """
    start_time = time.monotonic()
    blocks = data.pack_texts(start.folder, corpus, settings.characters, settings.block)
    order = list(range(len(blocks.ids)))
    # A last block of one token has no label, and the mean of no losses is NaN.
    if blocks.ids[-1, 1] == data.NOTHING:
        order.pop()
    if seed:
        random.Random(f"blocks {seed}").shuffle(order)
    model = load_trainable(start, device)
    model.freeze_all_but_vocabulary()
    model.model.train()
    optimizer = loading.make_optimizer(model.model.parameters(), settings.weight_decay)
    steps = math.ceil(len(order) / settings.batch)
    losses: list[float] = []
    for step in range(steps):
        ids, labels = _batch(blocks, order[step * settings.batch : (step + 1) * settings.batch])
        rate = loading.learning_rate(
            step, steps, settings.learning_rate, settings.warmup, settings.schedule
        )
        losses.append(loading.take_step(model, optimizer, ids, labels, rate))
        if not math.isfinite(losses[-1]):
            raise TrainingDivergedError(
                f"{lep.model}: the loss is not finite at step {step + 1} of {steps}: lower "
                "pretraining.learning_rate"
            )
        progress(step + 1, steps, losses[-1])
    record = loading.summarise_losses(losses)
    training: dict[str, Any] = {
        "characters": blocks.characters,
        "documents": blocks.documents,
        "tokens": blocks.tokens,
        "flops": count_flops(model, blocks.tokens),
        **record,
        "last_bits_per_character": round(
            record["last_loss"] * blocks.tokens / blocks.characters / math.log(2), 4
        ),
        "seconds": round(time.monotonic() - start_time, 1),
    }
    return save_trained(
        model, out, lep.model_copy(update={"training": {**lep.training, **training}})
    )


def count_flops(model: Trainable, tokens: int) -> int:
    """Estimate of floating-point operations: per token 4 for each frozen weight (forward, and
    backward to the embeddings) and 6 for each weight of the head.
    """
    vocabulary = {id(model.embedding), id(model.head)}
    body = sum(p.numel() for p in model.model.parameters() if id(p) not in vocabulary)
    return tokens * (4 * body + 6 * model.real * model.head.shape[1])


def _batch(blocks: data.PackedTexts, numbers: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels [B, block - 1], int64: label t is the token after input t."""
    rows = torch.from_numpy(blocks.ids[numbers].astype("int64"))
    ids, labels = rows[:, :-1], rows[:, 1:]
    return ids.clamp(min=0), labels.masked_fill(labels == data.NOTHING, IGNORED)
