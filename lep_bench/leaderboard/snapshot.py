"""The committed form of a suite's results: one JSON Lines file from which page and errors are made
again without any model.

Line 1 is the head (version, suite, order of the models). Then come `items` lines (ids and groups,
once for all cells that were asked the same) and `cell` lines (the TaskResult without what nobody
reads there: date, packages, git state; the primary score of every item: a string of 0 and 1, or
numbers with five significant digits, or, of a score that is no mean over items, the distinct stored
values and each item's place among them; and, where a scan of training texts flagged rows, the score
without them).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from lep_bench.config.schema import Suite
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard.cells import Chosen, Condition, Items, Lookup, Metrics
from lep_bench.leaderboard.table import Contamination
from lep_bench.records.schema import (
    CHANGED,
    Noise,
    Provenance,
    Score,
    TaskResult,
    fail_result,
)
from lep_bench.records.text_counts import TextCounts

VERSION = 1
MEND = (
    "a results.jsonl of a leaderboard is expected, whole: publish it again (a baseline: lep-bench "
    "gate --write)"
)


@dataclass(frozen=True)
class Snapshot:
    """What such a file holds: enough for `assemble.assemble`. `lookup` gives the items of
    `chosen`'s results, `commands` make them again.
    """

    suite: Suite
    order: Sequence[str]
    chosen: Sequence[Chosen]
    lookup: Lookup
    contamination: Contamination | None = None
    commands: tuple[str, ...] = ()
    noise: Sequence[Noise] = ()


def render_snapshot(held: Snapshot) -> str:
    """The file's text; the same cells give the same text in whatever order they come."""
    suite, found = held.suite, held.contamination
    names = {c.result.model.name for c in held.chosen}
    known = [name for name in dict.fromkeys(held.order) if name in names]
    place = {name: i for i, name in enumerate(known + sorted(names - set(known)))}

    def position(c: Chosen) -> tuple[Any, ...]:
        how = Condition.from_result(c.result)
        cell = place[c.result.model.name], c.result.model.seed, suite.tasks.index(c.result.task)
        return *cell, how.format, how.shots, how.engine, how.dtype, how.protocol

    head = {
        "lep_bench_results": VERSION,
        "suite": suite.model_dump(mode="json", exclude_defaults=True),
        "order": known,
    }
    if found is not None:
        head["contamination"] = {"texts": found.texts, "ngram": found.ngram, "tasks": found.tasks}
    if held.commands:
        head["commands"] = held.commands
    used = {c.result.provenance.machine for c in held.chosen}
    if measured := sorted(
        (n.model_dump(mode="json") for n in held.noise if n.machine in used), key=_to_json
    ):
        head["noise"] = measured
    lines = [_to_json(head)]
    numbers: dict[tuple[Any, ...], int] = {}
    for c in sorted(held.chosen, key=position):
        entry: dict[str, Any] = {
            "cell": _reduce_result(c.result).model_dump(mode="json", exclude_defaults=True)
        }
        clean = None if c.clean is None else _round_digits(c.clean, 12)
        marks = {
            "stale": c.stale or None,
            "clean": clean,
            "health": c.health or None,
        }
        entry |= {name: mark for name, mark in marks.items() if mark is not None}
        items = held.lookup(c.result) if c.failure is None else None
        if items is not None:
            asked = (c.result.task, items.ids, items.groups)
            if asked not in numbers:
                numbers[asked] = len(numbers)
                groups = list(items.groups) if any(items.groups) else []
                lines.append(
                    _to_json(
                        {
                            "items": numbers[asked],
                            "task": c.result.task,
                            "ids": list(items.ids),
                            "groups": groups,
                        }
                    )
                )
            entry["of"] = numbers[asked]
            if items.raws:
                entry |= {"distinct": items.raws[0].distinct, "codes": items.raws[0].codes.tolist()}
            else:
                entry["values"] = _pack_values(items.values)
        lines.append(_to_json(entry))
    return "\n".join(lines) + "\n"


