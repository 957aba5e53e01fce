"""Texts to train on: files, folders of files, and datasets of the Hugging Face Hub. Everything is
streamed.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lep_bench import files
from lep_bench.errors import LepBenchError
from lep_bench.files import digest, file_digest, files_digest
from lep_bench.hub import BUILTIN, is_network_error

Corpus = str | tuple[str, ...] | None
FIELD = "text"
KINDS = (
    "text (one document a line), JSONL or Parquet files, folders of these, or a Hub dataset "
    "(ORG/NAME or ORG/NAME:CONFIG)"
)
_JSONL, _PARQUET = (".jsonl", ".jsonl.gz", ".json"), (".parquet",)
_IN_FOLDERS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
_HUB = re.compile(
    r"(?P<path>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<name>[\w.-]+))?(@(?P<revision>[\w./-]+))?"
)


def read(corpus: Corpus, field: str = FIELD) -> Iterator[str]:
    """The documents of a corpus, in order: the lines of text files, `field` of all others' rows.
    Empty ones are left out.

    Raises LepBenchError (file:line) for rows without that field, files that cannot be read, and a
    corpus without any text.
    """
    empty = True
    for part in parts(corpus):
        for number, row in enumerate(rows(part, field), 1):
            text = row if isinstance(row, str) else row.get(field)
            if isinstance(row, dict) and field in row and text is None:
                continue  # a column's empty cell
            if not isinstance(text, str):
                known = f"its fields: {', '.join(map(str, row))}" if row else "it has none"
                raise LepBenchError(f"{part}:{number}: no text in the field {field!r}; {known}")
            if text.strip():
                empty = False
                yield text
    if empty:
        raise LepBenchError(
            f"corpus: no text in {corpus if isinstance(corpus, str) else ', '.join(corpus or ())}"
        )


def corpus_digest(corpus: Corpus) -> str:
    """What stands for a corpus in fingerprints: its files' content, a Hub dataset's id with its
    revision, or the shipped files of the built-in one."""
    if corpus is None:
        return "none"
    if corpus == BUILTIN + "mini":
        texts = files.builtin_texts()
        return files_digest(texts.glob("*.xz"), texts)
    return digest(
        [file_digest(part) if isinstance(part, Path) else {"hub": part} for part in parts(corpus)]
    )


def parts(corpus: Corpus) -> list[Path | str]:
    """The files of a corpus (folders give theirs, sorted) and, as strings, its Hub datasets. Raises
    LepBenchError.
    """
    found: list[Path | str] = []
    for name in [corpus] if isinstance(corpus, str) else corpus or ():
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(
                p
                for p in path.rglob("*")
                if p.name.endswith(_IN_FOLDERS) and "/." not in f"/{p.relative_to(path).as_posix()}"
            )
            if not inside:
                raise LepBenchError(
                    f"corpus: {path}: no {', '.join(_IN_FOLDERS)} file in this folder"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        elif _HUB.fullmatch(name) and not name.endswith((*_IN_FOLDERS, ".json", ".gz")):
            found.append(name)
        else:
            raise LepBenchError(f"corpus: {path}: no such file; give {KINDS}")
    if not found:
        raise LepBenchError(
            "corpus: none is named: add `corpus: [FILE, ...]` to the family's YAML, or a "
            "donor for every vocabulary"
        )
    return found


def has_fields(part: Path | str) -> bool:
    """Whether the rows of a part have fields; those of plain text are documents."""
    return isinstance(part, str) or part.name.endswith(_JSONL + _PARQUET)


def rows(part: Path | str, field: str) -> Iterator[str | dict[str, Any]]:
    """The rows of one part, an empty line as an empty document. Of tables with a column `field`
    only that one is read.

    Raises LepBenchError, in one line, for what cannot be read.
    """
    if isinstance(part, str):
        yield from hub_rows(**_HUB.fullmatch(part).groupdict(), field=field)  # type: ignore[union-attr]
    elif part.name.endswith(_PARQUET):
        yield from _parquet_rows(part, field)
    else:
        yield from _lines(part)


def hub_rows(
    path: str, name: str | None = None, revision: str | None = None, field: str = FIELD
) -> Iterator[dict[str, Any]]:
    """The rows of a dataset (its split "train" where there is one), streamed. No code of the
    dataset is run.
    """
    from datasets import load_dataset

    try:
        splits = load_dataset(path, name, revision=revision, streaming=True)
        chosen = splits["train" if "train" in splits else next(iter(splits))]
        yield from (
            chosen.select_columns([field]) if field in (chosen.column_names or ()) else chosen
        )
    except Exception as error:  # no network, no such dataset, gated, damaged
        if not isinstance(error, OSError | ValueError | RuntimeError) and not is_network_error(
            error
        ):
            raise
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise LepBenchError(
            f"corpus: {path} is no file here, and cannot be read from the Hugging Face Hub: "
            f"{why}; give {KINDS}"
        ) from error


def _parquet_rows(file: Path, field: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            columns = [field] if field in table.schema_arrow.names else None
            for batch in table.iter_batches(1024, columns=columns):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise LepBenchError(
            f"{file} is no Parquet file that can be read: {str(error).splitlines()[0]}"
        ) from error


def _lines(file: Path) -> Iterator[str | dict[str, Any]]:
    fields, number = has_fields(file), 0
    try:
        with (
            gzip.open(file, "rt", encoding="utf-8-sig")
            if file.suffix == ".gz"
            else open(file, encoding="utf-8-sig") as lines
        ):
            for line in lines:
                number += 1
                row = json.loads(line) if fields and line.strip() else line.rstrip("\n")
                if not isinstance(row, dict if fields and line.strip() else str):
                    raise TypeError
                yield row
    except UnicodeDecodeError as error:
        raise LepBenchError(
            f"{file} is no UTF-8 text after line {number}: {error.reason}; give {KINDS}"
        ) from error
    except (json.JSONDecodeError, TypeError) as error:
        raise LepBenchError(
            f"{file}:{number}: a JSON object with a field {FIELD!r} is expected"
        ) from error
    except (OSError, EOFError) as error:
        raise LepBenchError(f"{file}: cannot be read: {error}") from error
