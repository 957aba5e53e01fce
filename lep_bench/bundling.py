"""Make a bundle: list what suites need, find it on the Hub or in a folder, store and prove it."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lep_bench import __version__, hub
from lep_bench import bundle as bundles
from lep_bench.bundle import Bundle, BundleEntry, BundleFile, Kind
from lep_bench.config.models import NamedCheckpoint
from lep_bench.errors import CheckpointError, LepBenchError, TaskError, count_noun
from lep_bench.files import (
    UNFINISHED,
    explain_disk_errors,
    file_sha256,
    need_space,
    shipped_folder,
    write_text,
)
from lep_bench.tasks import TaskFile

CARD = "README.md"
DICTIONARY = "pymorphy3_dicts_ru"
# Names of the datasets library for rows that stand in the task's own folder.
PACKAGED = ("json", "csv", "parquet", "text", "arrow")


@dataclass(frozen=True)
class DatasetPart:
    """A split of a config of a dataset: the files that are `named`, if all are there (also in
    data/), else those that the first fitting pattern gives. `sha256` of the files one after the
    other, where a task pins it."""

    config: str
    split: str
    patterns: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    sha256: str | None = None

    def choose_files(self, names: Sequence[str]) -> list[str]:
        """Its files among a repository's, in order; none where it is not there."""
        named = [
            next((folder + name for folder in ("", "data/") if folder + name in names), "")
            for name in self.named
        ]
        if named and all(named):
            return named
        for pattern in self.patterns:
            fitting = sorted(
                name
                for name in names
                if name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)
            )
            if fitting and pattern.split("/")[-1] not in self.named:
                return fitting
        return []


@dataclass(frozen=True)
class Need:
    """One thing that a suite reads. Of a dataset, tasks read `parts` themselves, and the datasets
    library reads `configs` (None: the only one)."""

    kind: Kind
    id: str
    revision: str | None = None
    parts: frozenset[DatasetPart] = frozenset()
    configs: frozenset[str | None] = frozenset()
    licence: str = "unknown"
    gated: bool = False
    bytes: int | None = None  # as far as a config says it


