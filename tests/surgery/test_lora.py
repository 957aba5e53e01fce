"""LoRA donors: what peft writes, read back, against peft's own merge_and_unload(); and carried
over.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lora_models import BOTH, LINEAR, ON, Made, bases, make, opened
from pico_models import EMBEDDING, HEAD, edit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lep_bench import plugin
from lep_bench.errors import CheckpointError
from lep_bench.surgery import check, propagate
from lep_bench.surgery.weights import lora, patch, shards
from lep_bench.surgery.weights.checkpoint import Checkpoint, digest_tensor


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def made_by(models: dict[str, Path], tmp_path: Path) -> Callable[..., Made]:
    return partial(make, models, tmp_path)


def ulp(values: torch.Tensor) -> torch.Tensor:
    """The distance of neighbours of bfloat16 at `values`."""
    return torch.exp2(torch.floor(torch.log2(values.abs().double().clamp_min(1e-30))) - 7)


CONV1D = {
    "kind": "conv1d",
    "target_modules": ["c_attn", "c_proj"],
    "fan_in_fan_out": True,
    "modules_to_save": ["lm_head"],
    "ensure_weight_tying": True,
}
TRAININGS: dict[str, dict[str, Any]] = {
    "plain": BOTH,
    "all linear layers": {**BOTH, "target_modules": "all-linear"},
    "regex": {**BOTH, "target_modules": r".*layers\.1\.self_attn\.(q|k)_proj"},
    "one layer": {**BOTH, "layers_to_transform": [1]},
    "a parameter": {**BOTH, "target_modules": [], "target_parameters": ["mlp.up_proj.weight"]},
    "patterns": {
        **BOTH,
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, r"^model\.layers.1.*v_proj": 3},
        "alpha_pattern": {"down_proj": 17},
    },
    "rslora": {**BOTH, "use_rslora": True, "rank_pattern": {"q_proj": 9}},
    "dora": {**BOTH, "use_dora": True},
    "gaussian": {**BOTH, "init_lora_weights": "gaussian"},
    "norms": {
        **BOTH,
        "modules_to_save": ["embed_tokens", "lm_head", "norm", "input_layernorm", "up_proj"],
    },
    "bias all": {**BOTH, "kind": "biased", "bias": "all"},
    "bias of LoRA layers": {**BOTH, "kind": "biased", "bias": "lora_only"},
    "bias of B": {
        **BOTH,
        "kind": "biased",
        "target_modules": ["q_proj", "v_proj"],
        "lora_bias": True,
    },
    "conv1d": CONV1D,
    "conv1d, dora": {**CONV1D, "use_dora": True},
}


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_body_is_what_peft_merges(
    made_by: Callable[..., Made], training: str, dtype: torch.dtype
) -> None:
    made = made_by(dtype=dtype, **TRAININGS[training])
    base, donor = Checkpoint.open(made.base), opened(made)
    assert donor.deltas
    for name in base.body_names():
        weight = base.read(name).to(dtype)
        ours = donor.deltas[name].merge_into(weight) if name in donor.deltas else weight
        theirs = made.merged[name]
        assert ours.dtype == dtype and ours.shape == theirs.shape
        assert (name in donor.deltas) == (not torch.equal(weight, theirs)), name
        if dtype == torch.float32:
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        else:
            exact = (
                donor.deltas[name].merge_into(weight.double())
                if name in donor.deltas
                else weight.double()
            )
            assert ((ours.double() - exact).abs() <= 0.501 * ulp(exact)).all(), name  # rounded once
            # peft may round the change first, and DoRA's norms and factors, where we round once.
            largest = torch.maximum(
                weight.double().abs(), torch.maximum(exact.abs(), (exact - weight.double()).abs())
            )
            assert (
                (ours.double() - theirs.double()).abs()
                <= (4 if "dora" in training else 1) * ulp(largest)
            ).all(), name


def test_the_trained_matrices_are_read_where_they_lie(made_by: Callable[..., Made]) -> None:
    made = made_by(**BOTH)
    donor, file = opened(made), made.folder / lora.WEIGHTS
    for name in (EMBEDDING, HEAD):
        place = donor.checkpoint.place(name)
        assert type(place) is shards.TensorPlace and place.file == file
        assert torch.equal(donor.checkpoint.read(name), made.merged[name])
        # peft saved three matrices, the untrained one under the name that the base's tensor has in
        # the wrapped model.
        original = load_file(file)[
            f"base_model.model.{name.removesuffix('.weight')}.original_module.weight"
        ]
        assert not torch.equal(donor.checkpoint.read(name), original)
    base = Checkpoint.open(made.base)
    assert {name: donor.checkpoint.place(name) for name in base.body_names()} == {
        name: base.place(name) for name in base.body_names()
    }
    assert donor.checkpoint.config == {**base.config, "vocab_size": 306}
    assert (
        donor.checkpoint.folder == made.folder
        and donor.checkpoint.rows == 306
        and donor.notes == ()
    )


MATRICES: dict[str, dict[str, Any]] = {
    "saved in full, same size": {**BOTH, "resized": 0},
    "saved because resized": {"target_modules": LINEAR},
    "saved because asked for": {"target_modules": LINEAR, "save": {"save_embedding_layers": True}},
    "embedding only, same size": {
        "target_modules": LINEAR,
        "modules_to_save": ["embed_tokens"],
        "resized": 0,
    },
    "tied, saved in full": {
        "kind": "tied",
        "target_modules": LINEAR,
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "tied, head named": {
        "kind": "tied",
        "target_modules": LINEAR,
        "modules_to_save": ["lm_head"],
        "ensure_weight_tying": True,
    },
    "LoRA": ON,
    "LoRA, same size": {**ON, "resized": 0},
    "LoRA, matrices not saved": {**ON, "resized": 0, "save": {"save_embedding_layers": False}},
    "LoRA on the head, DoRA": {
        "target_modules": [*LINEAR, "lm_head"],
        "modules_to_save": ["embed_tokens"],
        "use_dora": True,
    },
    "tied, LoRA": {"kind": "tied", **ON, "ensure_weight_tying": True},
    "tied, LoRA on the embedding": {
        "kind": "tied",
        "target_modules": [*LINEAR, "embed_tokens"],
        "resized": 0,
    },
    "rows": {"target_modules": LINEAR, "trainable_token_indices": [300, 7, 305]},
    "rows of both": {
        "target_modules": LINEAR,
        "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]},
        "resized": 0,
    },
    "tied, rows": {"kind": "tied", "target_modules": LINEAR, "trainable_token_indices": [300, 7]},
    "tied, rows, same size": {
        "kind": "tied",
        "target_modules": LINEAR,
        "trainable_token_indices": {"embed_tokens": [9]},
        "resized": 0,
    },
}


@pytest.mark.parametrize("training", MATRICES)
def test_embedding_and_head_are_what_peft_merges(
    made_by: Callable[..., Made], training: str
) -> None:
    made = made_by(**MATRICES[training])
    model = opened(made).checkpoint
    assert model.tied == training.startswith("tied")
    for name in model.matrix_names().values():
        # Where LoRA is on a tied matrix, peft's merge adds it twice; in training it counts once.
        ours, theirs = (
            model.read(name),
            made.rows if training == "tied, LoRA" else made.merged[name],
        )
        close = {"rtol": 1e-6, "atol": 1e-6} if "LoRA" in training else {"rtol": 0.0, "atol": 0.0}
        torch.testing.assert_close(ours, theirs, **close)
        if name == EMBEDDING:
            torch.testing.assert_close(ours, made.rows, **close)
        ids = np.array([5, 299, 5, 0, 300, 301])
        # a product of fewer rows rounds elsewhere
        torch.testing.assert_close(model.gather(name, ids), ours[torch.from_numpy(ids)], **close)
        torch.testing.assert_close(
            torch.cat([rows for _, rows in model.blocks(name, 100)]), ours.double(), **close
        )
        assert b"".join(model.place(name).chunks()) == bytes(patch.raw_bytes(ours))
        assert digest_tensor(model.place(name)) == patch.tensor_digest(ours)


def test_whatever_reads_a_place_reads_the_changed_rows() -> None:
    reading = {
        name
        for name, value in vars(shards.TensorPlace).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert (
        reading - {"rows"}
        == {"gather", "chunks", "read"}
        == {name for name in vars(lora.EditedPlace) if name in reading}
    )
    assert "self.gather(" in inspect.getsource(shards.TensorPlace.rows)


def test_a_whole_column_of_a_long_matrix_is_read_in_blocks(
    made_by: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(made_by(**ON)).checkpoint
    whole = model.read(EMBEDDING)
    monkeypatch.setattr(shards, "CHUNK", 10 * 64)  # ten rows of 16 float32
    chunks = list(model.place(EMBEDDING).chunks())
    assert [len(chunk) for chunk in chunks] == [10 * 64] * 30 + [6 * 64] and chunks == list(
        model.place(EMBEDDING).chunks()
    )
    torch.testing.assert_close(
        torch.frombuffer(bytearray(b"".join(chunks)), dtype=torch.float32).view(whole.shape),
        whole,
        rtol=1e-6,
        atol=1e-6,
    )


def test_notes_say_what_peft_did_not(made_by: Callable[..., Made], models: dict[str, Path]) -> None:
    assert [note.split(": ")[1][:47] for note in opened(made_by(target_modules=LINEAR)).notes] == [
        "adapter_config.json does not say that model.emb",
        "adapter_config.json does not say that lm_head w",
    ]
    norms = opened(made_by(**TRAININGS["norms"])).notes
    assert norms == (
        (
            "LoRA donor: 7 tensors of the body were trained in full; their differences from the "
            "base are added"
        ),
    )
    apart = opened(
        made_by("tied", resized=0, target_modules=LINEAR, modules_to_save=["embed_tokens"])
    )
    assert (
        apart.checkpoint.tied
        and "without ensure_weight_tying" in apart.notes[0]
        and len(apart.notes) == 1
    )


def test_is_adapter(made_by: Callable[..., Made], models: dict[str, Path]) -> None:
    made = made_by(**BOTH)
    assert (
        lora.is_lora(made.folder)
        and not lora.is_lora(made.base)
        and not lora.is_lora(made.folder / "nowhere")
    )
    # some trainers leave the merged model beside it
    shutil.copy(made.base / "model.safetensors", made.folder)
    assert not lora.is_lora(made.folder)


def test_digest_covers_the_deltas(made_by: Callable[..., Made]) -> None:
    made = made_by(**BOTH)
    before = opened(made)
    digests = before.checkpoint.digest, before.checkpoint.digests()
    tensors = load_file(made.folder / lora.WEIGHTS)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({**tensors, name: tensors[name] + 1}, made.folder / lora.WEIGHTS)
    after = opened(made)
    assert after.checkpoint.digest != digests[0] and after.checkpoint.digests() == digests[1]


def whole_donor(made: Made, out: Path) -> Path:
    """The base's body with the adapter's embeddings and tokenizer, as a checkpoint."""
    model = opened(made).checkpoint
    shutil.copytree(made.folder, out, ignore=shutil.ignore_patterns("adapter*"))
    (out / "config.json").write_text(json.dumps(model.config))
    save_file(
        {name: model.read(name).clone() for name in model.names()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    return out


@pytest.mark.parametrize("kind", ["untied", "tied"])
@pytest.mark.parametrize("method", ["swap", "conversion"])
def test_split_propagated_and_merged(
    made_by: Callable[..., Made], models: dict[str, Path], tmp_path: Path, kind: str, method: str
) -> None:
    made = made_by(kind, use_rslora=True, ensure_weight_tying=kind == "tied", **BOTH)
    base, instruct, adapter = (
        made.base,
        models[f"{kind}-instruct"],
        plugin.discover_adapters().get("propagation", method).adapter,
    )
    out = propagate.adapt(base, instruct, made.folder, tmp_path / "out", adapter)
    plain = propagate.adapt(
        base, instruct, whole_donor(made, tmp_path / "whole"), tmp_path / "plain", adapter
    )
    tensors, own, without = (
        load_file(folder / "model.safetensors") for folder in (out, instruct, plain)
    )
    changes = opened(made).deltas
    assert len(changes) == 6 and set(tensors) == set(own) == set(without)
    for name, tensor in tensors.items():
        if name in changes:
            assert torch.equal(tensor, changes[name].merge_into(own[name])) and not torch.equal(
                tensor, own[name]
            )
        elif name in (EMBEDDING, HEAD):
            assert torch.equal(tensor, without[name]) and tensor.shape != own[name].shape
        else:
            assert torch.equal(tensor, own[name])
    lep, other = (json.loads((folder / "lep.json").read_text()) for folder in (out, plain))
    assert (
        "LoRA of the donor merged into 6 tensors" in lep["notes"]
        and lep["fingerprint"] != other["fingerprint"]
    )
    assert {*changes} < {*lep["changed"]} and [
        finding for finding in check.check_folder(out) if finding.level != "note"
    ] == []
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert torch.equal(loaded.get_input_embeddings().weight, tensors[EMBEDDING])


def test_the_fingerprint_covers_the_deltas(
    made_by: Callable[..., Made], models: dict[str, Path], tmp_path: Path
) -> None:
    made, adapter = made_by(**BOTH), plugin.discover_adapters().get("propagation", "swap").adapter
    prints = []
    for alpha in (6, 7):
        edit(made.folder / lora.CONFIG, lora_alpha=alpha)
        out = propagate.adapt(
            made.base, models["untied-instruct"], made.folder, tmp_path / f"out{alpha}", adapter
        )
        prints.append(json.loads((out / "lep.json").read_text())["fingerprint"])
    assert prints[0] != prints[1]


def test_an_adapter_with_fewer_rows_than_its_tokenizer_has_ids(
    made_by: Callable[..., Made], models: dict[str, Path], tmp_path: Path
) -> None:
    made, adapter = made_by(**BOTH), plugin.discover_adapters().get("propagation", "swap").adapter
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models["untied"] / file, made.folder)
    with pytest.raises(CheckpointError, match="306 rows, but the tokenizer has ids up to 335"):
        propagate.adapt(
            made.base, models["untied-instruct"], made.folder, tmp_path / "out", adapter
        )
    assert not (tmp_path / "out").exists()
