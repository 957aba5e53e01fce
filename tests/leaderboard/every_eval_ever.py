"""The part of Every Eval Ever's eval.schema.json, version 0.2.1, that a record of ours can hold:
required fields, types, closed sets.

The schema closes its top level and `generation_args`; everywhere else it allows more keys, so a key
that is unknown here is a slip of ours.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Details = dict[str, str]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Identity(Strict):
    content_hash: str = Field(pattern=r"^[a-fA-F0-9]+$")
    hash_algorithm: Literal["sha256", "sha512", "blake3", "other"]


class Organisation(Strict):
    source_name: str
    source_type: Literal["documentation", "evaluation_run"]
    source_organization_name: str
    evaluator_relationship: Literal["first_party", "third_party", "collaborative", "other"]


class Engine(Strict):
    name: str
    version: str


class ModelInfo(Strict):
    name: str
    id: str = Field(pattern=r"^[^/\s]+/[^/\s]+$")
    developer: str
    inference_engine: Engine
    additional_details: Details


class Library(Strict):
    name: str
    version: str
    additional_details: Details


class Hosted(Strict):
    dataset_name: str
    source_type: Literal["hf_dataset"]
    hf_repo: str
    samples_number: int
    additional_details: Details


class Private(Strict):
    dataset_name: str
    source_type: Literal["other"]
    additional_details: Details


class Metric(Strict):
    evaluation_description: str
    lower_is_better: bool
    score_type: Literal["continuous"]
    min_score: Number
    max_score: Number


class Error(Strict):
    value: Number
    method: str


class Uncertainty(Strict):
    standard_error: Error | None = None
    num_samples: int


class ScoreDetails(Strict):
    score: Number
    uncertainty: Uncertainty


class Arguments(Strict):
    execution_command: str


class Generation(Strict):
    generation_args: Arguments
    additional_details: Details


class Evaluation(Strict):
    evaluation_name: str
    source_data: Hosted | Private
    evaluation_timestamp: str
    metric_config: Metric
    score_details: ScoreDetails
    generation_config: Generation


class Record(Strict):
    schema_version: Literal["0.2.1"]
    evaluation_id: str
    evaluation_timestamp: str
    retrieved_timestamp: str = Field(pattern=r"^\d+$")
    dedupe_identity: Identity
    source_metadata: Organisation
    model_info: ModelInfo
    eval_library: Library
    evaluation_results: list[Evaluation] = Field(min_length=1)
