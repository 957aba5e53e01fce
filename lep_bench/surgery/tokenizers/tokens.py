"""A tokenizer with every ordinary token as the bytes it stands for.

Vocabularies spell the same bytes differently: GPT-2's byte map, sentencepiece's "▁" and ``<0xNN>``.
LLaMa-3 and Mistral-7B share 10,606 tokens compared as strings, and 29,110 compared as bytes. So
this module never uses decoded text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from lep_bench.errors import CheckpointError

SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PARTS = ("normalizers", "pretokenizers", "decoders", "processors")


def _byte_map() -> dict[str, int]:
    """Character -> byte, as GPT-2 spells bytes in printable characters."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF = _byte_map()
CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}


@dataclass(frozen=True)
class Tokens:
    """A tokenizer read from `folder`/tokenizer.json (`spec`).

    kind: ``byte-level-bpe``, ``byte-level-unigram``, ``metaspace-bpe`` or ``metaspace-unigram``,
    the last two with ``+bytes`` if they have a byte fallback. pieces[id]: the stored spelling, None
    for a hole in the ids. specials: content -> id of the added tokens and the unknown token. These
    are opaque: they stand for no bytes.
    """

    folder: Path
    spec: dict[str, Any]
    kind: str
    pieces: tuple[str | None, ...]
    specials: dict[str, int]

    @classmethod
    def read(cls, folder: Path) -> Tokens:
        """Read `folder`/tokenizer.json. Raises CheckpointError if it is missing, damaged or of an
        unsupported kind.
        """
        file = folder / "tokenizer.json"
        try:
            spec = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{folder} has no tokenizer.json: load it with "
                "transformers.AutoTokenizer(..., use_fast=True) and save it again"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        model = spec.get("model") or {}
        vocab = model.get("vocab")
        if model.get("type") not in ("BPE", "Unigram") or not vocab:
            raise CheckpointError(
                f"{file} is a {model.get('type')} tokenizer: only BPE and Unigram tokens can be "
                "read as bytes"
            )
        ids = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
        specials = {token["content"]: token["id"] for token in spec.get("added_tokens") or []}
        unknown = model.get("unk_token") if model["type"] == "BPE" else None
        if model["type"] == "Unigram" and model.get("unk_id") is not None:
            unknown = vocab[model["unk_id"]][0]
        if unknown in ids:
            specials.setdefault(unknown, ids[unknown])
        pieces: list[str | None] = [None] * (max([*ids.values(), *specials.values()]) + 1)
        for piece, number in [*ids.items(), *specials.items()]:
            pieces[number] = piece
        return cls(
            folder,
            spec,
            _kind(file, spec),
            tuple(pieces),
            dict(sorted(specials.items(), key=lambda item: item[1])),
        )

    @property
    def size(self) -> int:
        """Highest id + 1, the number of rows that this tokenizer needs."""
        return len(self.pieces)

    @property
    def byte_level(self) -> bool:
        return self.kind.startswith("byte-level")

    def bytes_of(self, number: int) -> bytes | None:
        """The bytes of an ordinary token. None for a special token or a hole in the ids."""
        return self._bytes[number]

    def find(self, value: bytes, *, as_byte_token: bool = False) -> int | None:
        """The id of the ordinary token that stands for exactly `value`, or None.

        For a single byte a ``<0xNN>`` token comes first with `as_byte_token`, else last.
        """
        if as_byte_token and len(value) == 1 and value[0] in self.byte_tokens:
            return self.byte_tokens[value[0]]
        return self._by_bytes.get(value)

    def is_byte_token(self, number: int) -> bool:
        """Whether the token is spelled ``<0xNN>`` (byte fallback)."""
        return number in self._byte_token_ids

    @cached_property
    def holes(self) -> list[int]:
        """Ids below the highest id that have no token."""
        return [number for number, piece in enumerate(self.pieces) if piece is None]

    @cached_property
    def byte_tokens(self) -> dict[int, int]:
        """byte -> id of its ``<0xNN>`` token. Empty for byte-level tokenizers."""
        if self.byte_level or not self.kind.endswith("+bytes"):
            return {}
        matches = ((number, _BYTE.fullmatch(piece)) for number, piece in self._ordinary())
        return {int(match[1], 16): number for number, match in matches if match}

    @cached_property
    def longest(self) -> int:
        """Length in bytes of the longest ordinary token."""
        return max((len(value) for value in self._by_bytes), default=1)

    def encoder(self, *, pieces: bool = False) -> tokenizers.Tokenizer:
        """This tokenizer without dummy prefix, normaliser, added tokens and post-processor. It
        encodes the text of a single token.

        With `pieces` the pre-tokeniser is off too, and the input must be spelled as in the model.
        """
        off = dict.fromkeys(("normalizer", "post_processor", "truncation", "padding"))
        spec = {
            **self.spec,
            **off,
            "added_tokens": [],
            "pre_tokenizer": None if pieces else _remove_prefix(self.spec.get("pre_tokenizer")),
        }
        if spec["model"].get("dropout"):
            spec["model"] = {**spec["model"], "dropout": None}
        return tokenizers.Tokenizer.from_str(json.dumps(spec))

    def spell(self, text: str) -> str:
        """`text` in the spelling that `encoder()` expects, with "▁" for spaces if only the
        normaliser would replace them.
        """
        return text.replace(" ", SPACE) if self._normaliser_replaces_spaces else text

    @cached_property
    def _normaliser_replaces_spaces(self) -> bool:
        return not self.byte_level and all(
            part.get("type") != "Metaspace"
            for part in list_components(self.spec.get("pre_tokenizer"))
        )

    @cached_property
    def _byte_token_ids(self) -> frozenset[int]:
        return frozenset(self.byte_tokens.values())

    @cached_property
    def _bytes(self) -> tuple[bytes | None, ...]:
        values: list[bytes | None] = [None] * self.size
        byte_values = {number: bytes([byte]) for byte, number in self.byte_tokens.items()}
        for number, piece in self._ordinary():
            values[number] = byte_values.get(number) or self._piece_bytes(piece)
        return tuple(values)

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        # Later entries win. Byte tokens come first, so that a piece of the same byte replaces them
        # ("A" replaces <0x41>).
        order = [
            *sorted(self._byte_token_ids),
            *(n for n in reversed(range(self.size)) if n not in self._byte_token_ids),
        ]
        return {value: number for number in order if (value := self._bytes[number]) is not None}

    def _piece_bytes(self, piece: str) -> bytes:
        if not self.byte_level:
            return piece.replace(SPACE, " ").encode("utf-8")
        if all(character in BYTE_OF for character in piece):
            return bytes(BYTE_OF[character] for character in piece)
        # The byte-level decoder does the same with a piece outside its alphabet.
        return piece.encode("utf-8")

    def _ordinary(self) -> Iterator[tuple[int, str]]:
        opaque = set(self.specials.values())
        return (
            (number, piece)
            for number, piece in enumerate(self.pieces)
            if piece is not None and number not in opaque
        )


