"""The shipped vocabulary methods on both structures: what is kept, what is new, and the folder that
is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from lep_bench import plugin
from lep_bench.errors import AdapterError, CheckpointError, LepBenchError
from lep_bench.mini import corpus
from lep_bench.plugin import Adapter, Params, vocabulary
from lep_bench.surgery.tokenizers import loading
from lep_bench.surgery.tokenizers.structure import Structure
from lep_bench.surgery.vocabulary import build_tokenizer
from lep_bench.testing import pico

KINDS = ("byte-level", "sentencepiece")
PARAMS = {
    "bpe": {"size": 520},
    "unigram": {"size": 520},
    "extended": {"size": 90},
    "optimized": {"keep": 290, "size": 90},
    "original": {},
}
RUSSIAN = "Столица Франции — Париж. Какая столица у Испании?"
ENGLISH = "The capital of France is Paris, isn't it? 12345"


def texts() -> Iterator[str]:
    return islice(corpus.vocabulary_texts(), 1200)


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico.family(tmp_path_factory.mktemp("pico"), kind=request.param)[0]


@pytest.fixture(scope="module")
def shipped() -> dict[str, Adapter]:
    found = plugin.discover_adapters()
    return {name: found.get("vocabulary", name).adapter for name in PARAMS}


def make(base: Path, adapter: Adapter, **changes: int) -> Tokenizer:
    params = adapter.params.model_validate({**PARAMS[adapter.name], **changes})
    return adapter(loading.read_tokenizer(base), texts(), params)


made_once = cache(make)  # for tests that only read it


def ordinary(tokenizer: Tokenizer) -> list[str]:
    return Structure.parse(tokenizer).ordinary


@pytest.mark.parametrize("name", PARAMS)
def test_folder_is_complete_checked_and_read_alike_by_transformers(
    base: Path, shipped: dict[str, Adapter], name: str, tmp_path: Path
) -> None:
    adapter, old = shipped[name], loading.read_tokenizer(base)
    folder = build_tokenizer(
        base, tmp_path / "new", adapter, adapter.params.model_validate(PARAMS[name]), texts()
    )
    assert sorted(p.name for p in folder.iterdir()) == [
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    made, loaded = loading.read_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and loaded.chat_template is None
    for part in ("bos_token", "eos_token"):
        assert config[part] == getattr(AutoTokenizer.from_pretrained(base), part)
    for text in (RUSSIAN, ENGLISH):
        encoding = made.encode(text)
        assert loaded(text)["input_ids"] == encoding.ids
        assert encoding.ids[0] == made.token_to_id(config["bos_token"]), (
            "the post-processor puts BOS first"
        )
        assert made.decode(encoding.ids[1:]) == old.decode(
            old.encode(text, add_special_tokens=False).ids
        )
    assert {t.content for t in old.get_added_tokens_decoder().values()} == {
        t.content for t in made.get_added_tokens_decoder().values()
    }
    assert sorted(made.get_vocab().values()) == list(range(made.get_vocab_size()))


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_new_vocabularies_have_the_size_asked_for_and_all_bytes(
    base: Path, shipped: dict[str, Adapter], name: str
) -> None:
    made, old = made_once(base, shipped[name]), Structure.parse(loading.read_tokenizer(base))
    specials = [entry for entry in old.entries if entry in old.specials]
    entries = sorted(made.get_vocab(), key=made.token_to_id)
    assert len(entries) == PARAMS[name]["size"] + len(specials)
    assert set(old.bytes) <= set(entries)
    place = 0 if old.leading else PARAMS[name]["size"]
    assert entries[place : place + len(specials)] == specials, (
        "specials precede or follow as in the base"
    )
    unusual = "日本語 🙂 \x07"
    assert made.decode(made.encode(unusual, add_special_tokens=False).ids) == unusual


def test_unigram_knows_whole_words_and_never_says_unknown(
    base: Path, shipped: dict[str, Adapter]
) -> None:
    made, shape = (
        make(base, shipped["unigram"], size=900),
        Structure.parse(loading.read_tokenizer(base)),
    )
    spelled = shape.spell(" столица") if shape.byte_level else "▁столица"
    assert made.token_to_id(spelled) is not None
    assert "<unk>" not in made.encode("日本語 🙂", add_special_tokens=False).tokens
    literal = made.encode("<0x41> <s", add_special_tokens=False)
    assert made.decode(literal.ids) == "<0x41> <s", "text that looks like a byte token stays text"


@pytest.mark.parametrize("name", ["bpe", "extended", "optimized"])
def test_every_new_token_is_reached_by_merges_alone(
    base: Path, shipped: dict[str, Adapter], name: str
) -> None:
    made = made_once(base, shipped[name])
    spec = json.loads(made.to_str())
    spec["model"]["ignore_merges"] = False
    model = Tokenizer.from_str(json.dumps(spec)).model
    shape = Structure.parse(loading.read_tokenizer(base))
    new = (
        set(made.get_vocab()) - set(shape.entries)
        if name != "bpe"
        else set(made.get_vocab()) - shape.specials - set(shape.bytes)
    )
    for token in sorted(new):
        assert [t.value for t in model.tokenize(token)] == [token]


def test_extended_keeps_every_id_and_text_without_new_tokens_keeps_its_ids(
    base: Path, shipped: dict[str, Adapter]
) -> None:
    old, made = loading.read_tokenizer(base), made_once(base, shipped["extended"])
    assert all(made.token_to_id(token) == number for token, number in old.get_vocab().items())
    assert made.get_vocab_size() == old.get_vocab_size() + 90
    unchanged, shorter = 0, 0
    for text in [*islice(corpus.pretraining_texts(), 300), "zyx wvu 42", "<|end_of_text|></s>"]:
        for word in text.split():
            ids, new = old.encode(word).ids, made.encode(word).ids
            if max(new) < old.get_vocab_size():
                assert new == ids
                unchanged += 1
            else:
                assert len(new) < len(ids)
                shorter += 1
    assert unchanged > 100 and shorter > 100


def test_new_merges_stand_after_all_old_ones_and_give_no_old_token(
    base: Path, shipped: dict[str, Adapter]
) -> None:
    old, made = loading.read_tokenizer(base), made_once(base, shipped["extended"])
    before, after = (json.loads(t.to_str())["model"]["merges"] for t in (old, made))
    assert after[: len(before)] == before
    made_tokens = ["".join(pair) for pair in after[len(before) :]]
    assert not set(made_tokens) & set(old.get_vocab())


def test_sentencepiece_merges_never_cross_a_word_or_a_digit(
    tmp_path: Path, shipped: dict[str, Adapter]
) -> None:
    base = pico.family(tmp_path, kind="sentencepiece")[0]
    for name in ("bpe", "unigram", "extended", "optimized"):
        new = set(made_once(base, shipped[name]).get_vocab()) - set(
            loading.read_tokenizer(base).get_vocab()
        )
        assert not [token for token in new if "▁" in token[1:]]
        assert not [
            token
            for token in new
            if len(token) > 1 and any(c.isdigit() for c in token) and not token.startswith("<0x")
        ]


def test_optimized_keeps_the_most_used_tokens_with_their_merge_paths(
    base: Path, shipped: dict[str, Adapter]
) -> None:
    old, made = Structure.parse(loading.read_tokenizer(base)), made_once(base, shipped["optimized"])
    entries = sorted(made.get_vocab(), key=made.token_to_id)
    kept = [entry for entry in entries if entry not in old.specials][:290]
    assert set(old.bytes) <= set(kept) <= set(old.ordinary)
    assert kept == [entry for entry in old.entries if entry in set(kept)], (
        "the order of the old ids"
    )
    assert made.get_vocab_size() == 290 + 90 + len(old.specials)
    learnt = [token for token in kept if token not in old.bytes and len(token) > 1]
    assert learnt and all(
        [t.value for t in made.model.tokenize(token)] == [token] for token in learnt
    )


def test_the_same_texts_give_the_same_vocabulary(base: Path, shipped: dict[str, Adapter]) -> None:
    for name in PARAMS:
        assert make(base, shipped[name]).to_str() == make(base, shipped[name]).to_str()


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("bpe", {"size": 100_000}, "of the 100000 requested tokens"),
        ("unigram", {"size": 100_000}, "of the 100000 requested tokens"),
        ("unigram", {"size": 257}, "too small"),
        ("extended", {"size": 100_000}, "of the 100000 requested tokens"),
        ("optimized", {"keep": 9_000}, "below the"),
        ("bpe", {"characters": 1}, "of the 520 requested tokens"),
    ],
)
def test_what_the_text_cannot_give_is_said_in_one_line(
    base: Path, shipped: dict[str, Adapter], name: str, changes: dict[str, int], words: str
) -> None:
    with pytest.raises(AdapterError, match=words) as caught:
        make(base, shipped[name], **changes)
    assert "\n" not in str(caught.value)


def foreign(function: object) -> Adapter:
    @vocabulary("foreign")
    def method(base: Tokenizer, texts: Iterator[str], params: Params) -> Tokenizer:
        """Somebody's method."""
        return function(base)  # type: ignore[operator]

    return method


