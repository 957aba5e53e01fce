"""Forward passes of the hf engine: logits are made only where something is looked up.

Shapes: B rows, T positions, d hidden, n looked-up positions, V real vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from lep_bench.engines.base import Ids, TokenScores, batches

if TYPE_CHECKING:
    from lep_bench.engines.hf import HfEngine

# Logits held at once, whatever the vocabulary: small on a CPU, where they should stay in its cache.
HEAD_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
HEAD_ROWS = 32  # at least so many positions at once: for fewer, reading the head's matrix again and again is what takes the time


def last_hidden(engine: HfEngine, contexts: Sequence[Ids]) -> torch.Tensor:
    """[B, d]: hidden state at the last position of each context. Padded on the right: causal attention needs no mask."""
    ids, lengths = pad_right(contexts, engine.device)
    engine.counts.tokens_in += int(lengths.sum())
    hidden = engine.hidden(input_ids=ids, use_cache=False)
    return hidden[torch.arange(len(contexts), device=engine.device), lengths.to(engine.device) - 1]


def look_up(engine: HfEngine, hidden: torch.Tensor, rows: Sequence[int], targets: Sequence[int]) -> list[tuple[float, bool]]:
    """For each (row of `hidden` [B, d], target id): log-probability of the target there, and whether it is the arg max."""
    row = torch.tensor(rows, device=engine.device)
    target = torch.tensor(targets, device=engine.device)
    logprobs = torch.empty(len(rows), device=engine.device)
    greedy = torch.empty(len(rows), dtype=torch.bool, device=engine.device)
    # Rows come in order, so a slice of `hidden` and the questions about it are done together.
    for start, logits in blocks(engine, hidden):
        inside = (row >= start) & (row < start + len(logits))
        local, wanted = row[inside] - start, target[inside]
        value = logits[local, wanted]
        logprobs[inside] = value - torch.logsumexp(logits, -1)[local]
        # The maximum is much cheaper than its place; the place matters only where the target reaches the maximum.
        best = value == logits.amax(-1)[local]
        best[best.clone()] = logits[local[best]].argmax(-1) == wanted[best]
        greedy[inside] = best
    return list(zip(logprobs.tolist(), greedy.tolist(), strict=True))


def score_whole(engine: HfEngine, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
    """Each (context, continuation) as one sequence; the head runs on the continuation's positions only."""
    ids, lengths = pad_right([[*context, *continuation[:-1]] for context, continuation in pairs], engine.device)
    engine.counts.tokens_in += int(lengths.sum())
    hidden = engine.hidden(input_ids=ids, use_cache=False)
    rows = [r for r, (_, continuation) in enumerate(pairs) for _ in continuation]
    columns = [len(context) - 1 + j for context, continuation in pairs for j in range(len(continuation))]
    chosen = hidden[torch.tensor(rows, device=engine.device), torch.tensor(columns, device=engine.device)]
    scores = iter(look_up(engine, chosen, range(len(rows)), [t for _, continuation in pairs for t in continuation]))
    return [_token_scores([next(scores) for _ in continuation]) for _, continuation in pairs]


def score_shared(
    engine: HfEngine, groups: Sequence[tuple[tuple[int, ...], list[tuple[int, ...]]]]
) -> dict[tuple[tuple[int, ...], tuple[int, ...]], TokenScores]:
    """Contexts with several continuations each: the context is read once, its keys and values serve every continuation."""
    cache, mask, lengths = DynamicCache(), *left_mask([len(context) for context, _ in groups], engine.device)
    hidden = prefill(engine, [context for context, _ in groups], mask, cache)
    asked = [(g, continuation) for g, (_, continuations) in enumerate(groups) for continuation in continuations]
    first = look_up(engine, hidden, [g for g, _ in asked], [continuation[0] for _, continuation in asked])
    scores = {question: [answer] for question, answer in zip(asked, first, strict=True)}
    longer = [question for question in asked if len(question[1]) > 1]
    width = mask.shape[1]
    for batch in batches([width + len(continuation) - 1 for _, continuation in longer], 4 * engine.batch.tokens):
        chosen = [longer[i] for i in batch]
        answers = iter(_continue(engine, chosen, cache, mask, lengths))
        for question in chosen:
            scores[question] += [next(answers) for _ in question[1][1:]]
    return {(groups[g][0], continuation): _token_scores(answers) for (g, continuation), answers in scores.items()}


def _continue(
    engine: HfEngine, chosen: Sequence[tuple[int, tuple[int, ...]]], cache: DynamicCache, mask: torch.Tensor, lengths: torch.Tensor
) -> list[tuple[float, bool]]:
    """Scores of every continuation's second to last token, one after the other."""
    row = torch.tensor([g for g, _ in chosen], device=engine.device)
    ids, sizes = pad_right([continuation[:-1] for _, continuation in chosen], engine.device)
    engine.counts.tokens_in += int(sizes.sum())
    copied = DynamicCache([(layer.keys[row], layer.values[row]) for layer in cache.layers])
    # What is padded on the right comes last and is seen by nobody who counts: ones do.
    whole = torch.cat([mask[row], mask.new_ones(ids.shape)], 1)
    positions = lengths[row][:, None] + torch.arange(ids.shape[1], device=engine.device)
    hidden = engine.hidden(input_ids=ids, attention_mask=whole, position_ids=positions, past_key_values=copied, use_cache=True)
    real = torch.arange(ids.shape[1]) < sizes[:, None]
    found = hidden[real.to(engine.device)]
    return look_up(engine, found, range(len(found)), [t for _, continuation in chosen for t in continuation[1:]])


def prefill(engine: HfEngine, contexts: Sequence[Ids], mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """[B, d]: hidden state at the end of each context (padded on the LEFT by `mask`), keys and values kept in `cache`.

    Left, because what follows must stand at its right distance: transformers measures a sliding window by columns.
    `cache` is a DynamicCache made without a config, so that windowed layers keep every column too.
    """
    ids = mask.new_zeros(mask.shape)
    ids[mask.bool()] = torch.tensor([i for context in contexts for i in context], device=mask.device)
    engine.counts.tokens_in += sum(map(len, contexts))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return engine.hidden(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)[:, -1]


def left_mask(lengths: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(mask [B, T] of 0 and 1 with each row's ones at the right, lengths [B])."""
    size = torch.tensor(lengths, device=device)
    width = int(max(lengths))
    return (torch.arange(width, device=device) >= width - size[:, None]).long(), size


def pad_right(sequences: Sequence[Ids], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids [B, T] on the device, lengths [B] on the CPU), filled up with id 0."""
    width = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences])
    return ids.to(device), torch.tensor([len(sequence) for sequence in sequences])


def blocks(engine: HfEngine, hidden: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, logits [n, V]) over `hidden` [B, d], few enough rows at once that memory does not grow with the vocabulary."""
    size = max(HEAD_ROWS, HEAD_ELEMENTS.get(engine.device.type, 1 << 26) // engine.real_rows)
    for start in range(0, len(hidden), size):
        yield start, engine.logits(hidden[start : start + size])


def _token_scores(answers: Sequence[tuple[float, bool]]) -> TokenScores:
    return TokenScores(tuple(value for value, _ in answers), all(best for _, best in answers))
