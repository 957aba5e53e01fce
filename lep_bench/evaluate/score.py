"""One model's answers to a compiled task, read by lm-eval's own filters, metrics and aggregations.

Sampled answers are asked for several times, each seed a benchmark of its own: scores are aggregated
per seed, then averaged.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lep_bench.engines import base
from lep_bench.engines.base import Engine, read_stop_ids
from lep_bench.errors import CheckpointError, TaskError
from lep_bench.evaluate import generation, proof
from lep_bench.evaluate.encode import Encoder, Pair
from lep_bench.evaluate.generation import Generation
from lep_bench.evaluate.lmeval import CompiledTask, Item
from lep_bench.evaluate.rows import doc_digest
from lep_bench.files import text_digest
from lep_bench.records.artifact import Artifact
from lep_bench.records.schema import Machine, Noise, Sample, Score
from lep_bench.stats import aggregate_stderr


@dataclass(frozen=True)
class Scored:
    """What a scoring gives: per metric its value and standard error, one sample per document, and
    the work done where.

    `characters` counts the text of all requests (prompts and options), `seconds` the time in which
    they were answered, `peak_memory` the bytes held meanwhile (see `engines.cost`); `from_store`
    answers cost no work."""

    scores: dict[str, Score]
    primary: str
    higher_is_better: bool
    samples: list[Sample]
    requests: int
    tokens_in: int
    tokens_out: int
    from_store: int
    characters: int
    seconds: float = field(compare=False)
    peak_memory: int = field(compare=False)
    machine: Machine


@dataclass(frozen=True)
class Answer:
    """An engine's answer to one request: what lm-eval is given, and the number of tokens behind it.
    `stopped`: a text that ended before it reached the limit; None where tokens are a server's and
    cannot be counted."""

    response: Any
    tokens: int
    stopped: bool | None = None


@dataclass(frozen=True)
class Reading:
    """One item's answers as the task reads them: its metrics, and the filtered answers they come
    from.
    """

    metrics: dict[str, Any]
    results: list[Any]


def score(engine: Engine, artifact: Artifact, compiled: CompiledTask, samplings: int = 1) -> Scored:
    """Ask the engine (which must hold `artifact`) everything and compute the task's metrics as
    lm-eval does.

    `samplings`: how often sampled answers are asked for, with seeds 0, 1, ...; greedy ones are
    asked for once. Raises TaskError for a prompt longer than the model or a score that is not
    finite, CheckpointError for a model whose log-probabilities are not numbers. Whatever a task's
    own code raises comes through as it is.
    """
    base.reset_peak_memory(engine.info.device)
    before, begin = _work(engine), time.monotonic()
    sampled = any(
        r.request_type == "generate_until" and generation.read_generation(r).sampling
        for r in compiled.requests
    )
    rounds = ask_engine(
        engine,
        compiled.requests,
        compiled.ids,
        compiled.encoder,
        read_stop_ids(artifact.folder),
        seeds=range(samplings if sampled else 1),
        positions=compiled.max_length,
        max_characters=getattr(compiled.task, "character_limit", None),
    )
    seconds = time.monotonic() - begin
    work = [new - old for new, old in zip(_work(engine), before, strict=True)]
    peak = base.read_peak_memory(engine.info.device)
    if any(isinstance(a.response, tuple) and math.isnan(a.response[0]) for a in rounds[0]):
        raise CheckpointError(
            f"{artifact.name} gives log-probabilities that are not numbers: its weights are damaged"
        )
    found = [_read(compiled, answers) for answers in rounds]
    first = next(iter(found[0]))
    scores: dict[str, Score] = {}
    for name in found[0]:
        scores |= _aggregate(
            compiled, [read[name] for read in found], "" if name == first else f",{name}"
        )
    if compiled.primary not in scores:
        raise TaskError(
            f"task {compiled.name} does not report its primary score {compiled.primary!r}: "
            f"it has {', '.join(scores)}"
        )
    samples = [
        _sample(compiled, item, [read[first][n] for read in found], rounds)
        for n, item in enumerate(compiled.items)
    ]
    return Scored(
        scores,
        compiled.primary,
        compiled.higher_is_better,
        samples,
        *work,
        compiled.characters,
        seconds,
        peak,
        describe_machine(engine),
    )


def describe_machine(engine: Engine) -> Machine:
    """What the engine's numbers come from."""
    info = engine.info
    return Machine(
        engine=info.name,
        version=info.version,
        device=base.name_device(info.device),
        dtype=info.dtype,
    )


def _work(engine: Engine) -> tuple[int, int, int, int]:
    counts = engine.counts
    return counts.requests, counts.tokens_in, counts.tokens_out, counts.from_store


