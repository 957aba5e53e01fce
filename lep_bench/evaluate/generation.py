"""What a generation request asks for: lm-eval's generation arguments, read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lep_bench.engines.base import Sampling
from lep_bench.errors import TaskError

NEW_TOKENS = 256  # lm-eval's own default where a task names no limit
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# offered at these values only
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "num_return_sequences": 1}


@dataclass(frozen=True)
class Generation:
    """New tokens at most, stop strings, and how tokens are drawn (None: greedily)."""

    new: int
    until: tuple[str, ...]
    sampling: Sampling | None


def read_generation(request: Any) -> Generation:
    """Of one lm-eval request. Sampled where `do_sample` says so, or a temperature above 0 where it
    says nothing.

    Raises TaskError for what no engine of ours offers: an argument ignored would be another
    benchmark.
    """
    arguments = dict(request.args[1])
    until = arguments.pop("until", None) or []
    given = [arguments.pop(name, None) for name in _LIMITS]
    temperature, top_k, top_p = (
        arguments.pop(name, None) for name in ("temperature", "top_k", "top_p")
    )
    sampled = arguments.pop("do_sample", None)
    unknown = [
        name
        for name, value in arguments.items()
        if value is not None and _NEUTRAL.get(name) != value
    ]
    if unknown:
        raise TaskError(
            f"task {request.task_name} asks for generation with {unknown[0]}="
            f"{arguments[unknown[0]]!r}: that is not offered"
        )
    sampling = None
    if sampled or (sampled is None and temperature):
        try:
            sampling = Sampling(
                float(1.0 if temperature is None else temperature),
                int(top_k or 0),
                float(1.0 if top_p is None else top_p),
            )
        except (ValueError, TypeError) as error:
            raise TaskError(
                f"task {request.task_name} asks for sampling that cannot be: {error}"
            ) from error
    stops = [until] if isinstance(until, str) else until
    return Generation(
        int(next((n for n in given if n is not None), NEW_TOKENS)),
        tuple(text for text in stops if text),
        sampling,
    )
