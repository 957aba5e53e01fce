"""The engine behind /chat/completions: a model without a tokenizer or template of ours (GPT-4 and its like).

It keeps the engines' interface. A context's "ids" are the UTF-8 bytes of its messages as `written` frames them, an answer's
those of its text; the tokens that `counts` sums up are the server's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from lep_bench.artifact import Artifact
from lep_bench.engines.api import SEEDS, STOPS, UNREADABLE, served_as
from lep_bench.engines.api_client import Client, Json, Refused
from lep_bench.engines.base import Counts, Decode, Ids, Sampling, TokenScores
from lep_bench.errors import LepBenchError, TaskError

PATH = "/chat/completions"
LISTED = 20  # likeliest first tokens that a server lists (OpenAI's most)
LOOK = 20  # questions that are asked before the rest, to see whether options can be scored at all
ROLE, CONTENT, OPEN = "\x01", "\x02", "\x03"  # in no text: they part messages; the last ends a prompt whose answer is to come
Messages = Sequence[dict[str, str]]


def written(messages: Messages, answer_to_come: bool) -> str:
    """Messages as one text with every content verbatim. Raises TaskError for a content that holds one of the parting characters."""
    if any(mark in message["content"] for message in messages for mark in (ROLE, CONTENT, OPEN)):
        raise TaskError("a message holds a control character (U+0001 to U+0003), which no prompt of a chat server can have")
    return "".join(f"{ROLE}{m['role']}{CONTENT}{m['content']}" for m in messages) + (OPEN if answer_to_come else "")


def read_back(text: str) -> list[dict[str, str]]:
    """The messages of a `written` text. Raises TaskError for any other text: plain prompts and running text are no chats."""
    if not text.startswith(ROLE):
        raise TaskError(
            "a chat server answers conversations only: running text and plain prompts cannot be scored there; leave such tasks out (--tasks)"
        )
    parts = (part.partition(CONTENT) for part in text.removesuffix(OPEN)[1:].split(ROLE))
    return [{"role": role, "content": content} for role, _, content in parts]


class ChatEngine:
    """A chat model behind a server as an `Engine`: messages go as they are, roles and all.

    An option of a multiple choice counts with the log-probability of the one token that is its text (white space aside; of
    several such tokens, with their sum) as the first token of the answer. Servers list the 20 likeliest only. An option that
    is not among them is given what it can have at the most: the least of the listed values, or what they leave of 1. So it
    never wins over a listed one, and a row of which no option is listed is decided by the order of its options; `remarks`
    counts those rows, and a task in which they are the larger part fails. Options of several tokens are never listed.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.info = client.info()
        self.counts = Counts()
        self.max_length = 1 << 40  # bytes here; the server refuses what is too long for it
        self.model: Artifact | None = None
        self._name = ""
        self._limit = "max_tokens"
        self._top_k = self._continues = False
        self._said: dict[str, None] = {}

    def exchange(self, artifact: Artifact) -> None:
        """See `Engine`. Raises CheckpointError for a model that the server does not have, LepBenchError for one that is no chat model."""
        served = served_as(artifact, self.client)
        self.model = artifact
        if served.name == self._name:
            return
        self._name = served.name
        hello = [{"role": "user", "content": "1"}]
        try:
            self.client.answer(PATH, self._body(hello, 1))
        except Refused as error:  # OpenAI's reasoning models know the newer name only, other servers the older one
            self._limit = "max_completion_tokens"
            if "max_completion_tokens" not in str(error) or not self._takes(hello):
                raise LepBenchError(f"{error}: engine api cannot ask {served.name} as a chat model") from error
        self._top_k = self._takes(hello, top_k=1)
        self._continues = self._takes([*hello, {"role": "assistant", "content": "2"}], **CONTINUED)
        self.info = self.client.info(served)

    def _takes(self, messages: Messages, **more: Any) -> bool:
        try:
            self.client.answer(PATH, {**self._body(messages, 1), **more})
        except Refused:
            return False
        return True

    def remarks(self) -> tuple[str, ...]:
        """What is to be known about the answers since this was last asked, a line each."""
        said, self._said = tuple(self._said), {}
        return (f"answered by {self.client.host} as {self._name}", *said)

    def close(self) -> None:
        """See `Engine`. The server goes on."""
        self.client.close()

    # ---- answers --------------------------------------------------------------------------------------------------

    def option_logprobs(self, contexts: Sequence[Ids], options: Sequence[Ids]) -> list[list[tuple[float, bool]]]:
        """See `Engine`: options of one byte each."""
        pairs = [(context, (option,)) for context, own in zip(contexts, options, strict=True) for option in own]
        scores = iter(self.continuation_logprobs(pairs))
        return [[((score := next(scores)).total, score.greedy) for _ in own] for own in options]

    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine` and the class: one value per option, one request per context.

        Raises TaskError for running text, for a server without log-probabilities, and where options are mostly not listed.
        """
        keys = [(bytes(context), bytes(option).decode("utf-8", "replace").strip()) for context, option in pairs]
        self.counts.requests += len(keys)
        wanted: dict[bytes, list[str]] = {}
        for context, option in keys:
            wanted.setdefault(context, []).append(option)
        contexts = list(wanted)
        listed = dict(zip(contexts[:LOOK], self._first_tokens(contexts[:LOOK]), strict=True))
        self._must_show(wanted, listed, len(listed))
        listed |= zip(contexts[LOOK:], self._first_tokens(contexts[LOOK:]), strict=True)
        unknown = self._must_show(wanted, listed, len(listed) // 2 + 1)
        if unknown:
            self._said[f"{unknown} of {len(listed)} questions: no option among the {LISTED} likeliest first tokens"] = None
        return [_option_score(option, listed[context]) for context, option in keys]

    def _must_show(self, wanted: dict[bytes, list[str]], listed: dict[bytes, list[tuple[str, float]]], most: int) -> int:
        """How many questions list none of their options; at `most` of them it is a TaskError."""
        bare = [context for context, tokens in listed.items() if not {text for text, _ in tokens} & set(wanted[context])]
        if bare and len(bare) >= most:
            options, tokens = wanted[bare[0]], [text for text, _ in listed[bare[0]]]
            raise TaskError(
                f"{self.client.url}: {self._name} begins with none of the options in {len(bare)} of {len(listed)} questions (options "
                f"{_some(options)}; its likeliest first tokens {_some(tokens)}): options of several tokens cannot be compared on a chat server"
            )
        return len(bare)

    def _first_tokens(self, contexts: Sequence[bytes]) -> list[list[tuple[str, float]]]:
        """Per context the listed first tokens of the answer, stripped, likeliest first, with their log-probabilities."""
        bodies = [{**self._asked(context, 1), "logprobs": True, "top_logprobs": LISTED} for context in contexts]
        try:
            choices = self._ask(bodies)
        except Refused as error:
            if "logprob" not in str(error):
                raise
            raise TaskError(f"{error}: without log-probabilities no options can be compared; leave such tasks out (--tasks)") from error
        found = []
        for choice in choices:
            try:
                rows = choice["logprobs"]["content"][0]["top_logprobs"]
                found.append(sorted(((str(row["token"]).strip(), float(row["logprob"])) for row in rows), key=lambda pair: -pair[1]))
            except UNREADABLE as error:
                raise TaskError(
                    f"{self.client.url}: {self._name} gives no log-probabilities of its answers (`logprobs`, `top_logprobs`): "
                    "no options can be compared; leave such tasks out (--tasks)"
                ) from error
        return found

    def generate(
        self,
        contexts: Sequence[Ids],
        max_new: int,
        stop_ids: Ids,
        stop_strings: Sequence[str],
        decode: Decode,
        sampling: Sampling | None = None,
        seeds: Sequence[int] = (),
        max_characters: int | None = None,
    ) -> list[list[int]]:
        """See `Engine`: the bytes of each answer's text. `max_new` counts the server's tokens. A server that takes no `top_k`
        is asked without, and `remarks` says so."""
        self.counts.requests += len(contexts)
        keys = list(zip(map(bytes, contexts), [0] * len(contexts) if sampling is None else seeds, strict=True))
        if max_new < 1:
            return [[] for _ in keys]
        stops = [text for text in stop_strings if text][:STOPS]
        settings: Json = {"stop": stops} if stops else {}
        if sampling is not None:
            settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
            if sampling.top_k and self._top_k:
                settings["top_k"] = sampling.top_k
            elif sampling.top_k:
                self._said[f"sampled without top_k {sampling.top_k}, which the server does not take"] = None
        asked = list(dict.fromkeys(keys))
        choices = self._ask({**self._asked(context, max_new), **settings, "seed": seed % SEEDS} for context, seed in asked)
        made = {key: self._text(choice).encode() for key, choice in zip(asked, choices, strict=True)}
        return [list(made[key]) for key in keys]

    def _text(self, choice: Json) -> str:
        try:
            content = choice["message"]["content"]
            if content is None and choice.get("finish_reason") == "content_filter":
                self._said["the server's content filter withheld answers: they count as empty"] = None
            return content or ""
        except UNREADABLE as error:
            raise LepBenchError(f"{self.client.url}{PATH}: an answer without a message ({type(error).__name__}: {error})") from error

    # ---- the server -----------------------------------------------------------------------------------------------

    def _asked(self, context: bytes, new: int) -> Json:
        messages = read_back(context.decode("utf-8"))
        begun = messages[-1]["role"] == "assistant"
        if begun:
            how = "is continued by the server" if self._continues else "is sent as a message of its own, the server begins another"
            self._said[f"the beginning of the answer {how}"] = None
        return {**self._body(messages, new), **(CONTINUED if begun and self._continues else {})}

    def _body(self, messages: Messages, new: int) -> Json:
        return {"model": self._name, "messages": list(messages), self._limit: new, "temperature": 0.0}

    def _ask(self, bodies: Iterable[Json]) -> list[Json]:
        choices = []
        for reply in self.client.answers(PATH, bodies):
            try:
                choices.append(reply["choices"][0])
                used = reply.get("usage") or {}
                self.counts.tokens_in += int(used.get("prompt_tokens") or 0)
                self.counts.tokens_out += int(used.get("completion_tokens") or 0)
            except UNREADABLE as error:
                raise LepBenchError(f"{self.client.url}{PATH}: an answer without a choice ({type(error).__name__}: {error})") from error
        return choices


CONTINUED: Json = {"add_generation_prompt": False, "continue_final_message": True}  # vLLM's way of continuing the last message


def _option_score(option: str, tokens: Sequence[tuple[str, float]]) -> TokenScores:
    """See `ChatEngine`."""
    own = [value for text, value in tokens if text == option]
    if own:
        best = max(own)
        return TokenScores((best + math.log(sum(math.exp(value - best) for value in own)),), tokens[0][0] == option)
    left = 1.0 - sum(math.exp(value) for _, value in tokens)
    return TokenScores((min(tokens[-1][1], math.log(max(left, 1e-12))) if tokens else math.log(1e-12),), False)


def _some(texts: Iterable[str]) -> str:
    return ", ".join(repr(text[:20]) for text in itertools.islice(dict.fromkeys(texts), 4))
