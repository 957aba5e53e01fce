"""Answers on disk, so that nothing is asked twice: one SQLite file per model and engine, and the
engine that uses it. The files may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import torch

from lep_bench import __version__, hub
from lep_bench.engines.base import (
    Decode,
    Engine,
    EngineInfo,
    Ids,
    Sampling,
    TokenScores,
    WorkCounts,
    name_device,
)
from lep_bench.files import digest, file_digest
from lep_bench.records.artifact import REVISIONS, Artifact

VERSION = 1  # of the keys and of the values' format
AT_ONCE = 900  # keys in one SELECT: older SQLites take 999 parameters
PATIENCE = 60.0  # seconds to wait for another process's transaction
SIDES = ("-wal", "-shm")  # SQLite's files beside a database; a stale one must not meet a new one


class AnswerStore:
    """Maps keys to answers, both bytes. `owner` says whose answers they are: the file is named by
    it, and its table `owner` shows it.

    Trouble with the file never fails the work: a damaged or foreign file is put aside, and where
    nothing can be written nothing is kept. `messages` has a line on each. Several processes may
    share a file.
    """

    def __init__(
        self, folder: Path, owner: Mapping[str, str], about: Mapping[str, str] = {}
    ) -> None:
        """`about`: further facts for a reader, not part of the identity."""
        self._owner = {"format": str(VERSION), **owner}
        self._about = dict(about)
        self.file = folder / f"{digest(self._owner)}.sqlite"
        self.messages: list[str] = []
        self._database: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._give_up(error)
        else:
            self._guarded(self._open)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The answers that are stored, without those whose checksum is wrong."""
        stored: dict[bytes, bytes] = {}

        def select() -> None:
            for start in range(0, len(keys), AT_ONCE):
                batch = keys[start : start + AT_ONCE]
                marks = ",".join("?" * len(batch))
                stored.update(
                    self._run(f"SELECT key, value FROM answers WHERE key IN ({marks})", batch)
                )

        if not self._guarded(select):
            return {}
        return {
            key: value[:-4]
            for key, value in stored.items()
            if value[-4:] == _check(key, value[:-4])
        }

    def write(self, answers: Iterable[tuple[bytes, bytes]]) -> None:
        """Store these answers, all or none."""
        rows = [(key, value + _check(key, value)) for key, value in answers]

        def insert() -> None:
            assert self._database
            with self._transaction():
                self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

        if rows:
            self._guarded(insert)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _run(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, Any]]:
        assert self._database
        return self._database.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
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
        # No waiting for the disk (60 ms a file). A killed process loses nothing by it; a power cut
        # may damage the file, which is noticed.
        self._run("PRAGMA synchronous = OFF")
        with self._transaction():
            if not self._run("SELECT 1 FROM sqlite_master"):
                self._run("CREATE TABLE owner (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
                self._run("CREATE TABLE answers (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
                self._database.executemany(
                    "INSERT INTO owner VALUES (?, ?)", {**self._about, **self._owner}.items()
                )
            try:
                stored_owner = dict(self._run("SELECT name, value FROM owner"))
                self._run("SELECT key, value FROM answers LIMIT 1")
            except sqlite3.OperationalError:  # no such table
                stored_owner = {}
            if any(stored_owner.get(name) != value for name, value in self._owner.items()):
                raise sqlite3.DatabaseError("it belongs to something else")
        # another process may be at it; any mode will do
        with contextlib.suppress(sqlite3.OperationalError):
            self._run("PRAGMA journal_mode = WAL")

    def _guarded(self, work: Callable[[], None]) -> bool:
        """Do `work` and return whether it succeeded; SQLite's errors are handled here."""
        if self._database is None and work != self._open:
            return False
        try:
            work()
            return True
        except (
            sqlite3.OperationalError,
            OSError,
        ) as error:  # full, locked, not writable, not readable
            self._give_up(error)
        except sqlite3.DatabaseError as error:
            self._put_aside(error)
        return False

    def _give_up(self, error: Exception) -> None:
        self.close()
        self.messages.append(
            f"answers are not kept in {self.file} ({error}): free some space or fix its "
            "permissions; the scores are not affected"
        )

    def _put_aside(self, error: Exception) -> None:
        self.close()
        free = (self.file.with_suffix(f".damaged-{n}.sqlite") for n in range(1, 1000))
        aside = next(path for path in free if not path.exists())
        self.messages.append(
            f"{self.file} cannot be used ({error}): put aside as {aside.name}, its questions "
            "are asked again"
        )
        try:
            for side in ("", *SIDES):
                if os.path.exists(f"{self.file}{side}"):
                    os.replace(f"{self.file}{side}", f"{aside}{side}")
            self._open()
        except (sqlite3.Error, OSError) as again:
            self._give_up(again)


def _check(key: bytes, value: bytes) -> bytes:
    """A checksum: SQLite notices damaged pages, but not a flipped bit in a number."""
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(4, "little")


CHUNK = 1024  # questions asked at once: kill -9 costs at most these
Question = tuple[tuple[int, ...], tuple[int, ...]]  # context; options, continuation or (seed,)
Options = list[tuple[float, bool]]
T = TypeVar("T")


class Form(NamedTuple, Generic[T]):
    """How answers of one kind are written and read back exactly. Only `sound` ones are stored."""

    pack: Callable[[T], bytes]
    unpack: Callable[[bytes], T]
    sound: Callable[[T], bool]


class StoredEngine:
    """An `Engine` around another one that keeps its answers in `folder` and reuses those of earlier
    runs. `artifact` is the model in the engine. Without a folder nothing is stored: the bytes of a
    model behind a server are not known.

    Chunks are cut from the whole list of questions, whether or not some are answered already, and a
    killed chunk leaves nothing: a run that was interrupted asks the same batches again and gets the
    same bits. `counts` is the engine's own; stored answers are counted in `from_store` alone.
    """

    def __init__(self, engine: Engine, artifact: Artifact, folder: Path | None) -> None:
        self.engine = engine
        self._folder = folder
        self._artifact = artifact
        self._answers: AnswerStore | None = None

    @property
    def info(self) -> EngineInfo:
        """See `Engine`."""
        return self.engine.info

    @property
    def counts(self) -> WorkCounts:
        """See `Engine`."""
        return self.engine.counts

    @property
    def max_length(self) -> int:
        """See `Engine`."""
        return self.engine.max_length

    @property
    def messages(self) -> tuple[str, ...]:
        """What was wrong with the store, a line each."""
        return tuple(self._answers.messages) if self._answers else ()

    def remarks(self) -> tuple[str, ...]:
        """See `Engine`."""
        return self.engine.remarks()

    def exchange(self, artifact: Artifact) -> None:
        """See `Engine`. From now on that model's answers are used."""
        self.close_store()
        self.engine.exchange(artifact)
        self._artifact = artifact

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_store()

    def close_store(self) -> None:
        """Close the file of answers, but not the engine."""
        if self._answers is not None:
            self._answers.close()
            self._answers = None

    def close(self) -> None:
        """See `Engine`."""
        self.close_store()
        self.engine.close()

    def option_logprobs(self, contexts: Sequence[Ids], options: Sequence[Ids]) -> list[Options]:
        """See `Engine`."""
        questions = [
            (tuple(context), tuple(choices))
            for context, choices in zip(contexts, options, strict=True)
        ]
        answers = self._look_up_or_ask(
            ["options"],
            questions,
            lambda rest: self.engine.option_logprobs([c for c, _ in rest], [o for _, o in rest]),
            OPTIONS_FORM,
            len,
        )
        return [list(answer) for answer in answers]

    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine`."""
        questions = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
        return self._look_up_or_ask(
            ["continuation"], questions, self.engine.continuation_logprobs, SCORES_FORM
        )

    def generate(
        self,
        contexts: Sequence[Ids],
        max_new: int,
        stop_ids: Ids,
        stop_strings: Sequence[str],
        decode: Decode,
        sampling: Sampling | None = None,
        seeds: Sequence[int] = (),
        max_characters: int | None = None,
    ) -> list[list[int]]:
        """See `Engine`. `decode` is the tokenizer's, which the store's owner names."""
        drawn = [0] * len(contexts) if sampling is None else seeds
        questions = [
            (tuple(context), (seed,)) for context, seed in zip(contexts, drawn, strict=True)
        ]
        drawing = (
            None if sampling is None else [sampling.temperature, sampling.top_k, sampling.top_p]
        )
        settings = [
            "text",
            max_new,
            sorted({*stop_ids}),
            sorted({*stop_strings}),
            drawing,
            max_characters,
        ]

        def ask(rest: list[Question]) -> list[list[int]]:
            rest_seeds = () if sampling is None else [seed for _, (seed,) in rest]
            return self.engine.generate(
                [context for context, _ in rest],
                max_new,
                stop_ids,
                stop_strings,
                decode,
                sampling,
                rest_seeds,
                max_characters,
            )

        answers = self._look_up_or_ask(settings, questions, ask, TEXT_FORM)
        return [list(answer) for answer in answers]

    def _look_up_or_ask(
        self,
        settings: list[Any],
        questions: Sequence[Question],
        ask: Callable[[list[Question]], Sequence[T]],
        form: Form[T],
        requests: Callable[[tuple[int, ...]], int] = lambda rest: 1,
    ) -> list[T]:
        """The answer to every question. `requests` counts the requests in one."""
        if self._folder is None:
            return list(ask(list(questions)))
        if self._answers is None:
            self._answers = AnswerStore(
                self._folder,
                describe_owner(self.engine.info, self._artifact),
                {"model": self._artifact.name, "lep-bench": __version__},
            )
        start = blake2b(json.dumps(settings).encode(), digest_size=16)
        answers: dict[Question, T] = {}
        for chunk in split_chunks(dict.fromkeys(questions), CHUNK):
            keys = {question: _key(start, question) for question in chunk}
            stored = self._answers.read(list(keys.values()))
            missing = []
            for question in chunk:
                if (value := stored.get(keys[question])) is None:
                    missing.append(question)
                else:
                    answers[question] = form.unpack(value)
                    self.counts.from_store += requests(question[1])
            if missing:
                new = dict(zip(missing, ask(missing), strict=True))
                self._answers.write(
                    (keys[question], form.pack(answer))
                    for question, answer in new.items()
                    if form.sound(answer)
                )
                answers |= new
        return [answers[question] for question in questions]


def describe_owner(info: EngineInfo, artifact: Artifact) -> dict[str, str]:
    """Whose answers they are: the bytes of the weights and of the tokenizer (not the recipe, which
    gives other bytes on another machine), engine, versions, device and number format, and the
    revision of our own scoring."""
    weights = [
        artifact.body / "config.json",
        artifact.folder / "config.json",
        *([artifact.patch] if artifact.patch else []),
    ]
    weights += hub.list_weight_files(artifact.body)
    texts = sorted(
        {file for pattern in hub.TOKENIZER_PATTERNS for file in artifact.folder.glob(pattern)}
        - {artifact.folder / hub.INDEX}
    )
    return {
        "weights": digest([*map(file_digest, weights), artifact.lep.vocabulary_size]),
        "tokenizer": digest(
            {file.name: file_digest(file) for file in texts if file.name != "lep.json"}
        ),
        "engine": info.name,
        "version": info.version,
        "torch": torch.__version__,
        "device": name_device(info.device),
        "dtype": info.dtype,
        "revision": str(REVISIONS["score"]),
    }


def split_chunks(questions: Iterable[Question], most: int) -> list[list[Question]]:
    """Questions of similar length together, longest first as engines batch them. Those of one
    context stay together, because it is read once for all, unless they are more than `most`."""
    groups: dict[tuple[int, ...], list[Question]] = {}
    for question in questions:
        groups.setdefault(question[0], []).append(question)
    chunks: list[list[Question]] = [[]]
    for group in sorted(groups.values(), key=lambda group: -len(group[0][0])):
        if len(group) > most:  # whole texts, all behind the same BOS
            group.sort(key=lambda question: -len(question[1]))
        for part in (group[i : i + most] for i in range(0, len(group), most)):
            if len(chunks[-1]) + len(part) > most:
                chunks.append([])
            chunks[-1] += part
    return [chunk for chunk in chunks if chunk]


def _key(start: blake2b, question: Question) -> bytes:
    """16 bytes: two questions of a store are not expected to share them before there are 10^18."""
    context, rest = question
    key = start.copy()
    key.update(
        struct.pack("<q", len(context)) + array("q", context).tobytes() + repr(rest).encode()
    )
    return key.digest()


def _pack(values: Sequence[float], flags: Sequence[bool]) -> bytes:
    """Exact, and in half the space where the numbers are float32, as engines' are."""
    short = array("f", values)
    return (
        b"f" + short.tobytes()
        if short.tolist() == list(values)
        else b"d" + array("d", values).tobytes()
    ) + bytes(flags)


def _unpack(data: bytes, flags: int | None) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """`flags`: their number; None: as many as values."""
    kind, size = chr(data[0]), {"f": 4, "d": 8}[chr(data[0])]
    count = (len(data) - 1) // (size + 1) if flags is None else (len(data) - 1 - flags) // size
    end = 1 + count * size
    return tuple(array(kind, data[1:end])), tuple(map(bool, data[end:]))


def _pack_options(answer: Options) -> bytes:
    return _pack([value for value, _ in answer], [best for _, best in answer])


def _unpack_options(data: bytes) -> Options:
    return list(zip(*_unpack(data, None), strict=True))


def _pack_scores(answer: TokenScores) -> bytes:
    return _pack(answer.logprobs, [answer.greedy])


def _unpack_scores(data: bytes) -> TokenScores:
    logprobs, (greedy,) = _unpack(data, 1)
    return TokenScores(logprobs, greedy)


# What is not finite is not stored: it may have been the machine's fault.
OPTIONS_FORM: Form[Options] = Form(
    _pack_options, _unpack_options, lambda answer: all(isfinite(value) for value, _ in answer)
)
SCORES_FORM: Form[TokenScores] = Form(
    _pack_scores, _unpack_scores, lambda answer: all(map(isfinite, answer.logprobs))
)
TEXT_FORM: Form[list[int]] = Form(
    lambda answer: struct.pack(f"<{len(answer)}I", *answer),
    lambda data: list(struct.unpack(f"<{len(data) // 4}I", data)),
    lambda answer: True,
)
