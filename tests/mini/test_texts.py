"""The shipped texts: what the generator writes, in the same order, and one clear line where they
end.
"""

from __future__ import annotations

import json
import lzma

import pytest

from benchmarks.mini import corpus as generator
from benchmarks.mini import texts
from lep_bench import files
from lep_bench.config.load import Configs
from lep_bench.errors import LepBenchError
from lep_bench.mini import corpus


def test_every_file_is_what_the_generator_writes() -> None:
    """Compared by content: the compressed bytes may differ between versions of liblzma."""
    generated = texts.shipped()
    assert {f"{name}.jsonl.xz" for name in generated} == {
        file.name for file in files.builtin_texts().iterdir()
    }
    for name, rows in generated.items():
        expected = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        assert lzma.open(files.builtin_texts() / f"{name}.jsonl.xz").read().decode() == expected, (
            name
        )


def test_the_package_reads_what_the_generator_yields() -> None:
    assert list(corpus.vocabulary_texts()) == list(generator.vocabulary_texts())
    shipped = list(corpus.pretraining_texts())
    assert sum(map(len, shipped)) >= texts.PRETRAINING_CHARACTERS > sum(map(len, shipped[:-1]))
    assert all(text == expected for text, expected in zip(shipped, generator.pretraining_texts()))
    for n in (0, 1, 700):
        assert corpus.calibration_prompts(n) == generator.calibration_prompts(n)
        assert corpus.copy_prompts(n) == generator.copy_prompts(n)


@pytest.mark.parametrize(
    ("ask", "most"),
    [(corpus.calibration_prompts, texts.CALIBRATION_PROMPTS), (corpus.copy_prompts, texts.COPIES)],
)
def test_asking_for_more_than_is_shipped_is_refused(ask, most: int) -> None:
    assert len(ask(most)) == most
    with pytest.raises(LepBenchError, match=f"has {most:,} .* asks for {most + 1:,}: lower"):
        ask(most + 1)


@pytest.mark.parametrize("name", ["mini-llama", "mini-mistral"])
def test_the_shipped_families_ask_for_less_than_is_shipped(name: str) -> None:
    family = Configs.of().family(name)
    assert family.pretraining.characters <= texts.PRETRAINING_CHARACTERS
    for tuning in family.tuning.values():
        assert (
            tuning.params["answers"] <= texts.CALIBRATION_PROMPTS
            and tuning.params["copies"] <= texts.COPIES
        )
