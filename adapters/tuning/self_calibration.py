"""Self-calibration: a short tuning on the original instruct model's own answers and on copying."""

from typing import Any

from pydantic import Field

from lep_bench.plugin import Params, tuning


class SelfCalibrationParams(Params):
    answers: int = Field(13_531, ge=0, description="answers of the original instruct model")
    answer_tokens: int = Field(1024, gt=0, description="longest answer, in tokens")
    copies: int = Field(10_000, ge=0, description="texts to repeat")
    lora_rank: int = Field(8, gt=0)
    lora_alpha: float = Field(1.0, gt=0)
    learning_rate: float = Field(2.5e-5, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    batch: int = Field(64, gt=0)
    epochs: float = Field(1.0, gt=0)
    max_length: int = Field(8096, gt=1, description="tokens of prompt and answer")


@tuning("self-calibration")
def self_calibration(model: Any, params: SelfCalibrationParams) -> Any:
    """LoRA on the first and last layer, embeddings and head in full, on the original's own answers and copy tasks.

    Source: arXiv 2412.21140, self-calibration stage (the defaults are its numbers). There a 70B model grades the answers; here those
    that are empty, cut or over-long are left out.
    """
    from lep_bench.training.finetune import Recipe

    examples = (model.answers(params.answers, params.answer_tokens) if params.answers else []) + model.copies(params.copies)
    own = {"answers", "answer_tokens", "copies"}
    return model.finetune(examples, Recipe(layers="first-last", **params.model_dump(exclude=own)))
