"""From texts to the ids an engine reads, split and prefixed as lm-eval's Hugging Face backend does;
BOS exactly once.
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
LISTED = ", ".join(name for name in get_args(PaperFormat) if name != "template")
NO_TEMPLATE = (
    "{folder}: its tokenizer has no chat template: ask it as plain text (`format: plain` in a "
    "baseline's YAML, or in the suite's `instruct`), "
    "or, under protocol paper, name a listed format in the family's or baseline's YAML "
    f"(`conversation: llama3_no_system`; known: {LISTED})"
)


class Encoder:
    """A tokenizer folder (local; nothing is fetched). `prefix` is what an empty context becomes:
    BOS, else EOS; `bos_text` its name.

    `notes`: what had to be done to read the tokenizer rightly (see `surgery.reading`)."""

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
                f"{folder}: its tokenizer has neither BOS nor EOS: nothing can stand before a text"
            )
        self.prefix: int = prefix
        self.bos_text: str = self.tokenizer.decode([prefix])
        probe = self.tokenizer("a")["input_ids"]
        if len(probe) > 1 and probe[-1] == self.eos:
            # A context is encoded as the beginning of context + continuation: an EOS between them
            # would be scored.
            raise CheckpointError(
                f"{folder}: its tokenizer appends EOS to every text: prompts cannot be continued"
            )
        self.adds_bos = bool(probe) and probe[0] == self.bos

    @property
    def has_template(self) -> bool:
        """Whether chats can be rendered."""
        return bool(self.tokenizer.chat_template)

    def render(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool | None = True
    ) -> str:
        """The model's own chat template as text; without a generation prompt the last message is
        left open (None: it is not).

        Raises TaskError when there is no template, or when it refuses the messages (some know no
        system role).
        """
        return self._template(messages, add_generation_prompt, tokenize=False)

    def template_ids(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> tuple[int, ...]:
        """The ids that transformers itself makes of a chat: what `encode(render(...))` must come
        to. Raises as `render` does.
        """
        return tuple(
            self._template(
                messages,
                add_generation_prompt,
                tokenize=True,
                return_dict=False,
                tokenizer_kwargs={"verbose": False},
            )
        )

    def _template(
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
        except (
            TemplateError,
            ValueError,
            TypeError,
            LookupError,
        ) as error:  # the template's own words, or a mistake in it
            roles = ", ".join(message["role"] for message in messages)
            why = " ".join(str(error).split()) or "it does not say why"
            raise TaskError(
                f"{self.folder}: its chat template refuses a conversation of {roles}: {why[:300]}"
            ) from error

    def encode(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """Ids with the tokenizer's own prefix, unless the text begins with BOS already (chat
        templates write it).
        """
        texts = list(texts)
        marked = [bool(self.bos_text) and text.startswith(self.bos_text) for text in texts]
        return self._batch(texts, [not has for has in marked])

    def begun(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The ids with BOS in front, where there is one and it does not stand there yet."""
        return ids if self.bos is None or ids[:1] == (self.bos,) else (self.bos, *ids)

    def plain(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """Ids without any special token of the tokenizer's making."""
        texts = list(texts)
        return self._batch(texts, [False] * len(texts))

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> list[Pair]:
        """(context, continuation) texts as ids: the continuation is what context + continuation has
        beyond the context.

        White space that ends a context moves to the continuation, since tokens begin with it; an
        empty context is `prefix`. Of a context with several continuations only the last words are
        encoded with each, where that gives the same ids.
        """
        moved = []
        for context, continuation in pairs:
            kept = context.rstrip()
            moved.append((kept, context[len(kept) :] + continuation))
        texts: dict[str, dict[str, None]] = {}
        for context, text in moved:
            texts.setdefault(context, {})[text] = None
        contexts = dict(zip(texts, self.encode(texts), strict=True))
        known = self._by_last_words(
            {c: list(own) for c, own in texts.items() if len(own) > 2}, contexts
        )
        rest = list(dict.fromkeys(pair for pair in moved if pair not in known))
        # Behind no context a text stands after `prefix`, whatever the tokenizer sets.
        alone = iter(self.plain(text for context, text in rest if not context))
        wholes = iter(self.encode(context + text for context, text in rest if context))
        for context, text in rest:
            known[context, text] = (
                (contexts[context], next(wholes)[len(contexts[context]) :])
                if context
                else self._after_prefix(next(alone))
            )
        return [known[pair] for pair in moved]

    def _by_last_words(
        self, texts: dict[str, list[str]], contexts: dict[str, tuple[int, ...]]
    ) -> dict[tuple[str, str], Pair]:
        """Pairs of the contexts that can be parted between two of their last words; left out are
        those that cannot.

        No tokenizer here makes a token of the end of one word and the beginning of the next, and
        what follows the second word does not reach over the first. Still each context is proven:
        its own ids, and those of one whole pair, must be those of the parts. Where the space
        belongs to is the tokenizer's: to the second word (byte-level), or it is set anew before a
        text (sentencepiece).
        """
        between = {context: place for context in texts if (place := _between_words(context))}
        wholes = self.encode(context + texts[context][0] for context in between)
        found: dict[tuple[str, str], Pair] = {}
        left = dict(zip(between, wholes, strict=True))
        for space in (0, 1):
            ends = {context: context[between[context] + space :] for context in left}
            own = dict(zip(ends, self.plain(ends.values()), strict=True))
            asked = [(context, text) for context in ends for text in texts[context]]
            made = dict(
                zip(asked, self.plain(ends[context] + text for context, text in asked), strict=True)
            )
            for context, whole in list(left.items()):
                ids, end = contexts[context], own[context]
                kept = ids[: len(ids) - len(end)]
                if kept + end == ids and whole == kept + made[context, texts[context][0]]:
                    del left[context]
                    found.update(
                        {
                            (context, text): (ids, made[context, text][len(end) :])
                            for text in texts[context]
                        }
                    )
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each id as the text it stands for, a byte that is no character as `\\xd0`; special tokens
        by their name.
        """
        names = self.tokenizer.convert_ids_to_tokens(list(ids))
        spelled = (
            [self._view.bytes_of(number) for number in ids] if self._view else [None] * len(names)
        )
        return [
            name if value is None else value.decode("utf-8", errors="backslashreplace")
            for name, value in zip(names, spelled, strict=True)
        ]

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids of the tokens that no ordinary text becomes: added ones."""
        return frozenset(self.tokenizer.get_added_vocab().values())

    @cached_property
    def _view(self) -> tokens.Tokens | None:
        try:
            return tokens.Tokens.read(self.folder)
        except (
            CheckpointError
        ):  # of a kind that surgery does not know: named as the tokenizer names them
            return None

    def stop_tokens(self, strings: Iterable[str]) -> tuple[set[int], list[str]]:
        """Stop strings that are one special token (they never show in decoded text) as ids, and the
        other strings.
        """
        ids, texts = set(), []
        for text in strings:
            token = self.tokenizer.get_added_vocab().get(text)
            if token is None:
                texts.append(text)
            else:
                ids.add(token)
        return ids, texts

    def count_bos(self, ids: Sequence[int]) -> int:
        """BOS tokens in a prompt. Where BOS is EOS too (GPT-2, Qwen) it may stand between turns:
        only those at the beginning.
        """
        if self.bos == self.eos:
            return int(ids[:1] == (self.bos,)) + int(ids[:2] == (self.bos, self.bos))
        return list(ids).count(self.bos)

    def fault(self, ids: Sequence[int]) -> str | None:
        """What is wrong with BOS in a prompt: it must stand at the beginning once if the tokenizer
        sets one, never twice.
        """
        if self.bos is None:
            return None
        if self.count_bos(ids) > 1:
            return f"the prompt has {self.count_bos(ids)} BOS tokens"
        if self.adds_bos and ids[0] != self.bos:
            return (
                f"the prompt does not begin with BOS, though the tokenizer of {self.folder} sets "
                "one"
            )
        return None

    def _after_prefix(self, ids: tuple[int, ...]) -> Pair:
        return ((self.prefix,), ids) if ids[:1] != (self.prefix,) else (ids[:1], ids[1:])

    def _batch(self, texts: list[str], special: list[bool]) -> list[tuple[int, ...]]:
        done: dict[tuple[str, bool], tuple[int, ...]] = {}
        for flag in (True, False):
            wanted = list(
                dict.fromkeys(
                    text for text, wish in zip(texts, special, strict=True) if wish is flag
                )
            )
            if wanted:
                ids = self.tokenizer(
                    wanted, add_special_tokens=flag, return_attention_mask=False, verbose=False
                )["input_ids"]
                done.update(zip(((text, flag) for text in wanted), map(tuple, ids), strict=True))
        return [done[key] for key in zip(texts, special, strict=True)]


def _between_words(text: str) -> int:
    """Where the last space with a letter on both sides stands; 0 where there is none."""
    place = text.rfind(" ")
    while place > 0 and not (text[place - 1].isalpha() and text[place + 1 : place + 2].isalpha()):
        place = text.rfind(" ", 0, place)
    return max(place, 0)


MARKS = {ord(ROLE): "<role>", ord(CONTENT): "<content>", ord(OPEN): "<answer>"}


class MessageEncoder(Encoder):
    """`Encoder` without a tokenizer. `prefix`, what stands before running text, is nothing that a
    chat begins with.
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
        """The server's own."""
        return True

    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages, framed: no template is known here."""
        return write_messages(messages, add_generation_prompt)

    def template_ids(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> tuple[int, ...]:
        """The same as ids."""
        return tuple(write_messages(messages, add_generation_prompt).encode())

    def encode(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """UTF-8 bytes."""
        return [tuple(text.encode()) for text in texts]

    plain = encode

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> list[Pair]:
        """(context, continuation) texts as bytes, parted where they are parted."""
        return [
            (tuple(context.encode()) or (self.prefix,), tuple(continuation.encode()))
            for context, continuation in pairs
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of bytes."""
        return bytes(ids).decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each byte by itself."""
        return [
            MARKS.get(number) or bytes([number]).decode("utf-8", errors="backslashreplace")
            for number in ids
        ]

    @property
    def special(self) -> frozenset[int]:  # type: ignore[override]
        """The marks that part messages."""
        return frozenset(MARKS)

    def stop_tokens(self, strings: Iterable[str]) -> tuple[set[int], list[str]]:
        """No stop string is a token here."""
        return set(), list(strings)
