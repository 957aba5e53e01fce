"""Fingerprints: short hashes of what determines a result, from resolved values only."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lep_bench.errors import LepBenchError

LARGE = 50_000_000  # bytes; hashing a larger file takes longer than looking its digest up
# seconds; a file written later than that may change again within one tick of its clock
SETTLED = 2.0
SHA256_LENGTH = 64  # hexadecimal digits
LENGTH = 16  # hexadecimal digits: 64 bits, no clash to expect below a billion artifacts


def digest(value: Any) -> str:
    """Hash of a JSON-able value: keys sorted, no spaces, UTF-8."""
    text = json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
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
    """Short hash of a file's bytes: the beginning of `file_sha256`."""
    return file_sha256(path)[:LENGTH]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    A process reads each state of a file once. For large files the hash is also remembered across
    processes (see `digest_cache_folder`).
    """
    return _file_sha256(*file_state(path))


FileState = tuple[str, int, int, int]  # real path, size in bytes, mtime in ns, inode


def file_state(path: Path) -> FileState:
    """What tells that a file has not changed: while this is the same, a hash of the file holds."""
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino


@cache
def _file_sha256(path: str, size: int, mtime_ns: int, inode: int) -> str:
    note = digest_cache_folder() / f"{text_digest(f'{path} {size} {mtime_ns} {inode}')}.json"
    known = {"path": path, "size": size, "mtime_ns": mtime_ns, "inode": inode}
    if size >= LARGE:
        # not there, or damaged: hashed again
        with contextlib.suppress(OSError, ValueError, AttributeError, KeyError):
            found = json.loads(note.read_text(encoding="utf-8"))
            if known.items() <= found.items() and len(found["sha256"]) == SHA256_LENGTH:
                return str(found["sha256"])
    with open(path, "rb") as file:
        made = hashlib.file_digest(file, "sha256").hexdigest()
    if (
        size >= LARGE
        and time.time() - mtime_ns / 1e9 > SETTLED
        and file_state(Path(path)) == (path, size, mtime_ns, inode)
    ):
        # no room or no right to write there: hashed again next time
        with contextlib.suppress(OSError, LepBenchError):
            write_json(note, {**known, "sha256": made})
    return made


def digest_cache_folder() -> Path:
    """The user's folder of digests: one small JSON per large file, valid while real path, size,
    mtime and inode are the same.

    One file each, written whole: processes never write over each other's. It may be deleted at any
    time.
    """
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "lep-bench" / "digests"


def files_digest(files: Iterable[Path], root: Path) -> str:
    """Hash of several files by their path below `root` and content, in sorted order."""
    return digest({path.relative_to(root).as_posix(): file_digest(path) for path in sorted(files)})


UNFINISHED = ".writing-"


@contextlib.contextmanager
def explain_disk_errors(target: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one line; nothing half-written stays."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LepBenchError(
                f"the disk is full while writing {target}: free some space and run the same "
                "command again; what was finished is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise LepBenchError(
                f"cannot write {target}: {error.strerror}; choose another folder or mend its "
                "permissions"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise LepBenchError(
                f"cannot write {target}: {error.filename} is a file, a folder is needed: "
                "choose another name"
            ) from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all, making parent folders. Raises LepBenchError on a
    full disk.
    """
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Readable JSON with a closing newline; NaN is refused (it is no JSON)."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it becomes `path` in one rename, else it is
    removed.

    Raises LepBenchError when `path` exists: nothing is ever overwritten by accident.
    """
    if path.exists():
        raise LepBenchError(f"{path} exists already: choose another folder or remove it first")
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=path.parent))
        try:
            os.chmod(work, 0o755)
            yield work
            os.rename(work, path)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def need_space(folder: Path, nbytes: int) -> None:
    """Raise LepBenchError, before any work, when the disk of `folder` (which may not exist yet) has
    less than `nbytes` free.
    """
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if nbytes > free:
        raise LepBenchError(
            f"{folder} needs {nbytes / 2**30:.1f} GiB, but its disk has {free / 2**30:.1f} "
            "GiB free: free some space or choose another disk"
        )


def remove_unfinished(root: Path) -> int:
    """Remove what killed writers left under `root` (only while no other run writes there). Returns
    how many.
    """
    left = [p for p in root.rglob(UNFINISHED + "*")] if root.is_dir() else []
    for path in left:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(left)


PACKAGE = Path(__file__).resolve().parent
FOLDERS = ("adapters", "tasks", "configs", "leaderboards")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@=-]*")


def shipped_folder(name: str) -> Path:
    """The absolute path of one of `FOLDERS`. Raises LepBenchError for another name or a broken
    installation.

    In a checkout (editable install) the folder stands beside the package; a wheel carries a copy
    inside it.
    """
    if name not in FOLDERS:
        raise LepBenchError(f"no folder {name!r}: there are {', '.join(FOLDERS)}")
    for candidate in (PACKAGE.parent / name, PACKAGE / "_data" / name):
        # site-packages may hold somebody's top-level "tasks": ours stands beside our
        # pyproject.toml.
        if candidate.is_dir() and (
            candidate.parent == PACKAGE / "_data" or (PACKAGE.parent / "pyproject.toml").is_file()
        ):
            return candidate
    raise LepBenchError(f"the folder {name!r} is missing beside {PACKAGE}: reinstall lep-bench")


def builtin_checkpoints() -> Path:
    """The folder of the shipped small checkpoints: `FAMILY/{base,instruct}`."""
    return PACKAGE / "mini" / "checkpoints"


def builtin_texts() -> Path:
    """The folder of the built-in world's texts: `NAME.jsonl.xz`."""
    return PACKAGE / "mini" / "texts"


def load_module(file: Path, kind: str) -> Any:
    """Run a Python file and return its module, under a name of its own: data folders must never
    become importable names.

    Raises whatever the file raises."""
    name = f"_lep_bench_{kind}_{digest(str(file.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    made = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def check_name(part: str, what: str = "name") -> str:
    """`part` itself when it can be one path component, else LepBenchError: names never escape their
    folder.
    """
    if not _SAFE.fullmatch(part) or part in (".", ".."):
        raise LepBenchError(
            f"{what} {part!r} is not usable: letters, digits and . _ + - @ = only, starting "
            "with a letter or digit"
        )
    return part


def check_folder(path: Path, what: str = "") -> Path:
    """Return `path`, a folder or one that can be made. Raises LepBenchError when a file is in the
    way.
    """
    existing = next((p for p in (path, *path.parents) if p.exists()), path)
    if existing.is_file():
        raise LepBenchError(
            f"{f'{what} ' if what else ''}{path}: {existing} is a file, a folder is needed: "
            "choose another name"
        )
    return path


def format_size(count: float) -> str:
    """Bytes as `15 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def join_names(root: Path, *parts: str) -> Path:
    """`root` joined with slash-separated `parts`, every component checked by `safe`."""
    path = root
    for part in "/".join(parts).split("/"):
        path = path / check_name(part)
    return path


def count_cores() -> int:
    """Processor cores this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    )
