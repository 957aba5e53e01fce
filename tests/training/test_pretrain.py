"""Base, vocabulary, init, continued pre-training: the loss falls, nothing but embedding and head
changes, repeats are equal.
"""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lep_bench import plugin
from lep_bench.config.schema import Pretraining
from lep_bench.errors import LepBenchError
from lep_bench.mini import corpus
from lep_bench.records import artifact
from lep_bench.records.artifact import Artifact, Lep, Parent
from lep_bench.surgery import propagate, vocabulary
from lep_bench.surgery.weights.patch import load_tensors
from lep_bench.testing import pico
from lep_bench.training import data, loading
from lep_bench.training.pretrain import pretrain

SETTINGS = Pretraining(
    characters=12_000, block=32, batch=16, learning_rate=1e-2, warmup=2, weight_decay=0.1
)


def lep(body: Path, stage: str = "donor") -> Lep:
    return Lep(
        model=f"pico/{stage}",
        fingerprint="0" * 16,
        kind="patch",
        stage=stage,
        parents=(Parent(role="body", name="pico", location=str(body)),),
    )


@pytest.fixture(
    scope="module",
    params=[("byte-level", False), ("byte-level", True), ("sentencepiece", False)],
    ids=["llama", "tied", "mistral"],
)
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A subtoken-mean start with an extended vocabulary; the body is stored in float16, as shipped
    ones are.
    """
    root = tmp_path_factory.mktemp("pretrain")
    kind, tied = request.param
    base = pico.family(root, kind=kind, tied=tied)[0]
    halve(base)
    adapter = plugin.discover_adapters().get("vocabulary", "extended").adapter
    folder = vocabulary.build_tokenizer(
        base,
        root / "vocabulary",
        adapter,
        adapter.params(size=50),
        islice(corpus.vocabulary_texts(), 800),
    )
    return propagate.initialise(base, base, folder, root / "init", lep=lep(base, "init"))


def halve(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)


def train(start: Artifact, out: Path, seed: int = 0, **changes: object) -> Artifact:
    settings = SETTINGS.model_copy(update=changes)
    return pretrain(
        start, out, corpus.pretraining_texts(), settings, lep=lep(start.body), seed=seed
    )


def test_loss_falls_only_the_vocabulary_changes_and_repeats_are_bit_equal(
    start: Artifact, tmp_path: Path
) -> None:
    done: list[tuple[int, int, float]] = []
    first = pretrain(
        start,
        tmp_path / "a",
        corpus.pretraining_texts(),
        SETTINGS,
        lep=lep(start.body),
        seed=0,
        progress=lambda *event: done.append(event),
    )
    record = first.lep.training
    assert record["last_loss"] < record["first_loss"] - 0.3
    assert (
        done[-1][:2] == (record["steps"], record["steps"])
        and len(done) == record["steps"]
        and done[0][2] == pytest.approx(record["first_loss"], abs=1e-4)
    )
    body = load_file(start.body / "model.safetensors")
    names = {name for name in body if "embed_tokens" in name or "lm_head" in name}
    assert set(first.lep.changed) == names
    assert {t.dtype for t in load_tensors(first).values()} == {torch.float16}
    assert train(start, tmp_path / "b").lep.tensors == first.lep.tensors
    assert artifact.read_artifact(tmp_path / "a").lep == first.lep


def test_seed_orders_the_blocks_and_changes_nothing_else(start: Artifact, tmp_path: Path) -> None:
    zero, one = (train(start, tmp_path / str(seed), seed) for seed in (0, 1))
    assert zero.lep.tensors != one.lep.tensors
    for key in ("characters", "documents", "tokens", "steps", "flops"):
        assert zero.lep.training[key] == one.lep.training[key] > 0
    assert zero.lep.training["characters"] == SETTINGS.characters


def test_padding_rows_are_not_trained_and_stay_the_mean(start: Artifact, tmp_path: Path) -> None:
    donor = train(start, tmp_path / "a")
    real = donor.lep.vocabulary_size
    assert real == start.lep.vocabulary_size
    for matrix in load_tensors(donor).values():
        assert matrix.shape[0] % 64 == 0
        mean = matrix[:real].double().mean(0)
        assert torch.allclose(
            matrix[real:].double(), mean.expand(matrix.shape[0] - real, -1), atol=2e-3
        )


def test_the_original_vocabulary_is_trained_on_the_base_itself(
    start: Artifact, tmp_path: Path
) -> None:
    base = artifact.open_checkpoint(str(start.body), "pico/base", "base", "0")
    donor = train(base, tmp_path / "a")
    assert set(donor.lep.changed) == set(start.lep.changed)
    assert (donor.folder / "tokenizer.json").read_bytes() == (
        start.body / "tokenizer.json"
    ).read_bytes()
    assert donor.lep.training["tokens"] > train(start, tmp_path / "b").lep.training["tokens"], (
        "the new vocabulary needs fewer tokens"
    )


def test_no_gradient_of_the_body_is_computed(start: Artifact) -> None:
    model = loading.load_trainable(start)
    model.freeze_all_but_vocabulary()
    ids = torch.arange(12).view(2, 6)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    with_gradient = {name for name, p in model.model.named_parameters() if p.grad is not None}
    assert with_gradient == set(start.lep.changed)


def test_loss_is_that_of_transformers(start: Artifact) -> None:
    model = loading.load_trainable(start)
    ids = torch.tensor([[1, 5, 9, 260, 7], [3, 3, 8, 2, 1]])
    labels = ids[:, 1:].clone()
    labels[1, 2:] = loading.IGNORED
    logits = model.model(input_ids=ids[:, :-1]).logits[..., : model.real]
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=loading.IGNORED, reduction="sum"
    )
    assert model.loss(ids[:, :-1], labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_step_in_stretches_equals_the_step_at_once(
    start: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.randint(0, 200, (6, 9), generator=torch.Generator().manual_seed(0))
    results = []
    for chunk in (loading.CHUNK, 16):
        monkeypatch.setattr(loading, "CHUNK", chunk)
        model = loading.load_trainable(start)
        model.freeze_all_but_vocabulary()
        loss = loading.take_step(
            model,
            loading.make_optimizer(model.model.parameters(), 0.0),
            rows[:, :-1],
            rows[:, 1:],
            1e-3,
        )
        results.append((loss, model.embedding.grad.clone()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)


def test_bad_settings_end_in_one_line_and_leave_nothing(start: Artifact, tmp_path: Path) -> None:
    with pytest.raises(LepBenchError, match="lower it or add text"):
        pretrain(start, tmp_path / "a", iter(["мало"]), SETTINGS, lep=lep(start.body))
    with pytest.raises(LepBenchError, match="not finite"):
        train(start, tmp_path / "b", learning_rate=1e30, warmup=0)
    assert not list(tmp_path.iterdir())


def test_schedule() -> None:
    rates = [loading.learning_rate(step, 20, 1.0, 4, "cosine") for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert all(a >= b for a, b in zip(rates[4:], rates[5:])) and 0 < rates[-1] < 0.02
    assert loading.learning_rate(19, 20, 1.0, 4, "constant") == 1.0


def test_record_is_short_json() -> None:
    record = loading.summarise_losses([math.exp(-step / 200) for step in range(1001)])
    assert (
        len(record["loss"]) <= loading.POINTS and record["loss"][-1][0] == 1001 == record["steps"]
    )
    assert json.loads(json.dumps(record)) == record


def test_the_bodys_pad_id_is_a_token_like_any_other(start: Artifact) -> None:
    """transformers gives the embedding a padding_idx from the body's config; that row would
    silently never be trained.
    """
    config = start.body / "config.json"
    before = config.read_text()
    try:
        config.write_text(json.dumps({**json.loads(before), "pad_token_id": 300}))
        model = loading.load_trainable(start)
    finally:
        config.write_text(before)
    ids = torch.tensor([[299, 300, 301, 300]])
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    assert model.embedding.grad is not None and model.embedding.grad[300].abs().sum() > 0


def test_one_token_left_over_is_no_batch(
    start: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = data.pack_texts(start.folder, corpus.pretraining_texts(), 2_000, 32)
    ids = np.concatenate([blocks.ids[:16], np.full((1, 32), data.NOTHING, dtype=np.int32)])
    ids[16, 0] = 5
    monkeypatch.setattr(data, "pack_texts", lambda *_: data.PackedTexts(ids, 2_000, 1, 16 * 32 + 1))
    made = train(start, tmp_path / "a")
    assert made.lep.training["steps"] == 1 and math.isfinite(made.lep.training["last_loss"])
