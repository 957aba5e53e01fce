"""What one scored cell (model x task) looks like on disk, and its samples. Pure data: pydantic
only.
"""

from __future__ import annotations

from typing import Any, Literal

from lep_bench.errors import LepBenchError
from lep_bench.files import digest
from lep_bench.yamlfile import Frozen

SCHEMA_VERSION = 1
Stage = Literal[
    "base", "instruct", "init", "instruct-init", "donor", "propagation", "baseline", "local"
]


class Scoring(Frozen):
    """Everything outside model and task that changes the number."""

    protocol: str = "mini"
    shots: int = 0
    format: Literal["plain", "chat"] = "plain"
    dtype: str = "float32"
    max_length: int = 0  # 0: the model's own
    limit: int | None = None
    seed: int = 0  # of sampled requests; greedy scoring does not use it
    conversation: str = ""  # a listed format (protocol paper); empty: format says it all
    samplings: int = 1  # how often sampled answers are asked for, with seeds 0, 1, ...
    metadata: dict[str, Any] = {}  # what the suite passes on to its tasks

    def passed_on(self) -> dict[str, Any]:
        """What tasks are told: the suite's metadata, protocol, seed of sampling, and a listed
        conversation format where there is one.
        """
        return {
            **self.metadata,
            "protocol": self.protocol,
            "sampling_seed": self.seed,
            **({"conversation": self.conversation} if self.conversation else {}),
        }


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
    """A metric's value and its standard error (clustered by group where the task names groups);
    None where unknown.

    Of sampled answers the value is the mean over `samplings` seeds, `spread` the standard deviation
    (n - 1) over them."""

    value: float
    stderr: float | None = None
    spread: float | None = None
    samplings: int = 1


class Machine(Frozen):
    """What numbers come from: two that differ here differ in their last digits, and in their
    timings.
    """

    engine: str
    version: str
    device: str  # its kind: cpu, or the name of the GPU
    dtype: str


class Provenance(Frozen):
    """Where and how a result came about. Recorded, never part of a key.

    `seconds` are the whole cell's, prompts included; `engine_seconds` those in which the engine
    answered. With answers `from_store` (of `requests` + `from_store`) the work below is that of the
    others only.
    """

    created: str
    git_commit: str | None = None
    git_dirty: bool | None = None
    packages: dict[str, str] = {}
    engine: str
    engine_version: str = ""
    device: str
    device_kind: str = ""
    dtype: str
    hardware: dict[str, Any] = {}
    seconds: float = 0.0
    engine_seconds: float = 0.0
    requests: int = 0
    from_store: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    characters: int = 0  # of the requests' texts
    # bytes, while the engine answered: of the process, on a GPU of what torch held there; 0: not
    # known
    peak_memory: int = 0
    # what had to be done to read the model, and counts: prompts cut, shots dropped, rows left out
    notes: tuple[str, ...] = ()

    @property
    def machine(self) -> Machine:
        """What the numbers come from; version and device kind are empty in results of earlier
        versions of lep-bench.
        """
        return Machine(
            engine=self.engine,
            version=self.engine_version,
            device=self.device_kind,
            dtype=self.dtype,
        )


class TaskResult(Frozen):
    """One cell. `scores[primary]` is the number a table shows; a failed cell has `error` and no
    scores.

    `samples_digest` is that of the samples file's bytes, `seal` that of everything else here (see
    `sealed`): they tell what was changed by mistake or by an editor, not who means to deceive. Both
    are None in results of earlier versions."""

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
    # `generated.Counts` of the texts, empty where nothing was generated; None in earlier versions
    health: tuple[int, ...] | None = None
    provenance: Provenance
    samples_digest: str | None = None
    seal: str | None = None


CHANGED = "changed since the run wrote it"  # stands in the reason of a cell that is left out


class EditedError(LepBenchError):
    """Samples are not those that their result was written with."""


def seal_result(result: TaskResult) -> TaskResult:
    """The same result with its seal."""
    return result.model_copy(update={"seal": _compute_seal(result)})


def is_sealed(result: TaskResult) -> bool:
    """Whether the seal fits; a result of an earlier version has none, and passes."""
    return result.seal is None or result.seal == _compute_seal(result)


def fail_result(result: TaskResult, reason: str) -> TaskResult:
    """The result as one that failed: no score of it is shown. Its seal does not fit any more."""
    return result.model_copy(update={"status": "failed", "error": reason, "scores": {}})


def _compute_seal(result: TaskResult) -> str:
    # Without defaults: a field that a later version adds must not break the seals of today. A
    # default may never change, then.
    return digest(result.model_dump(mode="json", exclude={"seal"}, exclude_defaults=True))


class Sample(Frozen):
    """One item of a cell: enough to recompute every score and to run paired tests without the
    model.

    `values` holds per metric what the task's aggregation consumes (a number, or a pair such as
    (gold, prediction) or (variant, points)), averaged over samplings; with several samplings
    `values["samplings"]` has each one's metrics, text and number of tokens. `prompt_ids` is the
    hash of the very ids that the engine read, `shots` counts those in the prompt, `cut` says that
    its left end was cut off.
    """

    doc_id: int
    doc_hash: str
    group: str
    gold: str
    prediction: str
    values: dict[str, Any]
    prompt_ids: str
    shots: int = 0
    cut: bool = False


class Noise(Frozen):
    """How far one machine's answers depend on the batches they were computed in: the same `items`
    of an option task asked twice.

    `flipped` chose another option the second time; `largest` is the largest difference of a
    log-probability (nats)."""

    machine: Machine
    model: str
    task: str
    items: int
    flipped: int
    largest: float
