"""Export an artifact as a complete Hugging Face checkpoint."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lep_bench import hub
from lep_bench.errors import CheckpointError
from lep_bench.files import need_space, new_folder
from lep_bench.hub import INDEX
from lep_bench.records.artifact import LEP, Artifact
from lep_bench.surgery.check import refuse_errors
from lep_bench.surgery.weights import shards
from lep_bench.surgery.weights.checkpoint import HEADS, Checkpoint
from lep_bench.surgery.weights.patch import CONFIG, GENERATION_CONFIG, encode_json

# Remote code and licences are copied along with the weights.
_COMPANIONS = ("*.py", "LICENSE*", "NOTICE*")
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)


def export_checkpoint(artifact: Artifact, out: Path) -> Path:
    """Write the model of `artifact` to `out`, whole or not at all, and return `out`.

    Unchanged shards are hard-linked to the body's files (not to the Hub cache's symlinks), or
    copied to another file system. Changed shards are streamed. JSON files are never linked, because
    editing one would edit the body's. Raises CheckpointError if the body is missing or damaged, or
    if the result breaks an invariant (see `check`). Raises LepBenchError before writing anything if
    `out` exists or its disk has too little room.
    """
    model = Checkpoint.open(artifact)
    body = Checkpoint.open(artifact.body)
    dropped = {name for name in body.places if name in HEADS} if model.tied else set()
    need_space(out, _count_bytes_to_write(model, body, dropped, out))
    with new_folder(out) as folder:
        _write_shards(folder, model, body, dropped)
        for name in (CONFIG, GENERATION_CONFIG, *hub.FAST_TOKENIZER_FILES):
            if (artifact.folder / name).is_file():
                shutil.copyfile(artifact.folder / name, folder / name)
        for pattern in _COMPANIONS:
            for file in artifact.body.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        lep = artifact.lep.model_copy(update={"kind": "checkpoint"})
        (folder / LEP).write_bytes(encode_json(lep.model_dump(mode="json")))
        refuse_errors(folder)
    return out


def _iterate_files(
    model: Checkpoint, body: Checkpoint, dropped: set[str]
) -> Iterator[tuple[Path, list[str], bool]]:
    """(file, names of its tensors, whether any of them changed) for each of the body's files."""
    files: dict[Path, list[str]] = {}
    for name, place in body.places.items():
        files.setdefault(place.file, []).append(name)
    for file, names in files.items():
        yield (
            file,
            names,
            any(model.places[name] != body.places[name] or name in dropped for name in names),
        )


def _count_bytes_to_write(model: Checkpoint, body: Checkpoint, dropped: set[str], out: Path) -> int:
    parent = next(p for p in out.absolute().parents if p.exists())
    total = 0
    for file, names, changed in _iterate_files(model, body, dropped):
        if changed:
            total += sum(model.places[name].nbytes for name in names if name not in dropped)
        elif file.stat().st_dev != parent.stat().st_dev:
            total += file.stat().st_size
    return total + sum(
        place.nbytes for name, place in model.places.items() if name not in body.places
    )


def _write_shards(folder: Path, model: Checkpoint, body: Checkpoint, dropped: set[str]) -> None:
    """Write the body's files under the same names. Tensors that the body lacks go into the first
    file that changes.
    """
    extra = [name for name in model.places if name not in body.places]
    weight_map: dict[str, str] = {}
    files = total = 0
    for file, names, changed in _iterate_files(model, body, dropped):
        files += 1
        if changed and extra:
            names, extra = names + extra, []
        elif not changed:
            link_or_copy(file, folder / file.name)
        written = [name for name in names if name not in dropped]
        if changed:
            shards.write_shard(
                folder / file.name, [_make_entry(name, model.places[name]) for name in written]
            )
        weight_map |= dict.fromkeys(written, file.name)
        total += sum(model.places[name].nbytes for name in written)
    if extra:
        raise CheckpointError(
            f"{model.folder}: the patch has tensors that its body {body.folder} lacks "
            f"({extra[0]}), and changes no tensor of the body"
        )
    if files > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link `source` (symlinks resolved) as `target`, or copy it where links do not work."""
    file = source.resolve(strict=True)
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(file, target)


def _make_entry(name: str, place: shards.TensorPlace) -> shards.TensorEntry:
    return shards.TensorEntry(name, place.code, place.shape, place.nbytes, place.chunks())
