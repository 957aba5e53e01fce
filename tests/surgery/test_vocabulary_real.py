"""New vocabularies for the real tokenizers of LLaMa-3, Mistral-7B and OpenChat-3.5; small ones (the
paper's sizes: benchmarks/vocabularies.py).

LLaMa-3's is cut to its first RANKS tokens, which are a tokenizer of their own: the whole one takes
seconds at every step.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
from filelock import FileLock
from tokenizers import Tokenizer

from lep_bench import plugin
from lep_bench.mini import corpus
from lep_bench.surgery import vocabulary
from lep_bench.surgery.check.tokenizer import find_unreachable
from lep_bench.surgery.decompose import decompose
from lep_bench.surgery.tokenizers import loading
from lep_bench.surgery.tokenizers.structure import patch_processor
from lep_bench.surgery.tokenizers.tokens import Tokens

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import real
import vocabularies

pytestmark = pytest.mark.skipif(
    not real.available(), reason="python benchmarks/real.py fetches the real tokenizers"
)
RANKS = 12_000
BASES = ("llama3", "mistral", "openchat")
PARAMS = {
    "bpe": {"size": 1500},
    "unigram": {"size": 1500},
    "extended": {"size": 500},
    "optimized": {"keep": 2000, "size": 500},
    "extended-union": {"size": 1500},
}
Made = Callable[[str, str], Path]


def texts() -> Iterator[str]:
    return islice(corpus.vocabulary_texts(), 2500)


def cut(folder: Path) -> Path:
    """LLaMa-3's tokenizer without the ordinary tokens from RANKS on."""
    file = folder / "tokenizer.json"
    spec = json.loads(file.read_text(encoding="utf-8"))
    vocab = {token: rank for token, rank in spec["model"]["vocab"].items() if rank < RANKS}
    pairs = [[a, b] for a, b in spec["model"]["merges"] if {a, b, a + b} <= vocab.keys()]
    spec["model"] |= {"vocab": vocab, "merges": pairs}
    spec["added_tokens"] = [
        {**token, "id": RANKS + n} for n, token in enumerate(spec["added_tokens"])
    ]
    spec["post_processor"] = patch_processor(
        spec["post_processor"], {token["content"]: token["id"] for token in spec["added_tokens"]}
    )
    file.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(shared: Path) -> Made:
    """made(base, method) -> the checked tokenizer folder, made by whichever process needs it first;
    method "" -> the base's.
    """
    root, adapters = shared / "real", plugin.discover_adapters()
    root.mkdir(exist_ok=True)

    def write(base: str, method: str, folder: Path) -> None:
        if not method:
            real.TOKENIZERS[base](folder)
            if base == "llama3":
                cut(folder)
            return
        adapter = adapters.get("vocabulary", method).adapter
        vocabulary.build_tokenizer(
            make(base, ""), folder, adapter, adapter.params.model_validate(PARAMS[method]), texts()
        )

    @cache
    def make(base: str, method: str) -> Path:
        folder = root / f"{base}-{method}"
        with FileLock(f"{folder}.lock"):
            if not (done := folder.with_suffix(".done")).exists():
                write(base, method, folder)
                done.touch()
        return folder

    return make


@cache
def tokens(folder: Path) -> Tokens:
    return Tokens.read(folder)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", ["bpe", "unigram", "extended", "optimized"])
def test_every_row_stands_for_its_tokens_bytes_and_all_256_bytes_are_carried_over(
    made: Made, base: str, method: str
) -> None:
    old, new = tokens(made(base, "")), tokens(made(base, method))
    assert vocabularies.mismatches(old, new, decompose(old, new)) == (0, 0)
    assert not new.holes and set(new.specials) == set(old.specials)


@pytest.mark.parametrize("base", BASES[:2])
@pytest.mark.parametrize("method", ["bpe", "unigram", "extended", "optimized"])
def test_every_new_token_comes_out_of_some_text_without_ignore_merges(
    made: Made, base: str, method: str
) -> None:
    old, new = tokens(made(base, "")), tokens(made(base, method))
    fresh = {
        n
        for n in range(new.size)
        if (value := new.bytes_of(n)) is not None and old.find(value) is None
    }
    assert fresh and not fresh & set(find_unreachable(new))


