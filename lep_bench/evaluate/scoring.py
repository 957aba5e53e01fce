"""One model's answers to a compiled task, read by lm-eval's own filters, metrics and aggregations."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lep_bench.artifact import Artifact
from lep_bench.engines.base import Engine, stop_ids
from lep_bench.errors import CheckpointError, TaskError
from lep_bench.evaluate.compiling import CompiledTask, Item
from lep_bench.evaluate.encoding import Encoder, Pair
from lep_bench.evaluate.uncertainty import stderr
from lep_bench.results import Sample, Score

NEW_TOKENS = 256  # lm-eval's own default where a task names no limit
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Scored:
    """What a scoring gives: per metric its value and standard error, one sample per document, and the work done.

    `characters` counts the text of all requests (prompts and options)."""

    scores: dict[str, Score]
    primary: str
    higher_is_better: bool
    samples: list[Sample]
    requests: int
    tokens_in: int
    tokens_out: int
    characters: int


@dataclass(frozen=True)
class Answer:
    """An engine's answer to one request: what lm-eval is given, and the number of tokens behind it."""

    response: Any
    tokens: int


def score(engine: Engine, artifact: Artifact, compiled: CompiledTask) -> Scored:
    """Ask the engine (which must hold `artifact`) everything and compute the task's metrics as lm-eval does.

    Raises TaskError for a prompt longer than the model or a score that is not finite, CheckpointError for a model whose
    log-probabilities are not numbers. Whatever a task's own code raises comes through as it is.
    """
    before = (engine.counts.requests, engine.counts.tokens_in, engine.counts.tokens_out)
    answers = ask(engine, compiled.requests, compiled.ids, compiled.encoder, stop_ids(artifact.folder))
    if any(isinstance(a.response, tuple) and math.isnan(a.response[0]) for a in answers):
        raise CheckpointError(f"{artifact.name} gives log-probabilities that are not numbers: its weights are damaged")
    for request, answer in zip(compiled.requests, answers, strict=True):
        request.resps = [answer.response] * (request.repeats or 1)
        request.filtered_resps = {}
    compiled.task.apply_filters()
    filters = list(compiled.requests[0].filtered_resps)
    metrics = {name: [_metrics(compiled, item, name) for item in compiled.items] for name in filters}
    scores: dict[str, Score] = {}
    for name in filters:
        scores |= _aggregate(compiled, metrics[name], "" if name == filters[0] else f",{name}")
    if compiled.primary not in scores:
        raise TaskError(f"task {compiled.name} does not report its primary score {compiled.primary!r}: it has {', '.join(scores)}")
    samples = [_sample(compiled, item, metrics[filters[0]][n], answers, filters[0]) for n, item in enumerate(compiled.items)]
    after = (engine.counts.requests, engine.counts.tokens_in, engine.counts.tokens_out)
    work = [new - old for new, old in zip(after, before, strict=True)]
    return Scored(scores, compiled.primary, compiled.higher_is_better, samples, *work, compiled.characters)


