"""Checks of the tokenizer: ids, spelling, merges, reachability, special tokens, and whether
transformers loads the same tokenizer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import tokenizers

from lep_bench.surgery.check.findings import Finding, InspectedModel, list_some
from lep_bench.surgery.tokenizers.assemble import NAMED, TOKENIZER_CONFIG, content_of
from lep_bench.surgery.tokenizers.loading import PROBES
from lep_bench.surgery.tokenizers.tokens import BYTE_OF, Tokens, list_components

# Two names of one class: transformers 5 writes the new one.
CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
CONTEXTS = ("{}", "a{}", "{}a", "1{}", " {}", "{} a", "\n{}")


def check_tokenizer(model: InspectedModel) -> Iterator[Finding]:
    """Yield the findings about the tokenizer: first about tokenizer.json itself, then about the
    libraries that read it.
    """
    yield from _check_ids(model)
    yield from _check_merges(model)
    yield from _check_specials(model)
    yield from _check_files(model)
    where = str(model.folder / "tokenizer.json")
    if isinstance(model.raw, str):
        yield Finding(
            "error",
            f"the tokenizers library refuses it: {model.raw}",
            where,
            "copy the tokenizer as it was published",
        )
        return
    level, unreachable = model.rate_flaws(
        lambda tokens: {
            (tokens.bytes_of(n) or b"").decode("utf-8", "backslashreplace")
            for n in find_unreachable(tokens)
        }
    )
    if unreachable:
        what = (
            f"{len(unreachable)} ordinary tokens occur in no text's encoding with "
            "ignore_merges off, "
            f"such as {list_some(unreachable)}"
        )
        yield Finding(
            level,
            what,
            where,
            "programs that only follow the merges never use them: train merges that make them",
        )
    yield from _check_loading(model, model.raw)


def find_unreachable(tokens: Tokens) -> list[int]:
    """Ordinary ids that occur in no text's encoding with `ignore_merges` off.

    A text can encode to a token only under two conditions. The token's spelling must encode to that
    one token, because the same merges or scores decide inside a text. And normaliser and
    pre-tokenizer must not split it, alone or beside other characters. For parts of characters only
    the first condition is tested, because the characters around them are unknown. Byte tokens are
    not tested: they spell what has no token.
    """
    encoder = tokens.encoder()
    if tokens.spec["model"]["type"] == "BPE":
        encoder.model.ignore_merges = False
    normalizer = _remove_prefix(tokens.spec.get("normalizer"))
    if normalizer:
        empty = {
            "model": {"type": "BPE", "vocab": {}, "merges": []},
            "normalizer": normalizer,
            "added_tokens": [],
        }
        encoder.normalizer = tokenizers.Tokenizer.from_str(json.dumps(empty)).normalizer
    values = {
        number: value
        for number in range(tokens.size)
        if (value := tokens.bytes_of(number)) is not None
    }
    tested = [
        n
        for n, value in values.items()
        if not tokens.is_byte_token(n) and not (tokens.byte_level and len(value) == 1)
    ]
    texts = {
        n: text
        for n in tested
        if "\ufffd" not in (text := values[n].decode("utf-8", errors="replace"))
    }
    unreached = list(texts)
    for context in CONTEXTS:
        if unreached:
            encodings = _encode_all(encoder, (context.format(texts[n]) for n in unreached))
            unreached = [n for n, ids in zip(unreached, encodings, strict=True) if n not in ids]
    partial = [n for n in tested if n not in texts]
    if partial:
        inner = tokens.encoder(pieces=True)
        if tokens.spec["model"]["type"] == "BPE":
            inner.model.ignore_merges = False
        unreached += [
            n
            for n, ids in zip(
                partial,
                _encode_all(inner, (tokens.pieces[n] or "" for n in partial)),
                strict=True,
            )
            if ids != [n]
        ]
    return sorted(unreached)


def _encode_all(encoder: tokenizers.Tokenizer, texts: Iterable[str]) -> Iterator[list[int]]:
    """Ids of each text, encoded in parts: the encodings of 170,000 texts take 2 GB."""
    texts = iter(texts)
    while part := list(islice(texts, 8192)):
        yield from (
            encoding.ids for encoding in encoder.encode_batch_fast(part, add_special_tokens=False)
        )


def _check_ids(model: InspectedModel) -> Iterator[Finding]:
    where = str(model.folder / "tokenizer.json")
    level, holes = model.rate_flaws(lambda t: {str(number) for number in t.holes})
    if holes:
        what = (
            f"{len(holes)} ids below the highest have no token, the first is {min(map(int, holes))}"
        )
        yield Finding(level, what, where, "number the tokens without gaps")
    level, misspelt = model.rate_flaws(_find_misspelt)
    if misspelt:
        what = (
            f"{len(misspelt)} ordinary tokens are not spelled in byte-level characters: "
            f"{list_some(misspelt)}"
        )
        yield Finding(
            level,
            what,
            where,
            "no text encodes to them: spell their bytes as the byte-level pre-tokenizer does",
        )
    level, missing = model.rate_flaws(_find_missing_bytes)
    if missing:
        what = f"{len(missing)} of 256 bytes have no token: {list_some(missing)}"
        yield Finding(
            level, what, where, "texts with these bytes come back damaged: add the byte tokens"
        )


def _find_misspelt(tokens: Tokens) -> set[str]:
    if not tokens.byte_level:
        return set()
    opaque = set(tokens.specials.values())
    return {
        piece
        for n, piece in enumerate(tokens.pieces)
        if piece is not None and n not in opaque and not BYTE_OF.keys() >= set(piece)
    }


def _find_missing_bytes(tokens: Tokens) -> set[str]:
    if tokens.byte_level:
        return {f"0x{byte:02X}" for byte in range(256) if tokens.find(bytes([byte])) is None}
    return (
        {f"0x{byte:02X}" for byte in range(256) if byte not in tokens.byte_tokens}
        if tokens.kind.endswith("+bytes")
        else set()
    )


def _check_merges(model: InspectedModel) -> Iterator[Finding]:
    where, bpe = str(model.folder / "tokenizer.json"), model.tokens.spec["model"]
    if bpe["type"] != "BPE":
        return
    vocab, prefix = bpe["vocab"], bpe.get("continuing_subword_prefix") or ""
    pairs = [
        tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge)
        for merge in bpe.get("merges") or ()
    ]
    unknown = [
        pair
        for pair in pairs
        if not (
            pair[0] in vocab
            and pair[1] in vocab
            and pair[0] + pair[1].removeprefix(prefix) in vocab
        )
    ]
    if unknown:
        what = (
            f"{len(unknown)} merges use or make tokens that the vocabulary lacks, the first is "
            f"{' + '.join(unknown[0])}"
        )
        yield Finding(
            "error",
            what,
            where,
            "the tokenizer cannot be loaded: use merges and vocabulary of one tokenizer",
        )
    twice = [pair for pair, count in Counter(pairs).items() if count > 1]
    if twice:
        what = f"{len(twice)} merges are listed twice, the first is {' + '.join(twice[0])}"
        yield Finding(
            model.strict,
            what,
            where,
            "libraries disagree on which rank counts: keep the first",
        )


def _check_specials(model: InspectedModel) -> Iterator[Finding]:
    id_of, where = model.id_of, str(model.folder / "tokenizer.json")
    added = model.tokens.spec.get("added_tokens") or []
    for field in ("id", "content"):
        shared = [
            value for value, count in Counter(token[field] for token in added).items() if count > 1
        ]
        if shared:
            what = f"{len(shared)} added tokens share their {field}: {list_some(shared)}"
            yield Finding(
                "error", what, where, "every special token needs an id and a content of its own"
            )
    vocab = model.tokens.spec["model"]["vocab"]
    moved = [
        t["content"]
        for t in added
        if isinstance(vocab, dict) and vocab.get(t["content"], t["id"]) != t["id"]
    ]
    if moved:
        yield Finding(
            "error",
            f"{len(moved)} added tokens have another id in the vocabulary: {list_some(moved)}",
            where,
            "give each of them one id",
        )
    for part in list_components(model.tokens.spec.get("post_processor")):
        tokens = (
            (part.get("special_tokens") or {}).values()
            if part.get("type") == "TemplateProcessing"
            else ()
        )
        pairs = [
            pair for token in tokens for pair in zip(token["tokens"], token["ids"], strict=True)
        ]
        pairs += [tuple(part[key]) for key in ("sep", "cls") if isinstance(part.get(key), list)]
        for content, number in pairs:
            if id_of.get(content) != number:
                what = (
                    f"the post-processor gives {content!r} the id {number}, the vocabulary "
                    f"{id_of.get(content)}"
                )
                yield Finding(
                    "error", what, where, "patch the ids of the post-processor by content"
                )
    for field in NAMED:
        content = content_of(model.tokenizer_config.get(field))
        if content is not None and content not in id_of:
            how = "loading would append it beyond the rows: add the token or remove the field"
            yield Finding(
                "error", f"{field} {content!r} of {TOKENIZER_CONFIG} is no token of it", where, how
            )


def _check_files(model: InspectedModel) -> Iterator[Finding]:
    name = str(model.tokenizer_config.get("tokenizer_class", ""))
    if model.is_ours and name not in CLASSES:
        how = "write PreTrainedTokenizerFast: other classes rebuild the tokenizer"
        yield Finding(
            "error",
            f"tokenizer_class is {name or 'missing'}",
            str(model.folder / TOKENIZER_CONFIG),
            how,
        )
    elif "unigram" in model.tokens.kind and "Llama" in name:
        what = (
            f"a Unigram tokenizer that says {name}: transformers 5 makes BPE of it beside a "
            "config.json of type llama"
        )
        yield Finding(
            "warning",
            what,
            str(model.folder / TOKENIZER_CONFIG),
            "set tokenizer_class to PreTrainedTokenizerFast",
        )
    if model.is_ours and (model.folder / "tokenizer.model").is_file():
        what = "a tokenizer.model stands beside the new tokenizer.json"
        yield Finding(
            "error",
            what,
            str(model.folder),
            "it describes another vocabulary, and some programs prefer it: remove it",
        )


def _check_loading(model: InspectedModel, raw: tokenizers.Tokenizer) -> Iterator[Finding]:
    """transformers must load the tokenizer that tokenizer.json holds (`raw`). A class named after a
    model rebuilds it without an error.
    """
    loaded, where = model.loaded, str(model.folder / TOKENIZER_CONFIG)
    if isinstance(loaded, str):
        yield Finding(
            model.strict,
            f"transformers cannot load the tokenizer: {loaded}",
            where,
            "correct what the message names",
        )
        return
    kind, fields = (
        type(loaded).__name__,
        {content_of(model.tokenizer_config.get(field)) for field in NAMED},
    )
    differing = {
        content: number
        for content, number in loaded.get_vocab().items()
        if model.id_of.get(content) != number and content not in fields
    }
    if differing:
        first = min(differing, key=differing.__getitem__)
        what = (
            f"transformers ({kind}) has {len(differing)} tokens that tokenizer.json lacks or "
            f"numbers differently: {first!r} ({differing[first]}), ..."
        )
        yield Finding(
            "error",
            what,
            where,
            "patch added_tokens_decoder and the lists of special tokens by content",
        )
    plain = [
        (_encode(loaded, text, False), raw.encode(text, add_special_tokens=False).ids)
        for text in PROBES
    ]
    wrong = [text for text, (ids, raw_ids) in zip(PROBES, plain, strict=True) if ids != raw_ids]
    if wrong:
        counts = [sum(len(pair[side]) for pair in plain) for side in (0, 1)]
        what = (
            f"transformers ({kind}) gives other ids than tokenizer.json: {counts[0]} tokens "
            f"instead of {counts[1]}, first for {wrong[0][:40]!r}"
        )
        # The first two probes are prose. On the others some classes differ in single characters.
        everywhere = not set(wrong).isdisjoint(PROBES[:2])
        yield Finding(
            "error" if everywhere else model.strict,
            what,
            where,
            "set tokenizer_class to PreTrainedTokenizerFast",
        )
    frame = model.specials_in(_encode(loaded, "", True))
    raw_frame = model.specials_in(raw.encode("").ids)
    if frame != raw_frame and not wrong:
        what = (
            f"transformers ({kind}) sets {_join(frame)} around a text, tokenizer.json "
            f"{_join(raw_frame)}"
        )
        yield Finding(
            model.strict,
            what,
            where,
            "engines that read tokenizer.json alone differ: make the post-processor set the "
            "same tokens",
        )
    yield from _check_frame(model, frame)


def _check_frame(model: InspectedModel, frame: list[str]) -> Iterator[Finding]:
    """Check `frame`, the special tokens around a text.

    A rendered chat that is encoded like plain text may get a second BOS. That is no flaw: it
    happens with LLaMa-3's template too, and chats are encoded without the post-processor.
    """
    where = str(model.folder / "tokenizer.json")
    chat = (
        []
        if model.chat is None or isinstance(model.chat, str)
        else model.specials_in(model.chat.ids[:2])
    )
    for name, begin in (("text", frame), ("chat", chat)):
        if len(begin) > 1 and begin[0] == begin[1]:
            how = (
                "no model was trained with two: let either the template or the post-processor add "
                "it"
            )
            yield Finding("error", f"every {name} begins with {begin[0]!r} twice", where, how)
    if model.is_ours and model.body and not isinstance(model.body.loaded, str):
        body_frame = model.body.specials_in(_encode(model.body.loaded, "", True))
        if body_frame != frame:
            what = (
                f"{_join(frame)} is set around a text, {_join(body_frame)} in its body "
                f"{model.body.folder}"
            )
            yield Finding(
                "error", what, where, "copy the body's post-processor and patch its ids by content"
            )


def _encode(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _join(contents: Sequence[str]) -> str:
    return " ".join(contents) or "nothing"


def _remove_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """The normaliser without the prefix that it adds to a text."""
    if part is None or part.get("type") == "Prepend":
        return None
    if "normalizers" in part:
        return {
            **part,
            "normalizers": [
                kept for inner in part["normalizers"] if (kept := _remove_prefix(inner))
            ],
        }
    return part
