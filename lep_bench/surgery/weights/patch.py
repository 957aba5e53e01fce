"""Patches on disk: the tensors that differ from the body's, the tokenizer, the configs and
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
MULTIPLE = 64  # matrices are padded to a multiple of this many rows, which kernels run faster on


@dataclass(frozen=True)
class Stream:
    """A tensor that is computed while it is written. `blocks()` gives its rows in order, as CPU
    tensors of `dtype`.
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
    """Write a patch, whole or not at all, with tokenizer files and configs copied from other
    folders.

    tensors: full tensors by the body's names. If the input embedding is among them (a name that
    ends in ``embed_tokens.weight``), its rows become config.json's vocab_size. lep: must name a
    parent of role "body"; `changed` and `tensors` are filled in here. Raises LepBenchError if `out`
    exists.
    """
    files = {
        name: (tokenizer_from / name).read_bytes()
        for name in hub.FAST_TOKENIZER_FILES
        if (tokenizer_from / name).is_file()
    }
    if "tokenizer.json" not in files:
        raise CheckpointError(
            f"{tokenizer_from} has no tokenizer.json: a patch needs a fast tokenizer"
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
    """Write a patch, whole or not at all, from its tensors and the contents of its other files
    (name -> bytes).

    `late` gives fields of `lep` that are known only after all tensors are written.
    """
    body = next((p.location for p in lep.parents if p.role == "body"), None)
    if body is None:
        raise CheckpointError(f"{out}: a patch must name its body among the parents")
    need_space(out, sum(tensor.nbytes for tensor in tensors.values()))
    digests: dict[str, str] = {}
    with new_folder(out) as folder:
        shards.write_shard(
            folder / PATCH, [_make_entry(name, tensors[name], digests) for name in tensors]
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


def _make_entry(
    name: str, tensor: torch.Tensor | Stream, digests: dict[str, str]
) -> shards.TensorEntry:
    """The tensor as an entry of a shard. Reading its last byte puts its hash into `digests`."""

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
    """The patch's tensors by the body's names, on the CPU. Empty for a whole checkpoint.

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
    """[V, d] -> [padded_size(V), d] in the same dtype. The added rows are the mean row, computed in
    float64.
    """
    rows = matrix.shape[0]
    total = torch.zeros(matrix.shape[1], dtype=torch.float64)
    for start in range(0, rows, 8192):
        total += matrix[start : start + 8192].to(torch.float64).sum(0)
    return torch.cat([matrix, (total / rows).to(matrix.dtype).expand(padded_size(rows) - rows, -1)])


def tensor_digest(tensor: torch.Tensor) -> str:
    """Hash of dtype, shape and bytes."""
    on_cpu = tensor.detach().to("cpu").contiguous()
    digest = new_digest(dtype_name(on_cpu.dtype), on_cpu.shape)
    digest.update(raw_bytes(on_cpu))
    return digest.hexdigest()[:LENGTH]


def new_digest(dtype: str, shape: tuple[int, ...] | torch.Size) -> hashlib._Hash:
    """The hash of a tensor before its bytes. Update it with the bytes in order."""
    return hashlib.sha256(f"{dtype}{list(shape)}".encode("ascii"))


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)


def dtype_name(dtype: torch.dtype) -> str:
    """``float16`` for ``torch.float16``."""
    return str(dtype).removeprefix("torch.")


def encode_json(value: object) -> bytes:
    """Readable UTF-8 JSON with a closing newline."""
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode("utf-8")
