"""Results and samples as pandas DataFrames. Later versions add columns and rename none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lep_bench.records.schema import Sample, TaskResult

if TYPE_CHECKING:
    import pandas as pd

STRING, INTEGER, FLOAT, TRUTH, OBJECT = "string", "Int64", "float64", "boolean", "object"
MODEL = {
    "model": STRING,  # its name, the way through the pipeline
    "family": STRING,  # NA: a baseline, or a checkpoint of your own
    "vocabulary": STRING,  # NA: the model keeps the old one
    "propagation": STRING,  # the method; NA: none
    "tuning": STRING,  # the method; NA: none
    "seed": INTEGER,  # of training
}
CONDITION = {
    "protocol": STRING,  # the rules by which the model was asked
    "shots": INTEGER,  # solved examples before the question
    "format": STRING,  # plain or chat
    "engine": STRING,  # hf, vllm or api
    "device": STRING,  # cpu, or the name of the GPU
    "dtype": STRING,  # number format of the weights
    "template_args": STRING,  # arguments of the chat template, as JSON; NA: none
}
RESULTS = {
    **MODEL,
    **CONDITION,
    "conversation": STRING,  # the listed format of protocol paper; NA: format says it all
    "task": STRING,  # the task's name
    "task_version": STRING,  # the version that the task's YAML names
    "metric": STRING,  # one row for each metric of the task
    "score": FLOAT,  # NaN unless status is ok
    "stderr": FLOAT,  # in the score's unit, clustered by group; NaN: not known
    "spread": FLOAT,  # standard deviation over samplings; NaN: not sampled twice
    "samples": INTEGER,  # items that were asked
    "limit": INTEGER,  # the first so many rows only; NA: all
    "status": STRING,  # ok, failed, unanswered
    "reason": STRING,  # why there is no score
    "stale": TRUTH,  # of another version of its task than the newest result of that task
    "thought_characters": INTEGER,  # characters of thoughts before the answers; NA: not counted
    "unfinished_thoughts": INTEGER,  # items whose thoughts did not end; NA: not counted
    "seconds": FLOAT,  # of the whole cell
    "tokens_in": INTEGER,  # tokens that the engine read; stored answers are left out
    "tokens_out": INTEGER,  # tokens that the engine wrote; stored answers are left out
    "fingerprint": STRING,  # of everything that determines the model
    "lineage": OBJECT,  # tuple of names: what the model was made from, nearest first
    "plugins": OBJECT,  # tuple of (name, version, hash); None: not recorded
}
SAMPLES = {
    **MODEL,
    **CONDITION,
    "task": STRING,  # the task's name
    "doc_id": INTEGER,  # the row's number in the task's data
    "doc_hash": STRING,  # hash of the row
    "group": STRING,  # items of one group count as one draw
    "gold": STRING,  # the right answer
    "prediction": STRING,  # the model's answer
    "metric": STRING,  # the task's primary one
    "score": FLOAT,  # the item's; NaN where the metric takes no number of an item
    "values": OBJECT,  # dict: per metric what the task's aggregation takes
    "prompt_ids": STRING,  # hash of the token ids that the engine read
    "cut": TRUTH,  # the prompt's left end was cut off
}


def make_results_frame(results: Iterable[tuple[TaskResult, bool]]) -> pd.DataFrame:
    """One row per result and metric, of pairs (result, stale). A failed result has one row, under
    its primary metric. Columns and dtypes: `RESULTS`.
    """
    rows = []
    for result, stale in results:
        work = result.provenance
        row = {
            **_describe(result),
            "conversation": result.scoring.conversation or None,
            "task_version": result.task_version,
            "samples": result.samples,
            "limit": result.scoring.limit,
            "stale": stale,
            "seconds": work.seconds,
            "tokens_in": work.tokens_in,
            "tokens_out": work.tokens_out,
            "fingerprint": result.model.fingerprint,
            "lineage": result.model.lineage,
            "plugins": None,
        }
        if result.status == "failed":
            reason = result.error or "no reason recorded"
            rows.append({**row, "metric": result.primary, "status": "failed", "reason": reason})
            continue
        for metric, score in result.scores.items():
            known = math.isfinite(score.value)
            rows.append(
                {
                    **row,
                    "metric": metric,
                    "score": score.value if known else None,
                    "stderr": score.stderr if known else None,
                    "spread": score.spread if known else None,
                    "status": "ok" if known else "failed",
                    "reason": None if known else f"the score is {score.value}",
                }
            )
    return _frame(rows, RESULTS)


def make_samples_frame(cells: Iterable[tuple[TaskResult, Iterable[Sample]]]) -> pd.DataFrame:
    """One row per item of each cell, in the order in which the task asks them. Columns and dtypes:
    `SAMPLES`.
    """
    rows = []
    for result, samples in cells:
        cell = _describe(result)
        for sample in samples:
            value = sample.values.get(result.primary)
            rows.append(
                {
                    **cell,
                    "doc_id": sample.doc_id,
                    "doc_hash": sample.doc_hash,
                    "group": sample.group,
                    "gold": sample.gold,
                    "prediction": sample.prediction,
                    "metric": result.primary,
                    "score": float(value) if isinstance(value, int | float) else None,
                    "values": sample.values,
                    "prompt_ids": sample.prompt_ids,
                    "cut": sample.cut,
                    "shots": sample.shots,
                }
            )
    return _frame(rows, SAMPLES)


def _describe(result: TaskResult) -> dict[str, Any]:
    """Model, condition and task."""
    model, scoring, work = result.model, result.scoring, result.provenance
    return {
        "model": model.name,
        "family": model.family,
        "vocabulary": model.vocabulary,
        "propagation": model.propagation,
        "tuning": model.tuning,
        "seed": model.seed,
        "protocol": scoring.protocol,
        "shots": scoring.shots,
        "format": scoring.format,
        "engine": work.engine,
        "device": work.device_kind or work.device,
        "dtype": scoring.dtype,
        "task": result.task,
    }


def _frame(rows: list[dict[str, Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd

    columns = {
        name: pd.Series([row.get(name) for row in rows], dtype=dtype)
        for name, dtype in dtypes.items()
    }
    return pd.DataFrame(columns)
