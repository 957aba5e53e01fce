"""Pico models spoiled, and donors of kinds that lep_bench.testing does not make."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from lep_bench.testing.pico import OTHER_TEXTS

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Trio(NamedTuple):
    base: Path
    instruct: Path
    donor: Path


def copy(folder: Path, to: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(folder, to)
    return to


def edit(file: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def edit_tensors(folder: Path, **tensors: torch.Tensor) -> None:
    """Replace tensors of model.safetensors (dots written as two underscores)."""
    file = folder / "model.safetensors"
    content = load_file(file) | {
        name.replace("__", "."): tensor for name, tensor in tensors.items()
    }
    save_file(content, file, metadata={"format": "pt"})


def unigram(kind: str, specials: list[str]) -> Tokenizer:
    """A Unigram tokenizer over byte-level characters, or metaspace with byte fallback."""
    tokenizer = Tokenizer(models.Unigram())
    texts = OTHER_TEXTS * 4
    if kind == "byte-level":
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(
            texts,
            trainers.UnigramTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False),
        )
        tokenizer.add_special_tokens(specials)
        return tokenizer
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=90, special_tokens=specials, unk_token="<unk>", show_progress=False
        ),
    )
    spec = json.loads(tokenizer.to_str())
    least = min(score for _, score in spec["model"]["vocab"]) - 10.0
    spec["model"]["vocab"] += [[f"<0x{byte:02X}>", least] for byte in range(256)]
    spec["model"]["byte_fallback"] = True
    spec["decoder"] = json.loads(
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        ).__getstate__()
    )
    return Tokenizer.from_str(json.dumps(spec))


def with_tokenizer(out: Path, base: Path, tokenizer: Tokenizer, bos: str, seed: int = 3) -> Path:
    """The base's body under `tokenizer`, with random rows: a donor of any vocabulary."""
    out.mkdir()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    rows = tokenizer.get_vocab_size(with_added_tokens=True)
    tensors = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for name in {EMBEDDING, HEAD} & set(tensors):
        tensors[name] = 0.1 * torch.randn(rows, tensors[name].shape[1], generator=generator)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    return out
