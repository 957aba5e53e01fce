"""Models of one body exchanged inside a running vLLM: equal to a fresh engine, and faults are
caught.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from lep_bench.engines.hf import HfEngine
from lep_bench.engines.vllm import start
from lep_bench.engines.vllm.engine import VllmEngine
from lep_bench.engines.vllm.host import Host, NotInPlaceError
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.records import artifact
from lep_bench.records.artifact import Artifact, Lep
from lep_bench.surgery.export import export_checkpoint
from lep_bench.surgery.propagate import initialise
from lep_bench.surgery.weights.patch import write_patch
from lep_bench.testing import pico
from tests.engines.agreement import options_agree, scores_agree, texts_agree
from tests.engines.test_vllm import EMBEDDING, HEAD, built_in, contexts_of, same_as_hf

try:
    start.find_installed()
except LepBenchError as error:
    pytest.skip(str(error), allow_module_level=True)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """Of mini-llama/instruct: about 300 tokens; 1,100 tokens, all rows and a norm other than the
    body's; the body.
    """
    folder = tmp_path_factory.mktemp("variants")
    body = built_in("mini-llama/instruct")
    base = artifact.open_checkpoint("builtin:mini-llama/base", "mini-llama/base", "base", "base")
    lep = Lep(model="small", fingerprint="small", kind="patch", stage="instruct-init")
    small = initialise(
        body.body, base.folder, pico.donor(folder / "donor", base.folder), folder / "small", lep=lep
    )
    return [small, large(folder / "large", body), body]


def large(folder: Path, body: Artifact) -> Artifact:
    tensors = load_file(body.folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    norm = "model.layers.1.input_layernorm.weight"
    changed = {
        name: torch.cat([tensors[name].flip(0), torch.randn(76, 128, generator=generator)])[
            :, : tensors[name].shape[1]
        ]
        for name in (EMBEDDING, HEAD)
    }
    changed[norm] = 1.5 * tensors[norm]
    tokens = folder.parent / "tokens"
    shutil.copytree(body.folder, tokens)
    tokenizer = Tokenizer.from_file(str(tokens / "tokenizer.json"))
    tokenizer.add_tokens([f"added{n}" for n in range(76)])
    tokenizer.save(str(tokens / "tokenizer.json"))
    lep = Lep(
        model="large",
        fingerprint="large",
        kind="patch",
        stage="tuning",
        vocabulary_size=len(changed[HEAD]),
        parents=small_parent(body),
    )
    return write_patch(folder, changed, lep=lep, tokenizer_from=tokens, config_from=body.folder)


def small_parent(body: Artifact) -> tuple[artifact.Parent, ...]:
    return (artifact.Parent(role="body", name=body.name, location=str(body.body)),)


@pytest.fixture(scope="module")
def running(variants: list[Artifact]) -> Iterator[VllmEngine]:
    engine = VllmEngine(variants[-1].body, rows=1200)
    yield engine
    engine.close()


def questions(rows: int) -> Any:
    contexts = contexts_of(rows, 1, 7, 32, 33, 90, 200)
    every = [list(range(rows))] * len(contexts)
    return (
        contexts,
        every,
        [(context, context[-3:] + [rows - 1]) for context in contexts for _ in range(2)],
    )


def answers(engine: VllmEngine, rows: int) -> Any:
    contexts, every, pairs = questions(rows)
    made = engine.generate(contexts, 12, (), [], lambda ids: " ".join(map(str, ids)))
    return engine.option_logprobs(contexts, every), engine.continuation_logprobs(pairs), made


def answers_agree(reference: HfEngine, ours: Any, theirs: Any) -> None:
    """Of two engines with room for another number of rows: the head's product is another one
    there.
    """
    contexts, every, pairs = questions(reference.real_rows)
    options_agree(reference, contexts, every, ours[0], theirs[0])
    scores_agree(reference, pairs, ours[1], theirs[1])
    texts_agree(reference, contexts, ours[2], theirs[2])


def test_an_exchanged_engine_repeats_itself_bit_for_bit_and_equals_a_fresh_one(
    variants: list[Artifact], running: VllmEngine, tmp_path: Path
) -> None:
    exchanged = {}
    running.exchange(variants[-1])
    assert running._host
    digest, host = running._host.digest(), running._host
    for model in [*variants, variants[0], variants[1], variants[0], variants[-1]]:
        running.exchange(model)
        assert not running.remarks()
        got = answers(running, running.real_rows)
        assert exchanged.setdefault(model.name, got) == got
    assert running._host is host and not running.remarks()  # one start for all of it
    assert host.digest() == digest  # the body is as it was loaded
    reference = HfEngine(variants[-1].body)
    for model in variants[:2]:
        running.exchange(model)
        assert running._host.digest() != digest
        reference.exchange(model)
        same_as_hf(running, reference, contexts_of(min(300, running.real_rows), 1, 20, 64))
    running.close()
    for number, model in enumerate(variants[:2]):
        whole = artifact.read_artifact(export_checkpoint(model, tmp_path / str(number)))
        fresh = VllmEngine(whole.body)
        fresh.exchange(whole)
        reference.exchange(model)
        answers_agree(reference, answers(fresh, fresh.real_rows), exchanged[model.name])
        fresh.close()


def test_what_cannot_be_exchanged_gets_a_fresh_engine(
    variants: list[Artifact], running: VllmEngine, tmp_path: Path
) -> None:
    body = variants[-1]
    tensors = load_file(body.folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    lep = Lep(
        model="deep",
        fingerprint="deep",
        kind="patch",
        stage="tuning",
        vocabulary_size=len(tensors[HEAD]),
        parents=small_parent(body),
    )
    deep = write_patch(
        tmp_path / "deep",
        {name: 1.1 * tensors[name]},
        lep=lep,
        tokenizer_from=body.folder,
        config_from=body.folder,
    )
    reference = HfEngine(body.body)
    remarks = []
    for model in (variants[0], deep, variants[0]):
        running.exchange(model)
        remarks.append(running.remarks())
        reference.exchange(model)
        same_as_hf(running, reference, contexts_of(300, 1, 20, 64))
    assert remarks[0] == remarks[2] == ()
    assert remarks[1][0].startswith(
        f"vLLM was started anew for it: lep_exchange: vLLM keeps {name}"
    )


def test_a_vocabulary_larger_than_the_room_starts_anew_once(variants: list[Artifact]) -> None:
    engine = VllmEngine(variants[-1].body)
    engine.exchange(variants[-1])
    first = engine._host
    engine.exchange(variants[1])
    second = engine._host
    for model in (variants[0], variants[-1], variants[1]):
        engine.exchange(model)
    assert first is not second and engine._host is second and not engine.remarks()
    engine.close()


def _nothing(*_: Any, **__: Any) -> None:
    return None


def leave_out(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out one of the steps of an exchange that fail silently."""
    from lep_bench.engines.vllm.worker import WorkerExtension

    if step in ("embedding", "head"):
        from vllm.model_executor.layers.vocab_parallel_embedding import (
            ParallelLMHead,
            VocabParallelEmbedding,
        )

        loader: Callable[..., None] = VocabParallelEmbedding.weight_loader
        skipped = ParallelLMHead if step == "head" else VocabParallelEmbedding
        monkeypatch.setattr(
            VocabParallelEmbedding,
            "weight_loader",
            lambda m, *given: None if type(m) is skipped else loader(m, *given),
        )
    elif step == "prefix cache":
        monkeypatch.setattr(Host, "forget", _nothing)
    else:
        monkeypatch.setattr(
            WorkerExtension,
            {"packed head": "lep_pack", "padding rows": "lep_limit_rows"}[step],
            _nothing,
        )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("embedding", "embed_tokens.weight is not what the files hold"),
        ("head", "lm_head.weight is not what the files hold"),
        ("packed head", "its log-probabilities differ from the reference"),
        ("padding rows", "ids can be chosen, the vocabulary has"),
        ("prefix cache", "an answer out of the prefix cache differ"),
    ],
)
def test_each_step_that_fails_silently_is_caught(
    step: str, message: str, variants: list[Artifact], running: VllmEngine
) -> None:
    running.exchange(variants[1])
    host = running._host
    assert host
    from lep_bench.surgery.weights.checkpoint import Checkpoint

    with pytest.MonkeyPatch.context() as patched:
        leave_out(step, patched)
        with pytest.raises(NotInPlaceError, match=message):
            host.put(Checkpoint.open(variants[0]), variants[0].lep.vocabulary_size)
    running.close()
    running.exchange(variants[0])  # with every step, the same exchange is proven
    assert not running.remarks()


