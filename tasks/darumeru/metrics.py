"""Scores of the Darumeru tasks, in pure Python: recomputed from stored samples without lm-eval, model or tokenizer.

Rules of the benchmark's code as of July 2024, which made the published numbers.
"""


def choose(log_probabilities: list[float], options: list[str]) -> str:
    """The most probable option; a tie goes to the earlier one."""
    return options[log_probabilities.index(max(log_probabilities))]


def parus(log_probabilities: list[float], gold: str) -> dict[str, float]:
    """One PARus row from the log-probabilities of " 1" and " 2", as is and then with the two alternatives exchanged.

    `acc`: 1.0 only if both orders are answered rightly (the right answer of the exchanged order is the other digit), so
    guessing gives 0.25.
    """
    options = ["1", "2"]
    other = options[1 - options.index(gold)]
    right = choose(log_probabilities[:2], options) == gold and choose(log_probabilities[2:], options) == other
    return {"acc": float(right), "score": float(right)}
