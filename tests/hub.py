"""A small Hugging Face Hub on the loopback interface: serves local folders as far as
huggingface_hub asks for them.

    with Hub() as hub:
        commit = hub.add("dataset", "org/name", folder, licence="mit")
        ... HF_ENDPOINT=hub.url ...

What is asked for is kept in `hub.asked` as "METHOD /path".
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

KINDS = {"dataset": "datasets", "model": "models"}
# bytes; from here on a file is stored as LFS: its hash is a sha256 instead of git's
LARGE = 100_000


@dataclass
class Repository:
    """Commits of one repository, oldest first: commit -> path -> bytes. `branches` are names of
    commits.
    """

    gated: bool = False
    licence: str | None = None
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


def blob_id(data: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """The server; `url` is what HF_ENDPOINT must be."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.asked: list[str] = []
        self.fails_after: int | None = None  # number of downloads after which the Hub is down
        self.corrupt: dict[str, bytes] = {}  # path -> what is sent instead of the file
        hub = self

        class Answers(Handler):
            pass

        Answers.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> Hub:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(
        self,
        kind: str,
        name: str,
        files: Path | dict[str, bytes],
        branch: str = "main",
        *,
        gated: bool = False,
        licence: str | None = None,
        commit: str | None = None,
    ) -> str:
        """A new commit with these files (a folder or path -> bytes), the branch's last one; gives
        its hash.
        """
        if isinstance(files, Path):
            files = {
                path.relative_to(files).as_posix(): path.read_bytes()
                for path in sorted(files.rglob("*"))
                if path.is_file()
            }
        repository = self.repositories.setdefault((kind, name), Repository())
        repository.gated, repository.licence = gated, licence or repository.licence
        content = json.dumps(
            [
                name,
                branch,
                len(repository.commits),
                {path: blob_id(data) for path, data in files.items()},
            ]
        )
        commit = commit or hashlib.sha1(content.encode()).hexdigest()
        repository.commits[commit] = files
        repository.branches[branch] = commit
        return commit

    def downloads(self) -> list[str]:
        """Paths of the files that were fetched."""
        return [
            path.split("/resolve/")[1].split("/", 1)[1]
            for path in self.asked
            if path.startswith("GET ") and "/resolve/" in path
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        api = re.fullmatch(
            r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|commits)/(.+))?", path
        )
        file = re.fullmatch(
            r"/(datasets/)?([^/]+/[^/]+)/resolve/(refs/[^/]+/[^/]+|[^/]+)/(.+)", path
        )
        if api:
            kind = next(kind for kind, plural in KINDS.items() if plural == api[1])
            self.about(kind, api[2], api[3] or "revision", api[4] or "main")
        elif file:
            self.file("dataset" if file[1] else "model", *file.groups()[1:])
        else:
            self.send(404, b"{}")

    def found(self, kind: str, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.commit(revision)
        if commit is None:
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit

    def about(self, kind: str, name: str, what: str, revision: str) -> None:
        found = self.found(kind, name, revision)
        if found is None:
            return
        repository, commit = found
        described = [
            self.described(path, data) for path, data in repository.commits[commit].items()
        ]
        if what == "commits":
            known = [
                {
                    "id": one,
                    "title": "",
                    "message": "",
                    "authors": [],
                    "date": "2024-07-01T00:00:00.000Z",
                }
                for one in repository.commits
            ]
            answer: object = known[::-1]
        elif what == "tree":
            answer = [{"type": "file", **one} for one in described]
        else:
            answer = {
                "id": name,
                "sha": commit,
                "private": False,
                "gated": "manual" if repository.gated else False,
                "tags": [f"license:{repository.licence}"] if repository.licence else [],
                "cardData": {"license": repository.licence} if repository.licence else None,
                "downloads": 0,
                "likes": 0,
                "siblings": [
                    {
                        "rfilename": one["path"],
                        "size": one["size"],
                        "blobId": one["oid"],
                        **(
                            {
                                "lfs": {
                                    "sha256": one["lfs"]["oid"],
                                    "size": one["size"],
                                    "pointerSize": 130,
                                }
                            }
                            if "lfs" in one
                            else {}
                        ),
                    }
                    for one in described
                ],
            }
        self.send(200, json.dumps(answer).encode())

    def described(self, path: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"path": path, "size": len(data), "oid": blob_id(data)}
        if len(data) >= LARGE:
            pointer = b"pointer of " + hashlib.sha256(data).hexdigest().encode()
            entry |= {
                "oid": blob_id(pointer),
                "lfs": {
                    "oid": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": len(pointer),
                },
            }
        return entry

    def file(self, kind: str, name: str, revision: str, path: str) -> None:
        found = self.found(kind, name, revision)
        if found is None:
            return
        repository, commit = found
        if repository.gated:
            self.send(
                403,
                b"{}",
                {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {name} is restricted"},
            )
            return
        if path not in repository.commits[commit]:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        if (
            self.command == "GET"
            and self.hub.fails_after is not None
            and len(self.hub.downloads()) > self.hub.fails_after
        ):
            self.close_connection = True
            self.connection.close()
            return
        data = repository.commits[commit][path]
        described = self.described(path, data)
        tag = described["lfs"]["oid"] if "lfs" in described else described["oid"]
        data = self.hub.corrupt.get(path, data)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if begin:
            headers["Content-Range"] = f"bytes {begin[1]}-{len(data) - 1}/{len(data)}"
            self.send(206, data[int(begin[1]) :], headers)
        else:
            self.send(200, data, headers)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/octet-stream",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
