"""Supervised tuning on chats: LoRA on chosen layers, embedding and head trained in full (arXiv
2412.21140).
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedTokenizerBase

from lep_bench.errors import CheckpointError, LepBenchError, TrainingDivergedError
from lep_bench.records.artifact import Artifact, Lep
from lep_bench.surgery.tokenizers import loading
from lep_bench.training import data
from lep_bench.training.loading import (
    IGNORED,
    Trainable,
    end_ids,
    learning_rate,
    load_trainable,
    make_optimizer,
    save_trained,
    summarise_losses,
    take_step,
)
from lep_bench.yamlfile import Frozen

_LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Example:
    """One exchange: user message and answer, as plain text."""

    prompt: str
    answer: str


class Recipe(Frozen):
    """How to tune. Defaults: the paper's self-calibration of 7-8B models. Lengths in tokens;
    `steps`, where given, takes the place of `epochs`."""

    lora_rank: int = Field(8, gt=0)
    lora_alpha: float = Field(1.0, gt=0)
    layers: Literal["first-last", "all"] = "first-last"
    # which of embedding and head are trained in full
    vocabulary: Literal["both", "head", "frozen"] = "both"
    learning_rate: float = Field(2.5e-5, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    warmup: int = Field(0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    batch: int = Field(64, gt=0)
    epochs: float = Field(1.0, gt=0)
    steps: int | None = Field(None, gt=0)
    max_length: int = Field(8096, gt=1)


Progress = Callable[[int, int, float], None]  # steps done, steps in all, loss of the last one


@dataclass(frozen=True)
class _Encoded:
    ids: list[int]
    answer: int  # where the answer begins; its last id is an end id


def finetune(
    start: Artifact,
    out: Path,
    examples: Sequence[Example],
    recipe: Recipe,
    *,
    lep: Lep,
    seed: int = 0,
    progress: Progress = lambda done, steps, loss: None,
    device: str = "cpu",
) -> Artifact:
    """Tune `start` (a patch or a whole instruct model) on `examples` and write a patch against its
    body.

    The chat template is that of the start's tokenizer; only answers have a loss, with the end of
    turn that follows them, so that the model learns to stop. LoRA (by peft) is merged; the patch
    holds every tensor whose hash differs from the body's, in the body's dtype. `seed` draws LoRA's
    start and the order of examples; the same seed gives the same bits. `lep.training` gets
    examples, tokens, steps, losses (nats per answer token), seconds; examples longer than
    `recipe.max_length` are left out, counted in `lep.notes`. Raises LepBenchError without usable
    examples, CheckpointError for a model without chat template or end ids.
    """
    began = time.monotonic()
    encoded, notes = encode_examples(start, examples, recipe.max_length)
    model = load_trainable(start, device)
    steps = recipe.steps or math.ceil(recipe.epochs * len(encoded) / recipe.batch)
    losses: list[float] = []
    # LoRA draws from the global generator: leave it as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = _with_lora(model, recipe)
    optimizer = make_optimizer(model.model.parameters(), recipe.weight_decay)
    model.model.train()
    tokens = 0
    for step, batch in enumerate(_batches(encoded, recipe.batch, steps, seed)):
        ids, labels = _padded(batch)
        tokens += sum(len(item.ids) for item in batch)
        rate = learning_rate(step, steps, recipe.learning_rate, recipe.warmup, recipe.schedule)
        losses.append(take_step(model, optimizer, ids, labels, rate))
        if not math.isfinite(losses[-1]):
            raise TrainingDivergedError(
                f"{lep.model}: the loss is not finite at step {step + 1} of {steps}: lower "
                "the learning rate"
            )
        progress(step + 1, steps, losses[-1])
    if wrapped is not None:
        model.model = wrapped.merge_and_unload()
    training: dict[str, Any] = {
        "examples": len(encoded),
        "tokens": tokens,
        **summarise_losses(losses),
        "recipe": recipe.model_dump(mode="json"),
        "seconds": round(time.monotonic() - began, 1),
    }
    return save_trained(
        model,
        out,
        lep.model_copy(
            update={"training": {**lep.training, **training}, "notes": (*lep.notes, *notes)}
        ),
    )


def encode_examples(
    start: Artifact, examples: Iterable[Example], max_length: int
) -> tuple[list[_Encoded], tuple[str, ...]]:
    """Examples as token ids under the start's chat template, and notes on its tokenizer and those
    left out. Raises as `finetune` does.
    """
    tokenizer, notes = loading.load_tokenizer(start.folder)
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"{start.folder} has no chat template: only instruct models can be tuned on chats"
        )
    ends = end_ids(start.folder) | (
        {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    )
    if not ends:
        raise CheckpointError(
            f"{start.folder} names no eos_token_id: a model tuned on it would never stop"
        )
    found = [_encode_one(tokenizer, example, ends) for example in examples]
    kept = [item for item in found if len(item.ids) <= max_length]
    if not kept:
        raise LepBenchError(
            f"{start.name}: no example of at most {max_length} tokens among {len(found)}: "
            "nothing to tune on"
        )
    left = len(found) - len(kept)
    return kept, (
        *notes,
        f"{left} of {len(found)} examples left out: longer than {max_length} tokens",
    ) if left else notes


def _encode_one(tokenizer: PreTrainedTokenizerBase, example: Example, ends: set[int]) -> _Encoded:
    messages = [{"role": "user", "content": example.prompt}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": example.answer}], tokenize=False
    )
    # a template that shows history otherwise: what the model is asked with counts
    if not whole.startswith(prompt):
        whole = prompt + example.answer
    asked: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    read = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = read["input_ids"]
    if ids[: len(asked)] == asked:
        answer = ids[len(asked) :]
    else:  # a token reaches over the border; asked, the model sees the prompt's own tokens, so these stand here too
        answer = [
            number
            for number, (begin, _) in zip(ids, read["offset_mapping"])
            if begin >= len(prompt)
        ]
    stop = next((place for place, number in enumerate(answer) if number in ends), None)
    answer = (
        [*answer, tokenizer.eos_token_id if tokenizer.eos_token_id in ends else min(ends)]
        if stop is None
        else answer[: stop + 1]
    )
    return _Encoded([*asked, *answer], len(asked))


def _with_lora(model: Trainable, recipe: Recipe) -> Any:
    """Put LoRA on every linear module of the chosen layers and say what else is trained; returns
    peft's wrapper.
    """
    from peft import LoraConfig, get_peft_model  # slow to import

    layers = model.model.config.num_hidden_layers
    chosen = set(range(layers)) if recipe.layers == "all" else {0, layers - 1}
    targets = [
        name
        for name, module in model.model.named_modules()
        if isinstance(module, nn.Linear)
        and (match := _LAYER.search(f".{name}."))
        and int(match[1]) in chosen
    ]
    wrapped = get_peft_model(
        model.model,
        LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=targets,
        ),
    )
    model.embedding.requires_grad_(recipe.vocabulary == "both")
    model.head.requires_grad_(recipe.vocabulary != "frozen")
    return wrapped


def _batches(
    encoded: Sequence[_Encoded], batch: int, steps: int, seed: int
) -> Iterable[list[_Encoded]]:
    """`steps` batches: every example once in a shuffled order, then again in another."""
    rng, order = random.Random(f"examples {seed}"), list[int]()
    for _ in range(steps):
        while len(order) < min(batch, len(encoded)):
            more = list(range(len(encoded)))
            rng.shuffle(more)
            order += more
        yield [encoded[number] for number in order[:batch]]
        del order[:batch]


def _padded(batch: Sequence[_Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels [B, T - 1], int64, padded on the right; only answers have labels."""
    length = max(len(item.ids) for item in batch) - 1
    ids, labels = (
        torch.zeros(len(batch), length, dtype=torch.int64),
        torch.full((len(batch), length), IGNORED),
    )
    # Longest first: the stretches of a step hold rows of like length.
    for row, item in enumerate(sorted(batch, key=lambda item: -len(item.ids))):
        ids[row, : len(item.ids) - 1] = torch.tensor(item.ids[:-1])
        labels[row, item.answer - 1 : len(item.ids) - 1] = torch.tensor(item.ids[item.answer :])
    return ids, labels


