"""Greedy generation in batches with a cache of keys and values; rows that have ended leave the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from lep_bench.engines.base import Ids, StopStrings
from lep_bench.engines.forward import left_mask, prefill

if TYPE_CHECKING:
    from lep_bench.engines.hf import HfEngine

SHRINK = 0.8  # the batch is made smaller when fewer rows than this share are still going: copying costs too


def greedy(engine: HfEngine, contexts: Sequence[Ids], max_new: int, stop_ids: frozenset[int], stops: StopStrings) -> list[list[int]]:
    """Generated ids per context, without the stop id, at most `max_new`; with the token that completed a stop string."""
    outputs: list[list[int]] = [[] for _ in contexts]
    if max_new < 1:
        return outputs
    cache = DynamicCache()
    mask, positions = left_mask([len(context) for context in contexts], engine.device)
    hidden = prefill(engine, contexts, mask, cache)
    rows = list(range(len(contexts)))  # which context each row of the batch belongs to
    going = [True] * len(rows)
    for step in range(max_new):
        chosen = engine.logits(hidden).argmax(-1)
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
