"""Do base, instruct and donor belong together? Every refusal is one line with counts."""

from __future__ import annotations

import torch

from lep_bench.errors import CheckpointError
from lep_bench.surgery import shards
from lep_bench.surgery.checkpoint import Checkpoint, digest
from lep_bench.surgery.tokens import Tokens


def check_rows(role: str, model: Checkpoint, tokens: Tokens) -> None:
    """Every token needs a row in every matrix of the model."""
    for matrix, name in model.matrix_names().items():
        shape = model.shape(name)
        if len(shape) != 2 or shape[0] < tokens.size:
            raise CheckpointError(
                f"{role} {model.folder}: the {matrix} has {shape[0]} rows, but its tokenizer has ids up to {tokens.size - 1}: "
                "they are not of one model"
            )


def check_together(base: Checkpoint, instruct: Checkpoint, donor: Checkpoint) -> None:
    """Hidden sizes, whether the head is tied, and names and shapes of the instruct model's and the base's body tensors must agree."""
    for role, model in (("instruct", instruct), ("donor", donor)):
        if model.width != base.width:
            raise CheckpointError(
                f"hidden sizes differ: base {base.folder} has {base.width}, {role} {model.folder} has {model.width}: "
                "they do not descend from one model"
            )
        if model.tied != base.tied:
            raise CheckpointError(
                f"base {base.folder} has {'tied' if base.tied else 'untied'} embeddings, {role} {model.folder} "
                f"{'tied' if model.tied else 'untied'} ones: they do not descend from one model"
            )
    ours, theirs = ({name: model.shape(name) for name in model.body_names() if not name.endswith("inv_freq")} for model in (base, instruct))
    other = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if other:
        raise CheckpointError(
            f"instruct {instruct.folder} is not tuned from the base {base.folder}: {len(other)} body tensors are in one of them only or of another "
            f"shape ({other[0]}, ...)"
        )


def check_tokenizers(base: Tokens, instruct: Tokens) -> None:
    """The instruct tokenizer is the base's plus added tokens: the same ordinary tokens at the same ids."""
    other = [
        number
        for number in range(base.size)
        if base.bytes_of(number) is not None and (number >= instruct.size or instruct.bytes_of(number) != base.bytes_of(number))
    ]
    more = sum(instruct.bytes_of(number) is not None for number in range(base.size, instruct.size))
    if other or more:
        first = f", the first at id {other[0]}" if other else ""
        raise CheckpointError(
            f"the instruct tokenizer {instruct.folder} is not the base's plus added tokens: {len(other) + more:,} ordinary tokens differ from "
            f"{base.folder}{first}: is it fine-tuned from this base?"
        )


def check_bodies(base: Checkpoint, donor: Checkpoint, discard: bool) -> int:
    """How many tensors outside embedding and head differ between base and donor.

    Raises CheckpointError when there are any, unless `discard`: propagation would silently lose them.
    """
    # Rotary frequencies are computed, not trained; older transformers saved them, newer ones do not.
    names = {name for name in (*base.body_names(), *donor.body_names()) if not name.endswith("inv_freq")}
    differing = sorted(name for name in names if not _same(base.places.get(name), donor.places.get(name)))
    if differing and not discard:
        raise CheckpointError(
            f"donor {donor.folder} is not the base {base.folder} with new embeddings: {len(differing)} of {len(names)} body tensors differ "
            f"({differing[0]}, ...); merge its training into the result afterwards and say --discard-donor-body, or give the right base"
        )
    return len(differing)


def _same(one: shards.Place | None, other: shards.Place | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return False
    if one == other:
        return True
    if one.code == other.code:  # the hashes go into lep.json anyway: every tensor is read once
        return digest(one) == digest(other)
    # The same numbers stored in another precision (a base in float32, its donor in bfloat16) are the same body.
    a, b = one.read(), other.read()
    if not (a.dtype.is_floating_point and b.dtype.is_floating_point):
        return False
    coarse = max((a.dtype, b.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    return bool(torch.equal(a.to(coarse), b.to(coarse)))
