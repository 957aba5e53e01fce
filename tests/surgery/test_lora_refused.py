"""LoRA donors that cannot be carried over, each refused in one line that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lora_models import BOTH, LINEAR, ON, Made, bases, make, opened
from pico_models import HEAD, edit
from safetensors.torch import load_file, save_file

from lep_bench.errors import CheckpointError
from lep_bench.surgery.weights import lora
from lep_bench.surgery.weights.checkpoint import Checkpoint
from lep_bench.testing.pico import family


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def made_by(models: dict[str, Path], tmp_path: Path) -> Callable[..., Made]:
    return partial(make, models, tmp_path)


def refused(made: Made, *words: str, base: Path | None = None) -> None:
    with pytest.raises(CheckpointError) as caught:
        opened(made, base)
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in (str(made.folder), *words)), text


CANNOT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no embeddings": (
        {"target_modules": LINEAR, "resized": 0},
        ("no trained embeddings", "modules_to_save=['embed_tokens', 'lm_head']"),
    ),
    "head not saved": (
        {
            "target_modules": LINEAR,
            "modules_to_save": ["embed_tokens"],
            "save": {"save_embedding_layers": False},
        },
        ("'lm_head': 336", "'model.embed_tokens': 306", "save_embedding_layers=True"),
    ),
    "LoRA on a resized matrix that was not saved": (
        {**ON, "save": {"save_embedding_layers": False}},
        ("LoRA on lm_head", "(306, 4)", "(336, 16)"),
    ),
    "rows of a resized matrix that was not saved": (
        {
            "target_modules": LINEAR,
            "trainable_token_indices": [305, 340],
            "resized": 350,
            "save": {"save_embedding_layers": False},
        },
        ("2 ids up to 340", "336 rows", "save_embedding_layers=True"),
    ),
    "tied, one of them trained": (
        {"kind": "tied", "target_modules": LINEAR, "modules_to_save": ["embed_tokens"]},
        ("embedding and head differ", "ensure_weight_tying=True"),
    ),
    "tied, trained apart": (
        {"kind": "tied", **ON},
        ("embedding and head differ", "ensure_weight_tying=True"),
    ),
    "DoRA on the embedding": (
        {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
        ("DoRA on model.embed_tokens", "plain LoRA"),
    ),
    "a bias that the base lacks": ({**BOTH, "lora_bias": True}, ("_proj.bias", "does not have")),
    "both biases": (
        {**BOTH, "kind": "biased", "target_modules": ["q_proj"], "bias": "all", "lora_bias": True},
        ("bias", "cannot be carried over"),
    ),
    "PiSSA": ({**BOTH, "init_lora_weights": "pissa"}, ("init_lora_weights='pissa'", "plain LoRA")),
    "OLoRA": ({**BOTH, "init_lora_weights": "olora"}, ("init_lora_weights='olora'", "plain LoRA")),
    "activated LoRA": (
        {**BOTH, "alora_invocation_tokens": [1, 2]},
        ("alora_invocation_tokens", "plain LoRA"),
    ),
    "KaSA": ({**BOTH, "kasa_config": peft.tuners.lora.KasaConfig()}, ("kasa_config", "plain LoRA")),
}


@pytest.mark.parametrize("training", CANNOT)
def test_what_cannot_be_carried_over_is_refused(
    made_by: Callable[..., Made], training: str
) -> None:
    given, words = CANNOT[training]
    refused(made_by(merge=False, **given), *words)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (
            peft.LoHaConfig(
                r=2, target_modules=LINEAR, modules_to_save=["embed_tokens", "lm_head"]
            ),
            "LOHA",
        ),
        (
            peft.IA3Config(
                target_modules=["down_proj"],
                feedforward_modules=["down_proj"],
                modules_to_save=["embed_tokens", "lm_head"],
            ),
            "IA3",
        ),
        (
            peft.AdaLoraConfig(
                total_step=9, target_modules=LINEAR, modules_to_save=["embed_tokens", "lm_head"]
            ),
            "ADALORA",
        ),
        (peft.TrainableTokensConfig(token_indices=[1, 2]), "TRAINABLE_TOKENS"),
        (peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PROMPT_TUNING"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_adapters_are_refused_by_name(
    made_by: Callable[..., Made], config: peft.PeftConfig, kind: str
) -> None:
    refused(made_by(config=config), f"type {kind}", "only LORA", "--discard-donor-body")


def test_pickled_weights_are_refused_and_the_way_out_works(
    made_by: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_by(save={"safe_serialization": False}, **BOTH)
    refused(
        made,
        "pickled adapter_model.bin can run code",
        "weights_only=True",
        "adapter_model.safetensors",
    )
    tensors = torch.load(made.folder / lora.PICKLED, weights_only=True)
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()}, made.folder / lora.WEIGHTS
    )
    assert torch.equal(opened(made).checkpoint.read(HEAD), made.merged[HEAD])


def test_another_base_is_refused_or_noted(
    made_by: Callable[..., Made], models: dict[str, Path], tmp_path: Path
) -> None:
    made = made_by(**BOTH)
    shallow, _ = family(tmp_path / "shallow", layers=1)
    refused(
        made,
        "changes model.layers.1.",
        "does not have",
        "give the base that it was trained on",
        base=shallow,
    )
    # as many layers, wider keys and values
    refused(made, "LoRA on", "another base", base=models["biased"])
    moved = tmp_path / "models--org--Foundation" / "snapshots" / "0123abc"
    shutil.copytree(made.base, moved)
    assert opened(made, moved).notes == (
        f"LoRA donor: its adapter_config.json names {made.base} as its base, not {moved}",
    )
    edit(made.folder / lora.CONFIG, base_model_name_or_path="org/Foundation")
    assert opened(made, moved).notes == ()


def test_what_is_damaged_or_missing(made_by: Callable[..., Made]) -> None:
    made = made_by(**BOTH)
    weights, config = made.folder / lora.WEIGHTS, made.folder / lora.CONFIG
    whole, settings = load_file(weights), config.read_text()
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

    def rewritten(**changes: torch.Tensor | None) -> None:
        tensors = {**whole, **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, weights)

    rewritten(**{key: torch.empty(0)})  # a partition of DeepSpeed ZeRO-3
    refused(made, "q_proj", "(0,)", "not saved completely")
    rewritten(**{key: None})
    refused(made, "q_proj", "A None", "not saved completely")
    rewritten(**{key.replace("lora_A.weight", "lora_diag"): torch.ones(4)})
    refused(made, "lora_diag", "no part of plain LoRA")
    rewritten(**{"base_model.model.model.norm.weight": torch.ones(17)})
    refused(made, "model.norm.weight", "(17,)", "(16,)")
    rewritten(**{key: torch.full((4, 16), torch.nan)})
    streams = lora.merge_deltas(Checkpoint.open(made.base), opened(made).deltas)
    with pytest.raises(CheckpointError, match="q_proj.weight with the donor's LoRA has NaN"):
        [list(stream.blocks()) for stream in streams.values()]
    rewritten()
    edit(config, r=5)
    refused(made, "rank 5")
    config.write_text("{")
    refused(made, "adapter_config.json cannot be read")
    config.write_text("[]")
    refused(made, "adapter_config.json cannot be read")
    config.write_text(json.dumps({"r": 4}))
    refused(made, "cannot be read", "'peft_type'")
    config.write_text(settings)
    weights.write_bytes(weights.read_bytes()[:-9])
    refused(made, "cut short")
    weights.unlink()
    refused(made, "has no adapter_model.safetensors")
    rewritten()
    for file in made.folder.glob("tokenizer*"):
        file.unlink()
    refused(made, "no tokenizer", "copy the one")