def test_a_failed_proof_starts_a_fresh_engine_and_says_so(
    variants: list[Artifact], running: VllmEngine
) -> None:
    running.exchange(variants[1])
    put = Host.put

    def only_fresh(host: Host, model: Any, real: int) -> None:
        if host.rows > model.rows:  # in place, with room for more
            raise NotInPlaceError("made up")
        put(host, model, real)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Host, "put", only_fresh)
        running.exchange(variants[0])
    assert running.remarks() == ("vLLM was started anew for it: made up",)
    reference = HfEngine(variants[-1].body)
    reference.exchange(variants[0])
    same_as_hf(running, reference, contexts_of(300, 1, 20, 64))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Host, "put", lambda *_: (_ for _ in ()).throw(NotInPlaceError("made up")))
        with pytest.raises(
            CheckpointError,
            match="large: a fresh vLLM fails the proof, so none of its answers can be used: made up",
        ):
            running.exchange(variants[1])
    assert running._host is None


def test_room_for_more_is_padding_before_the_first_exchange_too(variants: list[Artifact]) -> None:
    body = variants[-1]
    engine, reference = VllmEngine(body.body, rows=1200), HfEngine(body.body)
    asked = ([[5, 6, 7]], [[1, 2, body.lep.vocabulary_size - 1]])
    options_agree(
        reference, *asked, engine.option_logprobs(*asked), reference.option_logprobs(*asked)
    )
    smaller = Artifact(
        body.folder, body.body, body.lep.model_copy(update={"vocabulary_size": 1000})
    )
    engine.exchange(smaller)
    reference.exchange(smaller)
    same_as_hf(engine, reference, contexts_of(1000, 1, 20, 64))
    engine.close()


