"""New vocabularies for a base's tokenizer (arXiv 2412.21140), and the folder a vocabulary method's
result becomes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lep_bench import files
from lep_bench.errors import AdapterError, CheckpointError, LepBenchError
from lep_bench.plugin import Adapter, Params
from lep_bench.surgery.tokenizers import bpe, unigram
from lep_bench.surgery.tokenizers.loading import read_tokenizer
from lep_bench.surgery.tokenizers.structure import Structure, patch_processor

# A Unigram byte or special token must lose to every way of spelling its name ("<0x41>" is six
# characters of text).
UNLIKELY = 10.0
HEXADECIMAL = frozenset("<>x0123456789ABCDEF")
# entries: a base with more gets the sizes that the paper gives LLaMa-3-8B, another one Mistral-7B's
LARGE = 64_000
PROBES = (
    "Столица Франции — Париж, а реки там две: Сена и Луара.",
    "Ёжик съел 12 яблок; «вкусно!» — сказал он…\nИ ушёл.",
    "The quick brown fox doesn't jump over 1234 lazy dogs.",
    "naïve café, 東京 🙂 <0x41> x=y_1;",
)
TEMPLATE = "chat_template.jinja"
SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


def paper_sizes(base: Tokenizer, method: str) -> dict[str, int]:
    """The parameters `size` and `keep` with which a shipped method makes the paper's vocabulary for
    a base like `base`.

    bpe, unigram: as many ordinary tokens as before. extended: 55,328 entries in all from Mistral's
    32,000, 174,816 from LLaMa-3's 128,256. optimized: half of the old tokens, and for each kept one
    as many new ones as LLaMa-3 gets (114,504 entries in all). Unions: the new vocabulary that is
    merged in. Empty for a method that is not shipped.
    """
    large, ordinary = base.get_vocab_size() > LARGE, len(Structure.parse(base).ordinary)
    half = ordinary // 2
    return {
        "bpe": {"size": ordinary},
        "unigram": {"size": ordinary},
        "extended": {"size": 46_560 if large else 23_328},
        "optimized": {"keep": half, "size": round(half * 50_248 / 64_000)},
        "extended-union": {"size": 64_000 if large else 32_000},
        "optimized-union": {"keep": half, "size": half},
    }.get(method, {})


def new_bpe(base: Tokenizer, texts: Iterable[str], size: int) -> Tokenizer:
    """A BPE vocabulary of `size` ordinary tokens (byte tokens included) in place of the old one.

    Splitting, byte tokens and special tokens stay as they are. Raises AdapterError when the text
    gives fewer tokens.
    """
    shape = Structure.parse(base)
    alphabet, found = _learnt(shape, shape.words(texts), size)
    return _bpe(shape, [*shape.leading, *alphabet, *map("".join, found), *shape.trailing], found)


def new_unigram(base: Tokenizer, texts: Iterable[str], size: int) -> Tokenizer:
    """A Unigram vocabulary of `size` ordinary tokens (byte tokens included) in place of the old
    one.

    Byte-level families: pieces of text, which never cut a letter in two, in byte-level spelling,
    and all 256 bytes, so that nothing is unknown. Others: byte fallback. Raises AdapterError when
    the text gives fewer tokens.
    """
    shape = Structure.parse(base)
    words = shape.words(texts)
    required = shape.characters(words) | (set() if shape.byte_level else set(HEXADECIMAL))
    bytes_ = shape.bytes
    room = size - 256 + sum(shape.spell(c) in bytes_ for c in required)
    if room < len(required):
        raise AdapterError(
            f"unigram: size {size} is too small: 256 bytes and {len(required)} characters of "
            f"the text need {256 + len(required)}"
        )
    learnt = {
        shape.spell(piece): score
        for piece, score in unigram.train_unigram(words, room, required).items()
    }
    _enough(len(learnt), room, size, size - room)
    least = UNLIKELY * min(learnt.values())
    ordinary = [*bytes_, *(piece for piece in learnt if piece not in set(bytes_))]
    entries = [*shape.leading, *ordinary, *shape.trailing]
    scores = {entry: learnt.get(entry, least) for entry in entries}
    unknown = shape.spec["model"].get("unk_token")
    return shape.assemble(
        entries,
        {
            "type": "Unigram",
            "unk_id": entries.index(unknown) if unknown in entries else None,
            "byte_fallback": not shape.byte_level,
            "scores": scores,
        },
    )


def extended(base: Tokenizer, texts: Iterable[str], size: int) -> Tokenizer:
    """The old vocabulary, every id unchanged, and `size` new tokens after it.

    The new merges are trained over sequences of old tokens, stand after all old ones, and never
    give an old token. So text in which no new token occurs keeps its ids exactly. Raises
    AdapterError when the text gives fewer tokens.
    """
    shape = Structure.parse(base)
    return _extended(shape, shape.old_words(texts), size)


def optimized(base: Tokenizer, texts: Iterable[str], size: int, keep: int) -> Tokenizer:
    """The `keep` ordinary tokens of the old vocabulary that the text uses most, then `size` new
    ones as in `extended`.

    Byte tokens are always kept, and with a token every token on its merge path; ids are renumbered
    without holes. Raises AdapterError when the old vocabulary is not larger than `keep`.
    """
    shape = Structure.parse(base)
    words = shape.old_words(texts)
    used: Counter[str] = Counter()
    for word, count in words.items():
        for token in word:
            used[token] += count
    kept = _most_used(shape, used, keep)
    cut = _cut(shape, kept)
    smaller, again = Structure.parse(cut), Counter[tuple[str, ...]]()
    for word, count in words.items():
        tokens = [token.value for token in cut.model.tokenize("".join(word))]
        for run in smaller.runs(tokens, [0] * len(tokens)):
            again[run] += count
    return _extended(smaller, again, size)


def union(base: Tokenizer, texts: Iterable[str], size: int, keep: int | None = None) -> Tokenizer:
    """The paper's form of `extended`, or with `keep` of `optimized`: the tokens and merges of a new
    BPE vocabulary of `size` are put behind the old ones, those that are there already left out.

    The merges were not learnt over the old tokens. So some new tokens come out of no text, and text
    without any new token may change its ids. How many entries result depends on how much the two
    vocabularies share.
    """
    shape = Structure.parse(base)
    words = shape.words(texts)
    alphabet, found = _learnt(shape, words, size)
    if keep is not None:
        used: Counter[str] = Counter()
        for word, count in words.items():
            for token in base.model.tokenize(shape.spell(word)):
                used[token.value] += count
        shape = Structure.parse(_cut(shape, _most_used(shape, used, keep)))
    pairs = [(a, b) for a, b in shape.spec["model"]["merges"]]
    old, known = set(shape.entries), set(pairs)
    new = [token for token in (*alphabet, *map("".join, found)) if token not in old]
    return _bpe(
        shape, [*shape.entries, *new], [*pairs, *(pair for pair in found if pair not in known)]
    )


def _extended(
    shape: Structure, words: dict[tuple[str, ...], int] | Counter[tuple[str, ...]], size: int
) -> Tokenizer:
    found = bpe.train_merges(words, size, taken=set(shape.entries))
    _enough(len(found), size, size, 0)
    return _bpe(
        shape,
        [*shape.entries, *map("".join, found)],
        [*map(tuple, shape.spec["model"]["merges"]), *found],
    )


def _most_used(shape: Structure, used: Counter[str], keep: int) -> set[str]:
    ordinary = shape.ordinary
    if not 256 <= keep < len(ordinary):
        raise AdapterError(
            f"optimized: keep {keep} must be at least 256 (the bytes) and below the "
            f"{len(ordinary)} ordinary tokens of the old vocabulary"
        )
    ranks = {(a, b): rank for rank, (a, b) in enumerate(shape.spec["model"]["merges"])}
    kept = set(shape.bytes)
    order = {entry: number for number, entry in enumerate(ordinary)}
    for token in sorted(ordinary, key=lambda entry: (-used[entry], order[entry])):
        way = bpe.find_merge_path(token, ranks)
        # Characters that a sentencepiece vocabulary has no token for are not on the way: they come
        # from the bytes.
        if (
            token not in kept
            and way is not None
            and way <= order.keys()
            and len(kept | way) <= keep
        ):
            kept |= way
        if len(kept) == keep:
            break
    return kept


def _learnt(
    shape: Structure, words: dict[str, int], size: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """The alphabet (bytes first) and the merges of a new BPE vocabulary of `size` tokens."""
    known = shape.characters(words)
    alphabet = _alphabet(shape, known)
    found = bpe.train_merges(
        _sequences(shape, words, known),
        size - len(alphabet),
        taken=set(shape.specials) | set(alphabet),
    )
    _enough(len(found), size - len(alphabet), size, len(alphabet))
    return alphabet, found


def _cut(shape: Structure, kept: set[str]) -> Tokenizer:
    """The old tokenizer with no ordinary tokens but `kept`, ids without holes."""
    pairs = [
        (a, b)
        for a, b in shape.spec["model"]["merges"]
        if a in kept and b in kept and a + b in kept
    ]
    return _bpe(
        shape, [entry for entry in shape.entries if entry in kept or entry in shape.specials], pairs
    )


def _bpe(shape: Structure, entries: list[str], pairs: list[tuple[str, str]]) -> Tokenizer:
    model = {
        key: value for key, value in shape.spec["model"].items() if key not in ("vocab", "merges")
    }
    return shape.assemble(entries, {**model, "merges": [list(pair) for pair in pairs]})


def _alphabet(shape: Structure, known: set[str]) -> list[str]:
    return shape.bytes if shape.byte_level else [*shape.bytes, *sorted(known)]


def _sequences(
    shape: Structure, words: dict[str, int], known: set[str]
) -> dict[tuple[str, ...], int]:
    """Words as symbols to merge; sentencepiece words are cut where a character has no token."""
    if shape.byte_level:
        return {tuple(shape.spell(word)): count for word, count in words.items()}
    found: Counter[tuple[str, ...]] = Counter()
    for word, count in words.items():
        for part in "".join(c if c in known else "\0" for c in word).split("\0"):
            if part:
                found[tuple(part)] += count
    return found


def _enough(found: int, wanted: int, size: int, fixed: int) -> None:
    if wanted < 0:
        raise AdapterError(
            f"size {size} is too small: {fixed} byte and character tokens stand before the "
            "first learnt one"
        )
    if found < wanted:
        most = found + fixed
        raise AdapterError(
            f"the text gives only {most} of the {size} tokens wanted: lower `size` to {most} "
            "or less, or train on more text"
        )


def limited(texts: Iterable[str], characters: int) -> Iterator[str]:
    """Texts until `characters` have been read; the last one is cut there."""
    for text in texts:
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)


def build_tokenizer(
    base_folder: Path, out: Path, adapter: Adapter, params: Params, texts: Iterator[str]
) -> Path:
    """Make the tokenizer folder `out` with the vocabulary method `adapter` and return it.

    tokenizer.json, tokenizer_config.json (class PreTrainedTokenizerFast; beginning, end, padding
    and unknown tokens by content; the base's chat template) and special_tokens_map.json. What the
    method gives is checked (see `verify`). Raises CheckpointError for a base without
    tokenizer.json, AdapterError when the method raises or fails the check.
    """
    base = read_tokenizer(base_folder)
    try:
        made = adapter(Tokenizer.from_str(base.to_str()), texts, params)
    except LepBenchError:
        raise
    except Exception as error:  # running an adapter is one of the boundaries where any failure becomes a recorded one
        raise AdapterError(
            f"vocabulary adapter {adapter.name!r} ({adapter.source}) raised "
            f"{type(error).__name__}: {error}"
        ) from error
    where = f"vocabulary adapter {adapter.name!r} ({adapter.source})"
    if not isinstance(made, Tokenizer):
        raise AdapterError(
            f"{where} gave back {type(made).__name__}: a tokenizers.Tokenizer is expected"
        )
    spec = json.loads(made.to_str())
    spec["post_processor"] = patch_processor(
        spec["post_processor"], made.get_vocab(with_added_tokens=True)
    )
    made = Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
    names, config = _config(base_folder)
    with files.new_folder(out) as folder:
        # save() hides a full disk
        (folder / "tokenizer.json").write_text(made.to_str(pretty=True), encoding="utf-8")
        (folder / "tokenizer_config.json").write_bytes(_json(config))
        (folder / "special_tokens_map.json").write_bytes(_json(names))
        if (base_folder / TEMPLATE).is_file():
            (folder / TEMPLATE).write_bytes((base_folder / TEMPLATE).read_bytes())
        verify_tokenizer(folder, base, where)
    return out


def verify_tokenizer(folder: Path, base: Tokenizer, where: str) -> None:
    """Check a new tokenizer folder against the base's tokenizer; raises AdapterError, which begins
    with `where`.

    No holes in the ids; every special token of the base is there and special; Russian and English
    text comes back as with the base; transformers gives the ids that tokenizer.json gives (a class
    named in a config may rebuild the tokenizer).
    """
    from transformers import AutoTokenizer

    made = read_tokenizer(folder)
    ids = sorted(made.get_vocab(with_added_tokens=True).values())
    if ids != list(range(len(ids))):
        raise AdapterError(f"{where}: holes in the ids: {len(ids)} tokens, highest id {ids[-1]}")
    added = {token.content for token in made.get_added_tokens_decoder().values()}
    lost = [
        token.content
        for token in base.get_added_tokens_decoder().values()
        if token.content not in added
    ]
    if lost:
        raise AdapterError(
            f"{where}: {len(lost)} special tokens of the base are missing: {', '.join(lost[:4])}"
        )
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in PROBES:
        raw = made.encode(text).ids
        if loaded(text)["input_ids"] != raw:
            raise AdapterError(
                f"{where}: transformers ({type(loaded).__name__}) and tokenizer.json give "
                f"different ids for {text!r}"
            )
        plain = made.encode(text, add_special_tokens=False).ids
        expected = base.decode(base.encode(text, add_special_tokens=False).ids)
        if made.decode(plain) != expected:
            raise AdapterError(f"{where}: {text!r} comes back as {made.decode(plain)!r}")


def _config(base_folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """(special tokens by name, tokenizer_config.json) for a tokenizer beside the one in
    `base_folder`.
    """
    file = base_folder / "tokenizer_config.json"
    try:
        old = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{file} is no JSON: {error}") from error
    values = {name: old.get(name) for name in SPECIAL_NAMES}
    names = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in values.items()
        if value
    }
    kept = {
        key: old[key] for key in ("model_max_length", "padding_side", "chat_template") if key in old
    }
    # Not the base's class: classes named after a model rebuild parts of the tokenizer when they
    # load it.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "clean_up_tokenization_spaces": False,
        **kept,
    }
    return names, config


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def symbols_per_token(tokenizer: Tokenizer, texts: Iterable[str], limit: int = 500) -> float:
    """Characters per token over the first `limit` texts, special tokens not counted."""
    chosen = list(islice(texts, limit))
    return sum(map(len, chosen)) / sum(
        len(e.ids) for e in tokenizer.encode_batch(chosen, add_special_tokens=False)
    )
