"""Stored results of the suite `paper` under real names: scores chosen by the test, through the real
store.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

from lep_bench import files
from lep_bench.config.load import Configs
from lep_bench.leaderboard import ledger, paper
from lep_bench.leaderboard.cells import Metrics
from lep_bench.leaderboard.examine import examine_results
from lep_bench.pipeline.plan import choose_scoring
from lep_bench.records.schema import ModelRecord, Provenance, Sample, Score, TaskResult
from lep_bench.records.store import Store

FOLDER = files.shipped_folder("leaderboards") / "paper"
SUITE = Configs.of().suite("paper")
HERE = {c.model: c for c in paper.counterparts(FOLDER).values() if c.model}
ROWS = paper.items(FOLDER)
STAGES = {"base": "base", "instruct": "instruct", "donor": "donor"}
PAIRS = {"darumeru_rcb", "darumeru_ruopenbookqa", "darumeru_ruworldtree", "darumeru_rucola"}
BY_CATEGORY = {"darumeru_mmlu_ru", "darumeru_mmlu_en"}


def record(name: str, lineage: tuple[str, ...] | None = None, seed: int = 0) -> ModelRecord:
    """The model of that name, made of the paper's own checkpoints unless the test says
    otherwise.
    """
    family, _, rest = name.partition("/")
    lineage = HERE[name].made_of if lineage is None else lineage
    if family == "baselines":
        return ModelRecord(name=name, stage="baseline", fingerprint="f", lineage=lineage)
    vocabulary, _, method = rest.partition("/")
    stage = STAGES.get(method or rest, "propagation")
    way = {
        "vocabulary": vocabulary if method else None,
        "propagation": method if stage == "propagation" else None,
    }
    return ModelRecord(
        name=name,
        family=family,
        stage=stage,
        fingerprint=f"f{seed}",
        lineage=lineage,
        seed=seed,
        **way,
    )


def write(
    store: Store,
    model: ModelRecord,
    task: str,
    score: float,
    *,
    sd: float = 0.02,
    items: int | None = None,
    created: str = "2025",
    version: str = "v1",
    symbols: tuple[float, float] | None = None,
    spread: float | None = None,
    **asked: object,
) -> TaskResult:
    """One cell: half of the items lie `sd` above `score`, half below; `asked`: fields of the
    scoring in place of the suite's own.
    """
    scoring = choose_scoring(
        SUITE, ledger._spec(model), ledger._family(model.family) if model.family else None
    )[1].model_copy(update=asked)
    values = [score + (sd if i % 2 else -sd) for i in range(items or ROWS.get(task, 100))]
    drawn = {} if spread is None else {"spread": spread, "samplings": 5}
    return keep(
        store,
        model,
        task,
        values,
        sum(values) / len(values),
        scoring,
        created,
        version,
        symbols,
        drawn,
    )


def keep(
    store,
    model,
    task,
    values,
    score,
    scoring,
    created="2025",
    version="v1",
    symbols=None,
    drawn=None,
) -> TaskResult:
    scores = {"score": Score(value=score, stderr=0.01, **(drawn or {}))}
    if symbols:
        scores["symbols_per_token"] = Score(value=symbols[0], stderr=symbols[1])
    result = TaskResult(
        status="ok",
        key=f"{zlib.crc32(repr((model.seed, scoring, version, model.lineage)).encode()):08x}",
        suite="paper",
        model=model,
        task=task,
        task_version="1",
        task_fingerprint=version,
        scoring=scoring,
        scores=scores,
        samples=len(values),
        provenance=Provenance(created=created, engine="hf", device="cuda:0", dtype="bfloat16"),
    )
    store.write(
        result,
        [
            Sample(
                doc_id=i,
                doc_hash=f"{task}-{i}",
                group=str(i),
                gold="x",
                prediction="y",
                values={"score": v},
                prompt_ids="0" * 16,
            )
            for i, v in enumerate(values)
        ],
    )
    return result


def whole(store: Store, model: ModelRecord, right: float = 0.55) -> None:
    """All 17 tasks with values of the kind that each task stores: numbers, (gold, prediction),
    (subject, right), (points, variant).
    """
    metrics = Metrics.of(SUITE.tasks)
    scoring = choose_scoring(
        SUITE, ledger._spec(model), ledger._family(model.family) if model.family else None
    )[1]
    for task in SUITE.tasks:
        hits = [
            math.floor((i + 1) * right) > math.floor(i * right)
            for i in range(min(ROWS.get(task, 100), 1000))
        ]
        values: list = [float(hit) for hit in hits]
        if task in PAIRS:
            values = [[str(i % 2), str(i % 2 if hit else 1 - i % 2)] for i, hit in enumerate(hits)]
        elif task in BY_CATEGORY:
            values = [
                ["anatomy" if i % 2 else "philosophy", float(hit)] for i, hit in enumerate(hits)
            ]
        elif task == "darumeru_use":
            values = [[float(hit), i // 30] for i, hit in enumerate(hits)]
        aggregate = metrics.aggregations.get(task, {}).get("score")
        keep(
            store,
            model,
            task,
            values,
            aggregate(values) if aggregate else sum(values) / len(values),
            scoring,
        )


def rows(out: Path) -> dict[str, ledger.LedgerEntry]:
    """The entries by `Quoted.name()`, from everything in the store."""
    store = Store(out)
    chosen = ledger.sorted_out(store.read_all("paper"), SUITE, FOLDER)
    found = ledger.list_entries(
        FOLDER, SUITE, *examine_results(chosen, store.skim, Metrics.of(SUITE.tasks))
    )
    return {entry.row.name(): entry for entry in found}


def figure(out: Path, row: str, name: str) -> ledger.Figure:
    """One figure of one row."""
    return next(f for f in rows(out)[row].figures if f.name == name)
