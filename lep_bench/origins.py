"""Where the files of a bundle come from: the Hub, or a local folder in its layout; which of them
are wanted, and their hashes.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from lep_bench import bundle, hub
from lep_bench.bundle import BundleEntry, BundleFile, Kind
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.files import UNFINISHED, explain_disk_errors, file_sha256

CARD = "README.md"


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

    def files(self, names: Sequence[str]) -> list[str]:
        """Which of a repository's files it is, in order; none where it is not there."""
        named = [
            next((place + name for place in ("", "data/") if place + name in names), "")
            for name in self.named
        ]
        if named and all(named):
            return named
        for pattern in self.patterns:
            found = sorted(
                n
                for n in names
                if n.count("/") == pattern.count("/") and fnmatch.fnmatchcase(n, pattern)
            )
            if found and pattern.split("/")[-1] not in self.named:
                return found
        return []


@dataclass(frozen=True)
class Need:
    """One thing that a suite reads. Of a dataset: `parts` are read by tasks themselves, `configs`
    (None: the only one) by the datasets library."""

    kind: Kind
    id: str
    revision: str | None = None
    parts: frozenset[DatasetPart] = frozenset()
    configs: frozenset[str | None] = frozenset()
    licence: str = "unknown"
    gated: bool = False
    bytes: int | None = None  # as far as a config says it


@dataclass(frozen=True)
class Remote:
    """A file where it comes from. `sha256` or `blob` (git's hash) say what it must be, as far as
    that is known.
    """

    path: str
    bytes: int
    sha256: str | None = None
    blob: str | None = None


@dataclass(frozen=True)
class LocatedNeed:
    """A need with its files."""

    need: Need
    origin: Origin
    files: tuple[Remote, ...]
    commit: str | None = None
    licence: str = "unknown"
    gated: bool = False

    def entry(self, files: Iterable[BundleFile]) -> BundleEntry:
        """What the manifest says about it."""
        return BundleEntry(
            kind=self.need.kind,
            id=self.need.id,
            revision=self.need.revision,
            commit=self.commit,
            licence=self.licence,
            gated=self.gated,
            files=tuple(files),
        )


class Origin(Protocol):
    """Where files come from."""

    def fetch(self, found: LocatedNeed, file: Remote, folder: Path) -> None: ...


@dataclass(frozen=True)
class Copies:
    """A folder that files are copied from."""

    origin: Path

    def fetch(self, found: LocatedNeed, file: Remote, folder: Path) -> None:
        """Copy one file; nothing where the folder is copied to itself (a mirror that gets a
        manifest).
        """
        copy = bundle.join_relative(folder, file.path)
        if (self.origin / file.path).resolve() == copy.resolve():
            return
        work = copy.with_name(f"{UNFINISHED}{copy.name}")
        try:
            shutil.copyfile(self.origin / file.path, work)
            work.replace(copy)
        finally:
            work.unlink(missing_ok=True)

    def found(
        self, need: Need, names: Iterable[str], entry: BundleEntry | None = None
    ) -> LocatedNeed:
        """These files, hashed: a copy must equal its original, and that what its own manifest says
        (where it names them all).
        """
        held = {file.path: file.sha256 for file in entry.files} if entry else {}
        files, proven = [], entry is not None
        for name in names:
            path = self.origin / name
            known = next(
                (value for key, value in held.items() if key.endswith(f"{need.id}/{name}")), None
            )
            proven = proven and known is not None
            files.append(Remote(name, path.stat().st_size, known or file_sha256(path)))
        licence, gated = (entry.licence, entry.gated) if entry else (need.licence, need.gated)
        return LocatedNeed(
            need, self, tuple(files), entry.commit if entry and proven else None, licence, gated
        )


