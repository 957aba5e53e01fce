"""The rows: from the Hub at a pinned revision, or from a local copy in the Hub's layout. Nothing is read before it is used."""

import contextlib
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_ENDINGS = ("jsonl", "parquet", "json", "csv")
_CONVERTED = "refs/convert/parquet"  # the Hub's own Parquet conversion: where script-only datasets can be read


class Located(Row):
    """A row that knows where it stands (FILE:LINE): for messages. Equal to the plain row, and written as it."""

    def __init__(self, fields: Row, place: str) -> None:
        super().__init__(fields)
        self.place = place


def where(row: Row) -> str:
    """How a message calls a row: by file and line, or by what it has of its own."""
    return getattr(row, "place", "") or f"row {row.get('meta') or row.get('id') or ''}".rstrip()


class Splits(dict[str, list[Row]]):
    """Rows by split; a split is read when it is first asked for."""

    def __init__(self, read: Callable[[str], list[Row]]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, split: str) -> list[Row]:
        self[split] = self._read(split)
        return self[split]


@dataclass(frozen=True)
class Dataset:
    """Where a task's rows come from.

    fields: what every row must have. files: split -> names of files that hold it in copies that follow no layout, in
    order. sha256: split (or CONFIG/SPLIT) -> hash of its file, of its files one after the other if there are several.
    data: a local folder instead of the Hub, holding ORG/NAME/ or being the dataset's own. columns: what some copies call a
    field -> its name.
    """

    path: str
    revision: str
    fields: tuple[str, ...]
    files: dict[str, list[str]] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    data: str | None = None
    columns: dict[str, str] = field(default_factory=dict)

    def read(self, split: str, configs: Sequence[str]) -> dict[str, list[Row]]:
        """Rows of a split by config. Raises OSError for files that cannot be had, ValueError for what stands in them."""
        folder = self._local() if self.data else self._fetch([p for config in configs for p in self.patterns(config, split)])
        return {config: self._rows(folder, config, split) for config in configs}

    def patterns(self, config: str, split: str) -> Iterator[str]:
        """Where a split's rows may stand, best first."""
        for name in self.files.get(split, ()):
            yield from (name, f"data/{name}")
        for where in (f"data/{config}/", f"{config}/", *(("data/", "") if config == "default" else ())):
            for ending in _ENDINGS:
                yield f"{where}{split}.{ending}"
            for ending in _ENDINGS:
                yield f"{where}{split}-*.{ending}"
            yield f"{where}{split}/*.parquet"
            yield f"{where}*-{split}.parquet"

    def _local(self) -> Path:
        folder = Path(str(self.data)).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder: the rows of {self.path} were to be read there (LEP_BENCH_DATA)")
        return folder / self.path if (folder / self.path).is_dir() else folder

    def _rows(self, folder: Path, config: str, split: str) -> list[Row]:
        files = self._found(folder, config, split)
        key = f"{config}/{split}" if f"{config}/{split}" in self.sha256 else split
        if key in self.sha256:
            digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
            if digest != self.sha256[key]:
                names = ", ".join(map(str, files))
                raise ValueError(f"{names}: sha256 {digest}, but the task names {self.sha256[key]}: fetch {self.path} at {self.revision}")
        rows = [row for file in files for row in read_file(file, self.fields, self.columns)]
        if not rows:
            raise ValueError(f"{files[0]}: no rows")
        return rows

    def _found(self, folder: Path, config: str, split: str) -> list[Path]:
        named = [next((folder / d / name for d in ("", "data") if (folder / d / name).is_file()), None) for name in self.files.get(split, ())]
        if named and None not in named:
            return [file for file in named if file]
        for pattern in self.patterns(config, split):
            files = sorted(file for file in folder.glob(pattern) if file.is_file())
            if files and Path(pattern).name not in self.files.get(split, ()):
                return files
        raise FileNotFoundError(
            f"{folder} has no rows of {self.path}, {config}, split {split}: data/{config}/{split}.jsonl or a like file is missing"
        )

    def _fetch(self, patterns: list[str]) -> Path:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.constants import HF_HUB_OFFLINE

        def snapshot(offline: bool) -> Path:
            commit = self._commit(offline)
            return Path(snapshot_download(self.path, repo_type="dataset", revision=commit, allow_patterns=patterns, local_files_only=offline))

        try:
            if not HF_HUB_OFFLINE:
                # Fails at once where there is no way to the Hub; snapshot_download tries for half a minute, and says so six times.
                HfApi().dataset_info(self.path, timeout=20)
            return snapshot(HF_HUB_OFFLINE)
        except Exception as error:
            # The Hub's errors are OSErrors; without a network the HTTP library's own come through, too.
            if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
                raise
            with contextlib.suppress(OSError):
                return snapshot(True)  # fetched before
            raise OSError(
                f"{self.path} at revision {self.revision} cannot be fetched; set LEP_BENCH_DATA to a local copy "
                f"(DIR/{self.path}/... or the dataset's own folder)"
            ) from error

    def _commit(self, offline: bool) -> str:
        """The full hash of a short one: among the commits, offline among the snapshots of the cache."""
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.errors import RevisionNotFoundError

        if not re.fullmatch(r"[0-9a-f]{7,39}", self.revision):
            return self.revision
        if offline:
            known = [path.name for path in Path(HF_HUB_CACHE, "datasets--" + self.path.replace("/", "--"), "snapshots").glob("*")]
        else:
            known = []
            for branch in (None, _CONVERTED):
                with contextlib.suppress(RevisionNotFoundError):  # a dataset need not have a conversion
                    known += [c.commit_id for c in HfApi().list_repo_commits(self.path, repo_type="dataset", revision=branch)]
        found = {commit for commit in known if commit.startswith(self.revision)}
        if len(found) > 1:
            raise OSError(f"{self.path} at revision {self.revision}: {len(found)} commits begin with that hash")
        return found.pop() if found else self.revision


