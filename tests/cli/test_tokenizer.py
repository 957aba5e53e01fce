"""`lep-bench tokenizer`: figures that a recount confirms, table, JSON and plot, and bad input."""

from __future__ import annotations

import importlib.util
import json
import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from lep_bench import files
from lep_bench.surgery.tokenizers import segmentation

LLAMA, MISTRAL = "builtin:mini-llama/base", "builtin:mini-mistral/base"
TEXTS = ["лиса бежит по холму", "the red fox  runs", "ёж и 12 яблок"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return file


def test_figures_are_what_a_recount_gives(cli, text: Path, tmp_path: Path) -> None:
    answer = cli("tokenizer", LLAMA, MISTRAL, "--text", text, "--json", tmp_path / "figures.json")
    assert answer.code == 0, answer.err
    written = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["tokenizers"]
    assert [one["name"] for one in written] == [LLAMA, MISTRAL]
    for one, line in zip(written, answer.out.splitlines()[1:], strict=False):
        raw = Tokenizer.from_file(
            str(
                files.builtin_checkpoints()
                / one["name"].removeprefix("builtin:")
                / "tokenizer.json"
            )
        )
        ids = [raw.encode(document, add_special_tokens=False).ids for document in TEXTS]
        tokens, different = sum(map(len, ids)), {number for own in ids for number in own}
        assert (one["tokens"], one["used"], one["words"], one["documents"]) == (
            tokens,
            len(different),
            12,
            3,
        )
        assert (
            one["symbols_per_token"] == sum(map(len, TEXTS)) / tokens
            and one["tokens_per_word"] == tokens / 12
        )
        assert one["bytes_per_token"] == sum(len(document.encode()) for document in TEXTS) / tokens
        assert (
            one["vocabulary"] == raw.get_vocab_size()
            and one["exact"] == 3
            and one["difference"] is None
        )
        cells = line.split()
        assert (
            cells[:2] == [one["name"], one["kind"]] and f"{one['symbols_per_token']:.2f}" in cells
        )
    assert [one["kind"] for one in written] == ["byte-level-bpe", "metaspace-bpe+bytes"]


def test_cyrillic_is_counted_by_bytes(text: Path) -> None:
    # In byte-level spelling no token looks Cyrillic.
    found = segmentation.measure_segmentation(
        files.builtin_checkpoints() / "mini-llama" / "base", TEXTS, "x"
    )
    vocabulary = Tokenizer.from_file(
        str(files.builtin_checkpoints() / "mini-llama" / "base" / "tokenizer.json")
    )
    decoded = [
        vocabulary.decode([number], skip_special_tokens=False) for number in range(found.vocabulary)
    ]
    assert (
        found.cyrillic
        == sum(any("а" <= c.lower() <= "я" or c in "ёЁ" for c in token) for token in decoded)
        > 100
    )


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files.builtin_checkpoints() / "mini-mistral" / "base"
    whole = segmentation.measure_segmentation(folder, segmentation.SAMPLE, "x")
    monkeypatch.setattr(segmentation, "BATCH", 100)
    assert segmentation.measure_segmentation(folder, iter(segmentation.SAMPLE), "x") == whole


def test_what_does_not_come_back_is_shown(cli, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lossy"
    folder.mkdir()
    spec = json.loads(
        (files.builtin_checkpoints() / "mini-llama" / "base" / "tokenizer.json").read_text(
            encoding="utf-8"
        )
    )
    spec["normalizer"] = {"type": "Replace", "pattern": {"String": "ё"}, "content": "е"}
    # a tokenizer alone: no config.json
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    answer = cli("tokenizer", folder, "--text", text)
    assert answer.code == 0 and "2 of 3" in answer.out.splitlines()[1]
    assert (
        "lossy: document 3: 'ёж и 12 яблок' comes back as 'еж и 12 яблок'"
        in answer.out.splitlines()
    )


def test_without_a_text_the_sample_is_cut(cli) -> None:
    answer = cli("tokenizer", LLAMA)
    assert "text: a built-in sample: 8 documents" in answer.out and "8 of 8" in answer.out


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)
def test_plots_are_pictures(cli, text: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.svg", "b.svg"):
        assert cli("tokenizer", LLAMA, MISTRAL, "--text", text, "--plot", tmp_path / name).code == 0
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    assert width > 1000 and height > 300
    words = [
        node.text
        for node in ElementTree.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")
    ]
    assert any(word and word.startswith(MISTRAL) for word in words)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("./nothing",), "no such folder"),
        (("{tmp}",), "has no tokenizer"),
        (("builtin:mini-lama/base",), "did you mean builtin:mini-llama/base"),
        ((LLAMA, "--text", "{tmp}/nothing.txt"), "no such file"),
        ((LLAMA, "--text", "{tmp}/empty.txt"), "no text in"),
        ((LLAMA, "--plot", "{tmp}/plot.pdf"), "ends in .png or .svg"),
        ((LLAMA, "--json", "{tmp}"), "is a folder"),
    ],
)
def test_mistakes_are_one_line(cli, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    answer = cli("tokenizer", *(part.format(tmp=tmp_path) for part in arguments))
    assert answer.code == 2 and says in answer.err and len(answer.err.splitlines()) == 1
