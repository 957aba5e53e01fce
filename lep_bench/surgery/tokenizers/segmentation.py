"""How a tokenizer cuts text: symbols per token, tokens per word, use of its vocabulary, and what
does not come back.
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

BATCH = 200_000  # characters that are encoded at once
CYRILLIC = re.compile("[\u0400-\u04ff]")
# Written for this tool; Russian and English in equal parts.
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
    """Counts of one tokenizer on one text, special tokens that a tokenizer sets by itself left out.

    vocabulary: highest id + 1. specials: added tokens and the unknown one. cyrillic: entries with a
    Cyrillic letter. used: different tokens that the text needs. words: what white space parts.
    bytes: of UTF-8. exact: documents that decode to themselves; `difference` shows the first that
    does not. notes: see `reading.load`.
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
        """All counts and the ratios that follow, for JSON and tables."""
        ratios = {
            "symbols_per_token": self.characters / self.tokens,
            "tokens_per_word": self.tokens / self.words,
            "bytes_per_token": self.bytes / self.tokens,
            "used_share": self.used / self.vocabulary,
            "cyrillic_share": self.cyrillic / self.vocabulary,
        }
        return asdict(self) | ratios


def measure_segmentation(folder: Path, texts: Iterable[str], name: str) -> Segmentation:
    """Encode and decode `texts` (one pass, in batches) with the tokenizer of a local folder.

    Raises CheckpointError as `reading.load` and `Tokens.read` do, LepBenchError where the text has
    no word.
    """
    tokenizer, notes = loading.load_tokenizer(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"{folder}: {type(tokenizer).__name__} has no fast tokenizer: save one as "
            "tokenizer.json"
        )
    backend.no_truncation()
    backend.no_padding()
    tokens = _tokens(folder, backend)
    seen: Counter[int] = Counter()
    documents = characters = words = size = exact = 0
    difference = None
    for batch in _batches(texts):
        ids = [
            encoding.ids for encoding in backend.encode_batch_fast(batch, add_special_tokens=False)
        ]
        for number, (text, own, back) in enumerate(
            zip(batch, ids, backend.decode_batch(ids, skip_special_tokens=False)), documents + 1
        ):
            seen.update(own)
            characters, words, size = (
                characters + len(text),
                words + len(text.split()),
                size + len(text.encode("utf-8")),
            )
            exact += back == text
            if back != text and difference is None:
                difference = f"document {number}: {_apart(text, back)}"
        documents += len(batch)
    if not words or not seen:
        raise LepBenchError(f"{name}: the text has no word to cut")
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
        seen.total(),
        len(seen),
        exact,
        difference,
        notes,
    )


def _tokens(folder: Path, backend: Any) -> Tokens:
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


def _apart(text: str, back: str) -> str:
    """Where two texts part, with some characters around."""
    place = next(i for i, (a, b) in enumerate(zip_longest(text, back)) if a != b)
    cut = slice(max(0, place - 15), place + 15)
    return f"{text[cut]!r} comes back as {back[cut]!r}"
