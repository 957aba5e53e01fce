"""T: the invariant of bytes over every pair of tokenizers, half characters, policies."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from pico_models import copy, edit, unigram
from reference import Vocabulary, subtokens
from scipy import sparse
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lep_bench.errors import CheckpointError
from lep_bench.surgery.decompose import (
    FOREIGN,
    KEPT,
    NEW,
    SPECIAL,
    decompose,
    spell_bytes,
    spell_greedily,
)
from lep_bench.surgery.tokenizers.tokens import Tokens

KINDS = ("byte-level", "sentencepiece", "byte-level-unigram", "metaspace-unigram")


@pytest.fixture(scope="module")
def tokens(trio, tmp_path_factory):
    """Tokenizers by name: bases, donors, Unigram ones."""
    made = {
        f"{role} {kind}": Tokens.read(getattr(trio(kind), role))
        for kind in KINDS[:2]
        for role in ("base", "donor")
    }
    for kind in KINDS[2:]:
        folder = tmp_path_factory.mktemp(kind)
        unigram(kind.removesuffix("-unigram"), ["<unk>", "<s>", "</s>"]).save(
            str(folder / "tokenizer.json")
        )
        made[kind] = Tokens.read(folder)
    return made


NAMES = [
    "base byte-level",
    "base sentencepiece",
    "donor byte-level",
    "donor sentencepiece",
    *KINDS[2:],
]


@pytest.mark.parametrize(("old", "new"), itertools.product(NAMES, NAMES))
def test_old_subtokens_spell_the_new_tokens_bytes(tokens, old, new):
    old, new = tokens[old], tokens[new]
    taken = decompose(old, new)
    ordinary = [number for number in range(new.size) if new.bytes_of(number) is not None]
    values = [new.bytes_of(number) for number in ordinary]
    exact = spell_bytes(old, values)
    assert [b"".join(old.bytes_of(i) for i in ids) for ids in exact] == values
    for number, value, ids in zip(ordinary, values, exact, strict=True):
        row = taken.T[number]
        if taken.kinds[number] == KEPT:
            assert row.nnz == 1 and row.data[0] == 1 and old.bytes_of(row.indices[0]) == value
        else:
            assert taken.kinds[number] == NEW
            np.testing.assert_allclose(row.toarray()[0], mean_of(ids, old.size), atol=1e-15)


def mean_of(ids, size):
    dense = np.zeros(size)
    np.add.at(dense, ids, 1 / len(ids))
    return dense


@pytest.mark.parametrize("kind", KINDS[:2])
def test_equal_to_the_naive_decomposition(trio, kind):
    base, _, donor = trio(kind)
    taken = decompose(Tokens.read(base), Tokens.read(donor))
    expected = subtokens(Vocabulary(base), Vocabulary(donor))
    for number, ids in expected.items():
        np.testing.assert_allclose(
            taken.T[number].toarray()[0], mean_of(ids, taken.T.shape[1]), atol=1e-15
        )


def test_the_same_tokenizer_is_the_identity(tokens):
    for one in tokens.values():
        taken = decompose(one, one)
        assert (taken.T != sparse.identity(one.size)).nnz == 0
        assert set(taken.kinds.tolist()) <= {KEPT, SPECIAL}


def test_specials_by_content(trio):
    old, new = Tokens.read(trio("byte-level").base), Tokens.read(trio("sentencepiece").instruct)
    taken = decompose(old, new)
    numbers = {content: taken.kinds[number] for content, number in new.specials.items()}
    assert set(numbers.values()) == {FOREIGN}  # no content in common
    back = decompose(Tokens.read(trio("sentencepiece").base), new)
    assert back.kinds[new.specials["<s>"]] == SPECIAL and back.T[new.specials["<s>"], 1] == 1
    assert back.kinds[new.specials["<|end_of_turn|>"]] == FOREIGN
    assert not set(back.overlap[:, 0]) & set(new.specials.values())


ODD = [
    b"\xd0",
    b"\xbf\xd1\x80",
    "при".encode() + b"\xd0",
    b"\xe2\x96",
    "▁".encode(),
    b"\x00",
    "a 東京 🙂".encode(),
    b"\xff\xfe",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ODD)
def test_any_bytes_are_spelled_exactly(tokens, name, value):
    old = tokens[name]
    for ids in (*spell_bytes(old, [value]), spell_greedily(old, value)):
        assert b"".join(old.bytes_of(i) for i in ids) == value


def test_bytes_that_nothing_spells_are_refused(tmp_path):
    tokenizer = Tokenizer(models.BPE({"<unk>": 0, "▁a": 1, "b": 2}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        CheckpointError,
        match="cannot spell b'c' of the new vocabulary: it has no token for the byte 0x63",
    ):
        spell_bytes(Tokens.read(tmp_path), [b"c"])


def test_dummy_prefix_normaliser_and_added_tokens_are_off(trio, tmp_path):
    folder = copy(trio("sentencepiece").base, tmp_path / "t")
    edit(
        folder / "tokenizer.json",
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Lowercase"}, {"type": "Prepend", "prepend": "▁"}],
        },
    )
    old = Tokens.read(folder)
    ids = spell_bytes(old, ["Рыжая".encode(), b"<s>"])
    assert [b"".join(old.bytes_of(i) for i in row) for row in ids] == ["Рыжая".encode(), b"<s>"]


def test_paper_policy_reads_stored_spellings_as_text(trio):
    base, _, donor = trio("byte-level")
    old, new = Tokens.read(base), Tokens.read(donor)
    exact, paper = decompose(old, new), decompose(old, new, "paper")
    plain = Tokenizer.from_file(str(base / "tokenizer.json"))
    different = 0
    for number in range(new.size):
        if new.bytes_of(number) is not None:
            ids = plain.encode(new.pieces[number], add_special_tokens=False).ids
            dense = mean_of(ids, old.size)
            np.testing.assert_allclose(paper.T[number].toarray()[0], dense, atol=1e-15)
            different += bool(abs(dense - exact.T[number].toarray()[0]).max() > 1e-9)
    assert different == paper.differing == exact.differing == 206
    # A sentencepiece old tokenizer only mistakes byte tokens for text.
    mistral = decompose(
        Tokens.read(trio("sentencepiece").base), Tokens.read(trio("sentencepiece").donor), "paper"
    )
    assert mistral.differing == 256


def test_byte_level_and_sentencepiece_meet_as_bytes(trio):
    taken = decompose(
        Tokens.read(trio("byte-level").base), Tokens.read(trio("sentencepiece").donor)
    )
    pieces = json.loads((trio("byte-level").base / "tokenizer.json").read_text())["model"]["vocab"]
    as_strings = len(set(pieces) & set(Tokens.read(trio("sentencepiece").donor).pieces))
    assert len(taken.overlap) > 256 > 2 * as_strings
