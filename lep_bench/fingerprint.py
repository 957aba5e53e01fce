"""Fingerprints: short hashes of what determines a result, from resolved values only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from lep_bench import atomic
from lep_bench.errors import LepBenchError

LARGE = 50_000_000  # bytes; hashing a larger file takes longer than looking its digest up
SETTLED = 2.0  # seconds; a file written later than that may change again within one tick of its clock
LENGTH = 16  # hexadecimal digits: 64 bits, no clash to expect below a billion artifacts


def digest(value: Any) -> str:
    """Hash of a JSON-able value: keys sorted, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:LENGTH]


def text_digest(text: str) -> str:
    """Hash of one text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:LENGTH]


def bytes_digest(data: bytes) -> str:
    """Hash of a file's bytes, before they are written or after they were read."""
    return hashlib.sha256(data).hexdigest()[:LENGTH]


def ids_digest(ids: Iterable[int]) -> str:
    """Hash of a token-id sequence (what the engine really read)."""
    return hashlib.sha256(" ".join(map(str, ids)).encode("ascii")).hexdigest()[:LENGTH]


def file_digest(path: Path) -> str:
    """Hash of a file's bytes; remembered within the process, that of a large file also across processes (see `remembered`)."""
    return _file_digest(*_identity(path))


def _identity(path: Path) -> tuple[str, int, int, int]:
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino


@cache
def _file_digest(path: str, size: int, mtime_ns: int, inode: int) -> str:
    note = remembered() / f"{text_digest(f'{path} {size} {mtime_ns} {inode}')}.json"
    known = {"path": path, "size": size, "mtime_ns": mtime_ns, "inode": inode}
    if size >= LARGE:
        with contextlib.suppress(OSError, ValueError, AttributeError, KeyError):  # not there, or damaged: hashed again
            found = json.loads(note.read_text(encoding="utf-8"))
            if known.items() <= found.items() and len(found["digest"]) == LENGTH:
                return str(found["digest"])
    with open(path, "rb") as file:
        made = hashlib.file_digest(file, "sha256").hexdigest()[:LENGTH]
    if size >= LARGE and time.time() - mtime_ns / 1e9 > SETTLED and _identity(Path(path)) == (path, size, mtime_ns, inode):
        with contextlib.suppress(OSError, LepBenchError):  # no room or no right to write there: hashed again next time
            atomic.write_json(note, {**known, "digest": made})
    return made


def remembered() -> Path:
    """The user's folder of digests: one small JSON per large file, valid while real path, size, mtime and inode are the same.

    One file each, written whole: processes never write over each other's. It may be deleted at any time.
    """
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "lep-bench" / "digests"


def files_digest(files: Iterable[Path], root: Path) -> str:
    """Hash of several files by their path below `root` and content, in sorted order."""
    return digest({path.relative_to(root).as_posix(): file_digest(path) for path in sorted(files)})
