"""The structure of a base's tokenizer: what a new vocabulary keeps of it, and the words that the
new vocabulary is trained on.

It knows the two structures that the paper adapts: byte-level BPE (LLaMa-3) and sentencepiece-like
BPE with byte fallback (Mistral). Normaliser, pre-tokenizer, decoder, byte tokens and special tokens
never change.
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

# Distinct words kept while counting, so that memory stays below 1 GB. The rarest are dropped first.
WORDS = 400_000
# Share of the text's characters whose types get a token. The rest is spelled in bytes.
COVERAGE = 0.9999
# In sentencepiece no piece crosses a space, a digit, or a border between letters and signs. Its
# tokenizers need no such splits at encoding, because merges across them do not exist.
_WORD = r"▁+(?=▁)|\p{N}|▁?[\p{L}\p{M}]+|▁?[^\s\p{L}\p{M}\p{N}▁]+|▁|\s"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Structure:
    """The parts of a base's tokenizer. spec: its JSON. entries[id]: the stored spelling. specials:
    the added tokens and the unknown token among the entries.
    """

    base: Tokenizer
    spec: dict[str, Any]
    byte_level: bool
    entries: tuple[str, ...]
    specials: frozenset[str]

    @classmethod
    def parse(cls, base: Tokenizer) -> Structure:
        """Raises AdapterError for any other structure, and for ids with holes."""
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
                f"{', '.join(map(str, parts)) or 'no parts'}: the shipped vocabularies support "
                "byte-level BPE (LLaMa-3) and BPE with byte fallback (Mistral)"
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
        """The spellings of the 256 byte tokens, by byte."""
        return [CHARACTER_OF[b] if self.byte_level else f"<0x{b:02X}>" for b in range(256)]

    @cached_property
    def leading(self) -> list[str]:
        """The special tokens before the first ordinary one, as in Mistral."""
        first = next(
            (i for i, entry in enumerate(self.entries) if entry not in self.specials),
            len(self.entries),
        )
        return list(self.entries[:first])

    @property
    def trailing(self) -> list[str]:
        """All other special tokens in order, as in LLaMa-3."""
        return [entry for entry in self.entries[len(self.leading) :] if entry in self.specials]

    @property
    def ordinary(self) -> list[str]:
        """The entries that are not special, in order."""
        return [entry for entry in self.entries if entry not in self.specials]

    def spell(self, text: str) -> str:
        """A word as the model stores it: in byte-level characters, or unchanged."""
        return "".join(CHARACTER_OF[b] for b in text.encode("utf-8")) if self.byte_level else text

    def words(self, texts: Iterable[str]) -> dict[str, int]:
        """Distinct words with their counts, most frequent first. Byte-level words are plain text,
        sentencepiece words have "▁" for spaces.
        """
        counts: Counter[str] = Counter()
        splitter = self._splitter()
        for text in texts:
            if self.base.normalizer is not None:
                text = self.base.normalizer.normalize_str(text)
            counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
            if len(counts) > 2 * WORDS:
                counts = Counter(dict(_most_frequent(counts, WORDS)))
        if self.byte_level:
            return {_decode(word): count for word, count in _most_frequent(counts, WORDS)}
        return dict(_most_frequent(counts, WORDS))

    def old_words(self, texts: Iterable[str]) -> dict[tuple[str, ...], int]:
        """Distinct words with their counts, each as the sequence of the base's tokens."""
        counts: Counter[tuple[str, ...]] = Counter()
        stream = iter(texts)
        while batch := list(islice(stream, 256)):
            for encoding in self.base.encode_batch(batch, add_special_tokens=False):
                counts.update(self.runs(encoding.tokens, encoding.word_ids))
            if len(counts) > 2 * WORDS:
                counts = Counter(dict(_most_frequent(counts, WORDS)))
        return dict(_most_frequent(counts, WORDS))

    def characters(self, words: dict[str, int]) -> set[str]:
        """Characters that get a token: the most frequent ones up to `COVERAGE`, and every character
        of the text that has a token in the base.

        As in sentencepiece, white space without a token in the base is spelled in bytes.
        """
        counts: Counter[str] = Counter()
        for word, count in words.items():
            for character in word:
                counts[character] += count
        old, chosen = set(self.entries), set[str]()
        remaining = COVERAGE * sum(counts.values())
        for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            if (remaining > 0 or self.spell(character) in old) and (
                self.byte_level or not character.isspace() or character in old
            ):
                chosen.add(character)
            remaining -= count
        return chosen

    def assemble(self, entries: Sequence[str], model: dict[str, Any]) -> Tokenizer:
        """The base's tokenizer with other tokens: id i is `entries[i]`.

        `model` is the JSON of the new model, without its vocabulary (BPE) or with `scores`
        (Unigram). Everything else stays the base's; only the ids of its special tokens change.
        """
        # Trailing special tokens are not part of the model (LLaMa-3), unless they are in the base's
        # model (Mistral).
        inner, base_vocab = len(entries), self.spec["model"]["vocab"]
        while (
            inner and entries[inner - 1] in self.specials and entries[inner - 1] not in base_vocab
        ):
            inner -= 1
        ids = {entry: number for number, entry in enumerate(entries)}
        if len(ids) != len(entries):
            raise AdapterError(f"the new vocabulary lists {len(entries) - len(ids)} tokens twice")
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
        """Split `tokens` into words, without special tokens. words[i]: the pre-tokenizer's number
        of the word of token i.

        For sentencepiece-like tokenizers, whether two tokens may join depends on these two alone,
        so that new merges work the same in every text.
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
    """``letters`` or ``signs``, whichever a sentencepiece token consists of. None: it merges with
    nothing.
    """
    text = token.removeprefix(SPACE)
    if not text or SPACE in text or _BYTE.fullmatch(token):
        return None
    if all(c.isalpha() or ("\u0300" <= c <= "\u036f") for c in text):
        return "letters"
    return None if any(c.isalnum() or c.isspace() for c in text) else "signs"


def _most_frequent(counts: Counter[str] | Counter[tuple[str, ...]], size: int) -> list[Any]:
    # Spelling breaks ties. The order of a Counter would depend on the order of the text.
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]


def _decode(piece: str) -> str:
    return bytes(BYTE_OF[c] for c in piece).decode("utf-8", errors="replace")


def patch_processor(processor: dict[str, Any] | None, ids: dict[str, int]) -> dict[str, Any] | None:
    """A post-processor's JSON with the ids of its special tokens looked up in `ids` by content.
    Raises AdapterError for a missing token.
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
            f"the new vocabulary lacks the special token {error}, which the post-processor adds "
            "to every text"
        ) from error
    return processor
