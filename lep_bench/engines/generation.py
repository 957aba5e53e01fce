"""Generation in batches with a cache of keys and values, greedy or sampled; rows that have ended leave the batch.

Shapes: B rows, V real vocabulary rows, k candidates.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from lep_bench.engines.base import Sampling, StopStrings
from lep_bench.engines.forward import blocks, left_mask, prefill

if TYPE_CHECKING:
    from lep_bench.engines.hf import HfEngine

SHRINK = 0.8  # the batch is made smaller when fewer rows than this share are still going: copying costs too


def generate(
    engine: HfEngine,
    asked: Sequence[tuple[tuple[int, ...], int]],
    max_new: int,
    stop_ids: frozenset[int],
    stops: StopStrings,
    sampling: Sampling | None,
) -> list[list[int]]:
    """Generated ids per (context, seed), without the stop id, at most `max_new`; with the token that completed a stop string.

    A context that stands with several seeds is read once.
    """
    outputs: list[list[int]] = [[] for _ in asked]
    if max_new < 1:
        return outputs
    contexts = list(dict.fromkeys(context for context, _ in asked))
    cache = DynamicCache()
    mask, positions = left_mask([len(context) for context in contexts], engine.device)
    hidden = prefill(engine, contexts, mask, cache)
    if len(contexts) < len(asked):
        number = {context: n for n, context in enumerate(contexts)}
        place = torch.tensor([number[context] for context, _ in asked], device=engine.device)
        cache.batch_select_indices(place)
        hidden, mask, positions = hidden[place], mask[place], positions[place]
    generators = [random.Random(seed) for _, seed in asked]
    rows = list(range(len(asked)))  # which question each row of the batch belongs to
    going = [True] * len(rows)
    for step in range(max_new):
        uniform = None if sampling is None else [generators[row].random() for row in rows]
        chosen = torch.cat([
            logits.argmax(-1) if sampling is None or uniform is None else draw(logits, sampling, uniform[start : start + len(logits)])
            for start, logits in blocks(engine, hidden)
        ])  # fmt: skip
        for r, token in enumerate(chosen.tolist()):
            if not going[r]:
                continue
            engine.counts.tokens_out += 1
            if token in stop_ids:
                going[r] = False
                continue
            output = outputs[rows[r]]
            output.append(token)
            going[r] = not stops.hit(output)
        left = sum(going)
        if not left or step == max_new - 1:
            break
        if left <= SHRINK * len(rows):
            keep = torch.tensor([r for r, on in enumerate(going) if on], device=engine.device)
            cache.batch_select_indices(keep)
            chosen, mask, positions = chosen[keep], mask[keep], positions[keep]
            rows = [row for row, on in zip(rows, going, strict=True) if on]
            going = [True] * len(rows)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        hidden = engine.hidden(
            input_ids=chosen[:, None], attention_mask=mask, position_ids=positions[:, None], past_key_values=cache, use_cache=True
        )[:, -1]
        positions = positions + 1
    return outputs


def candidates(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids [B, k], probabilities [B, k] in float64, 0 for what `sampling` leaves out), likeliest first, equal ones by id.

    What transformers' warpers leave for temperature, top_k and top_p in that order: scores equal to the k-th are kept too.
    """
    scores = logits / sampling.temperature
    count = min(sampling.top_k or scores.shape[-1], scores.shape[-1])
    worst = scores.topk(count).values[:, -1:]
    tied = int((scores >= worst).sum(-1).max())
    values, ids = scores.topk(tied)
    values = values.masked_fill(values < worst, -torch.inf)
    # topk orders equal scores as it likes: by id, so that a row's candidates stand in one order in every batch.
    ids, order = ids.sort(-1)
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, order)
    probabilities = values.double().softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    kept = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    return ids, kept / kept.sum(-1, keepdim=True)


def draw(logits: torch.Tensor, sampling: Sampling, uniform: Sequence[float]) -> torch.Tensor:
    """[B, V] and one number in [0, 1) per row -> [B] ids: where the candidates' running sum of probabilities passes it."""
    ids, probabilities = candidates(logits, sampling)
    wanted = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None]
    # Rounding may leave the whole sum below 1: never beyond the last candidate.
    index = torch.minimum((probabilities.cumsum(-1) <= wanted).sum(-1), (probabilities > 0).sum(-1) - 1)
    return ids.gather(-1, index[:, None])[:, 0]
