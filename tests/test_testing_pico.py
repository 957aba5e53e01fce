"""The small models have the structure that they are made for."""

from __future__ import annotations

from pathlib import Path

import pytest

from lep_bench.errors import LepBenchError
from lep_bench.testing import CASES, Case, pico
from lep_bench.testing.pico import family


@pytest.mark.parametrize("case", CASES, ids=str)
def test_base_instruct_and_donor(case: Case, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, instruct = family(tmp_path, case.tied, case.padded, case.kind)
    donor = pico.donor(tmp_path / "donor", base)
    text = "Рыжая лиса: fox, 7 Ω"
    sizes = {}
    for folder in (base, instruct, donor):
        tokenizer, model = (
            AutoTokenizer.from_pretrained(folder),
            AutoModelForCausalLM.from_pretrained(folder),
        )
        rows = model.get_input_embeddings().weight.shape[0]
        assert model.config.vocab_size == rows >= len(tokenizer)
        assert (
            model.get_input_embeddings().weight is model.get_output_embeddings().weight
        ) == case.tied
        ids = tokenizer(text)["input_ids"]
        assert (
            ids.count(tokenizer.bos_token_id) == 1
            and tokenizer.decode(ids, skip_special_tokens=True) == text
        )
        sizes[folder] = (len(tokenizer), rows)
    assert (sizes[base][1] % 64 == 0 and sizes[base][1] > sizes[base][0]) == case.padded
    assert sizes[instruct][0] - sizes[base][0] == (2 if case.kind == "sentencepiece" else 0)
    assert sizes[donor][0] != sizes[base][0]


def test_the_instruct_model_has_a_template_and_two_ends(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    base, instruct = family(tmp_path)
    assert not AutoTokenizer.from_pretrained(base).chat_template
    tokenizer = AutoTokenizer.from_pretrained(instruct)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hill"}], tokenize=False, add_generation_prompt=True
    )
    assert asked.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert len(AutoConfig.from_pretrained(instruct).eos_token_id) == 2


def test_they_are_the_same_every_time_and_draws_of_others_are_undisturbed(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = family(tmp_path / "a"), family(tmp_path / "b")
    assert torch.equal(torch.rand(1), expected)
    for a, b in zip(first, second):
        assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(LepBenchError, match="wordpiece"):
        family(tmp_path, kind="wordpiece")  # type: ignore[arg-type]
