"""Everything written to disk is written whole or not at all: write beside, flush, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lep_bench.errors import LepBenchError

PREFIX = ".writing-"


@contextlib.contextmanager
def clear_disk_errors(target: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one line; nothing half-written stays."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LepBenchError(
                f"the disk is full while writing {target}: free some space and run the same command again; what was finished is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise LepBenchError(f"cannot write {target}: {error.strerror}; choose another folder or mend its permissions") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise LepBenchError(f"cannot write {target}: {error.filename} is a file, a folder is needed: choose another name") from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all, making parent folders. Raises LepBenchError on a full disk."""
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=PREFIX, dir=path.parent)
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
    """Give a temporary folder beside `path`; on success it becomes `path` in one rename, else it is removed.

    Raises LepBenchError when `path` exists: nothing is ever overwritten by accident.
    """
    if path.exists():
        raise LepBenchError(f"{path} exists already: choose another folder or remove it first")
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=PREFIX, dir=path.parent))
        try:
            os.chmod(work, 0o755)
            yield work
            os.rename(work, path)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def need_space(folder: Path, nbytes: int) -> None:
    """Raise LepBenchError, before any work, when the disk of `folder` (which may not exist yet) has less than `nbytes` free."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if nbytes > free:
        raise LepBenchError(
            f"{folder} needs {nbytes / 2**30:.1f} GiB, but its disk has {free / 2**30:.1f} GiB free: free some space or choose another disk"
        )


def sweep(root: Path) -> int:
    """Remove what killed writers left under `root` (only while no other run writes there). Returns how many."""
    left = [p for p in root.rglob(PREFIX + "*")] if root.is_dir() else []
    for path in left:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(left)
