"""Donors kept as base + LoRA: a peft folder read as the donor's checkpoint and what it does to the
body (no adapter of lep-bench).

The trained embeddings are propagated like any donor's; "if the donor's CPT also trained LoRA
adapters, these are merged onto the result afterwards" (arXiv 2412.21140). Nothing is copied:
matrices are read where peft put them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lep_bench import files, hub
from lep_bench.errors import CheckpointError
from lep_bench.surgery.weights import patch, shards
from lep_bench.surgery.weights.checkpoint import HEADS, Checkpoint, digest_tensor
from lep_bench.surgery.weights.shards import TensorPlace

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
# Beside a resized matrix `X.weight` peft saves the untrained original, and the trained one a second
# time.
_DOUBLES = (".original_module.", ".modules_to_save.")
_ROWS = "token_adapter.trainable_tokens_delta"  # whole rows, in spite of the name
_STORED = ("weight", "base_layer.weight", "token_adapter.base_layer.weight")
_FULL = ("weight", "bias", "base_layer.weight", "base_layer.bias")
_PARTS = (
    *_FULL,
    *_STORED,
    _ROWS,
    "lora_A.weight",
    "lora_B.weight",
    "lora_B.bias",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
)
_KEY = re.compile(rf"base_model\.model\.(.+?)\.({'|'.join(map(re.escape, _PARTS))})")
_VARIANTS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
)
# Initialisations that leave the base's weights alone; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA train
# against a changed base.
_PLAIN = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_OTHERWISE = (
    "or merge it with peft's merge_and_unload() and give the whole model with --discard-donor-body"
)
_BOTH = (
    "train with modules_to_save=['embed_tokens', 'lm_head'] and save with save_pretrained(DIR, "
    "save_embedding_layers=True)"
)


@dataclass(frozen=True)
class LowRank:
    """W + scaling B A, A [r, in], B [out, r]; W is [out, in], or [in, out] if `turned` (embeddings,
    GPT-2's Conv1D).

    With `magnitude` [out] (DoRA, arXiv 2402.09353) the weights of every output are then scaled to
    that norm.
    """

    A: TensorPlace
    B: TensorPlace
    scaling: float
    turned: bool
    magnitude: TensorPlace | None = None

    def merged(self, weight: torch.Tensor, ids: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """`weight` (the whole tensor, or its rows `ids`) changed, in its dtype."""
        exact = torch.promote_types(weight.dtype, torch.float32)
        A, B = self.A.read().to(exact), self.B.read().to(exact)
        left, right = (A.T, B.T) if self.turned else (B, A)
        # Contiguous, so that LoRA tied over embedding and head gives the same bits in both.
        result = torch.addmm(
            weight.to(exact), left[ids].contiguous(), right.contiguous(), alpha=self.scaling
        )
        if self.magnitude is not None:
            norms, wanted = (
                torch.linalg.vector_norm(result, dim=0 if self.turned else 1),
                self.magnitude.read().to(exact),
            )
            result *= wanted / norms if self.turned else (wanted[ids] / norms)[:, None]
        return result.to(weight.dtype)


@dataclass(frozen=True)
class FullDelta:
    """W + scaling (plus - minus): a tensor trained in full against the base's own, or the bias of
    LoRA's B (no `minus`).
    """

    plus: TensorPlace
    minus: TensorPlace | None
    scaling: float = 1.0

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` changed, in its dtype; the base's own tensor becomes the trained one."""
        plus = self.plus.read()
        # A float32 base that was trained in bfloat16 was rounded before, which is no training.
        minus = 0.0 if self.minus is None else self.minus.read().to(plus.dtype).to(torch.float64)
        return (weight.to(torch.float64) + self.scaling * (plus.to(torch.float64) - minus)).to(
            weight.dtype
        )


Delta = LowRank | FullDelta


def merge_deltas(body: Checkpoint, deltas: Mapping[str, Delta]) -> dict[str, patch.Stream]:
    """The changed tensors of `body` by name, each made when it is written. Raises CheckpointError
    then for one that is not finite.
    """

    def blocks(name: str) -> Iterator[torch.Tensor]:
        merged = deltas[name].merged(body.read(name))
        if not torch.isfinite(merged).all():
            kind = patch.dtype_name(merged.dtype)
            raise CheckpointError(
                f"{body.folder}: {name} with the donor's LoRA has NaN or values too large "
                f"for {kind}: is the adapter damaged?"
            )
        yield merged

    return {
        name: patch.Stream(body.dtype(name), body.shape(name), partial(blocks, name))
        for name in deltas
    }


@dataclass(frozen=True)
class EditedPlace(TensorPlace):
    """A matrix on disk with LoRA on it, or with the rows `ids` trained apart: what is read is
    already changed.
    """

    lora: LowRank | None = None
    ids: tuple[int, ...] = ()
    trained: TensorPlace | None = None

    def gather(self, ids: np.ndarray) -> torch.Tensor:
        wanted = np.asarray(ids, dtype=np.int64)
        rows = super().gather(wanted)
        if self.lora is not None:
            rows = self.lora.merged(rows, wanted)
        if self.trained is not None:
            own = np.full(self.shape[0], -1)
            own[list(self.ids)] = np.arange(len(self.ids))
            hit = own[wanted] >= 0
            rows[torch.from_numpy(hit)] = self.trained.gather(own[wanted[hit]]).to(rows.dtype)
        return rows

    def chunks(self) -> Iterator[bytes]:
        step = max(1, shards.CHUNK // max(1, self.row_bytes))
        for start in range(0, self.shape[0], step):
            yield bytes(patch.raw_bytes(self.rows(start, min(start + step, self.shape[0]))))

    def read(self) -> torch.Tensor:
        return self.rows(0, self.shape[0])


@dataclass(frozen=True)
class _Split(Checkpoint):
    @cached_property
    def digest(self) -> str:
        """One hash of the adapter's config and weights: the tensors here leave out what it does to
        the body.
        """
        return files.files_digest([self.folder / CONFIG, self.folder / WEIGHTS], self.folder)


@dataclass(frozen=True)
class Donor:
    """`checkpoint`: the base's body, the trained matrices, the adapter's tokenizer; `deltas`: what
    is done to the body, by tensor name.
    """

    checkpoint: Checkpoint
    deltas: Mapping[str, Delta]
    notes: tuple[str, ...]


def is_lora(folder: Path) -> bool:
    """Whether a folder holds a peft adapter and no whole model (it may still be one that
    `open_donor` refuses).
    """
    return (folder / CONFIG).is_file() and not any(folder.glob("model*.safetensors"))


def open_donor(folder: Path, base: Checkpoint) -> Donor:
    """Split a peft LoRA adapter with trained embeddings, whose tokenizer lies in `folder`, from the
    `base` it was trained on.

    Raises CheckpointError in one line for pickled weights, another kind of adapter, one that does
    not fit the base, one without trained embeddings or without a tokenizer. Nothing is written.
    """
    reader = _Reader(folder, _config(folder), _modules(folder), base)
    # the embedding first
    names = [name.removesuffix(".weight") for name in base.matrix_names().values()]
    ends = {*names, *(name.removesuffix(".weight") for name in HEADS)} & reader.modules.keys()
    if not ends:
        raise CheckpointError(
            f"{folder} holds no trained embeddings: there is nothing to propagate: {_BOTH}; "
            "LoRA alone goes onto a model with peft"
        )
    found = {module: reader.matrix(module) for module in sorted({*names, *ends})}
    rows = {module: place.shape[0] for module, place in found.items()}
    if len(set(rows.values())) > 1:
        raise CheckpointError(
            f"{folder}: embedding and head have different numbers of rows ({rows}), so one "
            f"of them was not saved: {_BOTH}"
        )
    if base.tied and len({digest_tensor(place) for place in found.values()}) > 1:
        why = "without ensure_weight_tying=True peft trains only one of them: train with it"
        raise CheckpointError(
            f"{folder}: embedding and head differ, but the base {base.folder} ties them; {why}"
        )
    deltas = {
        name: delta
        for module in sorted(reader.modules.keys() - ends)
        for name, delta in reader.deltas(module)
    }
    places = {**base.places, **{f"{module}.weight": found[module] for module in names}}
    checkpoint = _Split(folder, base.body, {**base.config, "vocab_size": rows[names[0]]}, places)
    return Donor(checkpoint, deltas, tuple(reader.notes(names, deltas.values())))


def _config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a kind that can be merged, when all that is needed lies beside it."""
    try:
        # peft's own defaults
        config = {
            "r": 8,
            "lora_alpha": 8,
            **json.loads((folder / CONFIG).read_text(encoding="utf-8")),
        }
        kind, init, used = (
            config["peft_type"],
            config.get("init_lora_weights", True),
            [name for name in _VARIANTS if config.get(name)],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} cannot be read as the config of a peft adapter: {error!r}"
        ) from error
    what = ""
    if kind != "LORA":
        what = (
            f"is a peft adapter of type {kind}; only LORA can be carried over: train that, "
            f"{_OTHERWISE}"
        )
    elif used or init not in _PLAIN:
        how = used[0] if used else f"init_lora_weights={init!r}, which changes the base's weights"
        what = f"was trained with {how}, and cannot be carried over: train plain LoRA, {_OTHERWISE}"
    elif not (folder / WEIGHTS).is_file():
        convert = (
            f"safetensors.torch.save_file(torch.load('{PICKLED}', weights_only=True), '{WEIGHTS}')"
        )
        what = (
            f"has no {WEIGHTS}; a pickled {PICKLED} can run code when it is read, this converts "
            f"it safely: {convert}"
        )
    elif not any((folder / name).is_file() for name in hub.TOKENIZER_MARKERS):
        what = (
            f"has no tokenizer ({hub.TOKENIZER_MARKERS[0]}): copy the one that it was trained "
            "with into it"
        )
    if what:
        raise CheckpointError(f"{folder} {what}")
    return config


def _modules(folder: Path) -> dict[str, dict[str, TensorPlace]]:
    """module -> part (``lora_A.weight``, ``weight``, ...) -> where it lies."""
    modules: dict[str, dict[str, TensorPlace]] = {}
    for key, place in shards.read_places(folder / WEIGHTS).items():
        if any(double in key for double in _DOUBLES):
            continue
        match = _KEY.fullmatch(key)
        if match is None:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {key} is no part of plain LoRA, so it cannot be "
                f"carried over: train that, {_OTHERWISE}"
            )
        modules.setdefault(match[1], {})[match[2]] = place
    return modules


@dataclass(frozen=True)
class _Reader:
    folder: Path
    config: Mapping[str, Any]
    modules: Mapping[str, Mapping[str, TensorPlace]]
    base: Checkpoint

    def matrix(self, module: str) -> TensorPlace:
        """Where embedding or head lies, in the adapter or else in the base, with what the adapter
        does to its rows.
        """
        parts, config = self.modules.get(module, {}), self.config
        own = self.base.places.get(f"{module}.weight") or self.base.place(self.base.embedding_name)
        place = next((parts[part] for part in _STORED if part in parts), own)
        lora, trained, ids = (
            self.low_rank(module, place.shape),
            parts.get(_ROWS),
            config.get("trainable_token_indices") or (),
        )
        if isinstance(ids, dict):  # of tied matrices one may be named for both
            ids = next(
                (found for name, found in ids.items() if module.endswith(name)),
                next(iter(ids.values())),
            )
        if lora is not None and lora.magnitude is not None and lora.turned:
            raise CheckpointError(
                f"{self.folder}: DoRA on {module} needs all rows at once and cannot be "
                "carried over: train it with plain LoRA"
            )
        if trained is None:
            return place if lora is None else EditedPlace(**vars(place), lora=lora)
        last = max(ids, default=0)
        if len(ids) != trained.shape[0] or last >= place.shape[0]:
            what = (
                f"{trained.shape[0]} rows of {module} were trained, {CONFIG} names {len(ids)} "
                f"ids up to {last}, there are {place.shape[0]} rows"
            )
            raise CheckpointError(
                f"{self.folder}: {what}: save it again with save_pretrained(DIR, "
                "save_embedding_layers=True)"
            )
        return EditedPlace(**vars(place), ids=tuple(ids), trained=trained)

    def low_rank(self, module: str, shape: tuple[int, ...]) -> LowRank | None:
        """LoRA on a module's weight of this shape; None when there is none."""
        parts, config = self.modules.get(module, {}), self.config
        if not any(part.startswith("lora_") for part in parts):
            return None
        embedding = "lora_embedding_A" in parts
        A, B = (parts.get(f"lora_embedding_{x}" if embedding else f"lora_{x}.weight") for x in "AB")
        rank, alpha = (
            self.by_pattern("rank_pattern", "r", module),
            self.by_pattern("alpha_pattern", "lora_alpha", module),
        )
        turned = embedding or bool(config.get("fan_in_fan_out"))
        out, into = shape[::-1] if turned else shape
        if A is None or B is None or (A.shape, B.shape) != ((rank, into), (out, rank)):
            what = (
                f"A {A and A.shape} and B {B and B.shape}, but rank {rank} in {CONFIG} and a "
                f"weight of {shape}"
            )
            raise CheckpointError(
                f"{self.folder}: LoRA on {module} has {what}: it belongs to another base, or "
                "was not saved whole"
            )
        return LowRank(
            A,
            B,
            alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
            turned,
            parts.get("lora_magnitude_vector"),
        )

    def by_pattern(self, patterns: str, default: str, module: str) -> float:
        """As peft picks it: the first expression that fits the module's name or the end of it."""
        fits = (
            value
            for key, value in (self.config.get(patterns) or {}).items()
            if re.match(rf"(.*\.)?({key})$", module)
        )
        return next(fits, self.config[default])

    def deltas(self, module: str) -> Iterator[tuple[str, Delta]]:
        """(tensor name, what is done to it) for a module of the body."""
        parts, base = self.modules[module], self.base
        for part, place in parts.items():
            name = f"{module}.{'bias' if part.endswith('bias') else 'weight'}"
            own, weight = base.places.get(name), base.places.get(f"{module}.weight")
            if own is None or (part in _FULL and place.shape != own.shape):
                what = (
                    "which the base does not have"
                    if own is None
                    else f"to {place.shape}, the base's is {own.shape}"
                )
                raise CheckpointError(
                    f"{self.folder} changes {name}, {what}: give the base that it was "
                    f"trained on, not {base.folder}"
                )
            lora = weight and self.low_rank(module, weight.shape)
            if part in _FULL:
                yield name, FullDelta(place, own)
            elif lora is not None and (
                part != "lora_B.bias" or parts.keys().isdisjoint(("bias", "base_layer.bias"))
            ):
                yield name, FullDelta(place, None, lora.scaling) if part == "lora_B.bias" else lora
            else:
                raise CheckpointError(
                    f"{self.folder}: {module}.{part} cannot be carried over: train plain "
                    f"LoRA, {_OTHERWISE}"
                )

    def notes(self, names: Iterable[str], deltas: Iterable[Delta]) -> Iterator[str]:
        """What is no error but should be known of the donor."""
        config, given = self.config, self.base.folder
        named = str(config.get("base_model_name_or_path") or "")
        if (
            named
            and Path(named).name != given.name
            and f"models--{named.replace('/', '--')}" not in given.parts
        ):
            yield f"LoRA donor: its {CONFIG} names {named} as its base, {given} was given"
        for name in names:
            said = any(
                re.match(rf"(^|.*\.){saved}($|\..*)", name)
                for saved in config.get("modules_to_save") or ()
            )
            if not said and not any(
                part.startswith(("lora_", "token_adapter.trainable"))
                for part in self.modules.get(name, {})
            ):
                yield (
                    f"LoRA donor: {CONFIG} does not say that {name} was trained; its rows are "
                    "taken as they are"
                )
        if (
            self.base.tied
            and not config.get("ensure_weight_tying")
            and not {n.removesuffix(".weight") for n in HEADS} & self.modules.keys()
        ):
            yield (
                "LoRA donor: trained without ensure_weight_tying, so peft left the head as it "
                "was; the base ties it, the trained embedding is taken"
            )
        full = sum(isinstance(delta, FullDelta) and delta.minus is not None for delta in deltas)
        if full:
            yield (
                f"LoRA donor: {full} tensors of the body were trained in full; their differences "
                "from the base are added"
            )
