"""Patches on disk: the tensors that differ from the body's, the tokenizer, the configs,
`lep.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lep_bench import hub
from lep_bench.errors import CheckpointError
from lep_bench.files import LENGTH, need_space, new_folder
from lep_bench.records.artifact import LEP, PATCH, Artifact, Lep
from lep_bench.surgery.weights import shards

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
MULTIPLE = 64  # rows are padded last, to a multiple of this: matrix kernels want aligned sizes


@dataclass(frozen=True)
class Stream:
    """A tensor that is made while it is written: `blocks()` gives its rows in order, as CPU tensors
    of `dtype`.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[torch.Tensor]]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_patch(
    out: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    lep: Lep,
    tokenizer_from: Path,
    config_from: Path,
) -> Artifact:
    """Write a patch whose tokenizer files and configs are copies of other folders' (a start
    artifact's, say).

    `tensors` maps the body's tensor names to full tensors; the input embedding is among them under
    any name that ends in ``embed_tokens.weight`` and its rows become config.json's vocab_size.
    `lep` must name a parent of role "body"; `changed` and `tensors` are filled in here. Whole or
    not at all; raises LepBenchError when `out` exists.
    """
    files = {
        name: (tokenizer_from / name).read_bytes()
        for name in hub.FAST_TOKENIZER_FILES
        if (tokenizer_from / name).is_file()
    }
    if "tokenizer.json" not in files:
        raise CheckpointError(
            f"{tokenizer_from} has no tokenizer.json: a patch needs the fast tokenizer beside it"
        )
    config = json.loads((config_from / CONFIG).read_text(encoding="utf-8"))
    rows = [t.shape[0] for name, t in tensors.items() if name.endswith("embed_tokens.weight")]
    if rows:
        config["vocab_size"] = rows[0]
    files[CONFIG] = encode_json(config)
    if (config_from / GENERATION_CONFIG).is_file():
        files[GENERATION_CONFIG] = (config_from / GENERATION_CONFIG).read_bytes()
    return write_artifact(out, tensors, files, lep)


def write_artifact(
    out: Path,
    tensors: Mapping[str, torch.Tensor | Stream],
    files: Mapping[str, bytes],
    lep: Lep,
    late: Callable[[], Mapping[str, Any]] = dict,
) -> Artifact:
    """Write a patch from its tensors and the ready contents of its other files (name -> bytes).

    `late` gives fields of `lep` that are known only when all tensors have been made. Whole or not
    at all.
    """
    body = next((p.location for p in lep.parents if p.role == "body"), None)
    if body is None:
        raise CheckpointError(f"{out}: a patch must name its body among the parents")
    need_space(out, sum(tensor.nbytes for tensor in tensors.values()))
    digests: dict[str, str] = {}
    with new_folder(out) as folder:
        shards.write_shard(
            folder / PATCH, [_entry(name, tensors[name], digests) for name in tensors]
        )
        for name, content in files.items():
            (folder / name).write_bytes(content)
        lep = lep.model_copy(
            update={
                "kind": "patch",
                "changed": tuple(sorted(tensors)),
                "tensors": dict(sorted(digests.items())),
                **late(),
            }
        )
        (folder / LEP).write_bytes(encode_json(lep.model_dump(mode="json")))
    return Artifact(out, hub.locate(body), lep)


def _entry(name: str, tensor: torch.Tensor | Stream, digests: dict[str, str]) -> shards.TensorEntry:
    """The tensor as it goes to disk; its hash stands in `digests` when its last byte has."""

    def chunks() -> Iterator[memoryview]:
        digest = new_digest(dtype_name(tensor.dtype), torch.Size(tensor.shape))
        for block in (
            tensor.blocks()
            if isinstance(tensor, Stream)
            else (tensor.detach().to("cpu").contiguous(),)
        ):
            view = raw_bytes(block)
            digest.update(view)
            yield view
        digests[name] = digest.hexdigest()[:LENGTH]

    return shards.TensorEntry(
        name, shards.NAMES[tensor.dtype], tuple(tensor.shape), tensor.nbytes, chunks()
    )


def load_tensors(artifact: Artifact) -> dict[str, torch.Tensor]:
    """The patch's tensors by the body's names, on the CPU; empty for a whole checkpoint.

    Raises CheckpointError for a damaged file.
    """
    if artifact.patch is None:
        return {}
    try:
        with safe_open(str(artifact.patch), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{artifact.patch} cannot be read ({error}): remove {artifact.folder} and run again"
        ) from error


def padded_size(rows: int) -> int:
    """`rows` rounded up to a multiple of `MULTIPLE`."""
    return -(-rows // MULTIPLE) * MULTIPLE


def pad_matrix(matrix: torch.Tensor) -> torch.Tensor:
    """[V, d] -> [padded_size(V), d]: the rows added last are the mean row (computed in float64),
    dtype kept.
    """
    rows = matrix.shape[0]
    total = torch.zeros(matrix.shape[1], dtype=torch.float64)
    for start in range(0, rows, 8192):
        total += matrix[start : start + 8192].to(torch.float64).sum(0)
    return torch.cat([matrix, (total / rows).to(matrix.dtype).expand(padded_size(rows) - rows, -1)])


def tensor_digest(tensor: torch.Tensor) -> str:
    """Hash of dtype, shape and bytes."""
    whole = tensor.detach().to("cpu").contiguous()
    digest = new_digest(dtype_name(whole.dtype), whole.shape)
    digest.update(raw_bytes(whole))
    return digest.hexdigest()[:LENGTH]


def new_digest(dtype: str, shape: tuple[int, ...] | torch.Size) -> hashlib._Hash:
    """A hash to which a tensor's bytes are still to be added, in order (blocks of rows will do)."""
    return hashlib.sha256(f"{dtype}{list(shape)}".encode("ascii"))


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def dtype_name(dtype: torch.dtype) -> str:
    """``float16`` for ``torch.float16``."""
    return str(dtype).removeprefix("torch.")


def encode_json(value: object) -> bytes:
    """Readable UTF-8 JSON with a closing newline."""
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode("utf-8")