@dataclass
class Tunable:
    """`start` is the model to tune, `out` where the result goes, `answers_file` a JSONL of
    {"prompt", "answer"} (and "finished", false for an answer that was cut) by the ORIGINAL instruct
    model, `corpus` the family's. `notes` collects what was left out, for lep.json."""

    start: Artifact
    out: Path
    lep: Lep
    answers_file: Path | None = None
    corpus: str | tuple[str, ...] | None = None
    seed: int = 0
    progress: Callable[[int, int, float], None] = lambda done, steps, loss: None
    notes: list[str] = field(default_factory=list)

    def answers(self, n: int, max_tokens: int) -> list[Example]:
        """The first `n` prompts with the original instruct model's answers, sensible ones only.

        Left out: answers that are empty, that are longer than `max_tokens` of this model's tokens,
        or that were cut before their end; their counts go into `notes`. Raises LepBenchError
        without a file, or when nothing is left.
        """
        rows = self._rows()[:n]
        if len(rows) < n:
            raise LepBenchError(f"{self.answers_file}: {len(rows)} answers, {n} asked for")
        # `finetune` reports what had to be done to it
        tokenizer, _ = loading.load_tokenizer(self.start.folder)
        lengths = (
            [
                len(ids)
                for ids in tokenizer(
                    [str(row["answer"]) for row in rows], add_special_tokens=False
                )["input_ids"]
            ]
            if rows
            else []
        )
        left, kept = {"empty": 0, "not finished": 0, f"over {max_tokens} tokens": 0}, []
        for row, length in zip(rows, lengths, strict=True):
            why = (
                "empty"
                if not row["answer"].strip()
                else "not finished"
                if not row.get("finished", True)
                else None
            )
            why = why or (f"over {max_tokens} tokens" if length > max_tokens else None)
            if why:
                left[why] += 1
            else:
                kept.append(Example(row["prompt"], row["answer"]))
        if rows and not kept:
            raise LepBenchError(
                f"{self.answers_file}: none of {len(rows)} answers is usable: {_counts(left)}"
            )
        self.notes.append(
            f"{len(kept)} of {n} answers of the original instruct model"
            + (f"; left out: {_counts(left)}" if len(kept) < n else "")
        )
        return kept

    def copies(self, n: int) -> list[Example]:
        """`n` copy exercises from the family's corpus."""
        self.notes.append(f"{n} texts to repeat")
        return (
            [Example(prompt, answer) for prompt, answer in data.copy_prompts(self.corpus, n)]
            if n
            else []
        )

    def examples(self, file: str | Path) -> list[Example]:
        """All rows {"prompt", "answer"} of a JSONL file of yours."""
        return [
            Example(row["prompt"], row["answer"]) for row in read_jsonl(Path(file).expanduser())
        ]

    def finetune(self, examples: Sequence[Example], recipe: Recipe) -> Artifact:
        """Tune `start` on `examples` (see `lep_bench.training.finetune.finetune`); what an adapter
        gives back.
        """
        lep = self.lep.model_copy(update={"notes": (*self.lep.notes, *self.notes)})
        return finetune(
            self.start, self.out, examples, recipe, lep=lep, seed=self.seed, progress=self.progress
        )

    def _rows(self) -> list[dict[str, str]]:
        if self.answers_file is None:
            raise LepBenchError(
                f"{self.lep.model}: no answers of the original instruct model: the tuning's "
                "params need `answers` above 0"
            )
        return read_jsonl(self.answers_file)


def read_jsonl(file: Path) -> list[dict[str, str]]:
    """Rows with "prompt" and "answer". Raises LepBenchError (file:line) for anything else."""
    try:
        with open(file, encoding="utf-8") as opened:
            # not splitlines(): an answer may hold U+2028, which ends no line of the file
            lines = list(opened)
    except (OSError, UnicodeDecodeError) as error:
        raise LepBenchError(f"{file} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row["prompt"], str) or not isinstance(row["answer"], str):
                raise TypeError
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise LepBenchError(
                f'{file}:{number}: {{"prompt": text, "answer": text}} is expected'
            ) from error
        rows.append(row)
    return rows


def _counts(left: dict[str, int]) -> str:
    parts: Iterable[str] = (f"{count} {why}" for why, count in left.items() if count)
    return ", ".join(parts)