def read_snapshot(file: Path) -> Snapshot:
    """Read a file of `dump`. Raises LepBenchError naming the line that cannot be read."""
    chosen: list[Chosen] = []
    items: dict[int, Items | None] = {}
    asked: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    head: dict[str, Any] = {}
    number = 0
    try:
        # Not splitlines(): a note may hold U+2028 or U+0085, which end no line of the file.
        for number, line in enumerate(
            filter(None, file.read_text(encoding="utf-8").split("\n")), 1
        ):
            entry = json.loads(line)
            if number == 1:
                if not isinstance(entry, dict) or entry.get("lep_bench_results") != VERSION:
                    raise LepBenchError(f"{file}:1: not of version {VERSION} of results: {MEND}")
                head, suite = entry, Suite.model_validate(entry["suite"])
                # the shipped tasks': whoever reads the file has no others
                metrics = Metrics.load(suite.tasks)
                noise = tuple(Noise.model_validate(one) for one in entry.get("noise", ()))
                scan = entry.get("contamination")
                found = scan and Contamination(
                    tuple(scan["texts"]),
                    scan["ngram"],
                    tuple((str(t), int(n), int(f)) for t, n, f in scan["tasks"]),
                )
            elif "items" in entry:
                asked[entry["items"]] = (
                    tuple(entry["ids"]),
                    tuple(entry["groups"] or [""] * len(entry["ids"])),
                )
            else:
                result = TaskResult.model_validate(entry["cell"])
                if entry.get("edited"):  # written by 0.1.0, which showed such scores with a mark
                    result = fail_result(result, f"{result.model.name}/{result.task}: {CHANGED}")
                counts = tuple(TextCounts(*entry["health"])) if "health" in entry else ()
                stale, clean = entry.get("stale", False), entry.get("clean")
                chosen.append(Chosen(result, stale, clean, counts))
                items[id(result)] = (
                    _unpack_items(result, asked[entry["of"]], entry, metrics)
                    if "of" in entry
                    else None
                )
    except (OSError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise LepBenchError(
            f"{file}:{number}: cannot be read ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}): {MEND}"
        ) from error
    if not head:
        raise LepBenchError(f"{file}: empty: {MEND}")
    commands = tuple(map(str, head.get("commands", ())))
    # By identity: `chosen` keeps the results alive.
    return Snapshot(
        suite, head["order"], chosen, lambda result: items[id(result)], found, commands, noise
    )


def _reduce_result(result: TaskResult) -> TaskResult:
    p = result.provenance
    kept = Provenance(
        created="",
        engine=p.engine,
        engine_version=p.engine_version,
        device=p.device.split(":")[0],
        device_kind=p.device_kind,
        dtype=p.dtype,
        hardware={
            name: p.hardware[name]
            for name in ("threads", "workers")
            if p.engine_seconds and name in p.hardware
        },
        requests=p.requests,
        from_store=p.from_store,
        tokens_in=p.tokens_in,
        tokens_out=p.tokens_out,
        characters=p.characters,
        engine_seconds=_round_digits(p.engine_seconds, 4),
        peak_memory=p.peak_memory,
        notes=p.notes,
    )
    scores = {name: _shorten_score(score) for name, score in sorted(result.scores.items())}
    error = None if result.error is None else (result.error.strip().splitlines() or [""])[0][:300]
    return result.model_copy(
        update={
            "provenance": kept,
            "scores": scores,
            "error": error,
            "health": None,
            "samples_digest": None,
            "seal": None,
        }
    )


def _shorten_score(score: Score) -> Score:
    numbers = {"value": score.value, "stderr": score.stderr, "spread": score.spread}
    return score.model_copy(
        update={
            name: None if number is None else _round_digits(number, 12)
            for name, number in numbers.items()
        }
    )


def _pack_values(values: np.ndarray) -> str | list[float]:
    if ((values == 0) | (values == 1)).all():
        return (values.astype(np.uint8) + ord("0")).tobytes().decode("ascii")
    return [_round_digits(v, 5) for v in values.tolist()]


def _unpack_items(
    result: TaskResult,
    asked: tuple[tuple[str, ...], tuple[str, ...]],
    entry: dict[str, Any],
    metrics: Metrics,
) -> Items | None:
    ids, groups = asked
    held: Any = entry.get("values", entry.get("codes"))
    if not len(ids) == len(groups) == len(held):
        raise ValueError(f"{len(ids)} ids, {len(groups)} groups, {len(held)} values")
    if "codes" not in entry:
        if isinstance(held, str) and held.strip("01"):
            raise ValueError(f"{held.strip('01')[:9]!r} among 0 and 1")
        digits = (
            np.frombuffer(held.encode("ascii"), dtype=np.uint8) - ord("0")
            if isinstance(held, str)
            else held
        )
        return Items(ids, groups, np.asarray(digits, dtype=np.float64))
    distinct = [tuple(value) if isinstance(value, list) else value for value in entry["distinct"]]
    raw = metrics.coded(result.task, result.primary, distinct, held)
    shares = raw and raw.shares()
    return Items(ids, groups, shares[1], (raw,)) if raw and shares else None


def _round_digits(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
