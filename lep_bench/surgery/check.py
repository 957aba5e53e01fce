"""The invariants of a model folder (whole checkpoint or patch), as findings a user can act on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lep_bench import artifact, sources
from lep_bench.artifact import LEP, Lep
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.surgery.assembly import NAMED, TOKENIZER_CONFIG, content_of
from lep_bench.surgery.checkpoint import HEADS, Checkpoint
from lep_bench.surgery.patch import GENERATION_CONFIG, MULTIPLE
from lep_bench.surgery.tokens import Tokens, components

Level = Literal["error", "warning", "note"]
VERBATIM_STAGES = ("propagation", "instruct-init")


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and how to mend it."""

    level: Level
    what: str
    where: str
    how: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.what}; {self.how}"


@dataclass(frozen=True)
class _Model:
    checkpoint: Checkpoint
    tokens: Tokens
    tokenizer_config: dict[str, Any]
    generation: dict[str, Any]
    lep: Lep | None

    @property
    def strict(self) -> Level:
        """How bad it is to break a rule that is ours: an error in our own models, a warning in others'."""
        return "error" if self.lep else "warning"


def check(folder: Path) -> list[Finding]:
    """All findings about a folder, errors first; empty when nothing is to be said.

    Raises CheckpointError when the folder cannot be read as a checkpoint or tokenizer at all.
    """
    checkpoint = Checkpoint.open(folder)
    model = _Model(
        checkpoint,
        Tokens.read(folder),
        _read(folder / TOKENIZER_CONFIG),
        _read(folder / GENERATION_CONFIG),
        artifact.read(folder).lep if (folder / LEP).is_file() else None,
    )
    parts = (_rows, _statistics, _ties, _specials, _ends, _tokenizer_class, _verbatim)
    found = [finding for part in parts for finding in part(model)]
    return sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.level))


