"""Texts as training blocks: the same characters in the same order whatever the vocabulary; prompts
for calibration.
"""

from __future__ import annotations

import json
import random
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lep_bench import corpora, hub
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.surgery.tokenizers.loading import read_tokenizer
from lep_bench.surgery.vocabulary import limited

BATCH = 256  # documents that are encoded at once
NOTHING = -1  # fills up the last block
MINI = hub.BUILTIN + "mini"
COPY_PROMPT = "Повтори следующий текст дословно:\n\n{}"
COPY_LENGTH = 2000  # characters of a text to repeat that comes from files


@dataclass(frozen=True)
class PackedTexts:
    """Packed text: ids [n, block] int32 (on disk, read as needed), the last row filled up with
    `NOTHING`; how many characters, documents and tokens (BOS and EOS included) it holds."""

    ids: np.ndarray
    characters: int
    documents: int
    tokens: int


def pack_texts(folder: Path, texts: Iterable[str], characters: int, block: int) -> PackedTexts:
    """The first `characters` of `texts` as one stream of tokens of the tokenizer in `folder`, cut
    into blocks.

    One pass, in order. Every document begins with what the tokenizer's post-processor puts there
    (BOS) and ends with the EOS token of tokenizer_config.json, where it names one. Raises
    LepBenchError when the texts are shorter: vocabularies could not be compared on different
    amounts of text.
    """
    tokenizer, end = read_tokenizer(folder), _end(folder)
    documents = seen = tokens = 0
    stream = limited(texts, characters)
    with tempfile.TemporaryFile() as file:
        while batch := list(islice(stream, BATCH)):
            ids = array("i")
            for encoding in tokenizer.encode_batch(batch):
                ids.extend(encoding.ids)
                if end is not None:
                    ids.append(end)
            ids.tofile(file)
            tokens, documents, seen = (
                tokens + len(ids),
                documents + len(batch),
                seen + sum(map(len, batch)),
            )
        if seen < characters:
            raise LepBenchError(
                f"the corpus has {seen:,} characters, pretraining.characters asks for "
                f"{characters:,}: lower it or add text"
            )
        array("i", [NOTHING] * (-tokens % block)).tofile(file)
        file.flush()
        # The map keeps the unnamed file alive; the system removes it with the last reference.
        return PackedTexts(
            np.memmap(file, dtype=np.int32, mode="r").reshape(-1, block), seen, documents, tokens
        )


def _end(folder: Path) -> int | None:
    file = folder / "tokenizer_config.json"
    named: Any = (
        json.loads(file.read_text(encoding="utf-8")).get("eos_token") if file.is_file() else None
    )
    content = named["content"] if isinstance(named, dict) else named
    if not content:
        return None
    number = read_tokenizer(folder).token_to_id(content)
    if number is None:
        raise CheckpointError(f"{file}: eos_token {content!r} is not in tokenizer.json")
    return number


def vocabulary_texts(corpus: corpora.Corpus) -> Iterator[str]:
    """Texts for training a tokenizer: the built-in world's, or the corpus's files."""
    if corpus == MINI:
        from lep_bench.mini import corpus as mini_corpus

        return mini_corpus.vocabulary_texts()
    return corpora.read(corpus)


def pretraining_texts(corpus: corpora.Corpus) -> Iterator[str]:
    """Documents for continued pre-training, always in the same order."""
    if corpus == MINI:
        from lep_bench.mini import corpus as mini_corpus

        return mini_corpus.pretraining_texts()
    return corpora.read(corpus)


def calibration_prompts(corpus: corpora.Corpus, n: int) -> list[str]:
    """`n` user messages for the original instruct model to answer.

    Files: the `prompt` fields of the corpus's JSONL rows, a fixed choice. Raises LepBenchError when
    there are fewer than `n`.
    """
    if corpus == MINI:
        from lep_bench.mini import corpus as mini_corpus

        return mini_corpus.calibration_prompts(n)
    prompts = [row["prompt"] for row in _rows(corpus) if row.get("prompt")]
    if len(prompts) < n:
        raise LepBenchError(
            f"corpus: {len(prompts)} rows with a field 'prompt', calibration asks for {n}: "
            "add a JSONL file of prompts, or lower `answers`"
        )
    return random.Random(0).sample(prompts, n)


def copy_prompts(corpus: corpora.Corpus, n: int) -> list[tuple[str, str]]:
    """`n` copy exercises (user message, expected answer). Files: the beginnings of the corpus's own
    texts, a fixed choice. Raises LepBenchError when there are fewer than `n`."""
    if corpus == MINI:
        from lep_bench.mini import corpus as mini_corpus

        return mini_corpus.copy_prompts(n)
    rng, chosen, count = random.Random(0), [], 0
    for text in pretraining_texts(corpus):  # a sample of a stream: memory holds n texts only
        count += 1
        if len(chosen) < n:
            chosen.append(_beginning(text))
        elif (place := rng.randrange(count)) < n:
            chosen[place] = _beginning(text)
    if len(chosen) < n:
        raise LepBenchError(
            f"corpus: {len(chosen)} texts, calibration asks for {n} to copy: add text, or "
            "lower `copies`"
        )
    return [(COPY_PROMPT.format(text), text) for text in chosen]


def _beginning(text: str) -> str:
    return (
        text
        if len(text) <= COPY_LENGTH
        else text[: text.rfind(" ", 0, COPY_LENGTH)].rstrip() or text[:COPY_LENGTH]
    )


def _rows(corpus: corpora.Corpus) -> Iterator[dict[str, Any]]:
    for part in corpora.parts(corpus):
        if corpora.has_fields(part):
            yield from (row for row in corpora.rows(part, "prompt") if isinstance(row, dict))
