"""What `check` looks at in the configs: ends and other ids, fields against the body's, the chat
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
# fields that differ between a model and its body rightly
OF_EACH = ("vocab_size", "transformers_version", "_name_or_path")


def check_configs(model: InspectedModel) -> Iterator[Finding]:
    """Nothing for a tokenizer alone, apart from its chat template."""
    if model.checkpoint is not None:
        yield from _readable(model, model.checkpoint)
        yield from _ids(model, model.checkpoint)
        yield from _ends(model)
        if model.lep is not None and model.body is not None:
            yield from _fields(model, model.body)
    yield from _chat(model)


def _readable(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    from transformers import CONFIG_MAPPING, AutoConfig

    if model.config.get("model_type") not in CONFIG_MAPPING or "auto_map" in model.config:
        return  # an architecture with code of its own, which is not run here
    try:
        config = AutoConfig.from_pretrained(
            model.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # somebody else's package: it checks the type of every field
        how = "mend that field; ids are patched by field, never by value (true is also 1)"
        yield Finding(
            "error",
            f"transformers refuses it: {first_line(error)}",
            str(model.folder / CONFIG),
            how,
        )
        return
    head = any(name in checkpoint.places for name in HEADS)
    tied = getattr(config, "tie_word_embeddings", None)  # the default differs between model classes
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


def _ids(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    size, rows = model.tokens.size, checkpoint.rows
    for name, part in ((CONFIG, model.config), (GENERATION_CONFIG, model.generation)):
        for field in (field for field in part if field.endswith("_token_id")):
            wrong = [n for n in list_ids(part[field]) if not 0 <= n < size]
            if wrong:
                # An end beyond the rows is never generated; any other id is looked up in the
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


def _ends(model: InspectedModel) -> Iterator[Finding]:
    where = str(model.folder)
    if not model.ends:
        what = "no end-of-sequence token in config.json or generation_config.json"
        yield Finding("warning", what, where, "generation will only stop at its length limit")
        return
    named = model.known.get(content_of(model.tokenizer_config.get("pad_token")) or "")
    pads = {
        n for part in (model.config, model.generation) for n in list_ids(part.get("pad_token_id"))
    } | ({named} if named is not None else set())
    if pads and model.ends <= pads:
        what = f"the padding token {min(model.ends)} is the only end-of-sequence token"
        yield Finding(
            "warning",
            what,
            where,
            "training on padded batches would unlearn to stop: give padding a token of its own",
        )
    marker = end_of_turn(model)
    if marker is not None and model.known[marker] not in model.ends:
        body = model.body
        inherited = (
            body is not None and end_of_turn(body) == marker and body.known[marker] not in body.ends
        )
        what = (
            f"the chat template ends an answer with {marker!r} ({model.known[marker]}), which is "
            f"not among the ends {sorted(model.ends)}"
        )
        how = (
            "generation would not stop after an answer: add it to eos_token_id in "
            "generation_config.json"
        )
        yield Finding("warning" if inherited else model.strict, what, where, how)


def end_of_turn(model: InspectedModel) -> str | None:
    """The special token that the chat template writes behind an answer; None where there is
    none.
    """
    if not isinstance(model.chat, Chat) or ANSWER not in model.chat.text:
        return None
    behind = model.chat.text.split(ANSWER, 1)[1].lstrip()
    return max(
        (content for content in model.tokens.specials if behind.startswith(content)),
        key=len,
        default=None,
    )


def _fields(model: InspectedModel, body: InspectedModel) -> Iterator[Finding]:
    """Ids mean the same tokens as in the body, and everything else is the body's."""
    for name, own, theirs in (
        (CONFIG, model.config, body.config),
        (GENERATION_CONFIG, model.generation, body.generation),
    ):
        where = str(model.folder / name)
        if theirs and not own:
            yield Finding(
                "error",
                f"it is missing, the body {body.folder} has one",
                where,
                "take over the body's, ids patched by content",
            )
            continue
        for field, value in theirs.items():
            if field.endswith("_token_id"):
                wanted = {
                    meaning for n in list_ids(value) if _has(model, meaning := body.meaning(n))
                }
                found = {model.meaning(n) for n in list_ids(own.get(field))}
                if found != wanted:
                    what = f"{field} means {_words(found)}, in the body {_words(wanted)}"
                    yield Finding(
                        "error",
                        what,
                        where,
                        "patch ids by field and by the token's content; ends are a set",
                    )
            elif field not in OF_EACH and own.get(field) != value:
                by_value = (
                    isinstance(own.get(field), bool) != isinstance(value, bool) and field in own
                )
                how = (
                    "patch ids by field, never by value"
                    if by_value
                    else "take over the body's value unless this was meant"
                )
                yield Finding(
                    "error" if by_value else "warning",
                    f"{field} is {own.get(field)!r}, the body's {value!r}",
                    where,
                    how,
                )


def _has(model: InspectedModel, meaning: str | bytes | None) -> bool:
    return (
        meaning in model.known
        if isinstance(meaning, str)
        else meaning is not None and model.tokens.find(meaning) is not None
    )


def _words(found: set[Any]) -> str:
    return (
        list_some(
            (
                m.decode("utf-8", errors="replace") if isinstance(m, bytes) else m or "no token"
                for m in found
            ),
            8,
        )
        or "none"
    )


def _chat(model: InspectedModel) -> Iterator[Finding]:
    if isinstance(model.loaded, str):
        return  # an error by itself
    where, body = str(model.folder), model.body if model.lep is not None else None
    if isinstance(model.chat, str):
        yield Finding(
            model.strict,
            f"the chat template fails: {model.chat}",
            where,
            "take the instruct model's template",
        )
        return
    theirs = body.chat if body is not None and isinstance(body.chat, Chat) else None
    if model.chat is None:
        if body is not None and theirs:
            yield Finding(
                "error",
                f"no chat template, its body {body.folder} has one",
                where,
                "copy the body's chat_template.jinja",
            )
        return
    cut = {m for m in MARKER.findall(model.chat.text) if m not in model.known}
    ours = {m for m in cut if body is None or m in body.known}
    if cut:
        level: Level = model.strict if ours else "warning"
        what = (
            f"the chat template writes {list_some(ours or cut)}, which no token stands for: it "
            "is cut into pieces"
        )
        yield Finding(
            level,
            what,
            where,
            "add the markers as special tokens with trained rows, or take this tokenizer's "
            "own template",
        )
    if body is not None and theirs:
        own_marks, their_marks = model.specials_in(model.chat.ids), body.specials_in(theirs.ids)
        if own_marks != their_marks:
            what = (
                f"a chat is written with the special tokens {' '.join(own_marks)}, in the body "
                f"with {' '.join(their_marks)}"
            )
            yield Finding(
                "error", what, where, "take over the body's chat template and added tokens"
            )
        elif model.chat.text != theirs.text:
            what = f"the chat template writes another text than that of its body {body.folder}"
            yield Finding("warning", what, where, "take over the body's unless this was meant")
