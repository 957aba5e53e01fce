"""A small server on this machine for the tests of engine api: what it answers is a function of the
question.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lep_bench.engines.api import ApiClient, Patience

QUICK = Patience(connect=2.0, answer=0.5, pause=0.01, longest=0.05, total=1.2, tries=4)
MODELS = {"data": [{"id": "small", "owned_by": "test"}]}


class Server(ThreadingHTTPServer):
    """`reply(path, body, number)` gives (status, JSON value or raw bytes, headers); `asked` holds
    (path, body, headers) of each question.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, reply: Callable[[str, Any, int], tuple[int, Any, dict[str, str]]]) -> None:
        self.reply = reply
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        self.lock, self.over = threading.Lock(), threading.Event()
        super().__init__(("127.0.0.1", 0), Questions)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def client(self, key: str | None = None) -> ApiClient:
        return ApiClient(self.url, key, QUICK)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


class Questions(BaseHTTPRequestHandler):
    """One connection, kept open."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body: Any) -> None:
        with self.server.lock:
            self.server.asked.append((self.path, body, dict(self.headers)))
            number = len(self.server.asked)
        status, value, headers = self.server.reply(self.path, body, number)
        if value is HANG:
            self.server.over.wait(20)
            return
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        for part in [content] if value is not DRIP else (bytes([byte]) for byte in content):
            self.wfile.write(part)
            if value is DRIP:
                self.wfile.flush()
                self.server.over.wait(0.1)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


HANG: Any = object()
DRIP = b'{"data": [' + b" " * 300


@contextmanager
def serving(reply: Callable[[str, Any, int], tuple[int, Any, dict[str, str]]]) -> Iterator[Server]:
    """A server for the length of a block."""
    server = Server(reply)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
