"""The files beside an adapted model's weights: the new tokenizer in the manners of the body it will
speak through.

Tokens come from the new tokenizer; added tokens, chat template, post-processor, configs and
generation settings from the body's model. Ids are patched by FIELD and by the token's content,
never by value: `use_cache: true` is also 1.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from lep_bench.errors import CheckpointError
from lep_bench.surgery.tokenizers.tokens import Tokens, list_components
from lep_bench.surgery.weights.patch import CONFIG, GENERATION_CONFIG, encode_json, padded_size

TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Fields that say how the tokenizer behaves. Everything else describes a class or files that are not
# used any more: add_prefix_space, legacy or sp_model_kwargs would make transformers rebuild the
# pre-tokeniser of a fast tokenizer.
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_BEHAVIOUR = (
    *NAMED,
    "model_max_length",
    "padding_side",
    "truncation_side",
    "clean_up_tokenization_spaces",
    "chat_template",
    "model_input_names",
)
_LISTS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class Assembled:
    """files: name -> bytes. size: real rows, without padding. body_rows: (new id, the body's own
    id) of every special and added token that the body's tokenizer knows. appended: how many of them
    the new tokenizer lacked."""

    files: dict[str, bytes]
    size: int
    body_rows: tuple[tuple[int, int], ...]
    appended: int
    notes: tuple[str, ...]


def assemble_tokenizer(new: Tokens, body: Tokens) -> Assembled:
    """The files for the tokenizer `new` in front of the model whose folder and tokenizer are
    `body`'s.

    Raises CheckpointError where ids do not come out as planned or a named token has no place.
    """
    spec = copy.deepcopy(new.spec)
    ids, appended = _add_tokens(spec, new, body)
    size = max([new.size - 1, *ids.values()]) + 1
    known = {piece: number for number, piece in enumerate(new.pieces) if piece is not None} | ids
    config = _read(body.folder / TOKENIZER_CONFIG)
    spec["post_processor"] = _post_processor(body, config, known)
    spec["truncation"] = spec["padding"] = None
    files = {"tokenizer.json": encode_json(spec)}
    _verify(files["tokenizer.json"], ids, size, new.folder)
    files[TOKENIZER_CONFIG] = encode_json(
        _tokenizer_config(config, _read(new.folder / TOKENIZER_CONFIG), spec, known)
    )
    template = body.folder / TEMPLATE
    if template.is_file():
        files[TEMPLATE] = template.read_bytes()
    notes: list[str] = []
    move = _mover(new, body, ids, notes)
    model = _patched_ids(_read(body.folder / CONFIG), move)
    model["vocab_size"] = padded_size(size)
    files[CONFIG] = encode_json(model)
    generation = _read(body.folder / GENERATION_CONFIG)
    if generation:
        files[GENERATION_CONFIG] = encode_json(_patched_ids(generation, move))
    rows = tuple((ids[content], number) for content, number in body.specials.items())
    return Assembled(files, size, rows, appended, tuple(dict.fromkeys(notes)))


def content_of(token: Any) -> str | None:
    """The content of a token as configs write it: a string, or {"content": ...}."""
    return token.get("content") if isinstance(token, dict) else token


def _add_tokens(spec: dict[str, Any], new: Tokens, body: Tokens) -> tuple[dict[str, int], int]:
    """Give `spec` every special and added token of `body`; returns their new ids and how many were
    appended.
    """
    entries = {token["content"]: token for token in spec.get("added_tokens") or []}
    flags = {token["content"]: token for token in body.spec.get("added_tokens") or []}
    placed = {piece: number for number, piece in enumerate(new.pieces) if piece is not None}
    ids: dict[str, int] = {}
    following = new.size
    for content in body.specials:
        if content not in placed:
            placed[content] = following
            following += 1
        ids[content] = placed[content]
        # the body's flags (special, stripping): the token behaves as its model was trained with it
        if content in flags:
            entries[content] = {**flags[content], "id": ids[content]}
        elif ids[content] >= new.size:  # an unknown-token that stood in the vocabulary only
            flags_off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            entries[content] = {
                "id": ids[content],
                "content": content,
                **flags_off,
                "special": True,
            }
    spec["added_tokens"] = sorted(entries.values(), key=lambda token: token["id"])
    return ids, following - new.size


def _post_processor(
    body: Tokens, config: dict[str, Any], known: dict[str, int]
) -> dict[str, Any] | None:
    stored = body.spec.get("post_processor")
    if isinstance(config.get("add_bos_token"), bool) or isinstance(
        config.get("add_eos_token"), bool
    ):
        # transformers builds the template of such a tokenizer from these flags; the class we write
        # does not have them.
        stored = _template(config, known)
    processor = copy.deepcopy(stored)
    for part in list_components(processor):
        if part.get("type") == "TemplateProcessing":
            for token in part["special_tokens"].values():
                token["ids"] = [
                    _need(known, content, "the post-processor") for content in token["tokens"]
                ]
        for key in ("sep", "cls"):
            if isinstance(part.get(key), list):
                part[key] = [part[key][0], _need(known, part[key][0], "the post-processor")]
    return processor


def _template(config: dict[str, Any], known: dict[str, int]) -> dict[str, Any] | None:
    before = [content_of(config.get("bos_token"))] if config.get("add_bos_token") else []
    after = [content_of(config.get("eos_token"))] if config.get("add_eos_token") else []
    tokens = [token for token in before + after if token]
    if not tokens:
        return None

    def one(sequence: str, kind: int) -> list[dict[str, Any]]:
        special = [
            [{"SpecialToken": {"id": token, "type_id": kind}} for token in part if token]
            for part in (before, after)
        ]
        return [*special[0], {"Sequence": {"id": sequence, "type_id": kind}}, *special[1]]

    special_tokens = {
        token: {"id": token, "ids": [known.get(token, 0)], "tokens": [token]} for token in tokens
    }
    return {
        "type": "TemplateProcessing",
        "single": one("A", 0),
        "pair": one("A", 0) + one("B", 1),
        "special_tokens": special_tokens,
    }


def _tokenizer_config(
    config: dict[str, Any], new: dict[str, Any], spec: dict[str, Any], known: dict[str, int]
) -> dict[str, Any]:
    result = {key: config[key] for key in _BEHAVIOUR if config.get(key) is not None}
    if new.get("unk_token") and "unk_token" not in result:
        result["unk_token"] = new["unk_token"]
    # A named token that is not in the vocabulary would be appended when the tokenizer is loaded,
    # with an id beyond the rows.
    result = {
        key: value
        for key, value in result.items()
        if key not in NAMED or content_of(value) in known
    }
    for key in _LISTS:
        value = config.get(key)
        if isinstance(value, list):
            result[key] = [token for token in value if content_of(token) in known]
        elif isinstance(value, dict):
            result[key] = {
                name: token for name, token in value.items() if content_of(token) in known
            }
    result["added_tokens_decoder"] = {
        str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in spec["added_tokens"]
    }
    # LlamaTokenizer on a Unigram tokenizer.json loads as BPE in transformers 5, without an error:
    # 7.6 tokens per word.
    result["tokenizer_class"] = "PreTrainedTokenizerFast"
    return dict(sorted(result.items()))


def _mover(
    new: Tokens, body: Tokens, ids: dict[str, int], notes: list[str]
) -> Callable[[str, int], int | None]:
    """body id -> new id, by content for specials and by bytes for ordinary tokens; None (noted)
    where there is none.
    """
    contents = {number: content for content, number in body.specials.items()}

    def move(field: str, number: int) -> int | None:
        if number in contents:
            return ids[contents[number]]
        value = body.bytes_of(number) if 0 <= number < body.size else None
        found = new.find(value) if value is not None else None
        if found is None and number >= 0:
            notes.append(f"{field}: {number} is no token of the new vocabulary; set to null")
        return found

    return move


def _patched_ids(config: dict[str, Any], move: Callable[[str, int], int | None]) -> dict[str, Any]:
    result = dict(config)
    for key, value in config.items():
        if not key.endswith("_token_id"):
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            result[key] = move(key, value)
        elif isinstance(value, list):  # EOS is a set: every end keeps ending
            result[key] = [moved for number in value if (moved := move(key, number)) is not None]
    return result


def _verify(content: bytes, ids: dict[str, int], size: int, folder: Path) -> None:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(
            f"{folder}: the tokenizer with the instruct model's tokens cannot be loaded: {error}"
        ) from error
    wrong = [
        f"{c!r} is {tokenizer.token_to_id(c)}, not {number}"
        for c, number in ids.items()
        if tokenizer.token_to_id(c) != number
    ]
    if wrong:
        raise CheckpointError(
            f"{folder}: added tokens get other ids than planned ({wrong[0]}): the ids of "
            "this tokenizer have holes"
        )
    assert max(tokenizer.get_vocab(with_added_tokens=True).values()) < size


def _need(known: dict[str, int], content: str, where: str) -> int:
    if content not in known:
        raise CheckpointError(f"{where} uses {content!r}, which neither tokenizer has")
    return known[content]


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: a JSON object is expected")
    return value
