"""The engine behind an OpenAI-compatible server that serves a checkpoint whose tokenizer is here: token ids go to
/completions.

Written against vLLM's server (0.32), whose answers are those of our own engines: to 1e-4 in float32. Other servers are
asked once what they give. Two things a server does in its own way: rows that pad a vocabulary stay in its softmax, and
sampled answers are other answers of the same distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lep_bench import sources
from lep_bench.artifact import Artifact
from lep_bench.engines.api_client import Client, Json, Model, Refused
from lep_bench.engines.base import Counts, Decode, Ids, Sampling, TokenScores
from lep_bench.errors import CheckpointError, LepBenchError, TaskError

OPTIONS = 128  # ids that one request may ask for (vLLM's MAX_LOGPROB_TOKEN_IDS)
STOPS = 4  # stop strings that every server takes; answers are cut at all of them afterwards
SEEDS = 1 << 31  # a seed that every server can hold
PATH = "/completions"
# What vLLM's server needs to be told so that nothing of its own or the model's defaults is used, and ids come back.
EXACT: Json = {
    "return_token_ids": True, "return_tokens_as_token_ids": True, "top_k": 0, "min_p": 0.0,
    "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
Key = tuple[int, ...]
Pair = tuple[Key, Key]
T = TypeVar("T")
UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Offer:
    """What a server gives: `exact` settings beyond OpenAI's, `options` by their ids, `echo` of prompts with log-probabilities."""

    exact: bool
    options: bool
    echo: bool


class ApiEngine:
    """A served checkpoint as an `Engine`. Patches cannot be exchanged: `exchange` takes what the server serves, by name."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.info = client.info()
        self.counts = Counts()
        self.max_length = 0
        self.model: Artifact | None = None
        self._served = Model("")
        self._offer = Offer(False, False, False)
        self._tokenizer: Any = None

    # ---- exchange -------------------------------------------------------------------------------------------------

    def exchange(self, artifact: Artifact) -> None:
        """See `Engine`: finds the artifact among the served models and asks the server what it gives.

        Raises CheckpointError for a model that is not served, LepBenchError for a server that takes no token ids.
        """
        served = served_as(artifact, self.client)
        if served != self._served:
            self._served = served
            self._offer = self._offered()
            self.info = self.client.info(served)
        own = int((sources.config(artifact.folder) if (artifact.folder / "config.json").is_file() else {}).get("max_position_embeddings") or 0)
        # A scored text is one id longer than what is read of it, and one more is generated: neither may be too many.
        self.max_length = min((length for length in (own, served.positions - 2) if length > 0), default=2048)
        self.model, self._tokenizer = artifact, None

    def _offered(self) -> Offer:
        """What the server gives, by trying: it may refuse an argument, or not look at it."""
        exact = self._tried(EXACT, lambda choice: list(choice["token_ids"])) is not None
        if not exact:
            try:
                self.client.answer(PATH, self._body([1, 2, 3], 1))
            except Refused as error:
                raise LepBenchError(f"{error}: engine api asks in token ids, and this server takes none for {self._served.name}") from error
        self._offer = Offer(exact, False, False)
        options = self._tried({"logprobs": 1, "logprob_token_ids": [1, 2]}, _first_row)
        echo = self._tried({"logprobs": 1, "echo": True}, lambda choice: _rows_of(choice, 3))
        return Offer(exact, options is not None and {1, 2} <= options[1].keys(), echo is not None)

    def _tried(self, more: Json, read: Callable[[Json], Any] = lambda choice: choice) -> Any:
        try:
            return read(self.client.answer(PATH, {**self._body([1, 2, 3], 1), **more})["choices"][0])
        except (Refused, *UNREADABLE):
            return None

    def remarks(self) -> tuple[str, ...]:
        """What is to be known about the answers, a line each."""
        return (f"answered by {self.client.host} as {self._served.name}",)

    def close(self) -> None:
        """See `Engine`. The server goes on."""
        self.client.close()

    # ---- answers --------------------------------------------------------------------------------------------------

    def option_logprobs(self, contexts: Sequence[Ids], options: Sequence[Ids]) -> list[list[tuple[float, bool]]]:
        """See `Engine`. One request per distinct context where the server gives log-probabilities by id, else one per option."""
        if not self._offer.options:
            pairs = [(context, (option,)) for context, own in zip(contexts, options, strict=True) for option in own]
            scores = iter(self.continuation_logprobs(pairs))
            return [[((score := next(scores)).total, score.greedy) for _ in own] for own in options]
        self.counts.requests += sum(map(len, options))
        wanted: dict[Key, dict[int, None]] = {}
        for context, own in zip(contexts, options, strict=True):
            wanted.setdefault(tuple(context), {}).update(dict.fromkeys(own))
        asked = [(context, list(own)[i : i + OPTIONS]) for context, own in wanted.items() for i in range(0, len(own), OPTIONS)]
        bodies = [{**self._body(context, 1), "logprobs": 1, "logprob_token_ids": own} for context, own in asked]
        found: dict[Key, dict[int, tuple[float, bool]]] = {context: {} for context in wanted}
        for (context, own), choice in zip(asked, self._ask(bodies), strict=True):
            best, values = self._read(_first_row, choice)
            found[context].update({option: (values[option], option == best) for option in own})
        return [[found[tuple(context)][option] for option in own] for context, own in zip(contexts, options, strict=True)]

    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine`. One request per distinct pair. Raises TaskError where the server gives no log-probabilities of prompts."""
        if not self._offer.echo:
            raise TaskError(
                f"{self.client.url} gives no log-probabilities of what it reads (`echo` with `logprobs`): tasks that compare options or score "
                "running text cannot be asked there; generation tasks can (--tasks)"
            )
        self.counts.requests += len(pairs)
        keys = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
        asked = list(dict.fromkeys(keys))
        found: dict[Pair, TokenScores] = {}
        bodies = ({**self._body(context + own, 1), "logprobs": 1, "echo": True} for context, own in asked)
        for (context, own), choice in zip(asked, self._ask(bodies), strict=True):
            rows = self._read(lambda choice: _rows_of(choice, len(context) + len(own)), choice)[len(context) :]  # noqa: B023  read at once
            best = all(_is_best(token, value, row) for token, (value, row) in zip(own, rows, strict=True))
            found[context, own] = TokenScores(tuple(value for value, _ in rows), best)
        return [found[key] for key in keys]

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
        """See `Engine`. Equal questions are asked once; `max_characters` is not the server's concern."""
        self.counts.requests += len(contexts)
        keys = list(zip(map(tuple, contexts), [0] * len(contexts) if sampling is None else seeds, strict=True))
        if max_new < 1:
            return [[] for _ in keys]
        stops = [text for text in stop_strings if text]
        settings: Json = {"stop": stops if self._offer.exact else stops[:STOPS]} if stops else {}
        if self._offer.exact:
            settings |= {"stop_token_ids": sorted({*stop_ids}), "ignore_eos": True}  # those of the artifact, not the server's
        if sampling is not None:
            settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        asked = list(dict.fromkeys(keys))
        bodies = ({**self._body(context, max_new), **settings, "seed": seed % SEEDS} for context, seed in asked)
        made = dict(zip(asked, (self._generated(choice, stop_ids) for choice in self._ask(bodies)), strict=True))
        return [list(made[key]) for key in keys]

    def _generated(self, choice: Json, ends: Ids) -> list[int]:
        """The ids of an answer without the stop id; of a server that gives text only, the ids of the text."""
        ids = choice.get("token_ids")
        if isinstance(ids, list):
            return ids[:-1] if ids and ids[-1] in ends else ids
        if self._tokenizer is None:
            from lep_bench.surgery import reading

            assert self.model
            self._tokenizer, _ = reading.load(self.model.folder)
        return list(self._tokenizer(self._read(lambda choice: str(choice["text"]), choice), add_special_tokens=False)["input_ids"])

    # ---- the server -----------------------------------------------------------------------------------------------

    def _body(self, ids: Ids, new: int) -> Json:
        return {"model": self._served.name, "prompt": list(ids), "max_tokens": new, "temperature": 0.0, **(EXACT if self._offer.exact else {})}

    def _ask(self, bodies: Iterable[Json]) -> list[Json]:
        choices = []
        for reply in self.client.answers(PATH, bodies):
            choices.append(self._read(lambda reply: reply["choices"][0], reply))
            used = reply.get("usage") or {}
            self.counts.tokens_in += int(used.get("prompt_tokens") or 0)
            self.counts.tokens_out += int(used.get("completion_tokens") or 0)
        return choices

    def _read(self, read: Callable[[Json], T], found: Json) -> T:
        """Raises LepBenchError for an answer that lacks what was asked for."""
        try:
            return read(found)
        except UNREADABLE as error:
            raise LepBenchError(f"{self.client.url}{PATH}: an answer without what was asked for ({type(error).__name__}: {error})") from error