@dataclass(frozen=True)
class RemoteFile:
    """A file where it comes from. `sha256` or `blob` (git's hash) say what it must be, as far as
    that is known.
    """

    path: str
    bytes: int
    sha256: str | None = None
    blob: str | None = None

    def matches(self, path: Path) -> bool:
        """Whether the file at `path` has this size and hash."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        if self.sha256 is not None:
            return file_sha256(path) == self.sha256
        if self.blob is None:
            return True
        from huggingface_hub.utils.sha import git_hash

        return git_hash(path.read_bytes()) == self.blob  # the Hub keeps large files by sha256


@dataclass(frozen=True)
class LocatedNeed:
    """A need with its files, on the Hub or in a `folder`."""

    need: Need
    files: tuple[RemoteFile, ...]
    folder: Path | None = None
    commit: str | None = None
    licence: str = "unknown"
    gated: bool = False

    def target(self, root: Path) -> Path:
        """Where it is stored below `root`: in the cache, or what has no commit as plain files."""
        if self.commit:
            return bundles.snapshot_folder(root, self.need.kind, self.need.id, self.commit)
        return bundles.entry_folder(root, self.need.kind, self.need.id)

    def is_stored(self, root: Path) -> bool:
        """Whether all its files are below `root` already, with the right hashes."""
        return all(file.matches(self.target(root) / file.path) for file in self.files)


def list_dataset_needs(
    tasks: Sequence[TaskFile], folders: Sequence[Path], metadata: dict[str, Any]
) -> list[Need]:
    """The datasets that tasks read. Raises TaskError for a task that cannot be built, LepBenchError
    for revisions that clash.
    """
    from lep_bench.evaluate.lmeval import list_files

    needs: list[Need] = []
    for task in tasks:
        listed = list_files(task, folders, metadata) if task.own_class else None
        for row in listed or ():
            try:
                part = DatasetPart(
                    row["config"],
                    row["split"],
                    tuple(row["patterns"]),
                    tuple(row["named"]),
                    row["sha256"],
                )
                needs.append(
                    Need(
                        "dataset",
                        row["dataset"],
                        row["revision"],
                        frozenset([part]),
                        licence=row["licence"],
                    )
                )
            except KeyError as error:
                raise TaskError(
                    f"{task.path}: files() of the task's class gives no {error}: the bundle "
                    "cannot know what it reads"
                ) from error
        name = task.dataset[0] if task.dataset and listed is None else None
        if name and bundles.HUB_ID.fullmatch(name):
            needs.append(Need("dataset", name, task.revision, configs=frozenset([task.config])))
        elif name and name not in PACKAGED:
            raise LepBenchError(
                f"{task.path}: dataset_path {name!r} is no Hub id ORGANISATION/NAME: it "
                "cannot be stored"
            )
    if needs and any(task.own_class for task in tasks):
        needs.append(Need("dictionaries", DICTIONARY, _find_version(DICTIONARY)))
    return merge_needs(needs)


def list_model_needs(checkpoints: Iterable[NamedCheckpoint]) -> list[Need]:
    """The Hub's checkpoints among those that a plan reads. Raises LepBenchError for one id at two
    revisions.
    """
    return merge_needs(
        Need(
            "model",
            c.location,
            c.revision,
            gated=c.gated,
            bytes=c.parameters and c.parameters * 2,
        )
        for c in checkpoints
        if hub.find_local(c.location) is None
    )


def merge_needs(needs: Iterable[Need]) -> list[Need]:
    """Each id once, with all that is read of it. Raises LepBenchError where it is pinned to two
    revisions.
    """
    merged: dict[tuple[Kind, str], Need] = {}
    for need in needs:
        old = merged.setdefault((need.kind, need.id), need)
        if old.revision != need.revision:
            raise LepBenchError(
                f"{need.id} is needed at revision {old.revision} and at {need.revision}: a "
                "bundle holds one; bundle them apart"
            )
        merged[need.kind, need.id] = replace(
            old,
            parts=old.parts | need.parts,
            configs=old.configs | need.configs,
            licence=need.licence if old.licence == "unknown" else old.licence,
        )
    return list(merged.values())


def keep_revisions(needs: Iterable[Need], root: Path) -> list[Need]:
    """The needs, with what has no pinned revision at the commit that the folder holds already.

    Raises LepBenchError where the folder holds another revision than the pinned one, and for a
    bundle of version 0.1.0: it is read, but not completed.
    """
    old, kept = bundles.read_manifest(root), []
    if old is not None and old.schema_version < bundles.SCHEMA_VERSION:
        raise LepBenchError(
            f"{root} was made by lep-bench {old.lep_bench} in an older layout: it can be read, but "
            f"not completed; make it anew: {bundles.render_command(old.suites, 'NEW-DIR')}"
        )
    for need in needs:
        entry = old.entry(need.kind, need.id) if old else None
        commit = entry.commit if entry else None
        if entry and commit and not entry.is_at(need.revision):
            raise LepBenchError(
                f"{root} holds {need.id} at {commit}, the suite pins {need.revision}: "
                "choose another folder for it"
            )
        kept.append(replace(need, revision=commit) if commit and not need.revision else need)
    return kept


def locate_dictionaries(need: Need) -> LocatedNeed:
    """The lemmatiser's dictionaries as they are installed here. Raises CheckpointError when they
    are not.
    """
    spec = importlib.util.find_spec(need.id)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"{need.id} is not installed: pip install pymorphy3, or store it with --wheels"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    files = [
        RemoteFile(path.name, path.stat().st_size, file_sha256(path))
        for path in sorted(folder.iterdir())
        if path.is_file()
    ]
    return LocatedNeed(need, tuple(files), folder, licence="MIT")


def locate_in_folder(root: Path, need: Need) -> LocatedNeed | None:
    """A need in a bundle, a mirror, or one dataset's own folder; None where the folder does not
    hold all of it, or holds another revision.

    It has a commit only where a manifest names that and all its files.
    """
    bundle = bundles.read_manifest(root)
    entry = bundle.entry(need.kind, need.id) if bundle else None
    commit = entry.commit if entry else None
    if entry and commit and not entry.is_at(need.revision):
        return None
    folder = bundles.entry_folder(root, need.kind, need.id, commit)
    if not folder.is_dir():
        if need.kind == "model" or not need.parts:
            return None
        folder = root
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    names = [name for name in names if "/." not in f"/{name}"]
    chosen = choose_files(need, names, _read_card(folder / CARD))
    if not chosen:
        return None
    hashes = {file.path: file.sha256 for file in entry.files} if entry else {}
    files = [
        RemoteFile(
            name, (folder / name).stat().st_size, hashes.get(name) or file_sha256(folder / name)
        )
        for name in chosen
    ]
    return LocatedNeed(
        need,
        tuple(files),
        folder,
        commit if hashes.keys() >= set(chosen) else None,
        *((entry.licence, entry.gated) if entry else (need.licence, need.gated)),
    )


def locate_on_hub(need: Need) -> LocatedNeed:
    """A need on the Hub, or on a mirror of it (HF_ENDPOINT), at the revision that it is pinned to.

    Raises CheckpointError for what is not there, not allowed or not reachable.
    """
    from huggingface_hub import HfApi, hf_hub_download

    with hub.explain_hub_errors(need.id, need.revision):
        revision = hub.resolve_commit(need.id, need.kind, need.revision)
        about: Any = HfApi().repo_info(
            need.id, repo_type=need.kind, revision=revision, files_metadata=True
        )
        if revision and len(revision) == 40 and about.sha != revision:
            raise CheckpointError(
                f"{need.id}: the Hub answers with commit {about.sha} for {revision}: "
                "this is not what the suite pins"
            )
        remote = {one.rfilename: one for one in about.siblings or ()}
        card = ""
        if need.configs and CARD in remote:
            card = _read_card(
                Path(hf_hub_download(need.id, CARD, repo_type=need.kind, revision=about.sha))
            )
    files = []
    for name in choose_files(need, list(remote), card):
        one = remote[name]
        sha256 = one.lfs.sha256 if one.lfs else None
        files.append(RemoteFile(name, one.size or 0, sha256, None if sha256 else one.blob_id))
    if not files:
        raise CheckpointError(_explain_absence(need, list(remote)))
    licence = getattr(about.card_data, "license", None) or next(
        (tag[8:] for tag in about.tags or () if tag.startswith("license:")), need.licence
    )
    licence = ", ".join(licence) if isinstance(licence, list) else str(licence)
    return LocatedNeed(need, tuple(files), None, about.sha, licence, bool(about.gated))


def choose_files(need: Need, names: Sequence[str], card: str) -> list[str]:
    """Which of a repository's files are stored. Raises LepBenchError for names that would leave the
    folder.
    """
    for name in names:
        bundles.join_relative(Path(), name)
    if need.kind == "model":
        chosen = [
            name
            for name in names
            if "/" not in name and any(fnmatch.fnmatchcase(name, p) for p in hub.MODEL_PATTERNS)
        ]
        if hub.INDEX in names or "model.safetensors" in names:
            # consolidated.safetensors is a second copy of the same weights
            chosen = [name for name in chosen if not name.startswith("consolidated")]
        return sorted(chosen) if any(name.endswith(".safetensors") for name in chosen) else []
    chosen = _choose_config_files(need.configs, names, card) if need.configs else []
    for part in need.parts:
        files = part.choose_files(names)
        if not files:
            return []
        chosen += files
    return sorted(set(chosen))


def _choose_config_files(
    configs: Iterable[str | None], names: Sequence[str], card: str
) -> list[str]:
    """The files that `datasets.load_dataset(FOLDER, CONFIG)` reads: the card, and the config's data
    files as the card names them. Without such a card, everything.

    The card's first config is kept too: the library looks there for the files' type.
    """
    visible = sorted(name for name in names if "/." not in f"/{name}")
    head = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    try:
        listed = (yaml.safe_load(head[1]) or {}).get("configs") or [] if head else []
        patterns = {config["config_name"]: _list_patterns(config) for config in listed}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return visible
    chosen = [name for name in configs if name in patterns]
    if not chosen or None in configs:
        return visible
    files = {CARD}
    for config in (next(iter(patterns)), *chosen):
        for pattern in patterns[config] or ("",):
            fitting = fnmatch.filter(visible, pattern.replace("**/", "*"))
            if not fitting:  # a folder, or a way to write it that is not known here
                return visible
            files.update(fitting)
    return sorted(files)


def _list_patterns(config: dict[str, Any]) -> list[str]:
    """The patterns of a card's config: `data_files` is one, a list of them, or of splits."""
    patterns: list[str] = []
    for item in _as_list(config.get("data_files")):
        patterns += _as_list(item["path"] if isinstance(item, dict) else item)
    return patterns


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _read_card(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _explain_absence(need: Need, names: Sequence[str]) -> str:
    if need.kind == "model":
        pickled = [name for pattern in hub.PICKLED for name in fnmatch.filter(names, pattern)]
        why = (
            f"only pickled weights ({pickled[0]}), which can run code when they are read"
            if pickled
            else "no safetensors"
        )
        return (
            f"{need.id} has {why}: convert it once in an isolated environment and name the "
            "folder in the family"
        )
    missing = sorted(
        f"{part.config}/{part.split}" for part in need.parts if not part.choose_files(names)
    )
    return (
        f"{need.id} at {need.revision or 'main'} has no file for {', '.join(missing[:3])}: a "
        "script makes its rows, or the revision is another one"
    )


def store(
    located: Sequence[LocatedNeed], root: Path, tell: Callable[[str], None]
) -> tuple[list[BundleEntry], list[str]]:
    """Fetch what is not here yet. Returns entries of what is complete, and a line for each thing
    that cannot be had.

    Raises LepBenchError for what stops everything: no way to the Hub, no room, no right to write.
    """
    need_space(
        root,
        sum(
            file.bytes
            for one in located
            for file in one.files
            if not file.matches(one.target(root) / file.path)
        ),
    )
    entries, missing = [], []
    for one in located:
        word = "there" if one.is_stored(root) else "stored"
        try:
            entries.append(_store_need(one, root))
        except hub.HubUnreachableError as error:
            raise LepBenchError(
                f"{error}; what was stored is kept, the same command goes on"
            ) from error
        except CheckpointError as error:
            missing.append(str(error))
        else:
            proven = one.commit or one.need.kind == "dictionaries"
            tell(
                f"{word}: {one.need.kind} {one.need.id}: {count_noun(len(one.files), 'file')}, "
                f"{entries[-1].bytes:,} bytes"
                f"{'' if proven else ', a copy: no manifest proves its revision'}"
            )
    return entries, missing


def _store_need(one: LocatedNeed, root: Path) -> BundleEntry:
    need, folder = one.need, one.target(root)
    try:
        files = [_store_file(one, file, root) for file in one.files]
    finally:
        shutil.rmtree(root / ".locks", ignore_errors=True)  # of huggingface_hub
    for part in need.parts:
        if part.sha256 is None:
            continue
        names = part.choose_files([file.path for file in files])
        sha256 = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names))
        if sha256.hexdigest() != part.sha256:
            raise CheckpointError(
                f"{need.id}: {', '.join(names)}: sha256 {sha256.hexdigest()}, but the task pins "
                f"{part.sha256}: not the same rows"
            )
    if one.commit:
        _name_snapshot(one, root)
    return BundleEntry(
        kind=need.kind,
        id=need.id,
        revision=need.revision,
        commit=one.commit,
        licence=one.licence,
        gated=one.gated,
        files=tuple(files),
    )


