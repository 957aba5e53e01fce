"""Questions over HTTP to an OpenAI-compatible server: several at once, answers in order, every wait
bounded.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from lep_bench import hub
from lep_bench.engines.base import Decode, EngineInfo, Ids, Sampling, TokenScores, WorkCounts
from lep_bench.errors import CheckpointError, LepBenchError, TaskError
from lep_bench.records.artifact import Artifact

KEY = "OPENAI_API_KEY"
IN_FLIGHT = 32
LARGEST = 64 << 20  # bytes of one answer
AGAIN = (408, 429, 500, 502, 503, 504)  # what may pass: tried again
Json = dict[str, Any]


class Refused(LepBenchError):
    """The server understood the question and does not answer it: an argument or model it does not
    know.
    """


@dataclass(frozen=True)
class Patience:
    """Bounds, in seconds: `connect` and `answer` of one try, `pause` before the second (then twice
    as long each time, or as long as the server asks for, at most `longest`), `total` of all tries
    of one question; and how many `tries`."""

    connect: float = 10.0
    answer: float = 300.0
    pause: float = 0.5
    longest: float = 60.0
    total: float = 900.0
    tries: int = 8


@dataclass(frozen=True)
class ServedModel:
    """What GET /models says of a model: its name, the folder or Hub id it was loaded from, its
    positions (0: not said).
    """

    name: str
    root: str = ""
    positions: int = 0
    owner: str = ""


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_url(url: str) -> str:
    """The URL without an end slash, `/v1` added where it has no path. Raises LepBenchError for
    anything but http(s)://HOST...
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fits = False
    if not fits:
        raise LepBenchError(
            f"--url {url!r} is no address of a server: give one like http://127.0.0.1:8000/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise LepBenchError(
            "--url: no name, password or query in the address, it is recorded with results: a "
            "key goes into an environment variable"
        )
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


def find_key(
    url: str, variable: str | None, environment: Mapping[str, str] = os.environ
) -> str | None:
    """The key to send: of the variable that is named, else of OPENAI_API_KEY and then over https
    only, None where there is none.

    Raises LepBenchError for a variable that is named and not set, and for a key that others on the
    way could read.
    """
    safe = urlsplit(url).scheme == "https"
    if variable is None:
        return environment.get(KEY) if safe else None
    if not environment.get(variable):
        raise LepBenchError(
            f"the environment variable {variable} is to hold the key for "
            f"{urlsplit(url).netloc} and is not set"
        )
    if not safe and not is_loopback(url):
        raise LepBenchError(
            f"the key in {variable} would go readable over http to {urlsplit(url).netloc}: "
            "give an https address"
        )
    return environment[variable]


