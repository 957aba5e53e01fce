"""`lep-bench vocabulary`: what it writes, what it says, and mistakes."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lep_bench.mini import corpus
from lep_bench.surgery.check import check_folder
from lep_bench.testing import pico

RUSSIAN = "Столица Франции — Париж. Какая столица у Испании?"


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    return pico.family(tmp_path_factory.mktemp("pico"), kind=request.param)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files: they are read one after the other."""
    folder, texts = tmp_path_factory.mktemp("text"), list(islice(corpus.vocabulary_texts(), 600))
    files = [folder / "a.jsonl", folder / "b.jsonl"]
    for file, part in zip(files, (texts[:300], texts[300:])):
        file.write_text(
            "".join(json.dumps({"body": one}, ensure_ascii=False) + "\n" for one in part),
            encoding="utf-8",
        )
    return files


def test_a_base_with_weights_becomes_a_whole_model_that_starts_from_means(
    cli, family, text: list[Path], tmp_path: Path
) -> None:
    base, instruct = family
    out = tmp_path / "new"
    answer = cli(
        "vocabulary", "extended", instruct, out, "--corpus", *text, "--field", "body", "--size", 60
    )
    assert answer.code == 0, answer.err
    phases = [line.split()[0] for line in answer.out.splitlines()]
    assert (
        phases[1:5] == ["reading", "training", "checking", "writing"]
        and f"written: {out}" in answer.out
    )
    assert not [finding for finding in check_folder(out) if finding.level == "error"]
    report = json.loads((out / "vocabulary.json").read_text(encoding="utf-8"))
    assert (
        report["documents"] == 600
        and report["new"] == 60
        and report["unreachable"] == 0
        and report["method"] == "extended"
    )
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (instruct, out))
    assert new.chat_template == old.chat_template and new.chat_template
    model, before = (
        AutoModelForCausalLM.from_pretrained(out),
        AutoModelForCausalLM.from_pretrained(instruct),
    )
    rows, old_rows = model.get_input_embeddings().weight, before.get_input_embeddings().weight
    assert torch.equal(rows[: len(old)], old_rows[: len(old)]), "old tokens keep their rows"
    token = len(old)
    parts = [
        part.id for part in old.backend_tokenizer.model.tokenize(new.convert_ids_to_tokens(token))
    ]
    assert len(parts) > 1 and torch.allclose(rows[token], old_rows[parts].mean(0), atol=1e-6)
    assert json.loads((out / "lep.json").read_text(encoding="utf-8"))["stage"] == "init"
    unchanged = "zyx 42"
    assert torch.allclose(
        logits(model, new, unchanged)[..., : len(old)],
        logits(before, old, unchanged)[..., : len(old)],
        atol=1e-5,
    )


def logits(model, tokenizer, text: str) -> torch.Tensor:
    with torch.inference_mode():
        return model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits


