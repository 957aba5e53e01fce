"""Supervised tuning on chats: LoRA on some layers, full embedding and head (arXiv 2412.21140)."""

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
    """A user message and its answer, as plain text."""

    prompt: str
    answer: str


class Recipe(Frozen):
    """Settings of a tuning. The defaults are those of the paper's self-calibration of 7-8B models.

    layers: which layers get LoRA. vocabulary: which of embedding and head are trained in full.
    warmup: in steps. batch: in examples. steps: replaces `epochs` if set. max_length: in tokens.
    """

    lora_rank: int = Field(8, gt=0)
    lora_alpha: float = Field(1.0, gt=0)
    layers: Literal["first-last", "all"] = "first-last"
    vocabulary: Literal["both", "head", "frozen"] = "both"
    learning_rate: float = Field(2.5e-5, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    warmup: int = Field(0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    batch: int = Field(64, gt=0)
    epochs: float = Field(1.0, gt=0)
    steps: int | None = Field(None, gt=0)
    max_length: int = Field(8096, gt=1)


Progress = Callable[[int, int, float], None]  # steps done, total steps, loss of the last step


@dataclass(frozen=True)
class _Encoded:
    ids: list[int]
    answer: int  # index of the first answer id; the last id is an end id


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
    """Tune `start` (a patch or a whole instruct model) on `examples`, and write a patch against its
    body.

    The chat template is that of the start's tokenizer. Only answers have a loss. Each includes the
    end-of-turn token, so that the model learns to stop. LoRA (by peft) is merged. The patch holds
    every tensor whose hash differs from the body's, in the body's dtype. `seed` initialises LoRA
    and orders the examples; the same seed gives the same bits. Examples longer than
    `recipe.max_length` are left out and counted in `lep.notes`. `lep.training` gets examples,
    tokens, steps, losses (nats per answer token) and seconds. Raises LepBenchError if no example is
    usable, CheckpointError for a model without chat template or end ids.
    """
    start_time = time.monotonic()
    encoded, notes = encode_examples(start, examples, recipe.max_length)
    model = load_trainable(start, device)
    steps = recipe.steps or math.ceil(recipe.epochs * len(encoded) / recipe.batch)
    losses: list[float] = []
    # LoRA draws from the global generator, which must not change.
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
        "seconds": round(time.monotonic() - start_time, 1),
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
    """Examples as token ids in the start's chat template, and notes on its tokenizer and on
    examples that are left out. Raises as `finetune` does.
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
    encoded = [_encode_example(tokenizer, example, ends) for example in examples]
    kept = [item for item in encoded if len(item.ids) <= max_length]
    if not kept:
        raise LepBenchError(
            f"{start.name}: there is nothing to tune on, because none of {len(encoded)} examples "
            f"has at most {max_length} tokens"
        )
    dropped = len(encoded) - len(kept)
    if dropped:
        notes += (
            f"{dropped} of {len(encoded)} examples left out: longer than {max_length} tokens",
        )
    return kept, notes


def _encode_example(
    tokenizer: PreTrainedTokenizerBase, example: Example, ends: set[int]
) -> _Encoded:
    messages = [{"role": "user", "content": example.prompt}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    full = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": example.answer}], tokenize=False
    )
    # Some templates render history differently. The prompt counts that the model will see.
    if not full.startswith(prompt):
        full = prompt + example.answer
    prompt_ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    encoding = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoding["input_ids"]
    if ids[: len(prompt_ids)] == prompt_ids:
        answer = ids[len(prompt_ids) :]
    else:
        # A token spans prompt and answer. At inference the model sees the prompt's own tokens, so
        # they are used here too.
        answer = [
            number
            for number, (begin, _) in zip(ids, encoding["offset_mapping"])
            if begin >= len(prompt)
        ]
    stop = next((place for place, number in enumerate(answer) if number in ends), None)
    answer = (
        [*answer, tokenizer.eos_token_id if tokenizer.eos_token_id in ends else min(ends)]
        if stop is None
        else answer[: stop + 1]
    )
    return _Encoded([*prompt_ids, *answer], len(prompt_ids))


def _with_lora(model: Trainable, recipe: Recipe) -> Any:
    """Put LoRA on every linear module of the recipe's layers, and choose whether embedding and head
    are trained. Returns peft's wrapper.
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
    """`steps` batches: all examples in a shuffled order, then again in another order."""
    rng, order = random.Random(f"examples {seed}"), list[int]()
    for _ in range(steps):
        while len(order) < min(batch, len(encoded)):
            shuffled = list(range(len(encoded)))
            rng.shuffle(shuffled)
            order += shuffled
        yield [encoded[number] for number in order[:batch]]
        del order[:batch]


def _padded(batch: Sequence[_Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels [B, T - 1], int64, padded on the right. Only answers have labels."""
    length = max(len(item.ids) for item in batch) - 1
    ids, labels = (
        torch.zeros(len(batch), length, dtype=torch.int64),
        torch.full((len(batch), length), IGNORED),
    )
    # Longest first, so that each chunk of a step holds rows of similar length.
    for row, item in enumerate(sorted(batch, key=lambda item: -len(item.ids))):
        ids[row, : len(item.ids) - 1] = torch.tensor(item.ids[:-1])
        labels[row, item.answer - 1 : len(item.ids) - 1] = torch.tensor(item.ids[item.answer :])
    return ids, labels


@dataclass
class Tunable:
    """The input of a tuning adapter.

    start: the model to tune. out: the folder of the result. answers_file: JSONL of {"prompt",
    "answer", "finished"} by the ORIGINAL instruct model, "finished" false for an answer that was
    cut off. corpus: the family's. notes: what was left out, for lep.json.
    """

    start: Artifact
    out: Path
    lep: Lep
    answers_file: Path | None = None
    corpus: str | tuple[str, ...] | None = None
    seed: int = 0
    progress: Callable[[int, int, float], None] = lambda done, steps, loss: None
    notes: list[str] = field(default_factory=list)

    def answers(self, n: int, max_tokens: int) -> list[Example]:
        """The usable ones of the original instruct model's first `n` answers, with their prompts.

        Answers are left out, and counted in `notes`, if they are empty, cut off, or longer than
        `max_tokens` of this model's tokens. Raises LepBenchError if there is no file, or if no
        answer is usable.
        """
        rows = self._read_answers()[:n]
        if len(rows) < n:
            raise LepBenchError(f"{self.answers_file}: has {len(rows)} answers, {n} are needed")
        tokenizer, _ = loading.load_tokenizer(self.start.folder)  # `finetune` reports its notes
        texts = [str(row["answer"]) for row in rows]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        too_long = f"over {max_tokens} tokens"
        dropped, examples = {"empty": 0, "not finished": 0, too_long: 0}, []
        for row, length in zip(rows, map(len, ids), strict=True):
            if not row["answer"].strip():
                dropped["empty"] += 1
            elif not row.get("finished", True):
                dropped["not finished"] += 1
            elif length > max_tokens:
                dropped[too_long] += 1
            else:
                examples.append(Example(row["prompt"], row["answer"]))
        if rows and not examples:
            raise LepBenchError(
                f"{self.answers_file}: none of {len(rows)} answers is usable: "
                f"{_list_counts(dropped)}"
            )
        self.notes.append(
            f"{len(examples)} of {n} answers of the original instruct model"
            + (f"; left out: {_list_counts(dropped)}" if len(examples) < n else "")
        )
        return examples

    def copies(self, n: int) -> list[Example]:
        """`n` copy exercises from the family's corpus."""
        self.notes.append(f"{n} texts to repeat")
        if not n:
            return []
        return [Example(prompt, answer) for prompt, answer in data.copy_prompts(self.corpus, n)]

    def examples(self, file: str | Path) -> list[Example]:
        """All rows of your own JSONL file of {"prompt", "answer"}."""
        return [
            Example(row["prompt"], row["answer"]) for row in read_jsonl(Path(file).expanduser())
        ]

    def finetune(self, examples: Sequence[Example], recipe: Recipe) -> Artifact:
        """Tune `start` on `examples` (see `lep_bench.training.finetune.finetune`). A tuning adapter
        returns the result.
        """
        lep = self.lep.model_copy(update={"notes": (*self.lep.notes, *self.notes)})
        return finetune(
            self.start, self.out, examples, recipe, lep=lep, seed=self.seed, progress=self.progress
        )

    def _read_answers(self) -> list[dict[str, str]]:
        if self.answers_file is None:
            raise LepBenchError(
                f"{self.lep.model} has no answers of the original instruct model: set `answers` "
                "in the tuning's params above 0"
            )
        return read_jsonl(self.answers_file)


def read_jsonl(file: Path) -> list[dict[str, str]]:
    """Rows with "prompt" and "answer". Raises LepBenchError (file:line) for anything else."""
    try:
        with open(file, encoding="utf-8") as stream:
            # Not splitlines(): an answer may hold U+2028, which ends no line of the file.
            lines = list(stream)
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


def _list_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
