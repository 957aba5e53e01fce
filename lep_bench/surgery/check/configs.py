"""Checks of the configs: end-of-sequence and other ids, fields that must equal the body's, the chat
template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lep_bench.surgery.check.findings import (
    ANSWER,
    Chat,
    Finding,
    InspectedModel,
    Level,
    first_line,
    list_ids,
    list_some,
)
from lep_bench.surgery.tokenizers.assemble import content_of
from lep_bench.surgery.weights.checkpoint import HEADS, Checkpoint
from lep_bench.surgery.weights.patch import CONFIG, GENERATION_CONFIG

MARKER = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?[a-z_]{1,24}>")
# Fields that may differ between a model and its body.
MAY_DIFFER = ("vocab_size", "transformers_version", "_name_or_path")


def check_configs(model: InspectedModel) -> Iterator[Finding]:
    """Yield the findings about the configs. For a tokenizer without weights these are only about
    its chat template.
    """
    if model.checkpoint is not None:
        yield from _check_loading(model, model.checkpoint)
        yield from _check_ids(model, model.checkpoint)
        yield from _check_ends(model)
        if model.lep is not None and model.body is not None:
            yield from _check_fields(model, model.body)
    yield from _check_chat(model)


def _check_loading(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    from transformers import CONFIG_MAPPING, AutoConfig

    if model.config.get("model_type") not in CONFIG_MAPPING or "auto_map" in model.config:
        return  # remote code, which must not run here
    try:
        config = AutoConfig.from_pretrained(
            model.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # somebody else's package: it may raise anything
        yield Finding(
            "error",
            f"transformers refuses it: {first_line(error)}",
            str(model.folder / CONFIG),
            "correct that field; patch ids by field, never by value (true also equals 1)",
        )
        return
    head = any(name in checkpoint.places for name in HEADS)
    # The default differs between model classes.
    tied = getattr(config, "tie_word_embeddings", None)
    if "tie_word_embeddings" not in model.config and tied is head:
        what = (
            f"config.json does not say tie_word_embeddings: transformers takes {tied}, and there "
            f"is {'a' if head else 'no'} head"
        )
        yield Finding(
            "warning" if tied else "error",
            what,
            str(model.folder),
            f"set tie_word_embeddings to {str(not head).lower()}",
        )


def _check_ids(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    size, rows = model.tokens.size, checkpoint.rows
    for name, part in ((CONFIG, model.config), (GENERATION_CONFIG, model.generation)):
        for field in (field for field in part if field.endswith("_token_id")):
            wrong = [n for n in list_ids(part[field]) if not 0 <= n < size]
            if wrong:
                # An EOS id beyond the rows is never generated. Any other id may be looked up in the
                # embedding.
                level: Level = (
                    "error" if max(wrong) >= rows and field != "eos_token_id" else model.strict
                )
                what = f"{field} {wrong[0]} is no token (ids end at {size - 1})"
                yield Finding(
                    level, what, str(model.folder / name), "set it to a token's id or to null"
                )
            if isinstance(part[field], bool):
                yield Finding(
                    "error",
                    f"{field} is {part[field]}, a token's id is expected",
                    str(model.folder / name),
                    "patch ids by field",
                )


def _check_ends(model: InspectedModel) -> Iterator[Finding]:
    where = str(model.folder)
    if not model.ends:
        what = "no end-of-sequence token in config.json or generation_config.json"
        yield Finding("warning", what, where, "generation will only stop at its length limit")
        return
    pad_token = model.id_of.get(content_of(model.tokenizer_config.get("pad_token")) or "")
    pads = {
        n for part in (model.config, model.generation) for n in list_ids(part.get("pad_token_id"))
    } | ({pad_token} if pad_token is not None else set())
    if pads and model.ends <= pads:
        what = f"the padding token {min(model.ends)} is the only end-of-sequence token"
        yield Finding(
            "warning",
            what,
            where,
            "training on padded batches would teach the model not to stop: use another "
            "padding token",
        )
    marker = end_of_turn(model)
    if marker is not None and model.id_of[marker] not in model.ends:
        body = model.body
        inherited = (
            body is not None and end_of_turn(body) == marker and body.id_of[marker] not in body.ends
        )
        what = (
            f"the chat template ends an answer with {marker!r} ({model.id_of[marker]}), which is "
            f"not among the ends {sorted(model.ends)}"
        )
        how = (
            "generation would not stop after an answer: add it to eos_token_id in "
            "generation_config.json"
        )
        yield Finding("warning" if inherited else model.strict, what, where, how)


def end_of_turn(model: InspectedModel) -> str | None:
    """The special token that the chat template writes after an answer, or None."""
    if not isinstance(model.chat, Chat) or ANSWER not in model.chat.text:
        return None
    following = model.chat.text.split(ANSWER, 1)[1].lstrip()
    return max(
        (content for content in model.tokens.specials if following.startswith(content)),
        key=len,
        default=None,
    )


def _check_fields(model: InspectedModel, body: InspectedModel) -> Iterator[Finding]:
    """Ids must mean the same tokens as in the body, and all other fields must equal the body's."""
    for name, fields, body_fields in (
        (CONFIG, model.config, body.config),
        (GENERATION_CONFIG, model.generation, body.generation),
    ):
        where = str(model.folder / name)
        if body_fields and not fields:
            yield Finding(
                "error",
                f"it is missing, the body {body.folder} has one",
                where,
                "copy the body's and patch its ids by content",
            )
            continue
        for field, value in body_fields.items():
            if field.endswith("_token_id"):
                body_meanings = {body.meaning(n) for n in list_ids(value)}
                expected = {meaning for meaning in body_meanings if _has_token(model, meaning)}
                meanings = {model.meaning(n) for n in list_ids(fields.get(field))}
                if meanings != expected:
                    what = (
                        f"{field} means {_list_meanings(meanings)}, in the body "
                        f"{_list_meanings(expected)}"
                    )
                    yield Finding(
                        "error",
                        what,
                        where,
                        "patch ids by field and by the token's content; end-of-sequence ids "
                        "are a set",
                    )
            elif field not in MAY_DIFFER and fields.get(field) != value:
                by_value = field in fields and (
                    isinstance(fields.get(field), bool) != isinstance(value, bool)
                )
                how = (
                    "patch ids by field, never by value"
                    if by_value
                    else "copy the body's value unless the change is intended"
                )
                yield Finding(
                    "error" if by_value else "warning",
                    f"{field} is {fields.get(field)!r}, the body's {value!r}",
                    where,
                    how,
                )