@pytest.mark.parametrize("base", BASES[:2])
def test_extended_leaves_ids_and_merges_alone_and_so_text_without_new_tokens(
    made: Made, base: str
) -> None:
    before, after = (
        json.loads((made(base, method) / "tokenizer.json").read_text(encoding="utf-8"))
        for method in ("", "extended")
    )
    old, new = (loading.read_tokenizer(made(base, method)) for method in ("", "extended"))
    entries = old.get_vocab_size()
    assert new.get_vocab_size() == entries + 500 and all(
        new.token_to_id(token) == n for token, n in old.get_vocab().items()
    )
    pairs, all_pairs = before["model"]["merges"], after["model"]["merges"]
    assert all_pairs[: len(pairs)] == pairs and len(all_pairs) == len(pairs) + 500
    assert not {a + b for a, b in all_pairs[len(pairs) :]} & old.get_vocab().keys()
    same = 0
    for text in [
        *texts(),
        "The merges of an old vocabulary, e.g. naïve café 12345, stay.",
        "日本語 🙂 <|end_of_text|> </s>",
    ]:
        for word in re.findall(r"\s?\S+", text):
            ids = new.encode(word, add_special_tokens=False).ids
            if max(ids) < entries:
                assert ids == old.encode(word, add_special_tokens=False).ids
                same += 1
    assert same > 300


def test_the_papers_form_has_tokens_that_come_out_of_no_text(made: Made) -> None:
    old, new = tokens(made("llama3", "")), tokens(made("llama3", "extended-union"))
    added = set(range(old.size, new.size))
    assert len(added) > 100 and added & set(find_unreachable(new))
    assert new.pieces[: old.size] == old.pieces


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", ["bpe", "unigram", "optimized"])
def test_the_manners_of_the_family_stay(made: Made, base: str, method: str) -> None:
    before, after = (
        json.loads((made(base, m) / "tokenizer.json").read_text(encoding="utf-8"))
        for m in ("", method)
    )
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert after[part] == before[part]
    new, old = (loading.read_tokenizer(made(base, m)) for m in (method, ""))
    digits = [
        len(token.removeprefix("▁").removeprefix("Ġ"))
        for token in new.encode("1234567").tokens
        if token.strip("▁Ġ").isdigit()
    ]
    assert max(digits) <= (3 if base == "llama3" else 1)
    bos = old.encode("").tokens
    assert new.encode("").tokens == bos and new.encode("").ids == [new.token_to_id(bos[0])]
    renewed, former = (tokens(made(base, m)) for m in (method, ""))
    assert set(renewed.specials) == set(former.specials)
    assert all(renewed.find(bytes([byte]), as_byte_token=True) is not None for byte in range(256))
    if base == "openchat":
        assert "chat_template" in json.loads(
            (made(base, method) / "tokenizer_config.json").read_text(encoding="utf-8")
        )


def test_default_sizes_are_the_papers(made: Made, tmp_path: Path) -> None:
    llama, mistral = (
        loading.read_tokenizer(real.llama3(tmp_path / "whole")),
        loading.read_tokenizer(made("mistral", "")),
    )

    def total(base: Tokenizer, method: str) -> int:
        sizes, specials = vocabulary.paper_sizes(base, method), len(base.get_added_tokens_decoder())
        return sizes["size"] + {
            "extended": base.get_vocab_size(),
            "optimized": specials + sizes.get("keep", 0),
        }.get(method, specials)

    assert [total(mistral, method) for method in ("bpe", "unigram", "extended")] == [
        32_000,
        32_000,
        55_328,
    ]
    assert [total(llama, method) for method in ("bpe", "unigram", "extended", "optimized")] == [
        128_256,
        128_256,
        174_816,
        114_504,
    ]
    assert vocabulary.paper_sizes(llama, "optimized")["keep"] == 64_000
    assert vocabulary.paper_sizes(llama, "somebody-elses") == {}
