"""An engine that remembers: what was asked before is answered from disk, the rest in chunks that are kept as soon as they are there."""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import torch

from lep_bench import __version__, sources
from lep_bench.artifact import Artifact
from lep_bench.engines.answers import Answers
from lep_bench.engines.base import Counts, Decode, Engine, EngineInfo, Ids, Sampling, TokenScores
from lep_bench.engines.cost import device_kind
from lep_bench.fingerprint import digest, file_digest
from lep_bench.plan import REVISIONS

CHUNK = 1024  # questions asked at once: what kill -9 can cost
Question = tuple[tuple[int, ...], tuple[int, ...]]  # context; options, continuation or (seed,)
Options = list[tuple[float, bool]]
T = TypeVar("T")


class Form(NamedTuple, Generic[T]):
    """How answers of one kind go to disk and come back, exactly; `sound` ones are kept."""

    pack: Callable[[T], bytes]
    unpack: Callable[[bytes], T]
    sound: Callable[[T], bool]


class Stored:
    """An `Engine` around another one, with the answers of earlier runs in `folder`. `artifact` is what the engine holds. Without a
    folder nothing is kept: for models behind a server, whose bytes nobody here knows.

    Chunks are cut from the whole list of questions, whatever is known already, and a killed one leaves nothing: a run that was
    interrupted asks the same batches again and gets the same bits. `counts` is the engine's own: what comes from the store is
    counted in `from_store` and nowhere else.
    """

    def __init__(self, engine: Engine, artifact: Artifact, folder: Path | None) -> None:
        self.engine = engine
        self._folder = folder
        self._artifact = artifact
        self._answers: Answers | None = None

    @property
    def info(self) -> EngineInfo:
        """See `Engine`."""
        return self.engine.info

    @property
    def counts(self) -> Counts:
        """See `Engine`."""
        return self.engine.counts

    @property
    def max_length(self) -> int:
        """See `Engine`."""
        return self.engine.max_length

    @property
    def said(self) -> tuple[str, ...]:
        """What was wrong with the store, a line each."""
        return tuple(self._answers.said) if self._answers else ()

    def remarks(self) -> tuple[str, ...]:
        """See `Engine`."""
        return self.engine.remarks()

    def exchange(self, artifact: Artifact) -> None:
        """See `Engine`; from now on that model's answers are used."""
        self.let_go()
        self.engine.exchange(artifact)
        self._artifact = artifact

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Close the file of answers; the engine stays as it is."""
        if self._answers is not None:
            self._answers.close()
            self._answers = None

    def close(self) -> None:
        """See `Engine`."""
        self.let_go()
        self.engine.close()

    def option_logprobs(self, contexts: Sequence[Ids], options: Sequence[Ids]) -> list[Options]:
        """See `Engine`."""
        questions = [(tuple(context), tuple(own)) for context, own in zip(contexts, options, strict=True)]
        found = self._answered(
            ["options"], questions, lambda some: self.engine.option_logprobs([c for c, _ in some], [o for _, o in some]), OPTIONS, len
        )
        return [list(answer) for answer in found]

    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine`."""
        questions = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
        return self._answered(["continuation"], questions, self.engine.continuation_logprobs, SCORES)

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
        questions = [(tuple(context), (seed,)) for context, seed in zip(contexts, drawn, strict=True)]
        warmth = None if sampling is None else [sampling.temperature, sampling.top_k, sampling.top_p]
        settings = ["text", max_new, sorted({*stop_ids}), sorted({*stop_strings}), warmth, max_characters]

        def ask(some: list[Question]) -> list[list[int]]:
            own = () if sampling is None else [seed for _, (seed,) in some]
            return self.engine.generate([c for c, _ in some], max_new, stop_ids, stop_strings, decode, sampling, own, max_characters)

        return [list(answer) for answer in self._answered(settings, questions, ask, TEXT)]

    def _answered(
        self,
        settings: list[Any],
        questions: Sequence[Question],
        ask: Callable[[list[Question]], Sequence[T]],
        form: Form[T],
        requests: Callable[[tuple[int, ...]], int] = lambda rest: 1,
    ) -> list[T]:
        """The answer to every question; `requests` counts those in one."""
        if self._folder is None:
            return list(ask(list(questions)))
        if self._answers is None:
            self._answers = Answers(self._folder, owner(self.engine.info, self._artifact), {"model": self._artifact.name, "lep-bench": __version__})
        start = blake2b(json.dumps(settings).encode(), digest_size=16)
        found: dict[Question, T] = {}
        for chunk in chunks(dict.fromkeys(questions), CHUNK):
            keys = {question: _key(start, question) for question in chunk}
            held = self._answers.read(list(keys.values()))
            missing = []
            for question in chunk:
                if (value := held.get(keys[question])) is None:
                    missing.append(question)
                else:
                    found[question] = form.unpack(value)
                    self.counts.from_store += requests(question[1])
            if missing:
                made = dict(zip(missing, ask(missing), strict=True))
                self._answers.write((keys[question], form.pack(answer)) for question, answer in made.items() if form.sound(answer))
                found |= made
        return [found[question] for question in questions]


