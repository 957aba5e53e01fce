"""The structure of a family's tokenizer: what a new vocabulary keeps of the old one, and the words
it is trained on.

Two structures are known, the ones the paper adapts: byte-level BPE (LLaMa-3) and sentencepiece-like
BPE with byte fallback (Mistral). Normaliser, pre-tokenizer, decoder, byte tokens and special tokens
are never touched.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers

from lep_bench.errors import AdapterError
from lep_bench.surgery.tokenizers.tokens import BYTE_OF, CHARACTER_OF, SPACE, list_components

# distinct words kept while counting: memory stays below 1 GB; the rarest are dropped first
WORDS = 400_000
# share of the text's characters that get a token of their own; the rest is spelled in bytes
COVERAGE = 0.9999
# Sentencepiece lets no piece cross a space, a digit, or the border between letters and signs.
# Tokenizers of its kind need no such splits when they are used: the merges that would cross them do
# not exist.
_WORD = r"▁+(?=▁)|\p{N}|▁?[\p{L}\p{M}]+|▁?[^\s\p{L}\p{M}\p{N}▁]+|▁|\s"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Structure:
    """A base tokenizer taken apart. `entries[id]` is the stored spelling; `specials` are the added
    tokens among them.
    """

    base: Tokenizer
    spec: dict[str, Any]
    byte_level: bool
    entries: tuple[str, ...]
    specials: frozenset[str]

    @classmethod
    def parse(cls, base: Tokenizer) -> Structure:
        """Take `base` apart. Raises AdapterError for a structure that is neither of the two, or ids
        with holes.
        """
        spec = json.loads(base.to_str())
        parts = [
            p.get("type")
            for key in ("normalizer", "pre_tokenizer", "decoder")
            for p in list_components(spec.get(key))
        ]
        byte_level = "ByteLevel" in parts
        if spec["model"]["type"] != "BPE" or not (byte_level or spec["model"].get("byte_fallback")):
            raise AdapterError(
                f"the base's tokenizer is {spec['model']['type']} with "
                f"{', '.join(map(str, parts)) or 'no parts'}: the shipped vocabularies "
                "know byte-level BPE (LLaMa-3) and BPE with byte fallback (Mistral)"
            )
        ids = base.get_vocab(with_added_tokens=True)
        entries = tuple(sorted(ids, key=ids.__getitem__))
        if [ids[e] for e in entries] != list(range(len(entries))):
            raise AdapterError(
                f"the base's tokenizer has holes in its ids: {len(entries)} tokens, highest "
                f"id {max(ids.values())}"
            )
        unknown = spec["model"].get("unk_token")
        specials = {token["content"] for token in spec["added_tokens"]} | (
            {unknown} if unknown in ids else set()
        )
        return cls(base, spec, byte_level, entries, frozenset(specials))

    @property
    def bytes(self) -> list[str]:
        """The 256 byte tokens' spellings, by byte."""
        return [CHARACTER_OF[b] if self.byte_level else f"<0x{b:02X}>" for b in range(256)]

    @cached_property
    def leading(self) -> list[str]:
        """Special tokens before the first ordinary one (Mistral's)."""
        first = next(
            (i for i, entry in enumerate(self.entries) if entry not in self.specials),
            len(self.entries),
        )
        return list(self.entries[:first])

    @property
    def trailing(self) -> list[str]:
        """All other special tokens, in order (LLaMa-3's)."""
        return [entry for entry in self.entries[len(self.leading) :] if entry in self.specials]

    @property
    def ordinary(self) -> list[str]:
        return [entry for entry in self.entries if entry not in self.specials]

    def spell(self, text: str) -> str:
        """A word's text as the model stores it: byte-level characters, or as it is."""
        return "".join(CHARACTER_OF[b] for b in text.encode("utf-8")) if self.byte_level else text

    def words(self, texts: Iterable[str]) -> dict[str, int]:
        """Distinct words (text, in sentencepiece's spelling for that kind) with their counts, most
        frequent first.
        """
        found: Counter[str] = Counter()
        splitter = self._splitter()
        for text in texts:
            if self.base.normalizer is not None:
                text = self.base.normalizer.normalize_str(text)
            found.update(piece for piece, _ in splitter.pre_tokenize_str(text))
            if len(found) > 2 * WORDS:
                found = Counter(dict(_top(found, WORDS)))
        if self.byte_level:
            return {_text(word): count for word, count in _top(found, WORDS)}
        return dict(_top(found, WORDS))

    def old_words(self, texts: Iterable[str]) -> dict[tuple[str, ...], int]:
        """Distinct words as sequences of the tokens that the base cuts them into, with their
        counts.
        """
        found: Counter[tuple[str, ...]] = Counter()
        stream = iter(texts)
        while batch := list(islice(stream, 256)):
            for encoding in self.base.encode_batch(batch, add_special_tokens=False):
                found.update(self.runs(encoding.tokens, encoding.word_ids))
            if len(found) > 2 * WORDS:
                found = Counter(dict(_top(found, WORDS)))
        return dict(_top(found, WORDS))

    def characters(self, words: dict[str, int]) -> set[str]:
        """Characters that get a token: the most frequent up to `COVERAGE`, and every seen one that
        the base has too.

        White space without a token in the base stays with its byte token, as sentencepiece has it.
        """
        counts: Counter[str] = Counter()
        for word, count in words.items():
            for character in word:
                counts[character] += count
        old, left, chosen = set(self.entries), COVERAGE * sum(counts.values()), set()
        for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            if (left > 0 or self.spell(character) in old) and (
                self.byte_level or not character.isspace() or character in old
            ):
                chosen.add(character)
            left -= count
        return chosen

    def assemble(self, entries: Sequence[str], model: dict[str, Any]) -> Tokenizer:
        """The tokenizer whose id i is `entries[i]`; all but `model`, the ids of special tokens and
        the post-processor's stays the base's. `model` is the JSON of the model without its
        vocabulary (BPE) or with `scores` (Unigram).
        """
        # Special tokens at the very end are no part of the model (LLaMa-3), unless they are in the
        # base (Mistral).
        inner, known = len(entries), self.spec["model"]["vocab"]
        while inner and entries[inner - 1] in self.specials and entries[inner - 1] not in known:
            inner -= 1
        ids = {entry: number for number, entry in enumerate(entries)}
        if len(ids) != len(entries):
            raise AdapterError(f"the new vocabulary holds {len(entries) - len(ids)} tokens twice")
        if model["type"] == "BPE":
            model = {**model, "vocab": dict(list(ids.items())[:inner])}
        else:
            scores = model["scores"]
            model = {
                **{k: v for k, v in model.items() if k != "scores"},
                "vocab": [[entry, scores[entry]] for entry in entries[:inner]],
            }
        added = sorted(
            ({**token, "id": ids[token["content"]]} for token in self.spec["added_tokens"]),
            key=lambda t: t["id"],
        )
        spec = {
            **self.spec,
            "model": model,
            "added_tokens": added,
            "post_processor": patch_processor(self.spec["post_processor"], ids),
        }
        return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))

    def _splitter(self) -> pre_tokenizers.PreTokenizer:
        if self.byte_level:
            return self.base.pre_tokenizer
        split = pre_tokenizers.Split(Regex(_WORD), "isolated")
        return (
            split
            if self.base.pre_tokenizer is None
            else pre_tokenizers.Sequence([self.base.pre_tokenizer, split])
        )

    def runs(self, tokens: Sequence[str], words: Sequence[int | None]) -> Iterator[tuple[str, ...]]:
        """`tokens` cut into words; `words[i]` is the number of token i's word, as the pre-tokenizer
        counts them.

        Sentencepiece-like: whether two tokens may join depends on nothing but the two, so that new
        merges do the same in every text.
        """
        run: list[str] = []
        for number, token in enumerate(tokens):
            if run and (
                words[number] != words[number - 1]
                or (not self.byte_level and not self._joins(run[-1], token))
            ):
                yield tuple(run)
                run = []
            if token in self.specials:
                continue
            run.append(token)
        if run:
            yield tuple(run)

    def _joins(self, left: str, right: str) -> bool:
        kind = _kind(right)
        return (
            kind is not None
            and not right.startswith(SPACE)
            and (left == SPACE or _kind(left) == kind)
        )


