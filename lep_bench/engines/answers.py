"""Answers on disk: one SQLite file per model and engine, written a chunk at a time; it may be deleted at any time."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lep_bench.fingerprint import digest

VERSION = 1  # of the keys and of what stands behind them
AT_ONCE = 900  # keys in one SELECT: older SQLites take 999 parameters
PATIENCE = 60.0  # seconds to wait for another process's transaction
SIDES = ("-wal", "-shm")  # what SQLite keeps beside a file; a stale one must never meet a new file


class Answers:
    """Key -> answer, both bytes. `owner` says whose answers they are: it names the file, and its table `owner` is readable.

    Nothing here ever fails the work: a file that is damaged or somebody else's is put aside, and where nothing can be written
    nothing is kept. `said` has a line on each. Several processes may share a file.
    """

    def __init__(self, folder: Path, owner: Mapping[str, str], about: Mapping[str, str] = {}) -> None:
        """`about`: more for the reader, no part of the identity."""
        self._owner = {"format": str(VERSION), **owner}
        self._about = dict(about)
        self.file = folder / f"{digest(self._owner)}.sqlite"
        self.said: list[str] = []
        self._database: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._give_up(error)
        else:
            self._guarded(self._open)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The answers that are there. One whose check sum is wrong is not."""
        found: dict[bytes, bytes] = {}

        def select() -> None:
            for start in range(0, len(keys), AT_ONCE):
                some = keys[start : start + AT_ONCE]
                marks = ",".join("?" * len(some))
                found.update(self._run(f"SELECT key, value FROM answers WHERE key IN ({marks})", some))

        if not self._guarded(select):
            return {}
        return {key: value[:-4] for key, value in found.items() if value[-4:] == _check(key, value[:-4])}

    def write(self, answers: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep these, all or none."""
        rows = [(key, value + _check(key, value)) for key, value in answers]

        def insert() -> None:
            assert self._database
            with self._transaction():
                self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

        if rows:
            self._guarded(insert)

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _run(self, statement: str, values: Sequence[object] = ()) -> list[tuple[bytes, bytes]]:
        assert self._database
        return self._database.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self):  # type: ignore[no-untyped-def]
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                self._run("ROLLBACK")
            raise

    def _open(self) -> None:
        self._database = sqlite3.connect(self.file, timeout=PATIENCE, isolation_level=None)
        # No waiting for the disk (60 ms a file): a killed process loses nothing by it; a power cut may damage the file, which shows.
        self._run("PRAGMA synchronous = OFF")
        with self._transaction():
            if not self._run("SELECT 1 FROM sqlite_master"):
                self._run("CREATE TABLE owner (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
                self._run("CREATE TABLE answers (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
                self._database.executemany("INSERT INTO owner VALUES (?, ?)", {**self._about, **self._owner}.items())
            try:
                held = dict(self._run("SELECT name, value FROM owner"))
                self._run("SELECT key, value FROM answers LIMIT 1")
            except sqlite3.OperationalError:  # no such table
                held = {}
            if any(held.get(name) != value for name, value in self._owner.items()):
                raise sqlite3.DatabaseError("it belongs to something else")
        with contextlib.suppress(sqlite3.OperationalError):  # another process may be at it; any mode will do
            self._run("PRAGMA journal_mode = WAL")

    def _guarded(self, work) -> bool:  # type: ignore[no-untyped-def]
        """Whether `work` came to its end; what SQLite says is dealt with."""
        if self._database is None and work != self._open:
            return False
        try:
            work()
            return True
        except (sqlite3.OperationalError, OSError) as error:  # full, locked, not writable, not readable
            self._give_up(error)
        except sqlite3.DatabaseError as error:
            self._put_aside(error)
        return False

    def _give_up(self, error: Exception) -> None:
        self.close()
        self.said.append(f"answers are not kept in {self.file} ({error}): free some space or mend its permissions; the scores do not need them")

    def _put_aside(self, error: Exception) -> None:
        self.close()
        free = (self.file.with_suffix(f".damaged-{n}.sqlite") for n in range(1, 1000))
        aside = next(path for path in free if not path.exists())
        self.said.append(f"{self.file} cannot be used ({error}): put aside as {aside.name}, its questions are asked again")
        try:
            for side in ("", *SIDES):
                if os.path.exists(f"{self.file}{side}"):
                    os.replace(f"{self.file}{side}", f"{aside}{side}")
            self._open()
        except (sqlite3.Error, OSError) as again:
            self._give_up(again)


def _check(key: bytes, value: bytes) -> bytes:
    """SQLite finds pages that make no sense, not a flipped bit in a number."""
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(4, "little")
