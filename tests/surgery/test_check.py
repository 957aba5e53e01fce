"""Every invariant broken once: the finding names it, `refuse` stops at errors."""

from __future__ import annotations

import json

import pytest
import torch
from pico_models import EMBEDDING, HEAD, copy, edit, edit_tensors
from safetensors.torch import load_file

import lep_bench
from lep_bench.errors import CheckpointError
from lep_bench.surgery.check import check, refuse


@pytest.fixture(scope="module")
def good(trio, tmp_path_factory):
    return lep_bench.adapt(*trio("sentencepiece"), tmp_path_factory.mktemp("check") / "good")


@pytest.fixture
def model(good, tmp_path):
    return copy(good, tmp_path / "model")


def levels(folder, text):
    return [f.level for f in check(folder) if text in f"{f.what} {f.how}"]


def test_our_own_are_clean_and_foreign_ones_only_warned_about(good, trio):
    assert check(good) == []
    assert {f.level for f in check(trio("sentencepiece").base)} == {"warning"}  # rows are not aligned


def test_sizes(model):
    edit(model / "config.json", vocab_size=1)
    assert levels(model, "vocab_size 1, the embedding has 384 rows") == ["error"]
    edit(model / "config.json", vocab_size=384)
    edit(model / "lep.json", vocabulary_size=350)
    assert levels(model, "lep.json says 350 real rows, the tokenizer has 362") == ["error"]
    edit(model / "lep.json", vocabulary_size=362)
    rows = load_file(model / "model.safetensors")[EMBEDDING]
    edit_tensors(model, model__embed_tokens__weight=rows[:361])
    assert levels(model, "highest id is 361, the embedding has 361 rows") == ["error"] and levels(model, "no multiple of 64") == ["error"]


def test_row_statistics(model):
    rows = load_file(model / "model.safetensors")[HEAD]
    rows[300], rows[301] = 0, float("nan")
    edit_tensors(model, lm_head__weight=rows)
    assert levels(model, "1 rows with NaN or infinity, the first at id 301") == ["error"]
    assert levels(model, "1 rows are all zero, the first at id 300") == ["warning"]


def test_tokens_named_in_configs(model):
    spec = json.loads((model / "tokenizer.json").read_text())
    spec["post_processor"]["special_tokens"]["<s>"]["ids"] = [7]
    edit(model / "tokenizer.json", **spec)
    assert levels(model, "the post-processor gives '<s>' the id 7, the vocabulary 1") == ["error"]
    edit(model / "tokenizer_config.json", pad_token="<pad>", tokenizer_class="LlamaTokenizer")
    assert levels(model, "pad_token '<pad>' of tokenizer_config.json is no token") == ["error"]
    assert levels(model, "tokenizer_class is LlamaTokenizer") == ["error"]


def test_ends(model):
    edit(model / "generation_config.json", eos_token_id=[2, 999])
    assert levels(model, "eos_token_id 999 is no token") == ["error"]
    edit(model / "generation_config.json", eos_token_id=None)
    edit(model / "config.json", eos_token_id=None)
    assert levels(model, "no end-of-sequence token") == ["warning"]
    edit(model / "config.json", eos_token_id=2, pad_token_id=2)
    assert levels(model, "padding token 2 is the only end-of-sequence token") == ["warning"]


def test_holes(model):
    spec = json.loads((model / "tokenizer.json").read_text())
    del spec["model"]["vocab"][next(p for p, i in spec["model"]["vocab"].items() if i == 300)]
    edit(model / "tokenizer.json", **spec)
    assert levels(model, "1 ids below the highest have no token, the first is 300") == ["error"]


def test_a_stale_head_beside_tied_weights(model):
    edit(model / "config.json", tie_word_embeddings=True)
    assert levels(model, "config.json ties head and embedding, yet there is a lm_head.weight") == ["warning"]
    edit_tensors(model, lm_head__weight=torch.zeros(3, 16))
    assert levels(model, "config.json ties head and embedding") == ["error"]


def test_special_rows_after_a_tuning_are_its_own(model):
    rows = load_file(model / "model.safetensors")[HEAD]
    rows[1] += 1
    edit_tensors(model, lm_head__weight=rows)
    with pytest.raises(CheckpointError, match="1 special rows of the head are not the instruct model's own, the first is '<s>'"):
        refuse(model)
    edit(model / "lep.json", training={"steps": 10})
    assert refuse(model) == []


def test_a_body_that_is_gone_is_only_noted(model):
    lep = json.loads((model / "lep.json").read_text())
    lep["parents"][0]["location"] = "someone/not-here"
    edit(model / "lep.json", **lep)
    assert [f.level for f in check(model)] == ["note"] and "not at hand" in str(check(model)[0])