def _kind(token: str) -> str | None:
    """What a sentencepiece token is made of: letters, signs, or (None) what nothing is merged
    with.
    """
    text = token.removeprefix(SPACE)
    if not text or SPACE in text or _BYTE.fullmatch(token):
        return None
    if all(c.isalpha() or ("\u0300" <= c <= "\u036f") for c in text):
        return "letters"
    return None if any(c.isalnum() or c.isspace() for c in text) else "signs"


def _top(counts: Counter[str] | Counter[tuple[str, ...]], size: int) -> list[Any]:
    # Ties are broken by spelling: the order of a Counter depends on the text, that of equals should
    # not matter.
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]


def _text(piece: str) -> str:
    return bytes(BYTE_OF[c] for c in piece).decode("utf-8", errors="replace")


def patch_processor(processor: dict[str, Any] | None, ids: dict[str, int]) -> dict[str, Any] | None:
    """A post-processor's JSON with the ids of its special tokens set by content. Raises
    AdapterError for a missing one.
    """
    if processor is None:
        return None
    try:
        processor = dict(processor)
        if processor.get("special_tokens") and processor["type"] == "TemplateProcessing":
            old = processor["special_tokens"]
            processor["special_tokens"] = {
                name: {**item, "ids": [ids[token] for token in item["tokens"]]}
                for name, item in old.items()
            }
        for part in ("sep", "cls"):
            if isinstance(processor.get(part), list):
                processor[part] = [processor[part][0], ids[processor[part][0]]]
        if "processors" in processor:
            processor["processors"] = [
                patch_processor(inner, ids) for inner in processor["processors"]
            ]
    except KeyError as error:
        raise AdapterError(
            f"the new vocabulary lacks the special token {error}, which the post-processor "
            "puts into every text"
        ) from error
    return processor
