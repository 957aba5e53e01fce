"""Safetensors files, read in ranges and written as streams, so that no tensor has to fit in memory.

Format (huggingface/safetensors): 8 bytes little-endian header length, a JSON header {name: dtype,
shape, data_offsets}, then the tensors' bytes. Ranges are read by `pread` into a buffer, because
open memory maps of three 1-GB tensors peak at 3 GiB.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lep_bench import hub
from lep_bench.errors import CheckpointError

CHUNK = 1 << 24  # bytes per read of a streamed tensor
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NAMES = {value: key for key, value in TYPES.items()}


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor is stored: file, first byte, length in bytes, dtype (`code` as in the header)
    and shape.
    """

    file: Path
    start: int
    nbytes: int
    code: str
    shape: tuple[int, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the tensor's values come from."""
        return (self.file,)

    @property
    def dtype(self) -> torch.dtype:
        if self.code not in TYPES:
            raise CheckpointError(f"{self.file}: tensors of type {self.code} cannot be read")
        return TYPES[self.code]

    @property
    def row_bytes(self) -> int:
        return self.nbytes // self.shape[0] if self.shape and self.shape[0] else 0

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows start..stop (exclusive) in the file's dtype."""
        return self.gather(np.arange(start, stop))

    def gather(self, ids: np.ndarray) -> torch.Tensor:
        """[n, ...] rows `ids` in the file's dtype. Ids may be in any order and repeat. Each run of
        consecutive ids is one read.
        """
        unique, inverse = np.unique(np.asarray(ids, dtype=np.int64), return_inverse=True)
        if len(unique) and not (0 <= unique[0] and unique[-1] < self.shape[0]):
            raise IndexError(f"row {unique[-1]} of a matrix with {self.shape[0]} rows")
        buffer = bytearray(len(unique) * self.row_bytes)
        view, done = memoryview(buffer), 0
        with open(self.file, "rb", buffering=0) as file:
            for run in np.split(unique, np.flatnonzero(np.diff(unique) > 1) + 1):
                length = len(run) * self.row_bytes
                if length:
                    _fill(
                        file.fileno(),
                        view[done : done + length],
                        self.start + int(run[0]) * self.row_bytes,
                        self.file,
                    )
                done += length
        if not buffer:
            return torch.empty((len(unique), *self.shape[1:]), dtype=self.dtype)
        rows = torch.frombuffer(buffer, dtype=self.dtype).reshape(len(unique), *self.shape[1:])
        if np.array_equal(inverse, np.arange(len(unique))):
            return rows
        return rows[torch.from_numpy(inverse.astype(np.int64))]

    def chunks(self) -> Iterator[bytes]:
        """The tensor's bytes in order, `CHUNK` at a time."""
        with open(self.file, "rb", buffering=0) as file:
            for start in range(0, self.nbytes, CHUNK):
                buffer = bytearray(min(CHUNK, self.nbytes - start))
                _fill(file.fileno(), memoryview(buffer), self.start + start, self.file)
                yield bytes(buffer)

    def read(self) -> torch.Tensor:
        """The whole tensor in the file's dtype."""
        buffer = bytearray(self.nbytes)
        with open(self.file, "rb", buffering=0) as file:
            _fill(file.fileno(), memoryview(buffer), self.start, self.file)
        return (
            torch.frombuffer(buffer, dtype=self.dtype).reshape(self.shape)
            if buffer
            else torch.empty(self.shape, dtype=self.dtype)
        )


@dataclass(frozen=True)
class TensorEntry:
    """A tensor to write. `chunks` gives its bytes in order, and is read only while writing."""

    name: str
    code: str
    shape: tuple[int, ...]
    nbytes: int
    chunks: Iterable[bytes | memoryview]


def read_places(file: Path) -> dict[str, TensorPlace]:
    """The tensors of a safetensors file by name. Raises CheckpointError if it is missing, damaged
    or truncated.
    """
    begin, entries = hub.read_header(file)
    try:
        return {
            name: TensorPlace(
                file,
                begin + e["data_offsets"][0],
                e["data_offsets"][1] - e["data_offsets"][0],
                e["dtype"],
                tuple(e["shape"]),
            )
            for name, e in entries.items()
        }
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is no safetensors file ({error!r}): download it again"
        ) from error


def write_shard(file: Path, entries: list[TensorEntry]) -> None:
    """Write a safetensors file with the tensors in the order of `entries`."""
    head: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        head[entry.name] = {
            "dtype": entry.code,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(head, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the format requires data aligned to 8 bytes
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for entry in entries:
            written = sum(stream.write(chunk) for chunk in entry.chunks)
            assert written == entry.nbytes, (
                f"{entry.name}: {written} bytes instead of {entry.nbytes}"
            )


def _fill(descriptor: int, view: memoryview, offset: int, file: Path) -> None:
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise CheckpointError(hub.describe_truncation(file, offset + len(view), offset + done))
        done += count
