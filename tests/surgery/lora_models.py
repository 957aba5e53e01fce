"""LoRA donors made by peft itself on pico models."""

from __future__ import annotations

import copy
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from lep_bench.surgery.weights import lora
from lep_bench.surgery.weights.checkpoint import Checkpoint
from lep_bench.testing import pico
from lep_bench.testing.pico import family

LINEAR = ["q_proj", "v_proj", "down_proj"]
BOTH = {"target_modules": LINEAR, "modules_to_save": ["embed_tokens", "lm_head"]}
ON = {"target_modules": [*LINEAR, "embed_tokens", "lm_head"]}
IDS = 306  # of the donors' tokenizer; the bases have 336


class Made(NamedTuple):
    """A peft folder, the base it was trained on, the tensors of the model that peft itself merges,
    and the input rows that it trained with.
    """

    folder: Path
    base: Path
    merged: dict[str, torch.Tensor]
    rows: torch.Tensor


def bases(root: Path) -> dict[str, Path]:
    """Bases by kind, two of them with an instruct model; ``donor`` has the donors' tokenizer."""
    found = {}
    for kind, tied in (("untied", False), ("tied", True)):
        found[kind], found[f"{kind}-instruct"] = family(root / kind, tied=tied, layers=2)
    found["donor"] = pico.donor(root / "donor", found["untied"])
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 336,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    kinds = {
        "biased": LlamaConfig(intermediate_size=32, attention_bias=True, **shape),
        "conv1d": GPT2Config(**shape),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for kind, config in kinds.items():
            found[kind] = root / kind
            AutoModelForCausalLM.from_config(config).save_pretrained(found[kind])
    return found


def make(
    models: dict[str, Path],
    root: Path,
    kind: str = "untied",
    *,
    dtype: torch.dtype = torch.float32,
    resized: int = IDS,
    merge: bool = True,
    **given: Any,
) -> Made:
    """Train (at random) an adapter on the base of this kind and save it with a tokenizer.

    resized: rows of its matrices, 0 for the base's; merge: let peft merge it; save: options of
    save_pretrained; config: of another type of adapter; the rest goes into LoraConfig.
    """
    save, config = given.pop("save", {}), given.pop("config", None)
    model = AutoModelForCausalLM.from_pretrained(models[kind], dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # what peft warns of is tested here
        torch.manual_seed(4)
        if resized:
            model.resize_token_embeddings(resized, mean_resizing=False)
        # A copy: peft changes the lists it is given.
        trained = get_peft_model(
            model, config or LoraConfig(**copy.deepcopy({"r": 4, "lora_alpha": 6, **given}))
        )
        with torch.no_grad():
            for name, parameter in trained.named_parameters():
                if parameter.requires_grad or (
                    resized and name.endswith(("embed_tokens.weight", "lm_head.weight"))
                ):
                    noise = torch.randn(parameter.shape, generator=generator)
                    # Magnitudes are norms: they stay positive.
                    parameter.mul_(
                        1 + 0.1 * noise.abs()
                    ) if "magnitude" in name else parameter.add_(0.1 * noise)
        folder = root / f"adapter-{len(list(root.iterdir()))}"
        trained.save_pretrained(folder, **save)
        rows = (
            model.get_input_embeddings()(torch.arange(resized or model.config.vocab_size))
            .detach()
            .clone()
        )
        merged = trained.merge_and_unload().state_dict() if merge and config is None else {}
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models["donor"] / file, folder)
    return Made(
        folder,
        models[kind],
        {name: tensor.detach().clone() for name, tensor in merged.items()},
        rows,
    )


def opened(made: Made, base: Path | None = None) -> lora.LoraDonor:
    """The donor, once more than opened: its folder keeps its files, their bytes and their times."""
    before = _state(made.folder)
    try:
        donor = lora.open_donor(made.folder, Checkpoint.open(base or made.base))
        for name in donor.deltas:
            donor.deltas[name].merge_into(donor.checkpoint.read(name))
        return donor
    finally:
        assert _state(made.folder) == before


def _state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
