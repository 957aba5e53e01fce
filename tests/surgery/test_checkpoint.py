"""Checkpoints read by rows, and everything that is no checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pico_models import EMBEDDING, HEAD, copy, edit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lep_bench.errors import CheckpointError
from lep_bench.records.artifact import Lep, Parent
from lep_bench.surgery.weights import patch, shards
from lep_bench.surgery.weights.checkpoint import Checkpoint, locate_checkpoint


def test_rows_blocks_and_hashes(trio):
    base = trio("byte-level").base
    model, tensors = Checkpoint.open(base), load_file(base / "model.safetensors")
    assert model.names() == sorted(tensors)
    for name, tensor in tensors.items():
        assert (
            torch.equal(model.read(name), tensor)
            and model.shape(name) == tuple(tensor.shape)
            and model.dtype(name) == tensor.dtype
        )
    ids = np.array([5, 3, 4, 3, 200, 0])
    assert torch.equal(model.gather(EMBEDDING, ids), tensors[EMBEDDING][ids])
    whole = torch.cat([block for _, block in model.blocks(EMBEDDING, rows=100)])
    assert torch.equal(whole, tensors[EMBEDDING].double())
    assert model.digests() == {
        name: patch.tensor_digest(tensor) for name, tensor in tensors.items()
    }
    with pytest.raises(CheckpointError, match="has no tensor 'nothing'"):
        model.read("nothing")


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64]
)
def test_every_dtype_there_and_back(tmp_path, dtype):
    tensor = torch.randn(10, 3).to(dtype)
    save_file({"a": tensor, "empty": tensor[:0]}, tmp_path / "in.safetensors")
    places = shards.read_places(tmp_path / "in.safetensors")
    assert torch.equal(places["a"].rows(2, 7), tensor[2:7]) and places["empty"].read().shape == (
        0,
        3,
    )
    entries = [
        shards.TensorEntry(n, p.code, p.shape, p.nbytes, p.chunks()) for n, p in places.items()
    ]
    shards.write_shard(tmp_path / "out.safetensors", entries)
    again = load_file(tmp_path / "out.safetensors")
    assert torch.equal(again["a"], tensor) and again["empty"].shape == (0, 3)


@pytest.mark.parametrize("tied", [False, True])
def test_ties(trio, tied):
    model = Checkpoint.open(trio("byte-level", tied).base)
    assert (
        model.tied is tied
        and model.head_name == (None if tied else HEAD)
        and model.embedding_name == EMBEDDING
    )
    assert list(model.matrix_names()) == (["embedding"] if tied else ["embedding", "head"])


def test_an_untied_model_without_a_head_is_not_complete(trio, tmp_path):
    folder = copy(trio("byte-level", True).base, tmp_path / "m")
    edit(folder / "config.json", tie_word_embeddings=False)
    with pytest.raises(
        CheckpointError, match="says the head is not tied, but there is no lm_head.weight"
    ):
        _ = Checkpoint.open(folder).head_name


def test_shards_and_a_missing_one(trio, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(trio("byte-level").base)
    model.save_pretrained(tmp_path / "m", max_shard_size="10KB")
    files = sorted((tmp_path / "m").glob("*.safetensors"))
    assert len(files) > 2
    assert torch.equal(
        Checkpoint.open(tmp_path / "m").read(EMBEDDING), model.get_input_embeddings().weight
    )
    files[0].unlink()
    with pytest.raises(
        CheckpointError, match=rf"1 of {len(files)} shards are missing \({files[0].name}"
    ):
        Checkpoint.open(tmp_path / "m")


def test_a_patch_lies_over_its_body(trio, tmp_path):
    base = trio("byte-level").base
    rows = torch.ones(320, 16)
    lep = Lep(
        model="x",
        fingerprint="f",
        kind="patch",
        stage="donor",
        parents=(Parent(role="body", name="b", location=str(base)),),
    )
    made = patch.write_patch(
        tmp_path / "p",
        {EMBEDDING: rows, HEAD: rows},
        lep=lep,
        tokenizer_from=base,
        config_from=base,
    )
    model = Checkpoint.open(tmp_path / "p")
    assert torch.equal(model.read(HEAD), rows) and model.config["vocab_size"] == 320
    assert torch.equal(
        model.read("model.norm.weight"), load_file(base / "model.safetensors")["model.norm.weight"]
    )
    assert made.lep.changed == (HEAD, EMBEDDING) and model.digests()[HEAD] == made.lep.tensors[HEAD]
    assert all(
        torch.equal(a, b)
        for a, b in zip(patch.load_tensors(made).values(), (rows, rows), strict=True)
    )
    (tmp_path / "p" / "patch.safetensors").write_bytes(b"12345678")
    with pytest.raises(CheckpointError, match="cannot be read"):
        patch.load_tensors(made)


def test_padding_is_the_mean_row_and_comes_last():
    matrix = torch.randn(70, 4).half()
    padded = patch.pad_matrix(matrix)
    assert padded.shape == (128, 4) and torch.equal(padded[:70], matrix)
    assert torch.equal(padded[70:], matrix.double().mean(0).half().expand(58, 4))
    assert torch.equal(patch.pad_matrix(padded), padded)


def test_folders_that_are_no_checkpoint(trio, tmp_path):
    base = trio("byte-level").base
    with pytest.raises(CheckpointError, match="no such folder"):
        Checkpoint.open(tmp_path / "nowhere")
    folder = copy(base, tmp_path / "m")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    for cut in (4, 200, len(content) - 1):
        weights.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=rf"cut short: {cut:,} bytes of .*fetch it again"):
            Checkpoint.open(folder)
    weights.write_bytes((20).to_bytes(8, "little") + b"{" * 40)
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        Checkpoint.open(folder)
    weights.unlink()
    with pytest.raises(
        CheckpointError, match="no model.safetensors and no model.safetensors.index.json"
    ):
        Checkpoint.open(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"pickled weights \(pytorch_model.bin\).*safe_serialization=True"
    ):
        Checkpoint.open(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="a JSON object is expected"):
        Checkpoint.open(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="is no checkpoint: it has no config.json"):
        Checkpoint.open(folder)


def test_locate(trio):
    base = trio("byte-level").base
    assert locate_checkpoint(base) == locate_checkpoint(str(base)) == base.resolve()
    with pytest.raises(CheckpointError, match="Hub"):
        locate_checkpoint("someone/no-such-model")


def test_a_model_in_an_unknown_precision_is_named(trio, tmp_path):
    folder = copy(trio("byte-level").base, tmp_path / "m")
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    head = json.dumps(json.loads(content[8 : 8 + length])).replace('"F32"', '"F4"').encode()
    (folder / "model.safetensors").write_bytes(
        len(head).to_bytes(8, "little") + head + content[8 + length :]
    )
    with pytest.raises(CheckpointError, match="tensors of type F4 cannot be read"):
        Checkpoint.open(folder).read(EMBEDDING)