def ask_engine(
    engine: Engine,
    requests: Sequence[Any],
    ids: Sequence[Pair],
    encoder: Encoder,
    eos: Sequence[int],
    seeds: Sequence[int] = (0,),
    positions: int = 0,
    max_characters: int | None = None,
) -> list[list[Answer]]:
    """Per seed the engine's answers to lm-eval requests, in order: (log-probability, greedy), a sum
    for rolling texts, a text.

    What is not sampled is asked once and the same for every seed. `positions`: of the model, where
    not the engine's count.
    """
    rounds: list[list[Any]] = [[None] * len(requests) for _ in seeds]
    by_kind: dict[str, list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        by_kind[request.request_type].append(i)
        wrong = proof.explain_too_long(request, *ids[i], positions or engine.max_length)
        if wrong is not None:
            raise TaskError(f"task {request.task_name}, row {request.doc_id}: {wrong}")
    likely, rolling = by_kind["loglikelihood"], by_kind["loglikelihood_rolling"]
    once = [*zip(likely, ask_loglikelihoods(engine, [ids[i] for i in likely]), strict=True)]
    once += zip(
        rolling,
        _rolling(engine, [ids[i] for i in rolling], positions or engine.max_length),
        strict=True,
    )
    settings: dict[Generation, list[int]] = defaultdict(list)
    for i in by_kind["generate_until"]:
        settings[generation.read_generation(requests[i])].append(i)
    for wanted, chosen in settings.items():
        ends, texts = encoder.stop_tokens(wanted.until)
        stops = sorted({*eos, *ends, *([] if encoder.eos is None else [encoder.eos])})
        drawn = list(seeds) if wanted.sampling else [0]
        own = (
            [_seed(seed, requests[i].doc) for i in chosen for seed in drawn]
            if wanted.sampling
            else ()
        )
        contexts = [ids[i][0] for i in chosen for _ in drawn]
        made = engine.generate(
            contexts, wanted.new, stops, texts, encoder.decode, wanted.sampling, own, max_characters
        )
        limit = None if encoder.tokenizer is None else wanted.new
        answers = [
            _written(encoder.decode(tokens), texts, len(tokens), limit, max_characters)
            for tokens in made
        ]
        for n, i in enumerate(chosen):
            for r, answered in enumerate(rounds):
                answered[i] = answers[n * len(drawn) + (r if wanted.sampling else 0)]
    for i, answer in once:
        for answered in rounds:
            answered[i] = answer
    return rounds


def _seed(seed: int, doc: Any) -> int:
    """Of a sampled answer: the same whatever else is asked, and however it is batched."""
    return int(text_digest(f"{seed} {doc_digest(doc)}"), 16)


def ask_loglikelihoods(engine: Engine, pairs: Sequence[Pair]) -> list[Answer]:
    """(log-probability, greedy) per pair. Contexts whose every continuation is one token need no
    second pass: the options of one forward pass."""
    long = {context for context, continuation in pairs if len(continuation) > 1}
    options: dict[tuple[int, ...], dict[int, tuple[float, bool]]] = {}
    for context, continuation in pairs:
        if context not in long:
            options.setdefault(context, {})[continuation[0]] = (0.0, False)
    asked = [(context, list(wanted)) for context, wanted in options.items()]
    if asked:
        found = engine.option_logprobs(
            [context for context, _ in asked], [wanted for _, wanted in asked]
        )
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


def _rolling(engine: Engine, pairs: Sequence[Pair], positions: int) -> list[Answer]:
    """Whole texts: windows of the model's length, each token scored once, the last window with full
    context.
    """
    if not pairs:
        return []
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    windows = [
        (n, make_disjoint_window(window))
        for n, ((prefix,), text) in enumerate(pairs)
        for window in get_rolling_token_windows(list(text), prefix, positions, 1)
    ]
    totals = [0.0] * len(pairs)
    for (n, _), scores in zip(
        windows, engine.continuation_logprobs([window for _, window in windows]), strict=True
    ):
        totals[n] += scores.total
    return [Answer(total, len(text)) for total, (_, text) in zip(totals, pairs, strict=True)]


def _written(
    text: str, stops: Sequence[str], tokens: int, limit: int | None, max_characters: int | None
) -> Answer:
    answer = text
    for stop in stops:
        answer = answer.split(stop)[0]
    if limit is None:
        return Answer(answer, tokens)
    within = tokens < limit and (max_characters is None or len(text) <= max_characters)
    return Answer(answer, tokens, within or answer != text)


def _read(compiled: CompiledTask, answers: Sequence[Answer]) -> dict[str, list[Reading]]:
    """Per filter of the task (the first one first), how the task reads each item's answers."""
    for request, answer in zip(compiled.requests, answers, strict=True):
        request.resps = [answer.response] * (request.repeats or 1)
        request.filtered_resps = {}
    compiled.task.apply_filters()
    read: dict[str, list[Reading]] = {}
    for name in compiled.requests[0].filtered_resps:
        for item in compiled.items:
            results = [compiled.requests[i].filtered_resps[name] for i in item.requests]
            read.setdefault(name, []).append(
                Reading(compiled.task.process_results(item.doc, results), results)
            )
    return read


def _aggregate(
    compiled: CompiledTask, rounds: Sequence[Sequence[Reading]], suffix: str
) -> dict[str, Score]:
    """Per metric: lm-eval's aggregation (the mean where a task names none) per seed, their mean and
    spread, and the standard error by group over items averaged over the seeds."""
    from lm_eval.api.metrics import mean

    scores = {}
    for name in dict.fromkeys(key for reading in rounds[0] for key in reading.metrics):
        aggregate = compiled.task.aggregation().get(name, mean)
        chosen = [n for n, reading in enumerate(rounds[0]) if name in reading.metrics]
        values = [[readings[n].metrics[name] for n in chosen] for readings in rounds]
        each = [float(aggregate(own)) for own in values]
        if not all(map(math.isfinite, each)):
            raise TaskError(
                f"task {compiled.name}: {name} is "
                f"{next(value for value in each if not math.isfinite(value))}"
            )
        items = [_average(own) for own in zip(*values, strict=True)]
        error = aggregate_stderr(items, [compiled.items[n].group for n in chosen], aggregate)
        spread = statistics.stdev(each) if len(each) > 1 else None
        scores[name + suffix] = Score(
            value=statistics.fmean(each), stderr=error, spread=spread, samplings=len(each)
        )
    return scores


def _average(values: Sequence[Any]) -> Any:
    """An item's value over the seeds: the mean of numbers, of pairs each part; the first where that
    has no meaning (labels).
    """
    first = values[0]
    if all(value == first for value in values):
        return first
    if isinstance(first, (tuple, list)):
        return tuple(_average(parts) for parts in zip(*values, strict=True))
    return (
        statistics.fmean(values)
        if all(isinstance(value, (int, float, np.number, np.bool_)) for value in values)
        else first
    )


def _sample(
    compiled: CompiledTask,
    item: Item,
    readings: Sequence[Reading],
    rounds: Sequence[Sequence[Answer]],
) -> Sample:
    """The values that every score can be recomputed from: metrics, log-probabilities per request,
    generated text, tokens.
    """
    own = [rounds[0][i] for i in item.requests]
    values: dict[str, Any] = {
        key: _plain(_average([reading.metrics[key] for reading in readings]))
        for key in readings[0].metrics
    }
    if compiled.encoder.tokenizer is not None:
        values["tokens"] = [answer.tokens for answer in own]
    prediction = ""
    if isinstance(own[0].response, str):
        values |= {"text": own[0].response} | (
            {} if own[0].stopped is None else {"stopped": own[0].stopped}
        )
        prediction = str(readings[0].results[0])
    elif isinstance(own[0].response, tuple):
        values["logprobs"] = [answer.response[0] for answer in own]
        values["greedy"] = [answer.response[1] for answer in own]
        if item.options:
            prediction = item.options[int(np.argmax(values["logprobs"]))]
            values["gold_index"] = item.gold_index
    else:
        values["logprobs"] = [answer.response for answer in own]
    if len(rounds) > 1:
        values["samplings"] = [
            {
                "text": answers[item.requests[0]].response,
                **(
                    {"tokens": [answers[i].tokens for i in item.requests]}
                    if "tokens" in values
                    else {}
                ),
                **_plain(reading.metrics),
            }
            for answers, reading in zip(rounds, readings, strict=True)
        ]
    # a task of several prompts per document says it best
    readable = getattr(compiled.task, "doc_to_prediction", None)
    return Sample(
        doc_id=item.doc_id,
        doc_hash=item.doc_hash,
        group=item.group,
        gold=item.gold,
        prediction=str(readable(item.doc, readings[0].results)) if readable else prediction,
        values=values,
        prompt_ids=item.prompt_ids,
        shots=item.shots,
        cut=item.cut,
    )


def _plain(value: Any) -> Any:
    """A metric's value as JSON: numpy numbers become Python's, tuples lists."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return (
        value.item()
        if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0
        else value
    )


NOISE_ITEMS = 300  # items asked again
# items in one call: far fewer than engines take at once, so every batch is another one
NOISE_BATCH = 7


def measure_noise(
    engine: Engine, model: str, compiled: CompiledTask, samples: Sequence[Sample]
) -> Noise | None:
    """Ask the items of an option task again, last first and few at a time; None for another kind of
    task.

    `samples` hold the answers that the score was made of; `engine` must not be a `Stored` one,
    which would repeat them.
    """
    chosen = [
        (item, sample) for item, sample in zip(compiled.items, samples, strict=True) if item.options
    ][:NOISE_ITEMS][::-1]
    flipped, largest = 0, 0.0
    for start in range(0, len(chosen), NOISE_BATCH):
        some = chosen[start : start + NOISE_BATCH]
        answers = iter(
            ask_loglikelihoods(engine, [compiled.ids[i] for item, _ in some for i in item.requests])
        )
        for item, sample in some:
            before = sample.values["logprobs"]
            after = [next(answers).response[0] for _ in item.requests]
            flipped += int(np.argmax(before) != np.argmax(after))
            largest = max(largest, *(abs(a - b) for a, b in zip(before, after, strict=True)))
    if not chosen:
        return None
    return Noise(
        machine=describe_machine(engine),
        model=model,
        task=compiled.name,
        items=len(chosen),
        flipped=flipped,
        largest=float(f"{largest:.3g}"),
    )
