"""Scores of the mini tasks, in pure Python: recomputed from stored samples without lm-eval, model or tokenizer.

The names of the keys are those that the tasks report; `score` is the one that every scored task has.
"""

import math

Scores = dict[str, float]


def score_choice(log_likelihoods: list[float], gold: int) -> Scores:
    """`acc`: 1.0 if the right option has the highest log-likelihood (nats). A tie with another option is an error."""
    best = max(log_likelihoods)
    right = float(log_likelihoods[gold] == best and log_likelihoods.count(best) == 1)
    return {"acc": right, "score": right}


def score_copy(generated: str, answer: str) -> Scores:
    """`em`: 1.0 if the generated text equals the answer; white space around either does not count."""
    right = float(generated.strip() == answer.strip())
    return {"em": right, "score": right}


def bits_per_byte(log_likelihoods: list[float], byte_counts: list[int]) -> float:
    """Bits per UTF-8 byte over all texts together, from their log-likelihoods in nats."""
    return -sum(log_likelihoods) / (math.log(2) * sum(byte_counts))


def symbols_per_token(symbol_counts: list[int], token_counts: list[int]) -> float:
    """Characters per token over all texts together, special tokens not counted."""
    return sum(symbol_counts) / sum(token_counts)


def ratio(pairs: list[tuple[float, float]]) -> float:
    """The ratio of the sums of (numerator, denominator) pairs: how per-text values become one value of the task."""
    return sum(top for top, _ in pairs) / sum(bottom for _, bottom in pairs)
