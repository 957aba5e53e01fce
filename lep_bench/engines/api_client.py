"""Questions over HTTP to an OpenAI-compatible server: several at once, answers in order, every wait bounded."""

from __future__ import annotations

import ipaddress
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from lep_bench.engines.base import EngineInfo
from lep_bench.errors import LepBenchError

KEY = "OPENAI_API_KEY"
IN_FLIGHT = 32
LARGEST = 64 << 20  # bytes of one answer
AGAIN = (408, 429, 500, 502, 503, 504)  # what may pass: tried again
Json = dict[str, Any]


class Refused(LepBenchError):
    """The server understood the question and does not answer it: an argument or model it does not know."""


@dataclass(frozen=True)
class Patience:
    """Bounds, in seconds: `connect` and `answer` of one try, `pause` before the second (then twice as long each time, or as
    long as the server asks for, at most `longest`), `total` of all tries of one question; and how many `tries`."""

    connect: float = 10.0
    answer: float = 300.0
    pause: float = 0.5
    longest: float = 60.0
    total: float = 900.0
    tries: int = 8


@dataclass(frozen=True)
class Model:
    """What GET /models says of a model: its name, the folder or Hub id it was loaded from, its positions (0: not said)."""

    name: str
    root: str = ""
    positions: int = 0
    owner: str = ""


