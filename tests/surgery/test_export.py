"""Complete checkpoints from patches: the same logits, linked shards, nothing shared that should not
be.
"""

from __future__ import annotations

import os

import pytest
import torch
from pico_models import EMBEDDING, HEAD, copy
from transformers import AutoModelForCausalLM, AutoTokenizer

from lep_bench import plugin
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.records import artifact
from lep_bench.surgery import check, export, propagate
from lep_bench.surgery.export import export_checkpoint
from lep_bench.surgery.weights import checkpoint, patch


def lep_patch(trio_, out, lep, instruct=None):
    adapter = plugin.discover_adapters().get("propagation", "conversion").adapter
    return propagate.propagate(
        trio_.base, instruct or trio_.instruct, trio_.donor, out, adapter, lep=lep
    )


def logits(model, folder):
    ids = AutoTokenizer.from_pretrained(folder)(
        "рыжая лиса бежит по холму", return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        return model.eval()(ids).logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_same_logits_as_body_and_patch(trio, lep, tmp_path, kind, tied):
    made = lep_patch(trio(kind, tied), tmp_path / "patch", lep)
    out = export_checkpoint(made, tmp_path / "out")
    body = AutoModelForCausalLM.from_pretrained(made.body)
    tensors = patch.load_tensors(made)
    body.resize_token_embeddings(len(tensors[EMBEDDING]), mean_resizing=False)
    body.load_state_dict(tensors, strict=False)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(logits(model, out), logits(body, made.folder))
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied
    assert check.refuse_errors(out) == [] and artifact.read_artifact(out).patch is None
    assert artifact.read_artifact(out).lep == made.lep.model_copy(update={"kind": "checkpoint"})


def test_unchanged_shards_are_links_and_json_is_not(trio, lep, tmp_path):
    body = copy(trio("byte-level").instruct, tmp_path / "body")
    AutoModelForCausalLM.from_pretrained(body).save_pretrained(
        tmp_path / "sharded", max_shard_size="10KB"
    )
    (body / "model.safetensors").unlink()
    cache = tmp_path / "cache"  # as the Hub's cache: the folder's files are symlinks
    cache.mkdir()
    for file in (tmp_path / "sharded").glob("model*"):
        file.rename(cache / file.name)
        (body / file.name).symlink_to(cache / file.name)
    (body / "LICENSE").write_text("free")
    made = lep_patch(trio("byte-level"), tmp_path / "patch", lep, instruct=body)
    out = export_checkpoint(made, tmp_path / "out")
    same = {f.name for f in out.glob("*.safetensors") if os.path.samefile(f, cache / f.name)}
    assert (
        0
        < len(same)
        < len(list(out.glob("*.safetensors")))
        == len(list(cache.glob("*.safetensors")))
    )
    assert not [f for f in out.iterdir() if f.is_symlink()]
    assert not [
        f for f in out.iterdir() if f.suffix in (".json", ".jinja") and f.stat().st_nlink > 1
    ]
    assert (out / "LICENSE").read_text() == "free"
    from_patch = {n: p.read() for n, p in checkpoint.Checkpoint.open(made).places.items()}
    exported = checkpoint.Checkpoint.open(out)
    assert set(from_patch) == set(exported.names()) and all(
        torch.equal(exported.read(n), t) for n, t in from_patch.items()
    )
    AutoModelForCausalLM.from_pretrained(out)


def test_copies_where_links_cannot_go(trio, lep, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(export.os, "link", refuse)
    export.link_or_copy(trio("byte-level").base / "config.json", tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == (
        trio("byte-level").base / "config.json"
    ).read_bytes()


def test_a_whole_checkpoint_exports_too(trio, tmp_path):
    base = trio("byte-level").base
    whole = artifact.open_checkpoint(str(base), "pico/base", "base", "f")
    out = export_checkpoint(whole, tmp_path / "out")
    assert os.path.samefile(out / "model.safetensors", base / "model.safetensors")
    AutoModelForCausalLM.from_pretrained(out)


def test_a_stale_head_of_a_tied_model_is_dropped(trio, lep, tmp_path):
    from pico_models import edit_tensors
    from safetensors.torch import load_file

    body = copy(trio("byte-level", True).instruct, tmp_path / "body")
    edit_tensors(body, lm_head__weight=load_file(body / "model.safetensors")[EMBEDDING].clone())
    made = lep_patch(trio("byte-level", True), tmp_path / "patch", lep, instruct=body)
    assert made.lep.changed == (EMBEDDING,)
    assert HEAD not in load_file(export_checkpoint(made, tmp_path / "out") / "model.safetensors")


def test_refusals(trio, lep, tmp_path):
    made = lep_patch(trio("byte-level"), tmp_path / "patch", lep)
    with pytest.raises(LepBenchError, match="exists already"):
        export_checkpoint(made, tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        export_checkpoint(
            artifact.Artifact(made.folder, tmp_path / "gone", made.lep), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
