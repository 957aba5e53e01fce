"""The output folder: artifacts, results, samples, logs; every write atomic, one run at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import ValidationError

from lep_bench import files
from lep_bench.errors import LepBenchError
from lep_bench.files import bytes_digest
from lep_bench.records.schema import (
    CHANGED,
    SCHEMA_VERSION,
    EditedError,
    Noise,
    Sample,
    TaskResult,
    fail_result,
    is_sealed,
    seal_result,
)

if TYPE_CHECKING:
    import msgspec


def find_suite(out: Path) -> str:
    """The suite of the results in an output folder. Raises LepBenchError unless there is exactly
    one.
    """
    suites = sorted(file.parent.name for file in out.glob("*/results") if any(file.iterdir()))
    if not suites:
        raise LepBenchError(
            f"no results in {out}: run lep-bench run first, or name its --out folder"
        )
    if len(suites) > 1:
        raise LepBenchError(f"{out} has results of several suites: name one of {', '.join(suites)}")
    return suites[0]


@dataclass(frozen=True)
class Store:
    """`root` is the --out folder. Results live per suite, artifacts are shared by all suites."""

    root: Path

    def artifact(self, model: str, fingerprint: str) -> Path:
        """Folder of an artifact: `root/artifacts/MODEL@FINGERPRINT`."""
        return files.join_names(self.root / "artifacts", f"{model}@{fingerprint}")

    def result(self, suite: str, model: str, task: str, key: str) -> Path:
        """File of a cell: `root/SUITE/results/MODEL/TASK@KEY.json`."""
        return files.join_names(self.root, suite, "results", model, f"{task}@{key}.json")

    def samples(self, suite: str, model: str, task: str, key: str) -> Path:
        """File of a cell's samples: `root/SUITE/samples/MODEL/TASK@KEY.jsonl`."""
        return files.join_names(self.root, suite, "samples", model, f"{task}@{key}.jsonl")

    @property
    def responses(self) -> Path:
        """Folder of the engines' answers, one SQLite file per model and engine: `root/responses`.
        Safe to delete.
        """
        return self.root / "responses"

    def noise(self, suite: str) -> list[Noise]:
        """What was measured of the noise floor, one entry per machine. Raises LepBenchError for a
        file that is none of ours.
        """
        file = files.join_names(self.root, suite, "noise.json")
        if not file.is_file():
            return []
        try:
            return [
                Noise.model_validate(entry)
                for entry in json.loads(file.read_text(encoding="utf-8"))
            ]
        except (OSError, ValueError, TypeError) as error:
            raise LepBenchError(
                f"{file}: cannot be read ({str(error).splitlines()[0]}): delete it, the next "
                "run measures again"
            ) from error

    def add_noise(self, suite: str, measured: Noise) -> None:
        """Write it to `root/SUITE/noise.json` in place of what the same machine gave before."""
        try:
            kept = [entry for entry in self.noise(suite) if entry.machine != measured.machine]
        except LepBenchError:  # damaged: this is how it is mended
            kept = []
        files.write_json(
            files.join_names(self.root, suite, "noise.json"),
            [entry.model_dump(mode="json") for entry in (*kept, measured)],
        )

    def leaderboard(self, suite: str) -> Path:
        """Folder of the rendered leaderboard."""
        return files.join_names(self.root, suite, "leaderboard")

    def write(self, result: TaskResult, samples: Iterable[Sample]) -> None:
        """Write a cell, sealed: samples first, so that a result never stands without them."""
        where = (result.suite, result.model.name, result.task, result.key)
        data = "".join(sample.model_dump_json() + "\n" for sample in samples).encode()
        if data:
            files.write_bytes(self.samples(*where), data)
            result = result.model_copy(update={"samples_digest": bytes_digest(data)})
        files.write_json(self.result(*where), seal_result(result).model_dump(mode="json"))

    def results(self, suite: str) -> SuiteResults:
        """The results of a suite, to be read once each."""
        return SuiteResults(self, suite)

    def read(self, suite: str, model: str, task: str, key: str) -> TaskResult | None:
        """The cell, or None where there is none. Raises LepBenchError as `read_result` does."""
        return read_result(self.result(suite, model, task, key), self.root)

    def read_all(self, suite: str, model: str = "") -> list[TaskResult]:
        """Every cell of a suite, or of one model in it, in path order. Raises LepBenchError as
        `read_result` does.
        """
        return self.results(suite).of_model(model)

    def read_samples(self, result: TaskResult) -> list[Sample]:
        """The samples of a cell, in order; empty for a failed one. Raises as `skim` does."""
        # Not splitlines(): an answer may hold U+2028 or U+0085, which end no line of the file.
        return self._read(
            result,
            lambda data: [
                Sample.model_validate_json(line)
                for line in data.decode("utf-8").split("\n")
                if line
            ],
        )

    def skim(self, result: TaskResult) -> list[Any]:
        """The samples of a cell with only what a table needs, six times as fast: doc_id, doc_hash,
        group, and of `values` the primary score; where the result has no counts of its texts
        (`health`) also gold, text and stopped.

        Raises LepBenchError where they are missing, damaged or not `result.samples` many, Edited
        where they are not those that the result was written with; each names the file and what to
        do.
        """
        return self._read(result, _decoder(result.primary, result.health is None).decode_lines)

    def _read(self, result: TaskResult, decode: Callable[[bytes], list[Any]]) -> list[Any]:
        if result.status != "ok":
            return []
        where = result.suite, result.model.name, result.task, result.key
        file, mend = (
            self.samples(*where),
            f"delete {self.result(*where).relative_to(self.root)} and run again",
        )
        # a page may be published: it shows no path of this machine
        name = f"{file.relative_to(self.root)} in the --out folder"
        try:
            data = file.read_bytes() if result.samples or file.exists() else b""
            samples = decode(data)
        except FileNotFoundError as error:
            raise LepBenchError(
                f"{name}: the samples are missing; put them back, or {mend}"
            ) from error
        except (
            OSError,
            ValueError,
        ) as error:  # msgspec's, pydantic's and Unicode's errors are ValueErrors
            raise LepBenchError(
                f"{name}: samples cannot be read ({str(error).splitlines()[0]}); {mend}"
            ) from error
        if len(samples) != result.samples:
            raise LepBenchError(
                f"{name}: {len(samples)} samples, the result is of {result.samples}; {mend}"
            )
        if result.samples_digest not in (None, bytes_digest(data)):
            raise EditedError(f"{name}: {CHANGED}; put the samples back, or {mend}")
        return samples

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the output folder for one run; raises LepBenchError at once when another run holds
        it.
        """
        from filelock import FileLock, Timeout

        with files.explain_disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise LepBenchError(
                    f"another run is writing to {self.root}: wait for it, or give another "
                    "folder with --out"
                ) from error
        try:
            files.remove_unfinished(self.root)
            yield
        finally:
            lock.release()


class SuiteResults:
    """The results of one suite. Each file is read once, when it is first asked for: what a run
    writes later is seen after `forget`.
    """

    def __init__(self, store: Store, suite: str) -> None:
        self.store, self.suite = store, suite
        self._read: dict[Path, tuple[TaskResult | None, _Stamp]] = {}

    def find(self, model: str, task: str, key: str) -> TaskResult | None:
        """The cell, or None where there is none. Raises LepBenchError as `read_result` does."""
        return self._once(self.store.result(self.suite, model, task, key))

    def of_model(self, model: str = "") -> list[TaskResult]:
        """Every cell of a model (default: of the suite) in path order. Raises LepBenchError as
        `read_result` does.
        """
        folder = files.join_names(self.store.root, self.suite, "results", *filter(None, [model]))
        found = (
            self._once(file)
            for file in sorted(folder.rglob("*.json"))
            if not file.name.startswith(".")
        )
        return [result for result in found if result is not None]

    def forget(self, model: str, task: str, key: str) -> None:
        """Read this cell anew when it is asked for again."""
        self._read.pop(self.store.result(self.suite, model, task, key), None)

    def refresh(self) -> bool:
        """Forget every file that was changed, written or deleted since it was read. Returns whether
        there was one.
        """
        changed = [file for file, (_, stamp) in self._read.items() if _stamp(file) != stamp]
        for file in changed:
            del self._read[file]
        return bool(changed)

    def _once(self, file: Path) -> TaskResult | None:
        if file not in self._read:
            stamp = _stamp(file)  # before reading: a later change is seen
            self._read[file] = read_result(file, self.store.root) if stamp else None, stamp
        return self._read[file][0]


_Stamp = tuple[int, int, int] | None


def _stamp(file: Path) -> _Stamp:
    """What changes with a file; None where there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@cache
