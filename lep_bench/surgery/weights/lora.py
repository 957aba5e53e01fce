"""Donors stored as a peft LoRA folder: read the trained matrices as a checkpoint, and merge the
LoRA into another body. (A LoRA adapter is not an adapter of lep-bench.)

The trained embeddings are propagated like any donor's. "If the donor's CPT also trained LoRA
adapters, these are merged onto the result afterwards" (arXiv 2412.21140). Nothing is copied:
matrices are read from the peft folder.

Merging changes one tensor at a time, in float32 or finer, and rounds once.
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
# Beside a resized matrix `X.weight` peft saves the untrained original, and the trained one again.
_DOUBLES = (".original_module.", ".modules_to_save.")
_ROWS = "token_adapter.trainable_tokens_delta"  # whole rows, despite the name
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
# Initialisations that do not change the base's weights. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA do.
_PLAIN = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_ALTERNATIVE = (
    "or merge it with peft's merge_and_unload() and give the whole model with --discard-donor-body"
)
_TRAIN_BOTH = (
    "train with modules_to_save=['embed_tokens', 'lm_head'] and save with save_pretrained(DIR, "
    "save_embedding_layers=True)"
)


@dataclass(frozen=True)
class LowRank:
    """W + scaling B A, with A [r, in] and B [out, r]. W is [out, in], or [in, out] if `transposed`
    (embeddings, GPT-2's Conv1D).

    With `magnitude` [out] (DoRA, arXiv 2402.09353) the weights of every output are then scaled to
    that norm.
    """

    A: TensorPlace
    B: TensorPlace
    scaling: float
    transposed: bool
    magnitude: TensorPlace | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the parts are stored in."""
        parts = (self.A, self.B, self.magnitude)
        return tuple(dict.fromkeys(part.file for part in parts if part is not None))

    def merge_into(
        self, weight: torch.Tensor, ids: np.ndarray | slice = slice(None)
    ) -> torch.Tensor:
        """The changed `weight` in its dtype. `weight` is the whole tensor, or its rows `ids`."""
        exact = torch.promote_types(weight.dtype, torch.float32)
        A, B = self.A.read().to(exact), self.B.read().to(exact)
        left, right = (A.T, B.T) if self.transposed else (B, A)
        # Contiguous, so that LoRA tied over embedding and head gives the same bits in both.
        result = torch.addmm(
            weight.to(exact), left[ids].contiguous(), right.contiguous(), alpha=self.scaling
        )
        if self.magnitude is not None:
            norms = torch.linalg.vector_norm(result, dim=0 if self.transposed else 1)
            target = self.magnitude.read().to(exact)
            result *= target / norms if self.transposed else (target[ids] / norms)[:, None]
        return result.to(weight.dtype)


@dataclass(frozen=True)
class FullDelta:
    """W + scaling (plus - minus): a tensor trained in full (plus) against the base's (minus), or
    the bias of LoRA's B (no minus).
    """

    plus: TensorPlace
    minus: TensorPlace | None
    scaling: float = 1.0

    def merge_into(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed `weight` in its dtype. Merged into the base's tensor it gives the trained
        one.
        """
        plus = self.plus.read()
        # Training a float32 base in bfloat16 rounds it first. That rounding is not training.
        minus = 0.0 if self.minus is None else self.minus.read().to(plus.dtype).to(torch.float64)
        return (weight.to(torch.float64) + self.scaling * (plus.to(torch.float64) - minus)).to(
            weight.dtype
        )


Delta = LowRank | FullDelta


def merge_deltas(body: Checkpoint, deltas: Mapping[str, Delta]) -> dict[str, patch.Stream]:
    """The changed tensors of `body` by name, each computed while it is written. Writing raises
    CheckpointError for a tensor that is not finite.
    """

    def blocks(name: str) -> Iterator[torch.Tensor]:
        merged = deltas[name].merge_into(body.read(name))
        if not torch.isfinite(merged).all():
            raise CheckpointError(
                f"{body.folder}: {name} with the donor's LoRA has NaN or values too large for "
                f"{patch.dtype_name(merged.dtype)}: is the LoRA damaged?"
            )
        yield merged

    return {
        name: patch.Stream(body.dtype(name), body.shape(name), partial(blocks, name))
        for name in deltas
    }


@dataclass(frozen=True)
class EditedPlace(TensorPlace):
    """A matrix on disk with LoRA, or with the rows `ids` trained separately. Reading gives the
    changed values.
    """

    lora: LowRank | None = None
    ids: tuple[int, ...] = ()
    trained: TensorPlace | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        lora_files = () if self.lora is None else self.lora.files
        trained_files = () if self.trained is None else self.trained.files
        return (*super().files, *lora_files, *trained_files)

    def gather(self, ids: np.ndarray) -> torch.Tensor:
        ids = np.asarray(ids, dtype=np.int64)
        rows = super().gather(ids)
        if self.lora is not None:
            rows = self.lora.merge_into(rows, ids)
        if self.trained is not None:
            trained_row = np.full(self.shape[0], -1)
            trained_row[list(self.ids)] = np.arange(len(self.ids))
            is_trained = trained_row[ids] >= 0
            trained_rows = self.trained.gather(trained_row[ids[is_trained]])
            rows[torch.from_numpy(is_trained)] = trained_rows.to(rows.dtype)
        return rows

    def chunks(self) -> Iterator[bytes]:
        step = max(1, shards.CHUNK // max(1, self.row_bytes))
        for start in range(0, self.shape[0], step):
            yield bytes(patch.raw_bytes(self.rows(start, min(start + step, self.shape[0]))))

    def read(self) -> torch.Tensor:
        return self.rows(0, self.shape[0])


@dataclass(frozen=True)
class _LoraCheckpoint(Checkpoint):
    @cached_property
    def digest(self) -> str:
        """One hash of the LoRA's config and weights. The tensors would not do: they leave out the
        changes to the body.
        """
        return files.files_digest([self.folder / CONFIG, self.folder / WEIGHTS], self.folder)


@dataclass(frozen=True)
class LoraDonor:
    """checkpoint: the base's body, the trained matrices and the LoRA's tokenizer. deltas: changes
    to the body by tensor name. notes: for lep.json.
    """

    checkpoint: Checkpoint
    deltas: Mapping[str, Delta]
    notes: tuple[str, ...]


def is_lora(folder: Path) -> bool:
    """Whether a folder holds a peft adapter and no whole model. `open_donor` may refuse it."""
    return (folder / CONFIG).is_file() and not any(folder.glob("model*.safetensors"))


def open_donor(folder: Path, base: Checkpoint) -> LoraDonor:
    """Read the peft LoRA in `folder`, trained on `base` with its embeddings and a tokenizer in the
    same folder.

    Raises CheckpointError in one line for pickled weights, another kind of peft adapter, a LoRA
    that does not fit the base, or one without trained embeddings or tokenizer.
    """
    reader = _Reader(folder, _read_config(folder), _read_modules(folder), base)
    # The embedding comes first.
    names = [name.removesuffix(".weight") for name in base.matrix_names().values()]
    heads = (name.removesuffix(".weight") for name in HEADS)
    trained = {*names, *heads} & reader.modules.keys()
    if not trained:
        raise CheckpointError(
            f"{folder} holds no trained embeddings, so there is nothing to propagate: "
            f"{_TRAIN_BOTH}; to apply LoRA alone, use peft"
        )
    matrices = {module: reader.find_matrix(module) for module in sorted({*names, *trained})}
    rows = {module: place.shape[0] for module, place in matrices.items()}
    if len(set(rows.values())) > 1:
        raise CheckpointError(
            f"{folder}: embedding and head have different numbers of rows ({rows}), so one of "
            f"them was not saved: {_TRAIN_BOTH}"
        )
    if base.tied and len({digest_tensor(place) for place in matrices.values()}) > 1:
        raise CheckpointError(
            f"{folder}: embedding and head differ, but the base {base.folder} ties them; train "
            "with ensure_weight_tying=True, without which peft trains only one of them"
        )
    deltas = {
        name: delta
        for module in sorted(reader.modules.keys() - trained)
        for name, delta in reader.iterate_deltas(module)
    }
    places = {**base.places, **{f"{module}.weight": matrices[module] for module in names}}
    config = {**base.config, "vocab_size": rows[names[0]]}
    checkpoint = _LoraCheckpoint(folder, base.body, config, places)
    return LoraDonor(checkpoint, deltas, tuple(reader.iterate_notes(names, deltas.values())))


def _read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json. Raises CheckpointError for a kind that cannot be merged, and for missing
    weights or tokenizer.
    """
    try:
        config = {
            # peft's defaults
            "r": 8,
            "lora_alpha": 8,
            **json.loads((folder / CONFIG).read_text(encoding="utf-8")),
        }
        kind = config["peft_type"]
        init = config.get("init_lora_weights", True)
        variants = [name for name in _VARIANTS if config.get(name)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} cannot be read as the config of a peft adapter: {error!r}"
        ) from error
    problem = ""
    if kind != "LORA":
        problem = (
            f"is a peft adapter of type {kind}, but only LORA can be carried over: train that, "
            f"{_ALTERNATIVE}"
        )
    elif variants or init not in _PLAIN:
        setting = (
            variants[0]
            if variants
            else f"init_lora_weights={init!r}, which changes the base's weights"
        )
        problem = (
            f"was trained with {setting}, and cannot be carried over: train plain LoRA, "
            f"{_ALTERNATIVE}"
        )
    elif not (folder / WEIGHTS).is_file():
        convert = (
            f"safetensors.torch.save_file(torch.load('{PICKLED}', weights_only=True), '{WEIGHTS}')"
        )
        problem = (
            f"has no {WEIGHTS}. A pickled {PICKLED} can run code when it is read; convert it "
            f"safely with {convert}"
        )
    elif not any((folder / name).is_file() for name in hub.TOKENIZER_MARKERS):
        problem = (
            f"has no tokenizer ({hub.TOKENIZER_MARKERS[0]}): copy the one that it was trained "
            "with into it"
        )
    if problem:
        raise CheckpointError(f"{folder} {problem}")
    return config


def _read_modules(folder: Path) -> dict[str, dict[str, TensorPlace]]:
    """module -> part (``lora_A.weight``, ``weight``, ...) -> where it is stored."""
    modules: dict[str, dict[str, TensorPlace]] = {}
    for key, place in shards.read_places(folder / WEIGHTS).items():
        if any(double in key for double in _DOUBLES):
            continue
        match = _KEY.fullmatch(key)
        if match is None:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {key} is no part of plain LoRA, so it cannot be carried "
                f"over: train plain LoRA, {_ALTERNATIVE}"
            )
        modules.setdefault(match[1], {})[match[2]] = place
    return modules


