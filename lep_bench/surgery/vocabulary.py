"""New vocabularies for a base's tokenizer (arXiv 2412.21140), and the tokenizer folder that holds
one.

The vocabulary adapters call `new_bpe`, `new_unigram`, `extended`, `optimized`, `union` and
`limited`. `build_tokenizer` runs an adapter and writes its result.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lep_bench import files
from lep_bench.errors import AdapterError, CheckpointError, LepBenchError
from lep_bench.plugin import Adapter, Params
from lep_bench.surgery.tokenizers import bpe, unigram
from lep_bench.surgery.tokenizers.loading import read_tokenizer
from lep_bench.surgery.tokenizers.structure import Structure, patch_processor

# Factor on the lowest log-probability, for byte and special tokens of a Unigram model. They must
# lose to every way of spelling their name as text ("<0x41>" is six characters).
UNLIKELY = 10.0
HEXADECIMAL = frozenset("<>x0123456789ABCDEF")
# Above this many entries a base gets the paper's sizes for LLaMa-3-8B, else those for Mistral-7B.
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
    """The `size` and `keep` that give the paper's vocabulary of a shipped method for a base like
    `base`. Empty for other methods.

    bpe, unigram: as many ordinary tokens as before. extended: 55,328 entries in all from Mistral's
    32,000, and 174,816 from LLaMa-3's 128,256. optimized: half of the old tokens, and as many new
    tokens per kept token as LLaMa-3 gets (114,504 entries in all). Unions: the size of the new
    vocabulary that is merged in.
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

    Splitting, byte tokens and special tokens stay unchanged. Raises AdapterError if the text gives
    fewer tokens.
    """
    structure = Structure.parse(base)
    alphabet, pairs = _train_bpe(structure, structure.words(texts), size)
    tokens = [*alphabet, *map("".join, pairs)]
    return _assemble_bpe(structure, [*structure.leading, *tokens, *structure.trailing], pairs)


def new_unigram(base: Tokenizer, texts: Iterable[str], size: int) -> Tokenizer:
    """A Unigram vocabulary of `size` ordinary tokens (byte tokens included) in place of the old
    one.

    Byte-level families get pieces of text that never split a letter, in byte-level spelling, and
    all 256 bytes, so that no text is unknown. Other families use byte fallback. Raises AdapterError
    if the text gives fewer tokens.
    """
    structure = Structure.parse(base)
    words = structure.words(texts)
    required = structure.characters(words) | (set() if structure.byte_level else set(HEXADECIMAL))
    bytes_ = structure.bytes
    room = size - 256 + sum(structure.spell(c) in bytes_ for c in required)
    if room < len(required):
        raise AdapterError(
            f"unigram: size {size} is too small: 256 bytes and {len(required)} characters of the "
            f"text need {256 + len(required)}"
        )
    pieces = {
        structure.spell(piece): score
        for piece, score in unigram.train_unigram(words, room, required).items()
    }
    _check_count(len(pieces), room, size, size - room)
    lowest_score = UNLIKELY * min(pieces.values())
    ordinary = [*bytes_, *(piece for piece in pieces if piece not in set(bytes_))]
    entries = [*structure.leading, *ordinary, *structure.trailing]
    scores = {entry: pieces.get(entry, lowest_score) for entry in entries}
    unknown = structure.spec["model"].get("unk_token")
    return structure.assemble(
        entries,
        {
            "type": "Unigram",
            "unk_id": entries.index(unknown) if unknown in entries else None,
            "byte_fallback": not structure.byte_level,
            "scores": scores,
        },
    )


def extended(base: Tokenizer, texts: Iterable[str], size: int) -> Tokenizer:
    """The old vocabulary with unchanged ids, and `size` new tokens after it.

    The new merges are trained over sequences of old tokens, come after all old merges, and never
    make an old token. So text without any new token keeps its ids exactly. Raises AdapterError if
    the text gives fewer tokens.
    """
    structure = Structure.parse(base)
    return _extend(structure, structure.old_words(texts), size)


def optimized(base: Tokenizer, texts: Iterable[str], size: int, keep: int) -> Tokenizer:
    """The `keep` old ordinary tokens that the text uses most, then `size` new ones as in
    `extended`.

    Byte tokens are always kept, and every token on the merge path of a kept token. Ids are
    renumbered without holes. Raises AdapterError if the old vocabulary has no more than `keep`
    ordinary tokens, or if the text gives too few new ones.
    """
    structure = Structure.parse(base)
    words = structure.old_words(texts)
    uses: Counter[str] = Counter()
    for word, count in words.items():
        for token in word:
            uses[token] += count
    reduced = _reduce(structure, _choose_most_used(structure, uses, keep))
    reduced_structure = Structure.parse(reduced)
    reduced_words = Counter[tuple[str, ...]]()
    for word, count in words.items():
        tokens = [token.value for token in reduced.model.tokenize("".join(word))]
        for run in reduced_structure.runs(tokens, [0] * len(tokens)):
            reduced_words[run] += count
    return _extend(reduced_structure, reduced_words, size)


def union(base: Tokenizer, texts: Iterable[str], size: int, keep: int | None = None) -> Tokenizer:
    """The paper's form of `extended`, or with `keep` of `optimized`: append those tokens and merges
    of a new BPE vocabulary of `size` tokens that the old vocabulary lacks.

    The new merges are not trained over old tokens. So no text encodes to some of the new tokens,
    and text without any new token may change its ids. The number of entries depends on how many
    tokens the two vocabularies share.
    """
    structure = Structure.parse(base)
    words = structure.words(texts)
    alphabet, new_pairs = _train_bpe(structure, words, size)
    if keep is not None:
        uses: Counter[str] = Counter()
        for word, count in words.items():
            for token in base.model.tokenize(structure.spell(word)):
                uses[token.value] += count
        structure = Structure.parse(_reduce(structure, _choose_most_used(structure, uses, keep)))
    pairs = [(a, b) for a, b in structure.spec["model"]["merges"]]
    old_entries, old_pairs = set(structure.entries), set(pairs)
    new = [token for token in (*alphabet, *map("".join, new_pairs)) if token not in old_entries]
    return _assemble_bpe(
        structure,
        [*structure.entries, *new],
        [*pairs, *(pair for pair in new_pairs if pair not in old_pairs)],
    )


def _extend(
    structure: Structure, words: dict[tuple[str, ...], int] | Counter[tuple[str, ...]], size: int
) -> Tokenizer:
    pairs = bpe.train_merges(words, size, forbidden=set(structure.entries))
    _check_count(len(pairs), size, size, 0)
    return _assemble_bpe(
        structure,
        [*structure.entries, *map("".join, pairs)],
        [*((a, b) for a, b in structure.spec["model"]["merges"]), *pairs],
    )


def _choose_most_used(structure: Structure, uses: Counter[str], keep: int) -> set[str]:
    ordinary = structure.ordinary
    if not 256 <= keep < len(ordinary):
        raise AdapterError(
            f"optimized: keep {keep} must be at least 256 (the bytes) and below the "
            f"{len(ordinary)} ordinary tokens of the old vocabulary"
        )
    ranks = {(a, b): rank for rank, (a, b) in enumerate(structure.spec["model"]["merges"])}
    kept = set(structure.bytes)
    order = {entry: number for number, entry in enumerate(ordinary)}
    for token in sorted(ordinary, key=lambda entry: (-uses[entry], order[entry])):
        path = bpe.find_merge_path(token, ranks)
        # Characters without a token are spelled in bytes, so no merge path goes through them.
        if (
            token not in kept
            and path is not None
            and path <= order.keys()
            and len(kept | path) <= keep
        ):
            kept |= path
        if len(kept) == keep:
            break
    return kept


def _train_bpe(
    structure: Structure, words: dict[str, int], size: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """The alphabet (bytes first) and the merges of a new BPE vocabulary of `size` tokens."""
    characters = structure.characters(words)
    alphabet = structure.bytes if structure.byte_level else [*structure.bytes, *sorted(characters)]
    pairs = bpe.train_merges(
        _split_words(structure, words, characters),
        size - len(alphabet),
        forbidden=set(structure.specials) | set(alphabet),
    )
    _check_count(len(pairs), size - len(alphabet), size, len(alphabet))
    return alphabet, pairs


def _reduce(structure: Structure, kept: set[str]) -> Tokenizer:
    """The old tokenizer with only `kept` as its ordinary tokens, and ids without holes."""
    pairs = [
        (a, b)
        for a, b in structure.spec["model"]["merges"]
        if a in kept and b in kept and a + b in kept
    ]
    entries = [entry for entry in structure.entries if entry in kept or entry in structure.specials]
    return _assemble_bpe(structure, entries, pairs)


def _assemble_bpe(
    structure: Structure, entries: list[str], pairs: list[tuple[str, str]]
) -> Tokenizer:
    model = {
        key: value
        for key, value in structure.spec["model"].items()
        if key not in ("vocab", "merges")
    }
    return structure.assemble(entries, {**model, "merges": [list(pair) for pair in pairs]})


def _split_words(
    structure: Structure, words: dict[str, int], characters: set[str]
) -> dict[tuple[str, ...], int]:
    """Words as symbols to merge. Sentencepiece words are split at characters without a token."""
    if structure.byte_level:
        return {tuple(structure.spell(word)): count for word, count in words.items()}
    sequences: Counter[tuple[str, ...]] = Counter()
    for word, count in words.items():
        for part in "".join(c if c in characters else "\0" for c in word).split("\0"):
            if part:
                sequences[tuple(part)] += count
    return sequences


def _check_count(trained: int, required: int, size: int, fixed: int) -> None:
    """Raise AdapterError unless training gave `required` tokens besides the `fixed` ones."""
    if required < 0:
        raise AdapterError(
            f"size {size} is too small: the {fixed} byte and character tokens alone need more"
        )
    if trained < required:
        total = trained + fixed
        raise AdapterError(
            f"the text gives only {total} of the {size} requested tokens: lower `size` to "
            f"{total} or less, or train on more text"
        )


def limited(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The first `characters` characters of `texts`, as texts; the last text may be cut short."""
    for text in texts:
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)


