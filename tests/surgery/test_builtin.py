"""The built-in families have the structure of the real ones: they go through surgery and come out
clean.
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lep_bench
from lep_bench import files
from lep_bench.records import artifact
from lep_bench.surgery.check import refuse_errors
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights.checkpoint import Checkpoint

FAMILIES = [
    name
    for name in ("mini-llama", "mini-mistral")
    if (files.builtin_checkpoints() / name / "instruct" / "config.json").is_file()
]


@pytest.mark.parametrize("name", FAMILIES)
def test_original_vocabulary_with_the_base_as_donor(name, tmp_path):
    base, instruct = f"builtin:{name}/base", f"builtin:{name}/instruct"
    out = lep_bench.adapt(base, instruct, base, tmp_path / "out")
    assert refuse_errors(out) == []
    lep = artifact.read_artifact(out).lep
    body = files.builtin_checkpoints() / name / "instruct"
    assert lep.parents[0].location == instruct and lep.rows["new"] == 0
    assert lep.vocabulary_size == Tokens.read(body).size and Checkpoint.open(out).rows % 64 == 0
    # The old vocabulary kept: the same ids as the instruct model's, from the same template, with
    # the same ends.
    tokenizer = AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "Repeat: the red fox"}]
    ids = [
        t.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        for t in (tokenizer, AutoTokenizer.from_pretrained(body))
    ]
    assert ids[0] == ids[1]
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([ids[0]])).logits).all()
    assert (
        model.generation_config.eos_token_id
        == AutoModelForCausalLM.from_pretrained(body).generation_config.eos_token_id
    )