def ask(engine: Engine, requests: Sequence[Any], ids: Sequence[Pair], encoder: Encoder, eos: Sequence[int]) -> list[Answer]:
    """The engine's answers to lm-eval requests, in order: (log-probability, greedy), a sum for rolling texts, a text."""
    answers: list[Answer | None] = [None] * len(requests)
    by_kind: dict[str, list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        by_kind[request.request_type].append(i)
    for i in by_kind["loglikelihood"]:
        _fits(requests[i], len(ids[i][0]) + len(ids[i][1]) - 1, engine.max_length)
    for i, answer in zip(by_kind["loglikelihood"], _loglikelihoods(engine, [ids[i] for i in by_kind["loglikelihood"]]), strict=True):
        answers[i] = answer
    rolling = by_kind["loglikelihood_rolling"]
    for i, answer in zip(rolling, _rolling(engine, [ids[i] for i in rolling]), strict=True):
        answers[i] = answer
    settings: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
    for i in by_kind["generate_until"]:
        settings[_limits(requests[i])].append(i)
    for (new, until), chosen in settings.items():
        for i in chosen:
            _fits(requests[i], len(ids[i][0]) + new, engine.max_length, f" with {new} new tokens")
        ends, texts = encoder.stop_tokens(until)
        stops = sorted({*eos, *ends, *([] if encoder.eos is None else [encoder.eos])})
        generated = engine.generate([ids[i][0] for i in chosen], new, stops, texts, encoder.decode)
        for i, tokens in zip(chosen, generated, strict=True):
            answers[i] = Answer(_cut(encoder.decode(tokens), texts), len(tokens))
    return [answer for answer in answers if answer is not None]


def _loglikelihoods(engine: Engine, pairs: Sequence[Pair]) -> list[Answer]:
    """Contexts whose every continuation is one token need no second pass: the options of one forward pass."""
    long = {context for context, continuation in pairs if len(continuation) > 1}
    options: dict[tuple[int, ...], dict[int, tuple[float, bool]]] = {}
    for context, continuation in pairs:
        if context not in long:
            options.setdefault(context, {})[continuation[0]] = (0.0, False)
    asked = [(context, list(wanted)) for context, wanted in options.items()]
    if asked:
        found = engine.option_logprobs([context for context, _ in asked], [wanted for _, wanted in asked])
        for (context, wanted), values in zip(asked, found, strict=True):
            options[context] = dict(zip(wanted, values, strict=True))
    several = [pair for pair in pairs if pair[0] in long]
    rest = iter(engine.continuation_logprobs(several) if several else [])
    answers = []
    for context, continuation in pairs:
        if context in long:
            scores = next(rest)
            answers.append(Answer((scores.total, scores.greedy), len(continuation)))
        else:
            answers.append(Answer(options[context][continuation[0]], 1))
    return answers


def _rolling(engine: Engine, pairs: Sequence[Pair]) -> list[Answer]:
    """Whole texts: windows of the model's length, each token scored once, the last window with full context."""
    if not pairs:
        return []
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    windows = [
        (n, make_disjoint_window(window))
        for n, ((prefix,), text) in enumerate(pairs)
        for window in get_rolling_token_windows(list(text), prefix, engine.max_length, 1)
    ]
    totals = [0.0] * len(pairs)
    for (n, _), scores in zip(windows, engine.continuation_logprobs([window for _, window in windows]), strict=True):
        totals[n] += scores.total
    return [Answer(total, len(text)) for total, (_, text) in zip(totals, pairs, strict=True)]


def _limits(request: Any) -> tuple[int, tuple[str, ...]]:
    arguments = dict(request.args[1])
    if arguments.get("do_sample") or float(arguments.get("temperature") or 0.0) > 0.0:
        raise TaskError(f"task {request.task_name} asks for sampling: only greedy generation is offered")
    until = arguments.get("until") or []
    new = next((arguments[name] for name in _LIMITS if arguments.get(name) is not None), NEW_TOKENS)
    return int(new), tuple(text for text in ([until] if isinstance(until, str) else until) if text)


def _fits(request: Any, length: int, longest: int, extra: str = "") -> None:
    if length > longest:
        raise TaskError(f"task {request.task_name}, document {request.doc_id}: {length} tokens{extra} do not fit the model's {longest}")


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text


def _metrics(compiled: CompiledTask, item: Item, name: str) -> dict[str, Any]:
    return compiled.task.process_results(item.doc, [compiled.requests[i].filtered_resps[name] for i in item.requests])


def _aggregate(compiled: CompiledTask, metrics: Sequence[dict[str, Any]], suffix: str) -> dict[str, Score]:
    """Per metric: lm-eval's aggregation (the mean where a task names none) and the standard error by group."""
    from lm_eval.api.metrics import mean

    scores = {}
    for name in dict.fromkeys(key for found in metrics for key in found):
        aggregate = compiled.task.aggregation().get(name, mean)
        chosen = [(found[name], item.group) for found, item in zip(metrics, compiled.items, strict=True) if name in found]
        values = [value for value, _ in chosen]
        value = float(aggregate(values))
        if not math.isfinite(value):
            raise TaskError(f"task {compiled.name}: {name} is {value}")
        scores[name + suffix] = Score(value=value, stderr=stderr(values, [group for _, group in chosen], aggregate))
    return scores


def _sample(compiled: CompiledTask, item: Item, metrics: dict[str, Any], answers: Sequence[Answer], name: str) -> Sample:
    """The values that every score can be recomputed from: metrics, log-probabilities per request, generated text, tokens."""
    own = [answers[i] for i in item.requests]
    values: dict[str, Any] = {key: _plain(value) for key, value in metrics.items()}
    values["tokens"] = [answer.tokens for answer in own]
    results = [compiled.requests[i].filtered_resps[name] for i in item.requests]
    prediction = ""
    if isinstance(own[0].response, str):
        values["text"] = own[0].response
        prediction = str(results[0])
    elif isinstance(own[0].response, tuple):
        values["logprobs"] = [answer.response[0] for answer in own]
        values["greedy"] = [answer.response[1] for answer in own]
        if item.options:
            prediction = item.options[int(np.argmax(values["logprobs"]))]
            values["gold_index"] = item.gold_index
    else:
        values["logprobs"] = [answer.response for answer in own]
    readable = getattr(compiled.task, "doc_to_prediction", None)  # a task of several prompts per document says it best
    return Sample(
        doc_id=item.doc_id, doc_hash=item.doc_hash, group=item.group, gold=item.gold,
        prediction=str(readable(item.doc, results)) if readable else prediction, values=values, prompt_ids=item.prompt_ids, shots=compiled.shots,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """A metric's value as JSON: numpy numbers become Python's, tuples lists."""
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0 else value
