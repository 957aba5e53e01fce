"""A Hub on the loopback interface that takes uploads, as far as huggingface_hub asks for them, and
fails as it is told.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload asks for; `fault` says how it fails, `seen` what came."""

    protocol_version = "HTTP/1.1"
    fault: Callable[[str], tuple[int, dict[str, str]] | None]
    seen: list[tuple[str, str | None, bytes]]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(
            {
                "sha": "b" * 40,
                "id": "org/x",
                "siblings": [],
                "private": True,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        )

    def do_POST(self) -> None:
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        url = f"http://{self.headers['Host']}/datasets/org/x"
        if "/preupload/" in self.path:
            self.answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in json.loads(body)["files"]
                    ]
                }
            )
        else:
            self.answer(
                {
                    "url": url,
                    "name": "org/x",
                    "commitOid": "a" * 40,
                    "commitUrl": f"{url}/commit/{'a' * 40}",
                }
            )

    def answer(self, content: dict[str, object]) -> None:
        status, headers = self.fault(self.path) or (200, {})
        body = json.dumps(content if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **headers,
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


Serve = Callable[..., tuple[str, list[tuple[str, str | None, bytes]]]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server on the loopback interface; the first one is the Hub."""
    servers: list[ThreadingHTTPServer] = []

    def start(
        fault: Callable[[str], tuple[int, dict[str, str]] | None] = lambda path: None,
    ) -> tuple[str, list[tuple[str, str | None, bytes]]]:
        own = type("Own", (Hub,), {"fault": staticmethod(fault), "seen": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), own)
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        servers.append(server)
        url = f"http://127.0.0.1:{server.server_port}"
        if len(servers) == 1:
            use(monkeypatch, url)
        return url, own.seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    from huggingface_hub import hf_api

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hf_api.constants, "ENDPOINT", url)
    # Retries of a server that is down would take minutes.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
