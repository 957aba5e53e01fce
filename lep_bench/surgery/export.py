"""An artifact as a complete Hugging Face checkpoint: unchanged shards linked, changed ones
streamed, JSON written.
"""

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

# remote code and licences travel with the weights they belong to
_OWN_CODE = ("*.py", "LICENSE*", "NOTICE*")
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)


def export_checkpoint(artifact: Artifact, out: Path) -> Path:
    """Write the model of `artifact` to `out`, whole or not at all, and return `out`.

    Shards in which nothing changed are hard links to the body's (to the file itself, not to the Hub
    cache's symlink) or copies on another file system; JSON files are never linked, since editing
    one would edit the body's. Raises CheckpointError when the body is gone or damaged or the result
    breaks an invariant (see `check`), LepBenchError when `out` exists or its disk has too little
    room (before anything is written).
    """
    model = Checkpoint.open(artifact)
    body = Checkpoint.open(artifact.body)
    dropped = {name for name in body.places if name in HEADS} if model.tied else set()
    need_space(out, _bytes_to_write(model, body, dropped, out))
    with new_folder(out) as folder:
        _write_shards(folder, model, body, dropped)
        for name in (CONFIG, GENERATION_CONFIG, *hub.FAST_TOKENIZER_FILES):
            if (artifact.folder / name).is_file():
                shutil.copyfile(artifact.folder / name, folder / name)
        for pattern in _OWN_CODE:
            for file in artifact.body.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        lep = artifact.lep.model_copy(update={"kind": "checkpoint"})
        (folder / LEP).write_bytes(encode_json(lep.model_dump(mode="json")))
        refuse_errors(folder)
    return out


def _by_file(
    model: Checkpoint, body: Checkpoint, dropped: set[str]
) -> Iterator[tuple[Path, list[str], bool]]:
    """The body's files: the tensors in each, and whether one of them changed."""
    files: dict[Path, list[str]] = {}
    for name, place in body.places.items():
        files.setdefault(place.file, []).append(name)
    for file, names in files.items():
        yield (
            file,
            names,
            any(model.places[name] != body.places[name] or name in dropped for name in names),
        )


def _bytes_to_write(model: Checkpoint, body: Checkpoint, dropped: set[str], out: Path) -> int:
    there = next(p for p in out.absolute().parents if p.exists())
    total = 0
    for file, names, changed in _by_file(model, body, dropped):
        if changed:
            total += sum(model.places[name].nbytes for name in names if name not in dropped)
        elif file.stat().st_dev != there.stat().st_dev:
            total += file.stat().st_size
    return total + sum(
        place.nbytes for name, place in model.places.items() if name not in body.places
    )


def _write_shards(folder: Path, model: Checkpoint, body: Checkpoint, dropped: set[str]) -> None:
    """The body's files with the same names; a tensor that the body lacks goes into the first file
    that changes.
    """
    extra = [name for name in model.places if name not in body.places]
    weight_map: dict[str, str] = {}
    files = total = 0
    for file, names, changed in _by_file(model, body, dropped):
        files += 1
        if changed and extra:
            names, extra = names + extra, []
        elif not changed:
            link_or_copy(file, folder / file.name)
        written = [name for name in names if name not in dropped]
        if changed:
            shards.write_shard(
                folder / file.name, [_entry(name, model.places[name]) for name in written]
            )
        weight_map |= dict.fromkeys(written, file.name)
        total += sum(model.places[name].nbytes for name in written)
    if extra:
        raise CheckpointError(
            f"{model.folder}: the patch has tensors that its body {body.folder} lacks ("
            f"{extra[0]}) and changes none that it has"
        )
    if files > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link the file behind `source` (symlinks resolved), or copy it where links cannot go."""
    real = source.resolve(strict=True)
    try:
        os.link(real, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(real, target)


def _entry(name: str, place: shards.TensorPlace) -> shards.TensorEntry:
    return shards.TensorEntry(name, place.code, place.shape, place.nbytes, place.chunks())
