"""Packing: the same characters in the same order for every vocabulary."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from lep_bench.errors import LepBenchError
from lep_bench.mini import corpus
from lep_bench.surgery.tokenizers import loading
from lep_bench.testing import pico
from lep_bench.training import data


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pico")
    base = pico.family(root, kind=request.param)[0]
    return base, pico.donor(root / "donor", base)


def test_every_vocabulary_reads_the_same_characters(folders: tuple[Path, Path]) -> None:
    read = []
    for folder in folders:
        blocks = data.pack_texts(folder, corpus.pretraining_texts(), 5000, 32)
        tokenizer = loading.read_tokenizer(folder)
        stream = [i for i in blocks.ids.reshape(-1).tolist() if i != data.NOTHING]
        assert (
            len(stream) == blocks.tokens and blocks.ids.shape[1] == 32 and blocks.characters == 5000
        )
        names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        bos, eos = (
            tokenizer.token_to_id(names["bos_token"]),
            tokenizer.token_to_id(names["eos_token"]),
        )
        documents, current = [], list[int]()
        for number in stream:
            current.append(number)
            if number == eos:
                assert current[0] == bos and bos not in current[1:]
                documents.append(tokenizer.decode(current[1:-1]))
                current = []
        assert not current and len(documents) == blocks.documents
        read.append(documents)
    assert read[0] == read[1]
    expected = list(islice(corpus.pretraining_texts(), len(read[0])))
    assert read[0][:-1] == expected[:-1] and expected[-1].startswith(read[0][-1])


def test_too_little_text_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(LepBenchError, match="has 6 characters, .* asks for 100"):
        data.pack_texts(folders[0], ["abc", "def"], 100, 8)


def test_prompts_and_copies_come_from_files_too(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"Вопрос {n}?", "text": f"Текст номер {n}."} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prompts = data.calibration_prompts((str(file),), 5)
    assert len(set(prompts)) == 5 and prompts == data.calibration_prompts((str(file),), 5)
    copies = data.copy_prompts((str(file),), 5)
    assert len(set(copies)) == 5 and all(
        prompt.endswith(text) and text.startswith("Текст") for prompt, text in copies
    )
    for ask in (data.calibration_prompts, data.copy_prompts):
        with pytest.raises(LepBenchError, match="20"):
            ask((str(file),), 21)


def test_the_built_in_corpus_gives_its_own() -> None:
    assert data.calibration_prompts("builtin:mini", 4) == corpus.calibration_prompts(4)
    assert data.copy_prompts("builtin:mini", 4) == corpus.copy_prompts(4)