@dataclass(frozen=True)
class _Reader:
    folder: Path
    config: Mapping[str, Any]
    modules: Mapping[str, Mapping[str, TensorPlace]]
    base: Checkpoint

    def find_matrix(self, module: str) -> TensorPlace:
        """Embedding or head with the LoRA's changes to its rows. It is stored in the LoRA's folder,
        or else in the base's.
        """
        parts, config = self.modules.get(module, {}), self.config
        base_place = self.base.places.get(f"{module}.weight") or self.base.place(
            self.base.embedding_name
        )
        place = next((parts[part] for part in _STORED if part in parts), base_place)
        lora, trained = self.find_low_rank(module, place.shape), parts.get(_ROWS)
        ids = config.get("trainable_token_indices") or ()
        if isinstance(ids, dict):  # of two tied matrices only one may be named
            ids = next(
                (value for name, value in ids.items() if module.endswith(name)),
                next(iter(ids.values())),
            )
        if lora is not None and lora.magnitude is not None and lora.transposed:
            raise CheckpointError(
                f"{self.folder}: DoRA on {module} needs all rows at once and cannot be carried "
                "over: train it with plain LoRA"
            )
        if trained is None:
            return place if lora is None else EditedPlace(**vars(place), lora=lora)
        last = max(ids, default=0)
        if len(ids) != trained.shape[0] or last >= place.shape[0]:
            raise CheckpointError(
                f"{self.folder}: {trained.shape[0]} rows of {module} were trained, but {CONFIG} "
                f"names {len(ids)} ids up to {last} of {place.shape[0]} rows: save it again with "
                "save_pretrained(DIR, save_embedding_layers=True)"
            )
        return EditedPlace(**vars(place), ids=tuple(ids), trained=trained)

    def find_low_rank(self, module: str, shape: tuple[int, ...]) -> LowRank | None:
        """The LoRA on a module whose weight has this shape. None if there is none."""
        parts, config = self.modules.get(module, {}), self.config
        if not any(part.startswith("lora_") for part in parts):
            return None
        embedding = "lora_embedding_A" in parts
        A, B = (parts.get(f"lora_embedding_{x}" if embedding else f"lora_{x}.weight") for x in "AB")
        rank = self.pick_by_pattern("rank_pattern", "r", module)
        alpha = self.pick_by_pattern("alpha_pattern", "lora_alpha", module)
        transposed = embedding or bool(config.get("fan_in_fan_out"))
        out_width, in_width = shape[::-1] if transposed else shape
        if A is None or B is None or (A.shape, B.shape) != ((rank, in_width), (out_width, rank)):
            raise CheckpointError(
                f"{self.folder}: LoRA on {module} has A {A and A.shape} and B {B and B.shape}, but "
                f"rank {rank} in {CONFIG} and a weight of {shape}: it belongs to another base, or "
                "was not saved completely"
            )
        return LowRank(
            A,
            B,
            alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
            transposed,
            parts.get("lora_magnitude_vector"),
        )

    def pick_by_pattern(self, patterns: str, default: str, module: str) -> float:
        """The value of the first pattern that matches the module's name or its end, as in peft."""
        matches = (
            value
            for key, value in (self.config.get(patterns) or {}).items()
            if re.match(rf"(.*\.)?({key})$", module)
        )
        return next(matches, self.config[default])

    def iterate_deltas(self, module: str) -> Iterator[tuple[str, Delta]]:
        """(tensor name, its change) for a module of the body."""
        parts, base = self.modules[module], self.base
        for part, place in parts.items():
            name = f"{module}.{'bias' if part.endswith('bias') else 'weight'}"
            base_place, weight = base.places.get(name), base.places.get(f"{module}.weight")
            if base_place is None or (part in _FULL and place.shape != base_place.shape):
                mismatch = (
                    "which the base does not have"
                    if base_place is None
                    else f"to {place.shape}, the base's is {base_place.shape}"
                )
                raise CheckpointError(
                    f"{self.folder} changes {name}, {mismatch}: give the base that it was trained "
                    f"on, not {base.folder}"
                )
            lora = None if weight is None else self.find_low_rank(module, weight.shape)
            if part in _FULL:
                yield name, FullDelta(place, base_place)
            elif lora is not None and (
                part != "lora_B.bias" or parts.keys().isdisjoint(("bias", "base_layer.bias"))
            ):
                yield name, FullDelta(place, None, lora.scaling) if part == "lora_B.bias" else lora
            else:
                raise CheckpointError(
                    f"{self.folder}: {module}.{part} cannot be carried over: train plain LoRA, "
                    f"{_ALTERNATIVE}"
                )

    def iterate_notes(self, names: Iterable[str], deltas: Iterable[Delta]) -> Iterator[str]:
        """What a user should know about the donor although it is no error."""
        config, folder = self.config, self.base.folder
        base_name = str(config.get("base_model_name_or_path") or "")
        if (
            base_name
            and Path(base_name).name != folder.name
            and f"models--{base_name.replace('/', '--')}" not in folder.parts
        ):
            yield f"LoRA donor: its {CONFIG} names {base_name} as its base, not {folder}"
        for name in names:
            is_saved = any(
                re.match(rf"(^|.*\.){saved}($|\..*)", name)
                for saved in config.get("modules_to_save") or ()
            )
            if not is_saved and not any(
                part.startswith(("lora_", "token_adapter.trainable"))
                for part in self.modules.get(name, {})
            ):
                yield (
                    f"LoRA donor: {CONFIG} does not say that {name} was trained; its rows are used "
                    "unchanged"
                )
        if (
            self.base.tied
            and not config.get("ensure_weight_tying")
            and not {n.removesuffix(".weight") for n in HEADS} & self.modules.keys()
        ):
            yield (
                "LoRA donor: trained without ensure_weight_tying, so peft did not train the head; "
                "the base ties it, so the trained embedding is used for both"
            )
        full = sum(isinstance(delta, FullDelta) and delta.minus is not None for delta in deltas)
        if full:
            yield (
                f"LoRA donor: {full} tensors of the body were trained in full; their differences "
                "from the base are added"
            )
