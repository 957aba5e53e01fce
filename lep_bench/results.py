"""What one scored cell (model x task) looks like on disk, and its samples. Pure data: pydantic only."""

from __future__ import annotations

from typing import Any, Literal

from lep_bench.yamlfile import Frozen

SCHEMA_VERSION = 1
Stage = Literal["base", "instruct", "init", "instruct-init", "donor", "propagation", "baseline", "local"]


class Scoring(Frozen):
    """Everything outside model and task that changes the number."""

    protocol: str = "mini"
    shots: int = 0
    format: Literal["plain", "chat"] = "plain"
    dtype: str = "float32"
    max_length: int = 0  # 0: the model's own
    limit: int | None = None
    seed: int = 0  # of sampled requests; greedy scoring does not use it


class ModelRecord(Frozen):
    """Which model a result belongs to: its name, way through the pipeline and fingerprint."""

    name: str
    family: str | None = None
    vocabulary: str | None = None
    stage: Stage
    propagation: str | None = None
    tuning: str | None = None
    variant: str | None = None
    seed: int = 0  # of training
    fingerprint: str
    lineage: tuple[str, ...] = ()


class Score(Frozen):
    """A metric's value and its standard error (clustered by group where the task names groups); None where unknown."""

    value: float
    stderr: float | None = None


class Provenance(Frozen):
    """Where and how a result came about. Recorded, never part of a key."""

    created: str
    git_commit: str | None = None
    git_dirty: bool | None = None
    packages: dict[str, str] = {}
    engine: str
    device: str
    dtype: str
    hardware: dict[str, Any] = {}
    seconds: float = 0.0
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    characters: int = 0
    notes: tuple[str, ...] = ()  # what had to be done to read the model, e.g. its tokenizer


class TaskResult(Frozen):
    """One cell. `scores[primary]` is the number a table shows; a failed cell has `error` and no scores."""

    schema_version: int = SCHEMA_VERSION
    status: Literal["ok", "failed"]
    error: str | None = None
    key: str
    suite: str
    model: ModelRecord
    task: str
    task_version: str
    task_fingerprint: str
    scoring: Scoring
    scores: dict[str, Score] = {}
    primary: str = "score"
    higher_is_better: bool = True
    samples: int = 0
    provenance: Provenance


class Sample(Frozen):
    """One item of a cell: enough to recompute every score and to run paired tests without the model."""

    doc_id: int
    doc_hash: str
    group: str
    gold: str
    prediction: str
    values: dict[str, Any]
    prompt_ids: str
    shots: int = 0
