"""Texts: every kind of file, folders, datasets in the Hub's layout; what is wrong is said in one
line with its place.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from lep_bench import corpora
from lep_bench import files as files_module
from lep_bench.errors import LepBenchError
from lep_bench.files import builtin_texts

TEXTS = ["Столица Франции — Париж.", "Ёжик съел 12 яблок.", "The end."]


def as_jsonl(field: str = "text") -> str:
    return "".join(
        json.dumps({field: text, "n": number}, ensure_ascii=False) + "\n"
        for number, text in enumerate(TEXTS)
    )


def as_parquet(file: Path, field: str = "text") -> None:
    parquet.write_table(
        pyarrow.table({"n": [1, 2, 3, 4], field: [*TEXTS[:2], None, TEXTS[2]]}),
        file,
        row_group_size=2,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of every kind with the same documents."""
    lines = "\n\n".join(TEXTS) + "\n"
    (tmp_path / "a.txt").write_text(lines, encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(lines.encode("utf-8")))
    (tmp_path / "c.jsonl").write_text(as_jsonl(), encoding="utf-8")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(as_jsonl().encode("utf-8")))
    as_parquet(tmp_path / "e.parquet")
    return tmp_path


def test_every_kind_of_file_gives_the_same_documents(folder: Path) -> None:
    files = sorted(folder.iterdir())
    assert len(files) == 5
    for file in files:
        assert list(corpora.read(str(file))) == TEXTS, file.name
    assert list(corpora.read(tuple(map(str, files)))) == TEXTS * 5


def test_a_folder_gives_its_files_in_order_and_leaves_out_the_rest(folder: Path) -> None:
    (folder / "z").mkdir()
    (folder / "z" / "f.txt").write_text("Глубже.\n", encoding="utf-8")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "g.txt").write_text("Не это.\n", encoding="utf-8")
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    assert list(corpora.read(str(folder))) == TEXTS * 5 + ["Глубже."]


def test_another_field_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n" + as_jsonl("body"), encoding="utf-8")
    as_parquet(tmp_path / "b.parquet", "body")
    assert list(corpora.read(str(tmp_path), "body")) == TEXTS * 2


def test_a_dataset_in_the_hubs_layout_is_streamed_by_the_datasets_library(tmp_path: Path) -> None:
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    as_parquet(data / "train-00000-of-00001.parquet")
    parquet.write_table(pyarrow.table({"text": ["not this"]}), data / "test-00000-of-00001.parquet")
    rows = list(corpora.hub_rows(str(tmp_path / "set")))
    assert [row["text"] for row in rows] == [*TEXTS[:2], None, TEXTS[2]]
    assert set(rows[0]) == {"text"}, "only the column that is asked for"
    assert {"n", "text"} == set(next(corpora.hub_rows(str(tmp_path / "set"), field="body"))), (
        "all, so that the error can name them"
    )


def test_hub_ids_are_told_from_files(tmp_path: Path) -> None:
    assert corpora.parts(("org/some-data", "org/data:ru@refs/convert/parquet")) == [
        "org/some-data",
        "org/data:ru@refs/convert/parquet",
    ]
    for missing in ("texts/a.txt", "./org/data", "/no/such", "words", "a/b/c"):
        with pytest.raises(LepBenchError, match="no such file"):
            corpora.parts(missing)


def test_without_a_network_a_hub_id_is_one_clear_line() -> None:
    with pytest.raises(
        LepBenchError,
        match="nobody/nothing is no file here, and cannot be read from the Hugging Face Hub",
    ) as caught:
        next(corpora.read("nobody/nothing"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.jsonl",
            as_jsonl("body").encode(),
            r"a.jsonl:1: no text in the field 'text'; its fields: body, n",
        ),
        ("a.jsonl", b'{"text": "x"}\n{"text": 5}\n', r"a.jsonl:2: no text in the field"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a.jsonl:2: a JSON object"),
        ("a.jsonl", b'["x"]\n', r"a.jsonl:1: a JSON object"),
        ("a.txt", b"\n  \n", r"no text in .*a.txt"),
        ("a.txt", b"fine\n\xff\xfe\n", r"a.txt is no UTF-8 text"),
        ("a.txt.gz", b"no gzip", r"a.txt.gz: cannot be read"),
        ("a.parquet", b"no table at all", r"a.parquet is no Parquet file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(LepBenchError, match=words) as caught:
        list(corpora.read(str(file)))
    assert "\n" not in str(caught.value)


def test_nothing_named_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(LepBenchError, match="none is named"):
        list(corpora.read(None))
    with pytest.raises(LepBenchError, match="file in this folder"):
        list(corpora.read(str(tmp_path)))


def test_digests_follow_content_and_the_hubs_revision(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("один\n", encoding="utf-8")
    b.write_text("один\n", encoding="utf-8")
    digest = corpora.corpus_digest
    assert digest(str(a)) == digest((str(b),)) != digest((str(a), str(b)))
    b.write_text("другой\n", encoding="utf-8")
    assert digest(str(a)) != digest(str(b))
    assert len({digest(name) for name in ("org/x", "org/x:ru", "org/x@v1", "org/x@v2")}) == 4
    assert digest(None) == "none"


def test_every_shipped_text_is_in_the_fingerprint_of_the_built_in_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = Path(shutil.copytree(builtin_texts(), tmp_path / "texts"))
    digests = {corpora.corpus_digest("builtin:mini")}
    monkeypatch.setattr(files_module, "builtin_texts", lambda: texts)
    assert {corpora.corpus_digest("builtin:mini")} == digests
    files = sorted(texts.iterdir())
    for file in files:
        file.write_bytes(file.read_bytes() + b"0")
        digests.add(corpora.corpus_digest("builtin:mini"))
    assert len(digests) == len(files) + 1 == 5