def _has_token(model: InspectedModel, meaning: str | bytes | None) -> bool:
    return (
        meaning in model.id_of
        if isinstance(meaning, str)
        else meaning is not None and model.tokens.find(meaning) is not None
    )


def _list_meanings(meanings: set[Any]) -> str:
    return (
        list_some(
            (
                m.decode("utf-8", errors="replace") if isinstance(m, bytes) else m or "no token"
                for m in meanings
            ),
            8,
        )
        or "none"
    )


def _check_chat(model: InspectedModel) -> Iterator[Finding]:
    if isinstance(model.loaded, str):
        return  # reported by check_tokenizer
    where, body = str(model.folder), model.body if model.lep is not None else None
    if isinstance(model.chat, str):
        yield Finding(
            model.strict,
            f"the chat template fails: {model.chat}",
            where,
            "copy the instruct model's template",
        )
        return
    body_chat = body.chat if body is not None and isinstance(body.chat, Chat) else None
    if model.chat is None:
        if body is not None and body_chat:
            yield Finding(
                "error",
                f"no chat template, its body {body.folder} has one",
                where,
                "copy the body's chat_template.jinja",
            )
        return
    # Markers that the vocabulary lacks, and those among them that the body has.
    missing = {m for m in MARKER.findall(model.chat.text) if m not in model.id_of}
    lost = {m for m in missing if body is None or m in body.id_of}
    if missing:
        level: Level = model.strict if lost else "warning"
        what = (
            f"the chat template writes {list_some(lost or missing)}, which no token stands for: it "
            "is cut into pieces"
        )
        yield Finding(
            level,
            what,
            where,
            "add the markers as special tokens with trained rows, or use the template of this "
            "tokenizer",
        )
    if body is not None and body_chat:
        specials = model.specials_in(model.chat.ids)
        body_specials = body.specials_in(body_chat.ids)
        if specials != body_specials:
            what = (
                f"a chat is written with the special tokens {' '.join(specials)}, in the body "
                f"with {' '.join(body_specials)}"
            )
            yield Finding("error", what, where, "copy the body's chat template and added tokens")
        elif model.chat.text != body_chat.text:
            what = f"the chat template gives other text than that of the body {body.folder}"
            yield Finding(
                "warning", what, where, "copy the body's template unless the change is intended"
            )
