"""LEP patches: numbers against the dense reference, special rows, tokenizer and configs,
refusals.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pico_models import EMBEDDING, HEAD, copy, edit, edit_tensors, unigram, with_tokenizer
from reference import Vocabulary
from reference import lep as dense
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import lep_bench
from lep_bench import plugin
from lep_bench.errors import AdapterError, CheckpointError, LepBenchError
from lep_bench.plugin import Params, propagation
from lep_bench.records import artifact
from lep_bench.records.artifact import Parent
from lep_bench.surgery import check, propagate
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights import patch

METHODS = ("swap", "overlap", "conversion")
SHAPES = [
    (kind, tied, padded)
    for kind in ("byte-level", "sentencepiece")
    for tied in (False, True)
    for padded in (False, True)
]


def method(name):
    return plugin.discover_adapters().get("propagation", name).adapter


@pytest.mark.parametrize(("kind", "tied", "padded"), SHAPES)
def test_numbers_agree_with_the_dense_reference(trio, lep, tmp_path, kind, tied, padded):
    base, instruct, donor = trio(kind, tied, padded)
    for name in METHODS:
        made = propagate.propagate(base, instruct, donor, tmp_path / name, method(name), lep=lep)
        tensors = patch.load_tensors(made)
        expected, ids = dense(base, instruct, donor, name)
        assert set(tensors) == set(expected) == ({EMBEDDING} if tied else {EMBEDDING, HEAD})
        own = load_file(instruct / "model.safetensors")
        special = Tokens.read(instruct).specials
        for matrix, value in tensors.items():
            assert value.dtype == torch.float32 and len(value) % 64 == 0
            np.testing.assert_allclose(value.double().numpy(), expected[matrix], atol=1e-5)
            # Bitwise the instruct model's own, in both matrices, whether base or donor has the
            # token or not.
            for content, number in special.items():
                assert torch.equal(value[ids[content]], own[matrix][number])
        assert sum(made.lep.rows.values()) == len(tensors[EMBEDDING])
        assert made.lep.vocabulary_size == Tokens.read(made.folder).size
        assert artifact.read_artifact(made.folder) == made
        assert [f for f in check.check_folder(made.folder) if f.level != "note"] == []


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_unigram_donors(trio, lep, tmp_path, kind):
    base, instruct, _ = trio(kind)
    bos, specials = (
        ("<|begin_of_text|>", list(Vocabulary(base).special))
        if kind == "byte-level"
        else ("<s>", ["<unk>", "<s>", "</s>"])
    )
    donor = with_tokenizer(tmp_path / "donor", base, unigram(kind, specials), bos)
    made = propagate.propagate(
        base, instruct, donor, tmp_path / "out", method("conversion"), lep=lep
    )
    expected, _ = dense(base, instruct, donor, "conversion")
    np.testing.assert_allclose(
        patch.load_tensors(made)[HEAD].double().numpy(), expected[HEAD], atol=1e-5
    )
    assert "unigram" in Tokens.read(made.folder).kind
    loaded = AutoTokenizer.from_pretrained(made.folder)
    text = "лиса бежит"
    assert (
        loaded(text, add_special_tokens=False).input_ids
        == unigram(kind, specials).encode(text, add_special_tokens=False).ids
    )


def test_planted_map_is_recovered(trio, lep, tmp_path):
    base, instruct, donor = (
        trio("byte-level").base,
        copy(trio("byte-level").instruct, tmp_path / "i"),
        trio("byte-level").donor,
    )
    planted = {
        EMBEDDING: torch.randn(16, 16, generator=torch.Generator().manual_seed(1)),
        HEAD: torch.eye(16).flip(0),
    }
    e = load_file(base / "model.safetensors")
    edit_tensors(instruct, **{name.replace(".", "__"): e[name] @ d for name, d in planted.items()})
    made = propagate.propagate(
        base, instruct, donor, tmp_path / "out", method("conversion"), lep=lep
    )
    rows = Tokens.read(donor).size - 6  # the six specials come last
    for name, d in planted.items():
        donor_rows = load_file(donor / "model.safetensors")[name][:rows]
        assert torch.allclose(patch.load_tensors(made)[name][:rows], donor_rows @ d, atol=1e-5)
    assert made.lep.fit["embedding"]["residual"] < 1e-5 and made.lep.fit["head"]["r2"] > 0.9999


def test_original_vocabulary_is_the_identity_decomposition(trio, lep, tmp_path):
    base, instruct, _ = trio("sentencepiece", False, True)
    donor = copy(base, tmp_path / "donor")
    made = propagate.propagate(base, instruct, donor, tmp_path / "out", method("overlap"), lep=lep)
    assert made.lep.rows["new"] == 0 and made.lep.rows["added"] == 2
    expected, _ = dense(base, instruct, donor, "conversion")
    np.testing.assert_allclose(
        patch.load_tensors(made)[EMBEDDING].double().numpy(), expected[EMBEDDING], atol=1e-5
    )


def markers_untrained_in_base(trio, tmp_path):
    """instruct and a base that is the same model but for its chat markers; the donor is the base
    itself.
    """
    instruct = trio("byte-level").instruct
    base = copy(trio("byte-level").base, tmp_path / "base")
    own = load_file(instruct / "model.safetensors")
    first = Tokens.read(instruct).specials["<|start_header_id|>"]
    changed = {name: own[name].clone() for name in (EMBEDDING, HEAD)}
    for name in changed:
        changed[name][first:] = 0.001
    edit_tensors(
        base, **{name.replace(".", "__"): tensor for name, tensor in (own | changed).items()}
    )
    return base, instruct


def chat_logits(folder):
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder),
    )
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "какого цвета холм?"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1, : len(tokenizer)]


def test_chat_markers_are_the_instruct_models_own(trio, tmp_path):
    """Fails without the rule: the donor's rows of markers that its base never trained answer
    another question.
    """
    base, instruct = markers_untrained_in_base(trio, tmp_path)
    out = lep_bench.adapt(base, instruct, base, tmp_path / "out", method="swap")
    wanted = chat_logits(instruct)
    assert torch.allclose(chat_logits(out), wanted, atol=1e-6)
    assert not check.check_folder(out)
    donors = load_file(base / "model.safetensors")
    rows = load_file(out / "model.safetensors")
    first = Tokens.read(out).specials["<|start_header_id|>"]
    for name in (EMBEDDING, HEAD):
        rows[name][first : first + 3] = donors[name][first : first + 3]
    edit_tensors(out, **{name.replace(".", "__"): rows[name] for name in (EMBEDDING, HEAD)})
    assert not torch.allclose(chat_logits(out), wanted, atol=1e-3)
    assert any(
        f.level == "error" and "special rows of the embedding" in f.what
        for f in check.check_folder(out)
    )
    with pytest.raises(
        CheckpointError, match="3 special rows of the embedding are not the instruct model's own"
    ):
        check.refuse_errors(out)


def test_tokenizer_and_configs_are_patched_by_field(trio, lep, tmp_path):
    base, given, donor = trio("sentencepiece")
    instruct = copy(given, tmp_path / "instruct")
    # use_cache is true, and true == 1 == <s>: patched by value it would become an id.
    edit(instruct / "config.json", use_cache=True, num_hidden_layers=1, pad_token_id=421)
    edit(instruct / "generation_config.json", temperature=0.7, do_sample=True)
    made = propagate.propagate(base, instruct, donor, tmp_path / "out", method("swap"), lep=lep)
    ids = Tokens.read(made.folder).specials
    config = json.loads((made.folder / "config.json").read_text())
    generation = json.loads((made.folder / "generation_config.json").read_text())
    assert config["use_cache"] is True and config["num_hidden_layers"] == 1
    assert config["bos_token_id"] == ids["<s>"] and config["pad_token_id"] == ids["<|pad_0|>"]
    assert (
        generation["eos_token_id"] == [ids["</s>"], ids["<|end_of_turn|>"]]
        and generation["temperature"] == 0.7
    )
    assert config["vocab_size"] == patch.load_tensors(made)[EMBEDDING].shape[0]
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(instruct).chat_template
    assert (
        tokenizer("лиса").input_ids[0] == ids["<s>"]
        and tokenizer.eos_token_id == ids["<|end_of_turn|>"]
    )
    assert len(tokenizer) == made.lep.vocabulary_size


def test_bos_from_flags_becomes_a_post_processor(trio, lep, tmp_path):
    base, given, donor = trio("sentencepiece")
    instruct = copy(given, tmp_path / "instruct")
    edit(instruct / "tokenizer.json", post_processor=None)
    edit(
        instruct / "tokenizer_config.json",
        add_bos_token=True,
        tokenizer_class="LlamaTokenizerFast",
        add_prefix_space=True,
    )
    made = propagate.propagate(base, instruct, donor, tmp_path / "out", method("swap"), lep=lep)
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    assert tokenizer("лиса").input_ids[0] == tokenizer.bos_token_id
    assert "add_prefix_space" not in json.loads((made.folder / "tokenizer_config.json").read_text())


def test_initialise_is_the_subtoken_mean(trio, lep, tmp_path):
    base, instruct, donor = trio("sentencepiece", False, True)
    from reference import subtokens

    rows = subtokens(Vocabulary(base), Vocabulary(donor))
    init = propagate.initialise(
        base, base, donor, tmp_path / "init", lep=lep.model_copy(update={"stage": "init"})
    )
    tuned = propagate.initialise(
        instruct,
        base,
        donor,
        tmp_path / "tuned",
        lep=lep.model_copy(update={"stage": "instruct-init"}),
    )
    for made, body in ((init, base), (tuned, instruct)):
        tensors, own = patch.load_tensors(made), load_file(body / "model.safetensors")
        for number, ids in rows.items():
            assert torch.allclose(tensors[HEAD][number], own[HEAD][ids].mean(0), atol=1e-6)
        ids = Tokens.read(made.folder).specials
        for content, number in Tokens.read(body).specials.items():
            assert torch.equal(tensors[EMBEDDING][ids[content]], own[EMBEDDING][number])
        assert not check.check_folder(made.folder) and made.body == body
    assert init.lep.vocabulary_size + 2 == tuned.lep.vocabulary_size
    assert (
        not AutoTokenizer.from_pretrained(init.folder).chat_template
        and AutoTokenizer.from_pretrained(tuned.folder).chat_template
    )


def test_an_artifact_is_a_donor_like_a_checkpoint(trio, lep, tmp_path):
    base, instruct, donor = trio("byte-level")
    whole = propagate.propagate(
        base, instruct, donor, tmp_path / "whole", method("conversion"), lep=lep
    )
    start = propagate.initialise(base, base, donor, tmp_path / "init", lep=lep)
    rows = load_file(donor / "model.safetensors")
    tensors = {name: patch.pad_matrix(rows[name]) for name in (EMBEDDING, HEAD)}
    parents = (Parent(role="body", name="base", location=str(base)),)
    patched = patch.write_patch(
        tmp_path / "donor",
        tensors,
        lep=lep.model_copy(update={"parents": parents}),
        tokenizer_from=start.folder,
        config_from=start.folder,
    )
    made = propagate.propagate(
        base, instruct, patched, tmp_path / "patched", method("conversion"), lep=lep
    )
    assert made.lep.tensors == whole.lep.tensors


def test_policies_are_told_apart(trio, tmp_path):
    base, instruct, donor = trio("byte-level")
    paths = {
        p: lep_bench.adapt(base, instruct, donor, tmp_path / p, row_policy=p)
        for p in ("bytes-exact", "paper")
    }
    leps = {p: artifact.read_artifact(path).lep for p, path in paths.items()}
    assert (
        leps["paper"].row_policy == "paper"
        and leps["paper"].fingerprint != leps["bytes-exact"].fingerprint
    )
    assert leps["paper"].tensors != leps["bytes-exact"].tensors
    assert any("206 of 300" in note for note in leps["paper"].notes)


# What a user can get wrong: one line each, nothing written.


def refused(tmp_path, match, *models, kind=CheckpointError, **options):
    with pytest.raises(kind, match=match) as error:
        lep_bench.adapt(*models, tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".writing-*"))


def test_a_donor_with_another_body_is_refused_with_the_count(trio, lep, tmp_path):
    base, instruct, donor = trio("byte-level")
    other = copy(donor, tmp_path / "other")
    norm = load_file(other / "model.safetensors")["model.norm.weight"]
    edit_tensors(
        other,
        model__norm__weight=norm + 1,
        model__layers__0__mlp__up_proj__weight=torch.zeros(32, 16),
    )
    refused(
        tmp_path,
        r"2 of \d+ body tensors differ \(model.layers.0.mlp.up_proj.weight",
        base,
        instruct,
        other,
    )
    made = propagate.propagate(
        base, instruct, other, tmp_path / "out", method("swap"), lep=lep, discard_donor_body=True
    )
    assert any("2 changed tensors" in note for note in made.lep.notes)
    half = copy(donor, tmp_path / "half")
    # the same numbers in another precision are the same body
    edit_tensors(half, model__norm__weight=norm.half())
    propagate.propagate(base, instruct, half, tmp_path / "ok", method("swap"), lep=lep)


def test_parents_that_do_not_belong_together(trio, tmp_path):
    base, instruct, donor = trio("byte-level")
    foreign = trio("sentencepiece")
    refused(
        tmp_path,
        r"not the base's plus added tokens: \d+ ordinary tokens differ",
        base,
        foreign.instruct,
        donor,
    )
    refused(
        tmp_path,
        "untied embeddings, instruct .* tied ones",
        base,
        trio("byte-level", True).instruct,
        donor,
    )
    wide = copy(donor, tmp_path / "wide")
    edit_tensors(
        wide, model__embed_tokens__weight=torch.zeros(306, 24), lm_head__weight=torch.zeros(306, 24)
    )
    refused(tmp_path, "hidden sizes differ: base .* has 16, donor .* has 24", base, instruct, wide)
    short = copy(donor, tmp_path / "short")
    edit_tensors(short, model__embed_tokens__weight=torch.zeros(300, 16))
    refused(
        tmp_path,
        "the embedding has 300 rows, but the tokenizer has ids up to 305",
        base,
        instruct,
        short,
    )


def test_what_is_no_model(trio, tmp_path):
    base, instruct, donor = trio("byte-level")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, "no config.json", base, instruct, tmp_path / "empty")
    refused(tmp_path, "no such folder", base, tmp_path / "nowhere", donor)
    refused(tmp_path, "Hub", "someone/no-such-model", instruct, donor)
    refused(
        tmp_path,
        "unknown propagation adapter 'conversoin'",
        base,
        instruct,
        donor,
        method="conversoin",
        kind=LepBenchError,
    )
    refused(
        tmp_path,
        "unknown row policy",
        base,
        instruct,
        donor,
        row_policy="papre",
        kind=LepBenchError,
    )
    cut = copy(donor, tmp_path / "cut")
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[:-100])
    refused(tmp_path, "is cut short", base, instruct, cut)
    (tmp_path / "there").mkdir()
    with pytest.raises(LepBenchError, match="exists already"):
        lep_bench.adapt(base, instruct, donor, tmp_path / "there")


def raises(problem, params: Params):
    """Raises."""
    raise ZeroDivisionError("one over zero")


def gives_nan(problem, params: Params):
    """NaN rows in the head only."""
    return lambda rows, ids: rows * (float("nan") if problem.matrix == "head" else 1.0)


def gives_nothing(problem, params: Params):
    """No function."""


def wrong_shape(problem, params: Params):
    """One column short."""
    return lambda rows, ids: rows[:, 1:]


def wrong_type(problem, params: Params):
    """Single precision."""
    return lambda rows, ids: rows.float()


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (raises, r"'bad' \(embedding\) raised ZeroDivisionError: one over zero"),
        (gives_nan, r"'bad' \(head\) gave \d+ rows of \d+ with NaN"),
        (gives_nothing, r"'bad' \(embedding\) returned NoneType: it must return a function"),
        (wrong_shape, r"'bad' \(embedding\) returned rows of shape \(306, 15\) for 306 donor rows"),
        (wrong_type, r"'bad' \(embedding\) returned torch.float32: a float64 tensor is expected"),
    ],
)
def test_adapters_that_fail(trio, lep, tmp_path, function, match):
    with pytest.raises(AdapterError, match=match):
        propagate.propagate(
            *trio("byte-level"), tmp_path / "out", propagation("bad")(function), lep=lep
        )
    assert not list(tmp_path.iterdir())


def test_rows_too_large_for_the_dtype_are_refused(trio, lep, tmp_path):
    base, given, donor = trio("byte-level")
    instruct = copy(given, tmp_path / "instruct")
    edit_tensors(
        instruct,
        **{
            n.replace(".", "__"): t.half()
            for n, t in load_file(instruct / "model.safetensors").items()
        },
    )

    def huge(problem, params: Params):
        """Beyond float16."""
        return lambda rows, ids: rows * 1e9

    with pytest.raises(AdapterError, match="too large for float16"):
        propagate.propagate(
            base, instruct, donor, tmp_path / "out", propagation("huge")(huge), lep=lep
        )
    made = propagate.propagate(base, instruct, donor, tmp_path / "out", method("swap"), lep=lep)
    assert patch.load_tensors(made)[EMBEDDING].dtype == torch.float16


def test_in_float16_and_the_path_of_the_files(trio, tmp_path):
    base, instruct, donor = trio("sentencepiece")
    out = lep_bench.adapt(str(base), instruct, donor, str(tmp_path / "deep" / "out"))
    assert isinstance(out, Path) and artifact.read_artifact(out).lep.kind == "checkpoint"
    assert {p.role for p in artifact.read_artifact(out).lep.parents} == {
        "body",
        "base",
        "instruct",
        "donor",
    }
    assert all(p.digest for p in artifact.read_artifact(out).lep.parents)
