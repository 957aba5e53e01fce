"""The noise floor: the same questions a second time in other batches. Differences of scores below it mean nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lep_bench.engines.base import Engine
from lep_bench.evaluate.compiling import CompiledTask
from lep_bench.evaluate.scoring import loglikelihoods, machine
from lep_bench.results import Noise, Sample

MOST = 300  # items asked again
TOGETHER = 7  # items in one call: far fewer than engines take at once, so every batch is another one


def measure(engine: Engine, model: str, compiled: CompiledTask, samples: Sequence[Sample]) -> Noise | None:
    """Ask the items of an option task again, last first and few at a time; None for another kind of task.

    `samples` hold the answers that the score was made of; `engine` must not be a `Stored` one, which would repeat them.
    """
    chosen = [(item, sample) for item, sample in zip(compiled.items, samples, strict=True) if item.options][:MOST][::-1]
    flipped, largest = 0, 0.0
    for start in range(0, len(chosen), TOGETHER):
        some = chosen[start : start + TOGETHER]
        answers = iter(loglikelihoods(engine, [compiled.ids[i] for item, _ in some for i in item.requests]))
        for item, sample in some:
            before = sample.values["logprobs"]
            after = [next(answers).response[0] for _ in item.requests]
            flipped += int(np.argmax(before) != np.argmax(after))
            largest = max(largest, *(abs(a - b) for a, b in zip(before, after, strict=True)))
    if not chosen:
        return None
    return Noise(machine=machine(engine), model=model, task=compiled.name, items=len(chosen), flipped=flipped, largest=float(f"{largest:.3g}"))
