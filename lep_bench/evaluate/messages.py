"""What stands in an encoder's place for a model behind a chat server: no tokenizer, the messages go as they are.

Its ids are the bytes of the messages, framed as `engines.api_chat` reads them. So everything that compiles, proves, asks and
hashes prompts works on them as on token ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lep_bench.engines.api_chat import CONTENT, OPEN, ROLE, written
from lep_bench.evaluate.encoding import Encoder, Pair

MARKS = {ord(ROLE): "<role>", ord(CONTENT): "<content>", ord(OPEN): "<answer>"}


class MessageEncoder(Encoder):
    """`Encoder` without a tokenizer. `prefix`, what stands before running text, is nothing that a chat begins with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer: Any = None
        self.notes: tuple[str, ...] = ()
        self.bos = self.eos = None
        self.prefix = 0
        self.adds_bos, self.bos_text = False, ""

    @property
    def has_template(self) -> bool:
        """The server's own."""
        return True

    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages, framed: no template is known here."""
        return written(messages, add_generation_prompt)

    def template_ids(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> tuple[int, ...]:
        """The same as ids."""
        return tuple(written(messages, add_generation_prompt).encode())

    def encode(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """UTF-8 bytes."""
        return [tuple(text.encode()) for text in texts]

    plain = encode

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> list[Pair]:
        """(context, continuation) texts as bytes, parted where they are parted."""
        return [(tuple(context.encode()) or (self.prefix,), tuple(continuation.encode())) for context, continuation in pairs]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of bytes."""
        return bytes(ids).decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each byte by itself."""
        return [MARKS.get(number) or bytes([number]).decode("utf-8", errors="backslashreplace") for number in ids]

    @property
    def special(self) -> frozenset[int]:  # type: ignore[override]
        """The marks that part messages."""
        return frozenset(MARKS)

    def stop_tokens(self, strings: Iterable[str]) -> tuple[set[int], list[str]]:
        """No stop string is a token here."""
        return set(), list(strings)
