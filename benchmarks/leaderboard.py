"""How long `lep-bench leaderboard` takes for many results: 100 models, the 17 tasks of Darumeru,
1,000 items each.

    python benchmarks/leaderboard.py [--models 100] [--items 1000] [--repeats 3] [--out DIR]

The results are made up (no model runs) and stored as a run stores them: answers of 200 to 400
characters where tasks generate, logs of probabilities where they choose, pairs where the score is
F1 or a correlation. Models differ in skill, items in difficulty. With --out the folder stays and is
used again. Wall and CPU seconds and the peak of resident memory are those of the whole command, a
process of its own; the smallest of the repeats counts, and all are kept. Prints a table and writes
benchmarks/results/leaderboard.json. The bars: 10 s, 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from lep_bench import stats
from lep_bench.config.load import Configs
from lep_bench.leaderboard.cells import Metrics
from lep_bench.pipeline.session import Session
from lep_bench.records import text_counts
from lep_bench.records.schema import ModelRecord, Provenance, Sample, Score, TaskResult

HERE = Path(__file__).resolve().parent
NAME = "speed"
BARS = {"wall_s": 10.0, "peak_gib": 1.0}
WORDS = (
    "город река письмо учитель говорит большой новый дорога вечером книга знает о который был "
    "через время окно рука"
).split()
WRITTEN = ("multiq", "use", "sum_abstractive", "copy")  # these tasks generate


def configs(folder: Path) -> Path:
    """A suite of the 17 tasks over one family with many vocabularies; its checkpoints are the
    built-in ones.
    """
    shipped = Configs.of()
    paper = shipped.suite("darumeru")
    vocabularies: dict[str, Any] = {"original": {}} | {
        f"v{i:02d}": {"method": "bpe", "params": {"size": 1500 + i}} for i in range(14)
    }
    family = shipped.family("mini-llama").model_dump(
        mode="json", exclude_defaults=True, exclude={"name"}
    ) | {"vocabularies": vocabularies}
    mean = {"kind": "centred", "tasks": paper.mean.tasks}
    suite = {
        "title": "Speed",
        "families": [NAME],
        "tasks": list(paper.tasks),
        "protocol": "strict",
        "mean": mean,
        "groups": paper.groups,
    }
    for kind, content in (("families", family), ("suites", suite)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(json.loads(json.dumps(content)), allow_unicode=True)
        (folder / kind / f"{NAME}.yaml").write_text(text, encoding="utf-8")
    return folder


def text(draw: random.Random, n: int) -> str:
    """`n` characters of Russian words."""
    return " ".join(draw.choices(WORDS, k=n // 3))[:n]


def sample(
    task: str, i: int, model: str, skill: float, golds: list[str], hard: list[float]
) -> Sample:
    """One item's answer, in the form in which the task's scores are stored."""
    draw = random.Random(f"{model} {task} {i}")
    right = draw.random() * 0.4 + hard[i] * 0.6 < skill
    common = {"doc_id": i, "doc_hash": f"{i:016x}", "group": str(i), "prompt_ids": f"{i:016x}"}
    if any(name in task for name in WRITTEN):
        said = golds[i] if right else golds[i][: 150 + 3 * (i % 30)] + golds[i - 1][:60]
        score: Any = (
            [float(right) + draw.randrange(3) * right, i // 30]
            if "use" in task
            else round(0.5 + 0.5 * right * draw.random(), 4)
        )
        values = {
            "score": score,
            "len": 1.0,
            "lcs": float(right),
            "tokens": [len(said) // 4],
            "text": said,
            "stopped": True,
        }
        return Sample(**common, gold=golds[i], prediction=said, values=values)
    gold = "ABCD"[i % 4]
    chosen = gold if right else draw.choice("ABCD")
    logs = {
        "tokens": [1] * 4,
        "logprobs": [-9 * draw.random() for _ in range(4)],
        "greedy": [False] * 4,
        "gold_index": i % 4,
    }
    if "mmlu_" in task:
        score = [
            ("anatomy", "sociology", "virology", "astronomy", "philosophy")[i % 5],
            float(chosen == gold),
        ]
    elif task.removeprefix("darumeru_") in ("rcb", "ruopenbookqa", "ruworldtree", "rucola"):
        score = [gold, chosen]
    else:
        score = float(chosen == gold)
    return Sample(
        **common, gold=gold, prediction=chosen, values={"acc": score, "score": score, **logs}
    )


def make(out: Path, folder: Path, models: int, items: int) -> None:
    """Write the results of the first `models` models that the suite derives."""
    given = Session.read(NAME, out, [folder])
    expected = given.plan(["all"]).expected
    names = list(dict.fromkeys(record.name for record, _, _ in expected))[:models]
    if len(names) < models:
        raise SystemExit(f"the suite derives only {len(names)} models")
    files = {
        file.name: file
        for file in (
            cell.task for node in given.plan(["all"]).nodes.values() for cell in node.cells
        )
    }
    metrics = Metrics.load(given.suite.tasks)
    scorings = {
        node.record.name: node.scoring
        for node in given.plan(["all"]).nodes.values()
        if node.record and node.scoring
    }
    draw = random.Random(0)
    golds = [text(draw, draw.randrange(200, 400)) for _ in range(items)]
    hard = {task: [draw.random() for _ in range(items)] for task in given.suite.tasks}
    for record, task, key in expected:
        if record.name in names:
            store(
                given,
                record,
                task,
                key,
                scorings[record.name],
                files[task],
                metrics,
                golds,
                hard[task],
            )


def store(
    given: Session,
    record: ModelRecord,
    task: str,
    key: str,
    scoring: Any,
    file: Any,
    metrics: Metrics,
    golds: list[str],
    hard: list[float],
) -> None:
    """Write one cell."""
    skill = 0.3 + 0.5 * random.Random(record.name).random()
    samples = [sample(task, i, record.name, skill, golds, hard) for i in range(len(golds))]
    stored = [s.values["score"] for s in samples]
    raw = metrics.raw(task, "score", stored)
    value, stderr = (
        (float(raw.scores(raw.whole[None])[0]), 0.015)
        if raw
        else (sum(stored) / len(stored), stats.stderr([stored], [list(range(len(stored)))]))
    )
    provenance = Provenance(
        created="2026-01-01T00:00:00Z",
        engine="hf",
        engine_version="5",
        device="cpu",
        device_kind="cpu",
        dtype=scoring.dtype,
        requests=len(samples),
        tokens_in=100_000,
        tokens_out=20_000,
        characters=400_000,
        seconds=60.0,
        engine_seconds=50.0,
    )
    given.store.write(
        TaskResult(
            status="ok",
            key=key,
            suite=NAME,
            model=record,
            task=task,
            task_version=file.version,
            task_fingerprint=file.fingerprint,
            scoring=scoring,
            scores={"score": Score(value=value, stderr=stderr)},
            samples=len(samples),
            health=text_counts.count_texts(samples) or (),
            provenance=provenance,
        ),
        samples,
    )


def measure(out: Path, folder: Path) -> dict[str, float]:
    """Wall and CPU seconds and peak resident memory (GiB) of one `lep-bench leaderboard`."""
    command = [
        str(Path(sys.executable).parent / "lep-bench"),
        "leaderboard",
        "--suite",
        NAME,
        "--out",
        str(out),
        "--configs",
        str(folder),
    ]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - begin
    if status:
        raise SystemExit(f"{' '.join(command)}: failed")
    return {
        "wall_s": wall,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_gib": used.ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = given.out or Path(scratch)
        out, folder = root / "runs", configs(root / "configs")
        if not (out / NAME / "results").is_dir():
            make(out, folder, given.models, given.items)
        size = sum(file.stat().st_size for file in (out / NAME / "samples").rglob("*.jsonl")) / 1e9
        runs = [measure(out, folder) for _ in range(given.repeats)]
    best = {name: min(run[name] for run in runs) for name in runs[0]}
    print(
        f"lep-bench leaderboard: {given.models} models x 17 tasks x {given.items} items, "
        f"{size:.2f} GB of samples"
    )
    print(f"{'':8} {'wall s':>8} {'CPU s':>8} {'peak GiB':>9}")
    for name, run in [*((f"run {i}", run) for i, run in enumerate(runs, 1)), ("best", best)]:
        print(f"{name:8} {run['wall_s']:8.1f} {run['cpu_s']:8.1f} {run['peak_gib']:9.2f}")
    for name, bar in BARS.items():
        print(
            f"{name}: {best[name]:.2f} {'<=' if best[name] <= bar else '>'} {bar:g}: "
            f"{'met' if best[name] <= bar else 'NOT MET'}"
        )
    record = {
        "cores": len(os.sched_getaffinity(0)),
        "models": given.models,
        "items": given.items,
        "samples_gb": round(size, 2),
    }
    record |= {"bars": BARS, "runs": runs}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "leaderboard.json").write_text(
        json.dumps(record, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
