"""A model's tensors on disk, whole checkpoint or body + patch. Rows are read on demand, never the
whole model.
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
from lep_bench.records.artifact import LEP, Artifact, read_artifact
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
    """Tensors by name. `folder` holds config and tokenizer. `body` holds the shards; for a patch it
    is another folder.
    """

    folder: Path
    body: Path
    config: dict[str, Any]
    places: dict[str, shards.TensorPlace]

    @classmethod
    def open(cls, folder: Path | Artifact) -> Checkpoint:
        """Open a Hugging Face checkpoint or an artifact. A patch's tensors replace its body's.

        Raises CheckpointError in one line for a folder that is no checkpoint, pickled weights, a
        missing shard or a truncated file.
        """
        artifact = folder if isinstance(folder, Artifact) else _read_artifact(folder)
        if artifact is not None and artifact.patch is not None:
            body = cls.open(artifact.body)
            places = {**body.places, **shards.read_places(artifact.patch)}
            return cls(artifact.folder, body.body, hub.read_config(artifact.folder), places)
        root = folder.folder if isinstance(folder, Artifact) else folder
        if not root.is_dir():
            raise CheckpointError(f"{root}: no such folder")
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
        """Where a tensor is stored. Raises CheckpointError for an unknown name."""
        if name not in self.places:
            raise CheckpointError(
                f"{self.folder} has no tensor {name!r} among its {len(self.places)}"
            )
        return self.places[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.place(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return self.place(name).dtype

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor in its dtype."""
        return self.place(name).read()

    def gather(self, name: str, ids: np.ndarray) -> torch.Tensor:
        """[n, d] rows `ids` in the tensor's dtype."""
        return self.place(name).gather(ids)

    def blocks(self, name: str, rows: int = 8192) -> Iterator[tuple[int, torch.Tensor]]:
        """(start, float64 rows [n, d]) over all rows, in order."""
        place = self.place(name)
        for start in range(0, place.shape[0], rows):
            yield start, place.rows(start, min(start + rows, place.shape[0])).to(torch.float64)

    @cached_property
    def embedding_name(self) -> str:
        """The input embedding's tensor name. Raises CheckpointError for none or several."""
        names = [
            name
            for ending in EMBEDDINGS
            for name in self.places
            if name == ending or name.endswith("." + ending)
        ]
        if len(names) != 1:
            raise CheckpointError(
                f"{self.folder}: {len(names)} tensors look like the input embedding, exactly one "
                f"is needed; names end in {', '.join(EMBEDDINGS[:3])}"
            )
        return names[0]

    @cached_property
    def head_name(self) -> str | None:
        """The head's tensor name. None if it is tied to the input embedding."""
        names = [name for name in HEADS if name in self.places]
        tied = self.config.get("tie_word_embeddings")
        if tied is None:
            # The default differs between model classes, so the stored tensors decide.
            tied = not names
        if tied:
            return None
        if not names:
            raise CheckpointError(
                f"{self.folder}: config.json says the head is not tied, but there is no "
                f"{HEADS[0]}: the checkpoint is not complete"
            )
        return names[0]

    @property
    def tied(self) -> bool:
        return self.head_name is None

    def matrix_names(self) -> dict[str, str]:
        """Tensor names of ``embedding`` and, unless tied, ``head``."""
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
        """All tensors but embedding and head. A stale head beside tied weights is left out too."""
        return [name for name in self.names() if name != self.embedding_name and name not in HEADS]

    def digests(self) -> dict[str, str]:
        """name -> hash of dtype, shape and bytes, the same as `patch.tensor_digest` gives."""
        return {name: digest_tensor(self.places[name]) for name in self.names()}

    @cached_property
    def digest(self) -> str:
        """One hash for all tensors."""
        return files.digest(self.digests())


def locate_checkpoint(location: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: a path, ``builtin:mini-llama/base`` or a Hub id. Raises
    CheckpointError in one line.
    """
    return hub.locate(str(location), revision)


def digest_tensor(place: shards.TensorPlace) -> str:
    """Hash of a tensor on disk. A process reads each tensor once per state of its files."""
    return _digest_tensor(place, tuple(map(files.file_state, place.files)))


@cache
def _digest_tensor(place: shards.TensorPlace, states: tuple[files.FileState, ...]) -> str:
    hasher = new_digest(dtype_name(place.dtype), place.shape)
    for chunk in place.chunks():
        hasher.update(chunk)
    return hasher.hexdigest()[: files.LENGTH]


def _read_artifact(folder: Path) -> Artifact | None:
    return read_artifact(folder) if (folder / LEP).is_file() else None
