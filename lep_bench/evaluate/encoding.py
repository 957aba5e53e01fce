"""From texts to the ids an engine reads, split and prefixed as lm-eval's Hugging Face backend does; BOS exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lep_bench.errors import CheckpointError, TaskError
from lep_bench.surgery import reading

Pair = tuple[tuple[int, ...], tuple[int, ...]]


class Encoder:
    """A tokenizer folder (local; nothing is fetched). `prefix` is what an empty context becomes: BOS, else EOS.

    `notes`: what had to be done to read the tokenizer rightly (see `surgery.reading`)."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError for a folder without a usable tokenizer, or one that appends EOS to every text."""
        self.folder = Path(folder)
        self.tokenizer: Any
        self.tokenizer, self.notes = reading.load(self.folder)
        self.bos: int | None = self.tokenizer.bos_token_id
        self.eos: int | None = self.tokenizer.eos_token_id
        prefix = self.bos if self.bos is not None else self.eos
        if prefix is None:
            raise CheckpointError(f"{folder}: its tokenizer has neither BOS nor EOS: nothing can stand before a text")
        self.prefix: int = prefix
        self._prefix_text: str = self.tokenizer.decode([prefix])
        probe = self.tokenizer("a")["input_ids"]
        if len(probe) > 1 and probe[-1] == self.eos:
            # A context is encoded as the beginning of context + continuation: an EOS between them would be scored.
            raise CheckpointError(f"{folder}: its tokenizer appends EOS to every text: prompts cannot be continued")
        self.adds_bos = bool(probe) and probe[0] == self.bos

    @property
    def has_template(self) -> bool:
        """Whether chats can be rendered."""
        return bool(self.tokenizer.chat_template)

    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The model's own chat template as text; without a generation prompt the last message is left open.

        Raises TaskError when there is no template.
        """
        if not self.has_template:
            raise TaskError(f"{self.folder}: its tokenizer has no chat template: ask this model with format: plain")
        return self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
        )

    def encode(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """Ids with the tokenizer's own prefix, unless the text begins with BOS already (chat templates write it)."""
        texts = list(texts)
        marked = [bool(self._prefix_text) and text.startswith(self._prefix_text) for text in texts]
        return self._batch(texts, [not has for has in marked])

    def plain(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """Ids without any special token of the tokenizer's making."""
        texts = list(texts)
        return self._batch(texts, [False] * len(texts))

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> list[Pair]:
        """(context, continuation) texts as ids: the continuation is what context + continuation has beyond the context.

        White space that ends a context moves to the continuation, since tokens begin with it; an empty context is `prefix`.
        """
        moved = []
        for context, continuation in pairs:
            kept = context.rstrip()
            moved.append((kept, context[len(kept) :] + continuation))
        contexts = dict(zip([c for c, _ in moved], self.encode(c for c, _ in moved), strict=True))
        wholes = self.encode(c + t for c, t in moved)
        bare = self.plain(t for _, t in moved)
        return [
            (contexts[context], whole[len(contexts[context]) :]) if context else self._after_prefix(alone)
            for (context, _), whole, alone in zip(moved, wholes, bare, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The tokenizer's own name of each id."""
        return self.tokenizer.convert_ids_to_tokens(list(ids))

    def stop_tokens(self, strings: Iterable[str]) -> tuple[set[int], list[str]]:
        """Stop strings that are one special token (they never show in decoded text) as ids, and the other strings."""
        ids, texts = set(), []
        for text in strings:
            token = self.tokenizer.get_added_vocab().get(text)
            if token is None:
                texts.append(text)
            else:
                ids.add(token)
        return ids, texts

    def prove(self, ids: Sequence[int], where: str) -> None:
        """Raise TaskError unless BOS stands where it must: once at the beginning if the tokenizer adds one, never twice."""
        if self.bos is None:
            return
        # Where BOS is EOS too (GPT-2, Qwen) it may stand between turns; only the beginning can be judged.
        found = list(ids).count(self.bos) if self.bos != self.eos else int(ids[:1] == (self.bos,)) + int(ids[:2] == (self.bos, self.bos))
        if found > 1:
            raise TaskError(f"{where}: the prompt has {found} BOS tokens: the chat template and the tokenizer both write one")
        if self.adds_bos and ids[0] != self.bos:
            raise TaskError(f"{where}: the prompt does not begin with BOS, though the tokenizer of {self.folder} sets one")

    def _after_prefix(self, ids: tuple[int, ...]) -> Pair:
        return ((self.prefix,), ids) if ids[:1] != (self.prefix,) else (ids[:1], ids[1:])

    def _batch(self, texts: list[str], special: list[bool]) -> list[tuple[int, ...]]:
        done: dict[tuple[str, bool], tuple[int, ...]] = {}
        for flag in (True, False):
            wanted = list(dict.fromkeys(text for text, wish in zip(texts, special, strict=True) if wish is flag))
            if wanted:
                ids = self.tokenizer(wanted, add_special_tokens=flag, return_attention_mask=False)["input_ids"]
                done.update(zip(((text, flag) for text in wanted), map(tuple, ids), strict=True))
        return [done[key] for key in zip(texts, special, strict=True)]
