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
from lep_bench.evaluate import lmeval, proof
from lep_bench.evaluate.encode import Encoder, Pair
from lep_bench.evaluate.prompts import CompiledTask, Generation, Item, read_generation
from lep_bench.files import text_digest
from lep_bench.records.artifact import Artifact
from lep_bench.records.schema import Machine, Noise, Sample, Score
from lep_bench.stats import aggregate_stderr

NOISE_ITEMS = 300  # items asked again
# Items in one call: far fewer than engines take at once, so that every batch is a different one.
NOISE_BATCH = 7


@dataclass(frozen=True)
class TaskScores:
    """What scoring a task gives: per metric its value and standard error, one sample per document,
    and what work was done where.

    `characters` counts the text of all requests (prompts and options), `seconds` the time in which
    they were answered, `peak_memory` the bytes held meanwhile. `from_store` counts stored answers,
    which cost no work."""

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
    """An engine's answer to one request: what lm-eval gets (log-probability and greedy flag, a sum
    for rolling texts, a text), and the number of tokens behind it. `stopped`: whether a text ended
    before it reached the limit; None where the tokens are a server's and cannot be counted."""

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


def score_task(
    engine: Engine, artifact: Artifact, compiled: CompiledTask, samplings: int = 1
) -> TaskScores:
    """Ask the engine, which must hold `artifact`, everything and compute the task's metrics as
    lm-eval does.

    `samplings`: how often sampled answers are asked for, with seeds 0, 1, ...; greedy ones are
    asked for once. Raises TaskError for a prompt longer than the model or a score that is not
    finite, CheckpointError for a model whose log-probabilities are not numbers. Errors of the
    task's own code are not caught.
    """
    base.reset_peak_memory(engine.info.device)
    before, begin = _count_work(engine), time.monotonic()
    sampled = any(
        request.request_type == "generate_until" and read_generation(request).sampling
        for request in compiled.requests
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
    requests, tokens_in, tokens_out, from_store = (
        now - then for now, then in zip(_count_work(engine), before, strict=True)
    )
    peak = base.read_peak_memory(engine.info.device)
    if any(isinstance(a.response, tuple) and math.isnan(a.response[0]) for a in rounds[0]):
        raise CheckpointError(
            f"{artifact.name} gives log-probabilities that are not numbers: its weights are damaged"
        )
    readings = [_read_answers(compiled, answers) for answers in rounds]
    first = next(iter(readings[0]))
    scores: dict[str, Score] = {}
    for name in readings[0]:
        suffix = "" if name == first else f",{name}"
        scores |= _aggregate(compiled, [reading[name] for reading in readings], suffix)
    if compiled.primary not in scores:
        raise TaskError(
            f"task {compiled.name} does not report its primary score {compiled.primary!r}: "
            f"it has {', '.join(scores)}"
        )
    samples = [
        _make_sample(compiled, item, [reading[first][n] for reading in readings], rounds)
        for n, item in enumerate(compiled.items)
    ]
    return TaskScores(
        scores=scores,
        primary=compiled.primary,
        higher_is_better=compiled.higher_is_better,
        samples=samples,
        requests=requests,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        from_store=from_store,
        characters=compiled.characters,
        seconds=seconds,
        peak_memory=peak,
        machine=describe_machine(engine),
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


def _count_work(engine: Engine) -> tuple[int, int, int, int]:
    counts = engine.counts
    return counts.requests, counts.tokens_in, counts.tokens_out, counts.from_store


# ---- answers


def ask_engine(
    engine: Engine,
    requests: Sequence[Any],
    ids: Sequence[Pair],
    encoder: Encoder,
    stop_ids: Sequence[int],
    seeds: Sequence[int] = (0,),
    positions: int = 0,
    max_characters: int | None = None,
) -> list[list[Answer]]:
    """Per seed the engine's answers to lm-eval requests, in order.

    What is not sampled is asked once and repeated for every seed. `positions`: the model's, where
    the engine's own count does not apply.
    """
    positions = positions or engine.max_length
    by_type: dict[str, list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        by_type[request.request_type].append(i)
        fault = proof.explain_too_long(request, *ids[i], positions)
        if fault is not None:
            raise TaskError(f"task {request.task_name}, row {request.doc_id}: {fault}")
    options, rolling = by_type["loglikelihood"], by_type["loglikelihood_rolling"]
    once = dict(zip(options, ask_loglikelihoods(engine, [ids[i] for i in options]), strict=True))
    texts = [ids[i] for i in rolling]
    once |= zip(rolling, _ask_rolling(engine, texts, positions), strict=True)
    rounds = [dict(once) for _ in seeds]
    same_settings: dict[Generation, list[int]] = defaultdict(list)
    for i in by_type["generate_until"]:
        same_settings[read_generation(requests[i])].append(i)
    for generation, numbers in same_settings.items():
        drawn = list(seeds) if generation.sampling else [0]
        questions = [(i, seed) for i in numbers for seed in drawn]
        own_seeds = (
            [_make_seed(seed, requests[i].doc) for i, seed in questions]
            if generation.sampling
            else ()
        )
        special, stops = encoder.split_stops(generation.until)
        eos = [] if encoder.eos is None else [encoder.eos]
        outputs = engine.generate(
            [ids[i][0] for i, _ in questions],
            generation.new,
            sorted({*stop_ids, *special, *eos}),
            stops,
            encoder.decode,
            generation.sampling,
            own_seeds,
            max_characters,
        )
        limit = None if encoder.tokenizer is None else generation.new
        answers = {
            question: _cut_text(encoder.decode(output), stops, len(output), limit, max_characters)
            for question, output in zip(questions, outputs, strict=True)
        }
        for seed, answers_of_round in zip(seeds, rounds, strict=True):
            for i in numbers:
                answers_of_round[i] = answers[i, seed if generation.sampling else 0]
    return [[answers[i] for i in range(len(requests))] for answers in rounds]


def _make_seed(seed: int, doc: Any) -> int:
    """The seed of one sampled answer: the same whatever else is asked, and however it is
    batched.
    """
    return int(text_digest(f"{seed} {lmeval.doc_digest(doc)}"), 16)


def ask_loglikelihoods(engine: Engine, pairs: Sequence[Pair]) -> list[Answer]:
    """(log-probability, greedy) per pair. Contexts whose every continuation is one token need no
    second pass: their continuations are the options of one forward pass."""
    long = {context for context, continuation in pairs if len(continuation) > 1}
    options: dict[tuple[int, ...], dict[int, None]] = {}
    for context, continuation in pairs:
        if context not in long:
            options.setdefault(context, {})[continuation[0]] = None
    short_scores: dict[tuple[tuple[int, ...], int], tuple[float, bool]] = {}
    if options:
        choices = [list(tokens) for tokens in options.values()]
        scores = engine.option_logprobs(list(options), choices)
        for context, tokens, values in zip(options, choices, scores, strict=True):
            short_scores.update(zip(((context, token) for token in tokens), values, strict=True))
    long_pairs = [pair for pair in pairs if pair[0] in long]
    long_scores = iter(engine.continuation_logprobs(long_pairs) if long_pairs else [])
    answers = []
    for context, continuation in pairs:
        if context in long:
            total = next(long_scores)
            answers.append(Answer((total.total, total.greedy), len(continuation)))
        else:
            answers.append(Answer(short_scores[context, continuation[0]], 1))
    return answers


def _ask_rolling(engine: Engine, pairs: Sequence[Pair], positions: int) -> list[Answer]:
    """Log-probabilities of whole texts, read in windows of the model's length."""
    if not pairs:
        return []
    windows = [
        (n, window)
        for n, ((prefix,), text) in enumerate(pairs)
        for window in lmeval.split_windows(text, prefix, positions)
    ]
    scores = engine.continuation_logprobs([window for _, window in windows])
    totals = [0.0] * len(pairs)
    for (n, _), window_scores in zip(windows, scores, strict=True):
        totals[n] += window_scores.total
    return [Answer(total, len(text)) for total, (_, text) in zip(totals, pairs, strict=True)]


def _cut_text(
    text: str, stops: Sequence[str], tokens: int, limit: int | None, max_characters: int | None
) -> Answer:
    answer = text
    for stop in stops:
        answer = answer.split(stop)[0]
    if limit is None:
        return Answer(answer, tokens)
    within = tokens < limit and (max_characters is None or len(text) <= max_characters)
    return Answer(answer, tokens, within or answer != text)


# ---- scores


def _read_answers(compiled: CompiledTask, answers: Sequence[Answer]) -> dict[str, list[Reading]]:
    """Per filter of the task, the first one first, how the task reads each item's answers."""
    readings: dict[str, list[Reading]] = {}
    for name in lmeval.filter_responses(compiled, [answer.response for answer in answers]):
        for item in compiled.items:
            results = [compiled.requests[i].filtered_resps[name] for i in item.requests]
            metrics = compiled.task.process_results(item.doc, results)
            readings.setdefault(name, []).append(Reading(metrics, results))
    return readings


def _aggregate(
    compiled: CompiledTask, rounds: Sequence[Sequence[Reading]], suffix: str
) -> dict[str, Score]:
    """Per metric: lm-eval's aggregation per seed, the mean and the spread of these values, and the
    standard error by group over items averaged over the seeds."""
    scores = {}
    for name in dict.fromkeys(key for reading in rounds[0] for key in reading.metrics):
        aggregate = lmeval.find_aggregation(compiled, name)
        numbers = [n for n, reading in enumerate(rounds[0]) if name in reading.metrics]
        values = [[readings[n].metrics[name] for n in numbers] for readings in rounds]
        per_seed = [float(aggregate(round_values)) for round_values in values]
        for value in per_seed:
            if not math.isfinite(value):
                raise TaskError(f"task {compiled.name}: {name} is {value}")
        items = [_average(item_values) for item_values in zip(*values, strict=True)]
        scores[name + suffix] = Score(
            value=statistics.fmean(per_seed),
            stderr=aggregate_stderr(items, [compiled.items[n].group for n in numbers], aggregate),
            spread=statistics.stdev(per_seed) if len(per_seed) > 1 else None,
            samplings=len(per_seed),
        )
    return scores


def _average(values: Sequence[Any]) -> Any:
    """An item's value over the seeds: the mean of numbers, pairs part by part; the first value
    where a mean has no meaning (labels).
    """
    first = values[0]
    if all(value == first for value in values):
        return first
    if isinstance(first, (tuple, list)):
        return tuple(_average(parts) for parts in zip(*values, strict=True))
    numbers = all(isinstance(value, (int, float, np.number, np.bool_)) for value in values)
    return statistics.fmean(values) if numbers else first


def _make_sample(
    compiled: CompiledTask,
    item: Item,
    readings: Sequence[Reading],
    rounds: Sequence[Sequence[Answer]],
) -> Sample:
    """What every score can be recomputed from: metrics, log-probabilities per request, generated
    text, tokens.
    """
    answers = [rounds[0][i] for i in item.requests]
    first = answers[0]
    values: dict[str, Any] = {
        key: _plain(_average([reading.metrics[key] for reading in readings]))
        for key in readings[0].metrics
    }
    has_tokens = compiled.encoder.tokenizer is not None
    if has_tokens:
        values["tokens"] = [answer.tokens for answer in answers]
    prediction = ""
    if isinstance(first.response, str):
        values["text"] = first.response
        if first.stopped is not None:
            values["stopped"] = first.stopped
        prediction = str(readings[0].results[0])
    elif isinstance(first.response, tuple):
        values["logprobs"] = [answer.response[0] for answer in answers]
        values["greedy"] = [answer.response[1] for answer in answers]
        if item.options:
            prediction = item.options[int(np.argmax(values["logprobs"]))]
            values["gold_index"] = item.gold_index
    else:
        values["logprobs"] = [answer.response for answer in answers]
    if len(rounds) > 1:
        values["samplings"] = []
        for round_answers, reading in zip(rounds, readings, strict=True):
            sampling: dict[str, Any] = {"text": round_answers[item.requests[0]].response}
            if has_tokens:
                sampling["tokens"] = [round_answers[i].tokens for i in item.requests]
            values["samplings"].append(sampling | _plain(reading.metrics))
    # A task of several prompts per document knows best.
    readable = getattr(compiled.task, "doc_to_prediction", None)
    if readable:
        prediction = str(readable(item.doc, readings[0].results))
    return Sample(
        doc_id=item.doc_id,
        doc_hash=item.doc_hash,
        group=item.group,
        gold=item.gold,
        prediction=prediction,
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
    if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0:
        return value.item()
    return value


# ---- noise


def measure_noise(
    engine: Engine, model: str, compiled: CompiledTask, samples: Sequence[Sample]
) -> Noise | None:
    """Ask the items of an option task again, last first and few at a time. None for another kind of
    task.

    `samples` hold the answers that the score was made of. `engine` must not be a `StoredEngine`,
    which would repeat them.
    """
    items = [
        (item, sample) for item, sample in zip(compiled.items, samples, strict=True) if item.options
    ][:NOISE_ITEMS][::-1]
    if not items:
        return None
    flipped, largest = 0, 0.0
    for start in range(0, len(items), NOISE_BATCH):
        batch = items[start : start + NOISE_BATCH]
        pairs = [compiled.ids[i] for item, _ in batch for i in item.requests]
        answers = iter(ask_loglikelihoods(engine, pairs))
        for item, sample in batch:
            before = sample.values["logprobs"]
            after = [next(answers).response[0] for _ in item.requests]
            flipped += int(np.argmax(before) != np.argmax(after))
            largest = max(largest, *(abs(a - b) for a, b in zip(before, after, strict=True)))
    return Noise(
        machine=describe_machine(engine),
        model=model,
        task=compiled.name,
        items=len(items),
        flipped=flipped,
        largest=float(f"{largest:.3g}"),
    )