def loopback(url: str) -> bool:
    """Whether a URL's host is this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def checked(url: str) -> str:
    """The URL without an end slash, `/v1` added where it has no path. Raises LepBenchError for anything but http(s)://HOST..."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fits = False
    if not fits:
        raise LepBenchError(f"--url {url!r} is no address of a server: give one like http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise LepBenchError("--url: no name, password or query in the address, it is recorded with results: a key goes into an environment variable")
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


def key_for(url: str, variable: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key to send: of the variable that is named, else of OPENAI_API_KEY and then over https only, None where there is none.

    Raises LepBenchError for a variable that is named and not set, and for a key that others on the way could read.
    """
    safe = urlsplit(url).scheme == "https"
    if variable is None:
        return environment.get(KEY) if safe else None
    if not environment.get(variable):
        raise LepBenchError(f"the environment variable {variable} is to hold the key for {urlsplit(url).netloc} and is not set")
    if not safe and not loopback(url):
        raise LepBenchError(f"the key in {variable} would go readable over http to {urlsplit(url).netloc}: give an https address")
    return environment[variable]


class Client:
    """One server. `url` ends where `/models` and `/completions` begin; the key goes to its host alone and into no message."""

    def __init__(self, url: str, key: str | None = None, patience: Patience = Patience()) -> None:
        self.url = checked(url)
        self.host = urlsplit(self.url).netloc
        self.patience = patience
        self._key = key
        self._given_up: str | None = None
        self._session = requests.Session()
        # Proxies of the environment are for the world outside. An `auth` of ours keeps requests from asking .netrc.
        self._session.trust_env = not loopback(self.url)
        self._session.auth = self._authorise
        self._session.headers["Accept-Encoding"] = "identity"  # answers are read as they come
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=IN_FLIGHT))

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def models(self) -> tuple[Model, ...]:
        """What is served. Raises LepBenchError when there is no server, or it lists nothing."""
        found = self._question("GET", "/models", None, threading.Event(), tries=2, answer=30.0).get("data")
        try:
            made = tuple(
                Model(str(m["id"]), str(m.get("root") or ""), int(m.get("max_model_len") or 0), str(m.get("owned_by") or "")) for m in found or ()
            )
        except (TypeError, KeyError, ValueError, AttributeError):
            made = ()
        if not made:
            raise LepBenchError(f"{self.url}/models lists no models: is that the address of an OpenAI-compatible server, with its /v1?")
        return made

    def info(self, model: Model | None = None) -> EngineInfo:
        """As what the server's answers are recorded. The host stands for the device: no server says which it has, or its dtype."""
        version = self._version() if model and model.owner == "vllm" else ""
        return EngineInfo("api", version, urlsplit(self.url).hostname or "", "unknown")

    def _version(self) -> str:
        try:
            reply = self._session.get(f"{self.url.removesuffix('/v1')}/version", timeout=(5, 5), allow_redirects=False)
            return f"vllm {reply.json()['version']}"
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return ""

    def answer(self, path: str, body: Json) -> Json:
        """The answer to one question. Raises Refused, or LepBenchError after bounded tries."""
        return self.answers(path, [body])[0]

    def answers(self, path: str, bodies: Iterable[Json]) -> list[Json]:
        """The answers in the order of the questions, up to `IN_FLIGHT` on their way at once. Raises as `answer` does.

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
            pool.shutdown(wait=False, cancel_futures=True)  # what is on its way ends at its own bound

    def _question(self, method: str, path: str, body: Json | None, stop: threading.Event, tries: int = 0, answer: float = 0.0) -> Json:
        begin, wanted = time.monotonic(), self.patience
        tries = tries or wanted.tries
        for number in range(1, tries + 1):
            left = wanted.total - (time.monotonic() - begin)
            problem, pause = self._try(method, path, body, min(answer or wanted.answer, max(left, 0.1)))
            if isinstance(problem, dict):
                return problem
            pause = min(max(pause, wanted.pause * 2 ** (number - 1)), wanted.longest)
            if number == tries or time.monotonic() - begin + pause > wanted.total or stop.wait(pause):
                break
        seconds = time.monotonic() - begin
        raise LepBenchError(
            f"{self.url}{path}: {problem} ({number} {'try' if number == 1 else 'tries'}, {seconds:.0f} s): "
            "start the server or wait for it, and run the same command again; what was finished is kept"
        )

    def _try(self, method: str, path: str, body: Json | None, seconds: float) -> tuple[Json | str, float]:
        """The answer, or what went wrong and may pass, and how many seconds the server asks to wait."""
        end = time.monotonic() + seconds
        try:
            with self._session.request(
                method, self.url + path, json=body, timeout=(self.patience.connect, seconds), allow_redirects=False, stream=True
            ) as reply:
                content = bytearray()
                # What has come, not a full buffer: a server that drips its answer would fill none before the end.
                while piece := reply.raw.read1(1 << 16):
                    content += piece
                    if time.monotonic() > end:
                        return f"no whole answer in {seconds:.0f} s", 0.0
                    if len(content) > LARGEST:
                        raise Refused(f"{self.url}{path}: an answer of more than {LARGEST >> 20} MiB")
        except requests.Timeout:
            return f"no answer in {seconds:.0f} s", 0.0
        except requests.exceptions.SSLError as error:
            raise LepBenchError(f"{self.url}: its certificate is not trusted ({self._line(str(error))})") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            why = str(error).lower()
            if "timed out" in why:  # in the middle of an answer
                return f"no whole answer in {seconds:.0f} s", 0.0
            return "nothing answers at this address" if "refused" in why else f"the connection broke ({type(error).__name__})", 0.0
        return self._read(reply, bytes(content), path)

    def _read(self, reply: requests.Response, content: bytes, path: str) -> tuple[Json | str, float]:
        status = reply.status_code
        if status in AGAIN:
            return f"the server answers {status}{self._said(content)}", _asked_pause(reply.headers.get("Retry-After"))
        if 300 <= status < 400:
            raise LepBenchError(
                f"{self.url}{path} redirects to {reply.headers.get('Location', 'nowhere')}, which is not followed: give the right --url"
            )
        if status in (401, 403):
            advice = "it takes no such key" if self._key else f"it wants a key: set {KEY} (https only), or name another variable with --key-variable"
            raise LepBenchError(f"{self.url}{path}: the server answers {status}: {advice}{self._said(content)}")
        if status >= 400:
            raise Refused(f"{self.url}{path}: the server answers {status}{self._said(content)}")
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            return f"an answer that is no JSON object: {self._line(content[:80].decode('utf-8', 'replace'))!r}", 0.0
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
