"""What is asked of a model, as plain data: the prompts of a task's rows, the ids that an engine
reads, and what a generation request asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lep_bench.engines.base import Sampling
from lep_bench.errors import TaskError
from lep_bench.evaluate.encode import Encoder, Pair

Messages = tuple[dict[str, str], ...]
NEW_TOKENS = 256  # lm-eval's default for a task that names no limit
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# Arguments that are accepted at these values only.
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "num_return_sequences": 1}


@dataclass(frozen=True)
class Prompt:
    """One distinct prompt of a row: its text, the numbers of the requests that ask it, and the
    messages it was made of (None: plain text without roles). `generation_prompt`: whether the
    model's turn was opened; otherwise its last message is to be continued."""

    text: str
    requests: tuple[int, ...]
    messages: Messages | None
    generation_prompt: bool


@dataclass(frozen=True)
class Item:
    """One document: its row, what its samples record, and the numbers of the task's requests that
    belong to it, in order.

    `shots` are in the prompt, `asked_shots` were wanted. `cut`: the prompt lost its left end."""

    doc_id: int
    doc: Any
    doc_hash: str
    group: str
    gold: str
    gold_index: int | None
    options: tuple[str, ...]
    prompt_ids: str
    requests: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    shots: int
    asked_shots: int
    cut: bool


@dataclass(frozen=True)
class CompiledTask:
    """A task ready to be asked. `ids[i]` belongs to `requests[i]`: (context, continuation). A
    generation has no continuation, a rolling text is all continuation. `requests` are lm-eval's
    instances: every scoring replaces their answers, so one CompiledTask serves one scoring at a
    time. `characters` counts the text of all requests. `positions`: the model's, 0 where its
    config.json is missing; `max_length`: what the caller sets instead, or 0."""

    name: str
    version: str
    fingerprint: str
    primary: str
    higher_is_better: bool
    shots: int
    task: Any
    encoder: Encoder
    requests: tuple[Any, ...]
    ids: tuple[Pair, ...]
    items: tuple[Item, ...]
    characters: int
    by_template: bool
    positions: int
    max_length: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Generation:
    """At most `new` tokens, the stop strings, and how tokens are drawn (None: greedily)."""

    new: int
    until: tuple[str, ...]
    sampling: Sampling | None


def read_generation(request: Any) -> Generation:
    """What an lm-eval request asks for. It is sampled where `do_sample` says so, or where the
    temperature is above 0 and `do_sample` is not given.

    Raises TaskError for what no engine offers: ignoring an argument would make another benchmark.
    """
    arguments = dict(request.args[1])
    until = arguments.pop("until", None) or []
    limits = [arguments.pop(name, None) for name in _LIMITS]
    temperature = arguments.pop("temperature", None)
    top_k = arguments.pop("top_k", None)
    top_p = arguments.pop("top_p", None)
    do_sample = arguments.pop("do_sample", None)
    for name, value in arguments.items():
        if value is not None and _NEUTRAL.get(name) != value:
            raise TaskError(
                f"task {request.task_name} asks for generation with {name}={value!r}: that is not "
                "offered"
            )
    sampling = None
    if do_sample or (do_sample is None and temperature):
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
        int(next((limit for limit in limits if limit is not None), NEW_TOKENS)),
        tuple(text for text in stops if text),
        sampling,
    )