def owner(info: EngineInfo, artifact: Artifact) -> dict[str, str]:
    """Whose answers they are: the bytes of the weights and of the tokenizer (not the recipe: made again elsewhere it gives other
    bytes), engine, versions, device and number format, and the revision of our own scoring."""
    weights = [artifact.body / "config.json", artifact.folder / "config.json", *([artifact.patch] if artifact.patch else [])]
    weights += sources.weight_files(artifact.body)
    texts = sorted({file for pattern in sources.TOKENIZER_FILES for file in artifact.folder.glob(pattern)} - {artifact.folder / sources.INDEX})
    return {
        "weights": digest([*map(file_digest, weights), artifact.lep.vocabulary_size]),
        "tokenizer": digest({file.name: file_digest(file) for file in texts if file.name != "lep.json"}),
        "engine": info.name,
        "version": info.version,
        "torch": torch.__version__,
        "device": device_kind(info.device),
        "dtype": info.dtype,
        "revision": str(REVISIONS["score"]),
    }


def chunks(questions: Iterable[Question], most: int) -> list[list[Question]]:
    """Questions of like length together, longest first as engines batch them; those of one context are not parted (they are read
    once together), unless they are more than `most`."""
    groups: dict[tuple[int, ...], list[Question]] = {}
    for question in questions:
        groups.setdefault(question[0], []).append(question)
    made: list[list[Question]] = [[]]
    for group in sorted(groups.values(), key=lambda group: -len(group[0][0])):
        if len(group) > most:  # whole texts, all behind the same BOS
            group.sort(key=lambda question: -len(question[1]))
        for part in (group[i : i + most] for i in range(0, len(group), most)):
            if len(made[-1]) + len(part) > most:
                made.append([])
            made[-1] += part
    return [chunk for chunk in made if chunk]


def _key(start: blake2b, question: Question) -> bytes:
    """16 bytes: no two questions of a store share them before there are 10^18."""
    context, rest = question
    key = start.copy()
    key.update(struct.pack("<q", len(context)) + array("q", context).tobytes() + repr(rest).encode())
    return key.digest()


def _pack(values: Sequence[float], flags: Sequence[bool]) -> bytes:
    """Exact, and in half the room where the numbers are float32, as engines' are."""
    short = array("f", values)
    return (b"f" + short.tobytes() if short.tolist() == list(values) else b"d" + array("d", values).tobytes()) + bytes(flags)


def _unpack(data: bytes, flags: int | None) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """`flags`: how many there are; None: as many as values."""
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


# What is not finite is not kept: it may have been the machine's fault.
OPTIONS: Form[Options] = Form(_pack_options, _unpack_options, lambda answer: all(isfinite(value) for value, _ in answer))
SCORES: Form[TokenScores] = Form(_pack_scores, _unpack_scores, lambda answer: all(map(isfinite, answer.logprobs)))
TEXT: Form[list[int]] = Form(
    lambda answer: struct.pack(f"<{len(answer)}I", *answer), lambda data: list(struct.unpack(f"<{len(data) // 4}I", data)), lambda answer: True
)
