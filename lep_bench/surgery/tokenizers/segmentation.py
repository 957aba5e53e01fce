"""Measure how a tokenizer segments text: symbols per token, tokens per word, used share of the
vocabulary, and texts that do not decode to themselves.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.surgery.tokenizers import loading
from lep_bench.surgery.tokenizers.tokens import Tokens

BATCH = 200_000  # characters per encoding call
CYRILLIC = re.compile("[\u0400-\u04ff]")
# Written for this tool. Half Russian, half English.
SAMPLE = (
    (
        "Утром над рекой стоял туман, и рыбаки долго не могли разглядеть другой берег. Потом "
        "подул ветер, и за полчаса всё стало видно."
    ),
    (
        "Библиотека работает с девяти до восемнадцати часов, кроме понедельника; читательский "
        "билет выдают бесплатно при предъявлении паспорта."
    ),
    (
        "Чтобы испечь хлеб, нужно 500 г муки, 320 мл тёплой воды, 7 г дрожжей и щепотка соли. "
        "Тесто подходит около двух часов."
    ),
    (
        "— Ты уже прочитала новую повесть? — спросил он.\n— Ещё вчера, — ответила она, — и, "
        "по-моему, конец слишком грустный."
    ),
    (
        "In the morning there was fog over the river, and for a long time the fishermen could not "
        "make out the other bank."
    ),
    (
        "The library is open from nine to six except on Mondays; a reader's card is free of "
        "charge, but please bring your passport."
    ),
    (
        "To bake this bread you need 500 g of flour, 320 ml of warm water, 7 g of yeast and a "
        "pinch of salt. Let it rise for two hours."
    ),
    (
        '"Have you read her new story yet?" he asked.\n"Yesterday," she said, "and to my mind the '
        'ending is far too sad."'
    ),
)


@dataclass(frozen=True)
class Segmentation:
    """Counts of one tokenizer on one text, without the special tokens that it adds to every text.

    vocabulary: highest id + 1. specials: added tokens and the unknown token. cyrillic: entries with
    a Cyrillic letter. words: separated by white space. bytes: of the UTF-8 text. used: distinct
    tokens in the encoded text. exact: documents that decode to themselves. difference: the first
    place where a document does not. notes: those of `loading.load_tokenizer`.
    """

    name: str
    kind: str
    vocabulary: int
    specials: int
    cyrillic: int
    documents: int
    characters: int
    words: int
    bytes: int
    tokens: int
    used: int
    exact: int
    difference: str | None
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """All counts, and ratios of them, for JSON and tables."""
        ratios = {
            "symbols_per_token": self.characters / self.tokens,
            "tokens_per_word": self.tokens / self.words,
            "bytes_per_token": self.bytes / self.tokens,
            "used_share": self.used / self.vocabulary,
            "cyrillic_share": self.cyrillic / self.vocabulary,
        }
        return asdict(self) | ratios


def measure_segmentation(folder: Path, texts: Iterable[str], name: str) -> Segmentation:
    """Encode and decode `texts` with the tokenizer of a local folder, in one pass.

    Raises CheckpointError as `loading.load_tokenizer` and `Tokens.read` do, and LepBenchError for
    texts without a word.
    """
    tokenizer, notes = loading.load_tokenizer(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"{folder}: {type(tokenizer).__name__} is no fast tokenizer: save one as tokenizer.json"
        )
    backend.no_truncation()
    backend.no_padding()
    tokens = _read_tokens(folder, backend)
    uses: Counter[int] = Counter()
    documents = characters = words = size = exact = 0
    difference = None
    for batch in _batches(texts):
        ids = [
            encoding.ids for encoding in backend.encode_batch_fast(batch, add_special_tokens=False)
        ]
        decoded_texts = backend.decode_batch(ids, skip_special_tokens=False)
        for number, (text, text_ids, decoded) in enumerate(
            zip(batch, ids, decoded_texts), documents + 1
        ):
            uses.update(text_ids)
            characters += len(text)
            words += len(text.split())
            size += len(text.encode("utf-8"))
            exact += decoded == text
            if decoded != text and difference is None:
                difference = f"document {number}: {_describe_difference(text, decoded)}"
        documents += len(batch)
    if not words or not uses:
        raise LepBenchError(f"{name}: the text has no words")
    cyrillic = sum(
        bool(CYRILLIC.search((tokens.bytes_of(n) or b"").decode("utf-8", errors="ignore")))
        for n in range(tokens.size)
    )
    return Segmentation(
        name,
        tokens.kind,
        tokens.size,
        len(tokens.specials),
        cyrillic,
        documents,
        characters,
        words,
        size,
        uses.total(),
        len(uses),
        exact,
        difference,
        notes,
    )


def _read_tokens(folder: Path, backend: Any) -> Tokens:
    if (folder / "tokenizer.json").is_file():
        return Tokens.read(folder)
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
        return Tokens.read(Path(work))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = list[str](), 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _describe_difference(text: str, decoded: str) -> str:
    """The first place where two texts differ, with 15 characters on either side."""
    place = next(i for i, (a, b) in enumerate(zip_longest(text, decoded)) if a != b)
    window = slice(max(0, place - 15), place + 15)
    return f"{text[window]!r} comes back as {decoded[window]!r}"
