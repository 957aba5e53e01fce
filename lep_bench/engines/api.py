"""Engines that ask an OpenAI-compatible server, through the `openai` client library.

`ApiClient` sends requests: many at once, answers in order, every wait and every answer bounded.
`ApiEngine` asks a served checkpoint in token ids (/completions). `ChatEngine` asks a chat model in
messages (/chat/completions). Neither ever makes up a value: an answer that lacks what was asked for
is an error, which fails the task it belongs to.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import math
import os
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from lep_bench import hub
from lep_bench.engines.base import (
    MAX_OPTIONS,
    Decode,
    EngineInfo,
    Ids,
    Sampling,
    TokenScores,
    WorkCounts,
)
from lep_bench.errors import CheckpointError, LepBenchError, TaskError
from lep_bench.records.artifact import Artifact

KEY_VARIABLE = "OPENAI_API_KEY"
IN_FLIGHT = 32  # requests on their way at once
MAX_ANSWER_BYTES = 64 << 20
RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)
# Nothing else leaves this machine: the openai client would add the platform, and an organisation, a
# project and further headers from the environment.
SENT_HEADERS = {"accept", "connection", "content-length", "content-type", "host", "user-agent"}
COMPLETIONS = "/completions"
CHAT_COMPLETIONS = "/chat/completions"
MAX_STOP_STRINGS = 4  # as many as every server takes; answers are cut at all of them afterwards
SEEDS = 1 << 31  # every server can hold a smaller seed
LISTED = 20  # likeliest first tokens that a chat server lists (OpenAI's maximum)
FIRST_LOOK = 20  # questions asked before the rest, to see whether options can be scored at all
# vLLM's own arguments: use none of the server's or the model's sampling defaults, and return ids.
EXACT: dict[str, Any] = {
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
# vLLM's arguments for continuing the last message instead of answering it.
CONTINUED: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
# What reading a malformed answer raises.
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError)

Json = dict[str, Any]
Messages = Sequence[dict[str, str]]
Key = tuple[int, ...]
T = TypeVar("T")


class RefusedError(LepBenchError):
    """The server understood the request and refuses it: it does not know an argument or a model."""


class _TransientError(Exception):
    """A try failed in a way that may pass. `pause`: seconds the server asks to wait."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds: `connect` and `answer` for one try; `pause` before the second
    try, then twice as long each time, or as long as the server asks for, but at most `longest`;
    `total` for all tries of one request. `tries` is their number."""

    connect: float = 10.0
    answer: float = 300.0
    pause: float = 0.5
    longest: float = 60.0
    total: float = 900.0
    tries: int = 8


@dataclass(frozen=True)
class ServedModel:
    """What GET /models says about a model: its name, the folder or Hub id it was loaded from, how
    many positions it has (0: unknown), and who owns it ("vllm" for vLLM's server).
    """

    name: str
    root: str = ""
    positions: int = 0
    owner: str = ""


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_url(url: str) -> str:
    """The URL without a trailing slash, with `/v1` added where it has no path. Raises LepBenchError
    for anything but http(s)://HOST...
    """
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_address = is_address and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address:
        raise LepBenchError(
            f"--url {url!r} is not the address of a server: give one like http://127.0.0.1:8000/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise LepBenchError(
            "--url must hold no name, password or query, because it is recorded with the results: "
            "put the key into an environment variable"
        )
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


def find_key(
    url: str, variable: str | None, environment: Mapping[str, str] = os.environ
) -> str | None:
    """The key to send, from the environment variable that is named. Without a name it is taken from
    OPENAI_API_KEY, and then only for an https address; None where there is none.

    Raises LepBenchError for a variable that is named but not set, and for a key that would cross a
    network unencrypted.
    """
    is_https = urlsplit(url).scheme == "https"
    if variable is None:
        return environment.get(KEY_VARIABLE) if is_https else None
    if not environment.get(variable):
        raise LepBenchError(
            f"the environment variable {variable} should hold the key for "
            f"{urlsplit(url).netloc}, but it is not set"
        )
    if not is_https and not is_loopback(url):
        raise LepBenchError(
            f"the key in {variable} would be readable on its way to {urlsplit(url).netloc} over "
            "http: give an https address"
        )
    return environment[variable]


class ApiClient:
    """One server. `url` is what `/models` and `/completions` are appended to. The key goes to its
    host alone and appears in no message.
    """

    def __init__(self, url: str, key: str | None = None, patience: Patience = Patience()) -> None:
        import openai  # here: it takes a second or two, and most commands ask no server

        self.url = check_url(url)
        self.host = urlsplit(self.url).netloc
        self.patience = patience
        self._key = key
        self._failure: str | None = None  # why the server was given up on
        self._http = httpx2.Client(
            follow_redirects=False,
            trust_env=not is_loopback(self.url),  # proxies are for other machines
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=IN_FLIGHT),
            event_hooks={"request": [self._set_headers], "response": [_bound_answer]},
        )
        # No retries of its own: they have no bound in total, ignore a Retry-After of more than a
        # minute, and go on after another request has failed for good.
        self._openai = openai.OpenAI(
            base_url=self.url, api_key=key or "none", max_retries=0, http_client=self._http
        )

    def _set_headers(self, request: httpx2.Request) -> None:
        for name in [*request.headers]:
            if name.lower() not in SENT_HEADERS:
                del request.headers[name]
        request.headers["Accept-Encoding"] = "identity"
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"

    def models(self) -> tuple[ServedModel, ...]:
        """What is served. Raises LepBenchError when no server answers, or when it lists nothing."""
        reply = self._ask("GET", "/models", None, threading.Event(), tries=2, answer=30.0)
        try:
            models = tuple(
                ServedModel(
                    str(entry["id"]),
                    str(entry.get("root") or ""),
                    int(entry.get("max_model_len") or 0),
                    str(entry.get("owned_by") or ""),
                )
                for entry in reply.get("data") or ()
            )
        except MALFORMED:
            models = ()
        if not models:
            raise LepBenchError(
                f"{self.url}/models lists no models: is that the address of an "
                "OpenAI-compatible server, with its /v1?"
            )
        return models

    def info(self, model: ServedModel | None = None) -> EngineInfo:
        """What the server's answers are recorded as. The host stands for the device, because no
        server tells its device or its dtype.
        """
        version = self._read_version() if model and model.owner == "vllm" else ""
        return EngineInfo("api", version, urlsplit(self.url).hostname or "", "unknown")

    def _read_version(self) -> str:
        try:
            reply = self._http.get(f"{self.url.removesuffix('/v1')}/version", timeout=5)
            return f"vllm {reply.json()['version']}"
        except (httpx2.HTTPError, LepBenchError, *MALFORMED):
            return ""

    def answer(self, path: str, body: Json) -> Json:
        """The answer to one request. Raises RefusedError, or LepBenchError after bounded tries."""
        return self.answers(path, [body])[0]

    def answers(self, path: str, bodies: Iterable[Json]) -> list[Json]:
        """The answers in the order of the requests, of which up to `IN_FLIGHT` are on their way at
        once. Raises as `answer` does.

        Once a server was given up on, further requests raise the same error without waiting.
        """
        if self._failure:
            raise LepBenchError(self._failure)
        stop, pool = threading.Event(), ThreadPoolExecutor(IN_FLIGHT)
        try:
            requests = [pool.submit(self._ask, "POST", path, body, stop) for body in bodies]
            finished, _ = wait(requests, return_when=FIRST_EXCEPTION)
            for request in finished:
                if (error := request.exception()) is not None:
                    raise error
            return [request.result() for request in requests]
        except LepBenchError as error:
            self._failure = None if isinstance(error, RefusedError) else str(error)
            raise
        finally:
            stop.set()
            # What is on its way ends when its own time is up.
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(
        self,
        method: str,
        path: str,
        body: Json | None,
        stop: threading.Event,
        tries: int = 0,
        answer: float = 0.0,
    ) -> Json:
        """The answer, after as many tries as `patience` allows or until `stop` is set."""
        begin, patience = time.monotonic(), self.patience
        tries = tries or patience.tries
        for number in itertools.count(1):
            left = patience.total - (time.monotonic() - begin)
            try:
                return self._try(method, path, body, min(answer or patience.answer, max(left, 0.1)))
            except _TransientError as error:
                reason = str(error)
                pause = max(error.pause, patience.pause * 2 ** (number - 1))
            pause = min(pause, patience.longest)
            too_late = time.monotonic() - begin + pause > patience.total
            if number == tries or too_late or stop.wait(pause):
                break
        raise LepBenchError(
            f"{self.url}{path}: {reason} ({number} {'try' if number == 1 else 'tries'}, "
            f"{time.monotonic() - begin:.0f} s): start the server or wait for it, and run the same "
            "command again; finished work is kept"
        )

    def _try(self, method: str, path: str, body: Json | None, seconds: float) -> Json:
        """The answer to one try. Raises _TransientError for what may pass."""
        import openai

        timeout = httpx2.Timeout(seconds, connect=self.patience.connect)
        try:
            if method == "GET":
                reply = self._openai.get(
                    path, cast_to=httpx2.Response, options={"timeout": timeout}
                )
            else:
                reply = self._openai.post(
                    path, cast_to=httpx2.Response, body=body, options={"timeout": timeout}
                )
        except openai.APIStatusError as error:
            raise self._explain_status(error.response, path) from error
        except openai.APITimeoutError as error:
            raise _TransientError(f"no complete answer within {seconds:.0f} s") from error
        except openai.APIConnectionError as error:
            causes = list(_list_causes(error))
            if untrusted := [c for c in causes if isinstance(c, ssl.SSLCertVerificationError)]:
                raise LepBenchError(
                    f"{self.url}: its certificate is not trusted ({self._line(str(untrusted[0]))})"
                ) from error
            if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
                raise _TransientError("nothing answers at this address") from error
            name = type(error.__cause__ or error).__name__
            raise _TransientError(f"the connection broke ({name})") from error
        try:
            answer = json.loads(reply.content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            start = self._line(reply.content[:80].decode("utf-8", "replace"))
            raise _TransientError(f"the answer is no JSON object: {start!r}")
        return answer

    def _explain_status(self, reply: httpx2.Response, path: str) -> Exception:
        """The error for an answer that is not a success."""
        status, where = reply.status_code, f"{self.url}{path}"
        said = f"the server answers {status}{self._quote_error(reply.content)}"
        if status in RETRIED_STATUSES:
            return _TransientError(said, _read_pause(reply.headers.get("Retry-After")))
        if 300 <= status < 400:
            return LepBenchError(
                f"{where} redirects to {reply.headers.get('Location', 'nowhere')}, "
                "which is not followed: give the right --url"
            )
        if status in (401, 403):
            advice = (
                "it does not accept the key"
                if self._key
                else f"it wants a key: set {KEY_VARIABLE} (sent over https only), or name another "
                "variable with --key-variable"
            )
            return LepBenchError(f"{where}: {said} ({advice})")
        return RefusedError(f"{where}: {said}")

    def _quote_error(self, content: bytes) -> str:
        """What the body of an error says, in one line."""
        try:
            value = json.loads(content)
            value = value.get("error", value)
            text = value.get("message", "") if isinstance(value, dict) else value
        except (ValueError, AttributeError):
            text = content.decode("utf-8", "replace")
        return f": {self._line(str(text))}" if str(text).strip() else ""

    def _line(self, text: str) -> str:
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]
        return first.replace(self._key, "***") if self._key else first

    def close(self) -> None:
        """Close the connections."""
        self._openai.close()


class _BoundedStream(httpx2.SyncByteStream):
    """The bytes of an answer, up to a size and a time. Without it a server that drips or never ends
    would be read for ever.
    """

    def __init__(self, stream: httpx2.SyncByteStream, request: httpx2.Request) -> None:
        self._stream = stream
        self._request = request
        self._end = time.monotonic() + (request.extensions["timeout"].get("read") or math.inf)

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._stream:
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise RefusedError(
                    f"{self._request.url}: the answer has more than {MAX_ANSWER_BYTES >> 20} MiB"
                )
            if time.monotonic() > self._end:
                raise httpx2.ReadTimeout("the answer takes too long", request=self._request)
            yield piece

    def close(self) -> None:
        self._stream.close()


def _bound_answer(response: httpx2.Response) -> None:
    # No compression was asked for: unpacking could turn a small answer into a huge one.
    response.headers.pop("Content-Encoding", None)
    assert isinstance(response.stream, httpx2.SyncByteStream)
    response.stream = _BoundedStream(response.stream, response.request)


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__ or error.__context__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _read_pause(header: str | None) -> float:
    """Seconds of a Retry-After header, which holds a number or a date."""
    try:
        return max(0.0, float(header or 0.0))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header or "").timestamp() - time.time())
    except ValueError:
        return 0.0


# ---- what both engines share


class ServedEngine(ABC):
    """A model behind a server, asked at one path of it. Patches cannot be exchanged there:
    `exchange` looks for the model among those the server has.
    """

    path = ""

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self.info = client.info()
        self.counts = WorkCounts()
        self.max_length = 0
        self.model: Artifact | None = None
        self._served = ServedModel("")

    def close(self) -> None:
        """Close the connections. The server keeps running."""
        self.client.close()

    def _complete(self, bodies: Iterable[Json]) -> list[Json]:
        """The first choice of each answer, in the order of the requests."""
        choices = []
        for reply in self.client.answers(self.path, bodies):
            choices.append(self._read(_read_choice, reply))
            usage = reply.get("usage")
            usage = usage if isinstance(usage, dict) else {}
            self.counts.tokens_in += int(usage.get("prompt_tokens") or 0)
            self.counts.tokens_out += int(usage.get("completion_tokens") or 0)
        return choices

    def _read(self, read: Callable[..., T], *arguments: Any) -> T:
        """What `read` takes out of an answer. Raises LepBenchError where it is not there."""
        try:
            return read(*arguments)
        except MALFORMED as error:
            raise LepBenchError(
                f"{self.client.url}{self.path}: the answer lacks what was asked for ("
                f"{type(error).__name__}: {error})"
            ) from error

    def _accepts(self, body: Json) -> bool:
        """Whether the server takes a request with these arguments."""
        try:
            self.client.answer(self.path, body)
        except RefusedError:
            return False
        return True

    def option_logprobs(
        self, contexts: Sequence[Ids], options: Sequence[Ids]
    ) -> list[list[tuple[float, bool]]]:
        """See `Engine`. Each option is asked for as a continuation of one id."""
        pairs = [
            (context, (option,))
            for context, choices in zip(contexts, options, strict=True)
            for option in choices
        ]
        scores = iter(self.continuation_logprobs(pairs))
        return [
            [(score.total, score.greedy) for score in itertools.islice(scores, len(choices))]
            for choices in options
        ]

    @abstractmethod
    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine`."""


def _read_choice(reply: Json) -> Json:
    choice = reply["choices"][0]
    if not isinstance(choice, dict):
        raise ValueError("the choice is no object")
    return choice


def read_logprob(value: Any) -> float:
    """A log-probability out of an answer. Raises ValueError for anything else: null, text, NaN, an
    infinity, a positive number (up to rounding).
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not -math.inf < value <= 1e-3:
        raise ValueError(f"{value!r} is no log-probability")
    return float(value)


def find_served_model(artifact: Artifact, client: ApiClient) -> ServedModel:
    """The served model that is the artifact, by its name, folder or Hub id. Raises CheckpointError
    where there is none.
    """
    models = client.models()
    names = list_names(artifact.name, artifact.folder)
    for model in models:
        if model.name in names or model.root in names:
            return model
    raise not_served(client.url, [artifact.name], models)


def list_names(name: str, folder: Path | None = None) -> set[str]:
    """The names by which a server may know a model: our name for it (for a checkpoint its Hub id or
    folder), and its folder, in full or only the last part. A model called `api:NAME` is known as
    NAME alone."""
    served = hub.parse_served_name(name)
    if served is not None:
        return {served}
    return {name.removeprefix(hub.BUILTIN), *((str(folder), folder.name) if folder else ())}


def not_served(url: str, names: Sequence[str], models: Sequence[ServedModel]) -> CheckpointError:
    """The error for models that the server does not have."""
    served, missing = (
        ", ".join(listed[:8]) + (", ..." if listed[8:] else "")
        for listed in ([model.name for model in models], names)
    )
    return CheckpointError(
        f"{url} serves {served}, not {missing}: correct --models, or start the server with that "
        "name (vLLM: --served-model-name NAME)"
    )


# ---- token ids


@dataclass(frozen=True)
class Offer:
    """What a server can do: take vLLM's `exact` settings, give the log-probabilities of `options`
    by id, and `echo` prompts with their log-probabilities.
    """

    exact: bool
    options: bool
    echo: bool


class ApiEngine(ServedEngine):
    """A served checkpoint as an `Engine`, asked in token ids."""

    path = COMPLETIONS

    def __init__(self, client: ApiClient) -> None:
        super().__init__(client)
        self._offer = Offer(False, False, False)
        self._tokenizer: Any = None

    def exchange(self, artifact: Artifact) -> None:
        """See `Engine`. Finds the artifact among the served models and probes what the server can
        do.

        Raises CheckpointError for a model that is not served, LepBenchError for a server that takes
        no token ids.
        """
        served = find_served_model(artifact, self.client)
        if served != self._served:
            self._served = served
            self._offer = self._probe_offer()
            self.info = self.client.info(served)
        has_config = (artifact.folder / "config.json").is_file()
        config = hub.read_config(artifact.folder) if has_config else {}
        positions = int(config.get("max_position_embeddings") or 0)
        # A scored text is one id longer than what is read of it, and one more is generated: both
        # must fit.
        self.max_length = min(
            (length for length in (positions, served.positions - 2) if length > 0), default=2048
        )
        self.model, self._tokenizer = artifact, None

    def _probe_offer(self) -> Offer:
        """What the server can do, found out by trying: it may refuse an argument, or ignore it."""
        exact = self._probe(EXACT, _read_ids) is not None
        if not exact:
            try:
                self.client.answer(self.path, self._body([1, 2, 3], 1))
            except RefusedError as error:
                raise LepBenchError(
                    f"{error}: engine api asks in token ids, and this server takes none for "
                    f"{self._served.name}"
                ) from error
        self._offer = Offer(exact, False, False)
        options = self._probe({"logprobs": 1, "logprob_token_ids": [1, 2]}, _read_first_row)
        echo = self._probe({"logprobs": 1, "echo": True}, lambda choice: _read_echo(choice, 3))
        return Offer(exact, options is not None and {1, 2} <= options[1].keys(), echo is not None)

    def _probe(self, arguments: Json, read: Callable[[Json], T]) -> T | None:
        try:
            reply = self.client.answer(self.path, {**self._body([1, 2, 3], 1), **arguments})
            return read(reply["choices"][0])
        except (RefusedError, *MALFORMED):
            return None

    def remarks(self) -> tuple[str, ...]:
        """See `Engine`."""
        return (f"answered by {self.client.host} as {self._served.name}",)

    def option_logprobs(
        self, contexts: Sequence[Ids], options: Sequence[Ids]
    ) -> list[list[tuple[float, bool]]]:
        """See `Engine`. One request per distinct context where the server gives log-probabilities
        by id, else one per option.
        """
        if not self._offer.options:
            return super().option_logprobs(contexts, options)
        self.counts.requests += sum(map(len, options))
        distinct: dict[Key, dict[int, None]] = {}
        for context, choices in zip(contexts, options, strict=True):
            distinct.setdefault(tuple(context), {}).update(dict.fromkeys(choices))
        questions = [
            (context, list(choices)[start : start + MAX_OPTIONS])
            for context, choices in distinct.items()
            for start in range(0, len(choices), MAX_OPTIONS)
        ]
        answers = self._complete(
            {**self._body(context, 1), "logprobs": 1, "logprob_token_ids": choices}
            for context, choices in questions
        )
        scores: dict[tuple[Key, int], tuple[float, bool]] = {}
        for (context, choices), answer in zip(questions, answers, strict=True):
            best, logprobs = self._read(_read_first_row, answer)
            for option in choices:
                value = self._read(logprobs.__getitem__, option)
                scores[context, option] = (value, option == best)
        return [
            [scores[tuple(context), option] for option in choices]
            for context, choices in zip(contexts, options, strict=True)
        ]

    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine`. One request per distinct pair. Raises TaskError where the server gives no
        log-probabilities of prompts.
        """
        if not self._offer.echo:
            raise TaskError(
                f"{self.client.url} gives no log-probabilities of prompts (`echo` with "
                "`logprobs`): it cannot answer tasks that compare options or score running text, "
                "only generation tasks (--tasks)"
            )
        self.counts.requests += len(pairs)
        keys = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
        questions = list(dict.fromkeys(keys))
        answers = self._complete(
            {**self._body(context + continuation, 1), "logprobs": 1, "echo": True}
            for context, continuation in questions
        )
        scores: dict[tuple[Key, Key], TokenScores] = {}
        for (context, continuation), answer in zip(questions, answers, strict=True):
            length = len(context) + len(continuation)
            rows = self._read(_read_echo, answer, length)[len(context) :]
            scores[context, continuation] = TokenScores(
                tuple(value for value, _ in rows),
                all(_is_best(token, *row) for token, row in zip(continuation, rows, strict=True)),
            )
        return [scores[key] for key in keys]

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
        """See `Engine`. Equal questions are asked once. The server is not told of
        `max_characters`.
        """
        self.counts.requests += len(contexts)
        drawn = [0] * len(contexts) if sampling is None else seeds
        keys = list(zip(map(tuple, contexts), drawn, strict=True))
        if max_new < 1:
            return [[] for _ in keys]
        stops = [text for text in stop_strings if text]
        stops = stops if self._offer.exact else stops[:MAX_STOP_STRINGS]
        settings: Json = {"stop": stops} if stops else {}
        if self._offer.exact:  # the artifact's stop ids, not the server's
            settings |= {"stop_token_ids": sorted({*stop_ids}), "ignore_eos": True}
        if sampling is not None:
            settings |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        questions = list(dict.fromkeys(keys))
        answers = self._complete(
            {**self._body(context, max_new), **settings, "seed": seed % SEEDS}
            for context, seed in questions
        )
        texts = {
            question: self._read_generated(answer, stop_ids)
            for question, answer in zip(questions, answers, strict=True)
        }
        return [list(texts[key]) for key in keys]

    def _read_generated(self, choice: Json, stop_ids: Ids) -> list[int]:
        """The ids of an answer without the stop id. Where a server gives text only, the ids of the
        text.
        """
        if self._offer.exact or "token_ids" in choice:
            ids = self._read(_read_ids, choice)
            return ids[:-1] if ids and ids[-1] in stop_ids else ids
        if self._tokenizer is None:
            from lep_bench.surgery.tokenizers import loading

            assert self.model
            self._tokenizer, _ = loading.load_tokenizer(self.model.folder)
        text = self._read(_read_text, choice)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _body(self, ids: Ids, max_new: int) -> Json:
        return {
            "model": self._served.name,
            "prompt": list(ids),
            "max_tokens": max_new,
            "temperature": 0.0,
            **(EXACT if self._offer.exact else {}),
        }


def _read_ids(choice: Json) -> list[int]:
    ids = choice["token_ids"]
    if not isinstance(ids, list) or not all(type(number) is int for number in ids):
        raise ValueError("token_ids are no list of ids")
    return ids


def _read_text(choice: Json) -> str:
    if not isinstance(choice["text"], str):
        raise ValueError("text is no text")
    return choice["text"]


def _parse_id(token: str) -> int:
    return int(token.removeprefix("token_id:"))


def _read_first_row(choice: Json) -> tuple[int, dict[int, float]]:
    """(arg max, log-probability per id) of the first generated token."""
    rows = choice["logprobs"]
    return _parse_id(rows["tokens"][0]), {
        _parse_id(token): read_logprob(value) for token, value in rows["top_logprobs"][0].items()
    }


def _read_echo(choice: Json, length: int) -> list[tuple[float, dict[str, float]]]:
    """Per id of an echoed prompt of `length` ids, its log-probability and the likeliest tokens at
    its place. The first id has nothing before it, so NaN and no tokens.
    """
    columns = choice["logprobs"]
    values, rows = columns["token_logprobs"][:length], columns["top_logprobs"][:length]
    if len(values) != length or len(rows) != length or len(columns["tokens"]) > length + 1:
        # The server has cut the prompt into other tokens.
        raise ValueError(f"{len(values)} log-probabilities for {length} ids")
    if not all(rows[1:]):
        raise ValueError("no likeliest token at some place")
    return [
        (math.nan, {}),
        *(
            (read_logprob(value), {token: read_logprob(row[token]) for token in row})
            for value, row in zip(values[1:], rows[1:], strict=True)
        ),
    ]


def _is_best(token: int, value: float, row: dict[str, float]) -> bool:
    """Whether the token is the arg max: among equal maxima the smallest id, where ids are given."""
    if value < max(row.values()):
        return False
    ties = [
        _parse_id(name)
        for name, logprob in row.items()
        if logprob == value and name.startswith("token_id:")
    ]
    return token == min(ties, default=token)


# ---- messages

# Control characters frame messages, because no text holds them; the last one ends a prompt whose
# answer is to come.
ROLE, CONTENT, OPEN = "\x01", "\x02", "\x03"


def write_messages(messages: Messages, answer_to_come: bool) -> str:
    """Messages as one text, every content verbatim. Raises TaskError for a content that holds one
    of the framing characters.
    """
    if any(mark in message["content"] for message in messages for mark in (ROLE, CONTENT, OPEN)):
        raise TaskError(
            "a message holds a control character (U+0001 to U+0003), which no prompt of a "
            "chat server can have"
        )
    framed = "".join(f"{ROLE}{m['role']}{CONTENT}{m['content']}" for m in messages)
    return framed + (OPEN if answer_to_come else "")


def read_messages(text: str) -> list[dict[str, str]]:
    """The messages in a text of `write_messages`. Raises TaskError for any other text: plain
    prompts and running text are no conversations.
    """
    if not text.startswith(ROLE):
        raise TaskError(
            "a chat server answers conversations only, so running text and plain prompts cannot "
            "be scored there: leave such tasks out (--tasks)"
        )
    parts = (part.partition(CONTENT) for part in text.removesuffix(OPEN)[1:].split(ROLE))
    return [{"role": role, "content": content} for role, _, content in parts]


class ChatEngine(ServedEngine):
    """A chat model behind a server as an `Engine`, asked in messages: a prompt's ids are the bytes
    of `write_messages`.

    An option of a multiple choice is scored by the log-probability of the one token that is its
    text (apart from white space) as the first token of the answer; where several listed tokens are
    its text, by their sum. Servers list only the 20 likeliest first tokens. A task of which an
    option is not among them fails: the server has returned no value for that option. Options of
    several tokens are never listed.
    """

    path = CHAT_COMPLETIONS

    def __init__(self, client: ApiClient) -> None:
        super().__init__(client)
        self.max_length = 1 << 40  # bytes; the server itself refuses what is too long for it
        self._limit = "max_tokens"
        self._top_k = self._continues = False
        self._remarks: dict[str, None] = {}

    def exchange(self, artifact: Artifact) -> None:
        """See `Engine`. Raises CheckpointError for a model that the server does not have,
        LepBenchError for one that is no chat model.
        """
        served = find_served_model(artifact, self.client)
        self.model = artifact
        if served.name == self._served.name:
            return
        self._served = served
        hello = [{"role": "user", "content": "1"}]
        try:
            self.client.answer(self.path, self._body(hello, 1))
        except RefusedError as error:
            # OpenAI's reasoning models know only the newer name, other servers only the older one.
            self._limit = "max_completion_tokens"
            if self._limit not in str(error) or not self._accepts(self._body(hello, 1)):
                raise LepBenchError(
                    f"{error}: engine api cannot ask {served.name} as a chat model"
                ) from error
        self._top_k = self._accepts({**self._body(hello, 1), "top_k": 1})
        begun = [*hello, {"role": "assistant", "content": "2"}]
        self._continues = self._accepts({**self._body(begun, 1), **CONTINUED})
        self.info = self.client.info(served)

    def remarks(self) -> tuple[str, ...]:
        """What a reader should know about the answers given since the last call, a line each."""
        remarks, self._remarks = tuple(self._remarks), {}
        return (f"answered by {self.client.host} as {self._served.name}", *remarks)

    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine` and the class: one value per option, one request per context.

        Raises TaskError for running text, for a server without log-probabilities, and where an
        option is not listed.
        """
        keys = [
            (bytes(context), bytes(option).decode("utf-8", "replace").strip())
            for context, option in pairs
        ]
        self.counts.requests += len(keys)
        options: dict[bytes, list[str]] = {}
        for context, option in keys:
            options.setdefault(context, []).append(option)
        contexts = list(options)
        listed: dict[bytes, list[tuple[str, float]]] = {}
        for part in (contexts[:FIRST_LOOK], contexts[FIRST_LOOK:]):
            listed |= zip(part, self._list_first_tokens(part), strict=True)
            self._check_listed(options, listed)
        return [_score_option(option, listed[context]) for context, option in keys]

    def _check_listed(
        self, options: dict[bytes, list[str]], listed: dict[bytes, list[tuple[str, float]]]
    ) -> None:
        """Raises TaskError where an option is not among the listed first tokens."""
        missing = [
            (option, tokens)
            for context, tokens in listed.items()
            for option in options[context]
            if option not in {text for text, _ in tokens}
        ]
        if missing:
            option, tokens = missing[0]
            raise TaskError(
                f"{self.client.url}: {self._served.name} lists no log-probability for "
                f"{len(missing)} options of {len(listed)} questions, such as {option!r}, whose "
                f"question lists {_shorten_list(text for text, _ in tokens)}: a chat server lists "
                f"only the {LISTED} likeliest first tokens, so these options cannot be compared; "
                "leave the task out (--tasks)"
            )

    def _list_first_tokens(self, contexts: Sequence[bytes]) -> list[list[tuple[str, float]]]:
        """Per context the listed first tokens of the answer, stripped, likeliest first, with their
        log-probabilities.
        """
        no_logprobs = "without log-probabilities no options can be compared: leave such tasks out"
        bodies = [
            {**self._question(context, 1), "logprobs": True, "top_logprobs": LISTED}
            for context in contexts
        ]
        try:
            choices = self._complete(bodies)
        except RefusedError as error:
            if "logprob" not in str(error):
                raise
            raise TaskError(f"{error}: {no_logprobs} (--tasks)") from error
        try:
            return [_read_first_tokens(choice) for choice in choices]
        except MALFORMED as error:
            raise TaskError(
                f"{self.client.url}: {self._served.name} gives no log-probabilities of its answers "
                f"(`logprobs`, `top_logprobs`); {no_logprobs} (--tasks)"
            ) from error

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
        server that does not take `top_k` is asked without it, and `remarks` says so.

        Raises TaskError where an answer has no text (a content filter, thoughts without an end):
        an empty answer would be scored as a wrong one.
        """
        self.counts.requests += len(contexts)
        drawn = [0] * len(contexts) if sampling is None else seeds
        keys = list(zip(map(bytes, contexts), drawn, strict=True))
        if max_new < 1:
            return [[] for _ in keys]
        stops = [text for text in stop_strings if text][:MAX_STOP_STRINGS]
        settings: Json = {"stop": stops} if stops else {}
        if sampling is not None:
            settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
            if sampling.top_k and self._top_k:
                settings["top_k"] = sampling.top_k
            elif sampling.top_k:
                self._remark(f"sampled without top_k {sampling.top_k}: the server does not take it")
        questions = list(dict.fromkeys(keys))
        choices = self._complete(
            {**self._question(context, max_new), **settings, "seed": seed % SEEDS}
            for context, seed in questions
        )
        contents = [self._read(_read_content, choice) for choice in choices]
        texts = {
            question: content.encode()
            for question, content in zip(questions, contents, strict=True)
            if content is not None
        }
        if missing := len(questions) - len(texts):
            reasons = _shorten_list(
                str(choice.get("finish_reason"))
                for choice, content in zip(choices, contents, strict=True)
                if content is None
            )
            raise TaskError(
                f"{self.client.url}: {self._served.name} gives no text in {missing} of "
                f"{len(questions)} answers (finish_reason {reasons}), and a missing answer is not "
                "scored as an empty one"
            )
        return [list(texts[key]) for key in keys]

    def _question(self, context: bytes, max_new: int) -> Json:
        messages = read_messages(context.decode("utf-8"))
        if messages[-1]["role"] != "assistant":
            return self._body(messages, max_new)
        if self._continues:
            self._remark("the beginning of the answer is continued by the server")
            return {**self._body(messages, max_new), **CONTINUED}
        self._remark(
            "the beginning of the answer is sent as a message of its own, after which the server "
            "begins another"
        )
        return self._body(messages, max_new)

    def _body(self, messages: Messages, max_new: int) -> Json:
        return {
            "model": self._served.name,
            "messages": list(messages),
            self._limit: max_new,
            "temperature": 0.0,
        }

    def _remark(self, text: str) -> None:
        self._remarks[text] = None


def _read_content(choice: Json) -> str | None:
    content = choice["message"]["content"]
    if content is not None and not isinstance(content, str):
        raise ValueError("the content is no text")
    return content


def _read_first_tokens(choice: Json) -> list[tuple[str, float]]:
    rows = choice["logprobs"]["content"][0]["top_logprobs"]
    tokens = [(row["token"].strip(), read_logprob(row["logprob"])) for row in rows]
    return sorted(tokens, key=lambda pair: -pair[1])


def _score_option(option: str, tokens: Sequence[tuple[str, float]]) -> TokenScores:
    """See `ChatEngine`; the option is listed."""
    values = [value for text, value in tokens if text == option]
    best = max(values)
    total = best + math.log(sum(math.exp(value - best) for value in values))
    return TokenScores((total,), tokens[0][0] == option)


def _shorten_list(texts: Iterable[str]) -> str:
    return ", ".join(repr(text[:20]) for text in itertools.islice(dict.fromkeys(texts), 4))
