"""What two computations of the same questions owe each other.

The same batch on the same machine gives the same bits. Another batch, thread count, kernel or
processor adds float32 numbers in another order: log-probabilities then move by some 1e-6 nats, and
a flag or a greedy token may turn over, but only where two candidates lie closer than that. These
functions assert no more and no less; `judge` is asked how close two candidates were.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lep_bench.engines.base import Ids, TokenScores
from lep_bench.engines.hf import HfEngine

# nats, float32: twice what the built-in models were seen to differ by between two batches
# (docs/LOG.md, noise floor)
ROUNDING = 5e-5
Options = list[tuple[float, bool]]


def options_agree(
    judge: HfEngine,
    contexts: Sequence[Ids],
    options: Sequence[Ids],
    ours: Sequence[Options],
    theirs: Sequence[Options],
    within: float = ROUNDING,
) -> None:
    """Answers of `option_logprobs`."""
    for context, wanted, mine, other in zip(contexts, options, ours, theirs, strict=True):
        assert [value for value, _ in mine] == pytest.approx(
            [value for value, _ in other], abs=within
        )
        for option, (value, best), (_, expected) in zip(wanted, mine, other, strict=True):
            if best != expected:
                assert _best(judge, context) - value < 2 * within, (
                    f"token {option}: its flag turned over without a tie"
                )


def scores_agree(
    judge: HfEngine,
    pairs: Sequence[tuple[Ids, Ids]],
    ours: Sequence[TokenScores],
    theirs: Sequence[TokenScores],
    within: float = ROUNDING,
) -> None:
    """Answers of `continuation_logprobs`."""
    for (context, continuation), mine, other in zip(pairs, ours, theirs, strict=True):
        assert mine.logprobs == pytest.approx(other.logprobs, abs=within)
        if mine.greedy != other.greedy:
            behind = [
                _best(judge, [*context, *continuation[:n]]) - value
                for n, value in enumerate(mine.logprobs)
            ]
            assert max(behind) < 2 * within, f"{continuation}: its flag turned over without a tie"


def texts_agree(
    judge: HfEngine,
    contexts: Sequence[Ids],
    ours: Sequence[Ids],
    theirs: Sequence[Ids],
    stop_ids: Ids = (),
    within: float = ROUNDING,
) -> None:
    """Greedy texts of `generate`: equal, or parted where two tokens tie. After a tie everything may
    differ.
    """
    for context, mine, other in zip(contexts, ours, theirs, strict=True):
        if list(mine) == list(other):
            continue
        n = next(
            (n for n, (a, b) in enumerate(zip(mine, other)) if a != b), min(len(mine), len(other))
        )
        # A text that ends here chose one of the ids that are not shown.
        chosen = [text[n : n + 1] or list(stop_ids) for text in (mine, other)]
        assert all(chosen), f"{mine} and {other}: one ended without a stop id"
        ((*values,),) = judge.option_logprobs([[*context, *mine[:n]]], [[*chosen[0], *chosen[1]]])
        first, second = values[: len(chosen[0])], values[len(chosen[0]) :]
        apart = abs(max(value for value, _ in first) - max(value for value, _ in second))
        assert apart < 2 * within, (
            f"{mine} and {other} part after {n} tokens, at two choices that lie {apart:.2g} "
            "nats apart"
        )


def certain(
    judge: HfEngine, contexts: Sequence[Ids], new: int, within: float = ROUNDING
) -> list[bool]:
    """Per context whether no two tokens tie along its greedy text of `new` tokens: that text any
    other computation must give.
    """
    found = []
    for context, text in zip(contexts, judge.generate(contexts, new, [], [], lambda ids: "")):
        steps = [[*context, *text[:n]] for n in range(new)]
        ranked = [
            sorted(value for value, _ in values)
            for values in judge.option_logprobs(steps, [range(judge.real_rows)] * new)
        ]
        found.append(min(values[-1] - values[-2] for values in ranked) > 2 * within)
    return found


def draws_agree(ours: Sequence[Ids], theirs: Sequence[Ids]) -> None:
    """Sampled texts of the same contexts and seeds: equal, but for one whose draw may have fallen
    on the border of two tokens.
    """
    assert len(ours) == len(theirs) and sum(list(a) != list(b) for a, b in zip(ours, theirs)) <= 1


def _best(judge: HfEngine, context: Ids) -> float:
    """The log-probability of the likeliest next token."""
    (values,) = judge.option_logprobs([context], [range(judge.real_rows)])
    return max(value for value, _ in values)