def _decoder(primary: str, texts: bool) -> msgspec.json.Decoder[Any]:
    import msgspec

    # A dict, as in `Sample`; keys that are not named here are skipped unread.
    values = TypedDict(  # type: ignore[misc]  # its keys are known only here
        "values",
        dict.fromkeys((primary, *(("text", "stopped") if texts else ())), Any),
        total=False,
    )
    own = [
        ("doc_id", int),
        ("doc_hash", str),
        ("group", str),
        *([("gold", str)] if texts else []),
        ("values", values),
    ]
    return msgspec.json.Decoder(msgspec.defstruct("Skimmed", own, frozen=True, gc=False))


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def read_result(file: Path, out: Path | None = None) -> TaskResult | None:
    """One result file; None where there is none, or one without a version that this code knows.
    A result that was changed by hand is a failed one, whose reason names the file (below `out`).
    Raises LepBenchError for a file that is no result, or one that a newer lep-bench wrote.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LepBenchError(f"{file}: not a result: {error}; delete it and run again") from error
    if not isinstance(data, dict):
        raise LepBenchError(
            f"{file}: not a result: a JSON object is expected; delete it and run again"
        )
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise LepBenchError(
            f"{file}: written by a newer lep-bench (schema version {version}, this one reads up "
            f"to {SCHEMA_VERSION}): update lep-bench, or give another folder with --out"
        )
    if version != SCHEMA_VERSION:
        return None
    try:
        result = TaskResult.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise LepBenchError(
            f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}; delete it and run again"
        ) from error
    if is_sealed(result):
        return result
    # a page may be published: it shows no path of this machine
    name = f"{file.relative_to(out).as_posix()} in the --out folder" if out else file
    return fail_result(result, f"{name}: {CHANGED}; put it back, or delete it and run again")
