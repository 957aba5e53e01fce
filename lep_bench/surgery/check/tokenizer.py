"""What `check` looks at in the tokenizer: ids, spelling, merges, reachability, special tokens, and
what transformers makes of it.
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

# one class: transformers 5 writes its new name
CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
CONTEXTS = ("{}", "a{}", "{}a", "1{}", " {}", "{} a", "\n{}")


def check_tokenizer(model: InspectedModel) -> Iterator[Finding]:
    """What tokenizer.json says first; what libraries make of it only when they can read it."""
    yield from _ids(model)
    yield from _merges(model)
    yield from _specials(model)
    yield from _files(model)
    where = str(model.folder / "tokenizer.json")
    if isinstance(model.raw, str):
        yield Finding(
            "error",
            f"the tokenizers library refuses it: {model.raw}",
            where,
            "take the tokenizer as it was published",
        )
        return
    level, cut = model.flaw(
        lambda tokens: {
            (tokens.bytes_of(n) or b"").decode("utf-8", "backslashreplace")
            for n in find_unreachable(tokens)
        }
    )
    if cut:
        what = (
            f"{len(cut)} ordinary tokens occur in no text's encoding with ignore_merges off, "
            f"such as {list_some(cut)}"
        )
        yield Finding(
            level,
            what,
            where,
            "programs that follow the merges alone never use them: train merges that end in them",
        )
    yield from _as_loaded(model)


def find_unreachable(tokens: Tokens) -> list[int]:
    """Ordinary ids that occur in no text's encoding with `ignore_merges` off.

    A token can come out of a text only if its own spelling comes out as that one token (inside a
    text the same merges or scores decide), and if normaliser and pre-tokenizer leave it whole,
    alone or beside other characters. Of halves of characters only the first is asked: which
    characters they end up in is open. Byte tokens are not asked: they stand in for what has no
    token.
    """
    encoder = tokens.encoder()
    if tokens.spec["model"]["type"] == "BPE":
        encoder.model.ignore_merges = False
    normalizer = _without_prefix(tokens.spec.get("normalizer"))
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
    asked = [
        n
        for n, value in values.items()
        if not tokens.is_byte_token(n) and not (tokens.byte_level and len(value) == 1)
    ]
    texts = {
        n: text
        for n in asked
        if "\ufffd" not in (text := values[n].decode("utf-8", errors="replace"))
    }
    left = list(texts)
    for context in CONTEXTS:
        if left:
            found = _encoded(encoder, (context.format(texts[n]) for n in left))
            left = [n for n, ids in zip(left, found, strict=True) if n not in ids]
    broken = [n for n in asked if n not in texts]
    if broken:
        inner = tokens.encoder(pieces=True)
        if tokens.spec["model"]["type"] == "BPE":
            inner.model.ignore_merges = False
        left += [
            n
            for n, ids in zip(
                broken, _encoded(inner, (tokens.pieces[n] or "" for n in broken)), strict=True
            )
            if ids != [n]
        ]
    return sorted(left)


def _encoded(encoder: tokenizers.Tokenizer, texts: Iterable[str]) -> Iterator[list[int]]:
    """Ids of each text. The encodings of 170,000 at once take 2 GB."""
    texts = iter(texts)
    while part := list(islice(texts, 8192)):
        yield from (
            encoding.ids for encoding in encoder.encode_batch_fast(part, add_special_tokens=False)
        )


def _ids(model: InspectedModel) -> Iterator[Finding]:
    where = str(model.folder / "tokenizer.json")
    level, holes = model.flaw(lambda t: {str(number) for number in t.holes})
    if holes:
        what = (
            f"{len(holes)} ids below the highest have no token, the first is {min(map(int, holes))}"
        )
        yield Finding(level, what, where, "number the tokens without gaps")
    level, strange = model.flaw(_misspelt)
    if strange:
        what = (
            f"{len(strange)} ordinary tokens are not spelled in byte-level characters: "
            f"{list_some(strange)}"
        )
        yield Finding(
            level,
            what,
            where,
            "no text gives them: spell their bytes as the byte-level pre-tokenizer does",
        )
    level, missing = model.flaw(_missing_bytes)
    if missing:
        what = f"{len(missing)} of 256 bytes have no token: {list_some(missing)}"
        yield Finding(
            level, what, where, "texts with these bytes come back damaged: add the byte tokens"
        )


def _misspelt(tokens: Tokens) -> set[str]:
    if not tokens.byte_level:
        return set()
    opaque = set(tokens.specials.values())
    return {
        piece
        for n, piece in enumerate(tokens.pieces)
        if piece is not None and n not in opaque and not BYTE_OF.keys() >= set(piece)
    }


def _missing_bytes(tokens: Tokens) -> set[str]:
    if tokens.byte_level:
        return {f"0x{byte:02X}" for byte in range(256) if tokens.find(bytes([byte])) is None}
    return (
        {f"0x{byte:02X}" for byte in range(256) if byte not in tokens.byte_tokens}
        if tokens.kind.endswith("+bytes")
        else set()
    )


def _merges(model: InspectedModel) -> Iterator[Finding]:
    where, part = str(model.folder / "tokenizer.json"), model.tokens.spec["model"]
    if part["type"] != "BPE":
        return
    vocab, prefix = part["vocab"], part.get("continuing_subword_prefix") or ""
    pairs = [
        tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge)
        for merge in part.get("merges") or ()
    ]
    loose = [
        pair
        for pair in pairs
        if not (
            pair[0] in vocab
            and pair[1] in vocab
            and pair[0] + pair[1].removeprefix(prefix) in vocab
        )
    ]
    if loose:
        what = (
            f"{len(loose)} merges use or make tokens that the vocabulary lacks, the first is "
            f"{' + '.join(loose[0])}"
        )
        yield Finding(
            "error",
            what,
            where,
            "the tokenizer cannot be loaded: take merges and vocabulary of one tokenizer",
        )
    twice = [pair for pair, count in Counter(pairs).items() if count > 1]
    if twice:
        what = f"{len(twice)} merges are listed twice, the first is {' + '.join(twice[0])}"
        yield Finding(
            model.strict,
            what,
            where,
            "libraries disagree whether the first or the last rank counts: keep the first",
        )


def _specials(model: InspectedModel) -> Iterator[Finding]:
    known, where = model.known, str(model.folder / "tokenizer.json")
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
            if known.get(content) != number:
                what = (
                    f"the post-processor gives {content!r} the id {number}, the vocabulary "
                    f"{known.get(content)}"
                )
                yield Finding(
                    "error", what, where, "patch the ids of the post-processor by content"
                )
    for field in NAMED:
        content = content_of(model.tokenizer_config.get(field))
        if content is not None and content not in known:
            how = "loading would append it beyond the rows: add the token or remove the field"
            yield Finding(
                "error", f"{field} {content!r} of {TOKENIZER_CONFIG} is no token of it", where, how
            )


def _files(model: InspectedModel) -> Iterator[Finding]:
    name = str(model.tokenizer_config.get("tokenizer_class", ""))
    if model.made and name not in CLASSES:
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
    if model.made and (model.folder / "tokenizer.model").is_file():
        what = "a tokenizer.model stands beside the new tokenizer.json"
        yield Finding(
            "error",
            what,
            str(model.folder),
            "it describes another vocabulary, and some programs prefer it: remove it",
        )


def _as_loaded(model: InspectedModel) -> Iterator[Finding]:
    """What transformers makes of the folder: a class named after a model rebuilds the tokenizer,
    without an error.
    """
    loaded, where = model.loaded, str(model.folder / TOKENIZER_CONFIG)
    if isinstance(loaded, str):
        yield Finding(
            model.strict,
            f"transformers cannot load the tokenizer: {loaded}",
            where,
            "mend what it names",
        )
        return
    kind, fields = (
        type(loaded).__name__,
        {content_of(model.tokenizer_config.get(field)) for field in NAMED},
    )
    unlike = {
        content: number
        for content, number in loaded.get_vocab().items()
        if model.known.get(content) != number and content not in fields
    }
    if unlike:
        first = min(unlike, key=unlike.__getitem__)
        what = (
            f"transformers ({kind}) has {len(unlike)} tokens that tokenizer.json lacks or "
            f"numbers otherwise: {first!r} ({unlike[first]}), ..."
        )
        yield Finding(
            "error",
            what,
            where,
            "patch added_tokens_decoder and the lists of special tokens by content",
        )
    plain = [
        (_encode(loaded, text, False), model.raw.encode(text, add_special_tokens=False).ids)
        for text in PROBES
    ]
    wrong = [text for text, (theirs, own) in zip(PROBES, plain, strict=True) if theirs != own]
    if wrong:
        counts = [sum(len(pair[side]) for pair in plain) for side in (0, 1)]
        what = (
            f"transformers ({kind}) gives other ids than tokenizer.json: {counts[0]} tokens "
            f"instead of {counts[1]}, first for {wrong[0][:40]!r}"
        )
        # prose; the others are known to differ between classes in single signs
        everywhere = not set(wrong).isdisjoint(PROBES[:2])
        yield Finding(
            "error" if everywhere else model.strict,
            what,
            where,
            "set tokenizer_class to PreTrainedTokenizerFast",
        )
    begin = model.specials_in(_encode(loaded, "", True))
    own = model.specials_in(model.raw.encode("").ids)
    if begin != own and not wrong:
        what = (
            f"transformers ({kind}) sets {_listed(begin)} around a text, tokenizer.json "
            f"{_listed(own)}"
        )
        yield Finding(
            model.strict,
            what,
            where,
            "engines that read tokenizer.json alone differ: make the post-processor say the same",
        )
    yield from _beginnings(model, begin)


def _beginnings(model: InspectedModel, around: list[str]) -> Iterator[Finding]:
    """Special tokens around a text. That a rendered chat would get a second BOS if it were encoded
    like plain text is no flaw: LLaMa-3's own template does so, and chats are encoded without the
    post-processor's tokens."""
    where = str(model.folder / "tokenizer.json")
    chat = (
        []
        if model.chat is None or isinstance(model.chat, str)
        else model.specials_in(model.chat.ids[:2])
    )
    for name, begin in (("text", around), ("chat", chat)):
        if len(begin) > 1 and begin[0] == begin[1]:
            how = "no model was trained so: let the template or the post-processor add it once"
            yield Finding("error", f"every {name} begins with {begin[0]!r} twice", where, how)
    if model.made and model.body and not isinstance(model.body.loaded, str):
        theirs = model.body.specials_in(_encode(model.body.loaded, "", True))
        if theirs != around:
            what = (
                f"{_listed(around)} is set around a text, {_listed(theirs)} in its body "
                f"{model.body.folder}"
            )
            yield Finding(
                "error", what, where, "take over the body's post-processor, ids patched by content"
            )


def _encode(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _listed(contents: Sequence[str]) -> str:
    return " ".join(contents) or "nothing"


def _without_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """The normaliser without what it puts before a text."""
    if part is None or part.get("type") == "Prepend":
        return None
    if "normalizers" in part:
        return {
            **part,
            "normalizers": [
                inner for one in part["normalizers"] if (inner := _without_prefix(one))
            ],
        }
    return part
