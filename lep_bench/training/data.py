"""Training data: texts packed into blocks, the same characters in the same order for every
vocabulary, and prompts for calibration.
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

BATCH = 256  # documents per encoding call
NOTHING = -1  # pads the last block
MINI = hub.BUILTIN + "mini"
COPY_PROMPT = "Повтори следующий текст дословно:\n\n{}"
COPY_LENGTH = 2000  # characters of a copy exercise from files


@dataclass(frozen=True)
class PackedTexts:
    """Text as ids [n, block] int32, on disk and read as needed. `NOTHING` pads the last row. With
    counts of characters, documents and tokens (BOS and EOS included).
    """

    ids: np.ndarray
    characters: int
    documents: int
    tokens: int


def pack_texts(folder: Path, texts: Iterable[str], characters: int, block: int) -> PackedTexts:
    """The first `characters` characters of `texts`, encoded by the tokenizer in `folder` and cut
    into blocks of `block` tokens.

    One pass, in order. Every document begins with the tokens that the post-processor adds (BOS) and
    ends with the EOS token that tokenizer_config.json names, if any. Raises LepBenchError if the
    texts are shorter, because vocabularies can only be compared on the same amount of text.
    """
    tokenizer, eos_id = read_tokenizer(folder), _read_eos_id(folder)
    documents = characters_read = tokens = 0
    stream = limited(texts, characters)
    with tempfile.TemporaryFile() as file:
        while batch := list(islice(stream, BATCH)):
            ids = array("i")
            for encoding in tokenizer.encode_batch(batch):
                ids.extend(encoding.ids)
                if eos_id is not None:
                    ids.append(eos_id)
            ids.tofile(file)
            tokens += len(ids)
            documents += len(batch)
            characters_read += sum(map(len, batch))
        if characters_read < characters:
            raise LepBenchError(
                f"the corpus has {characters_read:,} characters, pretraining.characters asks for "
                f"{characters:,}: lower it or add text"
            )
        array("i", [NOTHING] * (-tokens % block)).tofile(file)
        file.flush()
        # The map keeps the unnamed file alive. The system removes it with the last reference.
        blocks = np.memmap(file, dtype=np.int32, mode="r").reshape(-1, block)
        return PackedTexts(blocks, characters_read, documents, tokens)


def _read_eos_id(folder: Path) -> int | None:
    file = folder / "tokenizer_config.json"
    token: Any = (
        json.loads(file.read_text(encoding="utf-8")).get("eos_token") if file.is_file() else None
    )
    content = token["content"] if isinstance(token, dict) else token
    if not content:
        return None
    number = read_tokenizer(folder).token_to_id(content)
    if number is None:
        raise CheckpointError(f"{file}: eos_token {content!r} is not in tokenizer.json")
    return number


def vocabulary_texts(corpus: corpora.Corpus) -> Iterator[str]:
    """Texts for training a tokenizer, from the built-in world or the corpus's files."""
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
    """`n` user messages that the original instruct model answers.

    From files: a fixed sample of the `prompt` fields of the corpus's JSONL rows. Raises
    LepBenchError if there are fewer than `n`.
    """
    if corpus == MINI:
        from lep_bench.mini import corpus as mini_corpus

        return mini_corpus.calibration_prompts(n)
    prompts = [row["prompt"] for row in _rows(corpus) if row.get("prompt")]
    if len(prompts) < n:
        raise LepBenchError(
            f"corpus: {len(prompts)} rows have a field 'prompt', calibration asks for {n}: add a "
            "JSONL file of prompts, or lower `answers`"
        )
    return random.Random(0).sample(prompts, n)


def copy_prompts(corpus: corpora.Corpus, n: int) -> list[tuple[str, str]]:
    """`n` copy exercises (user message, expected answer).

    From files: the beginnings of a fixed sample of the corpus's texts. Raises LepBenchError if
    there are fewer than `n`.
    """
    if corpus == MINI:
        from lep_bench.mini import corpus as mini_corpus

        return mini_corpus.copy_prompts(n)
    rng, sample = random.Random(0), list[str]()
    # Reservoir sampling: memory holds n texts only.
    for number, text in enumerate(pretraining_texts(corpus), 1):
        if len(sample) < n:
            sample.append(_shorten(text))
        elif (place := rng.randrange(number)) < n:
            sample[place] = _shorten(text)
    if len(sample) < n:
        raise LepBenchError(
            f"corpus: {len(sample)} texts, calibration asks for {n} to copy: add text, or lower "
            "`copies`"
        )
    return [(COPY_PROMPT.format(text), text) for text in sample]


def _shorten(text: str) -> str:
    """The beginning of a text: whole words of at most `COPY_LENGTH` characters in all."""
    if len(text) <= COPY_LENGTH:
        return text
    return text[: text.rfind(" ", 0, COPY_LENGTH)].rstrip() or text[:COPY_LENGTH]


def _rows(corpus: corpora.Corpus) -> Iterator[dict[str, Any]]:
    for part in corpora.parts(corpus):
        if corpora.has_fields(part):
            yield from (row for row in corpora.rows(part, "prompt") if isinstance(row, dict))