def test_without_weights_or_by_wish_it_is_a_tokenizer_with_its_chat_template(
    cli, family, text: list[Path], tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(family[1], alone, ignore=shutil.ignore_patterns("*.safetensors"))
    for folder, name, options in ((alone, "a", ()), (family[1], "b", ("--tokenizer-only",))):
        answer = cli(
            "vocabulary",
            "bpe",
            folder,
            tmp_path / name,
            "--size",
            500,
            "--corpus",
            *text,
            "--field",
            "body",
            *options,
        )
        assert answer.code == 0 and "tokenizer" in answer.out.splitlines()[-1], answer.err
        assert not (tmp_path / name / "model.safetensors").exists() and "writing" not in answer.out
        loaded = AutoTokenizer.from_pretrained(tmp_path / name)
        assert loaded.chat_template == AutoTokenizer.from_pretrained(family[1]).chat_template
        assert loaded.decode(loaded(RUSSIAN, add_special_tokens=False)["input_ids"]) == RUSSIAN


@pytest.mark.parametrize("method", ["extended", "optimized"])
def test_union_counts_the_tokens_that_come_out_of_no_text(
    cli, family, text: list[Path], tmp_path: Path, method: str
) -> None:
    keep = ("--keep", 300) if method == "optimized" else ()
    for name, more, size in (("union", ("--union",), 600), ("ours", (), 100)):
        answer = cli(
            "vocabulary",
            method,
            family[0],
            tmp_path / name,
            "--size",
            size,
            *keep,
            *more,
            "--corpus",
            *text,
            "--field",
            "body",
        )
        assert answer.code == 0, answer.err
    union, ours = (
        json.loads((tmp_path / name / "vocabulary.json").read_text(encoding="utf-8"))
        for name in ("union", "ours")
    )
    assert union["method"] == f"{method}-union" and union["unreachable"] > 0 == ours["unreachable"]
    assert f"{union['unreachable']:,} of {union['new']:,} new tokens" in " ".join(
        json.loads((tmp_path / "union" / "lep.json").read_text())["notes"]
    )


MISTAKES = {
    ("extendet", "BASE", "OUT", "--corpus", "TEXT"): "did you mean extended",
    ("bpe", "BASE", "OUT", "--union", "--corpus", "TEXT"): "--union: bpe has no such form",
    (
        "bpe",
        "BASE",
        "OUT",
        "--keep",
        "300",
        "--corpus",
        "TEXT",
    ): "--keep: bpe has no such parameter",
    ("bpe", "BASE", "OUT"): "--corpus names nothing",
    ("bpe", "BASE", "BASE", "--corpus", "TEXT"): "exists already",
    ("bpe", "BASE", "OUT", "--corpus", "/no/such/file"): "/no/such/file: no such file",
    (
        "bpe",
        "BASE",
        "OUT",
        "--corpus",
        "TEXT",
    ): "a.jsonl:1: no text in the field 'text'; its fields: body",
    ("bpe", "BASE", "OUT", "--corpus", "EMPTY"): "no text in",
    (
        "bpe",
        "BASE",
        "OUT",
        "--size",
        "100",
        "--corpus",
        "TEXT",
    ): "--size 100: input should be greater than 256",
    (
        "unigram",
        "BASE",
        "OUT",
        "--size",
        "257",
        "--corpus",
        "TEXT",
        "--field",
        "body",
    ): "size 257 is too small",
    (
        "bpe",
        "BASE",
        "OUT",
        "--size",
        "999999",
        "--corpus",
        "TEXT",
        "--field",
        "body",
    ): "or less, or train on more text",
    ("bpe", "MODEL_ONLY", "OUT", "--corpus", "TEXT"): "convert its tokenizer.model once",
    ("bpe", "PICKLED", "OUT", "--corpus", "TEXT"): "pickled weights",
    ("bpe", "/no/such/base", "OUT", "--corpus", "TEXT"): "no such folder",
}


@pytest.mark.parametrize("given", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(
    cli, family, text: list[Path], tmp_path: Path, given: tuple[str, ...]
) -> None:
    only, pickled, empty = tmp_path / "only", tmp_path / "pickled", tmp_path / "empty.txt"
    only.mkdir()
    (only / "tokenizer.model").write_bytes(b"x")
    shutil.copytree(family[0], pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    empty.write_text("\n")
    places = {
        "BASE": family[0],
        "OUT": tmp_path / "out",
        "TEXT": text[0],
        "MODEL_ONLY": only,
        "PICKLED": pickled,
        "EMPTY": empty,
    }
    before = sorted(tmp_path.iterdir())
    answer = cli("vocabulary", *(places.get(part, part) for part in given))
    words = MISTAKES[given]
    assert answer.code == 2 and words in answer.err and len(answer.err.strip().splitlines()) == 1, (
        answer.err
    )
    assert sorted(tmp_path.iterdir()) == before


def test_the_most_that_a_text_gives_works(cli, family, text: list[Path], tmp_path: Path) -> None:
    for method, more in (
        ("bpe", ()),
        ("unigram", ()),
        ("extended", ()),
        ("optimized", ("--keep", 300)),
    ):
        command = (
            "vocabulary",
            method,
            family[0],
            tmp_path / method,
            "--tokenizer-only",
            *more,
            "--corpus",
            text[0],
            "--field",
            "body",
        )
        most = cli(*command, "--size", 99_999).err.split("text gives only ")[1].split()[0]
        assert cli(*command, "--size", most).code == 0
