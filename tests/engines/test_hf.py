"""The hf engine against transformers' own forward pass and `generate`, one request at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from lep_bench.engines.base import StopStrings, TokenScores, make_batches, read_stop_ids
from lep_bench.engines.hf import HfEngine
from lep_bench.errors import CheckpointError
from lep_bench.records.artifact import Artifact, Lep, Parent
from lep_bench.surgery.weights import patch
from tests.engines.agreement import ROUNDING, options_agree, scores_agree, texts_agree

VOCABULARY = 96
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
KINDS = ["llama-untied", "llama-tied", "mistral-window"]


def make(folder: Path, kind: str, rows: int = VOCABULARY, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    shape = {
        **SHAPE,
        "vocab_size": rows,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "eos_token_id": [1, 2],
    }
    if kind.startswith("mistral"):
        model = MistralForCausalLM(
            MistralConfig(**shape, sliding_window=7, tie_word_embeddings=False)
        )
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=kind == "llama-tied"))
    model.save_pretrained(folder)
    return folder


def whole(folder: Path, real: int = 0) -> Artifact:
    return Artifact(
        folder,
        folder,
        Lep(model="body", fingerprint="0", kind="checkpoint", stage="base", vocabulary_size=real),
    )


def variant(folder: Path, body: Path, tensors: dict[str, torch.Tensor], real: int = 0) -> Artifact:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(tensors, folder / "patch.safetensors")
    lep = Lep(
        model=folder.name,
        fingerprint="1",
        kind="patch",
        stage="propagation",
        parents=(Parent(role="body", name="b", location=str(body)),),
        vocabulary_size=real,
    )
    return Artifact(folder, body, lep)


def texts(count: int, longest: int, seed: int, rows: int = VOCABULARY) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(3, rows, (n,), generator=generator).tolist() for n in lengths]


def reference(
    model: torch.nn.Module, context: list[int], continuation: list[int], real: int
) -> tuple[list[float], bool]:
    """One sequence, whole logits, no batch, no cache."""
    with torch.inference_mode():
        logits = (
            model(torch.tensor([context + continuation]))
            .logits[0, len(context) - 1 : -1, :real]
            .double()
        )
    target = torch.tensor(continuation)
    return torch.log_softmax(logits, -1).gather(1, target[:, None])[:, 0].tolist(), bool(
        (logits.argmax(-1) == target).all()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_equal_transformers_one_by_one(tmp_path: Path, kind: str) -> None:
    body = make(tmp_path / "body", kind)
    model = AutoModelForCausalLM.from_pretrained(body)
    engine = HfEngine(body, batch_tokens=100)
    contexts = texts(12, 40, seed=1)
    pairs = [(c, t) for c in contexts for t in texts(1, 30, seed=len(c))]  # alone
    pairs += [(c, t) for c in contexts[:6] for t in texts(4, 9, seed=len(c) + 50)]  # shared context
    pairs += [([0], t) for t in texts(5, 60, seed=3)] + pairs[:2]
    alone = [reference(model, context, continuation, VOCABULARY) for context, continuation in pairs]
    scores_agree(
        engine,
        pairs,
        engine.continuation_logprobs(pairs),
        [TokenScores(tuple(logprobs), greedy) for logprobs, greedy in alone],
    )
    options = [[5, 6, 7] if i % 2 else list(range(VOCABULARY)) for i in range(len(contexts))]
    each = [
        [reference(model, context, [option], VOCABULARY) for option in wanted]
        for context, wanted in zip(contexts, options, strict=True)
    ]
    expected = [[(logprob, best) for (logprob,), best in answers] for answers in each]
    options_agree(engine, contexts, options, engine.option_logprobs(contexts, options), expected)
    assert (
        sum(best for _, best in engine.option_logprobs([contexts[0]], [list(range(VOCABULARY))])[0])
        == 1
    )


@pytest.mark.parametrize("kind", KINDS)
def test_generation_equals_transformers_one_by_one(tmp_path: Path, kind: str) -> None:
    body = make(tmp_path / "body", kind)
    model = AutoModelForCausalLM.from_pretrained(body)
    engine = HfEngine(body, batch_tokens=200)
    contexts = texts(15, 40, seed=4)
    contexts.append(contexts[3])
    stop = (1, 2, 30, 31, 32, 33)  # many, so that rows end at different steps
    ours = engine.generate(contexts, 24, stop, [], lambda ids: "")
    theirs = []
    for context in contexts:
        plain = model.generate(
            torch.tensor([context]),
            attention_mask=torch.ones(1, len(context), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=list(stop),
            pad_token_id=1,
        )[0, len(context) :].tolist()
        theirs.append([token for token in plain if token not in stop])
    texts_agree(engine, contexts, ours, theirs, stop)
    assert len({len(row) for row in ours}) > 3


def test_stop_strings_end_after_the_token_that_completes_them(tmp_path: Path) -> None:
    body = make(tmp_path / "body", "llama-untied")
    engine = HfEngine(body)
    contexts = texts(10, 20, seed=5)

    def decode(ids: list[int]) -> str:
        return "".join(chr(ord("a") + i % 26) for i in ids)

    free = engine.generate(contexts, 20, (), [], decode)
    stop = decode(free[0][4:6])
    ends = [
        next((n for n in range(len(text) + 1) if stop in decode(text[:n])), len(text))
        for text in free
    ]
    texts_agree(
        engine,
        contexts,
        engine.generate(contexts, 20, (), [stop], decode),
        [text[:n] for text, n in zip(free, ends, strict=True)],
    )
    assert min(ends) < 20
    assert not StopStrings([""], decode).hit([3])
    assert engine.generate(contexts, 0, (), [], decode) == [[]] * 10


@pytest.mark.parametrize("kind", KINDS)
def test_exchange_equals_a_fresh_model_and_the_body_comes_back(tmp_path: Path, kind: str) -> None:
    body = make(tmp_path / "body", kind)
    engine = HfEngine(body, batch_tokens=150)
    fresh = engine.body_digest()
    other = AutoModelForCausalLM.from_pretrained(
        make(tmp_path / "other", kind, rows=128, seed=1)
    ).state_dict()
    names = ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"] + (
        ["lm_head.weight"] if kind != "llama-tied" else []
    )
    big = variant(
        tmp_path / "big", body, {n: other[n].contiguous().clone() for n in names}, real=110
    )
    small_rows = {n: other[n][:64].contiguous().clone() for n in names if "mlp" not in n}
    small = variant(tmp_path / "small", body, small_rows)
    contexts = texts(8, 30, seed=6, rows=64)
    expected = {}
    for artifact, rows, real in ((big, 128, 110), (small, 64, 64)):
        model = AutoModelForCausalLM.from_pretrained(body)
        model.resize_token_embeddings(rows, mean_resizing=False)
        model.load_state_dict(
            {
                **model.state_dict(),
                **patch.load_tensors(artifact),
                **(
                    {"lm_head.weight": patch.load_tensors(artifact)["model.embed_tokens.weight"]}
                    if kind == "llama-tied"
                    else {}
                ),
            }
        )
        expected[artifact.name] = [reference(model, c, [3, 4, 5], real)[0] for c in contexts]
    for artifact in (big, small, big, whole(body), small):
        engine.exchange(artifact)
        if artifact.name in expected:
            got = engine.continuation_logprobs([(c, [3, 4, 5]) for c in contexts])
            for score, wanted in zip(got, expected[artifact.name], strict=True):
                assert score.logprobs == pytest.approx(wanted, abs=ROUNDING)
            assert engine._model.config.vocab_size == engine._output.weight.shape[0]
            assert engine.body_digest() != fresh
        else:
            assert engine.body_digest() == fresh
    engine.restore()
    assert engine.body_digest() == fresh == HfEngine(body).body_digest()


def test_padding_rows_never_win_nor_enter_the_softmax(tmp_path: Path) -> None:
    body = make(tmp_path / "body", "llama-untied")
    state = AutoModelForCausalLM.from_pretrained(body).state_dict()
    loud = torch.cat([state["lm_head.weight"], 50 * state["lm_head.weight"][:32]])
    padded = variant(
        tmp_path / "padded",
        body,
        {
            "lm_head.weight": loud,
            "model.embed_tokens.weight": torch.cat(
                [state["model.embed_tokens.weight"], torch.zeros(32, 32)]
            ),
        },
        real=VOCABULARY,
    )
    engine = HfEngine(body)
    contexts = texts(6, 20, seed=7)
    options = [[5, 9]] * 6
    before = (engine.option_logprobs(contexts, options), engine.generate(contexts, 8, (), [], str))
    engine.exchange(padded)
    options_agree(
        HfEngine(body), contexts, options, engine.option_logprobs(contexts, options), before[0]
    )
    texts_agree(HfEngine(body), contexts, engine.generate(contexts, 8, (), [], str), before[1])
    with pytest.raises(CheckpointError, match="token id 96 is outside the vocabulary of 96"):
        engine.option_logprobs([[96]], [[1]])


def test_wrong_patches_are_refused_and_leave_the_body_alone(tmp_path: Path) -> None:
    body = make(tmp_path / "body", "llama-tied")
    state = AutoModelForCausalLM.from_pretrained(body).state_dict()
    embedding = state["model.embed_tokens.weight"].clone()
    engine = HfEngine(body)
    fresh = engine.body_digest()
    nan = embedding.clone()
    nan[3, 3] = float("nan")
    cases = {
        "foreign": (
            {"model.embed_tokens.weight": embedding},
            tmp_path / "elsewhere",
            "belongs to the body",
        ),
        "unknown": ({"model.extra.weight": embedding}, body, "is not in the body"),
        "shape": ({"model.norm.weight": torch.zeros(5)}, body, "has shape"),
        "nan": ({"model.embed_tokens.weight": nan}, body, "not finite"),
        "apart": (
            {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding + 1},
            body,
            "ties them",
        ),
    }
    for name, (tensors, parent, message) in cases.items():
        with pytest.raises(CheckpointError, match=message):
            engine.exchange(variant(tmp_path / name, parent, tensors))
        assert engine.body_digest() == fresh
    with pytest.raises(CheckpointError, match="counts 500 vocabulary entries"):
        engine.exchange(
            variant(tmp_path / "count", body, {"model.embed_tokens.weight": embedding}, real=500)
        )


def test_folders_that_are_no_whole_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        HfEngine(tmp_path)
    body = make(tmp_path / "body", "llama-untied")
    from safetensors.torch import load_file, save_file

    tensors = load_file(body / "model.safetensors")
    save_file(
        {n: t for n, t in tensors.items() if n != "model.norm.weight"},
        body / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(
        CheckpointError,
        match=r"incomplete: 1 tensors are missing, the first is model\.norm\.weight",
    ):
        HfEngine(body)
    (body / "model.safetensors").write_bytes((body / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        HfEngine(body)


def test_batches_and_stop_ids(tmp_path: Path) -> None:
    made = make_batches([3, 9, 9, 2, 50], 20)
    assert made == [[4], [1, 2], [0, 3]]
    assert make_batches([], 10) == []
    assert read_stop_ids(tmp_path) == ()
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert read_stop_ids(tmp_path) == (7,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 7]}))
    assert read_stop_ids(tmp_path) == (7, 9)
