"""Train a family from nothing: tokenizer, base model, instruct model.

    python -m benchmarks.mini.train mini-llama --out DIR [--seed N]

Three phases: (1) repeated random tokens, which make the copying head; (2) the micro-world's plain
text: the base model; (3) chats, with some plain text against forgetting: the instruct model, all of
whose weights are tuned. One thread gives the same bits on every repeat on one machine.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedModel

from . import batches, vocab
from .families import FAMILIES, Family, shortened
from .model import config_of, new_model, widened
from .optimizers import Optimizers

Log = Callable[[str], None]


def _rate(step: int, steps: int, peak: float, warmup: int = 40) -> float:
    """Linear warm-up, then a cosine down to 3% of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))


def run_phase(
    model: PreTrainedModel,
    rows: Iterator[batches.Document],
    steps: int,
    peak: float,
    batch: int,
    name: str,
    log: Log,
) -> None:
    """`steps` optimiser steps on `batch` rows each; logs the mean loss (nats per labelled token)
    every 100 steps.
    """
    optimizer = Optimizers(model)
    model.train()
    started, losses = time.monotonic(), []
    for step in range(steps):
        rate = _rate(step, steps, peak)
        ids, labels = batches.batch_of(rows, batch)
        kept = labels[:, 1:] != batches.IGNORED
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][kept]
        loss = cross_entropy(model.lm_head(hidden), labels[:, 1:][kept])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(rate)
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            mean = sum(losses[-100:]) / len(losses[-100:])
            log(f"{name} {step + 1}/{steps} loss {mean:.3f} {time.monotonic() - started:.0f} s")


def train_base(family: Family, tokenizer: Tokenizer, seed: int, log: Log) -> PreTrainedModel:
    recipe, names = family.recipe, vocab.special_names(family.kind, instruct=False)
    bos, eos, pad = (
        tokenizer.token_to_id(names[name]) for name in ("bos_token", "eos_token", "pad_token")
    )
    model = new_model(family, config_of(family, tokenizer.get_vocab_size(), bos, eos, pad), seed)
    ordinary = range(1000) if family.kind == "llama" else range(259, tokenizer.get_vocab_size())
    rng = random.Random(f"{family.name} base {seed}")
    repeated = batches.repeated_rows(ordinary, bos, recipe.length, rng)
    run_phase(
        model,
        repeated,
        recipe.copying_steps,
        recipe.copying_lr,
        recipe.batch,
        f"{family.name} copying",
        log,
    )
    documents = batches.plain_documents(tokenizer, eos, rng, recipe.russian, recipe.whole)
    plain = batches.packed_rows(documents, recipe.length)
    run_phase(
        model, plain, recipe.base_steps, recipe.base_lr, recipe.batch, f"{family.name} base", log
    )
    return model


def train_instruct(
    family: Family,
    base: PreTrainedModel,
    base_tokenizer: Tokenizer,
    tokenizer: Tokenizer,
    seed: int,
    log: Log,
) -> PreTrainedModel:
    recipe, names = family.recipe, vocab.special_names(family.kind, instruct=True)
    bos, pad = (tokenizer.token_to_id(names[name]) for name in ("bos_token", "pad_token"))
    eos = vocab.eos_ids(family.kind, tokenizer, instruct=True)
    model = widened(family, base, config_of(family, tokenizer.get_vocab_size(), bos, eos, pad))
    rng = random.Random(f"{family.name} instruct {seed}")
    chats = batches.packed_rows(
        batches.chat_documents(family, tokenizer, rng, recipe.russian), recipe.length
    )
    plain = batches.packed_rows(
        batches.plain_documents(
            base_tokenizer, base.config.eos_token_id, rng, recipe.russian, recipe.whole
        ),
        recipe.length,
    )
    rows = batches.mixed_rows(chats, plain, recipe.replay, rng)
    run_phase(
        model,
        rows,
        recipe.instruct_steps,
        recipe.instruct_lr,
        recipe.batch,
        f"{family.name} instruct",
        log,
    )
    return model


def save(
    folder: Path, family: Family, model: PreTrainedModel, tokenizer: Tokenizer, instruct: bool
) -> None:
    """A Hugging Face folder with float16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    eos = vocab.eos_ids(family.kind, tokenizer, instruct)
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=eos,
        pad_token_id=model.config.pad_token_id,
    )
    model.half().save_pretrained(folder)
    model.float()
    vocab.save_tokenizer(folder, family.kind, tokenizer, instruct)


def train_family(
    name: str, out: Path, seed: int | None = None, log: Log = print, family: Family | None = None
) -> None:
    """Write `out`/base and `out`/instruct of family `name`, trained from nothing.

    `seed` defaults to the seed of the shipped checkpoints; `family` replaces the shipped shape and
    recipe. Raises KeyError for an unknown name. The instruct model starts from the base's float16
    weights, as saved.
    """
    family = family or FAMILIES[name]
    seed = family.seed if seed is None else seed
    base_tokenizer = vocab.train_tokenizer(family.kind, seed)
    base = train_base(family, base_tokenizer, seed, log)
    save(Path(out) / "base", family, base, base_tokenizer, instruct=False)
    tokenizer = vocab.instruct_tokenizer(family.kind, base_tokenizer)
    instruct = train_instruct(family, base, base_tokenizer, tokenizer, seed, log)
    save(Path(out) / "instruct", family, instruct, tokenizer, instruct=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--factor", type=float, default=1.0, help="multiply the steps of all phases (trials)"
    )
    parser.add_argument(
        "--recipe",
        type=json.loads,
        default={},
        help="JSON object that replaces recipe fields (trials)",
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    family = FAMILIES[chosen.family]
    family = replace(family, recipe=replace(family.recipe, **chosen.recipe))
    train_family(
        chosen.family,
        chosen.out,
        chosen.seed,
        lambda line: print(line, flush=True),
        shortened(family, chosen.factor),
    )


if __name__ == "__main__":
    main()
