"""Artifacts behind results, and how the losses of continued pre-training fell: kept beside
published results as one small file.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lep_bench import files
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard.cards import read_stage
from lep_bench.leaderboard.cells import model_key
from lep_bench.records.artifact import Lep
from lep_bench.records.schema import TaskResult
from lep_bench.records.store import Store

FILE = "curves.csv"
HEAD = ("model", "seed", "characters", "bits_per_character")


@dataclass(frozen=True)
class Curve:
    """One donor's training: (characters read, bits per character of the training text, mean since
    the point before).

    Nats per token times tokens per character over ln 2: the same text in other tokens gives numbers
    that compare.
    """

    model: str
    seed: int
    points: tuple[tuple[int, float], ...]


def read_lineage(store: Store, results: Iterable[TaskResult]) -> list[Lep]:
    """The lep.json of every scored model and of all its ancestors, as far as they were made into
    `store` and are still there.

    Raises CheckpointError for a damaged one."""
    found: dict[str, Lep] = {}
    wanted = [(model_key(result), result.model.fingerprint) for result in results]
    for name, fingerprint in wanted:  # grows while it is read: parents follow
        if fingerprint not in found and (lep := read_stage(store, name, fingerprint)) is not None:
            found[fingerprint] = lep
            wanted += [(parent.name, parent.digest) for parent in lep.parents]
    return list(found.values())


def make_curves(artifacts: Iterable[Lep]) -> tuple[Curve, ...]:
    """The curves of those artifacts that were pre-trained, by name and seed."""
    found = {}
    for lep in artifacts:
        t = lep.training
        if lep.stage == "donor" and t.get("loss") and t.get("steps") and t.get("characters"):
            bits = t["tokens"] / t["characters"] / math.log(2)
            points = tuple(
                (round(step * t["characters"] / t["steps"]), round(loss * bits, 4))
                for step, loss in t["loss"]
            )
            found[lep.model, lep.seed] = Curve(lep.model, lep.seed, points)
    return tuple(found[key] for key in sorted(found))


def write_curves(folder: Path, curves: Iterable[Curve]) -> None:
    """Write `folder`/curves.csv; nothing where there are no curves, so that a run without artifacts
    keeps what was published.
    """
    rows = [(c.model, c.seed, *point) for c in curves for point in c.points]
    if rows:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([HEAD, *rows])
        files.write_text(folder / FILE, out.getvalue())


def read_curves(folder: Path) -> tuple[Curve, ...]:
    """What `write` left; empty where there is no such file. Raises LepBenchError naming the line
    that cannot be read.
    """
    file, points = folder / FILE, dict[tuple[str, int], list[tuple[int, float]]]()
    if not file.is_file():
        return ()
    number = 0
    try:
        with file.open(encoding="utf-8", newline="") as text:
            for number, row in enumerate(csv.reader(text), 1):
                if number == 1 and tuple(row) != HEAD:
                    raise ValueError(f"the first line is not {','.join(HEAD)}")
                if number > 1:
                    model, seed, characters, bits = row
                    if not math.isfinite(float(bits)):
                        raise ValueError(f"{bits} is no number of bits")
                    points.setdefault((model, int(seed)), []).append((int(characters), float(bits)))
    except (OSError, ValueError, csv.Error) as error:
        raise LepBenchError(f"{file}:{number}: cannot be read ({error}): publish again") from error
    return tuple(Curve(model, seed, tuple(own)) for (model, seed), own in points.items())