def served_as(artifact: Artifact, client: Client) -> Model:
    """The served model that is the artifact, by its name, its folder or Hub id. Raises CheckpointError where none is."""
    models = client.models()
    wanted = names_of(artifact.name, artifact.folder)
    found = next((model for model in models if model.name in wanted or model.root in wanted), None)
    if found is None:
        raise not_served(client.url, [artifact.name], models)
    return found


def names_of(name: str, folder: Path | None = None) -> set[str]:
    """By what a server may call a model: our name for it (of a checkpoint: Hub id or folder), or its folder, whole or the last part;
    what is named `api:NAME` by NAME alone."""
    served = sources.served(name)
    if served is not None:
        return {served}
    return {name.removeprefix(sources.BUILTIN), *((str(folder), folder.name) if folder else ())}


def not_served(url: str, names: Sequence[str], models: Sequence[Model]) -> CheckpointError:
    """The error for models that the server does not have."""
    has, missing = (", ".join(some[:8]) + (", ..." if some[8:] else "") for some in ([model.name for model in models], names))
    return CheckpointError(
        f"{url} serves {has}, not {missing}: correct --models, or start the server with that name (vLLM: --served-model-name NAME)"
    )


def _id(token: str) -> int:
    return int(token.removeprefix("token_id:"))


def _first_row(choice: Json) -> tuple[int, dict[int, float]]:
    """(arg max, log-probability per id asked for) of the first generated token."""
    found = choice["logprobs"]
    return _id(found["tokens"][0]), {_id(token): float(value) for token, value in found["top_logprobs"][0].items()}


def _rows_of(choice: Json, length: int) -> list[tuple[float, dict[str, float]]]:
    """Per id of an echoed prompt of `length` ids its log-probability and the likeliest tokens there; NaN and none for the first."""
    found = choice["logprobs"]
    values, rows = found["token_logprobs"][:length], found["top_logprobs"][:length]
    if len(values) != length or len(found["tokens"]) > length + 1:
        raise ValueError(f"{len(values)} log-probabilities for {length} ids")  # cut into other tokens than ours
    return [(math.nan, {}), *((float(value), row or {}) for value, row in zip(values[1:], rows[1:], strict=True))]


def _is_best(token: int, value: float, row: dict[str, float]) -> bool:
    """Whether it is the arg max: of equal maxima the first id, where ids are given."""
    if value < max(row.values(), default=value):
        return False
    ties = [_id(name) for name, other in row.items() if other == value and name.startswith("token_id:")]
    return token == min(ties, default=token)