class ApiClient:
    """One server. `url` ends where `/models` and `/completions` begin; the key goes to its host
    alone and into no message.
    """

    def __init__(self, url: str, key: str | None = None, patience: Patience = Patience()) -> None:
        self.url = check_url(url)
        self.host = urlsplit(self.url).netloc
        self.patience = patience
        self._key = key
        self._given_up: str | None = None
        self._session = requests.Session()
        # Proxies of the environment are for the world outside. An `auth` of ours keeps requests
        # from asking .netrc.
        self._session.trust_env = not is_loopback(self.url)
        self._session.auth = self._authorise
        self._session.headers["Accept-Encoding"] = "identity"  # answers are read as they come
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=IN_FLIGHT))

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def models(self) -> tuple[ServedModel, ...]:
        """What is served. Raises LepBenchError when there is no server, or it lists nothing."""
        found = self._question("GET", "/models", None, threading.Event(), tries=2, answer=30.0).get(
            "data"
        )
        try:
            made = tuple(
                ServedModel(
                    str(m["id"]),
                    str(m.get("root") or ""),
                    int(m.get("max_model_len") or 0),
                    str(m.get("owned_by") or ""),
                )
                for m in found or ()
            )
        except (TypeError, KeyError, ValueError, AttributeError):
            made = ()
        if not made:
            raise LepBenchError(
                f"{self.url}/models lists no models: is that the address of an "
                "OpenAI-compatible server, with its /v1?"
            )
        return made

    def info(self, model: ServedModel | None = None) -> EngineInfo:
        """As what the server's answers are recorded. The host stands for the device: no server says
        which it has, or its dtype.
        """
        version = self._version() if model and model.owner == "vllm" else ""
        return EngineInfo("api", version, urlsplit(self.url).hostname or "", "unknown")

    def _version(self) -> str:
        try:
            reply = self._session.get(
                f"{self.url.removesuffix('/v1')}/version", timeout=(5, 5), allow_redirects=False
            )
            return f"vllm {reply.json()['version']}"
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return ""

    def answer(self, path: str, body: Json) -> Json:
        """The answer to one question. Raises Refused, or LepBenchError after bounded tries."""
        return self.answers(path, [body])[0]

    def answers(self, path: str, bodies: Iterable[Json]) -> list[Json]:
        """The answers in the order of the questions, up to `IN_FLIGHT` on their way at once. Raises
        as `answer` does.

        After a server was given up on, further questions are not waited for: they raise the same.
        """
        if self._given_up:
            raise LepBenchError(self._given_up)
        stop, pool = threading.Event(), ThreadPoolExecutor(IN_FLIGHT)
        try:
            asked = [pool.submit(self._question, "POST", path, body, stop) for body in bodies]
            done, _ = wait(asked, return_when=FIRST_EXCEPTION)
            for one in done:
                if (error := one.exception()) is not None:
                    raise error
            return [one.result() for one in asked]
        except LepBenchError as error:
            self._given_up = None if isinstance(error, Refused) else str(error)
            raise
        finally:
            stop.set()
            # what is on its way ends at its own bound
            pool.shutdown(wait=False, cancel_futures=True)

    def _question(
        self,
        method: str,
        path: str,
        body: Json | None,
        stop: threading.Event,
        tries: int = 0,
        answer: float = 0.0,
    ) -> Json:
        begin, wanted = time.monotonic(), self.patience
        tries = tries or wanted.tries
        for number in range(1, tries + 1):
            left = wanted.total - (time.monotonic() - begin)
            problem, pause = self._try(
                method, path, body, min(answer or wanted.answer, max(left, 0.1))
            )
            if isinstance(problem, dict):
                return problem
            pause = min(max(pause, wanted.pause * 2 ** (number - 1)), wanted.longest)
            if (
                number == tries
                or time.monotonic() - begin + pause > wanted.total
                or stop.wait(pause)
            ):
                break
        seconds = time.monotonic() - begin
        raise LepBenchError(
            f"{self.url}{path}: {problem} ({number} {'try' if number == 1 else 'tries'}, "
            f"{seconds:.0f} s): "
            "start the server or wait for it, and run the same command again; what was "
            "finished is kept"
        )

    def _try(
        self, method: str, path: str, body: Json | None, seconds: float
    ) -> tuple[Json | str, float]:
        """The answer, or what went wrong and may pass, and how many seconds the server asks to
        wait.
        """
        end = time.monotonic() + seconds
        try:
            with self._session.request(
                method,
                self.url + path,
                json=body,
                timeout=(self.patience.connect, seconds),
                allow_redirects=False,
                stream=True,
            ) as reply:
                content = bytearray()
                # What has come, not a full buffer: a server that drips its answer would fill none
                # before the end.
                while piece := reply.raw.read1(1 << 16):
                    content += piece
                    if time.monotonic() > end:
                        return f"no whole answer in {seconds:.0f} s", 0.0
                    if len(content) > LARGEST:
                        raise Refused(
                            f"{self.url}{path}: an answer of more than {LARGEST >> 20} MiB"
                        )
        except requests.Timeout:
            return f"no answer in {seconds:.0f} s", 0.0
        except requests.exceptions.SSLError as error:
            raise LepBenchError(
                f"{self.url}: its certificate is not trusted ({self._line(str(error))})"
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            why = str(error).lower()
            if "timed out" in why:  # in the middle of an answer
                return f"no whole answer in {seconds:.0f} s", 0.0
            return (
                "nothing answers at this address"
                if "refused" in why
                else f"the connection broke ({type(error).__name__})",
                0.0,
            )
        return self._read(reply, bytes(content), path)

    def _read(
        self, reply: requests.Response, content: bytes, path: str
    ) -> tuple[Json | str, float]:
        status = reply.status_code
        if status in AGAIN:
            return f"the server answers {status}{self._said(content)}", _asked_pause(
                reply.headers.get("Retry-After")
            )
        if 300 <= status < 400:
            raise LepBenchError(
                f"{self.url}{path} redirects to {reply.headers.get('Location', 'nowhere')}, "
                "which is not followed: give the right --url"
            )
        if status in (401, 403):
            advice = (
                "it takes no such key"
                if self._key
                else (
                    f"it wants a key: set {KEY} (https only), or name another variable with "
                    "--key-variable"
                )
            )
            raise LepBenchError(
                f"{self.url}{path}: the server answers {status}: {advice}{self._said(content)}"
            )
        if status >= 400:
            raise Refused(f"{self.url}{path}: the server answers {status}{self._said(content)}")
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            return (
                (
                    "an answer that is no JSON object: "
                    f"{self._line(content[:80].decode('utf-8', 'replace'))!r}"
                ),
                0.0,
            )
        return found, 0.0

    def _said(self, content: bytes) -> str:
        """What an error's answer says, in one line."""
        try:
            found = json.loads(content)
            found = found.get("error", found)
            text = found.get("message", "") if isinstance(found, dict) else found
        except (ValueError, AttributeError):
            text = content.decode("utf-8", "replace")
        return f": {self._line(str(text))}" if str(text).strip() else ""

    def _line(self, text: str) -> str:
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]
        return first.replace(self._key, "***") if self._key else first

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _asked_pause(given: str | None) -> float:
    """Seconds of a Retry-After header: a number or a date."""
    try:
        return max(0.0, float(given or 0.0))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(given or "").timestamp() - time.time())
    except ValueError:
        return 0.0