class Folder:
    """A local folder in the Hub's layout, with or without a manifest: a mirror, another bundle, or
    one dataset's own folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise LepBenchError(f"--data {root}: there is no such folder")
        self.root, self.bundle = root, bundle.read_manifest(root)

    def find(self, need: Need) -> LocatedNeed | None:
        """None where the folder does not hold all of it, or holds another revision."""
        entry = self.bundle.entry(need.kind, need.id) if self.bundle else None
        if entry is not None and entry.commit and not entry.is_at(need.revision):
            return None
        folder = bundle.entry_folder(self.root, need.kind, need.id)
        if not folder.is_dir():
            if need.kind == "model" or not need.parts:
                return None
            folder = self.root
        names = [
            path.relative_to(folder).as_posix()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        names = [name for name in names if not name.startswith(".") and "/." not in name]
        chosen = wanted(
            need,
            names,
            (folder / CARD).read_text(encoding="utf-8", errors="replace") if CARD in names else "",
        )
        return Copies(folder).found(need, chosen, entry) if chosen else None


class Hub:
    """The Hugging Face Hub, or a mirror of it (HF_ENDPOINT)."""

    def find(self, need: Need) -> LocatedNeed:
        """Asks for the list of files at the wanted revision. Raises CheckpointError for what is not
        there, not allowed or not reachable.
        """
        from huggingface_hub import HfApi

        api, kind = HfApi(), need.kind
        with hub.explain_hub_errors(need.id, need.revision):
            revision = hub.resolve_commit(need.id, kind, need.revision)
            about = api.repo_info(need.id, repo_type=kind, revision=revision, files_metadata=True)
            if revision and len(revision) == 40 and about.sha != revision:
                raise CheckpointError(
                    f"{need.id}: the Hub answers with commit {about.sha} for {revision}: "
                    "this is not what the suite pins"
                )
            names = {one.rfilename: one for one in about.siblings or ()}
            card = ""
            if need.configs and CARD in names:
                card = Path(
                    api.hf_hub_download(need.id, CARD, repo_type=kind, revision=about.sha)
                ).read_text(encoding="utf-8", errors="replace")
        files = []
        for name in wanted(need, list(names), card):
            one = names[name]
            sha256 = one.lfs.sha256 if one.lfs else None
            files.append(Remote(name, one.size or 0, sha256, None if sha256 else one.blob_id))
        if not files:
            raise CheckpointError(_nothing(need, list(names)))
        licence = getattr(about.card_data, "license", None) or next(
            (t[8:] for t in about.tags or () if t.startswith("license:")), need.licence
        )
        return LocatedNeed(
            need,
            self,
            tuple(files),
            about.sha,
            ", ".join(licence) if isinstance(licence, list) else str(licence),
            bool(about.gated),
        )

    def fetch(self, found: LocatedNeed, file: Remote, folder: Path) -> None:
        """Download one file, written whole or not at all."""
        from huggingface_hub import HfApi

        # the library would keep what its notes of an earlier try call good
        bundle.join_relative(folder, file.path).unlink(missing_ok=True)
        with hub.explain_hub_errors(found.need.id, found.commit), explain_disk_errors(folder):
            HfApi().hf_hub_download(
                found.need.id,
                file.path,
                repo_type=found.need.kind,
                revision=found.commit,
                local_dir=folder,
            )


def wanted(need: Need, names: Sequence[str], card: str) -> list[str]:
    """Which of a repository's files are stored. Names that would leave the folder are refused with
    LepBenchError.
    """
    for name in names:
        bundle.join_relative(Path(), name)
    if need.kind == "model":
        chosen = [
            name
            for name in names
            if "/" not in name and any(fnmatch.fnmatchcase(name, p) for p in hub.MODEL_PATTERNS)
        ]
        # then consolidated.safetensors is a second copy
        whole = any(name in names for name in (hub.INDEX, "model.safetensors"))
        chosen = [name for name in chosen if not (whole and name.startswith("consolidated"))]
        return sorted(chosen) if any(name.endswith(".safetensors") for name in chosen) else []
    chosen = _of_configs(need.configs, names, card) if need.configs else []
    for part in need.parts:
        found = part.files(names)
        if not found:
            return []
        chosen += found
    return sorted(set(chosen))


def _of_configs(configs: Iterable[str | None], names: Sequence[str], card: str) -> list[str]:
    """The files that `datasets.load_dataset(FOLDER, CONFIG)` reads: the card, and the config's data
    files as the card names them.

    Without such a card, everything. The card's first config is kept too: the library looks there
    for the files' type.
    """
    head = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    try:
        listed = (yaml.safe_load(head[1]) or {}).get("configs") or [] if head else []
        patterns = {
            c["config_name"]: [
                d["path"] if isinstance(d, dict) else d for d in _list(c.get("data_files"))
            ]
            for c in listed
        }
        patterns = {
            name: [p for path in paths_ for p in _list(path)] for name, paths_ in patterns.items()
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        patterns = {}
    visible = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    chosen = {name for name in configs if name is not None} & patterns.keys()
    if not chosen or None in configs:
        return sorted(visible)
    kept = [pattern for name in (next(iter(patterns)), *chosen) for pattern in patterns[name]]
    found = {
        pattern: {
            name for name in visible if fnmatch.fnmatchcase(name, pattern.replace("**/", "*"))
        }
        for pattern in kept
    }
    # a folder, or a way to write it that is not known here
    if not all(patterns[name] for name in chosen) or not all(found.values()):
        return sorted(visible)
    return sorted({CARD}.union(*found.values()))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _nothing(need: Need, names: list[str]) -> str:
    if need.kind == "model":
        pickled = [
            name
            for name in names
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in hub.PICKLED)
        ]
        why = (
            f"only pickled weights ({pickled[0]}), which can run code when they are read"
            if pickled
            else "no safetensors"
        )
        return (
            f"{need.id} has {why}: convert it once in an isolated environment and name the "
            "folder in the family"
        )
    missing = sorted(f"{part.config}/{part.split}" for part in need.parts if not part.files(names))
    return (
        f"{need.id} at {need.revision or 'main'} has no file for {', '.join(missing[:3])}: a "
        "script makes its rows, or the revision is another one"
    )


def git_blob(path: Path) -> str:
    """Git's hash of a file, which is how the Hub names files that are not stored as LFS."""
    made = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            made.update(block)
    return made.hexdigest()
