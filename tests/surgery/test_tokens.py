"""The canonical byte view: every kind of tokenizer spells the same bytes."""

from __future__ import annotations

import json

import pytest
from pico_models import copy, edit, unigram
from reference import Vocabulary
from tokenizers import Tokenizer, models

from lep_bench.errors import CheckpointError
from lep_bench.surgery.tokenizers.tokens import BYTE_OF, CHARACTER_OF, Tokens

TEXT = "Рыжая лиса, café 東京 🙂\n  <0x41> ▁"


def of(folder, tokenizer):
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return Tokens.read(folder)


def test_the_byte_map_is_gpt2s():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    assert (
        {byte: character for character, byte in BYTE_OF.items()}
        == CHARACTER_OF
        == bytes_to_unicode()
    )


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_bytes_of_ids_join_to_the_text(trio, kind):
    tokens = Tokens.read(trio(kind).base)
    assert (
        tokens.kind
        == {"byte-level": "byte-level-bpe", "sentencepiece": "metaspace-bpe+bytes"}[kind]
    )
    plain = Tokenizer.from_file(str(trio(kind).base / "tokenizer.json"))
    text = TEXT if kind == "byte-level" else TEXT.replace("▁", "_")
    joined = b"".join(tokens.bytes_of(i) for i in plain.encode(text, add_special_tokens=False).ids)
    assert joined == (text if kind == "byte-level" else " " + text).encode()
    naive = Vocabulary(trio(kind).base)
    assert {
        i: tokens.bytes_of(i) for i in range(tokens.size) if tokens.bytes_of(i) is not None
    } == naive.spelled


@pytest.mark.parametrize(
    ("kind", "name"),
    [("byte-level", "byte-level-unigram"), ("sentencepiece", "metaspace-unigram+bytes")],
)
def test_unigram(tmp_path, kind, name):
    tokenizer = unigram(kind, ["<unk>", "<s>"])
    tokens = of(tmp_path / "t", tokenizer)
    assert tokens.kind == name
    ids = tokenizer.encode("лиса бежит", add_special_tokens=False).ids
    assert b"".join(tokens.bytes_of(i) for i in ids).strip() == "лиса бежит".encode()
    assert all(tokens.bytes_of(tokens.specials[content]) is None for content in ("<unk>", "<s>"))


def test_specials_are_opaque_and_keyed_by_content(trio):
    tokens = Tokens.read(trio("byte-level").instruct)
    assert (
        list(tokens.specials)[-1] == "<|eot_id|>"
        and tokens.bytes_of(tokens.specials["<|eot_id|>"]) is None
    )
    assert tokens.find(b"<|eot_id|>") is None


def test_a_character_and_its_byte_token_are_two_entries(trio):
    tokens = Tokens.read(trio("sentencepiece").base)
    piece, byte = tokens.find(b"e"), tokens.find(b"e", as_byte_token=True)
    assert piece != byte and tokens.is_byte_token(byte) and not tokens.is_byte_token(piece)
    assert tokens.bytes_of(piece) == tokens.bytes_of(byte) == b"e"
    assert len(tokens.byte_tokens) == 256


def test_holes_and_the_unknown_token(tmp_path):
    tokenizer = Tokenizer(models.BPE({"<unk>": 0, "▁a": 1, "b": 4}, [], unk_token="<unk>"))
    spec = json.loads(tokenizer.to_str())
    spec["decoder"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "always",
        "split": True,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokens = Tokens.read(tmp_path)
    assert (tokens.size, tokens.holes, tokens.kind) == (5, [2, 3], "metaspace-bpe")
    assert (
        tokens.specials == {"<unk>": 0}
        and tokens.bytes_of(1) == b" a"
        and tokens.bytes_of(2) is None
    )


def test_what_cannot_be_read_says_so_in_one_line(trio, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json: load it with transformers"):
        Tokens.read(tmp_path)
    folder = copy(trio("byte-level").base, tmp_path / "t")
    spec = json.loads((folder / "tokenizer.json").read_text())
    edit(folder / "tokenizer.json", model={"type": "WordPiece", "vocab": {"a": 0}})
    with pytest.raises(CheckpointError, match="a WordPiece tokenizer: only BPE and Unigram"):
        Tokens.read(folder)
    edit(
        folder / "tokenizer.json",
        model=spec["model"],
        pre_tokenizer={"type": "Whitespace"},
        decoder=None,
    )
    with pytest.raises(CheckpointError, match="neither byte-level nor sentencepiece-like"):
        Tokens.read(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokens.read(folder)
