"""A model's tensors on disk, whole checkpoint or body + patch, read by rows and never all at
once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lep_bench import files, hub
from lep_bench.errors import CheckpointError
from lep_bench.records import artifact
from lep_bench.records.artifact import LEP, Artifact
from lep_bench.surgery.weights import shards
from lep_bench.surgery.weights.patch import dtype_name, new_digest

EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
MATRICES = ("embedding", "head")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name; `folder` holds config and tokenizer, `body` the shards (another folder for a
    patch).
    """

    folder: Path
    body: Path
    config: dict[str, Any]
    places: dict[str, shards.TensorPlace]

    @classmethod
    def open(cls, folder: Path | Artifact) -> Checkpoint:
        """Open a Hugging Face checkpoint, or an artifact (its patch over its body).

        Raises CheckpointError in one line for a folder that is no checkpoint, pickled weights, a
        missing shard, a truncated file.
        """
        found = folder if isinstance(folder, Artifact) else _as_artifact(Path(folder))
        if found is not None and found.patch is not None:
            body = cls.open(found.body)
            places = {**body.places, **shards.read_places(found.patch)}
            return cls(found.folder, body.body, hub.read_config(found.folder), places)
        root = found.folder if found is not None else Path(folder)
        if not root.is_dir():
            raise CheckpointError(f"{root}: there is no such folder")
        config = hub.read_config(root)
        places = {
            name: place
            for file in hub.list_weight_files(root)
            for name, place in shards.read_places(file).items()
        }
        return cls(root, root, config, places)

    @property
    def name(self) -> str:
        return self.folder.name

    def names(self) -> list[str]:
        return sorted(self.places)

    def place(self, name: str) -> shards.TensorPlace:
        """Where a tensor lies. Raises CheckpointError for an unknown name."""
        if name not in self.places:
            raise CheckpointError(
                f"{self.folder} has no tensor {name!r}: it has {len(self.places)} others"
            )
        return self.places[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.place(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return self.place(name).dtype

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor in its own dtype."""
        return self.place(name).read()

    def gather(self, name: str, ids: np.ndarray) -> torch.Tensor:
        """[n, d] the rows `ids` in their own dtype."""
        return self.place(name).gather(ids)

    def blocks(self, name: str, rows: int = 8192) -> Iterator[tuple[int, torch.Tensor]]:
        """(start, float64 [n, d]) over all rows, in order."""
        place = self.place(name)
        for start in range(0, place.shape[0], rows):
            yield start, place.rows(start, min(start + rows, place.shape[0])).to(torch.float64)

    @cached_property
    def embedding_name(self) -> str:
        """The input embedding's tensor name. Raises CheckpointError when there is none, or
        several.
        """
        found = [
            name
            for ending in EMBEDDINGS
            for name in self.places
            if name == ending or name.endswith("." + ending)
        ]
        if len(found) != 1:
            wanted = ", ".join(EMBEDDINGS[:3])
            raise CheckpointError(
                f"{self.folder}: {len(found)} tensors look like the input embedding, one is "
                f"needed; names end in {wanted}"
            )
        return found[0]

    @cached_property
    def head_name(self) -> str | None:
        """The head's tensor name; None when it is tied to the input embedding."""
        found = [name for name in HEADS if name in self.places]
        tied = self.config.get("tie_word_embeddings")
        if tied is None:
            # the default differs between model classes: what the file holds decides
            tied = not found
        if tied:
            return None
        if not found:
            raise CheckpointError(
                f"{self.folder}: config.json says the head is not tied, but there is no "
                f"{HEADS[0]}: it is not complete"
            )
        return found[0]

    @property
    def tied(self) -> bool:
        return self.head_name is None

    def matrix_names(self) -> dict[str, str]:
        """``embedding`` and, unless tied, ``head``: their tensor names."""
        head = {} if self.head_name is None else {"head": self.head_name}
        return {"embedding": self.embedding_name, **head}

    @property
    def rows(self) -> int:
        """Rows of the input embedding, padding included."""
        return self.shape(self.embedding_name)[0]

    @property
    def width(self) -> int:
        """Hidden size."""
        return self.shape(self.embedding_name)[1]

    def body_names(self) -> list[str]:
        """Every tensor but embedding and head (a stale head beside tied weights counts as head)."""
        return [name for name in self.names() if name != self.embedding_name and name not in HEADS]

    def digests(self) -> dict[str, str]:
        """name -> hash of dtype, shape and bytes; equal to `patch.tensor_digest` of the tensor
        read.
        """
        return {name: digest_tensor(self.places[name]) for name in self.names()}

    @cached_property
    def digest(self) -> str:
        """One hash for all tensors."""
        return files.digest(self.digests())


def locate_checkpoint(given: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: a path, ``builtin:mini-llama/base`` or a Hub id. Raises
    CheckpointError in one line.
    """
    return hub.locate(str(given), revision)


def digest_tensor(place: shards.TensorPlace) -> str:
    """Hash of a tensor on disk; remembered per file state within the process."""
    stat = place.file.stat()
    return _digest(place, stat.st_size, stat.st_mtime_ns)


@cache
def _digest(place: shards.TensorPlace, size: int, mtime_ns: int) -> str:
    hasher = new_digest(dtype_name(place.dtype), place.shape)
    for chunk in place.chunks():
        hasher.update(chunk)
    return hasher.hexdigest()[: files.LENGTH]


def _as_artifact(folder: Path) -> Artifact | None:
    # lep.json beside a whole checkpoint of ours is no reason to look for a patch.
    return artifact.read_artifact(folder) if (folder / LEP).is_file() else None
