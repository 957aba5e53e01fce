"""Making a bundle: what a suite needs, storing it verified, and writing the manifest at the end."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lep_bench import __version__, bundle, hub
from lep_bench.bundle import Bundle, BundleEntry, BundleFile
from lep_bench.config.models import NamedCheckpoint
from lep_bench.errors import CheckpointError, LepBenchError, TaskError
from lep_bench.files import explain_disk_errors, file_sha256, need_space, shipped_folder, write_json
from lep_bench.origins import Copies, DatasetPart, LocatedNeed, Need, Remote, git_blob
from lep_bench.tasks import TaskFile

DICTIONARY = "pymorphy3_dicts_ru"
# of the datasets library: rows that stand in the task's own folder
PACKAGED = ("json", "csv", "parquet", "text", "arrow")


def of_tasks(
    tasks: Sequence[TaskFile], folders: Sequence[Path], metadata: dict[str, Any]
) -> list[Need]:
    """The datasets that tasks read. Raises TaskError for a task that cannot be built, LepBenchError
    for revisions that clash.
    """
    from lep_bench.evaluate import rows

    found: dict[str, Need] = {}
    for task in tasks:
        own = rows.list_files(task, folders, metadata) if task.own_class else None
        for given in own or ():
            try:
                part = DatasetPart(
                    given["config"],
                    given["split"],
                    tuple(given["patterns"]),
                    tuple(given["named"]),
                    given["sha256"],
                )
                _add(
                    found,
                    Need(
                        "dataset",
                        given["dataset"],
                        given["revision"],
                        frozenset([part]),
                        licence=given["licence"],
                    ),
                )
            except KeyError as error:
                raise TaskError(
                    f"{task.path}: files() of the task's class gives no {error}: the bundle "
                    "cannot know what it reads"
                ) from error
        name = task.dataset[0] if task.dataset and own is None else None
        if name and bundle.HUB_ID.fullmatch(name):
            _add(found, Need("dataset", name, task.revision, configs=frozenset([task.config])))
        elif name and name not in PACKAGED:
            raise LepBenchError(
                f"{task.path}: dataset_path {name!r} is no Hub id ORGANISATION/NAME: it "
                "cannot be stored"
            )
    if any(task.own_class for task in tasks) and found:
        _add(found, Need("dictionaries", DICTIONARY, _installed(DICTIONARY)))
    return list(found.values())


def _add(found: dict[str, Need], need: Need) -> None:
    found[need.id] = joined(found.get(need.id), need)


def joined(old: Need | None, need: Need) -> Need:
    """Two needs of one id as one. Raises LepBenchError when they pin different revisions."""
    if old is None:
        return need
    if old.revision != need.revision:
        raise LepBenchError(
            f"{need.id} is wanted at revision {old.revision} and at {need.revision}: a "
            "bundle holds one; bundle them apart"
        )
    licence = need.licence if old.licence == "unknown" else old.licence
    return replace(
        old, parts=old.parts | need.parts, configs=old.configs | need.configs, licence=licence
    )


def of_models(checkpoints: Iterable[NamedCheckpoint]) -> list[Need]:
    """The Hub's checkpoints among those that a plan reads. Raises LepBenchError for one id at two
    revisions.
    """
    found: dict[str, Need] = {}
    for c in checkpoints:
        if hub.find_local(c.location) is None:
            _add(
                found,
                Need(
                    "model",
                    c.location,
                    c.revision,
                    gated=c.gated,
                    bytes=c.parameters and c.parameters * 2,
                ),
            )
    return list(found.values())


def dictionaries(need: Need) -> LocatedNeed:
    """The lemmatiser's dictionaries as they are installed here. Raises CheckpointError when they
    are not.
    """
    spec = importlib.util.find_spec(need.id)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"{need.id} is not installed: pip install pymorphy3, or store it with --wheels"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    return Copies(folder).found(
        replace(need, licence="MIT"),
        sorted(path.name for path in folder.iterdir() if path.is_file()),
    )


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def store(
    found: Sequence[LocatedNeed], root: Path, tell: Callable[[str], None]
) -> tuple[list[BundleEntry], list[str]]:
    """Fetch what is not here yet; entries of what is complete, and a line for each thing that
    cannot be had.

    Raises LepBenchError for what stops everything: no way to the Hub, no room, no right to write.
    """
    need = sum(file.bytes for one in found for file in one.files if not _is_here(one, file, root))
    need_space(root, need)
    entries, missing = [], []
    for one in found:
        word = "there" if here(one, root) else "stored"
        try:
            entries.append(_store(one, root))
        except hub.HubUnreachableError as error:
            raise LepBenchError(
                f"{error}; what was stored is kept, the same command goes on"
            ) from error
        except CheckpointError as error:
            missing.append(str(error))
        else:
            doubt = (
                ""
                if one.commit or one.need.kind == "dictionaries"
                else ", a copy: no manifest proves its revision"
            )
            files = f"{len(one.files)} file{'s' if one.files[1:] else ''}"
            tell(
                f"{word}: {one.need.kind} {one.need.id}: {files}, {entries[-1].bytes:,} "
                f"bytes{doubt}"
            )
    return entries, missing


def _store(found: LocatedNeed, root: Path) -> BundleEntry:
    folder = bundle.entry_folder(root, found.need.kind, found.need.id)
    try:
        made = [_stored(found, file, folder, root) for file in found.files]
    finally:
        # where huggingface_hub keeps its notes
        shutil.rmtree(folder / ".cache", ignore_errors=True)
    _pinned(found, root)
    return found.entry(made)


def _stored(found: LocatedNeed, file: Remote, folder: Path, root: Path) -> BundleFile:
    path = bundle.join_relative(folder, file.path)
    if not _is_here(found, file, root):
        with explain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            found.origin.fetch(found, file, folder)
        if not _is_here(found, file, root):
            if found.origin != Copies(folder):  # a mirror's own files stay, right or wrong
                path.unlink(missing_ok=True)
            raise CheckpointError(
                f"{found.need.id}: {file.path} is not what revision "
                f"{found.commit or found.need.revision} says "
                f"({'sha256' if file.sha256 else 'hash'} {file.sha256 or file.blob} "
                "expected): fetch again, or the revision was changed"
            )
    return BundleFile(
        path=path.relative_to(root).as_posix(), bytes=path.stat().st_size, sha256=file_sha256(path)
    )


def here(found: LocatedNeed, root: Path) -> bool:
    """Whether all its files are stored already."""
    return all(_is_here(found, file, root) for file in found.files)


def _is_here(found: LocatedNeed, file: Remote, root: Path) -> bool:
    path = bundle.join_relative(
        bundle.entry_folder(root, found.need.kind, found.need.id), file.path
    )
    if not path.is_file() or path.stat().st_size != file.bytes:
        return False
    if file.sha256 is not None:
        return file_sha256(path) == file.sha256
    return file.blob is None or git_blob(path) == file.blob


def _pinned(found: LocatedNeed, root: Path) -> None:
    """Raise CheckpointError for files whose hash a task pins otherwise."""
    folder = bundle.entry_folder(root, found.need.kind, found.need.id)
    for part in found.need.parts:
        if part.sha256 is None:
            continue
        names = part.files([file.path for file in found.files])
        made = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()
        if made != part.sha256:
            raise CheckpointError(
                f"{found.need.id}: {', '.join(names)}: sha256 {made}, but the task pins "
                f"{part.sha256}: not the same rows"
            )


def requirements() -> list[str]:
    """What lep-bench needs, without its extras: as the checkout's pyproject.toml says it, else the
    installed package.
    """
    file = shipped_folder("configs").parent / "pyproject.toml"
    if file.is_file():
        return list(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"])
    return [
        need for need in importlib.metadata.requires("lep-bench") or () if "extra ==" not in need
    ]


def wheels(root: Path) -> BundleEntry:
    """A wheelhouse for this platform and Python: every requirement at its pinned version, and
    lep-bench itself.

    Raises LepBenchError with pip's last line when one cannot be had.
    """
    folder, place = root / bundle.WHEELS, shipped_folder("configs").parent
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    pins = place / "constraints.txt"
    pinned = ["-c", str(pins)] if pins.is_file() else []
    _pip("download", "--dest", str(folder), *pinned, *requirements())
    # a checkout; else this lep-bench came as a wheel that is where it came from
    if (place / "pyproject.toml").is_file():
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(place))
    files = [
        BundleFile(
            path=f"{bundle.WHEELS}/{path.name}", bytes=path.stat().st_size, sha256=file_sha256(path)
        )
        for path in sorted(folder.iterdir())
    ]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return BundleEntry(
        kind="wheels",
        id=f"lep-bench {__version__}, Python {version}, {sys.platform}",
        licence="each its own",
        files=tuple(files),
    )


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        wrong = next(
            (line for line in said if line.startswith("ERROR")),
            said[-1] if said else "no reason given",
        )
        raise LepBenchError(f"the wheelhouse cannot be made: pip {arguments[0]}: {wrong}")


def write(root: Path, suites: Sequence[str], entries: Sequence[BundleEntry]) -> Bundle:
    """Write the manifest, whole, with what an earlier one of the same folder lists besides."""
    old = bundle.read_manifest(root)
    kept = {(entry.kind, entry.id): entry for entry in old.entries} if old else {}
    for entry in entries:
        before = kept.get((entry.kind, entry.id))
        # another suite's files of the same dataset
        if before is not None and before.commit == entry.commit:
            files = {file.path: file for file in (*before.files, *entry.files)}
            entry = entry.model_copy(update={"files": tuple(files[name] for name in sorted(files))})
        kept[entry.kind, entry.id] = entry
    made = Bundle(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        lep_bench=__version__,
        suites=tuple(dict.fromkeys((*(old.suites if old else ()), *suites))),
        entries=tuple(kept[key] for key in sorted(kept)),
    )
    write_json(root / bundle.MANIFEST, made.model_dump(mode="json"))
    return made


def keep_revisions(needs: Iterable[Need], root: Path) -> list[Need]:
    """What has no pinned revision stays at the commit that an earlier manifest of the folder names.

    Raises LepBenchError where the folder holds another revision than the pinned one.
    """
    old, kept = bundle.read_manifest(root), []
    for need in needs:
        entry = old.entry(need.kind, need.id) if old else None
        if entry is not None and entry.commit and not entry.is_at(need.revision):
            raise LepBenchError(
                f"{root} holds {need.id} at {entry.commit}, the suite pins {need.revision}: "
                "choose another folder for it"
            )
        kept.append(
            replace(need, revision=entry.commit)
            if entry and entry.commit and need.revision is None
            else need
        )
    return kept
