"""What adaptation leaves on disk: a patch (or a pointer to a whole checkpoint) and its
`lep.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lep_bench import hub
from lep_bench.errors import CheckpointError
from lep_bench.yamlfile import Frozen

SCHEMA_VERSION = 1
# Revision of our own code per stage: raise one by hand when a change to that stage changes its
# outcome.
REVISIONS: dict[str, int] = {
    "vocabulary": 1,
    "init": 2,
    "instruct-init": 2,
    "donor": 1,
    "propagation": 3,
    "answers": 1,
    "tuning": 1,
    "score": 1,
}
PATCH = "patch.safetensors"
LEP = "lep.json"


class Parent(Frozen):
    """A model an artifact descends from: role (body, base, instruct, donor), where it is, hash of
    its tensors.
    """

    role: str
    name: str
    location: str
    revision: str | None = None
    digest: str = ""


class Lep(Frozen):
    """`lep.json`: the lineage of an artifact. `resolved` holds every value that went into
    `fingerprint`.
    """

    schema_version: int = SCHEMA_VERSION
    model: str
    fingerprint: str
    kind: Literal["patch", "checkpoint"]
    stage: str
    parents: tuple[Parent, ...] = ()
    adapter: str | None = None
    params: dict[str, Any] = {}
    row_policy: str = "bytes-exact"
    seed: int = 0
    resolved: dict[str, Any] = {}
    rows: dict[str, int] = {}  # count of rows by kind: kept, new, special, added, padding
    vocabulary_size: int = 0  # real entries, without padding
    fit: dict[str, dict[str, Any]] = {}  # per matrix: embedding, head
    training: dict[str, Any] = {}  # characters, tokens, steps, flops, loss curve
    changed: tuple[str, ...] = ()  # tensor names in the patch
    tensors: dict[str, str] = {}  # tensor name -> hash, of the patch's tensors
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A model that can be loaded: `folder` has tokenizer, config and (kind patch) `PATCH`; `body`
    the whole checkpoint whose tensors the patch replaces. For a whole checkpoint folder == body."""

    folder: Path
    body: Path
    lep: Lep

    @property
    def name(self) -> str:
        return self.lep.model

    @property
    def patch(self) -> Path | None:
        """The safetensors file with the tensors that differ from the body's; None for a whole
        checkpoint.
        """
        return self.folder / PATCH if self.lep.kind == "patch" else None


def read_lep(folder: Path) -> Lep:
    """An artifact's `lep.json`, nothing else of it. Raises CheckpointError when it is missing or
    not ours.
    """
    try:
        return Lep.model_validate(json.loads((folder / LEP).read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, ValidationError) as error:
        raise CheckpointError(
            f"{folder} is no lep-bench artifact: {str(error).splitlines()[0]}"
        ) from error


def read_artifact(folder: Path) -> Artifact:
    """Read an artifact folder. Raises CheckpointError when `lep.json` is missing or not ours."""
    file, lep = folder / LEP, read_lep(folder)
    body = next((p.location for p in lep.parents if p.role == "body"), None)
    if lep.kind == "patch" and body is None:
        raise CheckpointError(f"{file}: a patch must name its body among the parents")
    return Artifact(folder, hub.locate(body) if lep.kind == "patch" and body else folder, lep)


def open_checkpoint(
    location: str,
    model: str,
    stage: str,
    fingerprint: str,
    revision: str | None = None,
    weights: bool = True,
) -> Artifact:
    """A complete checkpoint (base, instruct, baseline, the user's own) as an artifact; without
    `weights` its tokenizer alone. What is served by name only has no folder: `api:NAME` stands in
    its place. Raises CheckpointError."""
    served = hub.parse_served_name(location) is not None
    folder = (
        Path(location)
        if served
        else hub.locate(location, revision)
        if weights
        else hub.locate_tokenizer(location, revision)
    )
    if (folder / PATCH).is_file():
        return read_artifact(folder)
    lep = Lep(
        model=model,
        fingerprint=fingerprint,
        kind="checkpoint",
        stage=stage,
        vocabulary_size=0 if served else count_entries(folder),
        parents=(Parent(role="body", name=model, location=location, revision=revision),),
    )
    return Artifact(folder, folder, lep)


def count_entries(folder: Path) -> int:
    """Highest token id + 1 of a tokenizer.json; config.json's vocab_size where there is none."""
    file = folder / "tokenizer.json"
    try:
        if not file.is_file():
            return int(
                json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
            )
        data = json.loads(file.read_text(encoding="utf-8"))
        vocab = data["model"]["vocab"]
        ids = [len(vocab) - 1] if isinstance(vocab, list) else list(vocab.values())
        return max([*ids, *(token["id"] for token in data.get("added_tokens", ()))]) + 1
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: not a tokenizer this can read: {type(error).__name__}: {error}"
        ) from error
