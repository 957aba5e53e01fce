"""Where the data folders (adapters, tasks, configs, leaderboards) are: the checkout's, else the wheel's copy."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

from lep_bench.errors import LepBenchError
from lep_bench.fingerprint import digest

PACKAGE = Path(__file__).resolve().parent
FOLDERS = ("adapters", "tasks", "configs", "leaderboards")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@=-]*")


def folder(name: str) -> Path:
    """The absolute path of one of `FOLDERS`. Raises LepBenchError for another name or a broken installation.

    In a checkout (editable install) the folder stands beside the package; a wheel carries a copy inside it.
    """
    if name not in FOLDERS:
        raise LepBenchError(f"no folder {name!r}: there are {', '.join(FOLDERS)}")
    for candidate in (PACKAGE.parent / name, PACKAGE / "_data" / name):
        # site-packages may hold somebody's top-level "tasks": ours stands beside our pyproject.toml.
        if candidate.is_dir() and (candidate.parent == PACKAGE / "_data" or (PACKAGE.parent / "pyproject.toml").is_file()):
            return candidate
    raise LepBenchError(f"the folder {name!r} is missing beside {PACKAGE}: reinstall lep-bench")


def checkpoints() -> Path:
    """The folder of the shipped small checkpoints: `FAMILY/{base,instruct}`."""
    return PACKAGE / "mini" / "checkpoints"


def builtin_texts() -> Path:
    """The folder of the built-in world's texts: `NAME.jsonl.xz`."""
    return PACKAGE / "mini" / "texts"


def module(file: Path, kind: str) -> Any:
    """Run a Python file and return its module, under a name of its own: data folders must never become importable names.

    Raises whatever the file raises."""
    name = f"_lep_bench_{kind}_{digest(str(file.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    made = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def safe(part: str, what: str = "name") -> str:
    """`part` itself when it can be one path component, else LepBenchError: names never escape their folder."""
    if not _SAFE.fullmatch(part) or part in (".", ".."):
        raise LepBenchError(f"{what} {part!r} is not usable: letters, digits and . _ + - @ = only, starting with a letter or digit")
    return part


def inside(root: Path, *parts: str) -> Path:
    """`root` joined with slash-separated `parts`, every component checked by `safe`."""
    path = root
    for part in "/".join(parts).split("/"):
        path = path / safe(part)
    return path


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
