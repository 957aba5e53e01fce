"""The tokenizer and configs of an adapted model: the new tokenizer, set up for the model whose body
it uses.

Tokens come from the new tokenizer. Added tokens, chat template, post-processor, configs and
generation settings come from the body's model. Ids are patched by FIELD and by the token's content,
never by value: `use_cache: true` also equals 1.
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
# Fields that say how the tokenizer behaves. All others describe a class or files that are no longer
# used. Some would do harm: add_prefix_space, legacy and sp_model_kwargs make transformers rebuild
# the pre-tokeniser of a fast tokenizer.
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
    """What `assemble_tokenizer` returns.

    files: name -> bytes. size: rows without padding. body_rows: (new id, id in the body's
    tokenizer) of every special and added token of the body's tokenizer. appended: how many of them
    the new tokenizer lacked. notes: for lep.json.
    """

    files: dict[str, bytes]
    size: int
    body_rows: tuple[tuple[int, int], ...]
    appended: int
    notes: tuple[str, ...]


def assemble_tokenizer(new: Tokens, body: Tokens) -> Assembled:
    """The files that put the tokenizer `new` in front of the model in `body.folder`.

    Raises CheckpointError if an added token gets another id than planned, or if the post-processor
    uses a token that neither tokenizer has.
    """
    spec = copy.deepcopy(new.spec)
    ids, appended = _add_tokens(spec, new, body)
    size = max([new.size - 1, *ids.values()]) + 1
    id_of = {piece: number for number, piece in enumerate(new.pieces) if piece is not None} | ids
    config = _read(body.folder / TOKENIZER_CONFIG)
    spec["post_processor"] = _make_post_processor(body, config, id_of)
    spec["truncation"] = spec["padding"] = None
    files = {"tokenizer.json": encode_json(spec)}
    _verify(files["tokenizer.json"], ids, size, new.folder)
    files[TOKENIZER_CONFIG] = encode_json(
        _make_tokenizer_config(config, _read(new.folder / TOKENIZER_CONFIG), spec, id_of)
    )
    template = body.folder / TEMPLATE
    if template.is_file():
        files[TEMPLATE] = template.read_bytes()
    notes: list[str] = []
    map_id = _make_id_map(new, body, ids, notes)
    model = _patch_ids(_read(body.folder / CONFIG), map_id)
    model["vocab_size"] = padded_size(size)
    files[CONFIG] = encode_json(model)
    generation = _read(body.folder / GENERATION_CONFIG)
    if generation:
        files[GENERATION_CONFIG] = encode_json(_patch_ids(generation, map_id))
    rows = tuple((ids[content], number) for content, number in body.specials.items())
    return Assembled(files, size, rows, appended, tuple(dict.fromkeys(notes)))


def content_of(token: Any) -> str | None:
    """The content of a token as configs write it: a string, or {"content": ...}."""
    return token.get("content") if isinstance(token, dict) else token


def _add_tokens(spec: dict[str, Any], new: Tokens, body: Tokens) -> tuple[dict[str, int], int]:
    """Add every special and added token of `body` to `spec`. Returns their new ids, and how many
    were appended.
    """
    entries = {token["content"]: token for token in spec.get("added_tokens") or []}
    flags = {token["content"]: token for token in body.spec.get("added_tokens") or []}
    placed = {piece: number for number, piece in enumerate(new.pieces) if piece is not None}
    ids: dict[str, int] = {}
    next_id = new.size
    for content in body.specials:
        if content not in placed:
            placed[content] = next_id
            next_id += 1
        ids[content] = placed[content]
        # The body's flags (special, stripping): its model was trained with them.
        if content in flags:
            entries[content] = {**flags[content], "id": ids[content]}
        elif ids[content] >= new.size:  # an unknown token that is in the vocabulary only
            flags_off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            entries[content] = {
                "id": ids[content],
                "content": content,
                **flags_off,
                "special": True,
            }
    spec["added_tokens"] = sorted(entries.values(), key=lambda token: token["id"])
    return ids, next_id - new.size


def _make_post_processor(
    body: Tokens, config: dict[str, Any], id_of: dict[str, int]
) -> dict[str, Any] | None:
    stored = body.spec.get("post_processor")
    if isinstance(config.get("add_bos_token"), bool) or isinstance(
        config.get("add_eos_token"), bool
    ):
        # For such a tokenizer transformers builds the template from these flags. The class that we
        # write does not have them.
        stored = _build_template(config, id_of)
    processor = copy.deepcopy(stored)
    for part in list_components(processor):
        if part.get("type") == "TemplateProcessing":
            for token in part["special_tokens"].values():
                token["ids"] = [
                    _look_up(id_of, content, "the post-processor") for content in token["tokens"]
                ]
        for key in ("sep", "cls"):
            if isinstance(part.get(key), list):
                part[key] = [part[key][0], _look_up(id_of, part[key][0], "the post-processor")]
    return processor


def _build_template(config: dict[str, Any], id_of: dict[str, int]) -> dict[str, Any] | None:
    before = [content_of(config.get("bos_token"))] if config.get("add_bos_token") else []
    after = [content_of(config.get("eos_token"))] if config.get("add_eos_token") else []
    tokens = [token for token in before + after if token]
    if not tokens:
        return None

    def frame(sequence: str, kind: int) -> list[dict[str, Any]]:
        prefix, suffix = (
            [{"SpecialToken": {"id": token, "type_id": kind}} for token in part if token]
            for part in (before, after)
        )
        return [*prefix, {"Sequence": {"id": sequence, "type_id": kind}}, *suffix]

    special_tokens = {
        token: {"id": token, "ids": [id_of.get(token, 0)], "tokens": [token]} for token in tokens
    }
    return {
        "type": "TemplateProcessing",
        "single": frame("A", 0),
        "pair": frame("A", 0) + frame("B", 1),
        "special_tokens": special_tokens,
    }


def _make_tokenizer_config(
    config: dict[str, Any], new: dict[str, Any], spec: dict[str, Any], id_of: dict[str, int]
) -> dict[str, Any]:
    result = {key: config[key] for key in _BEHAVIOUR if config.get(key) is not None}
    if new.get("unk_token") and "unk_token" not in result:
        result["unk_token"] = new["unk_token"]
    # transformers would append a named token that the vocabulary lacks, with an id beyond the rows.
    result = {
        key: value
        for key, value in result.items()
        if key not in NAMED or content_of(value) in id_of
    }
    for key in _LISTS:
        value = config.get(key)
        if isinstance(value, list):
            result[key] = [token for token in value if content_of(token) in id_of]
        elif isinstance(value, dict):
            result[key] = {
                name: token for name, token in value.items() if content_of(token) in id_of
            }
    result["added_tokens_decoder"] = {
        str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in spec["added_tokens"]
    }
    # transformers 5 loads a Unigram tokenizer.json with class LlamaTokenizer as BPE, without an
    # error: 7.6 tokens per word.
    result["tokenizer_class"] = "PreTrainedTokenizerFast"
    return dict(sorted(result.items()))


def _make_id_map(
    new: Tokens, body: Tokens, ids: dict[str, int], notes: list[str]
) -> Callable[[str, int], int | None]:
    """Function (field, body id) -> new id: by content for specials, by bytes for ordinary tokens.
    If the new vocabulary lacks the token it returns None and adds a note.
    """
    contents = {number: content for content, number in body.specials.items()}

    def map_id(field: str, number: int) -> int | None:
        if number in contents:
            return ids[contents[number]]
        value = body.bytes_of(number) if 0 <= number < body.size else None
        new_id = new.find(value) if value is not None else None
        if new_id is None and number >= 0:
            notes.append(f"{field}: {number} is no token of the new vocabulary; set to null")
        return new_id

    return map_id


def _patch_ids(config: dict[str, Any], map_id: Callable[[str, int], int | None]) -> dict[str, Any]:
    result = dict(config)
    for key, value in config.items():
        if not key.endswith("_token_id"):
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            result[key] = map_id(key, value)
        elif isinstance(value, list):  # EOS is a set: every end token still ends the text
            new_ids = (map_id(key, number) for number in value)
            result[key] = [new_id for new_id in new_ids if new_id is not None]
    return result


def _verify(content: bytes, ids: dict[str, int], size: int, folder: Path) -> None:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the tokenizers library raises bare Exception
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
            f"{folder}: added tokens get unexpected ids ({wrong[0]}), because the ids of this "
            "tokenizer have holes"
        )
    assert max(tokenizer.get_vocab(with_added_tokens=True).values()) < size


def _look_up(id_of: dict[str, int], content: str, where: str) -> int:
    if content not in id_of:
        raise CheckpointError(f"{where} uses {content!r}, which neither tokenizer has")
    return id_of[content]


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