def without_specials(base: Tokenizer) -> Tokenizer:
    spec = json.loads(base.to_str())
    spec["added_tokens"], spec["post_processor"] = spec["added_tokens"][:1], None
    return Tokenizer.from_str(json.dumps(spec))


def with_a_hole(base: Tokenizer) -> Tokenizer:
    spec = json.loads(base.to_str())
    spec["model"]["vocab"]["hole"] = base.get_vocab_size() + 5
    return Tokenizer.from_str(json.dumps(spec))


def upper(base: Tokenizer) -> Tokenizer:
    spec = json.loads(base.to_str())
    spec["normalizer"] = {"type": "Lowercase"}
    return Tokenizer.from_str(json.dumps(spec))


def broken(base: Tokenizer) -> Tokenizer:
    return {}["nothing"]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (without_specials, "special tokens of the base are missing"),
        (with_a_hole, "holes in the ids"),
        (upper, "comes back as"),
        (broken, "raised KeyError"),
        (lambda base: "text", "returned str"),
        (lambda base: Tokenizer(models.BPE()), "lacks|missing|holes|empty"),
    ],
)
def test_unusable_tokenizers_are_refused_and_nothing_is_left(
    base: Path, tmp_path: Path, function: object, words: str
) -> None:
    with pytest.raises(LepBenchError, match=words) as caught:
        build_tokenizer(base, tmp_path / "new", foreign(function), Params(), texts())
    assert "foreign" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_base_without_a_fast_tokenizer_is_refused(
    tmp_path: Path, shipped: dict[str, Adapter]
) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer.json"):
        build_tokenizer(tmp_path, tmp_path / "new", shipped["original"], Params(), texts())


def test_foreign_structures_are_refused_by_the_shipped_methods(shipped: dict[str, Adapter]) -> None:
    with pytest.raises(AdapterError, match="support byte-level BPE"):
        shipped["bpe"](
            Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")),
            texts(),
            shipped["bpe"].params(),
        )