OPTIONS = 128  # ids that one request may ask for (vLLM's MAX_LOGPROB_TOKEN_IDS)
STOPS = 4  # stop strings that every server takes; answers are cut at all of them afterwards
SEEDS = 1 << 31  # a seed that every server can hold
COMPLETIONS = "/completions"
# What vLLM's server needs to be told so that nothing of its own or the model's defaults is used,
# and ids come back.
EXACT: Json = {
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
Key = tuple[int, ...]
Pair = tuple[Key, Key]
T = TypeVar("T")
UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Offer:
    """What a server gives: `exact` settings beyond OpenAI's, `options` by their ids, `echo` of
    prompts with log-probabilities.
    """

    exact: bool
    options: bool
    echo: bool


class ApiEngine:
    """A served checkpoint as an `Engine`. Patches cannot be exchanged: `exchange` takes what the
    server serves, by name.
    """

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self.info = client.info()
        self.counts = WorkCounts()
        self.max_length = 0
        self.model: Artifact | None = None
        self._served = ServedModel("")
        self._offer = Offer(False, False, False)
        self._tokenizer: Any = None

    # ---- exchange

    def exchange(self, artifact: Artifact) -> None:
        """See `Engine`: finds the artifact among the served models and asks the server what it
        gives.

        Raises CheckpointError for a model that is not served, LepBenchError for a server that takes
        no token ids.
        """
        served = find_served_model(artifact, self.client)
        if served != self._served:
            self._served = served
            self._offer = self._offered()
            self.info = self.client.info(served)
        own = int(
            (
                hub.read_config(artifact.folder)
                if (artifact.folder / "config.json").is_file()
                else {}
            ).get("max_position_embeddings")
            or 0
        )
        # A scored text is one id longer than what is read of it, and one more is generated: neither
        # may be too many.
        self.max_length = min(
            (length for length in (own, served.positions - 2) if length > 0), default=2048
        )
        self.model, self._tokenizer = artifact, None

    def _offered(self) -> Offer:
        """What the server gives, by trying: it may refuse an argument, or not look at it."""
        exact = self._tried(EXACT, lambda choice: list(choice["token_ids"])) is not None
        if not exact:
            try:
                self.client.answer(COMPLETIONS, self._body([1, 2, 3], 1))
            except Refused as error:
                raise LepBenchError(
                    f"{error}: engine api asks in token ids, and this server takes none for "
                    f"{self._served.name}"
                ) from error
        self._offer = Offer(exact, False, False)
        options = self._tried({"logprobs": 1, "logprob_token_ids": [1, 2]}, _first_row)
        echo = self._tried({"logprobs": 1, "echo": True}, lambda choice: _rows_of(choice, 3))
        return Offer(exact, options is not None and {1, 2} <= options[1].keys(), echo is not None)

    def _tried(self, more: Json, read: Callable[[Json], Any] = lambda choice: choice) -> Any:
        try:
            return read(
                self.client.answer(COMPLETIONS, {**self._body([1, 2, 3], 1), **more})["choices"][0]
            )
        except (Refused, *UNREADABLE):
            return None

    def remarks(self) -> tuple[str, ...]:
        """What is to be known about the answers, a line each."""
        return (f"answered by {self.client.host} as {self._served.name}",)

    def close(self) -> None:
        """See `Engine`. The server goes on."""
        self.client.close()

    # ---- answers

    def option_logprobs(
        self, contexts: Sequence[Ids], options: Sequence[Ids]
    ) -> list[list[tuple[float, bool]]]:
        """See `Engine`. One request per distinct context where the server gives log-probabilities
        by id, else one per option.
        """
        if not self._offer.options:
            pairs = [
                (context, (option,))
                for context, own in zip(contexts, options, strict=True)
                for option in own
            ]
            scores = iter(self.continuation_logprobs(pairs))
            return [[((score := next(scores)).total, score.greedy) for _ in own] for own in options]
        self.counts.requests += sum(map(len, options))
        wanted: dict[Key, dict[int, None]] = {}
        for context, own in zip(contexts, options, strict=True):
            wanted.setdefault(tuple(context), {}).update(dict.fromkeys(own))
        asked = [
            (context, list(own)[i : i + OPTIONS])
            for context, own in wanted.items()
            for i in range(0, len(own), OPTIONS)
        ]
        bodies = [
            {**self._body(context, 1), "logprobs": 1, "logprob_token_ids": own}
            for context, own in asked
        ]
        found: dict[Key, dict[int, tuple[float, bool]]] = {context: {} for context in wanted}
        for (context, own), choice in zip(asked, self._ask(bodies), strict=True):
            best, values = self._read(_first_row, choice)
            found[context].update({option: (values[option], option == best) for option in own})
        return [
            [found[tuple(context)][option] for option in own]
            for context, own in zip(contexts, options, strict=True)
        ]

    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine`. One request per distinct pair. Raises TaskError where the server gives no
        log-probabilities of prompts.
        """
        if not self._offer.echo:
            raise TaskError(
                f"{self.client.url} gives no log-probabilities of what it reads (`echo` with "
                "`logprobs`): tasks that compare options or score "
                "running text cannot be asked there; generation tasks can (--tasks)"
            )
        self.counts.requests += len(pairs)
        keys = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
        asked = list(dict.fromkeys(keys))
        found: dict[Pair, TokenScores] = {}
        bodies = (
            {**self._body(context + own, 1), "logprobs": 1, "echo": True} for context, own in asked
        )
        for (context, own), choice in zip(asked, self._ask(bodies), strict=True):
            rows = self._read(lambda choice: _rows_of(choice, len(context) + len(own)), choice)[
                len(context) :
            ]  # noqa: B023  read at once
            best = all(
                _is_best(token, value, row) for token, (value, row) in zip(own, rows, strict=True)
            )
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
        """See `Engine`. Equal questions are asked once; `max_characters` is not the server's
        concern.
        """
        self.counts.requests += len(contexts)
        keys = list(
            zip(
                map(tuple, contexts),
                [0] * len(contexts) if sampling is None else seeds,
                strict=True,
            )
        )
        if max_new < 1:
            return [[] for _ in keys]
        stops = [text for text in stop_strings if text]
        settings: Json = {"stop": stops if self._offer.exact else stops[:STOPS]} if stops else {}
        if self._offer.exact:
            # those of the artifact, not the server's
            settings |= {"stop_token_ids": sorted({*stop_ids}), "ignore_eos": True}
        if sampling is not None:
            settings |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        asked = list(dict.fromkeys(keys))
        bodies = (
            {**self._body(context, max_new), **settings, "seed": seed % SEEDS}
            for context, seed in asked
        )
        made = dict(
            zip(
                asked,
                (self._generated(choice, stop_ids) for choice in self._ask(bodies)),
                strict=True,
            )
        )
        return [list(made[key]) for key in keys]

    def _generated(self, choice: Json, ends: Ids) -> list[int]:
        """The ids of an answer without the stop id; of a server that gives text only, the ids of
        the text.
        """
        ids = choice.get("token_ids")
        if isinstance(ids, list):
            return ids[:-1] if ids and ids[-1] in ends else ids
        if self._tokenizer is None:
            from lep_bench.surgery.tokenizers import loading

            assert self.model
            self._tokenizer, _ = loading.load_tokenizer(self.model.folder)
        return list(
            self._tokenizer(
                self._read(lambda choice: str(choice["text"]), choice), add_special_tokens=False
            )["input_ids"]
        )

    # ---- the server

    def _body(self, ids: Ids, new: int) -> Json:
        return {
            "model": self._served.name,
            "prompt": list(ids),
            "max_tokens": new,
            "temperature": 0.0,
            **(EXACT if self._offer.exact else {}),
        }

    def _ask(self, bodies: Iterable[Json]) -> list[Json]:
        choices = []
        for reply in self.client.answers(COMPLETIONS, bodies):
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
            raise LepBenchError(
                f"{self.client.url}{COMPLETIONS}: an answer without what was asked for ("
                f"{type(error).__name__}: {error})"
            ) from error


def find_served_model(artifact: Artifact, client: ApiClient) -> ServedModel:
    """The served model that is the artifact, by its name, its folder or Hub id. Raises
    CheckpointError where none is.
    """
    models = client.models()
    wanted = list_names(artifact.name, artifact.folder)
    found = next((model for model in models if model.name in wanted or model.root in wanted), None)
    if found is None:
        raise not_served(client.url, [artifact.name], models)
    return found


def list_names(name: str, folder: Path | None = None) -> set[str]:
    """By what a server may call a model: our name for it (of a checkpoint: Hub id or folder), or
    its folder, whole or the last part; what is named `api:NAME` by NAME alone."""
    served = hub.parse_served_name(name)
    if served is not None:
        return {served}
    return {name.removeprefix(hub.BUILTIN), *((str(folder), folder.name) if folder else ())}


def not_served(url: str, names: Sequence[str], models: Sequence[ServedModel]) -> CheckpointError:
    """The error for models that the server does not have."""
    has, missing = (
        ", ".join(some[:8]) + (", ..." if some[8:] else "")
        for some in ([model.name for model in models], names)
    )
    return CheckpointError(
        f"{url} serves {has}, not {missing}: correct --models, or start the server with that "
        "name (vLLM: --served-model-name NAME)"
    )


def _id(token: str) -> int:
    return int(token.removeprefix("token_id:"))


def _first_row(choice: Json) -> tuple[int, dict[int, float]]:
    """(arg max, log-probability per id asked for) of the first generated token."""
    found = choice["logprobs"]
    return _id(found["tokens"][0]), {
        _id(token): float(value) for token, value in found["top_logprobs"][0].items()
    }


def _rows_of(choice: Json, length: int) -> list[tuple[float, dict[str, float]]]:
    """Per id of an echoed prompt of `length` ids its log-probability and the likeliest tokens
    there; NaN and none for the first.
    """
    found = choice["logprobs"]
    values, rows = found["token_logprobs"][:length], found["top_logprobs"][:length]
    if len(values) != length or len(found["tokens"]) > length + 1:
        # cut into other tokens than ours
        raise ValueError(f"{len(values)} log-probabilities for {length} ids")
    return [
        (math.nan, {}),
        *((float(value), row or {}) for value, row in zip(values[1:], rows[1:], strict=True)),
    ]


def _is_best(token: int, value: float, row: dict[str, float]) -> bool:
    """Whether it is the arg max: of equal maxima the first id, where ids are given."""
    if value < max(row.values(), default=value):
        return False
    ties = [
        _id(name) for name, other in row.items() if other == value and name.startswith("token_id:")
    ]
    return token == min(ties, default=token)


CHAT_COMPLETIONS = "/chat/completions"
LISTED = 20  # likeliest first tokens that a server lists (OpenAI's most)
LOOK = 20  # questions that are asked before the rest, to see whether options can be scored at all
# in no text: they part messages; the last ends a prompt whose answer is to come
ROLE, CONTENT, OPEN = "\x01", "\x02", "\x03"
Messages = Sequence[dict[str, str]]


def write_messages(messages: Messages, answer_to_come: bool) -> str:
    """Messages as one text with every content verbatim. Raises TaskError for a content that holds
    one of the parting characters.
    """
    if any(mark in message["content"] for message in messages for mark in (ROLE, CONTENT, OPEN)):
        raise TaskError(
            "a message holds a control character (U+0001 to U+0003), which no prompt of a "
            "chat server can have"
        )
    return "".join(f"{ROLE}{m['role']}{CONTENT}{m['content']}" for m in messages) + (
        OPEN if answer_to_come else ""
    )


def read_messages(text: str) -> list[dict[str, str]]:
    """The messages of a `written` text. Raises TaskError for any other text: plain prompts and
    running text are no chats.
    """
    if not text.startswith(ROLE):
        raise TaskError(
            "a chat server answers conversations only: running text and plain prompts cannot "
            "be scored there; leave such tasks out (--tasks)"
        )
    parts = (part.partition(CONTENT) for part in text.removesuffix(OPEN)[1:].split(ROLE))
    return [{"role": role, "content": content} for role, _, content in parts]


class ChatEngine:
    """A chat model behind a server as an `Engine`: messages go as they are, roles and all.

    An option of a multiple choice counts with the log-probability of the one token that is its text
    (white space aside; of several such tokens, with their sum) as the first token of the answer.
    Servers list the 20 likeliest only. An option that is not among them is given what it can have
    at the most: the least of the listed values, or what they leave of 1. So it never wins over a
    listed one, and a row of which no option is listed is decided by the order of its options;
    `remarks` counts those rows, and a task in which they are the larger part fails. Options of
    several tokens are never listed.
    """

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self.info = client.info()
        self.counts = WorkCounts()
        self.max_length = 1 << 40  # bytes here; the server refuses what is too long for it
        self.model: Artifact | None = None
        self._name = ""
        self._limit = "max_tokens"
        self._top_k = self._continues = False
        self._said: dict[str, None] = {}

    def exchange(self, artifact: Artifact) -> None:
        """See `Engine`. Raises CheckpointError for a model that the server does not have,
        LepBenchError for one that is no chat model.
        """
        served = find_served_model(artifact, self.client)
        self.model = artifact
        if served.name == self._name:
            return
        self._name = served.name
        hello = [{"role": "user", "content": "1"}]
        try:
            self.client.answer(CHAT_COMPLETIONS, self._body(hello, 1))
        except Refused as error:  # OpenAI's reasoning models know the newer name only, other servers the older one
            self._limit = "max_completion_tokens"
            if "max_completion_tokens" not in str(error) or not self._takes(hello):
                raise LepBenchError(
                    f"{error}: engine api cannot ask {served.name} as a chat model"
                ) from error
        self._top_k = self._takes(hello, top_k=1)
        self._continues = self._takes([*hello, {"role": "assistant", "content": "2"}], **CONTINUED)
        self.info = self.client.info(served)

    def _takes(self, messages: Messages, **more: Any) -> bool:
        try:
            self.client.answer(CHAT_COMPLETIONS, {**self._body(messages, 1), **more})
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

    # ---- answers

    def option_logprobs(
        self, contexts: Sequence[Ids], options: Sequence[Ids]
    ) -> list[list[tuple[float, bool]]]:
        """See `Engine`: options of one byte each."""
        pairs = [
            (context, (option,))
            for context, own in zip(contexts, options, strict=True)
            for option in own
        ]
        scores = iter(self.continuation_logprobs(pairs))
        return [[((score := next(scores)).total, score.greedy) for _ in own] for own in options]

    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine` and the class: one value per option, one request per context.

        Raises TaskError for running text, for a server without log-probabilities, and where options
        are mostly not listed.
        """
        keys = [
            (bytes(context), bytes(option).decode("utf-8", "replace").strip())
            for context, option in pairs
        ]
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
            self._said[
                (
                    f"{unknown} of {len(listed)} questions: no option among the {LISTED} "
                    "likeliest first tokens"
                )
            ] = None
        return [_option_score(option, listed[context]) for context, option in keys]

    def _must_show(
        self,
        wanted: dict[bytes, list[str]],
        listed: dict[bytes, list[tuple[str, float]]],
        most: int,
    ) -> int:
        """How many questions list none of their options; at `most` of them it is a TaskError."""
        bare = [
            context
            for context, tokens in listed.items()
            if not {text for text, _ in tokens} & set(wanted[context])
        ]
        if bare and len(bare) >= most:
            options, tokens = wanted[bare[0]], [text for text, _ in listed[bare[0]]]
            raise TaskError(
                f"{self.client.url}: {self._name} begins with none of the options in "
                f"{len(bare)} of {len(listed)} questions (options "
                f"{_shorten_list(options)}; its likeliest first tokens "
                f"{_shorten_list(tokens)}): options of several tokens cannot be compared on "
                "a chat server"
            )
        return len(bare)

    def _first_tokens(self, contexts: Sequence[bytes]) -> list[list[tuple[str, float]]]:
        """Per context the listed first tokens of the answer, stripped, likeliest first, with their
        log-probabilities.
        """
        bodies = [
            {**self._asked(context, 1), "logprobs": True, "top_logprobs": LISTED}
            for context in contexts
        ]
        try:
            choices = self._ask(bodies)
        except Refused as error:
            if "logprob" not in str(error):
                raise
            raise TaskError(
                f"{error}: without log-probabilities no options can be compared; leave such "
                "tasks out (--tasks)"
            ) from error
        found = []
        for choice in choices:
            try:
                rows = choice["logprobs"]["content"][0]["top_logprobs"]
                found.append(
                    sorted(
                        ((str(row["token"]).strip(), float(row["logprob"])) for row in rows),
                        key=lambda pair: -pair[1],
                    )
                )
            except UNREADABLE as error:
                raise TaskError(
                    f"{self.client.url}: {self._name} gives no log-probabilities of its "
                    "answers (`logprobs`, `top_logprobs`): "
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
        """See `Engine`: the bytes of each answer's text. `max_new` counts the server's tokens. A
        server that takes no `top_k` is asked without, and `remarks` says so."""
        self.counts.requests += len(contexts)
        keys = list(
            zip(
                map(bytes, contexts),
                [0] * len(contexts) if sampling is None else seeds,
                strict=True,
            )
        )
        if max_new < 1:
            return [[] for _ in keys]
        stops = [text for text in stop_strings if text][:STOPS]
        settings: Json = {"stop": stops} if stops else {}
        if sampling is not None:
            settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
            if sampling.top_k and self._top_k:
                settings["top_k"] = sampling.top_k
            elif sampling.top_k:
                self._said[
                    f"sampled without top_k {sampling.top_k}, which the server does not take"
                ] = None
        asked = list(dict.fromkeys(keys))
        choices = self._ask(
            {**self._asked(context, max_new), **settings, "seed": seed % SEEDS}
            for context, seed in asked
        )
        made = {
            key: self._text(choice).encode() for key, choice in zip(asked, choices, strict=True)
        }
        return [list(made[key]) for key in keys]

    def _text(self, choice: Json) -> str:
        try:
            content = choice["message"]["content"]
            if content is None and choice.get("finish_reason") == "content_filter":
                self._said["the server's content filter withheld answers: they count as empty"] = (
                    None
                )
            return content or ""
        except UNREADABLE as error:
            raise LepBenchError(
                f"{self.client.url}{CHAT_COMPLETIONS}: an answer without a message ("
                f"{type(error).__name__}: {error})"
            ) from error

    # ---- the server

    def _asked(self, context: bytes, new: int) -> Json:
        messages = read_messages(context.decode("utf-8"))
        begun = messages[-1]["role"] == "assistant"
        if begun:
            how = (
                "is continued by the server"
                if self._continues
                else "is sent as a message of its own, the server begins another"
            )
            self._said[f"the beginning of the answer {how}"] = None
        return {**self._body(messages, new), **(CONTINUED if begun and self._continues else {})}

    def _body(self, messages: Messages, new: int) -> Json:
        return {
            "model": self._name,
            "messages": list(messages),
            self._limit: new,
            "temperature": 0.0,
        }

    def _ask(self, bodies: Iterable[Json]) -> list[Json]:
        choices = []
        for reply in self.client.answers(CHAT_COMPLETIONS, bodies):
            try:
                choices.append(reply["choices"][0])
                used = reply.get("usage") or {}
                self.counts.tokens_in += int(used.get("prompt_tokens") or 0)
                self.counts.tokens_out += int(used.get("completion_tokens") or 0)
            except UNREADABLE as error:
                raise LepBenchError(
                    f"{self.client.url}{CHAT_COMPLETIONS}: an answer without a choice ("
                    f"{type(error).__name__}: {error})"
                ) from error
        return choices


# vLLM's way of continuing the last message
CONTINUED: Json = {"add_generation_prompt": False, "continue_final_message": True}


def _option_score(option: str, tokens: Sequence[tuple[str, float]]) -> TokenScores:
    """See `ChatEngine`."""
    own = [value for text, value in tokens if text == option]
    if own:
        best = max(own)
        return TokenScores(
            (best + math.log(sum(math.exp(value - best) for value in own)),), tokens[0][0] == option
        )
    left = 1.0 - sum(math.exp(value) for _, value in tokens)
    return TokenScores(
        (min(tokens[-1][1], math.log(max(left, 1e-12))) if tokens else math.log(1e-12),), False
    )


def _shorten_list(texts: Iterable[str]) -> str:
    return ", ".join(repr(text[:20]) for text in itertools.islice(dict.fromkeys(texts), 4))