def refuse(folder: Path) -> list[Finding]:
    """`check`, but raises CheckpointError with the errors where there are any."""
    found = check(folder)
    errors = [finding for finding in found if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        raise CheckpointError(f"{errors[0].where}: {errors[0].what}; {errors[0].how}{more}")
    return found


def _rows(model: _Model) -> Iterator[Finding]:
    config, tokens, lep = model.checkpoint.config.get("vocab_size"), model.tokens, model.lep
    where = str(model.checkpoint.folder)
    for matrix, name in model.checkpoint.matrix_names().items():
        rows = model.checkpoint.shape(name)[0]
        if config != rows:
            yield Finding("error", f"config.json says vocab_size {config}, the {matrix} has {rows} rows", where, "set vocab_size to the rows")
        if tokens.size > rows:
            what = f"the tokenizer's highest id is {tokens.size - 1}, the {matrix} has {rows} rows"
            yield Finding("error", what, where, "give the tokenizer that belongs to these weights")
        if rows % MULTIPLE:
            what = f"the {matrix} has {rows} rows, no multiple of {MULTIPLE}"
            yield Finding(model.strict, what, where, "pad the rows with the mean row, after special tokens")
    if tokens.holes:
        what = f"{len(tokens.holes)} ids below the highest have no token, the first is {tokens.holes[0]}"
        yield Finding(model.strict, what, where, "number the tokens without gaps")
    if lep and lep.vocabulary_size and lep.vocabulary_size != tokens.size:
        what = f"lep.json says {lep.vocabulary_size} real rows, the tokenizer has {tokens.size}"
        yield Finding("error", what, where, "build the model again")


def _statistics(model: _Model) -> Iterator[Finding]:
    for matrix, name in model.checkpoint.matrix_names().items():
        bad, empty = [], []
        for start, block in model.checkpoint.blocks(name):
            bad += (start + (~torch.isfinite(block).all(1)).nonzero().flatten()).tolist()
            empty += (start + (block == 0).all(1).nonzero().flatten()).tolist()
        where = f"{model.checkpoint.folder} ({matrix})"
        if bad:
            yield Finding("error", f"{len(bad)} rows with NaN or infinity, the first at id {bad[0]}", where, "build the model again")
        if empty:
            what = f"{len(empty)} rows are all zero, the first at id {empty[0]}"
            yield Finding("warning", what, where, "such a token carries no meaning: check how its row came about")


def _ties(model: _Model) -> Iterator[Finding]:
    where = str(model.checkpoint.folder)
    stale = [name for name in HEADS if name in model.checkpoint.places]
    if model.checkpoint.tied and stale:
        same = model.checkpoint.shape(stale[0]) == model.checkpoint.shape(model.checkpoint.embedding_name)
        what = f"config.json ties head and embedding, yet there is a {stale[0]}"
        yield Finding("warning" if same else "error", what, where, "remove the tensor, or set tie_word_embeddings to false")


def _specials(model: _Model) -> Iterator[Finding]:
    known = {piece: number for number, piece in enumerate(model.tokens.pieces) if piece is not None}
    where = str(model.checkpoint.folder / "tokenizer.json")
    for part in components(model.tokens.spec.get("post_processor")):
        if part.get("type") != "TemplateProcessing":
            continue
        for token in (part.get("special_tokens") or {}).values():
            for content, number in zip(token["tokens"], token["ids"], strict=True):
                if known.get(content) != number:
                    what = f"the post-processor gives {content!r} the id {number}, the vocabulary {known.get(content)}"
                    yield Finding("error", what, where, "patch the ids of the post-processor by content")
    for field in NAMED:
        content = content_of(model.tokenizer_config.get(field))
        if content is not None and content not in known:
            how = "loading would append it beyond the rows: add the token or remove the field"
            yield Finding("error", f"{field} {content!r} of {TOKENIZER_CONFIG} is no token of it", where, how)


def _ends(model: _Model) -> Iterator[Finding]:
    files = {"config.json": model.checkpoint.config, GENERATION_CONFIG: model.generation}
    where = str(model.checkpoint.folder)
    eos = {n for source in files.values() for n in _ids(source.get("eos_token_id"))}
    for name, source in files.items():
        for field, value in source.items():
            wrong = [n for n in _ids(value) if not 0 <= n < model.tokens.size] if field.endswith("_token_id") else []
            if wrong:
                what = f"{name}: {field} {wrong[0]} is no token (ids end at {model.tokens.size - 1})"
                yield Finding(model.strict, what, where, "set it to a token's id or to null")
    if not eos:
        what = "no end-of-sequence token in config.json or generation_config.json"
        yield Finding("warning", what, where, "generation will only stop at its length limit")
    pads = {n for source in files.values() for n in _ids(source.get("pad_token_id"))} & eos
    if pads and eos == pads:
        what = f"the padding token {min(pads)} is the only end-of-sequence token"
        yield Finding("warning", what, where, "training on padded batches would unlearn to stop: give padding a token of its own")


def _tokenizer_class(model: _Model) -> Iterator[Finding]:
    name = str(model.tokenizer_config.get("tokenizer_class", ""))
    where = str(model.checkpoint.folder / TOKENIZER_CONFIG)
    if model.lep and name != "PreTrainedTokenizerFast":
        how = "write PreTrainedTokenizerFast: other classes rebuild the tokenizer"
        yield Finding("error", f"tokenizer_class is {name or 'missing'}", where, how)
    elif "unigram" in model.tokens.kind and "Llama" in name:
        what = f"a Unigram tokenizer that says {name}: transformers loads it as BPE"
        yield Finding("warning", what, where, "set tokenizer_class to PreTrainedTokenizerFast")


def _verbatim(model: _Model) -> Iterator[Finding]:
    """The chat-marker rule: special and added tokens of the instruct model keep its own rows (until a tuning trains them)."""
    lep, where = model.lep, str(model.checkpoint.folder)
    if lep is None or lep.stage not in VERBATIM_STAGES or lep.training:
        return
    body = _body(lep)
    if body is None:
        yield Finding("note", "the instruct model is not at hand: its special rows could not be compared", where, "nothing to do")
        return
    instruct, tokens = Checkpoint.open(body), Tokens.read(body)
    lost = [content for content in tokens.specials if content not in model.tokens.specials]
    if lost:
        what = f"{len(lost)} special tokens of the instruct model are missing, the first is {lost[0]!r}"
        yield Finding("error", what, where, "build the model again")
    shared = [(number, model.tokens.specials[content]) for content, number in tokens.specials.items() if content not in lost]
    if not shared:
        return
    own, new = np.array(shared, dtype=np.int64).T
    names, theirs = model.checkpoint.matrix_names(), instruct.matrix_names()
    for matrix in sorted(names.keys() & theirs.keys()):
        if max(new) >= model.checkpoint.shape(names[matrix])[0] or max(own) >= instruct.shape(theirs[matrix])[0]:
            continue  # too few rows: an error of its own
        unlike = instruct.gather(theirs[matrix], own) != model.checkpoint.gather(names[matrix], new)
        rows = unlike.any(1).nonzero().flatten().tolist()
        if rows:
            first = model.tokens.pieces[int(new[rows[0]])]
            what = f"{len(rows)} special rows of the {matrix} are not the instruct model's own, the first is {first!r}"
            yield Finding("error", what, where, "chat markers are untrained elsewhere: copy the instruct model's rows")


def _body(lep: Lep) -> Path | None:
    """The body's folder, where it is on this machine (never fetched for a check)."""
    location = next((parent.location for parent in lep.parents if parent.role == "body"), None)
    try:
        return sources.local(location) if location else None
    except LepBenchError:
        return None


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [n for n in values if isinstance(n, int) and not isinstance(n, bool)]


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