def _store_file(one: LocatedNeed, file: RemoteFile, root: Path) -> BundleFile:
    from huggingface_hub import hf_hub_download

    path = bundles.join_relative(one.target(root), file.path)
    # A mirror that gets a manifest in place: its own files stay, right or wrong.
    source = one.folder / file.path if one.folder else None
    in_place = source is not None and source.resolve() == path.resolve()
    if not file.matches(path) and not in_place:
        with explain_disk_errors(path):
            _remove_file(path)  # huggingface_hub keeps a file that it knows, whatever it holds
            path.parent.mkdir(parents=True, exist_ok=True)
            if source is not None:
                work = path.with_name(f"{UNFINISHED}{path.name}")
                try:
                    shutil.copyfile(source, work)
                    work.replace(path)
                finally:
                    work.unlink(missing_ok=True)
            else:
                with hub.explain_hub_errors(one.need.id, one.commit):
                    hf_hub_download(
                        one.need.id,
                        file.path,
                        repo_type=one.need.kind,
                        revision=one.commit,
                        cache_dir=root,
                    )
    if not file.matches(path):
        if not in_place:
            _remove_file(path)
        raise CheckpointError(
            f"{one.need.id}: {file.path} is not what revision {one.commit or one.need.revision} "
            f"says ({'sha256' if file.sha256 else 'hash'} {file.sha256 or file.blob} "
            "expected): fetch again, or the revision was changed"
        )
    return _describe_file(path, file.path)


