"""From texts to the ids that an engine reads, split and prefixed as lm-eval's Hugging Face backend
does, with BOS exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from jinja2 import TemplateError

from lep_bench.config.schema import PaperFormat
from lep_bench.engines.api import CONTENT, OPEN, ROLE, write_messages
from lep_bench.errors import CheckpointError, TaskError
from lep_bench.surgery.tokenizers import loading, tokens

Pair = tuple[tuple[int, ...], tuple[int, ...]]
LISTED_FORMATS = ", ".join(name for name in get_args(PaperFormat) if name != "template")
NO_TEMPLATE = (
    "{folder}: its tokenizer has no chat template: ask it as plain text (`format: plain` in a "
    "baseline's YAML, or in the suite's `instruct`), "
    "or, under protocol paper, name a listed format in the family's or baseline's YAML "
    f"(`conversation: llama3_no_system`; known: {LISTED_FORMATS})"
)


class Encoder:
    """The tokenizer of a local folder; nothing is fetched. `prefix` stands for an empty context:
    BOS, or EOS where there is no BOS; `bos_text` is its text.

    `notes`: what had to be repaired to read the tokenizer (see `surgery.tokenizers.loading`)."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError for a folder without a usable tokenizer, or one that appends EOS
        to every text.
        """
        self.folder = Path(folder)
        self.tokenizer: Any
        self.tokenizer, self.notes = loading.load_tokenizer(self.folder)
        self.bos: int | None = self.tokenizer.bos_token_id
        self.eos: int | None = self.tokenizer.eos_token_id
        prefix = self.bos if self.bos is not None else self.eos
        if prefix is None:
            raise CheckpointError(
                f"{folder}: its tokenizer has neither BOS nor EOS, so nothing can stand before a "
                "text"
            )
        self.prefix: int = prefix
        self.bos_text: str = self.tokenizer.decode([prefix])
        probe = self.tokenizer("a")["input_ids"]
        if len(probe) > 1 and probe[-1] == self.eos:
            # A context is encoded as the beginning of context + continuation: an EOS between them
            # would be scored.
            raise CheckpointError(
                f"{folder}: its tokenizer appends EOS to every text, so prompts cannot be continued"
            )
        self.adds_bos = bool(probe) and probe[0] == self.bos

    @property
    def has_template(self) -> bool:
        """Whether chats can be rendered."""
        return bool(self.tokenizer.chat_template)

    def render(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool | None = True
    ) -> str:
        """The messages as text, by the model's own chat template. Without a generation prompt the
        last message is left open; with None it is closed and the model's turn is not opened.

        Raises TaskError when there is no template, or when it refuses the messages (some know no
        system role).
        """
        return self._apply_template(messages, add_generation_prompt, tokenize=False)

    def template_ids(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> tuple[int, ...]:
        """The ids that transformers itself makes of the messages, which `encode(render(...))` must
        equal. Raises as `render` does.
        """
        return tuple(
            self._apply_template(
                messages,
                add_generation_prompt,
                tokenize=True,
                return_dict=False,
                tokenizer_kwargs={"verbose": False},
            )
        )

    def _apply_template(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool | None, **rest: Any
    ) -> Any:
        if not self.has_template:
            raise TaskError(NO_TEMPLATE.format(folder=self.folder))
        try:
            return self.tokenizer.apply_chat_template(
                list(messages),
                add_generation_prompt=bool(add_generation_prompt),
                continue_final_message=add_generation_prompt is False,
                **rest,
            )
        # the template's own refusal, or a mistake in it
        except (TemplateError, ValueError, TypeError, LookupError) as error:
            roles = ", ".join(message["role"] for message in messages)
            why = " ".join(str(error).split()) or "it does not say why"
            raise TaskError(
                f"{self.folder}: its chat template refuses a conversation of {roles}: {why[:300]}"
            ) from error

    def encode(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """Ids with the tokenizer's own prefix, unless the text begins with BOS already, as chat
        templates write it.
        """
        texts = list(texts)
        has_bos = [bool(self.bos_text) and text.startswith(self.bos_text) for text in texts]
        return self._encode_batch(texts, [not has for has in has_bos])

    def with_bos(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The ids with BOS in front, if the tokenizer has one and it is not there yet."""
        return ids if self.bos is None or ids[:1] == (self.bos,) else (self.bos, *ids)

    def encode_plain(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """Ids without special tokens added by the tokenizer."""
        texts = list(texts)
        return self._encode_batch(texts, [False] * len(texts))

    def encode_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[Pair]:
        """(context, continuation) texts as ids: the continuation is what context + continuation has
        beyond the context.

        White space at the end of a context moves to the continuation, since tokens begin with it.
        An empty context becomes `prefix`. Where a context has several continuations, only its last
        words are encoded with each of them, if that gives the same ids.
        """
        moved = []
        for context, continuation in pairs:
            kept = context.rstrip()
            moved.append((kept, context[len(kept) :] + continuation))
        texts: dict[str, dict[str, None]] = {}
        for context, text in moved:
            texts.setdefault(context, {})[text] = None
        contexts = dict(zip(texts, self.encode(texts), strict=True))
        encoded = self._encode_last_words(
            {
                c: list(continuations)
                for c, continuations in texts.items()
                if len(continuations) > 2
            },
            contexts,
        )
        rest = list(dict.fromkeys(pair for pair in moved if pair not in encoded))
        # Without a context a text stands after `prefix`, whatever the tokenizer adds.
        alone = iter(self.encode_plain(text for context, text in rest if not context))
        wholes = iter(self.encode(context + text for context, text in rest if context))
        for context, text in rest:
            if context:
                ids = contexts[context]
                encoded[context, text] = (ids, next(wholes)[len(ids) :])
            else:
                encoded[context, text] = self._put_after_prefix(next(alone))
        return [encoded[pair] for pair in moved]

    def _encode_last_words(
        self, texts: dict[str, list[str]], contexts: dict[str, tuple[int, ...]]
    ) -> dict[tuple[str, str], Pair]:
        """Pairs of the contexts that can be split between two of their last words; other contexts
        are left out.

        No tokenizer here makes one token of the end of a word and the beginning of the next, and
        what follows the second word does not affect the first. Still each context is proven: its
        own ids, and those of one whole pair, must equal those of the parts. Which part the space
        belongs to depends on the tokenizer: the second word (byte-level), or it is added before
        each text (sentencepiece).
        """
        places = {context: place for context in texts if (place := _find_last_space(context))}
        wholes = self.encode(context + texts[context][0] for context in places)
        encoded: dict[tuple[str, str], Pair] = {}
        left = dict(zip(places, wholes, strict=True))
        for space in (0, 1):
            ends = {context: context[places[context] + space :] for context in left}
            end_ids = dict(zip(ends, self.encode_plain(ends.values()), strict=True))
            pairs = [(context, text) for context in ends for text in texts[context]]
            pair_ids = self.encode_plain(ends[context] + text for context, text in pairs)
            ids_of = dict(zip(pairs, pair_ids, strict=True))
            for context, whole in list(left.items()):
                ids, end = contexts[context], end_ids[context]
                start = ids[: len(ids) - len(end)]
                if start + end == ids and whole == start + ids_of[context, texts[context][0]]:
                    del left[context]
                    for text in texts[context]:
                        encoded[context, text] = (ids, ids_of[context, text][len(end) :])
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def spell(self, ids: Sequence[int]) -> list[str]:
        """The text of each id, a byte that is no character as `\\xd0`; special tokens by their
        name.
        """
        names: list[str] = self.tokenizer.convert_ids_to_tokens(list(ids))
        if self._view is None:
            return names
        spelled = [self._view.bytes_of(number) for number in ids]
        return [
            name if value is None else value.decode("utf-8", errors="backslashreplace")
            for name, value in zip(names, spelled, strict=True)
        ]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the added tokens, which no ordinary text turns into."""
        return frozenset(self.tokenizer.get_added_vocab().values())

    @cached_property
    def _view(self) -> tokens.Tokens | None:
        try:
            return tokens.Tokens.read(self.folder)
        except CheckpointError:  # a kind that surgery does not know: use the tokenizer's own names
            return None

    def split_stops(self, strings: Iterable[str]) -> tuple[set[int], list[str]]:
        """Stop strings that are one special token, as ids, because decoded text never shows them;
        and the other strings.
        """
        ids: set[int] = set()
        texts: list[str] = []
        for text in strings:
            token = self.tokenizer.get_added_vocab().get(text)
            if token is None:
                texts.append(text)
            else:
                ids.add(token)
        return ids, texts

    def count_bos(self, ids: Sequence[int]) -> int:
        """How many BOS tokens a prompt has. Where BOS is also EOS (GPT-2, Qwen) it may stand
        between turns, so only those at the beginning count.
        """
        if self.bos == self.eos:
            return int(ids[:1] == (self.bos,)) + int(ids[:2] == (self.bos, self.bos))
        return sum(number == self.bos for number in ids)

    def find_bos_fault(self, ids: Sequence[int]) -> str | None:
        """What is wrong with BOS in a prompt, or None: it must be there at most once, and at the
        beginning if the tokenizer adds one.
        """
        if self.bos is None:
            return None
        if self.count_bos(ids) > 1:
            return f"the prompt has {self.count_bos(ids)} BOS tokens"
        if self.adds_bos and ids[0] != self.bos:
            return (
                f"the prompt does not begin with BOS, though the tokenizer of {self.folder} adds "
                "one"
            )
        return None

    def _put_after_prefix(self, ids: tuple[int, ...]) -> Pair:
        return ((self.prefix,), ids) if ids[:1] != (self.prefix,) else (ids[:1], ids[1:])

    def _encode_batch(self, texts: list[str], special: list[bool]) -> list[tuple[int, ...]]:
        """Ids per text; `special`: whether the tokenizer adds its special tokens."""
        keys = list(zip(texts, special, strict=True))
        ids_of: dict[tuple[str, bool], tuple[int, ...]] = {}
        for flag in (True, False):
            batch = [key for key in dict.fromkeys(keys) if key[1] is flag]
            if batch:
                ids = self.tokenizer(
                    [text for text, _ in batch],
                    add_special_tokens=flag,
                    return_attention_mask=False,
                    verbose=False,
                )["input_ids"]
                ids_of.update(zip(batch, map(tuple, ids), strict=True))
        return [ids_of[key] for key in keys]


def _find_last_space(text: str) -> int:
    """Where the last space between two letters is; 0 where there is none."""
    place = text.rfind(" ")
    while place > 0 and not (text[place - 1].isalpha() and text[place + 1 : place + 2].isalpha()):
        place = text.rfind(" ", 0, place)
    return max(place, 0)


MARKS = {ord(ROLE): "<role>", ord(CONTENT): "<content>", ord(OPEN): "<answer>"}


class MessageEncoder(Encoder):
    """An `Encoder` without a tokenizer, for chat models behind a server: ids are the bytes of the
    framed messages. No conversation begins with `prefix`, which stands before running text.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer: Any = None
        self.notes: tuple[str, ...] = ()
        self.bos = self.eos = None
        self.prefix = 0
        self.adds_bos, self.bos_text = False, ""

    @property
    def has_template(self) -> bool:
        """The server has its own."""
        return True

    def render(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool | None = True
    ) -> str:
        """The messages as framed text: their template is the server's."""
        return write_messages(messages, bool(add_generation_prompt))

    def template_ids(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> tuple[int, ...]:
        """The same as ids."""
        return tuple(write_messages(messages, add_generation_prompt).encode())

    def encode(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """UTF-8 bytes."""
        return [tuple(text.encode()) for text in texts]

    encode_plain = encode

    def encode_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[Pair]:
        """(context, continuation) texts as bytes, split where they are split."""
        return [
            (tuple(context.encode()) or (self.prefix,), tuple(continuation.encode()))
            for context, continuation in pairs
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of bytes."""
        return bytes(ids).decode("utf-8", errors="replace")

    def spell(self, ids: Sequence[int]) -> list[str]:
        """Each byte by itself."""
        return [
            MARKS.get(number) or bytes([number]).decode("utf-8", errors="backslashreplace")
            for number in ids
        ]

    @property
    def special_ids(self) -> frozenset[int]:
        """The characters that frame messages."""
        return frozenset(MARKS)

    def split_stops(self, strings: Iterable[str]) -> tuple[set[int], list[str]]:
        """No stop string is a token here."""
        return set(), list(strings)