def test_a_new_start_that_fails_leaves_no_half_model(
    variants: list[Artifact], running: VllmEngine
) -> None:
    running.exchange(variants[1])
    contexts = contexts_of(300, 1, 20, 64)
    options = [[1, 2]] * 3
    before = running.option_logprobs(contexts, options)
    with pytest.MonkeyPatch.context() as patched:
        leave_out("head", patched)
        patched.setattr(
            "lep_bench.engines.vllm.engine.export_checkpoint",
            lambda *_: (_ for _ in ()).throw(LepBenchError("the disk is full")),
        )
        with pytest.raises(LepBenchError, match="the disk is full"):
            running.exchange(variants[0])
    reference = HfEngine(variants[-1].body)
    reference.exchange(variants[1])
    options_agree(reference, contexts, options, running.option_logprobs(contexts, options), before)


def test_tied_matrices(tmp_path: Path) -> None:
    plain = built_in("mini-llama/instruct")
    folder = tmp_path / "tied"
    shutil.copytree(plain.folder, folder)
    tensors = load_file(folder / "model.safetensors")
    head = tensors.pop(HEAD)
    save_file({**tensors, EMBEDDING: head}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(
        json.dumps({**config, "tie_word_embeddings": True}), encoding="utf-8"
    )
    body = Artifact(folder, folder, plain.lep)
    lep = Lep(
        model="tied",
        fingerprint="tied",
        kind="patch",
        stage="donor",
        vocabulary_size=900,
        parents=small_parent(body),
    )
    variant = write_patch(
        tmp_path / "variant",
        {EMBEDDING: head.flip(0)[:900].clone()},
        lep=lep,
        tokenizer_from=folder,
        config_from=folder,
    )
    ours, reference = VllmEngine(folder), HfEngine(folder)
    for model in (body, variant, body):
        ours.exchange(model)
        reference.exchange(model)
        same_as_hf(ours, reference, contexts_of(900, 1, 20, 64))
    assert not ours.remarks()
    ours.close()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_number_formats(dtype: str, variants: list[Artifact]) -> None:
    """In the formats that GPUs run in: bit for bit what it said before the other models were
    there.
    """
    engine, got = VllmEngine(variants[-1].body, dtype=dtype, rows=1200), {}
    try:
        for model in (*variants, variants[0]):
            engine.exchange(model)
            answered = answers(engine, engine.real_rows)
            assert got.setdefault(model.name, answered) == answered
        assert not engine.remarks() and len({str(value) for value in got.values()}) == len(variants)
    finally:
        engine.close()
