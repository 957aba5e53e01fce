"""Tuning: permitted tensors only, answers only, the end of turn learnt, repeats bit-equal; what a
tuning adapter gets.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from lep_bench import plugin
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.mini import corpus
from lep_bench.records import artifact
from lep_bench.records.artifact import Artifact, Lep, Parent
from lep_bench.surgery import propagate, vocabulary
from lep_bench.testing import pico
from lep_bench.training.finetune import Example, Recipe, Tunable, encode_examples, finetune
from lep_bench.training.loading import end_ids

RECIPE = Recipe(learning_rate=5e-3, batch=8, steps=12, max_length=250, lora_alpha=16)
EXAMPLES = [Example(*pair) for pair in corpus.copy_prompts(24)]


def lep(body: Path, stage: str = "tuning") -> Lep:
    return Lep(
        model=f"pico/{stage}",
        fingerprint="0" * 16,
        kind="patch",
        stage=stage,
        parents=(Parent(role="body", name="pico", location=str(body)),),
    )


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def instruct(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico.family(tmp_path_factory.mktemp("finetune"), kind=request.param, layers=3)[1]


@pytest.fixture(scope="module")
def whole(instruct: Path) -> Artifact:
    return artifact.open_checkpoint(str(instruct), "pico/instruct", "instruct", "0")


@pytest.fixture(scope="module")
def patch(instruct: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("patch")
    adapter = plugin.discover_adapters().get("vocabulary", "bpe").adapter
    base = instruct.parent / "base"
    folder = vocabulary.build_tokenizer(
        base,
        root / "vocabulary",
        adapter,
        adapter.params(size=500),
        islice(corpus.vocabulary_texts(), 800),
    )
    return propagate.initialise(
        instruct, base, folder, root / "init", lep=lep(instruct, "instruct-init")
    )


@pytest.mark.parametrize("which", ["whole", "patch"])
def test_only_permitted_tensors_change_and_repeats_are_bit_equal(
    which: str, request: pytest.FixtureRequest, instruct: Path, tmp_path: Path
) -> None:
    start: Artifact = request.getfixturevalue(which)
    first, again, other = (
        finetune(start, tmp_path / n, EXAMPLES, RECIPE, lep=lep(instruct), seed=s)
        for n, s in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.lep.tensors == again.lep.tensors != other.lep.tensors
    assert first.lep.training["last_loss"] < first.lep.training["first_loss"] - 0.1
    changed = set(first.lep.changed)
    assert {"model.embed_tokens.weight", "lm_head.weight"} < changed
    layers = {name.split(".")[2] for name in changed if ".layers." in name}
    assert layers == {"0", "2"}, "the first and the last of three layers"
    assert not [name for name in changed if "norm" in name]
    assert (first.folder / "tokenizer.json").read_bytes() == (
        start.folder / "tokenizer.json"
    ).read_bytes()
    assert first.lep.vocabulary_size == (start.lep.vocabulary_size or 0)


def test_all_layers_and_a_frozen_vocabulary(whole: Artifact, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"layers": "all", "vocabulary": "frozen", "steps": 3})
    changed = finetune(whole, tmp_path / "a", EXAMPLES, recipe, lep=lep(whole.body)).lep.changed
    assert {name.split(".")[2] for name in changed} == {"0", "1", "2"}
    assert len(changed) == 3 * 7


def test_the_answer_is_learnt_with_the_end_of_turn_and_the_prompt_is_what_the_model_is_asked_with(
    whole: Artifact, patch: Artifact
) -> None:
    for start in (whole, patch):
        tokenizer = AutoTokenizer.from_pretrained(start.folder)
        for item, example in zip(encode_examples(start, EXAMPLES, 250)[0], EXAMPLES):
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": example.prompt}],
                add_generation_prompt=True,
                return_dict=False,
            )
            assert item.ids[: item.answer] == asked
            answer = item.ids[item.answer :]
            assert answer[-1] in end_ids(start.folder) and not set(answer[:-1]) & end_ids(
                start.folder
            )
            assert tokenizer.decode(answer[:-1]).strip() == example.answer


def test_a_model_that_was_tuned_says_what_it_learnt(whole: Artifact, tmp_path: Path) -> None:
    """One answer, learnt by heart, comes back through the engine with its end: labels stand where
    they should.
    """
    from lep_bench.engines.hf import HfEngine

    example = Example("Question: what?", "green hill")
    recipe = Recipe(
        learning_rate=2e-2, batch=4, steps=80, layers="all", lora_alpha=16, weight_decay=0.0
    )
    tuned = finetune(whole, tmp_path / "a", [example] * 4, recipe, lep=lep(whole.body))
    engine = HfEngine(whole.body)
    engine.exchange(tuned)
    item = encode_examples(tuned, [example], 250)[0][0]
    tokenizer = AutoTokenizer.from_pretrained(tuned.folder)
    (made,) = engine.generate(
        [item.ids[: item.answer]], 20, sorted(end_ids(tuned.folder)), (), tokenizer.decode
    )
    assert tokenizer.decode(made, skip_special_tokens=True).strip() == example.answer


def test_long_examples_are_left_out_and_counted(whole: Artifact, tmp_path: Path) -> None:
    long = Example("a", "b " * 400)
    made = finetune(
        whole,
        tmp_path / "a",
        [*EXAMPLES, long],
        RECIPE.model_copy(update={"steps": 1}),
        lep=lep(whole.body),
    )
    assert made.lep.notes == ("1 of 25 examples left out: longer than 250 tokens",)
    with pytest.raises(LepBenchError, match="nothing to tune on"):
        finetune(whole, tmp_path / "b", [long], RECIPE, lep=lep(whole.body))


def test_a_base_cannot_be_tuned_on_chats(whole: Artifact, tmp_path: Path) -> None:
    base = artifact.open_checkpoint(str(whole.body.parent / "base"), "pico/base", "base", "0")
    with pytest.raises(CheckpointError, match="no chat template"):
        finetune(base, tmp_path / "a", EXAMPLES, RECIPE, lep=lep(base.body))


def test_recipes_refuse_nonsense() -> None:
    for wrong in ({"lora_rank": 0}, {"layers": "middle"}, {"batch": -1}, {"learning_rates": 1.0}):
        with pytest.raises(ValidationError):
            Recipe.model_validate(wrong)


def answers(folder: Path, rows: list[dict[str, object]]) -> Path:
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def tunable(start: Artifact, tmp_path: Path, file: Path | None, seed: int = 0) -> Tunable:
    return Tunable(
        start=start,
        out=tmp_path / f"tuned-{seed}",
        lep=lep(start.body),
        answers_file=file,
        corpus="builtin:mini",
        seed=seed,
    )


def test_answers_that_make_no_sense_are_left_out_and_counted(
    whole: Artifact, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "a", "answer": "green"},
        {"prompt": "b", "answer": " \n"},
        {"prompt": "c", "answer": "cut here", "finished": False},
        {"prompt": "d", "answer": "long " * 100, "finished": True},
        {"prompt": "e", "answer": "not asked for"},
    ]
    model = tunable(whole, tmp_path, answers(tmp_path, rows))
    assert model.answers(4, 50) == [Example("a", "green")]
    assert model.notes == [
        (
            "1 of 4 answers of the original instruct model; left out: 1 empty, 1 not finished, 1 "
            "over 50 tokens"
        )
    ]
    with pytest.raises(LepBenchError, match="5 answers, 9 are needed"):
        model.answers(9, 50)
    with pytest.raises(LepBenchError, match="set `answers`"):
        tunable(whole, tmp_path, None).answers(1, 50)
    (tmp_path / "answers.jsonl").write_text('{"prompt": "a"}\n', encoding="utf-8")
    with pytest.raises(LepBenchError, match=r"answers.jsonl:1: "):
        model.answers(1, 50)


def test_self_calibration_through_the_adapter(patch: Artifact, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": prompt, "answer": "зелёный", "finished": True}
        for prompt in corpus.calibration_prompts(10)
    ]
    adapter = plugin.discover_adapters().get("tuning", "self-calibration").adapter
    params = adapter.params.model_validate(
        {
            "answers": 10,
            "copies": 6,
            "answer_tokens": 30,
            "learning_rate": 5e-3,
            "batch": 4,
            "epochs": 2,
            "max_length": 250,
        }
    )
    made = [
        adapter(tunable(patch, tmp_path, answers(tmp_path, rows), seed), params) for seed in (0, 1)
    ]
    assert made[0].lep.tensors != made[1].lep.tensors
    record = made[0].lep.training
    assert (
        record["examples"] == 16
        and record["steps"] == 8
        and record["recipe"]["layers"] == "first-last"
    )
    assert made[0].lep.notes == (
        "10 of 10 answers of the original instruct model",
        "6 texts to repeat",
    )


def test_the_paper_numbers_are_the_defaults() -> None:
    params = plugin.discover_adapters().get("tuning", "self-calibration").adapter.params()
    assert (params.answers, params.copies, params.lora_rank, params.lora_alpha) == (
        13_531,
        10_000,
        8,
        1.0,
    )
    assert (
        params.learning_rate,
        params.weight_decay,
        params.max_length,
        params.batch,
        params.epochs,
    ) == (2.5e-5, 0.1, 8096, 64, 1.0)