def read_file(file: Path, fields: Sequence[str], columns: dict[str, str] | None = None) -> list[Row]:
    """Rows of a JSON Lines, JSON, CSV or Parquet file, `columns` renamed. Raises ValueError naming file, line (or row) and what is wrong."""
    rows = []
    for place, row in _raw(file):
        if columns and isinstance(row, dict):
            row = {columns.get(name, name): value for name, value in row.items()}
        missing = [name for name in fields if not isinstance(row, dict) or row.get(name) is None]
        if missing:
            raise ValueError(f"{place}: the row has no {', '.join(missing)}")
        if "messages" in fields:
            _check_messages(place, row)
        for name in fields:
            if name.endswith("_sents") and not (isinstance(row[name], list) and all(isinstance(text, str) for text in row[name])):
                raise ValueError(f"{place}: {name} must be a list of sentences")  # a text would be taken for a list of its letters
        rows.append(Located(row, place))
    return rows


def _raw(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(file).to_pylist()
        elif file.suffix == ".csv":
            table = list(csv.DictReader(io.StringIO(_text(file), newline="")))
        elif file.suffix == ".json":
            table = json.loads(_text(file))
        else:
            table = None
    except _NotText:
        raise
    except (ValueError, csv.Error) as error:  # pyarrow's and json's errors are ValueErrors
        raise ValueError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from error
    if table is not None:
        yield from ((f"{file}: row {number}", row) for number, row in enumerate(table, 1))
        return
    # Not splitlines(): a JSON string may hold U+2028, which ends no line of the file.
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            try:
                yield f"{file}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}:{number}: not JSON: {error}") from error


class _NotText(ValueError):
    """A file that is not UTF-8."""


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _NotText(f"{file}:{line}: not UTF-8: byte 0x{data[error.start]:02x}; write the file anew in UTF-8") from error


def _check_messages(place: str, row: Row) -> None:
    messages = row["messages"]
    ok = isinstance(messages, list) and messages and all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages)
    if not ok or not isinstance(row.get("inputs"), dict):
        raise ValueError(f"{place}: messages must be a list of {{role, content}} and inputs a mapping")
    unknown = {str(m.get("role")) for m in messages} - {"user", "bot", "assistant", "system"}
    if unknown:
        raise ValueError(f"{place}: unknown role {', '.join(sorted(unknown))}: user, bot, assistant and system are known")