def build_tokenizer(
    base_folder: Path, out: Path, adapter: Adapter, params: Params, texts: Iterator[str]
) -> Path:
    """Run the vocabulary method `adapter`, write its result as the tokenizer folder `out`, and
    return `out`.

    The folder gets tokenizer.json, tokenizer_config.json (class PreTrainedTokenizerFast, the base's
    BOS, EOS, padding and unknown tokens and its chat template) and special_tokens_map.json. The
    result is checked (see `verify_tokenizer`). Raises CheckpointError for a base without
    tokenizer.json, AdapterError if the method raises or its result fails the check.
    """
    base = read_tokenizer(base_folder)
    try:
        tokenizer = adapter(Tokenizer.from_str(base.to_str()), texts, params)
    except LepBenchError:
        raise
    except Exception as error:  # somebody else's code: it may raise anything
        raise AdapterError(
            f"vocabulary adapter {adapter.name!r} ({adapter.source}) raised "
            f"{type(error).__name__}: {error}"
        ) from error
    where = f"vocabulary adapter {adapter.name!r} ({adapter.source})"
    if not isinstance(tokenizer, Tokenizer):
        raise AdapterError(
            f"{where} returned {type(tokenizer).__name__}: a tokenizers.Tokenizer is expected"
        )
    spec = json.loads(tokenizer.to_str())
    spec["post_processor"] = patch_processor(
        spec["post_processor"], tokenizer.get_vocab(with_added_tokens=True)
    )
    tokenizer = Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
    names, config = _make_config(base_folder)
    with files.new_folder(out) as folder:
        # Not Tokenizer.save(), which hides a full disk.
        (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        files.write_json(folder / "tokenizer_config.json", config)
        files.write_json(folder / "special_tokens_map.json", names)
        if (base_folder / TEMPLATE).is_file():
            (folder / TEMPLATE).write_bytes((base_folder / TEMPLATE).read_bytes())
        verify_tokenizer(folder, base, where)
    return out


def verify_tokenizer(folder: Path, base: Tokenizer, where: str) -> None:
    """Raise an AdapterError that begins with `where` unless a new tokenizer folder is sound.

    Its ids must have no holes. Every special token of the base must be an added token. Russian and
    English text must decode to the same text as with the base. transformers must give the same ids
    as tokenizer.json: a class named in a config may rebuild the tokenizer.
    """
    from transformers import AutoTokenizer

    tokenizer = read_tokenizer(folder)
    ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
    if ids != list(range(len(ids))):
        raise AdapterError(f"{where}: holes in the ids: {len(ids)} tokens, highest id {ids[-1]}")
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    missing = [
        token.content
        for token in base.get_added_tokens_decoder().values()
        if token.content not in added
    ]
    if missing:
        raise AdapterError(
            f"{where}: {len(missing)} special tokens of the base are missing: "
            f"{', '.join(missing[:4])}"
        )
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in PROBES:
        if loaded(text)["input_ids"] != tokenizer.encode(text).ids:
            raise AdapterError(
                f"{where}: transformers ({type(loaded).__name__}) and tokenizer.json give "
                f"different ids for {text!r}"
            )
        decoded = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)
        expected = base.decode(base.encode(text, add_special_tokens=False).ids)
        if decoded != expected:
            raise AdapterError(f"{where}: {text!r} comes back as {decoded!r}")


def _make_config(base_folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """(special tokens by name, tokenizer_config.json) of a new tokenizer for the base in
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
    # Not the base's class: a class named after a model rebuilds parts of the tokenizer on loading.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "clean_up_tokenization_spaces": False,
        **kept,
    }
    return names, config