def list_components(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A normaliser, pre-tokeniser, decoder or post-processor, then all its parts, recursively."""
    if part:
        yield part
        for key in _PARTS:
            for inner in part.get(key) or ():
                yield from list_components(inner)


def _kind(file: Path, spec: dict[str, Any]) -> str:
    parts = [
        p
        for key in ("normalizer", "pre_tokenizer", "decoder")
        for p in list_components(spec.get(key))
    ]
    model = spec["model"]["type"].lower()
    if any(part.get("type") == "ByteLevel" for part in parts):
        return f"byte-level-{model}"
    if any(
        part.get("type") == "Metaspace" or SPACE in json.dumps(part, ensure_ascii=False)
        for part in parts
    ):
        fallback = spec["model"].get("byte_fallback") or any(
            part.get("type") == "ByteFallback" for part in parts
        )
        return f"metaspace-{model}" + ("+bytes" if fallback else "")
    raise CheckpointError(
        f"{file} is neither byte-level nor sentencepiece-like ({SPACE}), so the bytes of its "
        "pieces are unknown"
    )


def _remove_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """The pre-tokeniser without the prefix that it adds to a text."""
    if part is None:
        return None
    part = dict(part)
    if part.get("type") == "Metaspace":
        part["prepend_scheme"] = "never"
        part.pop("add_prefix_space", None)  # the older name of the same setting
    elif part.get("type") == "ByteLevel":
        part["add_prefix_space"] = False
    if "pretokenizers" in part:
        part["pretokenizers"] = [_remove_prefix(inner) for inner in part["pretokenizers"]]
    return part
