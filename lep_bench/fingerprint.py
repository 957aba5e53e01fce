"""Fingerprints: short hashes of what determines a result, from resolved values only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

LENGTH = 16  # hexadecimal digits: 64 bits, no clash to expect below a billion artifacts


def digest(value: Any) -> str:
    """Hash of a JSON-able value: keys sorted, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:LENGTH]


def text_digest(text: str) -> str:
    """Hash of one text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:LENGTH]


def ids_digest(ids: Iterable[int]) -> str:
    """Hash of a token-id sequence (what the engine really read)."""
    return hashlib.sha256(" ".join(map(str, ids)).encode("ascii")).hexdigest()[:LENGTH]


def file_digest(path: Path) -> str:
    """Hash of a file's bytes; remembered per (path, size, mtime) within the process."""
    stat = path.stat()
    return _file_digest(str(path), stat.st_size, stat.st_mtime_ns)


@cache
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:LENGTH]


def files_digest(files: Iterable[Path], root: Path) -> str:
    """Hash of several files by their path below `root` and content, in sorted order."""
    return digest({path.relative_to(root).as_posix(): file_digest(path) for path in sorted(files)})