def _remove_file(path: Path) -> None:
    path.resolve().unlink(missing_ok=True)  # the blob that a cache's link leads to
    path.unlink(missing_ok=True)


def _describe_file(path: Path, name: str) -> BundleFile:
    return BundleFile(path=name, bytes=path.stat().st_size, sha256=file_sha256(path))


def _name_snapshot(one: LocatedNeed, root: Path) -> None:
    """Let a branch or tag lead to the snapshot, for every reader of the cache, and DIR/ORG/NAME of
    a dataset, for tasks. On a disk without links the rows are copied there.
    """
    from huggingface_hub.file_download import are_symlinks_supported

    need, snapshot = one.need, one.target(root)
    assert one.commit
    name = need.revision or "main"
    if not bundles.COMMIT.fullmatch(name):
        write_text(snapshot.parent.parent / "refs" / name, one.commit)
    if need.kind != "dataset":
        return
    link = bundles.entry_folder(root, need.kind, need.id)
    with explain_disk_errors(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        if not are_symlinks_supported(root):
            shutil.copytree(snapshot, link, dirs_exist_ok=True)
            return
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise LepBenchError(
                f"{link} is a folder that no bundle made: choose another folder for the bundle"
            )
        link.symlink_to(os.path.relpath(snapshot, link.parent), target_is_directory=True)


def list_requirements() -> list[str]:
    """What lep-bench needs, without its extras: as the checkout's pyproject.toml says it, else the
    installed package.
    """
    file = shipped_folder("configs").parent / "pyproject.toml"
    if file.is_file():
        return list(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"])
    return [
        need for need in importlib.metadata.requires("lep-bench") or () if "extra ==" not in need
    ]


def store_wheels(root: Path) -> BundleEntry:
    """A wheelhouse for this platform and Python: every requirement at its pinned version, and
    lep-bench itself.

    Raises LepBenchError with pip's last line when one cannot be had.
    """
    folder, checkout = root / bundles.WHEELS, shipped_folder("configs").parent
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    pins = checkout / "constraints.txt"
    pinned = ["-c", str(pins)] if pins.is_file() else []
    _run_pip("download", "--dest", str(folder), *pinned, *list_requirements())
    # Without a checkout, this lep-bench came as a wheel, and lies where that came from.
    if (checkout / "pyproject.toml").is_file():
        _run_pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(checkout))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return BundleEntry(
        kind="wheels",
        id=f"lep-bench {__version__}, Python {version}, {sys.platform}",
        licence="each its own",
        files=tuple(_describe_file(path, path.name) for path in sorted(folder.iterdir())),
    )


def _run_pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        why = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise LepBenchError(f"the wheelhouse cannot be made: pip {arguments[0]}: {why}")


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_manifest(root: Path, suites: Sequence[str], entries: Sequence[BundleEntry]) -> Bundle:
    """Write the manifest, whole, with what an earlier one of the same folder lists besides."""
    old = bundles.read_manifest(root)
    kept = {(entry.kind, entry.id): entry for entry in old.entries} if old else {}
    for entry in entries:
        before = kept.get((entry.kind, entry.id))
        if before is not None and before.commit == entry.commit:
            # another suite's files of the same dataset
            files = {file.path: file for file in (*before.files, *entry.files)}
            entry = entry.model_copy(update={"files": tuple(files[name] for name in sorted(files))})
        kept[entry.kind, entry.id] = entry
    bundle = Bundle(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        lep_bench=__version__,
        suites=tuple(dict.fromkeys((*(old.suites if old else ()), *suites))),
        entries=tuple(kept[key] for key in sorted(kept)),
    )
    bundle.write(root)
    return bundle
